"""Candidates apart from the anchors, and pairs without classes."""

import warnings

import pytest
import torch
from test_miners_global import Oracle, make_bank, rows_of

from legolas_metric import (
    DistanceWeightedMiner,
    EmbeddingBank,
    ExactIndex,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    MultiSimilarityMiner,
    SemiHardMiner,
)
from legolas_metric.miners.query_pairs import mine_pairs

MINERS = {
    "full-hard": lambda: FullHardMiner(),
    "semi-hard all": lambda: SemiHardMiner(0.3, positive="all"),
    "guarded": lambda: HardMiner(guard=FalseNegativeGuard(neighbours=5)),
    "weighted": lambda: DistanceWeightedMiner(),
}


def split(bank):
    """Ids of queries, which have labels, and of a corpus that shares some rows with them."""
    labelled = bank.ids[bank.labels != -1]
    return labelled[:25], torch.cat([labelled[20:], bank.ids[bank.labels == -1]])


@pytest.mark.parametrize("name", MINERS)
def test_positives_and_negatives_come_from_the_candidates_alone(name):
    bank = make_bank(n=80)
    oracle, (queries, corpus) = Oracle(bank), split(make_bank(n=80))
    triplets = MINERS[name]().mine(bank, queries, candidates=corpus)
    among = set(corpus.tolist())
    assert len(triplets) > 10
    for a, p, n in rows_of(triplets):
        assert p in among
        assert n in among
        assert a != p
        assert oracle.label[a] == oracle.label[p] != oracle.label[n]
    without = [a for a in queries.tolist() if not among & set(oracle.positives(a))]
    assert triplets.stats.no_positive == len(without)
    assert triplets.stats.anchors == len(queries)


def test_full_hard_among_candidates_by_the_oracle():
    bank = make_bank(n=80)
    oracle, (queries, corpus) = Oracle(bank), split(bank)
    among = set(corpus.tolist())
    expected = {}
    for a in queries.tolist():
        positives = [p for p in oracle.positives(a) if p in among]
        if positives:
            farthest = min(positives, key=lambda p, a=a: (oracle.s[a, p], p))
            expected[a] = farthest, next(n for n in oracle.negatives(a) if n in among)
    found = FullHardMiner().mine(bank, queries, candidates=corpus)
    assert {a: (p, n) for a, p, n in rows_of(found)} == expected
    assert found.stats.engine == "exact"
    pairs = MultiSimilarityMiner().mine(bank, queries, candidates=corpus)
    assert set(pairs.negative.tolist()) | set(pairs.positive.tolist()) <= among


def test_candidates_without_a_positive_are_refused():
    bank = EmbeddingBank(torch.eye(6), [0, 0, 1, 1, 2, 2])
    with pytest.raises(ValueError, match="none of 2 candidates has the label of any of 2 anchors"):
        HardMiner().mine(bank, [0, 1], candidates=[2, 4])
    with pytest.raises(TypeError, match="candidates must be integers, got a mask of booleans"):
        HardMiner().mine(bank, [0, 1], candidates=bank.labels == 1)
    with pytest.raises(ValueError, match=r"1 ids are not in the bank \(first: \[9\]\)"):
        HardMiner().mine(bank, [0, 1], candidates=[1, 9])


def some_pairs(n=40, m=60, d=8):
    g = torch.Generator().manual_seed(2)
    queries = torch.randn(n, d, generator=g)
    return queries, queries + 0.3 * torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_pairs_find_the_nearest_row_that_is_not_their_own(metric):
    queries, positives, corpus = some_pairs()
    found = mine_pairs(queries, positives, corpus, miner=HardMiner(index=ExactIndex(metric=metric)))
    x, y = queries.double(), torch.cat([positives, corpus]).double()
    if metric == "cosine":
        x, y = (torch.nn.functional.normalize(side) for side in (x, y))
    s = -torch.cdist(x, y) if metric == "euclidean" else x @ y.T
    s[torch.arange(40), torch.arange(40)] = -torch.inf
    assert found.anchor.tolist() == found.positive.tolist() == list(range(40))
    assert torch.equal(found.negative, s.argmax(1))
    assert (mine_pairs(queries, positives).negative != torch.arange(40)).all()


def test_copies_of_the_own_answer_are_no_negatives():
    queries, positives, corpus = some_pairs()
    positives[7] = positives[3]  # two questions with one answer
    corpus[5] = positives[3]
    found = mine_pairs(queries, positives, corpus, miner=HardMiner(per_anchor=90))
    of_three = set(found.negative[found.anchor == 3].tolist())
    assert not of_three & {3, 7, 45}
    assert len(of_three) == 90
    assert 45 in found.negative[found.anchor == 4].tolist()
    assert (found.positive == found.anchor).all()


def test_a_vote_is_left_out_and_said():
    queries, positives, corpus = some_pairs()
    miner = HardMiner(guard=FalseNegativeGuard(absolute=0.0))
    with pytest.warns(UserWarning, match="the guard can't vote"):
        found = mine_pairs(queries, positives, corpus, miner=miner)
    assert (found.s_an < found.s_ap).all()
    assert miner.guard.vote == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = HardMiner(guard=FalseNegativeGuard(absolute=0.0, vote=None))
        assert torch.equal(mine_pairs(queries, positives, corpus, miner=quiet).negative, found.negative)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q, p, c: mine_pairs(q, p[:-1]), ValueError, "queries has 40 rows, positives 39"),
        (lambda q, p, c: mine_pairs(q, p, c[:, :3]), ValueError, "queries has 8 dimensions, corpus has 3"),
        (lambda q, p, c: mine_pairs(q[:1], p[:1]), ValueError, "no negatives: all positives are one row"),
        (lambda q, p, c: mine_pairs(q * 0, p), ValueError, "queries: all zero"),
    ],
)
def test_pairs_that_cannot_be_mined_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(*some_pairs())
