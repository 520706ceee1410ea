"""Rules on runs that went well until an epoch, or on their own rows alone: what turns, and overfitting."""

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
    fell = max(value for each, value in zip(smooth.epochs, smooth.values) if each <= epoch) - least
    room = case.limits["loss_rose"] * max(abs(least), fell)
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


def overfitting(case: RunCase) -> Iterator[Finding]:
    """The validation loss rises while the training loss falls."""
    train, validation = case.curve("train_loss", least=3), case.curve("val_loss", least=3)
    if train is None or validation is None or not case.falls(train):
        return
    epoch, least = validation.best(larger=False)
    since = validation.since(epoch)
    rises = validation.trend() > -case.limits["trend"] or (
        len(since) >= case.limits["few_epochs"] and since.trend() > case.limits["trend"]
    )
    if least > 0 and validation.last > (1 + case.limits["overfit"]) * least and rises:
        start = epoch == validation.epochs[0]
        measure = case.trained("rank_at_1", "map_at_r", "val_accuracy", "val_f1_macro", "val_f1")
        gains = measure is not None and _still_gains(case, measure.since(epoch))
        yield Finding(
            severity="note" if gains else "fault" if start else "warning",
            rule="overfitting",
            marks=validation.mark(epoch, validation.epochs[-1]),
            sentence=f"the validation loss rises {'from the start' if start else f'from epoch {epoch:g} on'}, "
            "while the training loss falls",
            evidence=f"{train.told()}; val_loss {least:.4g} (epoch {epoch:g}) to {validation.last:.4g} (epoch "
            f"{validation.epochs[-1]:g})" + (f"; {measure.name} still rises" if gains and measure is not None else ""),
            remedy=f"keep the weights of epoch {epoch:g}"
            if not start
            else "nothing that holds on unseen data is learnt yet: lower the rate, and look for what differs "
            "between the two parts (balancing, augmentation, normalisation)",
            share=min(validation.last / least - 1, 1.0),
        )


def _still_gains(case: RunCase, curve: Curve) -> bool:
    """Whether a measure rises, and did in its later half too."""
    later = curve.tail(len(curve) // 2 + 1)
    return curve.trend() > case.limits["trend"] and later.last - later.first > case.limits["worse"]


def learnt_by_heart(case: RunCase) -> Iterator[Finding]:
    """Accuracy of the training rows far above that of others."""
    seen, unseen = case.trained("train_accuracy"), case.trained("val_accuracy")
    if seen is None or unseen is None or seen.last - unseen.last <= case.limits["accuracy_gap"]:
        return
    yield Finding(
        severity="warning",
        rule="overfitting",
        marks=(*seen.mark(), *unseen.mark()),
        sentence=f"the training rows are learnt by heart: accuracy {seen.last:.2f}, of validation rows "
        f"{unseen.last:.2f}",
        evidence=f"{seen.told()}; {unseen.told()}",
        remedy="more or more varied rows, augmentation, weight decay, a smaller model; see that both parts are "
        "normalised and labelled alike",
        share=seen.last - unseen.last,
    )


RULES = (fell_from_peak, loss_diverges, overfitting, learnt_by_heart)
