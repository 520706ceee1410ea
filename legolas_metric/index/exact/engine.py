"""`ExactIndex`: exact neighbours under a label filter, a window, and any metric."""

from typing import get_args

import torch

from legolas_metric.checks import ArrayLike, Metric, check_at_least, check_choice, check_metric
from legolas_metric.index.arithmetic import exact_arithmetic
from legolas_metric.index.exact.answer import answer
from legolas_metric.index.exact.precision import Precision
from legolas_metric.index.interface import Want, Window, check_request, window_bounds
from legolas_metric.index.request import Request
from legolas_metric.index.row_index import RowIndex
from legolas_metric.records import Neighbors
from legolas_metric.rows import NO_ID, Rows, fitted_rows
from legolas_metric.signatures import typed


class ExactIndex(RowIndex):
    """Exact neighbours of another label, of the same label, or of any, inside a window or not.

    Args:
        metric: "cosine" (rows are normalised), "dot" or "euclidean" (s = -d).
        precision: what pairs are screened in; the answers are the same. "auto" asks the processor, and scans plainly
            what is small; "int16" needs numba and a processor with AVX2, "bfloat16" pays where there are matrix units
            for it, "float32" works everywhere.
        workspace_mb: memory for blocks of similarities, in MiB, of plain scans: small searches, GPUs, no numba.

    Memory: a copy of the rows, 4 n d bytes, and while it searches no more than

        plain scan:      4 n d + max(2 workspaces, 120 n)
        compiled loops:  8 (n + q) d + q (16 k + 28 (2 k + room) + 150) + 2 MiB a thread

    for n rows and q queries that are not the rows; 16 for 8 where they are screened along principal axes; k is clipped
    to n. The room is 32 candidates, in a window up to 384 as long as all of them fit 256 MiB.

    Raises:
        ValueError: an unknown metric or precision, or a workspace below 1 MiB.

    Example:
        >>> import torch
        >>> from legolas_metric import ExactIndex
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> found = ExactIndex().fit(rows, [0, 0, 1, 1]).self_join(1, want="negative")
        >>> found.ids.flatten().tolist()
        [2, 2, 1, 1]

    Source: ours.
    """

    @typed
    def __init__(self, *, metric: Metric = "cosine", precision: Precision = "auto", workspace_mb: int = 256) -> None:
        check_metric(metric)
        check_choice("precision", precision, get_args(Precision))
        check_at_least("workspace_mb", workspace_mb, 1)
        self.metric: Metric = metric
        self.precision: Precision = precision
        self.workspace_mb = workspace_mb
        self._rows: Rows | None = None

    def clone(self) -> "ExactIndex":
        """An unfitted index with the same settings."""
        return type(self)(metric=self.metric, precision=self.precision, workspace_mb=self.workspace_mb)

    def fit(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "ExactIndex":
        """Take the rows to be searched.

        Args:
            embeddings: [n, d].
            labels: [n], needed for every want but "any"; -1 is unlabelled.
            ids: [n], unique and >= 0 (default: row numbers).
            groups: [n], needed for "cross_group_positive".

        Returns:
            self.
        """
        return self.take(fitted_rows(embeddings, labels, ids=ids, groups=groups, metric=self.metric))

    def take(self, rows: Rows) -> "ExactIndex":
        """`fit` of rows that are checked and prepared already, and are not copied."""
        self._rows = rows
        return self

    @property
    def rows(self) -> Rows:
        """The fitted rows, checked and prepared.

        Raises:
            ValueError: before `fit`.
        """
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
        bounds = window_bounds(window, len(own), own.ids.device)
        request = Request(own, rows, min(k, len(rows)), want, self.metric, farthest, bounds)
        with exact_arithmetic(own.ids.device):
            found = answer(request, self.precision, self.workspace_mb)
        if request.k == k:
            return found
        missing = (0, k - request.k)  # more than there are rows
        ids = torch.nn.functional.pad(found.ids, missing, value=NO_ID)
        return Neighbors(ids, torch.nn.functional.pad(found.similarities, missing, value=-torch.inf), found.stats)
