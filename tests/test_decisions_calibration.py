"""Calibration, Cllr, lists of trials and ten folds, against formulas worked by hand and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from legolas_metric import (
    Calibration,
    Cost,
    accuracy_over_folds,
    cllr,
    evaluate_verification,
    min_cllr,
    read_trials,
    verification_from_scores,
)
from legolas_metric.evaluation import verification


def trials(seed, genuine=60, impostor=200, gap=1.5):
    generator = np.random.default_rng(seed)
    scores = np.concatenate([generator.normal(gap, 1.0, genuine), generator.normal(0, 1.3, impostor)]).round(1)
    return scores, np.repeat([True, False], [genuine, impostor])


def test_cllr_worked_by_hand():
    # Genuine ln 3 and -ln 7; impostors ln 15 and 0: costs log2(4/3), log2 8, log2 16, log2 2.
    llr = [math.log(3), -math.log(7), math.log(15), 0]
    assert cllr(llr, [1, 1, 0, 0]) == pytest.approx(((math.log2(4 / 3) + 3) / 2 + (4 + 1) / 2) / 2)
    assert cllr([0, 0, 0], [1, 0, 0]) == 1
    assert cllr([math.inf, -math.inf], [1, 0]) == 0
    assert cllr([-math.inf, -math.inf], [1, 0]) == math.inf


def test_min_cllr_worked_by_hand():
    # Scores 4 genuine, 3 impostor, 2 genuine, 1 impostor: 3 and 2 are pooled at llr 0; the ends are sure.
    assert min_cllr([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx((1 / 2 + 1 / 2) / 2)
    # All scores alike tell nothing, whatever the shares of the kinds are.
    assert min_cllr([1, 1, 1, 1, 1], [1, 0, 0, 0, 0]) == pytest.approx(1)


def test_no_monotonic_calibration_costs_less_than_min_cllr():
    for seed in range(3):
        scores, same = trials(seed)
        least = min_cllr(scores, same)
        report = verification_from_scores(scores, same)
        isotonic, logistic = (Calibration.fit(report, how=how) for how in ("isotonic", "logistic"))
        assert isotonic.cllr == pytest.approx(least, abs=1e-12)
        assert cllr(isotonic.llr(scores), same) == pytest.approx(least, abs=1e-12)
        assert least < logistic.cllr < cllr(scores, same)
        assert cllr(logistic.llr(scores), same) == pytest.approx(logistic.cllr, abs=1e-12)
        assert min_cllr(np.exp(scores / 3), same) == pytest.approx(least)


def test_logistic_calibration_is_scikit_learns():
    for seed, prior in ((0, 0.5), (1, 0.1)):
        scores, same = trials(seed)
        fitted = Calibration.fit(verification_from_scores(scores, same), prior=prior)
        weight = np.where(same, prior / same.sum(), (1 - prior) / (~same).sum()) * 1e6
        model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(scores[:, None], same, sample_weight=weight)
        assert fitted.scale == pytest.approx(model.coef_[0, 0], rel=1e-3)
        assert fitted.offset == pytest.approx(model.intercept_[0] - math.log(prior / (1 - prior)), rel=1e-3, abs=1e-3)


def test_a_calibrated_score_is_decided_by_bayes_at_nearly_the_least_cost():
    scores, same = trials(4, genuine=400, impostor=2000)
    fitted = Calibration.fit(verification_from_scores(scores, same))
    report = verification_from_scores(fitted.llr(scores), same)
    for cost in (Cost(), Cost(prior=0.1)):
        assert report.min_dcf(cost) <= report.act_dcf(cost) < 1.15 * report.min_dcf(cost)
    assert verification_from_scores(scores + 3, same).act_dcf() > 1.5 * report.min_dcf()


def test_kinds_that_are_apart_and_few_identities():
    apart = Calibration.fit(verification_from_scores([3, 2, 0, -1], [1, 1, 0, 0]))
    assert apart.cllr < 0.01
    assert math.isfinite(apart.scale)
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) // 3
    with pytest.warns(UserWarning, match="a calibration on 4 identities says little"):
        assert Calibration.fit(evaluate_verification(x, y)).identities == frozenset(range(4))
    with pytest.raises(ValueError, match="prior must be below 1"):
        Calibration.fit(verification_from_scores([3, 2], [1, 0]), prior=1)
    with pytest.raises(ValueError, match="NaN in 1 of 2"):
        cllr([math.nan, 0], [1, 0])
    with pytest.raises(ValueError, match="2 genuine pairs of 2"):
        min_cllr([1, 0], [1, 1])


def test_ten_folds_take_the_threshold_of_nine():
    scores, same = trials(5, 100, 100)
    order = np.random.default_rng(0).permutation(200)
    scores, same = scores[order], same[order]
    found = accuracy_over_folds(scores, same)
    fold = np.arange(200) // 20
    grid = np.unique(scores)
    middle = np.concatenate([[grid[0]], (grid[1:] + grid[:-1]) / 2, [grid[-1] + 1]])
    hits = []
    for k in range(10):
        right = [((scores[fold != k] >= t) == same[fold != k]).mean() for t in middle]
        best = middle[np.flatnonzero(np.isclose(right, max(right))).max()]
        assert found.thresholds[k] == pytest.approx(best)
        hits.append(((scores[fold == k] >= best) == same[fold == k]).mean())
    assert found.accuracies == pytest.approx(tuple(hits))
    assert (found.mean, found.standard_error) == pytest.approx((np.mean(hits), np.std(hits, ddof=1) / 10**0.5))
    assert accuracy_over_folds(scores, same, folds=fold) == found
    for bad in ([0] * 200, [0, 1]):
        with pytest.raises(ValueError, match="folds must name two or more, one for each of 200 pairs"):
            accuracy_over_folds(scores, same, folds=bad)


LISTS = {
    "voxceleb": "1 a.wav b.wav\n0 a.wav c.wav\n\n# a remark\n0 b.wav c.wav\n",
    "nist": "a.wav\tb.wav\ttarget\na.wav\tc.wav\tnontarget\nb.wav\tc.wav\tnontarget\n",
    "csv": "a.wav,b.wav,1\na.wav,c.wav,0\nb.wav,c.wav,0\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_pairs_are_read_and_scored(kind, tmp_path):
    (tmp_path / "pairs.txt").write_text(LISTS[kind])
    listed = read_trials(tmp_path / "pairs.txt")
    rows = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.6, 0.8]])
    report = listed.verify(rows, ["c.wav", "a.wav", "b.wav"])
    assert listed.scores(rows, ["c.wav", "a.wav", "b.wav"]).tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert (report.genuine, report.impostor, report.auc) == (1, 2, 0.5)
    with pytest.raises(ValueError, match=r"the list names 1 recordings that have no embedding: b.wav"):
        listed.scores(rows, ["c.wav", "a.wav", "d.wav"])
    with pytest.raises(ValueError, match="names must be unique, got 1 that occur more than once"):
        listed.scores(rows, ["c.wav", "a.wav", "a.wav"])


def test_a_list_of_pairs_is_read_as_a_whole(tmp_path):
    place = tmp_path / "pairs.txt"
    place.write_text("0 7 1\n1 0 0\n12 7 0\n")  # recordings called 0 and 1: the kind is that of all lines
    listed = read_trials(place)
    assert (listed.left, listed.right, listed.same.tolist()) == (
        ("0", "1", "12"),
        ("7", "0", "7"),
        [True, False, False],
    )
    place.write_text("a b.png, c.png, 1\r\nc.png, d e.png, 0\r\n")
    assert read_trials(place).right == ("c.png", "d e.png")
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        read_trials(tmp_path)


def test_lfws_list_brings_its_folds(tmp_path):
    (tmp_path / "pairs.txt").write_text("2\t1\nAnn_B\t1\t4\nAnn_B\t2\tCy\t1\nCy\t1\t12\nCy\t1\tAnn_B\t4\n")
    listed = read_trials(tmp_path / "pairs.txt")
    assert listed.left == ("Ann_B/Ann_B_0001.jpg", "Ann_B/Ann_B_0002.jpg", "Cy/Cy_0001.jpg", "Cy/Cy_0001.jpg")
    assert listed.right[2] == "Cy/Cy_0012.jpg"
    assert (listed.same.tolist(), listed.folds.tolist()) == ([True, False, True, False], [0, 0, 1, 1])
    (tmp_path / "pairs.txt").write_text("2\t3\nAnn_B\t1\t4\nAnn_B\t2\tCy\t1\n")
    with pytest.raises(ValueError, match="announces 2 folds of 3 pairs of each kind, and holds 2 pairs"):
        read_trials(tmp_path / "pairs.txt")
    for text, match in (("1 a b\n1 a\n", "line 2: expected '1 left right'"), ("1 a b\n", "1 genuine pairs of 1")):
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(ValueError, match=match):
            read_trials(tmp_path / "pairs.txt")


def test_impostors_that_are_counted_below_their_score_are_told(monkeypatch):
    y = torch.arange(60) // 3
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))[y] + 0.7 * torch.randn(60, 5)
    exact = Calibration.fit(evaluate_verification(x, y))
    assert exact.rounded == 0
    monkeypatch.setattr(verification, "_ALL_KEPT", 0)
    report = evaluate_verification(x, y)
    binned = Calibration.fit(report)
    u = torch.nn.functional.normalize(x.double())
    scores, levels = u @ u.T, report.operating.levels
    between = [float((levels - scores[i, j]).abs().min()) > 1e-12 for i in range(60) for j in range(i) if y[i] != y[j]]
    assert binned.rounded == sum(between) > 1000
    assert binned.cllr == pytest.approx(exact.cllr, abs=0.01)
