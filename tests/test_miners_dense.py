"""The dense pool, which mines batches, against choices made pair by pair; and what rounding must not decide."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from legolas_metric import (
    EasyPositiveMiner,
    EmbeddingBank,
    ExactIndex,
    FullHardMiner,
    HardMiner,
    LabelRelation,
    MultiSimilarityMiner,
    RandomMiner,
    SemiHardMiner,
)
from legolas_metric.geometry import (
    exact_similarity,
    inwards,
    merge_directions,
    normalise,
    prepare,
    semi_hard_window,
)

MARGIN = 0.4
GROUPS = LabelRelation(positive_group="other", negative_group="same")


def a_batch(n, m, d, pool, jitter, classes, scale, seed, shift=0.0):
    """Rows of which many are equal, or differ in the last places, labels and groups; and m reference rows like them."""
    g = torch.Generator().manual_seed(seed)

    def rows(count):
        base = torch.randn(pool, d, generator=g)[torch.randint(0, pool, (count,), generator=g)]
        x = scale * (base * (1 + jitter * torch.randn(count, d, generator=g)) + shift)
        return x, torch.randint(-1, classes, (count,), generator=g), torch.randint(0, 3, (count,), generator=g)

    return rows(n), None if m is None else rows(m)


def directions(rows):
    """Unit rows, of which those of one direction are equal: see test_geometry_directions.py."""
    unit = normalise(rows)
    merge_directions(unit)
    return unit


class Slow:
    """All similarities that decide, and what is a positive and a negative, as whole matrices."""

    def __init__(self, own, ref, metric, relation):
        x, y = (side if metric != "cosine" else directions(side) for side in (own[0], (ref or own)[0]))
        self.x, self.y = x, y
        self.s = exact_similarity(x[:, None].expand(-1, len(y), -1), y.expand(len(x), -1, -1), metric)
        labels, ref_labels = own[1], (ref or own)[1]
        labelled = labels[:, None] != -1
        self.positive = (labels[:, None] == ref_labels) & labelled
        self.negative = (labels[:, None] != ref_labels) & labelled
        if ref is None:
            self.positive.fill_diagonal_(False)
        if relation is not None:
            same = own[2][:, None] == (ref or own)[2]
            self.positive &= ~same
            self.negative &= same

    def usable(self):
        return (self.positive.any(1) & self.negative.any(1)).nonzero()[:, 0].tolist()

    def nearest(self, a, allowed):
        return sorted(allowed.nonzero()[:, 0].tolist(), key=lambda n: (-float(self.s[a, n]), n))

    def farthest_positive(self, a):
        return min(self.positive[a].nonzero()[:, 0].tolist(), key=lambda p: (float(self.s[a, p]), p))

    def semi_hard(self, a, p, margin, metric):
        low, high = inwards(
            semi_hard_window(self.s[a, p][None], margin, metric),
            metric,
            d=self.x.shape[1],
            lengths=float(self.x.norm(dim=1).max() * self.y.norm(dim=1).max()),
        )
        return self.nearest(a, self.negative[a] & (self.s[a] > low) & (self.s[a] < high))


@pytest.mark.parametrize("relation", [None, GROUPS], ids=["label", "groups"])
@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 60),
    m=st.none() | st.integers(1, 90),
    d=st.integers(1, 19),
    pool=st.integers(1, 100),
    jitter=st.sampled_from([0.0, 1e-7, 3e-7, 1e-4, 1.0]),
    classes=st.integers(1, 20),
    scale=st.sampled_from([1e-12, 1.0, 3.0, 1e12]),
    shift=st.sampled_from([0.0, 1.0, 1e3, 1e5]),
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    seed=st.integers(0, 10_000),
)
def test_choices_are_those_of_a_look_at_every_pair(
    relation, n, m, d, pool, jitter, classes, scale, shift, metric, seed
):
    own, ref = a_batch(n, m, d, pool, jitter, classes, scale, seed, shift)
    if ref is not None and bool((prepare(own[0], metric)[:, None] == prepare(ref[0], metric)).all(2).any()):
        ref = None  # equal rows are left out for the anchor itself, which is tested apart
    slow = Slow(own, ref, metric, relation)
    shared = {"index": ExactIndex(metric=metric), "relation": relation}
    sides = [*own[:2], *(() if ref is None else ref[:2])]
    groups = {} if relation is None else {"groups": own[2], "ref_groups": None if ref is None else ref[2]}

    full = list(zip(*(part.tolist() for part in FullHardMiner(**shared)(*sides, **groups))))
    assert full == [(a, slow.farthest_positive(a), slow.nearest(a, slow.negative[a])[0]) for a in slow.usable()]

    three = HardMiner(positive="nearest", per_anchor=3, **shared)(*sides, **groups)
    expected = [
        (a, slow.nearest(a, slow.positive[a])[0], n)
        for a in slow.usable()
        for n in slow.nearest(a, slow.negative[a])[:3]
    ]
    assert list(zip(*(part.tolist() for part in three))) == expected

    inside = SemiHardMiner(MARGIN, positive="all", **shared)(*sides, **groups)
    expected = [
        (a, p, found[0])
        for a in slow.usable()
        for p in slow.positive[a].nonzero()[:, 0].tolist()
        if (found := slow.semi_hard(a, p, MARGIN, metric))
    ]
    assert sorted(zip(*(part.tolist() for part in inside))) == sorted(expected)

    pairs = MultiSimilarityMiner(0.1, **shared)(*sides, **groups)
    under, over = set(), set()
    for a in slow.usable():
        least, most = slow.s[a, slow.farthest_positive(a)], slow.s[a, slow.nearest(a, slow.negative[a])[0]]
        under |= {(a, p) for p in slow.positive[a].nonzero()[:, 0].tolist() if slow.s[a, p] < most + 0.1}
        over |= {(a, n) for n in slow.negative[a].nonzero()[:, 0].tolist() if slow.s[a, n] > least - 0.1}
    assert set(zip(pairs[0].tolist(), pairs[1].tolist())) == under
    assert set(zip(pairs[2].tolist(), pairs[3].tolist())) == over
    assert len(pairs[0]) == len(under)
    assert len(pairs[2]) == len(over)


def cone(n=120, d=16, spread=3e-5, seed=0):
    """Unit rows some 1e-4 apart, of which a float32 product says that all are equal."""
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.ones(1, d) + spread * torch.randn(n, d, generator=g)), (
        torch.randint(0, 12, (n,), generator=g)
    )


@pytest.mark.parametrize("positive", ["nearest", "farthest", "all"])
def test_a_narrow_cone_is_mined_as_under_euclidean(positive):
    rows, labels = cone()
    found = {}
    for metric in ("cosine", "euclidean"):
        miner = SemiHardMiner(1e-4, positive=positive, index=ExactIndex(metric=metric))
        found[metric, "batch"] = list(zip(*(part.tolist() for part in miner(rows, labels))))
        mined = miner.mine(EmbeddingBank(rows, labels, metric=metric))
        found[metric, "bank"] = list(zip(mined.anchor.tolist(), mined.positive.tolist(), mined.negative.tolist()))
    assert len(found["cosine", "batch"]) > 100
    assert all(part == found["cosine", "batch"] for part in found.values())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_no_window_holds_a_row_that_is_equal_to_the_positive(metric):
    # In float32 the two similarities of equal rows differ by rounding, where a product's tiles differ.
    g = torch.Generator().manual_seed(3)
    rows = torch.randn(40, 24, generator=g)[torch.randint(0, 40, (300,), generator=g)]
    labels = torch.randint(0, 30, (300,), generator=g)
    miner = SemiHardMiner(0.3, positive="all", index=ExactIndex(metric=metric))
    a, p, n = miner(rows, labels)
    mined = miner.mine(EmbeddingBank(rows, labels, metric=metric))
    assert len(a) > 500
    assert not (rows[p] == rows[n]).all(1).any()
    assert not (rows[mined.positive] == rows[mined.negative]).all(1).any()


def test_rows_of_one_direction_and_other_lengths_are_ties():
    g = torch.Generator().manual_seed(4)
    direction = torch.randint(0, 12, (200,), generator=g)
    rows = torch.randn(12, 20, generator=g)[direction] * (0.1 + 9 * torch.rand(200, 1, generator=g))
    labels = torch.randint(0, 20, (200,), generator=g)
    a, _, n = SemiHardMiner(0.5, positive="all")(rows, labels)
    assert len(a) > 500
    assert not (direction[a] == direction[n]).any()  # such a negative is at distance 0, never beyond a positive
    s = MultiSimilarityMiner().mine_batch(rows, labels)
    together = direction[s.anchor_p] == direction[s.positive]
    assert (s.s_ap[together] == 1).all()
    assert together.any()


def test_windows_of_float64_batches_are_decided_in_float64():
    # d_an exceeds d_ap by 1e-9: in float32 both negatives and the positive are one.
    angle = torch.tensor([0.0, 0.5, 0.5 + 1e-9, 0.5 - 1e-9], dtype=torch.float64)
    rows, labels = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 1, 2])
    a, p, n = SemiHardMiner(positive="nearest", margin=math.inf)(rows, labels)
    assert (a[0].item(), p[0].item(), n[0].item()) == (0, 1, 2)
    found = FullHardMiner()(rows, labels)
    assert found[2][0].item() == 3


@pytest.mark.parametrize("miner", [HardMiner(positive="nearest"), EasyPositiveMiner(), MultiSimilarityMiner()])
def test_a_memory_that_holds_the_batch_does_not_give_an_anchor_itself(miner):
    g = torch.Generator().manual_seed(5)
    rows, labels = torch.randn(24, 8, generator=g), torch.arange(24) // 4
    memory = torch.cat([torch.randn(30, 8, generator=g), rows])
    a, p, *_ = miner(rows, labels, memory, torch.cat([torch.randint(0, 6, (30,), generator=g), labels]))
    assert len(a) > 5
    assert not (p == a + 30).any()


def test_an_equal_row_of_the_reference_is_left_out_once():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    memory = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    a, p, n = HardMiner(positive="nearest")(rows, torch.tensor([0, 1]), memory, torch.tensor([0, 0, 2]))
    assert (a.tolist(), p.tolist(), n.tolist()) == ([0], [1], [2])  # row 0 is the anchor; row 1 is another like it


@pytest.mark.parametrize("name", ["zero", "NaN"])
@pytest.mark.parametrize("miner", [FullHardMiner(), SemiHardMiner(), MultiSimilarityMiner(), RandomMiner()], ids=repr)
def test_a_zero_row_and_nan_are_refused_alike(miner, name):
    rows, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    rows[1] = 0.0 if name == "zero" else math.nan
    with pytest.raises(ValueError, match=r"embeddings: (all zero|NaN or inf).* in 1 of 4 rows \(first rows: 1\)"):
        miner(rows, labels)
    with pytest.raises(ValueError, match=r"ref_emb: (all zero|NaN or inf).* in 1 of 4 rows"):
        miner(torch.eye(4), labels, rows, labels)


def test_a_batch_is_mined_without_a_compiler(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    rows, labels = torch.randn(40, 8), torch.arange(40) // 4
    assert len(FullHardMiner()(rows, labels)[0]) == 40
    assert len(MultiSimilarityMiner()(rows, labels)[0]) > 0


def test_mine_batch_tells_what_fell_short():
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    labels, ids = torch.tensor([0, 0, 0, 1]), torch.tensor([40, 10, 30, 20])
    miner = FullHardMiner()
    found, (a, p, n) = miner.mine_batch(rows, labels, ids=ids), miner(rows, labels)
    assert torch.equal(found.anchor, ids[a])
    assert torch.equal(found.positive, ids[p])
    assert torch.equal(found.negative, ids[n])
    assert (found.stats.anchors, found.stats.no_positive, found.stats.engine) == (4, 1, "dense")
    s = 1 - (rows[a] - rows[n]).square().sum(1) / 2
    assert torch.allclose(found.s_an, s)
    against = HardMiner().mine_batch(rows, labels, ids=ids, ref_emb=rows + 1, ref_labels=labels.clone())
    assert int(against.negative.max()) < 4  # reference rows go by position
    pairs = MultiSimilarityMiner().mine_batch(rows, labels, ids=ids)
    assert torch.equal(pairs.anchor_p, ids[MultiSimilarityMiner()(rows, labels)[0]])
    assert pairs.stats.no_positive == 1


def test_names_of_labels_are_numbered_alike_on_both_sides():
    rows, memory = torch.eye(3), torch.eye(3) + 0.1
    by_name = HardMiner(positive="nearest")(rows, ["b", "a", "c"], memory, ["z", "b", "a"])
    by_number = HardMiner(positive="nearest")(rows, [1, 0, 2], memory, [3, 1, 0])
    assert all(torch.equal(x, y) for x, y in zip(by_name, by_number))
    assert by_name[0].tolist() == [0, 1]
