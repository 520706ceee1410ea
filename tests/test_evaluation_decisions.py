"""Thresholds, what they do, and what they do to others."""

import math

import numpy as np
import pytest
import torch
from evaluation_oracle import pair_scores
from sklearn.metrics import roc_curve
from test_evaluation_ranking import as_rows, table

from legolas_metric import evaluate_verification
from legolas_metric.evaluation import verification
from legolas_metric.evaluation.decision import DecisionRule
from legolas_metric.evaluation.given_scores import verification_from_scores
from legolas_metric.evaluation.identity_pairs import PairsGiven, PairsOfRows
from legolas_metric.evaluation.operating import Cost
from legolas_metric.evaluation.pairs import by_label
from legolas_metric.rows import fitted_rows

FARS = (0.02, 0.1, 0.3)


def people(persons, per_person=4, noise=0.6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(persons * per_person) // per_person
    x = torch.randn(persons, 12, generator=generator)[y] + noise * torch.randn(len(y), 12, generator=generator)
    return x, y


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_equal_scikit_learns(metric, ties):
    for seed in range(3):
        x, y, ids, groups = table(seed, n=24, classes=5, ties=ties)
        report = evaluate_verification(x, y, metric=metric, fars=FARS)
        genuine, impostor = pair_scores(as_rows(x, y, ids, groups), metric)
        truth = np.repeat([1, 0], [len(genuine), len(impostor)])
        far, tar, threshold = roc_curve(truth, np.concatenate([genuine, impostor]), drop_intermediate=False)
        for rate in FARS:
            best = tar[far <= rate].max()
            want = threshold[(far <= rate) & (tar == best)].max() if best > 0 else math.inf
            assert report.threshold_at_far[rate] == pytest.approx(want, abs=1e-12)
            done = report.rates_at(report.threshold_at_far[rate])
            assert done.frr == pytest.approx(1 - report.tar_at_far[rate])
            assert done.far <= rate
        equal = report.rates_at(report.eer_threshold)
        assert abs(equal.far - equal.frr) == pytest.approx(np.abs(far - (1 - tar))[1:].min())


def test_rates_are_exact_at_any_threshold_of_a_small_set():
    x, y, ids, groups = table(1, n=30, classes=5)
    report = evaluate_verification(x, y)
    genuine, impostor = pair_scores(as_rows(x, y, ids, groups), "cosine")
    for threshold in np.linspace(-1.2, 1.2, 49):
        done = report.rates_at(threshold)
        assert done.far == pytest.approx((impostor >= threshold).mean())
        assert done.frr == pytest.approx((genuine < threshold).mean())
    assert report.rates_at(math.inf) == report.rates_at(2.0)
    assert (report.rates_at(2.0).far, report.rates_at(2.0).frr) == (0, 1)


def test_between_genuine_similarities_a_large_set_is_interpolated(monkeypatch):
    x, y = people(40)
    exact = evaluate_verification(x, y)
    monkeypatch.setattr(verification, "_ALL_KEPT", 0)
    report = evaluate_verification(x, y)
    assert len(report.operating.levels) < len(exact.operating.levels)
    for threshold in np.linspace(-0.5, 0.99, 30):
        assert report.rates_at(threshold).frr == exact.rates_at(threshold).frr
        assert report.rates_at(threshold).far == pytest.approx(exact.rates_at(threshold).far, abs=0.01)
    assert report.threshold_at_far == exact.threshold_at_far


def test_given_scores_say_what_embeddings_say():
    x, y, ids, groups = table(2, n=26, classes=5)
    genuine, impostor = pair_scores(as_rows(x, y, ids, groups), "cosine")
    same = np.repeat([True, False], [len(genuine), len(impostor)])
    given = verification_from_scores(np.concatenate([genuine, impostor]), same, fars=FARS)
    report = evaluate_verification(x, y, fars=FARS)
    assert (given.auc, given.eer, given.tar_at_far) == (report.auc, report.eer, report.tar_at_far)
    assert given.threshold_at_far == pytest.approx(report.threshold_at_far)
    with pytest.raises(ValueError, match="intervals draw identities: pass identities to verification_from_scores"):
        given.intervals()
    with pytest.raises(ValueError, match="the rule was chosen on given scores"):
        DecisionRule.fit(given, far=0.1).apply(x, y)


@pytest.mark.parametrize(
    ("scores", "same", "error", "text"),
    [
        ([0.1, 0.2], [True], ValueError, "scores and same must be 1-D and of one length"),
        ([0.1, 0.2], [0, 2], TypeError, "same must be booleans, or 0 and 1"),
        ([0.1, math.nan], [0, 1], ValueError, "NaN or inf in 1 of 2"),
        ([0.1, 0.2], [1, 1], ValueError, "2 genuine and 0 impostor pairs"),
    ],
)
def test_given_scores_that_can_not_be_judged(scores, same, error, text):
    with pytest.raises(error, match=text):
        verification_from_scores(scores, same)


def test_pairs_are_counted_by_identity():
    x, y, _, groups = table(4, n=22, classes=4)
    rows = by_label(fitted_rows(x, y, ids=None, groups=groups, metric="cosine"))
    borders = torch.tensor([-0.3, 0.1, 0.8], dtype=torch.float64)
    impostor, genuine = PairsOfRows(rows, "cosine").histograms(borders)
    wide, labels, groups = rows.embeddings.double(), rows.labels.tolist(), rows.groups.tolist()
    want = np.zeros((2, 4, 4), int)
    trials = []
    for i in range(22):
        for j in range(i + 1, 22):
            a, b = labels[i], labels[j]
            score = float(1 - (wide[i] - wide[j]).square().sum() / 2)
            cell = int((borders <= score).sum())
            if a == b != -1 and groups[i] != groups[j]:
                want[1, a, cell] += 1
                trials.append((score, True, a, b))
            elif a != b:
                for one in {a, b} - {-1}:
                    want[0, one, cell] += 1
                if -1 not in (a, b):
                    trials.append((score, False, a, b))
    assert impostor.tolist() == want[0].tolist()
    assert genuine.tolist() == want[1].tolist()
    score, same, *who = zip(*trials)
    given = PairsGiven(torch.tensor(score).double(), torch.tensor(same), torch.tensor(who).T.contiguous())
    assert given.histograms(borders)[1].equal(genuine)


def test_intervals_hold_the_values_and_shrink_with_the_identities():
    few, many = (evaluate_verification(*people(n, noise=1.2), fars=(0.05,)) for n in (12, 80))
    width = {}
    for report in (few, many):
        found = report.intervals(resamples=300)
        values = {"auc": report.auc, "eer": report.eer, "tar_at_far_0.05": report.tar_at_far[0.05]}
        assert set(found) == set(values)
        assert all(low <= values[name] <= high for name, (low, high) in found.items())
        assert found == report.intervals(resamples=300)
        width[len(found), report.genuine] = found["eer"][1] - found["eer"][0]
    small, large = width.values()
    assert large < 0.8 * small
    x, y = people(4)
    with pytest.warns(UserWarning, match="an interval over 4 identities says little"):
        evaluate_verification(x, y).intervals(resamples=20)


def test_a_rule_from_some_people_is_judged_on_others():
    x, y = people(60)
    here, there = y < 30, y >= 30
    report = evaluate_verification(x[here], y[here], fars=(0.02,))
    rule = DecisionRule.fit(report, far=0.02)
    assert rule.threshold == report.threshold_at_far[0.02]
    assert rule.fitted.far <= 0.02
    found = rule.apply(x[there], y[there], resamples=200)
    other = evaluate_verification(x[there], y[there])
    want = other.rates_at(rule.threshold)
    assert (found.far, found.frr) == pytest.approx((want.far, want.frr))
    assert (found.genuine, found.impostor) == (other.genuine, other.impostor)
    assert found.far_interval[0] <= found.far <= found.far_interval[1]
    assert found.frr_interval[0] <= found.frr <= found.frr_interval[1]
    assert found.far_moved == found.far - rule.fitted.far
    with pytest.warns(UserWarning, match=r"30 \(0, 1, 2, 3, 4, ...\) identities are in both sets"):
        again = rule.apply(x[here], y[here], resamples=20)
    assert (again.far_moved, again.frr_moved) == pytest.approx((0, 0))
    assert (again.far, again.frr) == pytest.approx((rule.fitted.far, rule.fitted.frr))


def test_thresholds_of_a_cost():
    x, y = people(20)
    report = evaluate_verification(x, y)
    levels = report.operating.levels.tolist()
    for cost in (Cost(), Cost(false_accept=10), Cost(prior=0.01, miss=1, false_accept=1)):
        rule = DecisionRule.fit(report, cost=cost)
        rates = [report.rates_at(level) for level in [*levels, math.inf]]
        price = [cost.prior * cost.miss * r.frr + (1 - cost.prior) * cost.false_accept * r.far for r in rates]
        own = rule.fitted
        assert cost.prior * cost.miss * own.frr + (1 - cost.prior) * cost.false_accept * own.far == min(price)
    assert DecisionRule.fit(report, at="eer").threshold == report.eer_threshold
    for bad in ({}, {"far": 0.1, "at": "eer"}):
        with pytest.raises(ValueError, match=r"choose the threshold by one of far=0.01"):
            DecisionRule.fit(report, **bad)
    with pytest.raises(ValueError, match=r"far must be a finite number, above 0 and at most 1, got 2.0"):
        DecisionRule.fit(report, far=2.0)
    with pytest.raises(ValueError, match="at must be one of 'eer', got 'far'"):
        DecisionRule.fit(report, at="far")
    with pytest.raises(ValueError, match="prior must be a finite number"):
        Cost(prior=1.5)


def within(x, y, fold):
    return pair_scores(as_rows(x[fold].numpy(), y[fold], y[fold], y[fold]), "cosine")


def test_a_cross_fitted_rule_is_judged_on_people_whom_it_was_not_chosen_on():
    x, y = people(24, noise=0.9, seed=3)
    fold = torch.arange(24).remainder(3)[y]
    found = DecisionRule.cross_fit(x, y, folds=fold, far=0.05, resamples=100)
    falls = []
    for k in range(3):
        scores, same = [], []
        for other in {0, 1, 2} - {k}:
            genuine, impostor = within(x, y, fold == other)
            scores += [*genuine, *impostor]
            same += [True] * len(genuine) + [False] * len(impostor)
        rule = DecisionRule.fit(verification_from_scores(scores, same), far=0.05)
        assert found.thresholds[k] == pytest.approx(rule.threshold, abs=1e-12)
        genuine, impostor = within(x, y, fold == k)
        falls.append(((impostor >= found.thresholds[k] - 1e-12).sum(), (genuine < found.thresholds[k] - 1e-12).sum()))
    accepted, rejected = np.array(falls).sum(0)
    assert (found.far, found.frr) == pytest.approx((accepted / found.impostor, rejected / found.genuine))
    assert found.far_interval[0] <= found.far <= found.far_interval[1]
    assert found.frr_interval[0] <= found.frr <= found.frr_interval[1]
    assert found.rule.identities == frozenset(range(24))
    # One encoder: all pairs of the other folds, whoever's they are.
    dealt = DecisionRule.cross_fit(x, y, folds=4, far=0.05, resamples=10)
    assert dealt.genuine == 24 * 6
    assert dealt.rule.threshold == DecisionRule.fit(evaluate_verification(x, y), far=0.05).threshold
    with pytest.raises(ValueError, match=r"24 identities have rows in several folds \(first: 0, 1"):
        DecisionRule.cross_fit(x, y, folds=torch.arange(len(y)).remainder(2), far=0.05)
    with pytest.raises(ValueError, match="folds names 1 fold"):
        DecisionRule.cross_fit(x, y, folds=[0] * len(y), far=0.05)


def test_a_threshold_of_too_few_pairs_is_flagged_and_trained_identities_are_named():
    x, y = people(12)
    names = np.array([f"p{one:02}" for one in y.tolist()])
    report = evaluate_verification(x, names)
    assert DecisionRule.fit(report, far=0.01).flagged
    assert not DecisionRule.fit(report, far=0.2).flagged
    with pytest.warns(UserWarning, match=r"2 \(p03, p11\) identities are in both sets: a threshold chosen on those"):
        DecisionRule.fit(report, far=0.2, trained_on=["p03", "p11", "zoe"])
    DecisionRule.fit(report, far=0.2, trained_on=["zoe"])


def test_detection_costs_worked_by_hand():
    # Genuine 3, 1, -1; impostors 2, 0, -2, -4. Cost: prior 0.1, miss 10, false accept 1; blind: min(1, 0.9) = 0.9.
    report = verification_from_scores([3, 1, -1, 2, 0, -2, -4], [1, 1, 1, 0, 0, 0, 0])
    cost = Cost(miss=10, false_accept=1, prior=0.1)
    # At 1: misses 1 of 3, accepts 1 of 4: 1/3 + 0.9/4 = 0.55833; at -1: 0 + 0.9/2 = 0.45, the least.
    assert report.min_dcf(cost) == pytest.approx(0.45 / 0.9)
    # Bayes' threshold ln(0.9 * 1 / (0.1 * 10)) = -0.105: misses 1 of 3, accepts 2 of 4.
    assert report.act_dcf(cost) == pytest.approx((1 / 3 + 0.45) / 0.9)
    far, frr = report.det()
    assert torch.special.ndtr(far).tolist() == pytest.approx(report.far.tolist())
    assert torch.special.ndtr(frr).tolist() == pytest.approx((1 - report.tar).tolist())
