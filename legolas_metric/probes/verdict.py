"""From measures to a verdict, with its evidence and a remedy.

No universal threshold is published. These compare with iid rows at the same n and d, with what the labels allow, and
with an earlier report of the same run where one is given. Rank is necessary, not sufficient: it compares runs of one
method.
"""

from dataclasses import dataclass

from legolas_metric.probes.collapse_report import CLASS, DIMENSIONAL, HEALTHY, OVER_CLUSTERED, POINT, CollapseReport

# An untrained network can have R = 0.98 and rank well; runs stuck at the loss of a collapsed model had 0.998 and more.
POINT_LENGTH = 0.99
# At 5 % of the variance, with 20 directions filled, a positive pair is nearer than a negative one 6 times of 10.
CLASS_SHARE = 0.05
RANK_SHARE = 0.25
TOP_SHARE, TOP_SHARE_FROM = 0.8, 4
CLUSTER_SHARE = 0.01
# How much of the reference's figure is left when it counts as lost: of the rank and of 1 - R, and of the class share.
REFERENCE_SHARE = 0.5
REFERENCE_CLASS_SHARE = 0.25

_REMEDIES = {
    HEALTHY: "",
    POINT: "mine easier negatives (step the schedule back to semi-hard or random), lower the learning rate or the "
    "margin, and go on from the last healthy checkpoint; an encoder that was not trained yet may start like this",
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


def judge(report: CollapseReport, *, strictness: float | int = 1.0) -> Verdict:
    """The worst fault that the figures show, with those figures; for "healthy", the figures that were looked at.

    Args:
        report: with a baseline.
        strictness: factor on every limit; above 1, a report must be healthier to pass.
    """
    checks = _checks(report, strictness)
    for fault, failed, evidence in checks:
        if failed:
            return Verdict(fault, evidence)
    return Verdict(HEALTHY, tuple(sentence for _, _, evidence in checks for sentence in evidence))


def shows(report: CollapseReport, fault: str, *, strictness: float | int = 1.0) -> bool:
    """Whether the figures show a fault, be it their worst or not."""
    return any(failed for name, failed, _ in _checks(report, strictness) if name == fault)


def _checks(report: CollapseReport, strictness: float | int) -> "list[_Finding]":
    return [look(report, strictness) for look in (_point, _classes, _dimensions, _clusters)]


_Finding = tuple[str, bool, tuple[str, ...]]


def _point(report: CollapseReport, strictness: float | int) -> _Finding:
    """All rows in one place, as seen from the origin: R near 1."""
    room = 1 - POINT_LENGTH
    if report.reference is not None:
        room = min(room, REFERENCE_SHARE * (1 - report.reference.resultant_length))
    length, limit = report.resultant_length, 1 - strictness * room
    evidence = (
        f"resultant length R = {length:.4f}, mean cosine {report.mean_cosine:.4f} over all pairs "
        f"(collapsed from R = {limit:.4f}{_beside(report, 'resultant_length', '.4f')})",
    )
    return POINT, report.n > 1 and length >= limit, evidence


def _classes(report: CollapseReport, strictness: float | int) -> _Finding:
    """Class means in one place: the labels explain no more of the variance than chance."""
    share, limit = report.class_share, CLASS_SHARE
    if share is None:
        return CLASS, False, ()
    if report.reference is not None and report.reference.class_share is not None:
        limit = max(limit, REFERENCE_CLASS_SHARE * report.reference.class_share)
    limit *= strictness
    evidence = (
        f"classes explain {share:.1%} of the variance beyond chance "
        f"(collapsed below {limit:.1%}{_beside(report, 'class_share', '.1%')})",
        f"between-class spread {report.between_class_spread:.4f}{_beside(report, 'between_class_spread', '.4f')}",
    )
    return CLASS, share < limit, evidence


def _dimensions(report: CollapseReport, strictness: float | int) -> _Finding:
    """Few directions filled, or one that outweighs all. C classes need only C - 1, and that much is no fault."""
    assert report.baseline is not None
    possible = report.baseline.effective_rank
    if report.classes > 1:
        possible = min(possible, report.classes - 1)
    limit = RANK_SHARE * possible
    if report.reference is not None:
        limit = max(limit, min(REFERENCE_SHARE * report.reference.effective_rank, REFERENCE_SHARE * possible))
    limit, top = strictness * limit, 1 - strictness * (1 - TOP_SHARE)
    evidence = (
        f"effective rank {report.effective_rank:.1f} of {report.d} dimensions "
        f"(collapsed below {limit:.1f}{_beside(report, 'effective_rank', '.1f')})",
        f"the main direction holds {report.top1_variance:.1%} of the variance "
        f"(collapsed from {top:.0%}{_beside(report, 'top1_variance', '.1%')})",
    )
    one_axis = possible >= TOP_SHARE_FROM and report.top1_variance >= top
    return DIMENSIONAL, report.effective_rank < limit or one_axis, evidence


def _clusters(report: CollapseReport, strictness: float | int) -> _Finding:
    """Every class a point, and the points apart: nothing is left of the differences within a class."""
    within, between = report.within_class_spread, report.between_class_spread
    if within is None or between is None or report.class_share is None:
        return OVER_CLUSTERED, False, ()
    share, limit = within / (within + between), strictness * CLUSTER_SHARE
    evidence = (f"{share:.1%} of the spread is within classes (over-clustered below {limit:.1%})",)
    return OVER_CLUSTERED, share < limit, evidence


def _beside(report: CollapseReport, name: str, form: str) -> str:
    """The same figure of iid rows, and of the run's own reference where there is one."""
    text = ""
    for whose, other in (("iid rows", report.baseline), ("reference", report.reference)):
        value = None if other is None else getattr(other, name)
        if value is not None:
            text += f"; {whose} {value:{form}}"
    return text
