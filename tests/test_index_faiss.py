"""FAISS behind the protocol: Flat equals the exact index, nothing is short without being counted."""

import math
import multiprocessing

import faiss
import pytest
import torch

from legolas_metric import ExactIndex, FaissIndex

METRICS = ("cosine", "dot", "euclidean")


@pytest.fixture
def data(generator):
    rows = torch.randn(240, 6, generator=generator)
    rows[100:140] = rows[100:101]  # ties
    labels = torch.randint(-1, 5, (240,), generator=generator)
    groups = torch.randint(0, 3, (240,), generator=generator)
    return rows, labels, torch.randperm(300, generator=generator)[:240], groups


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("want", ["any", "negative", "positive", "cross_group_positive"])
@pytest.mark.parametrize("metric", METRICS)
def test_flat_equals_the_exact_index(metric, want, farthest, windowed, data, generator):
    rows, labels, ids, groups = data
    if metric == "euclidean" and farthest and want in ("any", "negative"):
        with pytest.raises(ValueError, match="no farthest rows under metric='euclidean': use ExactIndex"):
            FaissIndex(metric=metric).fit(rows, labels).self_join(1, farthest=True)
        return
    low = torch.randn(240, generator=generator) - 1
    low[::5] = torch.nan
    window = (low, low + 0.7) if windowed else None
    found, exact = (
        index.fit(rows, labels, ids=ids, groups=groups).self_join(3, want=want, farthest=farthest, window=window)
        for index in (FaissIndex(metric=metric), ExactIndex(metric=metric))
    )
    assert torch.equal(found.ids, exact.ids)
    assert torch.equal(found.similarities, exact.similarities)
    asked, exactly = (
        index.fit(rows, labels, ids=ids, groups=groups).search(
            rows[:50] + 0.1, 2, labels=labels[50:100], ids=ids[:50], groups=groups[:50], want=want, farthest=farthest
        )
        for index in (FaissIndex(metric=metric), ExactIndex(metric=metric))
    )
    assert torch.equal(asked.ids, exactly.ids)


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW16", "IVF8,PQ2x4", "PCA4,Flat", faiss.IndexFlatIP(6)])
def test_any_factory_gives_admissible_rows(factory, data):
    rows, labels, ids, _ = data
    index = FaissIndex(factory)
    found = index.fit(rows, labels, ids=ids).self_join(2)
    known = dict(zip(ids.tolist(), labels.tolist()))
    for label, own in zip(labels.tolist(), found.ids.tolist()):
        assert own == [-1, -1] if label == -1 else all(known[other] != label for other in own)
    assert found.stats.engine.startswith("faiss:")
    assert index.clone().fit(rows, labels).self_join(1).ids.shape == (240, 1)


def test_widens_past_a_large_class_and_says_so():
    """By hand: 1,500 rows of the anchor's class lie nearer than the only negative."""
    angles = torch.cat([torch.linspace(0, 0.5, 1500), torch.tensor([1.0])])
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0] * 1500 + [1])
    found = FaissIndex("Flat").fit(rows, labels).self_join(1)
    assert found.ids[:1500].eq(1500).all()
    assert found.ids[1500].item() == 1499
    assert found.stats.widened > 0


def test_is_exhausted_rather_than_padded_with_rows_that_are_not():
    found = FaissIndex("IVF2,Flat", effort=1).fit(torch.randn(100, 4), [0] * 99 + [1]).self_join(5)
    assert found.ids[0].tolist() == [99, -1, -1, -1, -1]
    assert found.similarities[0, 1:].eq(-torch.inf).all()


def test_more_effort_finds_more(generator):
    rows, labels = torch.randn(2000, 16, generator=generator), torch.arange(2000) // 2
    exact = ExactIndex().fit(rows, labels).self_join(1).ids
    agreement = [
        (FaissIndex("IVF32,Flat", effort=effort).fit(rows, labels).self_join(1).ids == exact).float().mean()
        for effort in (1, 8, 32)
    ]
    assert agreement[0] < agreement[1] < agreement[2] == 1


@pytest.mark.parametrize(
    ("factory", "effort"), [("IVF32,Flat", 1), ("IVF32,Flat", 32), ("HNSW4", 1), ("IVF8,PQ2x4", None)]
)
@pytest.mark.parametrize("k", [1, 3])
def test_an_approximate_search_is_measured(factory, effort, k, generator):
    rows, labels = torch.randn(2000, 16, generator=generator), torch.arange(2000) // 2
    found = FaissIndex(factory, effort=effort).fit(rows, labels).self_join(k)
    exact = ExactIndex().fit(rows, labels).self_join(k)
    assert exact.stats.recall is None
    true = (exact.ids[:, :, None] == found.ids[:, None]).any(2).float().mean().item()
    assert found.stats.recall == pytest.approx(true, abs=0.1)
    of_queries = FaissIndex(factory, effort=effort).fit(rows).search(rows[:300] + 0.1, k).stats.recall
    assert of_queries is not None
    assert 0 < of_queries <= 1


def test_exact_measured_and_unmeasured_are_told_apart(generator):
    rows, labels = torch.randn(500, 8, generator=generator), torch.arange(500) // 2
    assert FaissIndex("Flat").fit(rows, labels).self_join(1).stats.recall is None
    assert FaissIndex("IVF8,Flat").fit(rows, labels).self_join(1, want="positive").stats.recall is None
    unmeasured = FaissIndex("IVF8,Flat", audit=0)
    for index in (unmeasured, unmeasured.clone()):
        recall = index.fit(rows, labels).self_join(1).stats.recall
        assert recall is not None
        assert math.isnan(recall)


@pytest.mark.parametrize("metric", ["euclidean", "dot"])
@pytest.mark.parametrize("scale", [5e17, 1e-30])
def test_rows_whose_squares_leave_float32(metric, scale, generator):
    rows, labels = torch.randn(300, 4, generator=generator) * scale, torch.arange(300) // 3
    found, exact = (
        index.fit(rows, labels).self_join(2) for index in (FaissIndex(metric=metric), ExactIndex(metric=metric))
    )
    assert bool((found.ids >= 0).all())
    assert torch.equal(found.ids, exact.ids)


def test_queries_out_of_its_reach_are_refused():
    index = FaissIndex(metric="euclidean").fit(1e-30 * torch.eye(3))
    with pytest.raises(ValueError, match="lie more than 2\\^60 times as far out as the fitted rows"):
        index.search(torch.eye(3), 1)
    with pytest.raises(ValueError, match="scale the embeddings down"):
        FaissIndex(metric="euclidean").fit(1e19 * torch.eye(3))


def test_flat_ranks_a_narrow_cone_as_the_exact_index_does(generator):
    rows = torch.randn(1, 32, generator=generator) + 1e-4 * torch.randn(300, 32, generator=generator)
    labels = torch.arange(300) // 3
    found, exact = (index.fit(rows, labels).self_join(2) for index in (FaissIndex(), ExactIndex()))
    assert torch.equal(found.ids, exact.ids)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FaissIndex("Flatt").fit(torch.eye(3)), "FAISS does not know the factory 'Flatt' for d=3"),
        (lambda: FaissIndex("IVF50,Flat").fit(torch.eye(3)), "FAISS refuses to build 'IVF50,Flat' from 3 rows"),
        (lambda: FaissIndex(faiss.IndexFlatL2(3)), "metric='cosine' needs a faiss.Index of METRIC_INNER_PRODUCT"),
        (lambda: FaissIndex(faiss.IndexFlatIP(4)).fit(torch.eye(3)), "the faiss.Index has 4 dimensions"),
        (lambda: FaissIndex().self_join(1), "holds no rows: call fit"),
        (lambda: FaissIndex(effort=0), "effort must be at least 1, got 0"),
        (lambda: FaissIndex().fit(torch.eye(3)).self_join(1), "compares labels"),
    ],
)
def test_refuses_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_refuses_an_index_that_holds_rows():
    filled = faiss.IndexFlatIP(3)
    filled.add(torch.eye(3).numpy())
    with pytest.raises(ValueError, match="already holds 3 rows"):
        FaissIndex(filled)


def _mine_in_child(index, queue):
    try:
        index.self_join(1, want="any")
    except RuntimeError as error:
        queue.put(str(error))


def test_refuses_to_search_in_a_forked_process():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_mine_in_child, args=(FaissIndex().fit(torch.eye(3)), queue))
    child.start()
    message = queue.get(timeout=300)
    child.join()
    assert "forked process" in message
    assert "spawn" in message


def test_the_caller_may_be_in_inference_mode(data):
    rows, labels = data[:2]
    for index in (FaissIndex("Flat"), FaissIndex("IVF4,Flat")):
        plain = index.fit(rows, labels).self_join(2)
        with torch.inference_mode():
            found = index.clone().fit(rows, labels).self_join(2)
        assert torch.equal(plain.ids, found.ids)
        assert not found.ids.is_inference()
