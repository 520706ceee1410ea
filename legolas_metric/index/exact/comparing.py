"""The k best of pairs that a screening left, by compiled loops.

Letters: t pairs, q queries, n rows, d dimensions, k neighbours.
"""

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.compiled.jit import arrays
from legolas_metric.compiled.row_metrics import METRICS
from legolas_metric.compiled.threads import in_threads
from legolas_metric.geometry import chunks
from legolas_metric.index.request import Request
from legolas_metric.index.top_k import best_pairs

_INSERTED = 64  # neighbours up to which each candidate is put in its place: beyond, they are sorted
_APIECE = 1024  # queries of a thread's task
_ALONE = 4096  # queries up to which threads would cost more
_NONE = np.empty(0)  # bounds where there are none


def best_compiled(
    request: Request, query: Int64[Tensor, " t"], row: Int64[Tensor, " t"]
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """`best_pairs`, query by query."""
    x, rows, k = request.own.embeddings, request.rows, request.k
    if k > _INSERTED:
        return best_pairs(request, query, row)
    from legolas_metric.index.exact.passes import best_of_pairs

    found, value = np.empty((len(x), k), np.int64), np.empty((len(x), k), np.float32)
    left, right, ids, anchor, column = arrays(x, rows.embeddings, rows.ids, query, row)
    low, high = (_NONE, _NONE) if request.bounds is None else arrays(*request.bounds)

    def work(part: slice, pairs: slice) -> None:
        best_of_pairs(
            left[part], right, ids, anchor[pairs], column[pairs], part.start, low[part], high[part],
            -1 if request.farthest else 1, METRICS.index(request.metric), found[part], value[part],
        )  # fmt: skip

    if len(x) <= _ALONE:
        work(slice(0, len(x)), slice(None))
    else:
        parts = list(chunks(len(x), _APIECE))
        ends = anchor.searchsorted([0, *(part.stop for part in parts)])
        in_threads(lambda task: work(*task), zip(parts, map(slice, ends, ends[1:])))
    return torch.from_numpy(found), torch.from_numpy(value)
