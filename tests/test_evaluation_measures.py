"""Measures at k, reciprocal rank, and the paired difference of two encoders."""

import math

import numpy as np
import pytest
import torch
from evaluation_oracle import evaluate
from sklearn.metrics import ndcg_score
from test_evaluation_ranking import as_rows, table
from test_evaluation_report import clustered

from legolas_metric import RetrievalProtocol, evaluate_ranking, evaluate_verification
from legolas_metric.evaluation.bootstrap import intervals

AT_K = ("recall", "precision", "map", "ndcg")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_measures_at_k_are_expected_values(ties, full):
    for seed in range(5):
        x, y, ids, groups = table(seed, ties=ties)
        report = evaluate_ranking(x, y, ids=ids, ks=(1, 3, 5), full=full)
        want, *_ = evaluate(as_rows(x, y, ids, groups), "cosine")
        for name in AT_K:
            got = getattr(report, f"{name}_at_k")
            assert dict(got) == pytest.approx({k: want[f"{name}_at_{k}"] for k in (1, 3, 5)}, abs=1e-12), name
        assert report.mrr == (pytest.approx(want["mrr"], abs=1e-12) if full else None)


def test_a_case_worked_by_hand():
    # Query 0 sees, from the nearest: 1 (class 1), 2 (its own), 3 (class 1), 4 (its own). R = 2.
    x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]]), [0, 1, 0, 1, 0]
    protocol = RetrievalProtocol.fixed([0], [0, 1, 2, 3, 4])
    report = evaluate_ranking(x, y, metric="euclidean", ks=(1, 2, 4), full=True, protocol=protocol)
    assert report.recall_at_k == {1: 0, 2: 1 / 2, 4: 1}
    assert report.precision_at_k == {1: 0, 2: 1 / 2, 4: 2 / 4}
    assert dict(report.map_at_k) == pytest.approx({1: 0, 2: (1 / 2) / 2, 4: (1 / 2 + 2 / 4) / 2})
    ideal = 1 + 1 / math.log2(3)
    assert report.ndcg_at_k[2] == pytest.approx(1 / math.log2(3) / ideal)
    assert report.ndcg_at_k[4] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert report.mrr == 1 / 2


def test_ndcg_at_k_equals_scikit_learn():
    x, y = clustered(30, 5)
    unit = torch.nn.functional.normalize(x).double().numpy()
    s, others = unit @ unit.T, ~np.eye(30, dtype=bool)
    report = evaluate_ranking(x, y, ks=(3, 10))
    for k in (3, 10):
        own = [ndcg_score([(y == y[i]).numpy()[others[i]]], [s[i][others[i]]], k=k) for i in range(30)]
        assert report.ndcg_at_k[k] == pytest.approx(np.mean(own))


def test_what_was_not_asked_says_what_was():
    x, y = clustered(30, 3)
    report = evaluate_ranking(x, y)
    with pytest.raises(KeyError, match=r"rank\[3\] was not asked for: ks were 1, 5, 10"):
        report.rank[3]
    with pytest.raises(KeyError, match=r"ndcg_at_k\[2\] was not asked for"):
        report.ndcg_at_k[2]
    with pytest.raises(KeyError, match=r"tar_at_far\[0.5\] was not asked for: fars were 0.01, 0.001, 0.0001"):
        evaluate_verification(x, y).tar_at_far[0.5]


def test_a_difference_is_that_of_the_means_and_its_interval_covers_it():
    x, y = clustered(200, 5, noise=1.2)
    report = evaluate_ranking(x, y, baseline=x[:, :6], full=True)
    for measure in ("rank_at_1", "map_at_r", "ndcg_at_5", "mrr"):
        found = report.difference(measure)
        own, before = (
            one.shares() | {f"ndcg_at_{k}": v for k, v in one.ndcg_at_k.items()} for one in (report, report.baseline)
        )
        assert found.value == pytest.approx(own[measure] - before[measure])
        assert found.low < found.value < found.high
        assert (found.identities, found.shown) == (40, True)
    assert report.difference() == report.difference()
    assert report.difference() != report.difference(seed=1)


def test_a_paired_interval_is_narrower_than_two_of_their_own():
    """What is hard for both encoders cancels out."""
    x, y = clustered(300, 5, noise=1.5)
    generator = torch.Generator().manual_seed(1)
    report = evaluate_ranking(x + 0.1 * torch.randn(x.shape, generator=generator), y, baseline=x)
    found, (low, high) = report.difference(), report.intervals()["rank_at_1"]
    assert found.high - found.low < (high - low) / 2
    assert not found.shown  # noise makes nothing better
    assert found.low < 0 < found.high


def test_the_same_encoder_shows_no_difference():
    x, y = clustered(60, 5)
    found = evaluate_ranking(x, y, baseline=x).difference("map_at_r")
    assert (found.value, found.low, found.high, found.shown) == (0, 0, 0, False)


def test_few_identities_warn_and_one_has_no_interval():
    x, y = clustered(45, 5)
    report = evaluate_ranking(x, y, baseline=-x)
    with pytest.warns(UserWarning, match="an interval over 9 identities says little: ten or more"):
        assert report.difference().identities == 9
    one = evaluate_ranking(x, y, protocol=RetrievalProtocol(queries=range(5)), baseline=-x)
    with pytest.warns(UserWarning, match="1 identities"):
        assert all(math.isnan(end) for end in one.intervals()["rank_at_1"])
    with pytest.warns(UserWarning, match="1 identities"):
        assert one.difference().shown is False


def test_what_can_not_be_compared_is_refused():
    x, y = clustered(60, 5)
    with pytest.raises(ValueError, match="no baseline to differ from"):
        evaluate_ranking(x, y).difference()
    report = evaluate_ranking(x, y, baseline=x)
    with pytest.raises(ValueError, match=r"measure must be one of rank_at_1, .*, got 'rank1'"):
        report.difference("rank1")
    other = evaluate_ranking(x[:30], y[:30])
    with pytest.raises(ValueError, match="the baseline answers other queries"):
        evaluate_ranking(x, y, baseline=other).difference()
    with pytest.raises(ValueError, match="over='groups' needs groups"):
        report.difference(over="groups")


def test_groups_are_drawn_where_they_are_the_question():
    """Each of 12 groups wholly right or wholly wrong; each of 40 identities half right: only groups vary."""
    group, identity = torch.arange(480) % 12, torch.arange(480) // 12
    value = {"right": (group < 6).double()}
    given = {"level": 0.9, "resamples": 2000, "seed": 0}
    low, high = intervals(value, (identity, group), over="identities", **given)["right"]
    assert high - low < 1e-9
    low, high = intervals(value, (identity, group), over="groups", **given)["right"]
    assert (low, high) == pytest.approx((3 / 12, 9 / 12), abs=0.09)
    assert intervals(value, (identity, group), over="both", **given)["right"] == pytest.approx((low, high), abs=0.09)


def test_training_that_raises_rank_and_lowers_acceptance_is_told():
    """Classes of very different spread: each row is nearest to its own, and no one distance tells all of them apart."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) // 10
    noise = torch.randn(200, 20, generator=generator)
    before = torch.eye(20)[y] + 0.25 * noise
    after = 1.5 ** y[:, None] * (torch.eye(20)[y] + 0.1 * noise)
    ranking = evaluate_ranking(after, y, metric="euclidean", baseline=before)
    assert ranking.rank[1] > ranking.baseline.rank[1]
    said = evaluate_verification(after, y, metric="euclidean", fars=(0.01,), baseline=before).warnings()
    assert any(line.startswith("EER is worse than the baseline's: 0.") for line in said)
    assert any(line.startswith("TAR at FAR 0.01 is worse than the baseline's: 0.") for line in said)
