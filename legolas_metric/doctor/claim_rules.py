"""Rules on what may be claimed: intervals, spreads over folds or seeds, thresholds, protocols that flatter."""

import math
from collections.abc import Iterator
from statistics import fmean, stdev

from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.history_reader import History
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.measures import AUC, EER, MAP_R, RANK_1


def interval_wider_than_gain(case: RunCase) -> Iterator[Finding]:
    """A gain over the first epoch that as many queries can't tell from none.

    Of q queries, sd(difference) = sqrt((p(1 - p) + p'(1 - p')) / q), unpaired and as if queries were independent.
    """
    ranking = case.trained("rank_at_1")
    if ranking is None or case.history.pooled:  # of folds, all queries are asked together
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
    elif queries and queries > 0:
        half = case.limits["deviations"] * math.sqrt((best * (1 - best) + first * (1 - first)) / queries)
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


def pooled_interval_wider_than_gain(case: RunCase) -> Iterator[Finding]:
    """Over the queries of all folds, a gain over the untrained encoder that few identities can't tell from none."""
    for name, (value, low, high) in case.history.pooled.items():
        before = [part.curves[name] for part in case.history.parts.values() if name in part.curves]
        if not before or any(not len(curve) or curve.epochs[0] != 0 for curve in before):
            continue
        first = fmean(curve.first for curve in before)
        if 0 < value - first < (high - low) / 2:
            yield Finding(
                severity="warning",
                rule="interval wider than the gain",
                marks=case.history.curves[name].mark() if name in case.history.curves else (),
                sentence=f"the gain of {value - first:.4f} in {name} over all folds is smaller than what other people "
                "would move it by",
                evidence=f"pooled {value:.4f} [{low:.4f}, {high:.4f}] over identities; untrained {first:.4f}",
                remedy="judge on more identities",
                share=0.5,
            )
            return


def spread_of_parts(case: RunCase) -> Iterator[Finding]:
    """Folds or seeds that differ by more than training gained, or than is claimed."""
    for name in ("rank_at_1", "map_at_r"):
        ends = {place: end for place, part in case.history.parts.items() if (end := _end(part, name)) is not None}
        if len(ends) > 1:
            break
    else:
        return
    claim, spread = case.number("claimed_gain"), stdev(ends.values())
    if claim is None:
        firsts = [part.get(name) for part in case.history.parts.values()]
        if any(curve is None or curve.epochs[0] != 0 for curve in firsts):
            return
        claim = fmean(ends.values()) - fmean(curve.first for curve in firsts if curve is not None)
    if spread > case.limits["spread"] * max(claim, 0.0) and spread > case.limits["worse"]:
        curve = case.history.get(name)
        yield Finding(
            severity="warning",
            rule="spread larger than the claim",
            marks=() if curve is None else curve.mark(),
            sentence=f"{len(ends)} parts spread by {spread:.3f} in {name}, and the gain is {claim:.3f}",
            evidence=", ".join(f"{place} {end:.3f}" for place, end in ends.items()),
            remedy="quote mean and spread, run more seeds, and claim what is larger than the spread",
            share=min(spread, 1.0),
        )


def _end(part: History, name: str) -> float | None:
    """What a part came to: its result, or its best epoch."""
    curve = part.get(name)
    return part.result.get(name, None if curve is None else curve.best(larger=True)[1])


def thresholds_move(case: RunCase) -> Iterator[Finding]:
    """A threshold that is another one in each fold serves none of them."""
    ends: dict[str, float] = {}
    for place, part in case.history.parts.items():
        curve = part.get("threshold")
        end = part.result.get("threshold", None if curve is None else curve.last)
        if end is not None:
            ends[place] = end
    # Similarities lie in [-1, 1]; of distances that go beyond, the scale is their own.
    scale = max([1.0, *map(abs, ends.values())])
    apart = max(ends.values(), default=0.0) - min(ends.values(), default=0.0)
    if len(ends) > 1 and apart > case.limits["threshold_moved"] * scale:
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


RULES = (
    *(interval_wider_than_gain, pooled_interval_wider_than_gain, spread_of_parts, thresholds_move),
    *(pair_statistics_alone, flattering_protocol),
)
