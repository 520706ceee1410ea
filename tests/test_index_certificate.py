"""The certificate of the exact engine: no score errs by more than its bound, and the bound is what keeps it right."""

import pytest
import torch
from exact_ways import WAYS, by

from legolas_metric import ExactIndex
from legolas_metric.index.exact import precision as asking
from legolas_metric.index.exact import solve
from legolas_metric.index.exact.certificate import Certificate, certify
from legolas_metric.index.exact.table import choose_frame, make_table, with_steps

METRICS = ("cosine", "dot", "euclidean")


@pytest.mark.parametrize("share", [1.0, 0.01])
@pytest.mark.parametrize(("precision", "compiled"), [way for way in WAYS if way[0] != "float32"])
def test_a_smaller_bound_goes_wrong(share, precision, compiled, monkeypatch):
    """The bound is what keeps the answers right: a hundredth of it does not."""

    def smaller(*sides):
        whole = certify(*sides)
        return Certificate(share * whole.weights, whole.bounds, share * whole.relative)

    monkeypatch.setattr(solve, "certify", smaller)
    generator = torch.Generator().manual_seed(1)
    table, labels = torch.randn(1200, 3, generator=generator), torch.arange(1200) // 3  # many near ties
    with by(compiled):
        found = ExactIndex(precision=precision).fit(table, labels).self_join(1)
    exact = ExactIndex(precision="float32").fit(table, labels).self_join(1)
    wrong = int((found.ids != exact.ids).sum())
    assert (wrong == 0) == (share == 1.0), f"{wrong} wrong answers with {share} of the bound"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_no_score_errs_by_more_than_its_bound(dtype, metric, offset, generator):
    for n, m, d in ((50, 70, 1), (150, 300, 10), (290, 200, 67)):
        x, y = (torch.randn(size, d, generator=generator) + offset for size in (n, m))
        if metric == "cosine":
            x, y = (torch.nn.functional.normalize(rows.double()).float() for rows in (x, y))
        frame = choose_frame([x, y], metric, farthest=d == 10)
        left, right = make_table(x, frame, dtype), make_table(y, frame, dtype)
        certificate = certify(left, right, frame, 2048)
        scores = (left.left @ right.right.T)[:n, :m].double()
        true = x.double() @ y.double().T if metric != "euclidean" else -torch.cdist(x.double(), y.double())
        error = (scores - frame.score(true.flatten()).view(n, m)).abs()
        bound = certificate.missed()[:n, None] + certificate.relative * scores.abs()
        assert bool((error <= bound).all())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_no_integer_score_errs_by_more_than_its_bound(metric, offset, generator):
    for n, m, d in ((50, 70, 1), (150, 300, 10), (290, 200, 67)):
        x, y = (torch.randn(size, d, generator=generator) + offset for size in (n, m))
        if metric == "cosine":
            x, y = (torch.nn.functional.normalize(rows.double()).float() for rows in (x, y))
        frame = with_steps(choose_frame([x, y], metric, farthest=d == 10), [x, y])
        left, right = make_table(x, frame, torch.int16), make_table(y, frame, torch.int16)
        a, b = (rows.transpose(1, 2).flatten(2).flatten(0, 1).double() for rows in (left.left, right.right))
        whole = a @ b.T + left.offset[:, None] + right.offset
        assert whole.abs().max() < 2**31
        assert max(a.abs().max(), b.abs().max()) < 2**15
        assert frame.steps > 2**14
        true = x.double() @ y.double().T if metric != "euclidean" else -torch.cdist(x.double(), y.double())
        error = (whole[:n, :m] / frame.steps**2 - frame.score(true.flatten()).view(n, m)).abs()
        bound = certify(left, right, frame, 2048).missed()[:n, None]
        assert bool((error <= bound).all())
        assert d == 1 or error.max() > 0.02 * bound.max()  # the bound is not idle


def test_int16_is_refused_where_nothing_computes_it(monkeypatch):
    monkeypatch.setattr(asking, "runs_compiled", lambda device: False)
    with pytest.raises(ValueError, match="precision='int16' needs numba and a processor with AVX2"):
        ExactIndex(precision="int16").fit(torch.eye(3), [0, 1, 1]).self_join(1)
    assert ExactIndex().fit(torch.eye(3), [0, 1, 1]).self_join(1).ids.tolist() == [[1], [0], [0]]


def test_rows_whose_terms_dwarf_their_products_are_screened_in_float32():
    rows = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)) + torch.tensor([1e4, 0, 0, 0, 0])
    labels = torch.arange(400) // 2
    with by(True):
        found = ExactIndex(metric="dot", precision="int16").fit(rows, labels).self_join(1)
    assert found.stats.precision == "float32"
    expected = (rows.double() @ rows.double().T).float().masked_fill(labels[:, None] == labels, -torch.inf)
    assert torch.equal(found.similarities[:, 0], expected.amax(1))


def test_the_terms_of_both_sides_fit(generator):
    """A self-join adds the terms of two rows of one table."""
    rows, labels = 10 + torch.randn(5, 1, generator=generator), torch.arange(5)
    with by(True):
        found = ExactIndex(metric="dot", precision="int16").fit(rows, labels).self_join(1)
    expected = (rows @ rows.T).fill_diagonal_(-torch.inf).amax(1)
    torch.testing.assert_close(found.similarities[:, 0], expected)


@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_opposite_clusters_just_inside_the_scale(metric, farthest, generator):
    """Scores as large as they get: norms just below a power of two, on both sides of the centre."""
    axis = torch.nn.functional.normalize(torch.randn(1, 32, generator=generator))
    side = torch.arange(300)[:, None] % 2 * 2.0 - 1
    rows, labels = 0.97 * side * axis + 1e-3 * torch.randn(300, 32, generator=generator), torch.arange(300) // 20
    with by(True):
        found = ExactIndex(metric=metric, precision="int16").fit(rows, labels).self_join(1, farthest=farthest)
    wide = torch.nn.functional.normalize(rows.double()) if metric == "cosine" else rows.double()
    true = -torch.cdist(wide, wide) if metric == "euclidean" else wide @ wide.T
    sign = -1 if farthest else 1
    best = (sign * true).masked_fill(labels[:, None] == labels, -torch.inf).amax(1)
    torch.testing.assert_close(sign * found.similarities[:, 0].double(), best, rtol=1e-6, atol=1e-5)
