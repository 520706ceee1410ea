from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_oracle import pair_scores
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve
from test_evaluation_ranking import as_rows, table

from legolas_metric import evaluate_verification
from legolas_metric.evaluation import roc


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_scikit_learn_on_all_pairs(metric, grouped, ties):
    for seed in range(4):
        x, y, ids, groups = table(seed, n=24, classes=5, ties=ties)
        fars = (0.02, 0.1, 0.5)
        report = evaluate_verification(x, y, metric=metric, groups=groups if grouped else None, fars=fars)
        genuine, impostor = pair_scores(as_rows(x, y, ids, groups), metric, groups=grouped)
        assert (report.genuine, report.impostor) == (len(genuine), len(impostor))
        truth = np.repeat([1, 0], [len(genuine), len(impostor)])
        scores = np.concatenate([genuine, impostor])
        assert report.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        far, tar, _ = roc_curve(truth, scores, drop_intermediate=False)
        assert report.tar_at_far == pytest.approx({f: tar[far <= f].max() for f in fars})
        eer = brentq(lambda v, far=far, tar=tar: 1 - v - np.interp(v, far, tar), 0, 1)
        assert report.eer == pytest.approx(eer, abs=1e-9)
        inner = report.edges.numpy() - 1e-13  # the oracle's rounding must not put a score beyond its own border
        inner[0], inner[-1] = -np.inf, np.inf
        assert report.genuine_histogram.tolist() == np.histogram(genuine, inner)[0].tolist()
        assert report.impostor_histogram.tolist() == np.histogram(impostor, inner)[0].tolist()


def test_equals_open_metric_learning_where_definitions_agree():
    """Its FNMR@FMR (oml/functional/metrics.py, 4.0.0, written out) is 1 - TAR@FAR.

    Where they differ: its threshold is a quantile, interpolated between two impostor distances, and a genuine distance
    between that and the farther impostor counts as missed; ours accepts all that the rate allows, and is no smaller.
    """
    y = torch.arange(60) // 6
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(10, 8, generator=generator)[y] + 0.7 * torch.randn(60, 8, generator=generator)
        x = torch.nn.functional.normalize(x)
        row, other = torch.triu_indices(60, 60, 1)
        distance, same = (x[row].double() - x[other]).norm(dim=1), y[row] == y[other]
        fars = (0.01, 0.05, 0.1)
        accepted = evaluate_verification(x, y, fars=fars).tar_at_far
        for far in fars:
            accepts = float((distance[same] < np.quantile(distance[~same], far)).double().mean())
            assert -1e-9 <= accepted[far] - accepts <= 1 / 150 + 1e-9  # by one genuine pair at most


def test_a_collapsed_encoder_scores_chance():
    report = evaluate_verification(torch.ones(30, 3), torch.arange(30) // 3)
    assert report.auc == report.eer == 0.5
    assert set(report.tar_at_far.values()) == {0.0}


def test_a_case_worked_by_hand():
    # genuine: 0-1 at -1, 2-3 at -3; impostors: 0-2 at -4, 0-3 at -7, 1-2 at -3, 1-3 at -6
    report = evaluate_verification(
        torch.tensor([[0.0], [1.0], [4.0], [7.0]]), [0, 0, 1, 1], metric="euclidean", fars=(0.2, 0.25)
    )
    assert report.auc == (4 + 3 + 0.5) / 8
    assert report.tar_at_far == {0.2: 0.5, 0.25: 1.0}
    # from (FAR 0, TAR 1/2) to (1/4, 1): FAR = 1 - TAR where FAR = 1/2 - 2 FAR
    assert report.eer == pytest.approx(1 / 6)
    assert report.flagged == (0.2, 0.25)


def test_flags_rates_with_fewer_than_thirty_errors():
    y = torch.arange(80) // 2
    report = evaluate_verification(torch.randn(80, 4), y)
    assert report.impostor == 80 * 79 // 2 - 40
    assert report.flagged == (1e-3, 1e-4)  # 31, 3 and 0.3 impostor pairs


def test_thirty_errors_are_enough_though_the_product_falls_short():
    assert 3e-4 * 100_000 < 30
    assert roc.too_few_errors([3e-4, 2.9e-4], 100_000) == (2.9e-4,)


def test_blocks_leave_no_trace(monkeypatch):
    x, y, *_ = table(1, n=50, ties=True)
    whole = evaluate_verification(x, y)
    monkeypatch.setattr("legolas_metric.evaluation.pairs.BLOCK", 16 * 150)
    monkeypatch.setattr("legolas_metric.evaluation.pairs.CACHE", 32 * 4 * 7)
    monkeypatch.setattr("legolas_metric.evaluation.pairs._ROWS", 7)
    parts = evaluate_verification(x, y)
    assert (parts.auc, parts.eer, parts.tar_at_far) == (whole.auc, whole.eer, whole.tar_at_far)
    assert parts.impostor_histogram.equal(whole.impostor_histogram)


def test_many_levels_in_one_cell_are_told_apart(monkeypatch):
    """Two cells, each with dozens of genuine scores: what one comparison does not settle, halving does."""
    x, y, *_ = table(2, n=80, classes=8, ties=True)
    exact = evaluate_verification(x, y)
    loops = SimpleNamespace(worth=lambda device, seconds: True)
    monkeypatch.setattr("legolas_metric.evaluation.tally.COUNTING", loops)
    monkeypatch.setattr("legolas_metric.evaluation.tally._FINEST", 1)
    coarse = evaluate_verification(x, y)
    assert (coarse.auc, coarse.eer, coarse.tar_at_far) == (exact.auc, exact.eer, exact.tar_at_far)
    assert coarse.impostor_histogram.equal(exact.impostor_histogram)


def test_the_baseline_travels_along():
    x, y, *_ = table(0)
    report = evaluate_verification(x, y, baseline=-x[::-1])
    assert report.baseline.auc == evaluate_verification(-x[::-1], y).auc
    assert evaluate_verification(x, y, baseline=report.baseline).baseline is report.baseline
    assert evaluate_verification(x, y, exact=False, baseline=-x[::-1]).baseline.auc_error >= 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": [0, 1, 2, 3]}, "no genuine pair: give each class at least two rows"),
        ({"groups": [0, 0, 1, 1]}, r"no genuine pair: .*\(of different groups\)"),
        ({"labels": [0, 0, 0, 0]}, "no impostor pair"),
        ({"labels": [-1, -1, -1, -1]}, "no genuine pair"),
        ({"fars": (0.0,)}, r"fars must lie in \(0, 1\], got 0.0"),
    ],
)
def test_says_what_is_wrong(change, text):
    given = {"labels": [0, 0, 1, 1], **change}
    with pytest.raises(ValueError, match=text):
        evaluate_verification(torch.eye(4), given.pop("labels"), **given)


@pytest.mark.usefixtures("both_ways")
def test_the_grid_bounds_its_error(monkeypatch):
    x, y, *_ = table(3, n=60, d=3, classes=6)
    exact = evaluate_verification(x, y, fars=(0.05, 0.3))
    assert exact.auc_error == 0
    fine = evaluate_verification(x, y, fars=(0.05, 0.3), exact=False)
    assert (fine.genuine, fine.impostor) == (exact.genuine, exact.impostor)
    monkeypatch.setattr("legolas_metric.evaluation.tally._GRID", 50)
    coarse = evaluate_verification(x, y, fars=(0.05, 0.3), exact=False)
    for report, close in ((fine, 1e-5), (coarse, 0.03)):
        assert abs(report.auc - exact.auc) <= report.auc_error < close
        assert report.tar_at_far == pytest.approx(exact.tar_at_far, abs=close * 10)
        assert report.eer == pytest.approx(exact.eer, abs=close * 10)
    assert fine.genuine_histogram.tolist() == exact.genuine_histogram.tolist()


def test_counts_chunk_by_chunk_and_thread_by_thread(monkeypatch):
    """More scores in a tile than the compiled loop takes at a time; torch keeps its threads."""
    x, y, *_ = table(4, n=150, d=3, classes=30, ties=True)
    threads = torch.get_num_threads()
    plain = evaluate_verification(x, y)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == threads
    loops = SimpleNamespace(worth=lambda device, seconds: True)
    monkeypatch.setattr("legolas_metric.evaluation.tally.COUNTING", loops)
    compiled = evaluate_verification(x, y)
    assert (compiled.auc, compiled.eer, compiled.tar_at_far) == (plain.auc, plain.eer, plain.tar_at_far)
    assert compiled.impostor_histogram.equal(plain.impostor_histogram)


def test_the_grid_knows_groups_and_collapse(monkeypatch):
    monkeypatch.setattr("legolas_metric.evaluation.verification._MOST_GENUINE", 0)
    report = evaluate_verification(torch.ones(30, 3), torch.arange(30) // 3)
    assert report.auc == report.eer == report.auc_error == 0.5
    x, y, _, groups = table(3, n=30, d=3, classes=3)
    report = evaluate_verification(x, y, groups=groups)
    genuine, impostor = pair_scores(as_rows(x, y, y, groups), "cosine", groups=True)
    assert (report.genuine, report.impostor) == (len(genuine), len(impostor))


def test_the_curve_is_a_choice_of_corners():
    x, y, *_ = table(3, n=200, d=2, classes=40)
    report = evaluate_verification(x, y)
    genuine, impostor = pair_scores(as_rows(x, y, y, y), "cosine")
    assert len(report.far) <= 512
    assert (report.far[0], report.tar[0], report.far[-1], report.tar[-1]) == (0, 0, 1, 1)
    assert (report.far.diff() >= 0).all()
    assert (report.tar.diff() >= 0).all()
    truth = np.repeat([1, 0], [len(genuine), len(impostor)])
    far, tar, _ = roc_curve(truth, np.concatenate([genuine, impostor]), drop_intermediate=False)
    corners = {(round(a, 12), round(b, 12)) for a, b in zip(far, tar)}
    kept = {(round(a, 12), round(b, 12)) for a, b in zip(report.far.tolist(), report.tar.tolist())}
    assert len(kept - corners) <= len(kept) // 2  # corners between a genuine score and the next impostor are extra
    area = np.trapezoid(report.tar.numpy(), report.far.numpy())
    assert area == pytest.approx(report.auc, abs=2e-3)


def test_an_auc_means_a_mean_rank():
    """AUC 0.89 in a gallery of 5,000 is a mean rank of 551; and it holds on data with one mate each."""
    from dataclasses import replace

    x, y, *_ = table(1, n=24, classes=5)
    report = evaluate_verification(x, y)
    assert replace(report, auc=0.89).mean_rank(5000) == pytest.approx(550.89)
    assert evaluate_verification(torch.eye(4), [0, 0, 1, 1]).mean_rank(3) == 2.0


def test_warnings_and_scalars():
    x, y, *_ = table(1, n=24, classes=5, distractors=False)
    report = evaluate_verification(x, y, baseline=np.eye(5)[y])
    assert report.warnings()[0] == f"AUC is worse than the baseline's: {report.auc:.3f}, baseline 1.000"
    assert report.warnings()[1].startswith("EER is worse than the baseline's: ")
    assert report.warnings()[2].startswith("FAR 0.01, 0.001, 0.0001: fewer than 30 of")
    assert list(report.scalars()) == [
        "auc", "eer", "tar_at_far_0.01", "tar_at_far_0.001", "tar_at_far_0.0001", "eer_threshold",
        "threshold_at_far_0.01", "threshold_at_far_0.001", "threshold_at_far_0.0001", "genuine", "impostor",
    ]  # fmt: skip
