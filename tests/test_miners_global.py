"""Global mining, held against a slow oracle that looks at every triplet."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import similarity

from legolas_metric import (
    AutoIndex,
    EmbeddingBank,
    ExactIndex,
    FaissIndex,
    FullHardMiner,
    HardMiner,
    RandomMiner,
    SemiHardMiner,
)

METRICS = ("cosine", "dot", "euclidean")
INDICES = {"exact": ExactIndex, "faiss": FaissIndex, "auto": AutoIndex}
MINERS = {
    "random": RandomMiner,
    "semi-hard": SemiHardMiner,
    "hard": HardMiner,
    "full-hard": FullHardMiner,
}


def make_bank(n=60, d=5, classes=7, metric="cosine", seed=0, unlabelled=4) -> EmbeddingBank:
    """Classes of unequal size, one of a single row, some unlabelled rows, and ids that are no row numbers."""
    g = np.random.default_rng(seed)
    labels = g.integers(0, classes, n) * 3
    labels[0] = 999
    labels[g.choice(np.arange(1, n), unlabelled, replace=False)] = -1
    embeddings = g.normal(size=(n, d)).astype(np.float32) + g.normal(size=(1000, d))[labels] * 0.7
    ids = g.permutation(10 * n)[:n]
    return EmbeddingBank(embeddings, labels, ids=ids, metric=metric, groups=g.integers(0, 3, n))


def d_of(s: float, metric: str) -> float:
    return math.sqrt(max(0.0, 2 - 2 * s)) if metric == "cosine" else -s


class Oracle:
    """Similarities and relations of a bank, by id, without any tensor code."""

    def __init__(self, bank: EmbeddingBank) -> None:
        rows, names = bank.embeddings.numpy(), bank.ids.tolist()
        self.label = dict(zip(names, bank.labels.tolist()))
        self.group = dict(zip(names, bank.groups.tolist())) if bank.groups is not None else {}
        self.metric = bank.metric
        self.s = {
            (i, j): similarity(rows[a], rows[b], bank.metric) for a, i in enumerate(names) for b, j in enumerate(names)
        }

    def reported(self, pairs: list[tuple[int, int]]) -> list[float]:
        """What records say of pairs."""
        return [float(np.float32(self.s[pair])) for pair in pairs]

    def positives(self, i: int) -> list[int]:
        return [j for j in self.label if j != i and self.label[j] == self.label[i] != -1]

    def negatives(self, i: int) -> list[int]:
        """Nearest first, ties to the smaller id."""
        return sorted((j for j in self.label if self.label[j] != self.label[i]), key=lambda j: (-self.s[i, j], j))

    def inside(self, i: int, p: int, margin: float) -> list[int]:
        d_ap = d_of(self.s[i, p], self.metric)
        return [n for n in self.negatives(i) if d_ap < d_of(self.s[i, n], self.metric) < d_ap + margin]

    def nearest_positive(self, i: int) -> int:
        return min(self.positives(i), key=lambda j: (-self.s[i, j], j))

    def farthest_positive(self, i: int) -> int:
        return min(self.positives(i), key=lambda j: (self.s[i, j], j))


def rows_of(triplets):
    return list(zip(triplets.anchor.tolist(), triplets.positive.tolist(), triplets.negative.tolist()))


def answerable(bank, oracle):
    return [i for i in bank.ids.tolist() if oracle.label[i] != -1 and oracle.positives(i)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", INDICES)
def test_full_hard_is_the_farthest_positive_and_the_nearest_negative(metric, index):
    bank = make_bank(metric=metric)
    oracle = Oracle(bank)
    triplets = FullHardMiner(index=INDICES[index](metric=metric)).mine(bank)
    expected = [(i, oracle.farthest_positive(i), oracle.negatives(i)[0]) for i in answerable(bank, oracle)]
    assert rows_of(triplets) == expected
    assert triplets.s_ap.tolist() == oracle.reported([(a, p) for a, p, _ in expected])
    assert triplets.s_an.tolist() == oracle.reported([(a, n) for a, _, n in expected])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("positive", ["nearest", "farthest", "all"])
def test_semi_hard_is_the_nearest_negative_in_the_window(metric, index, positive):
    bank = make_bank(metric=metric)
    oracle = Oracle(bank)
    margin = 0.04 if metric == "cosine" else 0.3
    triplets = SemiHardMiner(positive=positive, margin=margin, index=INDICES[index](metric=metric)).mine(bank)
    expected, outside = [], 0
    for i in answerable(bank, oracle):
        chosen = {
            "nearest": lambda i: [oracle.nearest_positive(i)],
            "farthest": lambda i: [oracle.farthest_positive(i)],
            "all": oracle.positives,
        }[positive](i)
        for p in chosen:
            inside = oracle.inside(i, p, margin)
            expected += [(i, p, inside[0])] if inside else []
            outside += not inside
    assert outside > 0
    assert len(expected) > 10
    assert rows_of(triplets) == expected
    assert triplets.stats.outside_window == outside


@pytest.mark.parametrize("margin", [0.05, 0.3, math.inf])
def test_semi_hard_negative_of_a_random_positive_is_the_nearest_in_its_window(margin):
    bank = make_bank(n=80)
    oracle = Oracle(bank)
    triplets = SemiHardMiner(margin=margin, seed=3).mine(bank)
    for a, p, n in rows_of(triplets):
        assert p in oracle.positives(a)
        assert n == oracle.inside(a, p, margin)[0]
    stats = triplets.stats
    assert len(triplets) + stats.no_positive + stats.outside_window == stats.anchors


@pytest.mark.parametrize("per_anchor", [1, 3, 100])
def test_hard_gives_the_nearest_negatives_in_order(per_anchor):
    bank = make_bank()
    oracle = Oracle(bank)
    triplets = HardMiner(per_anchor=per_anchor).mine(bank)
    got = {}
    for a, p, n in rows_of(triplets):
        assert p in oracle.positives(a)
        got.setdefault(a, []).append(n)
    assert got == {i: oracle.negatives(i)[:per_anchor] for i in answerable(bank, oracle)}


def test_hard_with_all_positives_makes_a_triplet_for_each():
    bank = make_bank()
    oracle = Oracle(bank)
    triplets = HardMiner(positive="all").mine(bank)
    expected = [(i, p, oracle.negatives(i)[0]) for i in answerable(bank, oracle) for p in oracle.positives(i)]
    assert rows_of(triplets) == expected


@pytest.mark.parametrize("name", MINERS)
@given(n=st.integers(4, 40), classes=st.integers(2, 6), unlabelled=st.integers(0, 3), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_every_miner_keeps_the_relations_and_counts_every_anchor(name, n, classes, unlabelled, seed):
    bank = make_bank(n=n, classes=classes, seed=seed, unlabelled=min(unlabelled, n - 2))
    assume(bank.labels[bank.labels != -1].bincount().max() > 1)
    triplets = MINERS[name](index=ExactIndex(), seed=seed).mine(bank)
    oracle = Oracle(bank)
    for (a, p, n), s_ap, s_an in zip(rows_of(triplets), triplets.s_ap.tolist(), triplets.s_an.tolist()):
        assert a != p
        assert oracle.label[a] == oracle.label[p] != -1
        assert oracle.label[n] != oracle.label[a]
        assert [s_ap, s_an] == oracle.reported([(a, p), (a, n)])
    stats = triplets.stats
    assert stats.anchors == sum(label != -1 for label in oracle.label.values())
    assert stats.no_positive == stats.anchors - len(answerable(bank, oracle))
    assert stats.anchors == len(triplets) + stats.no_positive + stats.no_negative + stats.outside_window


@pytest.mark.parametrize("name", MINERS)
def test_only_the_anchors_that_were_asked(name):
    bank = make_bank()
    asked = bank.ids[bank.labels != -1][[20, 3, 9]]
    every = MINERS[name](index=ExactIndex(), seed=5).mine(bank)
    some = MINERS[name](index=ExactIndex(), seed=5).mine(bank, anchors=asked)
    assert some.stats.anchors == 3
    assert set(some.anchor.tolist()) <= set(asked.tolist())
    if name == "full-hard":
        assert set(rows_of(some)) <= set(rows_of(every))


def test_fallback_to_the_hardest_is_counted_and_is_the_hardest():
    bank = make_bank()
    oracle = Oracle(bank)
    skip = SemiHardMiner(positive="farthest", margin=0.02).mine(bank)
    hardest = SemiHardMiner(positive="farthest", margin=0.02, on_empty="hardest").mine(bank)
    assert skip.stats.fallback == 0
    assert hardest.stats.fallback == hardest.stats.outside_window == skip.stats.outside_window > 0
    assert len(hardest) == len(skip) + hardest.stats.fallback
    regular = set(rows_of(skip))
    assert regular < set(rows_of(hardest))
    for a, _, n in set(rows_of(hardest)) - regular:
        assert n == oracle.negatives(a)[0]


def test_raise_names_every_kind_of_shortfall():
    bank = make_bank()
    with pytest.raises(ValueError, match="of 56 anchors, 1 are without a positive, 0 without a negative"):
        SemiHardMiner(margin=0.02, on_empty="raise").mine(bank)
    whole = EmbeddingBank(torch.eye(4), [0, 0, 1, 1])
    assert len(HardMiner(on_empty="raise").mine(whole)) == 4


def test_a_case_by_hand():
    # Angles in degrees: the anchor at 0, its positive at 30, negatives at 20, 40 and 70; chord d = 2 sin(angle / 2).
    angle = torch.tensor([0.0, 30.0, 20.0, 40.0, 70.0]).deg2rad()
    bank = EmbeddingBank(torch.stack([angle.cos(), angle.sin()], 1), [0, 0, 1, 1, 1])
    d_ap, d_40 = 2 * math.sin(math.radians(15)), 2 * math.sin(math.radians(20))
    semi_hard = SemiHardMiner(margin=d_40 - d_ap + 0.01).mine(bank, anchors=[0])
    assert rows_of(semi_hard) == [(0, 1, 3)]
    assert semi_hard.s_an.item() == pytest.approx(math.cos(math.radians(40)))
    too_narrow = SemiHardMiner(margin=d_40 - d_ap - 0.01).mine(bank, anchors=[0])
    assert (len(too_narrow), too_narrow.stats.outside_window) == (0, 1)
    assert rows_of(HardMiner().mine(bank, anchors=[0])) == [(0, 1, 2)]
    assert rows_of(FullHardMiner().mine(bank, anchors=[2])) == [(2, 4, 1)]


@pytest.mark.parametrize("name", MINERS)
def test_calls_differ_but_the_sequence_repeats(name):
    bank = make_bank(n=200, classes=4)
    first, second = MINERS[name](seed=1, index=ExactIndex()), MINERS[name](seed=1, index=ExactIndex())
    one = [rows_of(first.mine(bank)) for _ in range(2)]
    assert one == [rows_of(second.mine(bank)) for _ in range(2)]
    if name != "full-hard":
        assert one[0] != one[1]
        assert one[0] != rows_of(MINERS[name](seed=2, index=ExactIndex()).mine(bank))


def test_state_resumes_the_sequence():
    bank = make_bank()
    first = RandomMiner(seed=4)
    first.mine(bank)
    resumed = RandomMiner(seed=4)
    resumed.load_state_dict(first.state_dict())
    assert rows_of(resumed.mine(bank)) == rows_of(first.mine(bank))


def test_mining_leaves_the_global_generators_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    RandomMiner().mine(make_bank())
    assert torch.equal(torch.get_rng_state(), state)


def test_random_choices_are_even():
    # 6 rows of class 0, 3 of class 1, 2 unlabelled: the anchor 0 has 5 positives and 5 negatives.
    bank = EmbeddingBank(torch.randn(11, 3), [0, 1, 0, -1, 0, 1, 0, 0, 1, 0, -1])
    miner = RandomMiner(per_anchor=2)
    found = [miner.mine(bank, anchors=[2]) for _ in range(600)]
    positives = torch.cat([triplets.positive[:1] for triplets in found]).bincount(minlength=11)
    negatives = torch.stack([triplets.negative for triplets in found])
    assert (negatives[:, 0] != negatives[:, 1]).all()
    assert positives.nonzero().flatten().tolist() == [0, 4, 6, 7, 9]
    for column in negatives.T:
        assert column.bincount(minlength=11).nonzero().flatten().tolist() == [1, 3, 5, 8, 10]
        assert column.bincount(minlength=11)[[1, 3, 5, 8, 10]].min() > 80
    assert positives[[0, 4, 6, 7, 9]].min() > 80


def test_the_index_is_a_template_that_stays_unfitted():
    template = ExactIndex()
    miner = FullHardMiner(index=template)
    small, large = make_bank(n=20), make_bank(n=50, seed=1)
    miner.mine(small)
    assert rows_of(miner.mine(large)) == rows_of(FullHardMiner(index=ExactIndex()).mine(large))
    with pytest.raises(Exception, match="fit"):
        template.self_join(1)


def test_stats_tell_engine_time_and_age():
    bank = make_bank()
    bank.update(bank.ids[:5], bank.embeddings[:5], step=40)
    stats = FullHardMiner(index=FaissIndex()).mine(bank).stats
    assert stats.engine.startswith("faiss")
    assert stats.seconds > 0
    assert stats.max_age == 40
    assert RandomMiner().mine(bank).stats.engine == "labels"


def test_stats_tell_what_the_exact_engine_did():
    bank = make_bank()
    index = ExactIndex(precision="float32")
    searched = index.fit(bank.embeddings, bank.labels).self_join(1).stats.details
    stats = FullHardMiner(index=index).mine(bank).stats
    exact = ("tiles", "reranked_per_row", "rescanned")  # the others depend on which thread comes first
    assert [stats.details[name] for name in exact] == [searched[name] for name in exact]
    assert stats.details.keys() == searched.keys()
    assert stats.details["groups_per_row"] >= 1
    assert stats.details["rescanned"] == 0
