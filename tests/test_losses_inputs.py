"""What the losses take and refuse, what they report, and what they hold in memory."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from loss_ways import WAYS
from processes import python

from legolas_metric import (
    EmbeddingBank,
    FocalLoss,
    HardMiner,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    SupConLoss,
    TripletLoss,
)
from legolas_metric.losses import BankLoss, focal_loss, multi_similarity_loss, supcon_loss, triplet_loss

FUNCTIONS = {SupConLoss: supcon_loss, MultiSimilarityLoss: multi_similarity_loss, TripletLoss: triplet_loss}
PAIR_LOSSES = list(FUNCTIONS)
X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.arange(6) // 2


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_functions_equal_modules(kind):
    assert torch.equal(FUNCTIONS[kind](X, Y), kind()(X, Y))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_what_is_passed_in_is_left_alone(kind, way):
    x, y, weights = X.clone().requires_grad_(), Y.flip(0).clone(), torch.rand(6, dtype=torch.float64)
    given = [part.detach().clone() for part in (x, y, weights)]
    workspace = WAYS[way]
    kind(workspace_mb=workspace)(x, y, weights=weights).backward()
    assert all(map(torch.equal, (x, y, weights), given))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_backward_twice_adds_the_gradient_twice(kind, way):
    x = X.clone().requires_grad_()
    workspace = WAYS[way]
    value = kind(workspace_mb=workspace)(x, Y)
    value.backward(retain_graph=True)
    once = x.grad.clone()
    (3 * value).backward()
    torch.testing.assert_close(x.grad, 4 * once)


@pytest.mark.parametrize("kind", PAIR_LOSSES)
@pytest.mark.parametrize(
    ("arguments", "named", "error", "text"),
    [
        ((X, None), {}, ValueError, r"pass labels .* or indices_tuple: there is nothing to compare"),
        ((X, Y, None, X), {}, ValueError, "also ref_labels|and ref_labels"),
        ((X.long(), Y), {}, TypeError, "embeddings must be floating point, got torch.int64"),
        ((X[0], Y), {}, ValueError, r"embeddings must be \[n, d\] with d >= 1"),
        ((X, Y[:4]), {}, ValueError, "labels has 4 entries for 6 rows of embeddings"),
        ((X, Y.float()), {}, TypeError, "labels must be integers"),
        ((X, Y - 2), {}, ValueError, "labels must be >= 0, or -1"),
        ((X, Y, None, X[:, :2], Y + 0), {}, ValueError, "embeddings has 3 dimensions, ref_emb has 2"),
        ((X, Y, None, X, Y[:3]), {}, ValueError, "ref_labels has 3 entries for 6 rows of ref_emb"),
        ((X, Y, (Y, Y)), {}, ValueError, r"indices_tuple must be \(a, p, n\) or \(a1, p, a2, n\), got 2 tensors"),
        ((X, Y, (Y, Y, Y + 5)), {}, ValueError, r"indices_tuple \(negatives\) has positions 5 to 7 for 6 rows"),
        ((X, Y, (Y, Y[:2], Y)), {}, ValueError, r"indices_tuple has parts of lengths \[6, 2, 6\]"),
        (
            (X, None, ([0, 2, 2], [1, 3, 4], [2, 2], [5, 4])),
            {},
            ValueError,
            "anchor 2 with row 4 both as positive",
        ),
        ((X[:, :0], Y), {}, ValueError, r"with d >= 1, got shape \(6, 0\)"),
        ((X, Y), {"weights": [1.0]}, ValueError, r"weights must be \[6\]"),
        ((X, Y), {"weights": [1, 1, 1, 1, 1, -1]}, ValueError, "weights must be finite and >= 0"),
        ((X, Y), {"ids": [1]}, ValueError, "ids has 1 entries for 6 rows"),
    ],
)
def test_refuses(kind, arguments, named, error, text):
    with pytest.raises(error, match=text):
        kind()(*arguments, **named)


def test_refuses_settings():
    for temperature in (torch.tensor(-0.1), torch.tensor(0.0), torch.tensor(torch.nan)):
        with pytest.raises(ValueError, match="temperature must be positive, got"):
            supcon_loss(torch.eye(4), [0, 0, 1, 1], temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        SupConLoss(0.0)
    with pytest.raises(ValueError, match="alpha and beta must be positive"):
        MultiSimilarityLoss(beta=0.0)
    with pytest.raises(TypeError, match=r"mining must be a number, got True"):
        MultiSimilarityLoss(mining=True)
    with pytest.raises(ValueError, match="gamma must be at least 0"):
        FocalLoss(-1.0)


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_takes_arrays_and_lists(kind):
    expected = kind()(X, Y)
    assert torch.equal(kind()(X.numpy(), Y.numpy()), expected)
    assert torch.equal(kind()(X.numpy(), Y.tolist()), expected)
    assert torch.equal(kind()(X.numpy()[:, ::-1], Y.numpy().astype(np.int32)), kind()(X.flip(1), Y))
    assert torch.equal(kind()(X.t().contiguous().t(), Y), expected)


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_records_are_read_by_id(kind):
    """What was mined over a bank serves the part of it that is in the batch."""
    bank = EmbeddingBank(X, Y, ids=torch.arange(6) * 10)
    batch = torch.tensor([5, 0, 3, 1, 4])
    ids = bank.ids[batch]
    triplets = HardMiner().mine(bank)
    got = kind()(X[batch], Y[batch], triplets, ids=ids)
    assert torch.equal(got, kind()(X[batch], Y[batch], triplets.locate(ids)))
    assert torch.equal(got, FUNCTIONS[kind](X[batch], Y[batch], triplets, ids=ids))
    pairs = MultiSimilarityMiner().mine(bank)
    places = {int(name): place for place, name in enumerate(ids)}
    sides = [(pairs.anchor_p, pairs.positive), (pairs.anchor_n, pairs.negative)]
    inside = [
        [(places[int(a)], places[int(b)]) for a, b in zip(*side) if int(a) in places and int(b) in places]
        for side in sides
    ]
    indices = tuple(torch.tensor([pair[end] for pair in part]).long() for part in inside for end in (0, 1))
    assert torch.equal(kind()(X[batch], Y[batch], pairs, ids=ids), kind()(X[batch], Y[batch], indices))


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_reference_rows_by_id(kind):
    """A row and its own copy among the reference rows are no pair, also where other rows come between."""
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    got = kind()(X, Y, None, X[order], Y[order], ids=torch.arange(6), ref_ids=order)
    torch.testing.assert_close(got, kind()(X, Y))
    assert torch.equal(kind()(X, Y, None, X.clone(), Y), kind()(X, Y, None, X, Y))
    torch.testing.assert_close(kind()(X, Y, None, X.clone(), Y), kind()(X, Y))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [SupConLoss, MultiSimilarityLoss])
def test_rows_of_one_id_are_no_pair(kind, way):
    """The second row is the first again: whoever is compared with both has one more row, they with each other none."""
    x, y = torch.cat([X[:1], X]), torch.cat([Y[:1], Y])
    workspace = WAYS[way]
    got = kind(workspace_mb=workspace)(x, y, ids=[0, 0, 1, 2, 3, 4, 5])
    apart = kind(workspace_mb=workspace)(x, y)
    first = kind()(X[:2], Y[:2], None, x, y, ids=[0, 1], ref_ids=[0, 0, 1, 2, 3, 4, 5], weights=[2.0, 1.0])
    rest = kind()(X[2:], Y[2:], None, x, y, ids=[2, 3, 4, 5], ref_ids=[0, 0, 1, 2, 3, 4, 5])
    torch.testing.assert_close(got, (3 * first + 4 * rest) / 7)
    assert not torch.isclose(got, apart)


def test_detail():
    """Angles 0, 60 and 90 degrees, and a fourth that is not labelled."""
    x = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0], [-1.0, 0.0]])
    y = [0, 0, 1, -1]
    negative = (0 - 1 + 0.75**0.5 - 0.5 + 0 + 0.75**0.5 + 0) / 7
    for workspace in (None, 64):
        for kind in PAIR_LOSSES:
            _, detail = kind(workspace_mb=workspace)(x, y, detail=True)
            assert detail.no_positive == 1
            assert detail.mean_positive == pytest.approx(0.5)
            assert detail.mean_negative == pytest.approx(negative)
        assert detail.active_share == 0.5  # of the two triplets, that of the second anchor
        _, detail = TripletLoss(workspace_mb=workspace)(x, y, (torch.tensor([1]), [0], [2]), detail=True)
        assert (detail.active_share, detail.no_positive) == (1.0, 2)
        assert detail.mean_negative == pytest.approx(0.75**0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        detail.no_positive = 0


def test_focal():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]], dtype=torch.float64)
    p = logits.softmax(1)[[0, 1], [1, 0]]
    by_hand = -((1 - p) ** 2) * p.log()
    torch.testing.assert_close(focal_loss(logits, [1, 0]), by_hand.mean())
    torch.testing.assert_close(
        focal_loss(logits, [1, 0], class_weights=[3.0, 0.5, 1]), (by_hand * torch.tensor([0.5, 3])).mean()
    )
    torch.testing.assert_close(focal_loss(logits, [1, 0], weights=[1, 3]), (by_hand * torch.tensor([0.25, 0.75])).sum())
    torch.testing.assert_close(
        focal_loss(logits, [1, 0], gamma=0), torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0]))
    )
    assert focal_loss(logits, [-1, -1]) == 0
    assert torch.equal(FocalLoss(1.0)(logits, [1, 0]), focal_loss(logits, [1, 0], gamma=1.0))
    _, detail = FocalLoss()(logits, [1, -1], detail=True)
    assert detail.no_positive == 1
    assert detail.mean_positive == pytest.approx(float(p[0]))
    assert detail.mean_negative == pytest.approx((1 - float(p[0])) / 2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: focal_loss(rows, [1, 0], gamma=0.5), logits)


def test_focal_refuses():
    with pytest.raises(TypeError, match="focal loss takes hard targets"):
        focal_loss(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
    with pytest.raises(TypeError, match=r"hard targets.*mixup"):
        focal_loss(torch.zeros(2, 3), torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match="labels go up to 3, but logits have 3 columns"):
        focal_loss(torch.zeros(2, 3), [0, 3])
    with pytest.raises(ValueError, match=r"class_weights must be \[3\], one for each of the classes"):
        focal_loss(torch.zeros(2, 3), [0, 1], class_weights=[1.0])


@pytest.fixture
def bank():
    return EmbeddingBank(X, Y, ids=torch.arange(6) * 10)


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_bank_loss_is_the_loss_against_batch_and_bank(kind, bank):
    batch = torch.tensor([4, 0, 1])
    new = (X[batch] + 0.3).requires_grad_()
    rest = torch.tensor([2, 3, 5])
    value, detail = BankLoss(kind(), bank)(new, Y[batch], ids=batch * 10, step=0, detail=True)
    everything, labels = torch.cat([new, X[rest]]), torch.cat([Y[batch], Y[rest]])
    first = torch.cat([torch.ones(3), torch.zeros(3)])
    torch.testing.assert_close(value, kind()(everything, labels, weights=first))
    assert (detail.rows, detail.stale, detail.oldest, detail.warming_up) == (3, 0, 0, False)
    value.backward()
    assert new.grad.isfinite().all()


def test_bank_loss_warms_up_and_forgets(bank):
    batch = torch.tensor([4, 0, 1])
    loss = BankLoss(SupConLoss(), bank, warm_up=5, max_age=3)
    arguments = {"ids": batch * 10, "detail": True}
    value, detail = loss(X[batch], Y[batch], step=4, **arguments)
    assert detail.warming_up
    assert detail.rows == 0
    torch.testing.assert_close(value, SupConLoss()(X[batch], Y[batch]))
    bank.update([20], X[2:3], step=5)
    _, detail = loss(X[batch], Y[batch], step=7, **arguments)
    assert (detail.rows, detail.stale, detail.oldest, detail.warming_up) == (1, 2, 2, False)
    with pytest.raises(ValueError, match="step 4 is before the bank's newest row, written at step 5"):
        loss(X[batch], Y[batch], step=4, **arguments)


def test_bank_loss_draws_by_seed_and_step(bank):
    batch = torch.tensor([0])
    values = [
        [
            BankLoss(SupConLoss(), bank, rows=2, seed=seed)(X[batch], Y[batch], ids=[0], step=step).item()
            for step in range(9)
        ]
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1]
    assert values[0] != values[2]
    assert len(set(values[0])) > 1
    with pytest.raises(ValueError, match="rows must be at least 1"):
        BankLoss(SupConLoss(), bank, rows=0)


def test_bank_loss_with_mined_triplets(bank):
    mined = HardMiner().mine(bank)
    batch = torch.tensor([4, 0, 1])
    value = BankLoss(TripletLoss(1.0), bank)(X[batch], Y[batch], mined, ids=batch * 10, step=0)
    chosen = torch.isin(mined.anchor, batch * 10)
    places = tuple(part[chosen] // 10 for part in (mined.anchor, mined.positive, mined.negative))
    torch.testing.assert_close(value, TripletLoss(1.0)(X, Y, places))


MEMORY = """
import sys
import torch
from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

for loss, n in [(SupConLoss(), 6000), (MultiSimilarityLoss(), 6000), (TripletLoss(selection="all"), 2048)]:
    x = torch.randn(n, 128, requires_grad=True)
    y = torch.arange(n) // 4
    loss(x[:512], y[:512]).backward()
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
    before = peak()
    loss(x, y).backward()
    print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory():
    """Peak in MB above the inputs, in a process of its own; at 6,000 rows the whole matrix would take 137 a copy."""
    done = python("-c", MEMORY, check=True)
    supcon, multi_similarity, triplet = map(float, done.stdout.split())
    assert supcon < 120
    assert multi_similarity < 120
    assert triplet < 500
