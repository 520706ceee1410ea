"""Rules on what was mined, and on collapse over time."""

from collections.abc import Iterator

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.run_case import RunCase

_HARD = ("hard", "semi-hard", "semihard", "full-hard")


def negatives_were_random(case: RunCase) -> Iterator[Finding]:
    """Hard mining by name, random negatives in fact."""
    origins = case.history.words.get("negatives_from", ()) or (case.text("negatives_from"),)
    asked = [*case.history.words.get("strategy", ()), *map(str, case.settings.get("stages", ()) or ())]
    hard = [name for name in dict.fromkeys(asked) if any(word in name.lower() for word in _HARD)]
    if set(origins) == {"random"} and hard:
        yield Finding(
            severity="fault",
            rule="negatives were random",
            sentence=f"the negatives were random throughout, though the strategy says {' and '.join(hard)}",
            evidence=f"negatives_from = random in {len(case.history.words.get('negatives_from', ())) or 'all'} "
            "epochs: no "
            "embeddings reached the miner",
            remedy="pass the miner the embeddings (GlobalMining, or miner.mine(bank)), and look at its stats "
            "every round",
            share=1.0,
        )


def starved(case: RunCase) -> Iterator[Finding]:
    """Rounds that fell back, found nothing, or were not fed."""
    rounds = case.history.rounds
    anchors = _last(rounds.get("anchors"))
    limit = case.limits
    for name, most, sentence in (
        ("fallback", limit["fallback"], "of the anchors were served by another rule than asked"),
        ("no_negative", limit["starved"], "of the anchors have no negative"),
        ("outside_window", limit["starved"], "of the anchors have no negative inside the window"),
        ("exhausted", limit["starved"], "of the anchors were dropped, since the guard rejected all candidates"),
    ):
        count = _last(rounds.get(name))
        if anchors and count is not None and count / anchors > most:
            yield Finding(
                severity="fault" if name == "fallback" else "warning",
                rule=f"mining: {name}",
                sentence=f"{count / anchors:.0%} {sentence}",
                evidence=f"{name} {count:g} of {anchors:g} anchors in the last round",
                remedy="widen the window (a larger margin), or mine from more rows, and look at the stats of "
                "every round",
                share=min(count / anchors, 1.0),
            )
    fed = _last(rounds.get("fed"))
    if fed is not None and fed < limit["starved"]:
        yield Finding(
            severity="warning",
            rule="mining: fed",
            sentence=f"only {fed:.0%} of the mined triplets were fed before the next round",
            evidence=f"fed {fed:.3f} in the last round",
            remedy="mine less often, or for fewer anchors",
            share=1 - fed,
        )


def stale(case: RunCase) -> Iterator[Finding]:
    """A bank whose rows are no longer where the encoder puts them."""
    drift, age = case.history.rounds.get("drift"), _last(case.history.rounds.get("max_age"))
    if drift is not None and len(drift) and drift.last < case.limits["drift"]:
        yield Finding(
            severity="warning",
            rule="stale bank",
            sentence=f"the bank is stale: rows and their rewrites have a mean cosine of {drift.last:.2f}",
            evidence=drift.told() + ("" if age is None else f"; oldest row {age:g} steps"),
            remedy="refresh the bank more often, or lower the rate",
            share=1 - max(drift.last, 0.0),
        )


def margin_inactive(case: RunCase) -> Iterator[Finding]:
    """Triplets that are all beyond the margin already."""
    active = case.trained("active")
    if active is not None and active.last < case.limits["active"]:
        yield Finding(
            severity="warning",
            rule="margin inactive",
            sentence=f"only {active.last:.1%} of the triplets lie inside the margin: the loss has nothing left to do",
            evidence=active.told(),
            remedy="mine harder negatives, or use a larger margin; where the training classes are solved, more "
            "identities",
            share=1 - active.last,
        )


def collapse_over_time(case: RunCase) -> Iterator[Finding]:
    """Rank lost since its peak, rows that drew together, hubs that grew; worse where the ranking fell with them."""
    ranking = case.ranking()
    gained = ranking is not None and ranking.last >= ranking.first + case.limits["worse"]
    rank, hubs = case.trained("effective_rank"), case.trained("hubness")
    cone = case.trained("resultant_length", "mean_cosine")
    beside = "" if ranking is None else f"; {ranking.told()}"
    if cone is not None and cone.last > case.limits["narrow"]:
        narrowed = 1 - cone.last < 0.5 * (1 - cone.first)
        sound = gained and ranking is not None and ranking.last >= case.limits["poor_rank"]
        yield Finding(
            severity="fault" if narrowed and not sound else "note",
            rule="narrow cone" if sound or not narrowed else "collapse",
            sentence=f"all rows draw together: {cone.name} {cone.first:.4f} to {cone.last:.4f}"
            if narrowed
            else f"all rows share a large offset (a narrow cone), as in the first epoch: {cone.name} {cone.last:.4f}",
            evidence=cone.told() + beside,
            remedy="mine easier negatives, lower the rate or the margin, and go on from the last healthy checkpoint"
            if narrowed and not sound
            else "none is needed to rank",
            share=cone.last if narrowed else 0.0,
        )
    if rank is not None:
        epoch, peak = rank.best(larger=True)
        if rank.last < case.limits["rank_halved"] * peak:
            yield Finding(
                severity="note" if gained else "warning",
                rule="effective rank halved",
                sentence=f"the effective rank fell to {rank.last:.1f} from {peak:.1f} in epoch {epoch:g}"
                + (", while the ranking gained" if gained else ""),
                evidence=rank.told() + beside,
                remedy="look whether the classes need more directions (C - 1); if the ranking fell too, add a "
                "term that "
                "spreads the rows",
                share=1 - rank.last / peak,
            )
    if hubs is not None and hubs.first > 0 and hubs.last > case.limits["hubs_grew"] * hubs.first:
        yield Finding(
            severity="note" if gained else "warning",
            rule="hubs grew",
            sentence=f"hubness rose from {hubs.first:.1f} to {hubs.last:.1f}: few rows are neighbours of many",
            evidence=hubs.told() + beside,
            remedy="subtract the mean before searching, or rank by CSLS-like scores",
            share=1 - hubs.first / hubs.last,
        )


def _last(curve: Curve | None) -> float | None:
    return curve.last if curve is not None and len(curve) else None


RULES = (negatives_were_random, starved, stale, margin_inactive, collapse_over_time)
