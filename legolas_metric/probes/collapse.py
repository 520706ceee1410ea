"""Collapse probes: over a whole table, or over batches as they come."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_at_least, check_device
from legolas_metric.distributed import World
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.probes.class_measures import class_measures, iid_class_measures
from legolas_metric.probes.collapse_report import HEALTHY, CollapseReport
from legolas_metric.probes.hubness import iid_rows, search_hubness
from legolas_metric.probes.iid import iid_eigenvalues
from legolas_metric.probes.moments import Moments
from legolas_metric.probes.row_measures import iid_row_measures, row_measures
from legolas_metric.probes.spectrum import (
    decay,
    effective_rank,
    eigenvalues,
    noise_floor,
    participation_ratio,
    top_share,
)
from legolas_metric.probes.verdict import LEAST_ROWS, judge
from legolas_metric.rows import as_embeddings, as_labels
from legolas_metric.signatures import typed


class CollapseProbe:
    """Collapse measures of rows that come in batches, in float64 and O(d^2 + C d) memory.

    The report does not depend on how the rows were cut into batches or spread over probes (to 1e-9; to 1e-5 where all
    rows lie within 1e-5 of one point, as sums of squares then say little of their differences), and equals that of
    `probe_embeddings` but for what needs the rows themselves, which is None: uniformity,
    nearest_share, nc4, class ranks, hubness.

    Example:
        >>> import torch
        >>> probe = CollapseProbe()
        >>> for _ in range(4):
        ...     probe = probe.update(torch.randn(100, 8))
        >>> probe.compute().n
        400

    Source: ours; of the measures, see `CollapseReport`.
    """

    def __init__(self) -> None:
        self._moments: Moments | None = None

    def update(self, embeddings: ArrayLike, labels: ArrayLike | None = None) -> "CollapseProbe":
        """Take the rows of a batch; returns self.

        Args:
            embeddings: [b, d], any float width; made unit here.
            labels: [b] integers, -1 for unlabelled; rows that come without labels are unlabelled.

        Raises:
            TypeError: embeddings that are not floating point, labels that are not integers.
            ValueError: NaN or inf, zero rows, lengths that differ, or another d or device than before.
        """
        rows = as_embeddings(embeddings, metric="cosine")
        own = None if labels is None else as_labels(labels, len(rows)).to(rows.device)
        if self._moments is None:
            self._moments = Moments(rows.shape[1], rows.device)
        d = len(self._moments.first)
        if rows.shape[1] != d:
            raise ValueError(f"embeddings has {rows.shape[1]} dimensions, the rows before had {d}: they must be equal")
        check_device(rows, self._moments.first, names=("embeddings", "the rows before"))
        self._moments.add(rows, own)
        return self

    def merge(self, other: "CollapseProbe") -> "CollapseProbe":
        """Take all the rows that another probe has taken; returns self.

        Raises:
            ValueError: probes of different d.
        """
        theirs = other._moments
        if theirs is None:
            return self
        d = len(theirs.first)
        if self._moments is None:
            self._moments = Moments(d, theirs.first.device)
        if len(self._moments.first) != d:
            raise ValueError(f"the other probe has {d} dimensions, this one {len(self._moments.first)}: cannot merge")
        self._moments.merge(theirs)
        return self

    def reduced(self, world: World) -> "CollapseProbe":
        """A probe that has taken the rows of all processes; this one stays as it is.

        Every process of the world must call it, in the same order: it gathers the labels that were seen, and sums one
        state over the processes. `compute()` on the result is then the same everywhere.

        Raises:
            ValueError: processes with rows of different d, or none with rows.
        """
        own = self._moments
        device = torch.device("cpu") if own is None else own.first.device
        seen = world.gather(torch.tensor([0 if own is None else len(own.first)], device=device)).unique()
        sizes = seen[seen > 0].tolist()
        if len(sizes) != 1:
            got = f"d = {', '.join(map(str, sizes))}" if sizes else "no rows on any"
            raise ValueError(f"the processes must hold rows of one d, got {got}: update() every probe alike first")
        joint = Moments(sizes[0], device)
        if own is not None:
            joint.merge(own)
        joint.widen(world.gather(joint.classes))
        for total in joint.tensors():
            total.copy_(world.reduce(total))
        probe = CollapseProbe()
        probe._moments = joint
        return probe

    @typed
    def compute(self, *, reference: CollapseReport | None = None) -> CollapseReport:
        """The report on all rows so far; more may follow.

        Args:
            reference: an earlier report of the same run, such as before mining began; the verdict compares with it too.

        Raises:
            ValueError: no rows yet, or a reference of fewer than three rows.
        """
        _check_reference(reference)
        report = _measure(self._require())
        baseline = iid_report(report.n, report.d, self._require().class_counts.cpu())
        return _judged(replace(report, baseline=baseline, reference=reference))

    def _require(self) -> Moments:
        if self._moments is None:
            raise ValueError("a CollapseProbe needs rows before compute(): call update(embeddings) first")
        return self._moments


@typed
def probe_embeddings(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    index: NeighborIndex | None = None,
    hubness_k: int = 10,
    reference: CollapseReport | None = None,
    sample: int | None = 1024,
    seed: int = 0,
) -> CollapseReport:
    """Collapse measures of a whole table of embeddings, beside those of iid rows, with a verdict.

    Looks at unit rows, x / |x|; the norms of the rows as given are reported beside.

    Args:
        embeddings: [n, d], any float width; or a bank, which brings its labels.
        labels: [n] classes, -1 for unlabelled.
        index: an unfitted index, such as `ExactIndex()`, to measure hubness with: a search over all rows, and another
            over as many iid rows for the baseline. None leaves hubness out.
        hubness_k: neighbours of each row.
        reference: an earlier report of the same run, best of the untrained encoder; the verdict compares with it too.
        sample: rows drawn for uniformity, nearest_share, nc4 and the ranks within classes; None takes all, and O(n^2)
            time.
        seed: of that draw, and of the iid rows of the hubness baseline.

    Beside the rows, at its peak it holds 32 d^2 + 40 C d + 120 n bytes, the sample in float64, and two blocks of 64 MB;
    with an index, n d floats for the iid rows and what the index takes.

    Returns:
        A `CollapseReport`; its `baseline` holds the same measures of iid rows at the same n, d and class sizes.

    Raises:
        TypeError: embeddings that are not floating point, labels that are not integers.
        ValueError: empty, NaN or inf, zero rows, lengths that differ, hubness_k not below n, labels beside a bank, or a
            reference of fewer than three rows.

    Example:
        >>> import torch
        >>> line = torch.linspace(-1, 1, 50)[:, None] * torch.tensor([[3.0, 4.0]])
        >>> report = probe_embeddings(line)
        >>> round(report.top1_variance, 3), round(report.effective_rank, 3)
        (1.0, 1.0)

    Source: ours; of the measures, see `CollapseReport`.
    """
    if sample is not None:
        check_at_least("sample", sample, 2)
    _check_reference(reference)
    rows, own = _table(embeddings, labels)
    moments = Moments(rows.shape[1], rows.device)
    moments.add(rows, own)
    counts = moments.class_counts
    means = moments.class_sums / counts[:, None]
    n, d = rows.shape
    by_row = row_measures(rows, own, moments.classes, means, sample=sample, seed=seed)
    report = replace(_measure(moments), by_row=by_row)
    chance = iid_row_measures(d, counts.cpu(), n=n, sample=sample)
    baseline = replace(iid_report(n, d, counts.cpu()), by_row=chance)
    if index is not None:
        report = replace(report, by_neighbour=search_hubness(rows, index, hubness_k))
        iid = iid_rows(n, d, seed=seed, device=rows.device)
        baseline = replace(baseline, by_neighbour=search_hubness(iid, index, hubness_k))
    return _judged(replace(report, baseline=baseline, reference=reference))


def iid_report(n: int, d: int, counts: Float64[Tensor, " c"]) -> CollapseReport:
    """Expected measures of n iid rows, uniform on the unit sphere in d dimensions, in classes of these sizes.

    The spectrum is that of the Marchenko-Pastur law, see `iid_eigenvalues`.
    """
    report = _spectral(n, d, 1 / n, iid_eigenvalues(n, d, centred=True), iid_eigenvalues(n, d, centred=False))
    report = replace(report, classes=len(counts), by_class=iid_class_measures(counts, d))
    return report if n < LEAST_ROWS else replace(report, verdict=HEALTHY, evidence=())


def _measure(moments: Moments) -> CollapseReport:
    """What the sums tell."""
    n, d = moments.n, len(moments.first)
    mean = (moments.first + moments.class_sums.sum(0)) / n
    second = moments.second.sum(0) / n
    uncentred = eigenvalues(second, min(n, d), noise_floor(d))
    centred = eigenvalues(second.addr_(mean, mean, alpha=-1), min(n - 1, d), noise_floor(d))
    norm_mean, norm_square = (moments.totals[1:] / n).tolist()
    report = replace(
        _spectral(n, d, min(float(mean @ mean), 1.0), centred.cpu(), uncentred.cpu()),
        classes=len(moments.classes),
        norm_mean=norm_mean,
        norm_std=math.sqrt(max(norm_square - norm_mean**2, 0.0)) if n > 1 else math.nan,
    )
    if len(moments.classes) == 0:
        return report
    by_class = class_measures(moments.class_counts, moments.class_sums, moments.second[1])
    return replace(report, by_class=by_class)


def _spectral(
    n: int, d: int, square: float, centred: Float64[Tensor, " r"], uncentred: Float64[Tensor, " q"]
) -> CollapseReport:
    """A report from R^2 and the eigenvalues of the covariance and of the second moment."""
    fitted = decay(centred)
    return CollapseReport(
        n=n,
        d=d,
        mean_cosine=(n * square - 1) / (n - 1) if n > 1 else math.nan,
        resultant_length=math.sqrt(square),
        effective_rank=effective_rank(centred),
        effective_rank_uncentred=effective_rank(uncentred),
        top1_variance=top_share(centred),
        participation_ratio=participation_ratio(centred),
        alpha=None if fitted is None else fitted[0],
        alpha_range=None if fitted is None else fitted[1],
        spectrum=(n * centred).sqrt(),
    )


def _table(
    embeddings: ArrayLike | EmbeddingBank, labels: ArrayLike | None
) -> tuple[Float32[Tensor, "n d"], Int64[Tensor, " n"] | None]:
    """Rows and labels, of a bank or as given."""
    if isinstance(embeddings, EmbeddingBank):
        if labels is not None:
            raise ValueError("labels were given beside a bank, which has its own: pass the bank alone")
        embeddings, labels = embeddings.embeddings, embeddings.labels
    rows = as_embeddings(embeddings, metric="cosine")
    return rows, None if labels is None else as_labels(labels, len(rows)).to(rows.device)


def _check_reference(reference: CollapseReport | None) -> None:
    if reference is not None and reference.n < LEAST_ROWS:
        raise ValueError(f"reference is a report of {reference.n} rows, which tell nothing: probe the whole set")


def _judged(report: CollapseReport) -> CollapseReport:
    found = judge(report)
    return replace(report, verdict=found.fault, evidence=found.evidence, remedy=found.remedy)
