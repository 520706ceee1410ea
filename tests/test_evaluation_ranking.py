import numpy as np
import pytest
import torch
from evaluation_oracle import evaluate, leave_one_out, mean_squared, other_group
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from legolas_metric import RetrievalProtocol, evaluate_ranking


def table(seed, n=9, d=2, classes=3, *, ties=False, distractors=True, groups=2):
    """Asymmetric rows; with `ties`, coordinates of -1, 0 and 1 only, so that many similarities are equal."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, (n, d)).astype(np.float32) if ties else rng.normal(size=(n, d)).astype(np.float32) ** 3
    x[(x == 0).all(1)] = 1
    y = rng.integers(-1 if distractors else 0, classes, n)
    y[:4] = 0, 0, 1, 1
    return x, y, rng.permutation(100)[:n], rng.integers(0, groups, n)


def as_rows(x, y, ids, groups):
    return list(zip(x, y.tolist(), ids.tolist(), groups.tolist()))


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("exclude", ["self", "same_group"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("compiled", [True, False])
def test_equals_the_oracle(metric, exclude, ties, compiled, monkeypatch):
    if compiled:
        monkeypatch.setattr("legolas_metric.evaluation.scores._WORTH_COMPILING", 0)
    for seed in range(6):
        x, y, ids, groups = table(seed, ties=ties)
        groups[:4] = 0, 1, 0, 1
        report = evaluate_ranking(
            x,
            y,
            ids=ids,
            groups=groups,
            metric=metric,
            full=True,
            ks=(1, 2, 4),
            protocol=RetrievalProtocol(exclude=exclude),
        )
        allowed = leave_one_out if exclude == "self" else other_group
        want, queries, unanswerable = evaluate(as_rows(x, y, ids, groups), metric, allowed=allowed)
        assert (report.queries, report.unanswerable) == (queries, unanswerable)
        got = {
            **{f"rank{k}": value for k, value in report.rank.items()},
            "r_precision": report.r_precision,
            "map_at_r": report.map_at_r,
            "map": report.mean_average_precision,
        }
        assert got == pytest.approx({name: want[name] for name in got}, abs=1e-12)
        assert report.nn_accuracy == pytest.approx(want["rank1"] * queries / (queries + unanswerable), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(5, 10), classes=st.integers(2, 5))
def test_ties_are_expected_values(seed, n, classes):
    x, y, ids, groups = table(seed, n=n, d=1, classes=classes, ties=True)
    report = evaluate_ranking(x, y, ids=ids, full=True, ks=(1, 3), metric="euclidean")
    want, *_ = evaluate(as_rows(x, y, ids, groups), "euclidean")
    got = [report.rank[1], report.rank[3], report.r_precision, report.map_at_r, report.mean_average_precision]
    assert got == pytest.approx([want[k] for k in ("rank1", "rank3", "r_precision", "map_at_r", "map")], abs=1e-12)


def test_a_collapsed_encoder_scores_chance():
    y = torch.arange(60) // 5
    report = evaluate_ranking(torch.ones(60, 3), y, full=True)
    assert report.rank[1] == pytest.approx(4 / 59)
    assert report.r_precision == pytest.approx(4 / 59)
    assert report.rank[5] == pytest.approx(1 - np.prod([(55 - i) / (59 - i) for i in range(5)]))
    # E[sum over places i of P(i) rel(i)] / R, with E[rel_i rel_j] = R (R-1) / (59 * 58)
    chance = sum(4 / 59 * (1 + (i - 1) * 3 / 58) / i for i in range(1, 60)) / 4
    assert report.mean_average_precision == pytest.approx(chance)
    assert report.intra == report.inter == 0


def test_a_case_worked_by_hand():
    # On a line: query 0 (class 0) sees 1 (class 1), 2 (class 0), 3 (class 1); and so on.
    x = torch.tensor([[0.0], [1.0], [2.5], [4.5]])
    report = evaluate_ranking(x, [0, 1, 0, 1], metric="euclidean", ks=(1, 2, 3), full=True)
    # positives stand at place 2 (row 0), 3 (row 1), 3 (row 2), 2 (row 3)
    assert report.rank == {1: 0.0, 2: 0.5, 3: 1.0}
    assert report.r_precision == report.map_at_r == 0.0
    assert report.mean_average_precision == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 2) / 4)
    assert report.intra == pytest.approx((2.5**2 + 3.5**2) / 2)
    assert report.inter == pytest.approx((1 + 4.5**2 + 1.5**2 + 2**2) / 4)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_intra_and_inter_are_means_over_all_pairs(metric):
    for seed in range(4):
        x, y, ids, groups = table(seed, n=12)
        x += 1000 if metric == "euclidean" else 0  # an offset must not cost digits
        report = evaluate_ranking(x, y, metric=metric)
        intra, inter = mean_squared(as_rows(x, y, ids, groups), metric)
        assert (report.intra, report.inter) == pytest.approx((intra, inter), rel=1e-9)


def test_equals_the_accuracy_calculator_where_definitions_agree():
    """Without ties and distractors. PML leaves lone queries out too; its precision_at_1 is Rank@1.

    Where they differ: PML orders ties by row; it casts labels to float32; its mean_average_precision with k < n divides
    by R all the same; it knows neither groups nor distractors.
    """
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 40, (300,), generator=generator)
    x = torch.nn.functional.one_hot(y, 40) + 0.6 * torch.randn(300, 40, generator=generator)
    calculator = AccuracyCalculator(exclude=("NMI", "AMI"), device=torch.device("cpu"))
    theirs = calculator.get_accuracy(torch.nn.functional.normalize(x), y)
    report = evaluate_ranking(x, y, full=True)
    assert report.rank[1] == pytest.approx(theirs["precision_at_1"], abs=1e-9)
    assert report.r_precision == pytest.approx(theirs["r_precision"], abs=1e-6)
    assert report.map_at_r == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-6)
    assert report.mean_average_precision == pytest.approx(theirs["mean_average_precision"], abs=1e-6)


def test_mean_average_precision_equals_scikit_learn():
    from sklearn.metrics import average_precision_score

    x, y, *_ = table(5, n=40, d=6, classes=5, distractors=False)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    s = x.astype(np.float64) @ x.T.astype(np.float64)
    others = ~np.eye(40, dtype=bool)
    scores = [
        average_precision_score(y[others[i]] == y[i], s[i][others[i]])
        for i in range(40)
        if (y[others[i]] == y[i]).any()
    ]
    assert evaluate_ranking(x, y, full=True).mean_average_precision == pytest.approx(np.mean(scores))


def test_labels_beyond_float32_do_not_collide():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    y = torch.tensor([2**24, 2**24, 2**24 + 1, 2**24 + 1])
    assert evaluate_ranking(x, y).rank[1] == 1.0
    assert evaluate_ranking(x, [2**24, 2**24 + 1, 2**24 + 2, 2**24 + 1]).unanswerable == 2


def test_duplicates_of_other_classes_do_not_stand_in_for_self():
    # Row 2 equals row 0: dropping "the first column" would drop either of them.
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    report = evaluate_ranking(x, [0, 0, 1, 1], ks=(1,))
    assert report.rank[1] == pytest.approx((0 + 0 + 0 + 1 * 0) / 4)


def test_blocks_leave_no_trace(monkeypatch):
    x, y, *_ = table(1, n=50, ties=True)
    whole = evaluate_ranking(x, y, full=True)
    monkeypatch.setattr("legolas_metric.evaluation.scores.BLOCK", 16 * 50 * 3)
    assert evaluate_ranking(x, y, full=True) == whole


def test_the_baseline_travels_along():
    x, y, *_ = table(0)
    untrained = np.random.default_rng(1).normal(size=x.shape)
    report = evaluate_ranking(x, y, baseline=untrained)
    assert report.baseline == evaluate_ranking(untrained, y)
    assert evaluate_ranking(x, y, baseline=report.baseline).baseline == report.baseline


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_any_width_and_layout(dtype):
    x = torch.randn(2, 12).to(dtype).T
    y = np.arange(12)[::-1] // 3
    assert evaluate_ranking(x, y.copy()) == evaluate_ranking(x.float().numpy(), y)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"labels": [0, 0, 0, 0]}, ValueError, "all 4 rows have label 0: a ranking needs rows of another class"),
        ({"labels": [-1, -1, -1, -1]}, ValueError, "all rows are unlabelled"),
        ({"labels": [0, 1, 2, 3]}, ValueError, "none of 4 queries has a positive .* give each class at least two rows"),
        ({"labels": [0, 1]}, ValueError, "labels has 2 entries for 4 rows"),
        ({"labels": [0.0, 0.0, 1.0, 1.0]}, TypeError, "labels must be integers"),
        ({"ids": [1, 1, 2, 3]}, ValueError, "ids must be unique"),
        ({"ks": (0,)}, ValueError, "ks must be at least 1"),
        ({"protocol": RetrievalProtocol(exclude="same_group")}, ValueError, "compares groups .* pass groups"),
        ({"embeddings": torch.full((4, 2), torch.nan)}, ValueError, "NaN or inf"),
        ({"embeddings": torch.zeros(4, 2)}, ValueError, "all zero"),
        ({"embeddings": torch.zeros(0, 2), "labels": []}, ValueError, "n >= 1"),
    ],
)
def test_says_what_is_wrong(change, error, text):
    given = {"embeddings": torch.eye(4), "labels": [0, 0, 1, 1], **change}
    with pytest.raises(error, match=text):
        evaluate_ranking(given.pop("embeddings"), given.pop("labels"), **given)


def oml_metrics(x, y, k):
    """Open Metric Learning's formulas (oml/functional/metrics.py), written out: CMC@k, precision@k, MAP@k."""
    distance = torch.cdist(x.double(), x.double())
    distance.fill_diagonal_(torch.inf)
    ranked = y[distance.argsort(1)[:, :-1]] == y[:, None]
    hits = ranked[:, :k].double()
    positives = ranked.sum(1)
    place = torch.arange(1, hits.shape[1] + 1)
    precisions = hits.cumsum(1) / place
    found = hits.sum(1)
    average = torch.where(found > 0, (precisions * hits).sum(1) / found.clamp_min(1), 0.0)
    return (
        float(hits.any(1).double().mean()),
        float((found / positives.clamp_max(k)).mean()),
        float(average.mean()),
    )


def test_equals_open_metric_learning_where_definitions_agree():
    """CMC@k; precision@R for classes of one size; MAP@n, as all hits are found by then.

    Where they differ: its MAP@k divides by the hits found among the first k, which rewards finding few; ours by R.
    Held against its own code (4.0.0) by hand, 2026-11-25: equal to 1e-7 on five seeds.
    """
    y = torch.arange(60) // 6
    x = torch.nn.functional.normalize(torch.randn(10, 8)[y] + 0.7 * torch.randn(60, 8))
    report = evaluate_ranking(x, y, full=True, ks=(1, 3, 10))
    for k in (1, 3, 10):
        assert report.rank[k] == pytest.approx(oml_metrics(x, y, k)[0])
    assert report.r_precision == pytest.approx(oml_metrics(x, y, 5)[1])
    assert report.mean_average_precision == pytest.approx(oml_metrics(x, y, 59)[2])
    assert report.map_at_r < oml_metrics(x, y, 5)[2]
