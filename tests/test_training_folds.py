"""Folds in turn: each done once, whatever interrupts, and pooled as all their queries together."""

import statistics

import pytest
import torch

from legolas_metric import evaluate_ranking
from legolas_metric.datasets.folds import KFold
from legolas_metric.training.fold_runs import run_folds

D = 6


@pytest.fixture
def people():
    labels = torch.arange(24).repeat_interleave(4)
    return torch.randn(24, D)[labels] + torch.randn(len(labels), D), labels


def test_a_run_that_is_killed_in_any_fold_goes_on_there(people, tmp_path):
    x, labels = people
    folds = KFold(labels, 4)
    seen = []

    def train(task, killed_in=None):
        seen.append(task.number)
        half = task.folder / "half"
        if task.number == killed_in:
            half.write_text("done so far")
            raise KeyboardInterrupt
        if task.number in (1, 3):
            assert half.exists()
        return evaluate_ranking(x[task.validation], labels[task.validation])

    for killed_in in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run_folds(folds, lambda task, k=killed_in: train(task, k), folder=tmp_path)
    result = run_folds(folds, train, folder=tmp_path)
    assert seen == [0, 1, 1, 2, 3, 3]
    again = run_folds(folds, lambda task: pytest.fail("a fold is done twice"), folder=tmp_path)
    assert again.table() == result.table()


def test_figures_are_those_of_all_queries(people, tmp_path):
    x, labels = people
    folds = KFold(labels, 5, test_share=0)
    reports = [evaluate_ranking(x[v], labels[v]) for _, v in folds]
    result = run_folds(folds, lambda task: reports[task.number], folder=tmp_path)
    alone = [report.map_at_r for report in reports]
    assert result.mean("map_at_r") == pytest.approx(statistics.mean(alone))
    assert result.spread("map_at_r") == pytest.approx(statistics.stdev(alone))
    queries = [report.queries for report in reports]
    pooled = sum(r.rank[1] * q for r, q in zip(reports, queries, strict=True)) / sum(queries)
    assert result.pooled() == pytest.approx(pooled)
    low, high = result.interval()
    assert low < result.pooled() < high
    assert len(result.folds[0].identities.unique()) in (4, 5)
    lines = result.table().splitlines()
    assert len(lines) == 1 + 5 + 3
    assert f"{result.pooled():.4f} [{low:.4f}, {high:.4f}]" in lines[-1]


def test_the_interval_counts_persons_and_not_queries(tmp_path):
    """Four persons, all of whose many queries agree: the interval is that of four observations."""
    labels = torch.arange(8).repeat_interleave(50)
    x = torch.zeros(400, 8)
    x[torch.arange(400), labels] = 1.0
    x[labels % 2 == 1] = torch.randn(200, 8)
    folds = KFold(labels, 2, test_share=0)
    result = run_folds(folds, lambda t: evaluate_ranking(x[t.validation], labels[t.validation]), folder=tmp_path)
    with pytest.warns(UserWarning, match="an interval over 8 identities says little"):
        low, high = result.interval()
    of_queries = 2 * 1.96 * (result.pooled() * (1 - result.pooled()) / 400) ** 0.5
    assert high - low > 3 * of_queries


def test_mappings_have_no_pool(people, tmp_path):
    folds = KFold(people[1], 2)
    result = run_folds(folds, lambda task: {"auc": 0.5 + task.number}, folder=tmp_path)
    assert result.mean("auc") == 1.0
    assert result.table().splitlines()[-1].split() == ["pooled", "-"]
    with pytest.raises(ValueError, match="fold 0 does not tell the queries behind 'auc'"):
        result.interval("auc")
    with pytest.raises(ValueError, match="no figure 'eer' in every fold; there are auc"):
        result.mean("eer")


def test_results_of_other_folds_or_settings_are_not_mixed(people, tmp_path):
    labels = people[1]
    run_folds(KFold(labels, 2), lambda task: {"auc": 1.0}, folder=tmp_path, settings={"lr": 0.1})
    for folds, settings in ((KFold(labels, 2, seed=1), {"lr": 0.1}), (KFold(labels, 2), {"lr": 0.2})):
        with pytest.raises(ValueError, match="of other folds or settings"):
            run_folds(folds, lambda task: {"auc": 1.0}, folder=tmp_path, settings=settings)
