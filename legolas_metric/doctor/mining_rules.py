"""Rules on what was mined."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding, Severity
from legolas_metric.doctor.run_case import RunCase, listed

_HARD = ("hard", "semi-hard", "semihard", "full-hard")


def negatives_were_random(case: RunCase) -> Iterator[Finding]:
    """Hard mining by name, random negatives in fact."""
    origins = case.history.words.get("negatives_from", ()) or (case.text("negatives_from"),)
    asked = [*case.history.words.get("strategy", ()), *map(str, listed(case.settings.get("stages")))]
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
    """Rounds that fell back, or found nothing; a window that is empty since all is learnt is no fault."""
    rounds, limit = case.history.rounds, case.limits
    each = "positive='all'" in str(case.settings.get("schedule"))  # a pair of each positive of an anchor
    wider = "widen the window (a larger margin), or mine from more rows"
    for name, most, sentence, remedy in (
        ("fallback", limit["fallback"], "were served by another rule than asked", wider),
        (
            *("no_negative", limit["starved"], "have no negative"),
            "put rows of other classes beside them (into their sessions, where negatives are of the same one)",
        ),
        ("outside_window", limit["starved"], "have no negative inside the window", wider),
        (
            *("exhausted", limit["starved"], "were dropped, since the guard rejected all candidates"),
            "loosen the guard's bound, or let it look further (depth)",
        ),
    ):
        if name in ("fallback", "outside_window") and case.saturated():
            continue
        told = _shares(rounds, name, of_pairs=each)
        over = {epoch: one for epoch, one in told.items() if one.share > most}
        mostly = len(over) >= limit["few_rounds"] * len(told)
        last = max(told, default=0.0)
        if over and (mostly or last in over):
            epoch = max(over)
            count, asked, what, share = over[epoch]
            usual: Severity = "fault" if name == "fallback" else "warning"
            milder: Severity = "warning" if name == "fallback" else "note"
            when = "the last round" if epoch == last else f"the round of epoch {epoch:g}"
            many = f"; so in {len(over)} of {len(told)} rounds" if len(told) > 1 else ""
            yield Finding(
                severity=usual if mostly else milder,
                rule=f"mining: {name}",
                marks=rounds[name].mark(epoch),
                sentence=f"{share:.0%} of the {what} {sentence}",
                evidence=f"{name} {count:g} of {asked:g} {what} in {when}{many}",
                remedy=f"{remedy}, and look at the stats of every round",
                share=min(share, 1.0),
            )


class _Share(NamedTuple):
    """Of a round: how many, of how many of what."""

    many: float
    asked: float
    what: str
    share: float


def _shares(rounds: Mapping[str, Curve], name: str, *, of_pairs: bool) -> dict[float, _Share]:
    """Of each round that tells it, the share of the anchors, or of the pairs where there are several of an anchor."""
    told = {}
    for epoch, count in zip(rounds[name].epochs, rounds[name].values) if name in rounds else ():
        names = ("anchors", "triplets", "outside_window", "fallback", "exhausted")
        anchors, triplets, outside, fallback, exhausted = (
            (rounds[other].at(epoch) or 0.0) if other in rounds else 0.0 for other in names
        )
        pairs = name != "no_negative" and (of_pairs or count > anchors)
        asked = triplets + outside - fallback + exhausted if pairs else anchors
        if asked:
            told[epoch] = _Share(count, asked, "pairs" if pairs else "anchors", count / asked)
    return told


def not_fed(case: RunCase) -> Iterator[Finding]:
    """Triplets that later ones replaced before they were fed, in each of the last three rounds.

    An epoch of ceil(n / B) steps shows n rows, and a triplet for each of n anchors names 3 n at most: it feeds a third
    or more, and about half as a rule. That is how mining every epoch is, and a note; less is a shorter epoch, or more
    triplets, than the rounds leave time for. Further epochs without a new round draw again from the same triplets.
    """
    fed = case.history.rounds.get("fed")
    if fed is None or not len(fed):
        return
    last = fed.tail(3)
    epochs = max(1.0, median([later - earlier for earlier, later in pairwise(fed.epochs)] or [1.0]))
    share = max(1 - (1 - min(value, 1.0)) ** epochs for value in last.values)
    if share < case.limits["fed"]:
        hungry = share < case.limits["hungry"]
        yield Finding(
            severity="warning" if hungry else "note",
            rule="mining: fed",
            marks=fed.mark(),
            sentence=f"{'only ' if hungry else ''}{share:.0%} of the mined triplets were fed before the next round"
            + ("" if hungry else ", as is usual where an epoch has n rows and mining n triplets"),
            evidence=f"fed {', '.join(f'{value:.3f}' for value in last.values)} in the last rounds"
            + (f", every {epochs:g} epochs" if epochs > 1 else ""),
            remedy="more steps an epoch, mine less often, or for fewer anchors",
            share=1 - share,
        )


def stale(case: RunCase) -> Iterator[Finding]:
    """A bank whose rows are no longer where the encoder puts them, in three rounds, and not settling."""
    rounds, limit = case.history.rounds, case.limits
    drift, age = rounds.get("drift"), rounds.get("max_age")
    steps = case.number("steps_per_epoch")
    # A run's first rounds drift by learning, and less from round to round.
    last = None if drift is None or len(drift) < 3 else drift.tail(3)
    settles = last is not None and last.last - last.first >= limit["flat"]
    if last is not None and max(last.values) < limit["drift"] and not settles:
        yield Finding(
            severity="warning",
            rule="stale bank",
            marks=last.mark(),
            sentence=f"the bank is stale: rows and their rewrites have a mean cosine of {last.last:.2f}",
            evidence=last.told() + ("" if age is None or not len(age) else f"; oldest row {age.last:g} steps"),
            remedy="refresh the bank more often, or lower the rate",
            share=1 - max(last.last, 0.0),
        )
    elif drift is None and age is not None and steps and len(age) >= 3:
        old = min(age.tail(3).values) / steps
        if old > limit["old_bank"]:
            yield Finding(
                severity="warning",
                rule="stale bank",
                marks=age.mark(),
                sentence=f"the bank is old: its oldest row was written {old:.1f} epochs before it was mined",
                evidence=f"{age.told()}, {steps:g} steps an epoch; its drift was not logged",
                remedy="refresh the bank more often, and log the drift (EmbeddingBank.drift)",
                share=0.5,
            )


def margin_inactive(case: RunCase) -> Iterator[Finding]:
    """Triplets that are all beyond the margin already, though the ranking has room left: a solved run has no need."""
    active = case.trained("active")
    if active is not None and active.last < case.limits["active"] and not case.saturated():
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


def guard_rejects_most(case: RunCase) -> Iterator[Finding]:
    """A guard that turns away the first candidate of most pairs."""
    rounds = case.history.rounds
    told = {}
    for epoch, contested in (
        zip(rounds["contested"].epochs, rounds["contested"].values) if "contested" in rounds else ()
    ):
        pairs = sum((rounds[name].at(epoch) or 0.0) for name in ("triplets", "exhausted") if name in rounds)
        if pairs:
            told[epoch] = (contested, pairs)
    over = {epoch: each for epoch, each in told.items() if each[0] / each[1] > case.limits["rejected"]}
    mostly = len(over) >= case.limits["few_rounds"] * len(told)
    if not over or not (mostly or max(told) in over):
        return
    epoch = max(over)
    contested, pairs = over[epoch]
    why = [
        name.removeprefix("filtered_") for name, curve in rounds.items() if name.startswith("filtered_") and curve.last
    ]
    yield Finding(
        severity="warning" if mostly else "note",
        rule="guard rejects most",
        marks=rounds["contested"].mark(epoch),
        sentence=f"the guard rejects the first candidate of {min(contested / pairs, 1):.0%} of the pairs",
        evidence=f"contested {contested:g} of {pairs:g} pairs in "
        + ("the last round" if epoch == max(told) else f"the round of epoch {epoch:g}")
        + (f" ({', '.join(why)})" if why else ""),
        remedy="read some of the rejected pairs: where they are of two classes after all, loosen the guard (a larger "
        "relative margin); where they are of one, mend the labels",
        share=min(contested / pairs, 1.0),
    )


def same_rows_again(case: RunCase) -> Iterator[Finding]:
    """A few rows are everyone's hardest negative, round after round."""
    distinct, mined = case.history.rounds.get("distinct_negatives"), case.history.rounds.get("triplets")
    if distinct is None or mined is None or len(distinct) < 2 or len(distinct) != len(mined):
        return
    shares = [few / many for few, many in zip(distinct.values, mined.values) if many >= case.limits["few_rows_least"]]
    if len(shares) > 1 and max(shares[-2:]) < case.limits["few_rows"]:
        yield Finding(
            severity="warning",
            rule="the same few rows",
            marks=distinct.mark(),
            sentence=f"the same few rows are mined again and again: {distinct.last:g} rows are the negatives of "
            f"{mined.last:g} triplets",
            evidence=f"{shares[-1]:.1%} distinct negatives in the last round, {shares[-2]:.1%} in the one before",
            remedy="look at these rows (wrong labels, blank inputs, hubs); mine with a FalseNegativeGuard, cap how "
            "often a row is taken, or rank by cosine instead of dot",
            share=1 - shares[-1],
        )


def near_classes_in_batches(case: RunCase) -> Iterator[Finding]:
    """Batches that already hold most classes show the near ones without any mining of the whole set.

    A class's nearest other class is in its batch of p of C classes with probability (p - 1)/(C - 1).
    """
    batch, k = case.number("batch_size"), case.number("k")
    p = case.number("classes_per_batch") or (batch / k if batch and k else None)
    classes = case.number("num_classes")
    if not case.history.rounds or not p or not classes or classes < 3:
        return
    shown = min((p - 1) / (classes - 1), 1.0)
    if shown >= case.limits["near_in_batch"]:
        yield Finding(
            severity="note",
            rule="near classes in batches",
            sentence=f"global mining has little to add: a class meets its nearest one in {shown:.0%} of the batches",
            evidence=f"(p - 1)/(C - 1) with p = {p:g} of C = {classes:g} classes in a batch",
            remedy="mine in the batch, which costs nothing; or train on more classes",
        )


RULES = (
    *(negatives_were_random, starved, not_fed, stale, margin_inactive),
    *(guard_rejects_most, same_rows_again, near_classes_in_batches),
)
