"""The budgeted index: exact while that fits, else approximate with a recall that is really measured."""

import pytest
import torch

from legolas_metric import AutoIndex, ExactIndex
from legolas_metric.index import auto
from legolas_metric.records import Neighbors, SearchStats


@pytest.fixture
def bank(generator):
    centres = torch.randn(400, 8, generator=generator).repeat_interleave(5, 0)
    return centres + 0.5 * torch.randn(2000, 8, generator=generator), torch.arange(2000) // 5


def test_within_the_budget_it_is_exact(bank):
    found = AutoIndex(budget_s=1000).fit(*bank).self_join(2)
    exact = ExactIndex().fit(*bank).self_join(2)
    assert torch.equal(found.ids, exact.ids)
    assert (found.stats.engine, found.stats.recall) == ("exact", None)


def test_beyond_it_the_recall_is_that_of_the_answers(bank):
    found = AutoIndex(budget_s=0).fit(*bank).self_join(1)
    exact = ExactIndex().fit(*bank).self_join(1)
    true = (found.ids == exact.ids).float().mean().item()
    assert found.stats.engine.startswith("faiss:IVF")
    assert found.stats.recall == pytest.approx(true, abs=0.1)
    assert found.stats.recall is not None
    assert 0 < found.stats.recall < 1


def test_beyond_it_queries_and_windows_are_served(bank):
    rows, labels = bank
    low, high = torch.full((1000,), -0.5), torch.full((1000,), 0.6)
    index = AutoIndex(budget_s=0).fit(rows, labels)
    found = index.search(rows[:1000], 1, labels=labels[:1000], want="negative", window=(low, high))
    kept = found.ids[:, 0] >= 0
    assert kept.float().mean() > 0.9
    assert bool(((found.similarities[kept] > -0.5) & (found.similarities[kept] < 0.6)).all())
    assert found.stats.recall is not None


def test_what_faiss_cannot_do_stays_exact(bank):
    rows, labels = bank
    found = AutoIndex(budget_s=0, metric="euclidean").fit(rows, labels).self_join(1, farthest=True)
    assert found.stats.engine == "exact"


def test_the_estimate_tells_what_queries_take_from_what_preparing_takes(monkeypatch):
    """A search of a second for the rows and a hundredth for each query; half of that in a self-join."""
    clock = [0.0]

    def ask(part):
        clock[0] += 1 + 0.01 * len(part)
        return Neighbors(part[:, None], part[:, None].float(), SearchStats(engine="exact"))

    monkeypatch.setattr(auto.time, "perf_counter", lambda: clock[0])
    order = torch.arange(50_000)
    assert auto.estimate(ask, order, joined=False)[1] == pytest.approx(501)
    assert auto.estimate(ask, order, joined=True)[1] == pytest.approx(1 + 2.56 + 0.01 * (50_000 - 256) / 2)


def test_positives_are_exact_whatever_the_budget(bank):
    found = AutoIndex(budget_s=0).fit(*bank).self_join(2, want="positive", farthest=True)
    exact = ExactIndex().fit(*bank).self_join(2, want="positive", farthest=True)
    assert torch.equal(found.ids, exact.ids)
    assert (found.stats.engine, found.stats.recall) == ("exact", None)


def test_settings_are_checked_and_cloned():
    with pytest.raises(ValueError, match="budget_s must be at least 0, got -1"):
        AutoIndex(-1)
    copy = AutoIndex(5, metric="dot", seed=3).clone()
    assert (copy.budget_s, copy.metric, copy.seed) == (5, "dot", 3)
    with pytest.raises(ValueError, match="holds no rows"):
        copy.self_join(1)


def test_recall_is_measured_where_there_are_few_lists(generator):
    rows, queries = torch.randn(100, 8, generator=generator), torch.randn(1000, 8, generator=generator)
    found = AutoIndex(budget_s=0).fit(rows).search(queries, 3)
    truth = ExactIndex().fit(rows).search(queries, 3)
    recall = float((found.ids[:, :, None] == truth.ids[:, None, :]).any(2).float().mean())
    assert found.stats.recall == pytest.approx(recall, abs=0.1)
