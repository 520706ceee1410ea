"""The exact index at the ends of what it takes: widths of numbers, sizes, memory, and few slots."""

from itertools import product

import pytest
import torch
from exact_ways import HERE, WAYS, by
from processes import python

from legolas_metric import ExactIndex
from legolas_metric.budgets import WORKSPACE
from legolas_metric.geometry import exact_similarity
from legolas_metric.index.exact import answer as routing
from legolas_metric.index.exact import processor
from legolas_metric.index.exact.precision import has_int16


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
    """Classes of a size that small data fills several of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "_LARGE_CLASS", 8)
        yield


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_width_and_layout(dtype, generator):
    rows = torch.randn(16, 600, generator=generator).to(dtype).T  # not contiguous
    labels = torch.arange(600) // 3
    found = ExactIndex(precision="bfloat16").fit(rows, labels).self_join(1)
    again = ExactIndex().fit(rows.float().contiguous().numpy(), labels.numpy()).self_join(1)
    assert torch.equal(found.ids, again.ids)


def test_high_dimensions_and_a_small_workspace(generator):
    rows, labels = torch.randn(140, 4096, generator=generator), torch.arange(140) // 2
    found = ExactIndex(precision="bfloat16", workspace_mb=1).fit(rows, labels).self_join(1)
    assert torch.equal(found.ids, ExactIndex().fit(rows, labels).self_join(1).ids)


@pytest.mark.skipif(not has_int16(HERE), reason="no int16 here")
def test_a_row_that_rounds_upwards_everywhere_overflows_no_integer():
    d = 404_373  # 1 / sqrt(d) is 72.5 steps of int16, and a bit: the sum of the squares of 73 passes 2^31
    halves, turns = (torch.where(torch.arange(d) < d // 2, 1.0, -1.0), torch.where(torch.arange(d) % 2 == 0, 1.0, -1.0))
    rows = torch.stack([halves, halves, -halves, -halves, turns, -turns])
    found = [ExactIndex(precision=name).fit(rows, range(6)).self_join(2) for name in ("int16", "float32")]
    assert torch.equal(found[0].ids, found[1].ids)
    assert found[0].ids[:4, 0].tolist() == [1, 0, 3, 2]


def test_clone_is_an_unfitted_copy():
    index = ExactIndex(metric="dot", precision="float32", workspace_mb=7).fit(torch.eye(2))
    copy = index.clone()
    assert (copy.metric, copy.precision, copy.workspace_mb) == ("dot", "float32", 7)
    with pytest.raises(ValueError, match="holds no rows"):
        copy.self_join(1)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(("metric", "scale"), [("euclidean", 1e-40), ("dot", 1e-40), ("euclidean", 1e17)])
def test_rows_near_both_ends_of_float32(metric, scale, precision, generator):
    rows, labels = (torch.randn(700, 20, generator=generator) + 3) * scale, torch.arange(700) // 2
    found = ExactIndex(metric=metric, precision=precision).fit(rows, labels).self_join(1)
    wide = rows.double()
    expected = (-torch.cdist(wide, wide) if metric == "euclidean" else wide @ wide.T).float()
    expected[labels[:, None] == labels] = -torch.inf
    torch.testing.assert_close(found.similarities[:, 0], expected.amax(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("precision", "compiled"), WAYS)
@pytest.mark.parametrize("length", [1e-18, 1e-20, 1e-22, 1e-24, 1e-27])
def test_short_rows_among_long_ones(length, precision, compiled, generator):
    """Their squares, and those of what rounding them costs, are nothing in float32."""
    rows, queries = torch.randn(600, 17, generator=generator), length * torch.randn(50, 17, generator=generator)
    best = (queries.double() @ rows.double().T).topk(4)
    with by(compiled):
        index = ExactIndex(metric="dot", precision=precision).fit(rows)
        found = index.search(queries, 4, window=(best.values[:, 3] * (1 - 1e-9), torch.full((50,), torch.nan)))
    assert torch.equal(found.ids, best.indices)


def test_many_tiles(generator):
    rows, labels = torch.randn(4500, 8, generator=generator), torch.randint(0, 300, (4500,), generator=generator)
    unit = torch.nn.functional.normalize(rows.double())
    expected = (unit @ unit.T).float().masked_fill(labels[:, None] == labels, -torch.inf)
    for (precision, compiled), k in product(WAYS, (1, 3, 20)):
        with by(compiled):
            found = ExactIndex(precision=precision).fit(rows, labels).self_join(k)
        torch.testing.assert_close(found.similarities, expected.topk(k, 1).values, rtol=0, atol=2e-7)


def test_figures_of_several_large_classes_are_joined(generator):
    rows, labels = torch.randn(60, 4, generator=generator), torch.arange(60) // 20
    stats = ExactIndex(precision="float32").fit(rows, labels).self_join(1, want="positive").stats
    assert stats.details["tiles"] == 3
    assert stats.details["reranked_per_row"] >= 1


def test_the_newer_precision_switches_are_respected():
    script = (
        "import torch; from legolas_metric import *\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "rows, labels = torch.randn(64, 16), torch.arange(64) // 4\n"
        "HardMiner()(rows, labels); ExactIndex(precision='float32').fit(rows, labels).self_join(1)\n"
        "assert torch.backends.cuda.matmul.fp32_precision == 'tf32'"
    )
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        python("-c", script, check=True)


@pytest.mark.parametrize("precision", ["int16", "float32"])
def test_a_query_that_is_a_fitted_row_of_another_label_is_not_its_own_answer(precision):
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(900, 16, generator=generator), torch.arange(900) // 9
    named = labels.roll(9)  # the queries are the rows, by other names
    found = (
        ExactIndex(precision=precision)
        .fit(rows, labels)
        .search(rows, 2, labels=named, ids=torch.arange(900), want="negative")
    )
    unit = torch.nn.functional.normalize(rows.double())
    s = (unit @ unit.T).masked_fill_(named[:, None] == labels, -2).fill_diagonal_(-2)
    assert torch.equal(found.ids, s.topk(2, 1).indices)


def test_true_is_no_number_of_neighbours():  # other types than int are refused before, where the tests check types
    with pytest.raises(TypeError, match="k must be an integer, got True"):
        ExactIndex().fit(torch.eye(4), [0, 0, 1, 1]).self_join(True)


def test_the_one_label_that_has_no_place():
    labels = torch.arange(900) // 9
    labels[labels == 3] = 2**63 - 1
    index = ExactIndex(precision="float32").fit(torch.randn(900, 16), labels)
    with pytest.raises(ValueError, match=r"labels must be below 2\^63 - 1"):
        index.self_join(1)


@pytest.mark.parametrize("precision", ["int16", "float32"])
def test_float64_as_the_default_of_torch_changes_nothing(precision):
    rows, labels = torch.randn(900, 16, dtype=torch.float32), torch.arange(900) // 9
    index = ExactIndex(precision=precision).fit(rows, labels)
    want = index.self_join(3)
    torch.set_default_dtype(torch.float64)
    try:
        got = ExactIndex(precision=precision).fit(rows, labels).self_join(3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got.ids, want.ids)
    assert torch.equal(got.similarities, want.similarities)


def test_more_neighbours_than_rows_take_memory_for_the_rows_alone():
    rows, labels = torch.randn(700, 8), torch.arange(700) // 7
    found = ExactIndex(precision="float32").fit(rows, labels).self_join(5000)
    assert ((found.ids >= 0).sum(1) == 693).all()


def test_slots_are_bounded():
    """Of all anchors together by the workspace, or by 32 candidates beside two for each neighbour."""
    cases = ((1, 1, True), (50_000, 1, True), (10**6, 1, True), (200_000, 100, True), (10**6, 5, False))
    for n, k, windowed in cases:
        slots = processor.slots_for(n, k, windowed=windowed)
        assert 2 * k + 32 <= slots <= 2 * k + 384
        assert 12 * n * slots <= max(WORKSPACE, 12 * n * (2 * k + 32))
    assert processor.slots_for(50_000, 1, windowed=True) == 2 + 384


@pytest.mark.parametrize("precision", ["int16", "float32"])
def test_a_crowded_window_with_few_slots_is_searched_again(precision, generator, monkeypatch):
    """Sixty rows lie nearer to the ceiling than any screening tells."""
    monkeypatch.setattr(processor, "WORKSPACE", 0)
    monkeypatch.setattr(processor, "_DECIDED", 10**9)
    rows = torch.nn.functional.normalize(torch.randn(900, 24, generator=generator))
    ceiling = 0.5
    across = rows[1:61] - (rows[1:61] @ rows[0])[:, None] * rows[0]
    step = ceiling + 1e-9 * torch.randn(60, 1, dtype=torch.float64, generator=generator)
    rows[1:61] = (step * rows[0] + (1 - step**2).sqrt() * torch.nn.functional.normalize(across.double())).float()
    labels = torch.arange(900)
    window = torch.full((900,), torch.nan), torch.full((900,), ceiling)
    found = ExactIndex(precision=precision).fit(rows, labels).self_join(3, window=window)
    assert found.stats.details["rescanned"] >= 1
    unit = ExactIndex().fit(rows).rows.embeddings
    true = exact_similarity(unit[:1].expand(900, 24), unit, "cosine")
    true[(true >= ceiling) | (labels == 0)] = -torch.inf
    assert torch.equal(found.ids[0], true.topk(3).indices)
