"""The guard: each rule against its formula, replacement and counts, and what it does on planted label noise."""

import re
import warnings

import numpy as np
import pytest
import torch
from test_miners_global import Oracle, answerable, make_bank, rows_of

from legolas_metric import (
    EmbeddingBank,
    ExactIndex,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    LabelRelation,
    SemiHardMiner,
)

pytestmark = pytest.mark.filterwarnings("ignore:the guard rejected the first candidate")


def kept(bank, oracle, a, guard):
    """The candidates of an anchor that a guard should let pass, nearest first, by its formulas."""
    near = {
        i: sorted((j for j in oracle.label if j != i), key=lambda j: (-oracle.s[i, j], j))[: guard.neighbours]
        for i in oracle.label
    }

    def share(i, label):
        return sum(oracle.label[j] == label != -1 for j in near[i]) / max(1, len(near[i]))

    positives = sorted(oracle.s[a, p] for p in oracle.positives(a))
    s_p = {
        "mean": np.mean(positives),
        "nearest": positives[-1],
        "quantile": positives[::-1][round((1 - guard.quantile) * (len(positives) - 1))],
    }[guard.reference]
    out = []
    for rank, n in enumerate(oracle.negatives(a)[: guard.depth]):
        s = oracle.s[a, n]
        bad = rank < guard.skip
        bad |= guard.near_duplicate is not None and s > 1 - guard.near_duplicate**2 / 2
        bad |= guard.relative is not None and s > s_p - abs(s_p) * (1 - guard.relative)
        bad |= guard.absolute is not None and s > s_p - guard.absolute
        if guard.vote is not None:
            mine, theirs = oracle.label[a], oracle.label[n]
            bad |= share(n, mine) >= guard.vote and share(n, mine) > share(n, theirs)
            bad |= share(a, theirs) >= guard.vote and share(a, theirs) > share(a, mine)
        if not bad:
            out.append(n)
    return out


GUARDS = {
    "nothing": {"vote": None},
    "skip": {"vote": None, "skip": 3},
    "near duplicates": {"vote": None, "near_duplicate": 0.5},
    "relative to the mean": {"vote": None, "relative": 0.9},
    "relative to the nearest": {"vote": None, "relative": 0.8, "reference": "nearest"},
    "relative to a quantile": {"vote": None, "relative": 0.95, "reference": "quantile", "quantile": 0.25},
    "absolute": {"vote": None, "absolute": 0.2},
    "vote": {"vote": 0.4, "neighbours": 5},
    "a vote of all rows": {"vote": 0.2, "neighbours": 100},
    "all": {"vote": 0.4, "neighbours": 4, "absolute": 0.05, "relative": 0.9, "skip": 1, "near_duplicate": 0.2},
}


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize("scope", ["bank", "batch"])
def test_each_rule_by_its_formula(name, scope):
    guard = FalseNegativeGuard(depth=12, **GUARDS[name])
    bank = make_bank(n=70, classes=5, seed=3)
    oracle = Oracle(bank)
    miner = HardMiner(guard=guard, per_anchor=2, index=ExactIndex(), positive="nearest")
    if scope == "bank":
        triplets = miner.mine(bank)
        found = rows_of(triplets)
        dropped = [a for a in answerable(bank, oracle) if not kept(bank, oracle, a, guard)]
        assert triplets.stats.exhausted == len(dropped)
        assert triplets.stats.outside_window == 0
    else:
        order = bank.ids.argsort()  # in a batch, ties go to the smaller row
        parts = miner(bank.embeddings[order], bank.labels[order])
        found = list(zip(*(bank.ids[order][part].tolist() for part in parts)))
    chosen = {}
    for a, _, n in found:
        chosen.setdefault(a, []).append(n)
    expected = {a: kept(bank, oracle, a, guard)[:2] for a in answerable(bank, oracle)}
    assert chosen == {a: negatives for a, negatives in expected.items() if negatives}


def test_the_bound_lies_below_negative_similarities_too():
    # s_p = -0.5: a bound of r * s_p = -0.45 would let s_an = -0.47 pass, which is nearer than the positive is.
    angle = torch.tensor([0.0, 120.0, 118.0, 126.0, 180.0]).deg2rad()
    bank = EmbeddingBank(torch.stack([angle.cos(), angle.sin()], 1), [0, 0, 1, 1, 1])
    guard = FalseNegativeGuard(vote=None, relative=0.9)
    assert HardMiner(guard=guard).mine(bank, anchors=[0]).negative.tolist() == [3]
    assert bank.embeddings[[0]] @ bank.embeddings[3] < -0.55


def test_rejections_are_counted_by_reason_up_to_the_choice():
    angle = torch.tensor([0.0, 60.0, 1.0, 10.0, 30.0, 50.0, 90.0]).deg2rad()
    bank = EmbeddingBank(torch.stack([angle.cos(), angle.sin()], 1), [0, 0, 1, 1, 1, 1, 1])
    guard = FalseNegativeGuard(vote=None, near_duplicate=0.1, absolute=0.2)
    stats = HardMiner(guard=guard).mine(bank, anchors=[0]).stats  # s_p = 0.5: 10, 30 and 50 degrees are too near
    assert stats.filtered == {"near_duplicate": 1, "absolute_margin": 3}
    assert stats.exhausted == 0
    shallow = FalseNegativeGuard(vote=None, absolute=0.2, depth=3)
    triplets = HardMiner(guard=shallow).mine(bank, anchors=[0])
    assert (len(triplets), triplets.stats.exhausted) == (0, 1)
    assert triplets.stats.filtered == {"absolute_margin": 3}


def test_the_window_and_the_fallback_are_guarded():
    bank = make_bank(n=80)
    oracle = Oracle(bank)
    guard = FalseNegativeGuard(vote=None, skip=1)
    settings = {"positive": "nearest", "margin": 0.05, "index": ExactIndex(), "guard": guard}
    triplets = SemiHardMiner(on_empty="hardest", **settings).mine(bank)
    stats = triplets.stats
    fallback = 0
    for a, p, n in rows_of(triplets):
        inside = oracle.inside(a, p, 0.05)
        fallback += not inside
        assert n == (inside[1] if inside else oracle.negatives(a)[1])
    assert stats.fallback == fallback == stats.outside_window > 0
    assert stats.exhausted == stats.anchors - stats.no_positive - len(triplets) > 0


def test_a_reference_over_many_positives_takes_an_even_sample():
    g = torch.Generator().manual_seed(0)
    angle = torch.cat([torch.zeros(1), torch.linspace(0.1, 1.0, 300), 2 * torch.rand(20, generator=g)])
    bank = EmbeddingBank(torch.stack([angle.cos(), angle.sin()], 1), [0] * 301 + [1] * 20)
    guard = FalseNegativeGuard(vote=None, absolute=0.0)
    triplets = HardMiner(guard=guard).mine(bank, anchors=[0])
    mean = angle[1:301].cos().mean()
    negatives = angle[301:].cos().sort(descending=True).values
    assert triplets.s_an.item() == pytest.approx(float(negatives[negatives < mean][0]))


def test_mostly_rejecting_warns_with_a_remedy():
    bank = make_bank()
    with pytest.warns(UserWarning, match=r"first candidate of 5\d of 5\d pairs \(absolute_margin: \d+ candidates\)"):
        HardMiner(guard=FalseNegativeGuard(vote=None, absolute=1.9)).mine(bank)


def test_the_share_is_said_once_with_pairs_to_read_and_without_a_remedy():
    bank = make_bank()
    miner = HardMiner(guard=FalseNegativeGuard(vote=None, absolute=1.9))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rounds = [miner.mine(bank) for _ in range(3)]
        miner(bank.embeddings, bank.labels)
    (said,) = [str(warning.message) for warning in caught]
    assert "Rejected is not mislabelled" in said
    assert not any(word in said for word in ("loosen", "warm-up", "mislabelled row"))
    named = [tuple(map(int, pair)) for pair in re.findall(r"\((\d+), (\d+)\)", said)]
    oracle = Oracle(bank)
    assert len(named) == 5
    assert all(oracle.negatives(a)[0] == n for a, n in named)
    assert rounds[0].stats.contested == rounds[2].stats.contested == len(answerable(bank, oracle))


def test_raise_counts_the_guarded():
    with pytest.raises(
        ValueError, match=r"of 56 anchors, 1 are without a positive.* 5. without one that the guard lets"
    ):
        HardMiner(guard=FalseNegativeGuard(vote=None, absolute=1.9), on_empty="raise").mine(make_bank())


@pytest.mark.parametrize("miner", [HardMiner, FullHardMiner])
def test_default_guard_on_planted_label_noise(miner):
    g = torch.Generator().manual_seed(0)
    truth = torch.arange(1200) % 60
    centres = torch.nn.functional.normalize(torch.randn(60, 16, generator=g))
    embeddings = centres[truth] + 0.17 * torch.randn(1200, 16, generator=g)
    flipped = torch.rand(1200, generator=g) < 0.1
    labels = torch.where(flipped, torch.randint(0, 60, (1200,), generator=g), truth)
    bank = EmbeddingBank(embeddings, labels)
    plain = miner(index=ExactIndex()).mine(bank)
    guarded = miner(index=ExactIndex(), guard=FalseNegativeGuard()).mine(bank)
    false = [(truth[t.anchor] == truth[t.negative]).double().mean() for t in (plain, guarded)]
    assert false[0] > 0.3
    assert false[1] < false[0] / 3
    assert len(guarded) > 0.9 * len(plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relative": 1.2}, "relative must be a finite number, at least 0 and at most 1, got 1.2"),
        ({"quantile": -0.1}, "quantile must be a finite number, at least 0 and at most 1, got -0.1"),
        ({"vote": 2.0}, "vote must be a finite number, at least 0 and at most 1, got 2.0"),
        ({"near_duplicate": -1.0}, "near_duplicate must be a finite number, at least 0, got -1.0"),
        ({"skip": -1}, "skip must be at least 0, got -1"),
        ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ({"skip": 5, "depth": 5}, "depth must be at least 6, got 5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FalseNegativeGuard(**settings)


def test_near_duplicates_are_told_from_exact_ones_by_float64():
    bank = EmbeddingBank(torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.0], [0.0, 1.0]]), [0, 0, 1, 1])
    for least in (1e-6, 1e-4, 0.1):
        guard = FalseNegativeGuard(near_duplicate=least, vote=None)
        assert HardMiner(guard=guard).mine(bank, anchors=[0]).negative.tolist() == [3]


def test_near_duplicates_need_a_distance():
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.1], [-1.0, 0.0]])
    guard = FalseNegativeGuard(near_duplicate=0.1, vote=None)
    miner = HardMiner(index=ExactIndex(metric="dot"), guard=guard)
    with pytest.raises(ValueError, match="near_duplicate is a distance, which metric='dot' hasn't"):
        miner.mine(EmbeddingBank(rows, [0, 0, 1, 1], metric="dot"))


def test_the_ranks_that_are_skipped_are_no_reason_to_warn(recwarn):
    bank = make_bank()
    HardMiner(guard=FalseNegativeGuard(skip=2, vote=None)).mine(bank)
    assert not [w for w in recwarn if "rejected the first candidate" in str(w.message)]
    with pytest.warns(UserWarning, match="rejected the first candidate"):
        HardMiner(guard=FalseNegativeGuard(skip=2, absolute=1.9, vote=None)).mine(bank)


def noisy_clusters():
    """Ten rows around each of six centres, of which one carries another label; its true label."""
    g = torch.Generator().manual_seed(0)
    true = torch.arange(60) // 10
    rows = 2 * torch.randn(6, 16, generator=g)[true] + 0.3 * torch.randn(60, 16, generator=g)
    named = true.clone()
    named[0] = 3
    return rows, named, true


@pytest.mark.parametrize("labels", ["one for each class", "one for each row"])
def test_a_vote_follows_the_relation(labels):
    rows, named, true = noisy_clusters()
    guard = FalseNegativeGuard()
    by_label = HardMiner(positive="nearest", guard=guard).mine(EmbeddingBank(rows, named))
    tags = torch.eye(6)[named] if labels == "one for each row" else torch.eye(6)
    own = torch.arange(60) if labels == "one for each row" else named
    relation = LabelRelation.multi_label(tags)
    by_tags = HardMiner(positive="nearest", guard=guard, relation=relation).mine(EmbeddingBank(rows, own))
    assert by_label.stats.filtered == by_tags.stats.filtered == {"vote": by_tags.stats.filtered["vote"]}
    assert torch.equal(by_label.anchor, by_tags.anchor)
    assert torch.equal(by_label.negative, by_tags.negative)
    assert not (true[by_tags.anchor] == true[by_tags.negative]).any()


def test_rows_without_a_label_vote_for_nobody_under_a_relation():
    rows, named, _ = noisy_clusters()
    named[10:30] = -1
    relation = LabelRelation.multi_label(torch.eye(6))
    guard = FalseNegativeGuard()
    by_label = HardMiner(positive="nearest", guard=guard).mine(EmbeddingBank(rows, named))
    by_tags = HardMiner(positive="nearest", guard=guard, relation=relation).mine(EmbeddingBank(rows, named))
    assert by_label.stats.filtered == by_tags.stats.filtered
    assert torch.equal(by_label.negative, by_tags.negative)
    assert (named[by_label.negative] == -1).any()


def test_a_vote_by_too_many_labels_is_refused(monkeypatch):
    monkeypatch.setattr("legolas_metric.miners.false_negatives._MOST_LABELS", 50)
    rows, named, _ = noisy_clusters()
    relation = LabelRelation.multi_label(torch.eye(6)[named])
    with pytest.raises(ValueError, match="a vote by a relation of 60 labels compares each with each"):
        HardMiner(guard=FalseNegativeGuard(), relation=relation).mine(EmbeddingBank(rows, torch.arange(60)))


def test_where_there_are_fewer_rows_than_voters_all_of_them_vote():
    angle = torch.tensor([0.0, 0.1, 0.2, 0.15, 1.5, 1.6])  # the row 3 is mislabelled
    bank = EmbeddingBank(torch.stack([angle.cos(), angle.sin()], 1), [0, 0, 0, 1, 1, 1])
    # of the five others of each candidate, three carry the label 0: a fourth of twelve, more than half of five
    found = HardMiner(guard=FalseNegativeGuard(neighbours=12, vote=0.6)).mine(bank, anchors=[0])
    assert found.stats.filtered == {"vote": 3}
    assert len(found) == 0
