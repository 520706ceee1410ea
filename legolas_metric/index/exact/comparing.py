"""The k best of pairs that a screening left, by compiled loops.

Letters: t pairs, q queries, n rows, d dimensions, k neighbours.
"""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.compiled.jit import arrays
from legolas_metric.compiled.row_metrics import METRICS
from legolas_metric.compiled.threads import in_threads
from legolas_metric.geometry import chunks
from legolas_metric.index.request import Request, part_of
from legolas_metric.index.top_k import best_pairs

_INSERTED = 64  # neighbours up to which each candidate is put in its place: beyond, they are sorted
_APIECE = 1024  # queries of a thread's task
_ALONE = 4096  # queries up to which threads would cost more


def best_compiled(
    request: Request, query: Int64[Tensor, " t"], row: Int64[Tensor, " t"]
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """`best_pairs`, query by query."""
    x, rows, k = request.own.embeddings, request.rows, request.k
    if k > _INSERTED:
        return best_pairs(request, query, row)
    from legolas_metric.index.exact.passes import best_of_pairs

    found = torch.empty(len(x), k, dtype=torch.int64), x.new_empty(len(x), k)
    first = torch.zeros(len(x) + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(query, minlength=len(x)), 0, out=first[1:])
    none = torch.empty(0, dtype=torch.float64)

    def work(part: slice) -> None:
        low, high = part_of(request.bounds, part) or (none, none)
        pairs = first[part.start : part.stop + 1]
        best_of_pairs(
            *arrays(x[part], rows.embeddings, rows.ids, pairs, row, low, high),
            -1 if request.farthest else 1,
            METRICS.index(request.metric),
            *arrays(found[0][part], found[1][part]),
        )

    if len(x) <= _ALONE:
        work(slice(0, len(x)))
    else:
        in_threads(work, chunks(len(x), _APIECE))
    return found
