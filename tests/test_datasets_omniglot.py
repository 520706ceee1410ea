import torch
from torch.utils.data import DataLoader

from legolas_metric.datasets import load_omniglot, split_omniglot


def test_the_bundled_set_is_whole():
    data = load_omniglot()
    assert len(data) == 19_280
    assert torch.equal(data.labels.unique(return_counts=True)[1], torch.full((964,), 20))
    assert len(data.alphabets.unique()) == len(data.alphabet_names) == 30
    assert data.images.unique().tolist() == [0, 255]


def test_items_are_images_from_0_to_1_with_their_label():
    data = load_omniglot()
    image, label = data[25]
    assert torch.equal(image[0] * 255, data.images[25].float())
    assert label == 1
    images, labels = next(iter(DataLoader(data, batch_size=3)))
    assert images.shape == (3, 1, 28, 28)
    assert labels.tolist() == [0, 0, 0]


def test_the_standard_split_keeps_alphabets_and_characters_apart_and_loses_nothing():
    train, validation = split_omniglot(seed=3)
    assert len(train.alphabets.unique()) == 24
    assert len(validation.alphabets.unique()) == 6
    for attribute in ("alphabets", "labels"):
        assert not torch.isin(getattr(train, attribute).unique(), getattr(validation, attribute).unique()).any()
    assert len(train) + len(validation) == 19_280


def test_the_split_follows_its_seed():
    first, again, other = (split_omniglot(seed=seed)[1].alphabets.unique().tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_take_keeps_rows_in_the_order_asked():
    data = load_omniglot()
    rows = torch.tensor([400, 3, 77])
    part = data.take(rows)
    assert torch.equal(part.images, data.images[rows])
    assert part.labels.tolist() == [20, 0, 3]
