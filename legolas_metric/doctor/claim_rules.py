"""Rules on what may be claimed: intervals, spreads over folds or seeds, thresholds, protocols that flatter."""

import math
from collections.abc import Iterator, Mapping
from statistics import fmean, stdev

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.measures import AUC, EER, MAP_R, RANK_1

_NORMAL = 1.96  # a normal variable lies within so many deviations for 95 %


def interval_wider_than_gain(case: RunCase) -> Iterator[Finding]:
    """A gain over the first epoch that as many queries can't tell from none.

    Of q queries, sd(difference) = sqrt((p(1 - p) + p'(1 - p')) / q), unpaired and as if queries were independent.
    """
    ranking = case.trained("rank_at_1")
    if ranking is None:
        return
    epoch, best = ranking.best(larger=True)
    low, high = (case.curve(f"rank_at_1_{end}") for end in ("low", "high"))
    asked = case.curve("queries")
    queries = asked.last if asked is not None else case.number("queries")
    gain, first = best - ranking.first, ranking.first
    if gain <= 0:
        return
    if low is not None and high is not None and (a := low.at(epoch)) is not None and (b := high.at(epoch)) is not None:
        half, how, measured = (b - a) / 2, f"its interval is [{a:.4f}, {b:.4f}]", True
    elif queries:
        half = _NORMAL * math.sqrt((best * (1 - best) + first * (1 - first)) / queries)
        how, measured = f"of {queries:g} queries a difference is known to ±{half:.4f}, unpaired", False
    else:
        return
    if half > gain:
        yield Finding(
            severity="warning" if measured else "note",
            rule="interval wider than the gain",
            marks=ranking.mark(epoch),
            sentence=f"the gain of {gain:.4f} in rank_at_1 is smaller than what chance moves it by",
            evidence=f"{how}; {ranking.told()}, best {best:.4f} in epoch {epoch:g}",
            remedy="ask more queries, and compare paired: report.difference() over identities",
            share=0.5,
        )


def spread_of_parts(case: RunCase) -> Iterator[Finding]:
    """Folds or seeds that differ by more than training gained, or than is claimed."""
    parts = [curve for part in case.history.parts.values() if (curve := _ranking_of(part.curves)) is not None]
    if len(parts) < 2:
        return
    ends = [curve.best(larger=True)[1] for curve in parts]
    claim = case.number("claimed_gain")
    if claim is None:
        if any(curve.epochs[0] != 0 for curve in parts):
            return
        claim = fmean(ends) - fmean(curve.first for curve in parts)
    spread = stdev(ends)
    if spread > case.limits["spread"] * max(claim, 0.0) and spread > case.limits["worse"]:
        yield Finding(
            severity="warning",
            rule="spread larger than the claim",
            marks=parts[0].mark(),
            sentence=f"{len(ends)} parts spread by {spread:.3f} in {parts[0].name}, and the gain is {claim:.3f}",
            evidence=", ".join(f"{name} {end:.3f}" for name, end in zip(case.history.parts, ends)),
            remedy="quote mean and spread, run more seeds, and claim what is larger than the spread",
            share=min(spread, 1.0),
        )


def thresholds_move(case: RunCase) -> Iterator[Finding]:
    """A threshold that is another one in each fold serves none of them."""
    ends = {
        name: curve.last for name, part in case.history.parts.items() if (curve := part.get("threshold")) is not None
    }
    if len(ends) > 1 and (apart := max(ends.values()) - min(ends.values())) > case.limits["threshold_moved"]:
        yield Finding(
            severity="warning",
            rule="thresholds move",
            sentence=f"the threshold moves by {apart:.3f} between folds: none of them holds for new rows",
            evidence=", ".join(f"{name} {end:.3f}" for name, end in ends.items()),
            remedy="normalise the scores (ScoreNorm), or set the threshold on identities of their own; quote FAR and "
            "FRR at the threshold of another fold",
            share=min(apart, 1.0),
        )


def pair_statistics_alone(case: RunCase) -> Iterator[Finding]:
    """AUC or EER get better, and the ranking does not."""
    ranking = case.ranking()
    if ranking is None or ranking.last >= case.limits["saturated"]:
        return
    for name, way in (("auc", 1), ("eer", -1)):
        pairs = case.trained(name)
        if (
            pairs is None
            or way * (pairs.last - pairs.first) < case.limits["worse"]
            or way * pairs.trend() < case.limits["trend"]
        ):
            continue
        if ranking.last <= ranking.first and ranking.best(larger=True)[1] <= ranking.first + case.limits["worse"]:
            yield Finding(
                severity="warning",
                rule="pair statistics alone",
                marks=(*pairs.mark(), *ranking.mark()),
                sentence=f"validation improves on pair statistics alone: {name} gets better, {ranking.name} does not",
                evidence=f"{pairs.told()}; {ranking.told()}",
                remedy=f"choose and stop by {RANK_1} or {MAP_R} where you will search; by {AUC} or {EER} only "
                "where you verify",
                share=1 - ranking.last,
            )
            return


def flattering_protocol(case: RunCase) -> Iterator[Finding]:
    """Under the easy protocol it gains, under the strict one it doesn't: within a session, most often."""
    for base in ("rank_at_1", "map_at_r"):
        by = {name.partition("/")[2]: case.trained(name) for name in case.history.curves if name.startswith(f"{base}/")}
        held = {name: curve for name, curve in by.items() if curve is not None}
        if len(held) < 2:
            continue
        strict = min(held, key=lambda name: held[name].last)
        easy = max(held, key=lambda name: held[name].last)
        hard, kind = held[strict], held[easy]
        gain, lost = kind.last - kind.first, hard.last - hard.first
        least = case.limits["worse"]
        if gain > 2 * least and lost < least and hard.last < case.limits["saturated"] and kind.last - hard.last > least:
            yield Finding(
                severity="warning",
                rule="flattering protocol",
                marks=(*kind.mark(), *hard.mark()),
                sentence=f"{base} improves under {easy} only ({gain:+.3f}); under {strict} it does not ({lost:+.3f})",
                evidence=f"{kind.told()}; {hard.told()}",
                remedy=f"judge and stop by {base}/{strict}; train with positives of other sessions "
                "(PKSampler(distinct_groups=True))",
                share=min(kind.last - hard.last, 1.0),
            )
            return


def _ranking_of(curves: Mapping[str, Curve]) -> Curve | None:
    return next((curves[name] for name in ("rank_at_1", "map_at_r") if name in curves and len(curves[name])), None)


RULES = (interval_wider_than_gain, spread_of_parts, thresholds_move, pair_statistics_alone, flattering_protocol)
