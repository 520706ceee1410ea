"""From measures to a verdict, with its evidence and a remedy.

No universal threshold is published. These compare with iid rows at the same n and d, with what the labels allow, and
with an earlier report of the same run where one is given. Rank is necessary, not sufficient: it compares runs of one
method.
"""

from dataclasses import dataclass

from legolas_metric.probes.report import CLASS, DIMENSIONAL, HEALTHY, OVER_CLUSTERED, POINT, CollapseReport

POINT_LENGTH = 0.99
CLASS_SHARE = 0.05
RANK_SHARE = 0.25
REFERENCE_SHARE = 0.5
CLUSTER_SPREAD = 0.02

_REMEDIES = {
    HEALTHY: "",
    POINT: "mine easier negatives (step the schedule back to semi-hard or random), lower the learning rate or the "
    "margin, and go on from the last healthy checkpoint",
    CLASS: "check that labels and rows belong together, and that positives are pulled together at all; then train "
    "longer with easier negatives",
    DIMENSIONAL: "add a term that spreads the rows (uniformity), weaken the projection head, or use fewer dimensions",
    OVER_CLUSTERED: "on training rows this is where SupCon ends, and no alarm: look at classes that were not trained "
    "on; if they rank worse than before, stop earlier, or use a larger temperature or a smaller margin",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A fault, or "healthy"; the figures that say so; what to do."""

    fault: str
    evidence: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """What to do about it; empty when healthy."""
        return _REMEDIES[self.fault]


def judge(report: CollapseReport) -> Verdict:
    """The worst fault that the figures show, with those figures; for "healthy", the figures that were looked at."""
    checks = (_point(report), _classes(report), _dimensions(report), _clusters(report))
    for fault, failed, evidence in checks:
        if failed:
            return Verdict(fault, evidence)
    return Verdict(HEALTHY, tuple(sentence for _, _, evidence in checks for sentence in evidence))


_Finding = tuple[str, bool, tuple[str, ...]]


def _point(report: CollapseReport) -> _Finding:
    """All rows in one place: R near 1. R is that of unit rows, and does not see how labels lie."""
    length = report.resultant_length
    evidence = (
        f"resultant length R = {length:.4f}, mean cosine {report.mean_cosine:.4f} over all pairs "
        f"(collapsed from R = {POINT_LENGTH}{_beside(report, 'resultant_length', '.4f')})",
    )
    return POINT, report.n > 1 and length >= POINT_LENGTH, evidence


def _classes(report: CollapseReport) -> _Finding:
    """Class means in one place: the labels explain no more of the variance than chance."""
    share = report.class_share
    if share is None:
        return CLASS, False, ()
    evidence = (
        f"classes explain {share:.1%} of the variance beyond chance (collapsed below {CLASS_SHARE:.0%}"
        f"{_beside(report, 'class_share', '.1%')})",
        f"between-class spread {report.between_class_spread:.4f}{_beside(report, 'between_class_spread', '.4f')}",
    )
    return CLASS, share < CLASS_SHARE, evidence


def _dimensions(report: CollapseReport) -> _Finding:
    """Few directions filled. C classes need only C - 1, and that much is no fault."""
    assert report.baseline is not None
    possible = report.baseline.effective_rank
    if report.classes > 1:
        possible = min(possible, report.classes - 1)
    limit = RANK_SHARE * possible
    if report.reference is not None:
        limit = max(limit, min(REFERENCE_SHARE * report.reference.effective_rank, possible))
    evidence = (
        f"effective rank {report.effective_rank:.1f} of {report.d} dimensions (collapsed below {limit:.1f}"
        f"{_beside(report, 'effective_rank', '.1f')})",
        f"main direction holds {report.top1_variance:.1%} of the variance{_beside(report, 'top1_variance', '.1%')}",
    )
    return DIMENSIONAL, report.effective_rank < limit, evidence


def _clusters(report: CollapseReport) -> _Finding:
    """Every class a point, and the points apart: nothing is left of the differences within a class."""
    within, between = report.within_class_spread, report.between_class_spread
    if within is None or between is None or report.class_share is None:
        return OVER_CLUSTERED, False, ()
    share = within / (within + between)
    evidence = (f"{share:.1%} of the spread is within classes (over-clustered below {CLUSTER_SPREAD:.0%})",)
    return OVER_CLUSTERED, share < CLUSTER_SPREAD, evidence


def _beside(report: CollapseReport, name: str, form: str) -> str:
    """The same figure of iid rows, and of the run's own reference where there is one."""
    text = ""
    for whose, other in (("iid rows", report.baseline), ("reference", report.reference)):
        value = None if other is None else getattr(other, name)
        if value is not None:
            text += f"; {whose} {value:{form}}"
    return text
