"""Measures of a ranking against trec_eval, torchmetrics and pytorch-metric-learning, where definitions agree."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torchmetrics.functional import retrieval

from legolas_metric import evaluate_ranking

KS = (1, 3, 5, 10)
Y = torch.tensor([*torch.arange(60) // 4, *[15] * 7, *[16] * 2])
X = torch.randn(17, 5, generator=torch.Generator().manual_seed(0))[Y] + 0.9 * torch.randn(
    len(Y), 5, generator=torch.Generator().manual_seed(1)
)


@pytest.fixture(scope="module")
def report():
    return evaluate_ranking(X, Y, ks=KS, full=True)


@pytest.fixture(scope="module")
def runs():
    """Of each query the other rows' scores, and which are relevant."""
    u = torch.nn.functional.normalize(X.double())
    scores, same = u @ u.T, Y[:, None] == Y[None]
    others = ~torch.eye(len(Y), dtype=torch.bool)
    return [(scores[i][others[i]] + 2, same[i][others[i]]) for i in range(len(Y))]  # + 2: none is 0 or less


def test_trec_eval(report, runs):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    kept = {f"q{i}": {f"d{j}": value for j, value in enumerate(scores.tolist())} for i, (scores, _) in enumerate(runs)}
    truth = {
        f"q{i}": {f"d{j}": int(value) for j, value in enumerate(same.tolist())} for i, (_, same) in enumerate(runs)
    }
    depths = ",".join(map(str, KS))
    names = [f"{name}.{depths}" for name in ("recall", "P", "map_cut", "ndcg_cut", "success")]
    asked = {*names, "map", "recip_rank", "Rprec", "ndcg"}
    each = pytrec_eval.RelevanceEvaluator(truth, asked).evaluate(kept).values()

    def mean(name):
        return np.mean([one[name] for one in each])

    columns = {"recall": "recall_at_k", "P": "precision_at_k", "map_cut": "map_at_k", "ndcg_cut": "ndcg_at_k"}
    for theirs, ours in {**columns, "success": "rank"}.items():
        for k in KS:
            assert getattr(report, ours)[k] == pytest.approx(mean(f"{theirs}_{k}"), abs=1e-6), (theirs, k)
    figures = {"map": "mean_average_precision", "recip_rank": "mrr", "Rprec": "r_precision", "ndcg": "ndcg"}
    for theirs, ours in figures.items():
        assert getattr(report, ours) == pytest.approx(mean(theirs), abs=1e-6), theirs


def test_torchmetrics(report, runs):
    def mean(function, **options):
        return float(torch.stack([function(scores, same, **options) for scores, same in runs]).mean())

    for k in KS:
        assert report.recall_at_k[k] == pytest.approx(mean(retrieval.retrieval_recall, top_k=k), abs=1e-6)
        assert report.precision_at_k[k] == pytest.approx(mean(retrieval.retrieval_precision, top_k=k), abs=1e-6)
        assert report.ndcg_at_k[k] == pytest.approx(mean(retrieval.retrieval_normalized_dcg, top_k=k), abs=1e-6)
        assert report.rank[k] == pytest.approx(mean(retrieval.retrieval_hit_rate, top_k=k), abs=1e-6)
    assert report.mean_average_precision == pytest.approx(mean(retrieval.retrieval_average_precision), abs=1e-6)
    assert report.mrr == pytest.approx(mean(retrieval.retrieval_reciprocal_rank), abs=1e-6)
    assert report.r_precision == pytest.approx(mean(retrieval.retrieval_r_precision), abs=1e-6)
    # Where docs/evaluation.md says that they differ: MAP with top_k is divided by the hits found.
    assert mean(retrieval.retrieval_average_precision, top_k=3) > report.map_at_k[3] + 0.05


def test_pytorch_metric_learning(report):
    found = AccuracyCalculator(k=None, device=torch.device("cpu")).get_accuracy(
        torch.nn.functional.normalize(X), Y, include=()
    )
    assert report.rank[1] == pytest.approx(found["precision_at_1"])
    assert report.r_precision == pytest.approx(found["r_precision"])
    assert report.map_at_r == pytest.approx(found["mean_average_precision_at_r"])
    assert report.mean_average_precision == pytest.approx(found["mean_average_precision"])
    assert report.mrr == pytest.approx(found["mean_reciprocal_rank"])
