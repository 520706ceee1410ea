"""Rules on collapse over time."""

from collections.abc import Iterator

from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.measures import EFFECTIVE_RANK


def collapse_over_time(case: RunCase) -> Iterator[Finding]:
    """Rank lost since its peak, rows that drew together, hubs that grew; worse where the ranking fell with them."""
    ranking = case.ranking()
    gained = ranking is not None and ranking.last >= ranking.first + case.limits["worse"]
    rank, hubs = case.trained("effective_rank"), case.trained("hubness")
    cone = case.trained("resultant_length", "mean_cosine")
    beside = "" if ranking is None else f"; {ranking.told()}"
    if cone is not None and cone.last > case.limits["narrow"]:
        narrowed = 1 - cone.last < case.limits["narrowed"] * (1 - cone.first)
        sound = gained and ranking is not None and ranking.last >= case.limits["poor_rank"]
        yield Finding(
            severity="fault" if narrowed and not sound else "note",
            rule="narrow cone" if sound or not narrowed else "collapse",
            marks=cone.mark(),
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
                rule=f"{EFFECTIVE_RANK} halved",
                marks=rank.mark(epoch, rank.epochs[-1]),
                sentence=f"the {EFFECTIVE_RANK} fell to {rank.last:.1f} from {peak:.1f} in epoch {epoch:g}"
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
            marks=hubs.mark(),
            sentence=f"hubness rose from {hubs.first:.1f} to {hubs.last:.1f}: few rows are neighbours of many",
            evidence=hubs.told() + beside,
            remedy="subtract the mean before searching, or rank by CSLS-like scores",
            share=1 - hubs.first / hubs.last,
        )


def verdicts(case: RunCase) -> Iterator[Finding]:
    """The probes' verdict at the end, where it was another one before, or the ranking is poor beside it."""
    told, ranking = case.history.words.get("verdict", ()), case.ranking()
    judged = {name: curve for name, curve in case.history.curves.items() if name.startswith("healthy_") and len(curve)}
    ill = [name.removeprefix("healthy_") for name, curve in judged.items() if curve.last == 0]
    last = told[-1] if told else ""
    if not ill and last in ("", "None", "healthy"):
        return
    good = ranking is not None and ranking.last >= case.limits["poor_rank"] and ranking.last >= ranking.first
    guards = case.history.happened("guard")
    since = [curve for name, curve in judged.items() if curve.last == 0 and name.removeprefix("healthy_") in ill]
    yield Finding(
        severity="note" if good else "fault",
        rule="verdict of the probes",
        marks=tuple(mark for curve in since for mark in curve.mark()),
        sentence=f"the probes say of the end: {last or 'collapsed'}" + (f" ({', '.join(ill)})" if ill else ""),
        evidence="; ".join(
            [
                *([f"verdicts: {', '.join(dict.fromkeys(told))}"] if told else []),
                *(
                    f"{curve.name}: {sum(value == 0 for value in curve.values)} of {len(curve)} epochs"
                    for curve in since
                ),
                *(str(event.get("why")) for event in guards[-1:]),
                *([ranking.told()] if ranking is not None else []),
            ]
        ),
        remedy="go on from the last healthy checkpoint with easier negatives or a lower rate (CollapseMonitor does)"
        if not good
        else "none is needed as long as the ranking holds",
        share=1.0,
    )


RULES = (collapse_over_time, verdicts)
