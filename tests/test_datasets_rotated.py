"""RotatedClasses: every turn a class of its own, as NumPy turns pictures."""

import numpy as np
import pytest
import torch

from legolas_metric import recipes
from legolas_metric.datasets import RotatedClasses
from legolas_metric.training import MiningLoop


def test_items_are_turned_and_labelled_as_by_hand():
    pictures = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    labels = [4, -1, 0, 4, 2]
    for source in (pictures, [(picture, "more") for picture in pictures]):
        turned = RotatedClasses(source, labels)
        assert len(turned) == 20
        seen = {}
        for row, (picture, label) in enumerate(turned):
            quarter, own = row // 5, row % 5
            assert np.array_equal(picture.numpy(), np.rot90(pictures[own].numpy(), quarter, (1, 2)))
            assert label == int(turned.labels[row])
            assert (label == -1) == (labels[own] == -1)
            if label >= 0:
                seen.setdefault(label, set()).add((quarter, labels[own]))
        assert len(seen) == 3 * 4
        assert all(len(origins) == 1 for origins in seen.values())
    assert torch.equal(turned[-1][0], turned[19][0])
    assert turned.repeated([7, 8, 9, 7, 8]).tolist() == [7, 8, 9, 7, 8] * 4


def test_a_loop_trains_on_turned_classes():
    pictures = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    turned = RotatedClasses(pictures, torch.arange(24) // 4)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    loop = MiningLoop(turned, turned.labels, recipe=recipes.near(), batch_size=16, progress=False)
    for _ in range(2):
        for x, y, ids in loop.epoch(encoder):
            assert torch.equal(y, turned.labels[ids])
            assert torch.equal(x[0], turned[int(ids[0])][0])
    assert int(turned.labels[ids].max()) > 5


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (torch.zeros(2, 3, 4), ValueError, r"pictures must be square to be turned by a quarter, got shape \(3, 4\)"),
        (torch.zeros(2, 3), ValueError, "pictures must be square"),
        (["a", "b"], TypeError, "pictures must be tensors to be turned, got str"),
    ],
)
def test_what_cannot_be_turned_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        RotatedClasses(source, [0, 1])
    with pytest.raises(ValueError, match="labels"):
        RotatedClasses(torch.zeros(3, 2, 2), [0, 1])
