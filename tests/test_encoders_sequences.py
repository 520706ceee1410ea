"""Sequences of any length, and what their inputs need: padding changes nothing, figures come from training alone."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from legolas_metric.encoders import (
    BiLSTM,
    Conv4,
    InputNormalisation,
    ModalityDropout,
    ProjectionHead,
    SequenceTransformer,
    attention_entropy,
    augment_images,
    augment_signals,
    pad_collate,
    rarity,
)

C = 3
ENCODERS = {
    "bilstm": lambda: BiLSTM(C, hidden=5),
    "deep bilstm": lambda: BiLSTM(C, hidden=5, layers=2, dropout=0.2),
    "transformer, mean": lambda: SequenceTransformer(C, dim=8, heads=2, layers=2),
    "transformer, token": lambda: SequenceTransformer(C, dim=8, heads=2, layers=2, pooling="token"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_fills_up_a_batch_changes_nothing(name):
    encoder = ENCODERS[name]().eval()
    sequences = [torch.randn(t, C) for t in (7, 1, 4)]
    padded, lengths = pad_collate(sequences)
    expected = torch.cat([encoder(sequence[None]) for sequence in sequences])
    torch.testing.assert_close(encoder(padded, lengths), expected)
    padded[1, 1:] = 1e6
    torch.testing.assert_close(encoder(padded, lengths), expected)
    assert not torch.allclose(encoder(padded), expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_order_matters_and_every_weight_learns(name):
    encoder = ENCODERS[name]()
    padded, lengths = pad_collate([torch.randn(t, C) for t in (7, 2, 4)])
    encoder.eval()
    assert not torch.allclose(encoder(padded), encoder(padded.flip(1)), atol=1e-5)
    encoder(padded, lengths).square().sum().backward()
    silent = {n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert silent <= ({"token"} if name == "transformer, mean" else set())


def test_attention_is_a_distribution_over_the_valid_steps():
    encoder = BiLSTM(C, hidden=5)
    padded, lengths = pad_collate([torch.randn(t, C) for t in (7, 1, 4)])
    weights = encoder.attention(padded, lengths).detach()
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert all(float(weights[i, t:].abs().sum()) == 0 for i, t in enumerate(lengths.tolist()))
    states = encoder.lstm(padded[2:, :4])[0]
    torch.testing.assert_close(encoder(padded, lengths)[2], (weights[2, :4, None] * states[0]).sum(0))
    entropy = attention_entropy(weights, lengths)
    a = weights[2, :4].double()
    assert entropy[2].item() == pytest.approx(float(-(a * a.log()).sum()) / math.log(4), abs=1e-5)
    assert entropy[1] == 0
    nn.init.zeros_(encoder.pool.score[2].weight)  # a scorer that has learnt nothing attends to all alike
    uniform = attention_entropy(encoder.attention(padded, lengths), lengths)
    torch.testing.assert_close(uniform, torch.tensor([1.0, 0.0, 1.0]))


def test_sequences_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="sequence 1 of the batch is empty"):
        pad_collate([torch.ones(2, 1), torch.ones(0, 1)])
    with pytest.raises(ValueError, match="with one c, got shapes"):
        pad_collate([torch.ones(2, 1), torch.ones(2, 3)])
    with pytest.raises(ValueError, match=r"lengths must lie in 1\.\.4, got 2\.\.5"):
        BiLSTM(1)(torch.ones(2, 4, 1), torch.tensor([2, 5]))
    with pytest.raises(ValueError, match="multiple of heads"):
        SequenceTransformer(1, dim=10, heads=4)


@pytest.mark.parametrize("axis", [1, -1])
def test_normalisation_is_of_the_training_part_and_travels_with_the_model(axis):
    x = torch.randn(30, C, 9) * torch.tensor([1.0, 10.0, 1e-3])[:, None] + torch.tensor([1e4, -3.0, 0.0])[:, None]
    x[20:] += 1e3
    given = x if axis == 1 else x.movedim(1, -1)
    fitted = InputNormalisation(C, axis=axis).fit(given, torch.arange(20))
    part = x[:20].double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(fitted.mean, part.mean(1).float())
    torch.testing.assert_close(fitted.std, part.std(1, unbiased=False).float())
    out = fitted(given[:20])
    torch.testing.assert_close(out.movedim(axis, 0).flatten(1).std(1, unbiased=False), torch.ones(C), rtol=1e-3, atol=0)
    model = nn.Sequential(InputNormalisation(C, axis=axis), nn.Identity())
    with pytest.raises(RuntimeError, match="not fitted"):
        model(given)
    model.load_state_dict(nn.Sequential(fitted, nn.Identity()).state_dict())
    assert torch.equal(model(given), fitted(given))
    assert fitted.figures()["std"] == fitted.std.tolist()


def test_normalisation_of_a_data_set_of_several_lengths():
    class Signals(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, row):
            return torch.full((2, row + 1), float(row)), row

    fitted = InputNormalisation(2).fit(Signals())
    assert fitted.mean.tolist() == pytest.approx([8 / 6] * 2)  # 0, 1, 1, 2, 2, 2


def test_normalisation_of_odd_inputs():
    still = InputNormalisation(1).fit(torch.full((4, 1, 5), 7.0))
    assert still(torch.full((2, 1, 5), 7.0)).abs().sum() == 0
    with pytest.raises(ValueError, match="example 0 has 2 channels on axis 1, not 1"):
        InputNormalisation(1).fit(torch.zeros(3, 2, 5))
    with pytest.raises(ValueError, match="example 1 holds NaN or inf"):
        InputNormalisation(1).fit(torch.tensor([[[0.0]], [[math.nan]]]))


def test_modalities_are_left_out_whole_and_never_all():
    drop = ModalityDropout(0.6)
    parts = [torch.ones(2000, 4), torch.ones(2000, 1, 6), torch.ones(2000)]
    out = drop(parts)
    kept = torch.stack([part.reshape(2000, -1).mean(1) for part in out], 1)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert bool((kept.sum(1) > 0).all())
    # of each: kept with 0.4, or all three dropped (0.216) and this one drawn
    assert kept.mean(0).tolist() == pytest.approx([0.4 + 0.216 / 3] * 3, abs=0.05)
    assert all(torch.equal(a, b) for a, b in zip(drop.eval()(parts), parts, strict=True))


def test_a_projection_stands_on_any_encoder():
    assert nn.Sequential(Conv4(width=8), ProjectionHead(8, out=3))(torch.rand(4, 1, 28, 28)).shape == (4, 3)


def test_augmentations_do_what_they_say_and_one_at_a_time():
    off = {"noise": 0.0, "scale": 0.0, "shift": 0.0, "mask": 0.0}
    x = torch.randn(50, 2, 40) + 3
    assert torch.equal(augment_signals(x, **off), x)
    moved = augment_signals(x, **(off | {"shift": 0.1}))
    shifts = {next(k for k in range(-4, 5) if torch.equal(m, row.roll(k, 1))) for m, row in zip(moved, x, strict=True)}
    assert len(shifts) > 3
    scaled = augment_signals(x, **(off | {"scale": 0.2})) / x
    assert scaled.std((1, 2)).max() < 1e-5
    assert 0.8 <= scaled.min() < 0.9 < 1.1 < scaled.max() <= 1.2
    blank = (augment_signals(x, **(off | {"mask": 0.5})) == 0).all(1).sum(1)
    assert 15 < blank.max() <= 20
    added = (augment_signals(x, **(off | {"noise": 0.5})) - x).std((1, 2)) / x.std((1, 2))
    assert added.mean().item() == pytest.approx(0.5, abs=0.03)


def test_augmented_images_hold_what_was_there():
    off = {"shift": 0.0, "contrast": 0.0, "erase": 0.0}
    x = torch.rand(40, 2, 12, 10) + 0.1
    assert torch.equal(augment_images(x, **off), x)
    flipped = augment_images(x, flip=True, **off)
    either = [torch.equal(f, row.flip(-1)) or torch.equal(f, row) for f, row in zip(flipped, x, strict=True)]
    assert all(either)
    assert not torch.equal(flipped, x)
    moved = augment_images(x, **(off | {"shift": 0.2}))
    for out, row in zip(moved, x, strict=True):
        found = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(
                out[:, max(0, dy) : 12 + min(0, dy), max(0, dx) : 10 + min(0, dx)],
                row[:, max(0, -dy) : 12 + min(0, -dy), max(0, -dx) : 10 + min(0, -dx)],
            )
        ]
        assert found
    gone = (augment_images(x, **(off | {"erase": 0.5})) == 0).all(1).sum((1, 2))
    assert 16 <= gone.max() <= 25


def test_rare_classes_are_augmented_more_and_draws_can_be_repeated():
    strength = rarity([0] * 90 + [1] * 10 + [2] * 1 + [-1])
    assert strength[[0, 90, 100, 101]].tolist() == [1.0, 3.0, 3.0, 1.0]
    assert rarity([0, 0, 1]).tolist() == pytest.approx([1.0, 1.0, math.sqrt(2)])
    x = torch.randn(200, 1, 50)
    often = torch.ones(200)
    often[100:] = 3.0
    added = (augment_signals(x, scale=0.0, shift=0.0, mask=0.0, strength=often) - x).std((1, 2))
    assert (added[100:].mean() / added[:100].mean()).item() == pytest.approx(3, rel=0.1)
    first, again = (augment_signals(x, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
