"""Rules on runs that went well until an epoch: rankings that fell from their peak, losses that rose again."""

import math
from collections.abc import Iterator

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding, Severity
from legolas_metric.doctor.learning_rules import loss_falls_ranking_falls
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.measures import MAP_R, RANK_1


def fell_from_peak(case: RunCase) -> Iterator[Finding]:
    """A ranking, or else an accuracy, that rose and ends far below its peak, whatever the loss did meanwhile."""
    if any(loss_falls_ranking_falls(case)):
        return
    curves = case.rankings() or [curve for curve in [case.wanted()] if curve is not None]
    for curve in curves:
        smooth = curve.smoothed()
        epoch, peak = smooth.best(larger=True)
        lost, gain = peak - smooth.last, peak - smooth.first
        if gain <= case.limits["worse"]:
            continue
        steady = _beyond(case, lost, peak) and _left(case, smooth.since(epoch), peak)
        last_alone = curve.epochs[-1] in curve.spikes(case.limits, up=False) and _beyond(case, peak - curve.last, peak)
        if not steady and not last_alone:
            continue
        loss = case.trained("train_loss")
        beside = "" if loss is None else "the loss falls while " if case.falls(loss) else "the loss does not fall and "
        best, top = curve.best(larger=True)
        severe: Severity = "fault" if steady and lost >= case.limits["lost_of_gain"] * gain else "warning"
        yield Finding(
            severity="note" if case.kept() else severe,
            rule="ranking fell from its peak",
            marks=curve.mark(best, curve.epochs[-1]),
            sentence=f"{beside}{curve.name} fell from its peak: {top:.4f} in epoch {best:g}, {curve.last:.4f} at the "
            "end" + ("" if steady else ", in the last epoch alone"),
            evidence=f"{curve.told()}; {1 - curve.last / top:.0%} of the peak is lost"
            + ("" if loss is None else f"; {loss.told()}")
            + ("; the best weights were kept" if case.kept() else ""),
            remedy=f"go back to the weights of epoch {best:g}, stop by {RANK_1} or {MAP_R}, lower the rate from there "
            "on, and see what the loss is fed since",
            share=min(1 - curve.last / top, 1.0),
        )
        return


def _beyond(case: RunCase, lost: float, peak: float) -> bool:
    """Whether so much is more than chance and rounding lose of a peak."""
    asked = case.curve("queries")
    queries = asked.last if asked is not None else case.number("queries")
    end = min(max(peak - lost, 0.0), 1.0)
    known = queries is not None and queries > 0 and 0 <= peak <= 1
    chance = math.sqrt((peak * (1 - peak) + end * (1 - end)) / queries) if known and queries else 0.0
    return lost > max(case.limits["ranking_fell"] * peak, case.limits["worse"], case.limits["deviations"] * chance)


def _left(case: RunCase, after: Curve, peak: float) -> bool:
    """Whether a curve falls since its peak, or fell at once and stays below."""
    rest = after.values[1:]
    stays = len(rest) > 1 and max(rest[len(rest) // 2 :]) < (1 - case.limits["ranking_fell"]) * peak
    return after.trend() < -case.limits["trend"] or stays


def loss_diverges(case: RunCase) -> Iterator[Finding]:
    """A training loss that ends far above its least value, and rises since; another miner's harder triplets may."""
    loss = case.trained("train_loss")
    if loss is None or case.gained():
        return
    smooth = loss.smoothed()
    epoch, least = smooth.best(larger=False)
    after = smooth.since(epoch)
    rises = after.trend() > case.limits["trend"] and len(after) >= case.limits["few_epochs"]
    room = case.limits["loss_rose"] * max(abs(least), case.limits["visible"] * max(map(abs, loss.values)))
    if not rises or smooth.last - least <= room or any(stage >= epoch for stage in case.history.stages):
        return
    rates, ranking = case.curve("lr"), case.ranking()
    yield Finding(
        severity="warning" if ranking is None else "fault",
        rule="loss diverges",
        marks=loss.mark(epoch, loss.epochs[-1]),
        sentence=f"the training loss rises from epoch {epoch:g} on: {loss.at(epoch):.4g} to {loss.last:.4g}",
        evidence=loss.told()
        + ("" if rates is None else f"; rate {rates.last:g}")
        + ("" if ranking is None else f"; {ranking.told()}, which gains nothing"),
        remedy="lower the rate (a tenth), clip gradients, and see whether what is minimised has the right sign",
        share=min((smooth.last - least) / abs(smooth.last), 1.0) if smooth.last else 1.0,
    )


RULES = (fell_from_peak, loss_diverges)
