"""Rules on what was mined."""

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
                marks=rounds[name].mark(),
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
            marks=rounds["fed"].mark(),
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
            marks=drift.mark(),
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
            marks=active.mark(),
            sentence=f"only {active.last:.1%} of the triplets lie inside the margin: the loss has nothing left to do",
            evidence=active.told(),
            remedy="mine harder negatives, or use a larger margin; where the training classes are solved, more "
            "identities",
            share=1 - active.last,
        )


def _last(curve: Curve | None) -> float | None:
    return curve.last if curve is not None and len(curve) else None


RULES = (negatives_were_random, starved, stale, margin_inactive)
