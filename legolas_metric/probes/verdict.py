"""From measures to a verdict, with its evidence and a remedy.

No universal threshold is published. These compare with iid rows at the same n and d, with what the labels allow, and
with an earlier report of the same run where one is given. Rank is necessary, not sufficient: it compares runs of one
method. Where all rows lie tells little: a ReLU before the head puts the rows of any network into a narrow cone, trained
or not, and classes are told apart by what is left when that common offset is taken away.
"""

import math
from dataclasses import dataclass

from legolas_metric.probes.collapse_report import CLASS, DIMENSIONAL, HEALTHY, OVER_CLUSTERED, POINT, CollapseReport

LEAST_ROWS = 3
# Untrained networks lie at R = 0.97 to 0.9999 (a ReLU before the head, layer or batch norm after it); runs stuck at the
# loss of a collapsed model had 0.998 and more.
NARROW = 0.99
# In a cone: how often the nearest row must have the same label, beyond chance, for the cone to be an offset and no
# point: at the limit of R, for each decade that 1 - R lies below it, and at most. Collapsed at the margin: conv4 had
# 0.25 to 0.46 at R = 0.9999, a small network 0.51 at 0.9987 and 0.73 at 0.9998; an offset: CLINC, 0.91 at 0.9992.
SOUND, SOUND_A_DECADE, SOUND_AT_MOST = 0.5, 0.2, 0.9
# The same from class sums, where single rows aren't known (a stream): that conv4 had 0.32 to 0.40.
SOUND_CLASS_SHARE = 0.5
# At 5 % of the variance, with 20 directions filled, a positive pair is nearer than a negative one 6 times of 10.
CLASS_SHARE = 0.05
RANK_SHARE = 0.25
TOP_SHARE, TOP_SHARE_FROM = 0.8, 4
CLUSTER_SHARE = 0.01
# How much of the reference's figure is left when it counts as lost: of the rank and of 1 - R, and of the class share.
REFERENCE_SHARE = 0.5
REFERENCE_CLASS_SHARE = 0.25
# The nearest row has the label so much more often than in the reference, or always but for this: what else fell was of
# no use to the ranking.
GAINED = 0.05

_REMEDIES = {
    None: "",
    HEALTHY: "",
    POINT: "mine easier negatives (step the schedule back to semi-hard or random), lower the learning rate or the "
    "margin, and go on from the last healthy checkpoint; an encoder that was not trained yet may start like this: pass "
    "its report as reference",
    CLASS: "check that labels and rows belong together, and that positives are pulled together at all; then train "
    "longer with easier negatives",
    DIMENSIONAL: "add a term that spreads the rows (uniformity), weaken the projection head, or use fewer dimensions",
    OVER_CLUSTERED: "on training rows this is where SupCon ends, and no alarm: look at classes that were not trained "
    "on; if they rank worse than before, stop earlier, or use a larger temperature or a smaller margin",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A fault, "healthy", or None where nothing can be said; the figures that say so; what to do."""

    fault: str | None
    evidence: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """What to do about it; empty when healthy."""
        return _REMEDIES[self.fault]


def judge(report: CollapseReport, *, strictness: float | int = 1.0) -> Verdict:
    """The worst fault that the figures show, with those figures; for "healthy", the figures that were looked at.

    Args:
        report: with a baseline.
        strictness: factor on every limit; above 1, a report must be healthier to pass, below 1 only a clear fault
            is one.
    """
    if report.n < LEAST_ROWS:
        rows = "one row fills" if report.n == 1 else f"{report.n} rows fill"
        return Verdict(None, (f"{rows} no space, collapsed or not: a verdict needs {LEAST_ROWS} rows at least",))
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
    """All rows in one place, as seen from the origin (R near 1), and no order left among them."""
    length, start = report.resultant_length, None if report.reference is None else report.reference.resultant_length
    room = 1 - NARROW if start is None else min(1 - NARROW, REFERENCE_SHARE * (1 - start))
    limit = 1 - strictness * room
    evidence = (
        f"resultant length R = {length:.4f}, mean cosine {report.mean_cosine:.4f} over all pairs "
        f"(collapsed from R = {limit:.4f}{_beside(report, 'resultant_length', '.4f')})",
    )
    if length < min(NARROW, limit):
        return POINT, False, evidence
    if length < limit:
        return POINT, False, (f"narrow cone, no narrower than it began: {evidence[0]}",)
    decades = math.log10(strictness * room / max(1 - length, 1e-12)) if room > 0 else math.inf
    sound, sentence = _sound(report, strictness, min(SOUND + SOUND_A_DECADE * max(decades, 0.0), SOUND_AT_MOST))
    if not sound:
        return POINT, True, (*evidence, sentence)
    return POINT, False, (f"narrow cone, a large offset that all rows share: {evidence[0]}", sentence)


def _sound(report: CollapseReport, strictness: float | int, least: float) -> tuple[bool, str]:
    """Whether what is left without the common offset tells the classes apart, in enough directions."""
    if report.class_share is None:
        return False, "without labels a narrow cone can't be told from a point: pass labels, or an earlier report"
    if _classes(report, strictness)[1] or _dimensions(report, strictness)[1]:
        return False, (
            f"around their mean too, classes explain {report.class_share:.1%} of the variance beyond chance, in "
            f"{report.effective_rank:.1f} effective dimensions"
        )
    assert report.baseline is not None
    nearest, chance = report.nearest_share, report.baseline.nearest_share
    if nearest is None or chance is None:
        limit = _stricter(SOUND_CLASS_SHARE, strictness)
        return report.class_share >= limit, (
            f"around their mean, classes explain {report.class_share:.1%} of the variance beyond chance (an offset "
            f"and no collapse from {limit:.0%})"
        )
    limit = chance + _stricter(least, strictness) * (1 - chance)
    return nearest >= limit, (
        f"the nearest row has the same label {nearest:.1%} of the time (an offset and no collapse from {limit:.1%}"
        f"{_beside(report, 'nearest_share', '.1%')})"
    )


def _stricter(share: float, strictness: float | int) -> float:
    return 1 - (1 - share) / max(strictness, 1)


def _gained(report: CollapseReport) -> bool:
    """Whether the run ranks better than its reference, or as well as can be, by the rows drawn of both."""
    nearest, before = report.nearest_share, None if report.reference is None else report.reference.nearest_share
    return nearest is not None and before is not None and nearest >= min(before + GAINED, 1 - GAINED)


def _classes(report: CollapseReport, strictness: float | int) -> _Finding:
    """Class means in one place: the labels explain no more of the variance than chance."""
    share, limit = report.class_share, CLASS_SHARE
    if share is None:
        return CLASS, False, ()
    before = None if report.reference is None else report.reference.class_share
    if before is not None and not _gained(report):
        limit = max(limit, REFERENCE_CLASS_SHARE * before)
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
    if report.reference is not None and not _gained(report):
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
