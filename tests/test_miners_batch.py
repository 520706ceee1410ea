"""The PML call: equal to mining the batch as a small bank, and to PML where the definitions agree."""

import math

import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import LpDistance

from legolas_metric import EmbeddingBank, ExactIndex, FullHardMiner, HardMiner, RandomMiner, SemiHardMiner

CASES = {
    "random": lambda **kw: RandomMiner(**kw),
    "random x3": lambda **kw: RandomMiner(per_anchor=3, **kw),
    "semi-hard": lambda **kw: SemiHardMiner(**kw),
    "semi-hard nearest x2": lambda **kw: SemiHardMiner(positive="nearest", per_anchor=2, **kw),
    "semi-hard farthest": lambda **kw: SemiHardMiner(positive="farthest", on_empty="hardest", margin=0.05, **kw),
    "semi-hard all": lambda **kw: SemiHardMiner(positive="all", margin=0.1, **kw),
    "hard": lambda **kw: HardMiner(**kw),
    "hard all x3": lambda **kw: HardMiner(positive="all", per_anchor=3, **kw),
    "full-hard": lambda **kw: FullHardMiner(**kw),
}


def batch(n=90, d=6, classes=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=g)
    labels[0], labels[1] = 77, -1
    return torch.randn(n, d, generator=g) + torch.randn(100, d, generator=g)[labels] * 0.7, labels


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_a_small_bank(name, metric):
    embeddings, labels = batch()
    a, p, n = CASES[name](index=ExactIndex(metric=metric))(embeddings, labels)
    triplets = CASES[name](index=ExactIndex(metric=metric)).mine(EmbeddingBank(embeddings, labels, metric=metric))
    assert len(a) > 20
    assert torch.equal(a, triplets.anchor)
    assert torch.equal(p, triplets.positive)
    assert torch.equal(n, triplets.negative)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("name", CASES)
def test_choices_that_float32_products_leave_open_are_exact(name, metric):
    # Rows that are equal, or differ in the last places.
    base, labels = batch(n=200, d=24)
    g = torch.Generator().manual_seed(5)
    embeddings = base[torch.randint(0, 40, (200,), generator=g)]
    embeddings = embeddings * (1 + 3e-7 * torch.randn(200, 24, generator=g)) * (3.0 if metric == "dot" else 1.0)
    exact = CASES[name](index=ExactIndex(metric=metric)).mine(EmbeddingBank(embeddings, labels, metric=metric))
    found = CASES[name](index=ExactIndex(metric=metric))(embeddings, labels)
    assert len(exact) > 20
    assert all(torch.equal(x, y) for x, y in zip(found, (exact.anchor, exact.positive, exact.negative)))


@pytest.mark.parametrize("name", ["full-hard", "semi-hard all", "hard"])
def test_reduced_precision_of_the_caller_changes_no_choice(name):
    embeddings, labels = batch(n=300, d=64)
    expected = CASES[name]()(embeddings, labels)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            found = CASES[name]()(embeddings, labels)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(x, y) for x, y in zip(expected, found))


def test_a_large_batch_is_screened_and_still_a_small_bank():
    embeddings, labels = batch(n=700, d=8, classes=60)
    for name in CASES:
        triplets = CASES[name](index=ExactIndex()).mine(EmbeddingBank(embeddings, labels))
        found = CASES[name]()(embeddings, labels)
        assert all(torch.equal(x, y) for x, y in zip(found, (triplets.anchor, triplets.positive, triplets.negative)))


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_anchors_do_not_change_the_choice(name, monkeypatch):
    embeddings, labels = batch(n=300)
    whole = CASES[name]()(embeddings, labels)
    monkeypatch.setattr("legolas_metric.miners.sources.block_rows", lambda n: 64)
    assert all(torch.equal(x, y) for x, y in zip(whole, CASES[name]()(embeddings, labels)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_width_and_layout(dtype):
    embeddings, labels = batch()
    given = embeddings.to(dtype).T.contiguous().T.requires_grad_()
    expected = FullHardMiner()(embeddings.to(dtype).float(), labels)
    assert all(torch.equal(x, y) for x, y in zip(expected, FullHardMiner()(given, labels.numpy())))


@pytest.mark.parametrize("name", CASES)
def test_a_collapsed_batch_is_mined_without_a_fault(name):
    embeddings, labels = torch.ones(12, 4), torch.arange(12) // 3
    a, p, n = CASES[name]()(embeddings, labels)
    assert (a != p).all()
    assert (labels[a] == labels[p]).all()
    assert (labels[a] != labels[n]).all()
    if "semi-hard" in name and "farthest" not in name:
        assert len(a) == 0  # no negative is farther than the positive


def test_batch_hard_equals_pml():
    embeddings, labels = batch(n=256, d=32, classes=64)
    labels[labels == -1] = 5
    a, p, n = FullHardMiner()(embeddings, labels)
    theirs = miners.BatchHardMiner()(embeddings, labels)
    assert sorted(zip(a.tolist(), p.tolist(), n.tolist())) == sorted(zip(*(part.tolist() for part in theirs)))


def test_semi_hard_equals_pml_easy_semihard():
    embeddings, labels = batch(n=256, d=32, classes=64)
    labels[labels == -1] = 5
    a, p, n = SemiHardMiner(positive="nearest", margin=math.inf)(embeddings, labels)
    theirs = miners.BatchEasyHardMiner("easy", "semihard")(embeddings, labels)
    assert torch.equal(theirs[0], theirs[2])
    assert sorted(zip(a.tolist(), p.tolist(), n.tolist())) == sorted(
        zip(theirs[0].tolist(), theirs[1].tolist(), theirs[3].tolist())
    )


def test_semi_hard_is_the_nearest_of_pmls_enumerated_semi_hard_triplets():
    embeddings, labels = batch(n=120, d=16, classes=30)
    labels[labels == -1] = 5
    distance = LpDistance()(embeddings)
    best = {}
    for a, p, n in zip(*(part.tolist() for part in miners.TripletMarginMiner(0.1, "semihard")(embeddings, labels))):
        if (a, p) not in best or distance[a, n] < distance[a, best[a, p]]:
            best[a, p] = n
    ours = SemiHardMiner(positive="all", margin=0.1)(embeddings, labels)
    assert {(a, p): n for a, p, n in zip(*(part.tolist() for part in ours))} == best


@pytest.mark.parametrize("name", CASES)
def test_against_reference_rows(name):
    embeddings, labels = batch(n=40)
    ref_emb, ref_labels = batch(n=70, seed=1)
    a, p, n = CASES[name]()(embeddings, labels, ref_emb, ref_labels)
    assert len(a) > 10
    assert (labels[a] == ref_labels[p]).all()
    assert (labels[a] != ref_labels[n]).all()
    if name == "full-hard":
        normal = torch.nn.functional.normalize
        s = normal(embeddings).double() @ normal(ref_emb).double().T
        same = labels[:, None] == ref_labels
        assert torch.equal(p, s.masked_fill(~same, 9).argmin(1)[a])
        assert torch.equal(n, s.masked_fill(same, -9).argmax(1)[a])


def test_self_is_excluded_when_the_reference_labels_are_the_labels():
    embeddings, labels = torch.randn(20, 4), torch.arange(20) % 10
    other = embeddings + 0.01
    a, p, _ = SemiHardMiner(positive="nearest", margin=math.inf)(embeddings, labels, other, labels)
    assert (a != p).all()
    a, p, _ = HardMiner(positive="nearest")(embeddings, labels, other, labels.clone())
    assert (a == p).all()


def test_an_anchor_whose_class_the_reference_lacks_is_left_out():
    a, p, n = HardMiner()(torch.eye(3), torch.tensor([4, 1, 9]), torch.eye(3)[:2], torch.tensor([1, 2]))
    assert (a.tolist(), p.tolist(), n.tolist()) == ([1], [0], [1])


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [-1, -1, -1]])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_without_triplets_gives_empty_int64_tensors(name, labels):
    found = CASES[name]()(torch.eye(3), torch.tensor(labels))
    assert [part.shape for part in found] == [(0,)] * 3
    assert all(part.dtype == torch.int64 for part in found)


@pytest.mark.parametrize("loss", [losses.TripletMarginLoss(), losses.SupConLoss(), losses.MultiSimilarityLoss()])
def test_the_tuple_feeds_pml_losses(loss):
    embeddings, labels = batch()
    embeddings.requires_grad_()
    for miner in (FullHardMiner(), SemiHardMiner()):
        loss(embeddings, labels, miner(embeddings, labels)).backward()
    assert embeddings.grad.isfinite().all()
    ref_emb, ref_labels = batch(seed=1)
    value = loss(embeddings, labels, FullHardMiner()(embeddings, labels, ref_emb, ref_labels), ref_emb, ref_labels)
    assert value.isfinite()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x, y: m(x, y, x), ValueError, "ref_emb and ref_labels go together"),
        (lambda m, x, y: m(x, y, None, y), ValueError, "ref_emb and ref_labels go together"),
        (lambda m, x, y: m(x, y[:-1]), ValueError, "labels has 3 entries for 4 rows of embeddings"),
        (lambda m, x, y: m(x, y, x, y[:-1]), ValueError, "ref_labels has 3 entries for 4 rows of ref_emb"),
        (lambda m, x, y: m(x, y.float()), TypeError, "labels must be integers"),
        (lambda m, x, y: m(x * math.nan, y), ValueError, "embeddings: NaN or inf"),
        (lambda m, x, y: m(x * 0, y), ValueError, "embeddings: all zero"),
        (lambda m, x, y: m(x, y, x[:, :3] + 1, y), ValueError, "embeddings has 4 dimensions, ref_emb has 3"),
        (lambda m, x, y: m(x[:0], y[:0]), ValueError, r"embeddings must be \[n, d\] with n >= 1"),
    ],
)
def test_bad_batches_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(HardMiner(), torch.eye(4), torch.tensor([0, 0, 1, 1]))


def test_raise_in_a_batch():
    with pytest.raises(ValueError, match="of 3 anchors, 0 are without a positive, 0 without a negative, 3 without"):
        SemiHardMiner(positive="nearest", margin=0.01, on_empty="raise")(
            torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.95, 0.05]]), torch.tensor([0, 0, 0]),
            torch.tensor([[1.0, 0.02], [0.0, 1.0]]), torch.tensor([0, 1]),
        )  # fmt: skip
    with pytest.raises(ValueError, match="of 3 anchors, 3 are without a positive"):
        HardMiner(on_empty="raise")(torch.eye(3), torch.tensor([0, 1, 2]))
