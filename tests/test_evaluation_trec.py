"""Measures of search under the names of trec_eval: the same values, where its definitions are ours."""

import pytest
import torch

from legolas_metric import evaluate_ranking

trec = pytest.importorskip("pytrec_eval")

NAMES = {
    "recall_{k}": lambda report, k: report.recall_at_k[k],
    "P_{k}": lambda report, k: report.precision_at_k[k],
    "map_cut_{k}": lambda report, k: report.map_at_k[k],
    "ndcg_cut_{k}": lambda report, k: report.ndcg_at_k[k],
    "success_{k}": lambda report, k: report.rank[k],
    "recip_rank": lambda report, k: report.mrr,
    "map": lambda report, k: report.mean_average_precision,
    "ndcg": lambda report, k: report.ndcg,
    "Rprec": lambda report, k: report.r_precision,
}


@pytest.mark.parametrize("seed", range(3))
def test_equals_trec_eval_on_scores_without_ties(seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 7, (45,), generator=generator)
    x = torch.randn(7, 5, generator=generator)[y] + torch.randn(45, 5, generator=generator)
    score = torch.nn.functional.normalize(x.double()) @ torch.nn.functional.normalize(x.double()).T
    others = {i: [j for j in range(45) if j != i] for i in range(45) if int((y == y[i]).sum()) > 1}
    qrel = {f"q{i}": {f"d{j}": int(y[j] == y[i]) for j in others[i]} for i in others}
    run = {f"q{i}": {f"d{j}": float(score[i, j]) for j in others[i]} for i in others}
    asked = {
        "recall.5,10",
        "P.5,10",
        "map_cut.5,10",
        "ndcg_cut.5,10",
        "success.5,10",
        "recip_rank",
        "map",
        "ndcg",
        "Rprec",
    }
    each = trec.RelevanceEvaluator(qrel, asked).evaluate(run).values()
    report = evaluate_ranking(x, y, full=True, ks=(5, 10))
    for name, ours in NAMES.items():
        for k in (5, 10):
            theirs = [values[name.format(k=k)] for values in each]
            assert ours(report, k) == pytest.approx(sum(theirs) / len(theirs), abs=1e-6), name
