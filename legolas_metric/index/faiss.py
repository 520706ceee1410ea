"""`FaissIndex`: any FAISS index behind the protocol. The only module that imports FAISS.

FAISS knows neither labels nor windows, so a search asks for more rows than needed, drops what is not admissible, and
asks again for the queries that are short, until each has its k or the index has no more to give.
"""

import os
import re
from typing import Any

import faiss
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_at_least, check_metric, check_whole
from legolas_metric.datasets.labels import largest_class
from legolas_metric.index.admissible import admissible_pairs
from legolas_metric.index.arithmetic import exact_arithmetic
from legolas_metric.index.brute_force import scan, scan_classes
from legolas_metric.index.faiss_scaling import bound_beyond, fitted_scale, query_scales
from legolas_metric.index.interface import Want, Window, check_request, window_bounds
from legolas_metric.index.request import Request
from legolas_metric.index.row_index import RowIndex
from legolas_metric.index.top_k import best_of, exact_similarities, inside_window
from legolas_metric.index.widening import audited, beats, no_answer, widen
from legolas_metric.outputs import whole_file
from legolas_metric.records import Neighbors, SearchStats
from legolas_metric.rows import NO_ID, Rows, fitted_rows
from legolas_metric.signatures import typed

_PROCESS = os.getpid()  # a forked child inherits this number, a spawned one imports the module again
_FETCHED = 64  # bytes that a pair (query, row) takes, or twice as many at the most
_REACH = 2.0**60
_WHERE = re.compile(r"^(Error in .* at \S+:\d+: (Error: '.*' failed(: )?)?|C\+\+ exception )", re.DOTALL)
_parameters: Any = faiss  # its keyword arguments and newer classes are missing from its type stubs


class FaissIndex(RowIndex):
    """Neighbours from a FAISS index, re-ranked to the similarities that every index reports.

    With "Flat" the answers equal those of `ExactIndex`, and `stats.recall` is None. Other factories are approximate:
    what they fail to visit is missing from the answer. How much that is, is measured at each search: `stats.recall` is
    the share of the exact neighbours of `audit` of the queries that were found, and NaN with `audit=0`, or where none
    of these has a neighbour.

    Behaviour in corner cases:
        - positives are compared class by class, exactly, without FAISS;
        - a window or a large class widens the search in steps, at most to the whole index (IVF: all its lists);
        - `farthest` searches with -q; under "euclidean" FAISS has no such search and it is refused;
        - a search in a forked process is refused, because FAISS's threads do not survive a fork.

    Args:
        factory: a factory string ("Flat", "IVF256,Flat", "HNSW32", ...) or an empty `faiss.Index`, which is copied.
        metric: "cosine" (rows are normalised), "dot" or "euclidean" (s = -d).
        effort: lists that an IVF index visits (`nprobe`), or candidates that HNSW keeps (`efSearch`); None: its own.
        audit: queries, drawn by a fixed seed, whose neighbours an approximate search is measured by; 0 for none. They
            are compared with all rows: some 15 ns a pair and thread.

    Memory: two copies of the rows, the answer, and up to 512 MiB for what is fetched.

    Raises:
        ValueError: an unknown metric or factory string, or a `faiss.Index` that holds rows or measures something else.

    Example:
        >>> import torch
        >>> from legolas_metric import FaissIndex
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> found = FaissIndex("Flat").fit(rows, [0, 0, 1, 1]).self_join(1, want="negative")
        >>> found.ids.flatten().tolist()
        [2, 2, 1, 1]

    Source: Douze et al., The Faiss library, 2024.
    """

    @typed
    def __init__(
        self,
        factory: "str | faiss.Index" = "Flat",
        *,
        metric: Metric = "cosine",
        effort: int | None = None,
        audit: int = 256,
    ) -> None:
        check_metric(metric)
        check_whole("audit", audit, 0)
        if effort is not None:
            check_at_least("effort", effort, 1)
        if not isinstance(factory, str):
            _check_template(factory, metric)
        self.factory = factory
        self.metric: Metric = metric
        self.effort = effort
        self.audit = audit
        self._scale = 1.0
        self._rows: Rows | None = None
        self._index: Any = None

    def clone(self) -> "FaissIndex":
        """An unfitted index with the same settings."""
        return type(self)(self.factory, metric=self.metric, effort=self.effort, audit=self.audit)

    def fit(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "FaissIndex":
        """Train the index where it needs it, and add the rows; arguments as `ExactIndex.fit`.

        Raises:
            ValueError: a factory that FAISS refuses for rows of this dimension or this many of them.
        """
        _refuse_fork()
        rows = fitted_rows(embeddings, labels, ids=ids, groups=groups, metric=self.metric)
        scale = fitted_scale(rows, self.metric)
        table = (rows.embeddings * scale).cpu().numpy()
        index = _empty_index(self.factory, table.shape[1], self.metric)
        try:
            if not index.is_trained:
                index.train(table)
            index.add(table)
        except RuntimeError as error:
            why = f"{_reason(error)}; use fewer lists or codes, or factory='Flat'"
            raise ValueError(f"FAISS refuses to build {self._name!r} from {len(table)} rows: {why}") from error
        self._rows, self._index, self._scale = rows, index, scale
        return self

    @property
    def _name(self) -> str:
        return self.factory if isinstance(self.factory, str) else type(self.factory).__name__

    @property
    def rows(self) -> Rows:
        """The fitted rows, checked and prepared.

        Raises:
            ValueError: before `fit`.
        """
        _refuse_fork()
        if self._rows is None:
            raise ValueError("this index holds no rows: call fit(embeddings, labels) first")
        return self._rows

    def answer(self, own: Rows, k: int, want: Want, farthest: bool, window: Window | None) -> Neighbors:
        """`search` of queries that are checked and prepared already.

        Raises:
            ValueError: as `search`.
        """
        rows = self.rows
        check_request(own, rows, k, want)
        request = Request(own, rows, k, want, self.metric, farthest, window_bounds(window, len(own), own.ids.device))
        with exact_arithmetic(own.ids.device):
            return self._answered(request)

    def _answered(self, request: Request) -> Neighbors:
        own, rows, k, want = request.own, request.rows, request.k, request.want
        name = f"faiss:{self._name}"
        if want in ("positive", "cross_group_positive"):
            return Neighbors(*scan_classes(request), SearchStats(engine=name))
        if request.farthest and self.metric == "euclidean":
            raise ValueError("FAISS finds no farthest rows under metric='euclidean': use ExactIndex")
        self._check_reach(own)
        ids, values = no_answer(len(own), k, own.embeddings)
        asked = torch.arange(len(own), device=own.ids.device)
        if want == "negative":
            assert own.labels is not None
            asked = asked[own.labels != UNLABELLED]
        widened = widen(
            asked,
            lambda part, count: self._fetch(request.part(part), count),
            (ids, values),
            first=k + _to_be_dropped(rows, want),
            most=len(rows),
            step=lambda count: rows_for(WORKSPACE, _FETCHED * count + 16 * rows.embeddings.shape[1]),
        )
        recall = None if self._exact else audited(ids, self.audit, lambda sample: scan(request.part(sample))[0])
        return Neighbors(ids, values, SearchStats(engine=name, widened=widened, recall=recall))

    @property
    def _exact(self) -> bool:
        return isinstance(faiss.downcast_index(self._index), faiss.IndexFlat)

    def _check_reach(self, own: Rows) -> None:
        """Refuse queries so far away that FAISS's squared distances overflow."""
        longest = float(torch.linalg.vector_norm(own.embeddings, dim=1, dtype=torch.float64).max())
        if self.metric == "euclidean" and longest * self._scale > _REACH:
            raise ValueError(
                f"queries of norm {longest:.3g} lie more than 2^60 times as far out as the fitted rows, where FAISS's "
                "squared distances overflow: use ExactIndex"
            )

    def _fetch(
        self, request: Request, fetch: int
    ) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"], Bool[Tensor, " q"]]:
        """One search: the k best admissible of the `fetch` rows that FAISS returns, and which queries are done."""
        own, rows, farthest, bounds = request.own, self.rows, request.farthest, request.bounds
        factor = query_scales(own, self._scale, self.metric)
        x = (own.embeddings * (-factor if farthest else factor)[:, None]).float()
        parameters = _search_parameters(self._index, fetch, len(rows), self.effort)
        # Importing PML loads faiss.contrib.torch_utils, which puts a search without `params` in place of FAISS's own.
        search = getattr(self._index, "search_numpy", self._index.search)
        raw, found = search(x.cpu().numpy(), fetch, params=parameters)
        found = torch.from_numpy(found).to(own.ids.device)
        query, place = (found >= 0).nonzero(as_tuple=True)
        row = found[query, place]
        kept = admissible_pairs(request.want, own, rows, query, row)
        query, row = query[kept], row[kept]
        value = exact_similarities(own.embeddings, rows.embeddings, query, row, self.metric)
        inside = inside_window(value, query, bounds)
        ids, values = best_of(
            query[inside], rows.ids[row[inside]], value[inside], q=len(own), k=request.k, farthest=farthest
        )
        last = torch.from_numpy(raw[:, -1]).to(value.device, torch.float64)
        edge = bound_beyond(last, own, rows, farthest, self.metric, (factor, self._scale))
        done = ids[:, -1] != NO_ID
        if self._exact:
            done &= beats(values[:, -1], edge, farthest=farthest)
        if bounds is not None:  # nothing that was not fetched is inside the window
            done |= (found[:, -1] >= 0) & ((edge > bounds[1]) if farthest else (edge < bounds[0]))
        return ids, values, done


def write_flat_index(path: str | os.PathLike[str], rows: Float32[Tensor, "n d"]) -> None:
    """Write rows as FAISS's own flat index of inner products, number i being row i, whole or not at all."""
    index: Any = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.detach().cpu().contiguous().numpy())
    with whole_file(path) as temporary:
        _parameters.write_index(index, str(temporary))


def _refuse_fork() -> None:
    if os.getpid() != _PROCESS:
        instead = "mine in the main process, or start workers with multiprocessing.get_context('spawn')"
        raise RuntimeError(f"FaissIndex was called in a forked process, where FAISS's threads hang: {instead}")


def _check_template(index: "faiss.Index", metric: Metric) -> None:
    if not isinstance(index, faiss.Index):
        raise TypeError(f"factory must be a factory string or a faiss.Index, got {type(index).__name__}")
    if index.ntotal:
        raise ValueError(f"the faiss.Index already holds {index.ntotal} rows: pass an empty one, fit() adds them")
    expected = _faiss_metric(metric)
    if index.metric_type != expected:
        names = {faiss.METRIC_INNER_PRODUCT: "METRIC_INNER_PRODUCT", faiss.METRIC_L2: "METRIC_L2"}
        raise ValueError(f"metric={metric!r} needs a faiss.Index of {names[expected]}, got {index.metric_type}")


def _faiss_metric(metric: Metric) -> int:
    return faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT


def _empty_index(factory: "str | faiss.Index", d: int, metric: Metric) -> Any:
    if not isinstance(factory, str):
        if factory.d != d:
            raise ValueError(f"the faiss.Index has {factory.d} dimensions, embeddings have {d}")
        return faiss.clone_index(factory)
    try:
        return faiss.index_factory(d, factory, _faiss_metric(metric))
    except RuntimeError as error:
        raise ValueError(f"FAISS does not know the factory {factory!r} for d={d}: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """The sentence of a FAISS error, without the function, the source line and the condition that failed there."""
    return _WHERE.sub("", str(error)).strip() or "it gives no reason"


def _to_be_dropped(rows: Rows, want: Want) -> int:
    """How many of the nearest rows may be inadmissible: oneself, or one's class."""
    if want == "any":
        return 1
    assert rows.labels is not None
    return min(largest_class(rows.labels), 1024) + 1  # a very large class is widened to, where a query needs it


def _search_parameters(index: Any, fetch: int, n: int, effort: int | None) -> Any:
    """Effort as FAISS takes it; where all rows are asked for, all lists are visited."""
    inner = faiss.downcast_index(index)
    wrapped = isinstance(inner, faiss.IndexPreTransform)
    inner = faiss.downcast_index(inner.index) if wrapped else inner
    if isinstance(inner, faiss.IndexIVF):
        share = min(1.0, 2 * fetch / n)  # many rows asked for: as many lists, with room for lists of unequal length
        probes = inner.nlist if fetch == n else max(effort or inner.nprobe, int(share * inner.nlist))
        found: Any = _parameters.SearchParametersIVF(nprobe=min(probes, inner.nlist))
    elif isinstance(inner, faiss.IndexHNSW):
        found = _parameters.SearchParametersHNSW(efSearch=max(effort or inner.hnsw.efSearch, fetch))
    else:
        return None
    return _parameters.SearchParametersPreTransform(index_params=found) if wrapped else found
