"""What can be asked of every miner: rank windows, mixing, relations, groups, age; and the further strategies."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import miners
from test_miners_global import Oracle, answerable, make_bank, rows_of

from legolas_metric import (
    DistanceWeightedMiner,
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


def by_anchor(triplets):
    found = {}
    for a, _, n in rows_of(triplets):
        found.setdefault(a, []).append(n)
    return found


def test_ranks_are_drawn_from_the_window_of_ranks():
    bank = make_bank()
    oracle = Oracle(bank)
    miner = HardMiner(ranks=(3, 7), per_anchor=2, index=ExactIndex())
    seen = {}
    for _ in range(12):
        for a, negatives in by_anchor(miner.mine(bank)).items():
            assert len(set(negatives)) == 2
            seen.setdefault(a, set()).update(negatives)
    assert set(seen) == set(answerable(bank, oracle))
    for a, negatives in seen.items():
        assert negatives <= set(oracle.negatives(a)[2:7])
    assert np.mean([len(negatives) for negatives in seen.values()]) > 4


def test_ranks_beyond_the_window_are_counted_and_can_fall_back():
    bank = make_bank()
    oracle = Oracle(bank)
    settings = {"positive": "nearest", "margin": 0.1, "index": ExactIndex()}
    skip = SemiHardMiner(ranks=(3, 5), **settings).mine(bank)
    expected = {
        a: set(inside[2:5])
        for a in answerable(bank, oracle)
        if len(inside := oracle.inside(a, oracle.nearest_positive(a), 0.1)) >= 3
    }
    assert 5 < len(expected) < 45
    assert by_anchor(skip).keys() == expected.keys()
    assert all(set(negatives) <= expected[a] for a, negatives in by_anchor(skip).items())
    assert skip.stats.outside_window == len(answerable(bank, oracle)) - len(expected)
    hardest = SemiHardMiner(ranks=(3, 5), on_empty="hardest", **settings).mine(bank)
    assert hardest.stats.fallback == skip.stats.outside_window
    for a, (n,) in by_anchor(hardest).items():
        assert n in expected.get(a, oracle.negatives(a)[:1])


def test_mix_replaces_a_share_by_random_negatives():
    bank = make_bank(n=300, classes=8)
    oracle_free = HardMiner(index=ExactIndex()).mine(bank)
    mixed = HardMiner(mix=0.3, index=ExactIndex()).mine(bank)
    assert torch.equal(mixed.anchor, oracle_free.anchor)
    share = (mixed.negative != oracle_free.negative).double().mean()
    assert 0.22 < share < 0.38
    label = dict(zip(bank.ids.tolist(), bank.labels.tolist()))
    assert all(label[a] != label[n] for a, _, n in rows_of(mixed))
    oracle = Oracle(bank)
    assert mixed.s_an.tolist() == oracle.reported(list(zip(mixed.anchor.tolist(), mixed.negative.tolist())))


def test_semi_hard_beyond_the_nearest_positive():
    bank = make_bank()
    oracle = Oracle(bank)
    triplets = SemiHardMiner(positive="farthest", reference="nearest", margin=0.2, index=ExactIndex()).mine(bank)
    expected = []
    for a in answerable(bank, oracle):
        inside = oracle.inside(a, oracle.nearest_positive(a), 0.2)
        expected += [(a, oracle.farthest_positive(a), inside[0])] if inside else []
    assert rows_of(triplets) == expected


def test_easy_positive():
    bank = make_bank()
    oracle = Oracle(bank)
    for negative, choose in (("hard", oracle.negatives), ("semi_hard", None)):
        expected = []
        for a in answerable(bank, oracle):
            p = oracle.nearest_positive(a)
            found = choose(a) if choose else oracle.inside(a, p, math.inf)
            expected += [(a, p, found[0])] if found else []
        assert rows_of(EasyPositiveMiner(negative=negative, index=ExactIndex()).mine(bank)) == expected


GROUPED = LabelRelation(positive_group="other")


@pytest.mark.parametrize("scope", ["bank", "batch"])
@pytest.mark.parametrize(
    "miner",
    [
        DistanceWeightedMiner(positive="all"),
        HardMiner(positive="all", ranks=(1, 20)),
        HardMiner(positive="all", mix=1.0),
        SemiHardMiner(math.inf, positive="all", ranks=(1, 15), reference="nearest"),
    ],
    ids=repr,
)
def test_a_negative_is_drawn_for_each_pair(miner, scope):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 8, generator=g), torch.arange(60) // 15
    bank = EmbeddingBank(x, y)
    for _ in range(2):
        if scope == "batch":
            a, p, n = miner(x, y)
        else:
            mined = miner.mine(bank)
            a, p, n = mined.anchor, mined.positive, mined.negative
        drawn = [n[a == i].tolist() for i in range(60)]
        served = [found for found in drawn if len(found) == 14]
        assert len(served) > 20
        assert np.mean([len(set(found)) for found in served]) > 4
        assert (y[a] == y[p]).all()
        assert (y[a] != y[n]).all()


def test_draws_depend_on_no_tiling(monkeypatch):
    x, y = torch.randn(200, 8), torch.arange(200) % 9
    y[:3] = torch.tensor([77, 78, -1])
    makers = (
        lambda: DistanceWeightedMiner(positive="all", per_anchor=2),
        lambda: HardMiner(positive="all", ranks=(2, 9), mix=0.3),
        lambda: RandomMiner(per_anchor=3),
    )
    whole = [make()(x, y) for make in makers]
    monkeypatch.setattr("legolas_metric.miners.sources.block_rows", lambda n: 7)
    for make, expected in zip(makers, whole):
        assert all(torch.equal(part, other) for part, other in zip(make()(x, y), expected))


def test_distance_weighted_draws_with_the_published_weights():
    g = torch.Generator().manual_seed(2)
    rows = torch.nn.functional.normalize(torch.randn(9, 4, generator=g))
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, -1])
    anchors = rows[:1].repeat(4000, 1)
    _, _, n = DistanceWeightedMiner()(anchors, torch.zeros(4000, dtype=torch.int64), rows, labels)
    drawn = n.bincount(minlength=9) / 4000
    d = (rows[0] - rows).norm(dim=1).double()
    clipped = d.clamp_min(0.5)
    weight = 1 / (clipped ** (4 - 2) * (1 - clipped**2 / 4) ** ((4 - 3) / 2))
    weight[(d >= 1.4) | (labels == 0)] = 0
    assert (weight > 0).sum() >= 3
    assert torch.allclose(drawn.double(), weight / weight.sum(), atol=0.03)


def test_distance_weighted_leaves_far_negatives_out_and_keeps_draws_apart():
    bank = make_bank()
    oracle = Oracle(bank)
    triplets = DistanceWeightedMiner(per_anchor=3, cutoff=0.2, nonzero_loss_cutoff=0.4).mine(bank)
    found = by_anchor(triplets)
    near = {
        a: [n for n in oracle.negatives(a) if math.sqrt(2 - 2 * oracle.s[a, n]) < 0.4] for a in answerable(bank, oracle)
    }
    assert triplets.stats.outside_window == sum(not negatives for negatives in near.values()) > 0
    for a, negatives in found.items():
        assert len(set(negatives)) == len(negatives) == min(3, len(near[a]))
        assert set(negatives) <= set(near[a])
    with pytest.raises(ValueError, match="metric must be 'cosine', got 'dot'"):
        DistanceWeightedMiner(index=ExactIndex(metric="dot"))
    with pytest.raises(ValueError, match=r"cutoffs must be \(least d, largest d\) with 0 < least < largest"):
        DistanceWeightedMiner(cutoff=1.5)


def pairs_by_oracle(bank, epsilon):
    oracle = Oracle(bank)
    positive, negative = set(), set()
    for a in answerable(bank, oracle):
        least = min(oracle.s[a, p] for p in oracle.positives(a))
        most = oracle.s[a, oracle.negatives(a)[0]]
        positive |= {(a, p) for p in oracle.positives(a) if oracle.s[a, p] < most + epsilon}
        negative |= {(a, n) for n in oracle.negatives(a) if oracle.s[a, n] > least - epsilon}
    return positive, negative


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_multi_similarity_pairs(metric):
    bank = make_bank(metric=metric)
    positive, negative = pairs_by_oracle(bank, 0.05)
    pairs = MultiSimilarityMiner(epsilon=0.05, index=ExactIndex(metric=metric)).mine(bank)
    assert set(zip(pairs.anchor_p.tolist(), pairs.positive.tolist())) == positive
    assert set(zip(pairs.anchor_n.tolist(), pairs.negative.tolist())) == negative
    a1, p, a2, n = MultiSimilarityMiner(epsilon=0.05, index=ExactIndex(metric=metric))(bank.embeddings, bank.labels)
    assert set(zip(bank.ids[a1].tolist(), bank.ids[p].tolist())) == positive
    assert set(zip(bank.ids[a2].tolist(), bank.ids[n].tolist())) == negative


def test_multi_similarity_counts_what_its_limit_leaves_out():
    bank = make_bank()
    oracle = Oracle(bank)
    _, negative = pairs_by_oracle(bank, 0.1)
    pairs = MultiSimilarityMiner(max_negatives=4, index=ExactIndex()).mine(bank)
    counts = {a: sum(i == a for i, _ in negative) for a in answerable(bank, oracle)}
    assert pairs.stats.filtered == {"max_negatives": sum(count > 4 for count in counts.values())}
    found = {}
    for a, n in zip(pairs.anchor_n.tolist(), pairs.negative.tolist()):
        found.setdefault(a, []).append(n)
    for a, got in found.items():
        assert got == oracle.negatives(a)[: min(4, counts[a])]
    assert pairs.s_an.tolist() == oracle.reported(list(zip(pairs.anchor_n.tolist(), pairs.negative.tolist())))


def test_multi_similarity_equals_pml():
    g = torch.Generator().manual_seed(1)
    embeddings, labels = torch.randn(200, 16, generator=g), torch.randint(0, 40, (200,), generator=g)
    ours = MultiSimilarityMiner()(embeddings, labels)
    theirs = miners.MultiSimilarityMiner()(embeddings, labels)
    for i in (0, 2):
        assert sorted(zip(ours[i].tolist(), ours[i + 1].tolist())) == sorted(
            zip(theirs[i].tolist(), theirs[i + 1].tolist())
        )
    assert [part.numel() for part in MultiSimilarityMiner()(torch.eye(3), torch.tensor([0, 0, 0]))] == [0] * 4


def test_staleness_is_measured_and_can_be_refused():
    bank = make_bank()
    assert RandomMiner().mine(bank).stats.drift is None
    bank.update(bank.ids[:10], bank.embeddings[:10].roll(1, 0), step=30)
    stats = RandomMiner(max_staleness=50).mine(bank, step=50).stats
    assert stats.max_age == 50
    expected = torch.cosine_similarity(make_bank().embeddings[:10], bank.embeddings[:10]).mean()
    assert stats.drift == pytest.approx(float(expected), abs=1e-6)
    for miner in (SemiHardMiner(max_staleness=20), MultiSimilarityMiner(max_staleness=20)):
        with pytest.raises(ValueError, match="the bank's oldest row is 30 steps old, max_staleness=20: encode the da"):
            miner.mine(bank)
    with pytest.raises(ValueError, match="step 10 is before the step 30 of the bank"):
        RandomMiner().mine(bank, step=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HardMiner(mix=1.5), "mix must be a finite number, at least 0 and at most 1, got 1.5"),
        (lambda: HardMiner(ranks=(0, 3)), "ranks must be at least 1, got 0"),
        (lambda: HardMiner(ranks=(3, 4), per_anchor=3), "at least per_anchor=3 ranks, got"),
        (lambda: HardMiner(max_staleness=-1), "max_staleness must be at least 0"),
        (lambda: MultiSimilarityMiner(epsilon=-0.1), "epsilon must be at least 0, got -0.1"),
        (lambda: MultiSimilarityMiner(max_negatives=0), "max_negatives must be at least 1, got 0"),
        (
            lambda: HardMiner(relation=GROUPED).mine(EmbeddingBank(torch.eye(3), [0, 0, 1])),
            "the relation compares groups, and there are none: pass groups to EmbeddingBank",
        ),
        (
            lambda: HardMiner(relation=GROUPED)(torch.eye(3), torch.tensor([0, 0, 1])),
            "there are none: pass groups to the call, as groups and ref_groups",
        ),
        (lambda: LabelRelation.hierarchy([[0, 1]], negative=2), r"paths must be integers \[labels, levels\]"),
        (lambda: LabelRelation.multi_label([[0, 2]]), r"tags must be 0 or 1, \[labels, tags\]"),
        (
            lambda: HardMiner(relation=LabelRelation.hierarchy([[0, 1]])).mine(EmbeddingBank(torch.eye(3), [0, 0, 5])),
            "label 5 has no row in the relation's table of 1 labels",
        ),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fewer_negatives_than_asked_for_are_counted(generator):
    bank = EmbeddingBank(torch.randn(12, 4, generator=generator), torch.arange(12) // 4)
    asked = FullHardMiner(per_anchor=8).mine(bank)
    assert (len(asked), asked.stats.short) == (96, 0)
    more = FullHardMiner(per_anchor=9).mine(bank)
    assert (len(more), more.stats.short) == (96, 12)
