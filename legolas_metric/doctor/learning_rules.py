"""Rules on what a run learnt: losses, rankings, rates."""

import math
from collections.abc import Iterator, Mapping

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding, Mark
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.doctor.value_names import loss_kind
from legolas_metric.measures import AUC, MAP_R, RANK_1


def not_finite(case: RunCase) -> Iterator[Finding]:
    """NaN or infinite values."""
    curves = case.history.curves
    broken = {name: curve.broken for name, curve in curves.items() if curve.broken and len(curve)}
    broken = {name: epochs for name, epochs in broken.items() if "loss" in name or not curves[name].sparse()}
    never = [name for name, curve in curves.items() if curve.broken and not len(curve)]
    losses = [name for name in never if "loss" in name]
    broken |= {name: curves[name].broken for name in losses}
    if set(never) - set(losses):
        yield Finding(
            severity="note",
            rule="never a number",
            sentence=f"{', '.join(name for name in never if name not in losses)} was never a number",
            evidence="NaN or infinite in every epoch: a measure without anything to measure, such as an empty class",
            remedy="leave it out, or see what it lacks",
        )
    if broken:
        rates = case.curve("lr")
        yield Finding(
            severity="fault",
            rule="not finite",
            marks=tuple(Mark(name, epochs[0]) for name, epochs in broken.items()),
            sentence=f"{', '.join(broken)} {'is' if len(broken) == 1 else 'are'} NaN or infinite "
            + _when(broken, curves),
            evidence="; ".join(f"{name}: {len(epochs)} epochs" for name, epochs in broken.items())
            + ("" if rates is None else f"; learning rate up to {max(rates.values):g}"),
            remedy="lower the rate or clip gradients, and go on from the last checkpoint before it",
            share=1.0,
        )


def _when(broken: Mapping[str, tuple[float, ...]], curves: Mapping[str, Curve]) -> str:
    """From which epoch on, or in which epochs where numbers came back."""
    name, epochs = min(broken.items(), key=lambda pair: pair[1][0])
    if all(epoch < epochs[0] for epoch in curves[name].epochs):
        return f"from epoch {epochs[0]:g} on"
    return f"in epoch {', '.join(f'{epoch:g}' for epoch in epochs[:5])}{', ...' if epochs[5:] else ''}"


def loss_spikes(case: RunCase) -> Iterator[Finding]:
    """A loss that jumped far beyond what it had been, but for epochs in which another miner took over."""
    loss, rates = case.curve("train_loss"), case.curve("lr")
    spikes = [] if loss is None else [e for e in loss.spikes(case.limits) if e not in case.history.stages]
    if loss is not None and spikes:
        beside = (
            ""
            if rates is None
            else "; rate "
            + ", ".join(f"{rate:g}" for epoch, rate in zip(rates.epochs, rates.values) if epoch in spikes)
        )
        yield Finding(
            severity="warning",
            rule="loss spikes",
            marks=loss.mark(*spikes),
            sentence=f"the training loss jumped in epoch {', '.join(f'{epoch:g}' for epoch in spikes[:5])}",
            evidence=f"{case.limits['spike']:g} times its usual change, to {loss.at(spikes[0]):.4g}{beside}",
            remedy="lower the rate or warm it up, and clip gradients",
            share=len(spikes) / len(loss),
        )


def collapsed_loss(case: RunCase) -> Iterator[Finding]:
    """A loss that rests where a model lies that maps everything to one point, or guesses."""
    loss = case.trained("train_loss")
    if loss is None:
        return
    margin, batch, classes = case.number("margin"), case.number("batch_size"), case.number("num_classes")
    kind, tail = loss_kind(case.text("loss")), loss.values[-3:]
    near = case.limits["collapse_value"]
    values = {}
    if margin and kind in ("triplet", "soft triplet"):
        values["the margin"] = margin
    if kind == "soft triplet":
        values["ln 2"] = math.log(2)
    if batch and batch > 2 and kind in ("supcon", "infonce", "ntxent"):
        values[f"ln(B - 1), B = {batch:g}"] = math.log(batch - 1)
    if batch and kind == "ntxent":  # two views of each row
        values[f"ln(2B - 1), B = {batch:g}"] = math.log(2 * batch - 1)
    ranking = case.ranking()
    learns = case.gained() and ranking is not None and ranking.last >= case.limits["poor_rank"]
    for name, value in values.items() if not learns else ():
        if all(abs(each - value) <= near * value for each in tail):
            yield Finding(
                severity="fault",
                rule="collapsed loss",
                marks=loss.mark(),
                sentence=f"the training loss rests at {name} = {value:.3f}, that of a model that maps everything "
                "to a point",
                evidence=f"{loss.told()}; the last three values lie within {near:.0%} of it",
                remedy="mine easier negatives (semi-hard or random first), and lower the rate or the margin",
                share=1.0,
            )
    if classes and classes > 1 and kind == "cross-entropy":
        guess = math.log(classes)
        if min(tail) > (1 - case.limits["guessing_loss"]) * guess:
            yield Finding(
                severity="warning",
                rule="loss of guessing",
                marks=loss.mark(),
                sentence=f"after {case.history.epochs} epochs the loss is hardly below ln {classes:g} = "
                f"{guess:.3f}, that of "
                "guessing",
                evidence=loss.told(),
                remedy="raise the rate until the loss moves, and see that the model can fit a single batch",
                share=min(min(tail) / guess, 1.0),
            )


def nothing_moves(case: RunCase) -> Iterator[Finding]:
    """A loss that is what it was, to the last digits, and goes nowhere; a miner or a temperature may hold it up."""
    loss = case.trained("train_loss")
    if loss is None or case.gained() or abs(loss.trend()) > case.limits["trend"]:
        return
    if max(loss.values) - min(loss.values) <= case.limits["loss_moved"] * abs(loss.first):
        yield Finding(
            severity="fault",
            rule="loss unchanged",
            marks=loss.mark(),
            sentence=f"the training loss has not moved in {case.history.epochs} epochs",
            evidence=f"{loss.told()}; it lies between {min(loss.values):.5g} and {max(loss.values):.5g}",
            remedy="see that the optimiser holds the encoder's (and the loss's) parameters, that they need "
            "gradients, and "
            "that the rate is above 0",
            share=1.0,
        )


def rate_too_small(case: RunCase) -> Iterator[Finding]:
    """A rate at which little moves."""
    loss, rates, set_rate = case.trained("train_loss"), case.curve("lr"), case.number("lr")
    rate = max(rates.values) if rates is not None else set_rate
    if loss is None or rate is None or not rate < case.limits["small_rate"] or case.saturated():
        return
    if -case.limits["little"] < loss.change < 0:
        yield Finding(
            severity="warning",
            rule="rate too small",
            marks=loss.mark(),
            sentence=f"the learning rate is so small ({rate:g}) that little moves",
            evidence=f"{loss.told()}: {-loss.change:.1%} less; the rate never exceeded {rate:g}",
            remedy="try rates of 1e-4 to 1e-3 for a network that starts from scratch (a sweep of five epochs each)",
            share=1 + loss.change,
        )


def loss_falls_ranking_falls(case: RunCase) -> Iterator[Finding]:
    """What is minimised gets better while what is wanted gets worse: Rank@1, or MAP@R alone."""
    loss = case.trained("train_loss")
    if loss is None or not case.falls(loss):
        return
    for ranking in case.rankings():
        if ranking.change > -case.limits["ranking_fell"] or ranking.trend() >= -case.limits["trend"]:
            continue
        untrained = ranking.epochs[0] == 0
        began = "the untrained encoder ranked best" if untrained else "it falls from the first epoch on"
        best, top = ranking.best(larger=True)
        yield Finding(
            severity="warning" if case.kept_better(ranking) else "fault",
            rule="loss falls, ranking falls",
            marks=(*loss.mark(), *ranking.mark()),
            sentence=f"the loss falls while {ranking.name} falls: {ranking.first:.4f} to {ranking.last:.4f}",
            evidence=f"{loss.told()}; {ranking.told()}, best {top:.4f} in epoch {best:g}"
            + (f": {began}" if best == ranking.epochs[0] else "")
            + ("" if untrained else "; no epoch 0 was logged, so the untrained encoder's figure is not known"),
            remedy=f"see what the loss is fed (which negatives, from where), choose and stop by {RANK_1} or {MAP_R}, "
            "and log the untrained encoder as epoch 0",
            share=min(-ranking.change, 1.0),
        )
        return


def below_untrained(case: RunCase) -> Iterator[Finding]:
    """The encoder ends below what it was before training; a warning where a better epoch was kept."""
    for ranking in case.rankings(least=2):
        if ranking.epochs[0] == 0 and ranking.last < ranking.first - case.limits["worse"]:
            best, top = ranking.best(larger=True)
            yield Finding(
                severity="warning" if case.kept_better(ranking) else "fault",
                rule="below untrained",
                marks=ranking.mark(),
                sentence=f"training made {ranking.name} worse: {ranking.last:.3f}, untrained {ranking.first:.3f}",
                evidence=f"{ranking.told()}; best {top:.3f} in epoch {best:g}",
                remedy="see what the loss is fed (the miner's stats: fallback, filtered), lower the rate, and start "
                "from random or semi-hard negatives",
                share=min(ranking.first - ranking.last, 1.0),
            )
            return


def pairs_of_the_loss_alone(case: RunCase) -> Iterator[Finding]:
    """Intra falls and inter stays, on the pairs that the loss picked; the whole set gets no better."""
    intra, inter = case.trained("intra"), case.trained("inter")
    if intra is None or inter is None or not case.falls(intra) or inter.change < -case.limits["loss_fell"]:
        return
    worse = []
    ranking, spread = case.ranking(), case.trained("davies_bouldin")
    if ranking is not None and ranking.change <= -case.limits["ranking_fell"]:
        worse.append(ranking.told())
    gained = ranking is not None and ranking.last >= ranking.first + case.limits["worse"]
    if not gained and spread is not None and spread.change >= case.limits["loss_fell"]:
        worse.append(f"{spread.told()} (smaller is better)")
    if worse:
        yield Finding(
            severity="fault",
            rule="pairs of the loss alone",
            marks=(*intra.mark(), *inter.mark()),
            sentence="intra falls and inter holds on the loss's own pairs only: over the whole set neighbours "
            "get worse",
            evidence="; ".join([intra.told(), inter.told(), *worse]),
            remedy=f"measure over all rows (evaluate_ranking: intra, inter, {RANK_1}), and mine from the whole set",
            share=1.0,
        )


def auc_hides_rank(case: RunCase) -> Iterator[Finding]:
    """An AUC that sounds good beside a Rank@1 that is not."""
    auc, ranking, gallery = case.curve("auc"), case.curve("rank_at_1"), case.number("gallery_size")
    if auc is None or ranking is None or auc.last < case.limits["confident_auc"]:
        return
    if ranking.last < case.limits["poor_rank"]:
        mean = (
            ""
            if not gallery
            else (
                f": in a gallery of {gallery:,.0f} that {AUC} means a mean rank of "
                f"{1 + (1 - auc.last) * (gallery - 1):,.0f}"
            )
        )
        yield Finding(
            severity="fault" if ranking.last < case.limits["useless_rank"] else "warning",
            rule=f"{AUC} hides {RANK_1}",
            marks=(*auc.mark(), *ranking.mark()),
            sentence=f"{AUC} {auc.last:.2f} but {RANK_1} {ranking.last:.3f}{mean}",
            evidence=f"{auc.told()}; {ranking.told()}; E[rank] - 1 = (1 - {AUC})(gallery - 1)"
            + ("" if gallery else "; the gallery's size is not told"),
            remedy=f"judge and stop by {RANK_1} or {MAP_R}; train on the nearest negatives of the whole set "
            "(HardMiner with a FalseNegativeGuard)",
            share=1 - ranking.last,
        )


def uniform_attention(case: RunCase) -> Iterator[Finding]:
    """Attention that has not left the uniform: by its entropy, in nats, or as a share of ln L, as we log it."""
    entropy, length = case.curve("attention_entropy"), case.number("sequence_length")
    if entropy is None:
        return
    of_one = max(entropy.values) <= 1 + case.limits["uniform_attention"]  # none of three steps or more has so few nats
    if not of_one and (not length or length < 2):
        return
    uniform = 1.0 if of_one or not length else math.log(length)
    if entropy.last > (1 - case.limits["uniform_attention"]) * uniform:
        over = f" over the {length:g} steps" if length else ""
        planned = case.number("epochs")
        stopped = f" when the run ended in epoch {entropy.epochs[-1]:g}" + (f" of {planned:g}" if planned else "")
        yield Finding(
            severity="fault",
            rule="uniform attention",
            marks=entropy.mark(),
            sentence=f"attention is still uniform{over}{stopped}",
            evidence=f"{entropy.told()}; uniform is "
            + ("1, as a share of ln L" if of_one else f"ln {length:g} = {uniform:.3f}"),
            remedy="train on: wait for the entropy to fall before stopping early; raise the rate of the "
            "attention, or start "
            "from mean pooling, which is what uniform attention is",
            share=1.0,
        )


def auxiliary_outweighs(case: RunCase) -> Iterator[Finding]:
    """An auxiliary loss that is larger than what it is to help.

    Logged as `auxiliary_loss` beside `main_loss`; or as `train_loss/NAME` beside `train_loss`, which is then the main
    one, as `ClassifierLearner` does.
    """
    told = case.settings.get("auxiliary_weights")
    weights = told if isinstance(told, Mapping) else {}
    common, main = case.number("auxiliary_weight"), case.curve("train_loss")
    pairs = [("the auxiliary loss", case.curve("auxiliary_loss"), case.curve("main_loss"), common)]
    for name, curve in case.history.curves.items():
        if name.startswith("train_loss/") and len(curve):
            own = name.removeprefix("train_loss/")
            pairs.append((f"the auxiliary loss {own}", curve, main, weights.get(own, common)))
    for what, auxiliary, main_loss, weight in pairs:
        if auxiliary is None or main_loss is None:
            continue
        share = (1.0 if weight is None else weight) * auxiliary.last
        if share > case.limits["outweighs"] * main_loss.last:
            unknown = ", its weight not told and taken as 1" if weight is None else f", weight {weight:g}"
            yield Finding(
                severity="note" if weight is None or case.saturated() else "warning",
                rule="auxiliary outweighs",
                marks=(*auxiliary.mark(), *main_loss.mark()),
                sentence=f"{what} outweighs the main one: {share:.3g} against {main_loss.last:.3g}",
                evidence=f"{auxiliary.told()}{unknown}; {main_loss.told()}",
                remedy="lower its weight until it is a fraction of the main loss",
                share=min(share / (share + main_loss.last), 1.0) if main_loss.last > 0 else 1.0,
            )


RULES = (
    *(not_finite, loss_spikes, collapsed_loss, nothing_moves, rate_too_small, loss_falls_ranking_falls),
    *(below_untrained, pairs_of_the_loss_alone, auc_hides_rank, uniform_attention, auxiliary_outweighs),
)
