"""Rules on what was kept, and when the run ended."""

from collections.abc import Iterator

from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.measures import measure

_SMALLER = ("davies_bouldin", "intra", "hubness", "mean_cosine", "resultant_length")  # is better


def best_not_kept(case: RunCase) -> Iterator[Finding]:
    """The weights at the end are not the best: said so by the settings, or by a history in which nothing kept them."""
    wanted = case.wanted()
    if wanted is None or case.kept():
        return
    told = "restored" in case.settings and case.settings["restored"] in (None, False, "", "null")
    ended = any(event.get("kind") == "end" for event in case.history.events)
    if not told and not (ended and "restored" not in case.settings):
        return
    epoch, best = wanted.best(larger=True)
    if epoch < wanted.epochs[-1] and best - wanted.last > min(case.limits["worse"], case.limits["ranking_fell"] * best):
        yield Finding(
            severity="warning" if told else "note",
            rule="best not kept",
            marks=wanted.mark(epoch),
            sentence=f"the best epoch was not kept: {wanted.name} {best:.4f} in epoch {epoch:g}, "
            f"{wanted.last:.4f} at the end"
            if told
            else f"nothing in the history says that the best epoch was kept: {wanted.name} {best:.4f} in epoch "
            f"{epoch:g}, {wanted.last:.4f} at the end",
            evidence=wanted.told()
            + (f"; settings: restored = {case.settings['restored']}" if told else "; no event of restoring or keeping"),
            remedy="keep a checkpoint of the best value (BestCheckpoint), and restore it at the end",
            share=best - wanted.last,
        )


def stopped_on_another_value(case: RunCase) -> Iterator[Finding]:
    """The value that stops the run goes one way and the ranking the other."""
    name = case.text("stopped_on") or case.text("monitor")
    watched, ranking = case.trained(name) if name else None, case.ranking()
    if watched is None or ranking is None or watched.name == ranking.name:
        return
    smaller = watched.name.endswith("loss") or watched.name in _SMALLER or measure(watched.name).better == "min"
    better = -watched.trend() if smaller else watched.trend()
    if better > case.limits["trend"] and ranking.trend() < -case.limits["trend"]:
        yield Finding(
            severity="warning",
            rule="stopped on another value",
            marks=(*watched.mark(), *ranking.mark()),
            sentence=f"the run is judged by {name}, which gets better while {ranking.name} gets worse",
            evidence=f"{watched.told()}; {ranking.told()}",
            remedy=f"stop by {ranking.name}",
            share=1.0,
        )


def stopped_while_improving(case: RunCase) -> Iterator[Finding]:
    """The run ended long before it was to, while its value still rose."""
    wanted, planned = case.wanted(), case.number("epochs")
    if wanted is None or not planned or case.history.epochs >= case.limits["early"] * planned:
        return
    if wanted.level_from(case.limits) is not None:
        return
    tail = wanted.tail(max(2, len(wanted) // 3))
    if tail.change > 0 and tail.trend() > case.limits["trend"] and wanted.best(larger=True)[1] == wanted.last:
        patience = case.number("patience")
        yield Finding(
            severity="warning",
            rule="stopped while improving",
            marks=wanted.mark(),
            sentence=f"the run ended in epoch {case.history.epochs} of {planned:g} while {wanted.name} still rose",
            evidence=f"{wanted.told()}, best in its last epoch"
            + ("" if patience is None else f"; patience {patience:g} cannot have run out on it"),
            remedy="train on; stop by the value that you want, with a patience longer than warm-up takes",
            share=1 - case.history.epochs / planned,
        )


def stopped_in_warm_up(case: RunCase) -> Iterator[Finding]:
    """The run was stopped before its rate had warmed up."""
    warm, planned = case.number("warmup_epochs"), case.number("epochs")
    if not warm or not 0 < case.history.epochs <= warm or (planned is not None and planned <= warm):
        return
    why = "; ".join(str(event.get("why")) for event in case.history.happened("stop"))
    yield Finding(
        severity="warning",
        rule="stopped in warm-up",
        sentence=f"the run ended in epoch {case.history.epochs}, before the {warm:g} epochs of warm-up were over",
        evidence=f"warmup_epochs = {warm:g}" + (f"; stopped: {why}" if why else ""),
        remedy="count patience from the end of warm-up on",
        share=1 - case.history.epochs / (warm + 1),
    )


def stopped_before_attention(case: RunCase) -> Iterator[Finding]:
    """The run ended early, while its attention still found its place."""
    entropy, planned = case.trained("attention_entropy"), case.number("epochs")
    if entropy is None or not planned or case.history.epochs >= case.limits["early"] * planned:
        return
    tail = entropy.tail(max(2, len(entropy) // 3))
    if tail.change < -case.limits["visible"] and tail.trend() < -case.limits["trend"]:
        yield Finding(
            severity="warning",
            rule="stopped before attention converged",
            marks=entropy.mark(),
            sentence=f"the run ended in epoch {case.history.epochs} of {planned:g} while the entropy of its attention "
            "still fell",
            evidence=f"{entropy.told()}; {tail.told()}",
            remedy="train on until the entropy rests: what is attended to is still being chosen",
            share=1 - case.history.epochs / planned,
        )


def still_improving(case: RunCase) -> Iterator[Finding]:
    """The best value is the last one, and the last third rose as the one before."""
    wanted, planned = case.wanted(), case.number("epochs")
    third = 0 if wanted is None else len(wanted) // 3
    if wanted is None or third < 3 or (planned and case.history.epochs < case.limits["early"] * planned):
        return
    gain, before = wanted.last - wanted.values[-third - 1], wanted.values[-third - 1] - wanted.values[-2 * third - 1]
    if (
        wanted.best(larger=True)[1] == wanted.last
        and gain > case.limits["worse"]
        and gain > case.limits["still_gaining"] * before > 0
    ):
        yield Finding(
            severity="note",
            rule="still improving",
            marks=wanted.mark(),
            sentence=f"{wanted.name} was still rising when the run ended",
            evidence=f"{gain:.4f} in the last {third} epochs, {before:.4f} in as many before",
            remedy="train longer",
        )


def levels_off(case: RunCase) -> Iterator[Finding]:
    """Most of the run gained nothing, at a level that is low."""
    wanted = case.wanted()
    start = None if wanted is None else wanted.level_from(case.limits)
    if wanted is None or start is None or start <= wanted.epochs[0] or wanted.last >= case.limits["confident_auc"]:
        return
    if wanted.trend() > 0:
        yield Finding(
            severity="note",
            rule="levels off",
            marks=wanted.mark(start),
            sentence=f"{wanted.name} levels off from epoch {start:g} on, at {wanted.last:.3f}",
            evidence=f"{wanted.told()}; {wanted.epochs[-1] - start:g} epochs since",
            remedy="longer training won't help: change the rate, the balance of the classes, or the model",
        )


def weak_ranking(case: RunCase) -> Iterator[Finding]:
    """A ranking that ends low, whatever else went well."""
    ranking = case.trained("rank_at_1")
    if ranking is not None and ranking.last < case.limits["poor_rank"]:
        epoch, best = ranking.best(larger=True)
        yield Finding(
            severity="note",
            rule="weak ranking",
            marks=ranking.mark(),
            sentence=f"a weak ranking: {1 - ranking.last:.0%} of the queries find another class first",
            evidence=f"{ranking.told()}, best {best:.4f} in epoch {epoch:g}{_chance(case)}",
            remedy="train on more identities like these, and look at the worst queries: is the class to be "
            "seen in them?",
            share=1 - ranking.last,
        )


def _chance(case: RunCase) -> str:
    """What guessing comes to, beside a ranking."""
    classes = case.number("num_classes")
    first = case.ranking()
    untrained = "" if first is None or first.epochs[0] != 0 else f"; untrained {first.first:.4f}"
    guess = f"1 / {classes:g} = {1 / classes:.4f} among {classes:g} classes" if classes else "not known (num_classes)"
    return f"{untrained}; a random ranking: {guess}"


def too_few_epochs(case: RunCase) -> Iterator[Finding]:
    """Trends of so few epochs are no trends."""
    few, planned = case.history.epochs, case.number("epochs")
    if 0 < few < case.limits["few_epochs"]:
        yield Finding(
            severity="note",
            rule="few epochs",
            sentence=f"{few} epoch{' is' if few == 1 else 's are'} too few to judge a trend",
            evidence=f"{case.limits['few_epochs']:g} are asked"
            + ("" if planned is None else f"; {planned:g} were planned"),
            remedy="train on before you draw conclusions from the curves",
        )


RULES = (
    *(
        best_not_kept,
        stopped_on_another_value,
        stopped_while_improving,
        stopped_in_warm_up,
        stopped_before_attention,
        still_improving,
        levels_off,
    ),
    *(weak_ranking, too_few_epochs),
)
