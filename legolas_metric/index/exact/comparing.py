"""The k best of pairs that a screening left, by compiled loops.

Letters: t pairs, q queries, n rows, d dimensions, k neighbours.
"""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.compiled.jit import arrays
from legolas_metric.compiled.row_metrics import METRICS
from legolas_metric.compiled.threads import in_threads
from legolas_metric.geometry import chunks
from legolas_metric.index.top_k import Bounds, best_pairs
from legolas_metric.rows import Rows

_INSERTED = 64  # neighbours up to which each candidate is put in its place: beyond, they are sorted
_APIECE = 1024  # queries of a thread's task
_ALONE = 4096  # queries up to which threads would cost more


def best_compiled(
    x: Float32[Tensor, "q d"],
    rows: Rows,
    query: Int64[Tensor, " t"],
    row: Int64[Tensor, " t"],
    k: int,
    *,
    metric: Metric,
    farthest: bool,
    bounds: Bounds | None,
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """`best_pairs`, query by query."""
    if k > _INSERTED:
        return best_pairs(x, rows, query, row, k, metric=metric, farthest=farthest, bounds=bounds)
    from legolas_metric.index.exact.passes import best_of_pairs

    found = torch.empty(len(x), k, dtype=torch.int64), x.new_empty(len(x), k)
    first = torch.zeros(len(x) + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(query, minlength=len(x)), 0, out=first[1:])
    none = torch.empty(0, dtype=torch.float64)

    def work(part: slice) -> None:
        low, high = (none, none) if bounds is None else (bound[part] for bound in bounds)
        pairs = first[part.start : part.stop + 1]
        best_of_pairs(
            *arrays(x[part], rows.embeddings, rows.ids, pairs, row, low, high),
            -1 if farthest else 1,
            METRICS.index(metric),
            *arrays(found[0][part], found[1][part]),
        )

    if len(x) <= _ALONE:
        work(slice(0, len(x)))
    else:
        in_threads(work, chunks(len(x), _APIECE))
    return found
