"""Rules on the optimiser: rates, weights that stay, parameters it lacks, temperature, fit of the training rows."""

from collections.abc import Iterator

from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.run_case import RunCase, listed

_CONTINUOUS = ("map_at_r", "effective_rank", "mean_cosine", "resultant_length", "val_loss", "auc")
_SHARES = ("rank_at_1", "val_accuracy", "val_f1_macro")
_SOFTMAX = ("supcon", "infonce", "info_nce", "ntxent", "nt-xent", "nt_xent", "clip", "proxy", "normalised_softmax")


def rate_never_changed(case: RunCase) -> Iterator[Finding]:
    """A rate that is the same throughout, in a run whose value has long levelled off below what is good."""
    rates, wanted = case.trained("lr"), case.wanted()
    level = None if wanted is None else wanted.level_from(case.limits)
    if rates is None or wanted is None or level is None or len(set(rates.values)) > 1:
        return
    long = wanted.epochs[-1] - level >= case.limits["few_epochs"]
    if long and level > wanted.epochs[0] and wanted.last < case.limits["confident_auc"]:
        yield Finding(
            severity="note",
            rule="rate never changed",
            marks=wanted.mark(level),
            sentence=f"the rate stayed at {rates.first:g}, also after {wanted.name} levelled off in epoch {level:g}",
            evidence=wanted.told(),
            remedy="lower it where the value levels off (a cosine, or a factor of ten), which often gains once more",
        )


def weights_never_changed(case: RunCase) -> Iterator[Finding]:
    """Measures that no training leaves alone are the same in every epoch, to the last digit."""
    held = [curve for name in (*_CONTINUOUS, *_SHARES) if (curve := case.trained(name)) is not None]
    moved = [curve for curve in held if len(set(curve.values)) > 1]
    # Of a value that was logged with three digits or fewer the last ones that move may be left out.
    still = [curve for curve in held if curve.name in _CONTINUOUS and curve.last != round(curve.last, 3)]
    if still and not moved:
        yield Finding(
            severity="fault",
            rule="weights never changed",
            marks=still[0].mark(),
            sentence="the encoder's weights never changed: its measures are the same in every epoch",
            evidence="; ".join(f"{curve.name} {curve.last:.6g} in {len(curve)} epochs" for curve in still),
            remedy="see that the optimiser holds the encoder's parameters, that they need gradients, that its rate is "
            "above 0, and that what is measured is the encoder that is trained",
            share=1.0,
        )


def parameters_missing(case: RunCase) -> Iterator[Finding]:
    """Parameters that need gradients and that no optimiser holds: a loss with proxies, most often."""
    names = listed(case.settings.get("not_optimised"))
    if not names:
        return
    of_loss = [name for name in names if "loss" in str(name) or "prox" in str(name)]
    yield Finding(
        severity="fault" if of_loss else "warning",
        rule="parameters missing",
        sentence=f"no optimiser holds {'the loss’s own parameters' if of_loss else 'some of the parameters'}: "
        f"{', '.join(map(str, (of_loss or names)[:5]))}",
        evidence=f"{len(names)} tensors need gradients and are in no group of the optimiser",
        remedy="pass the loss's parameters to the optimiser as well (MetricLearner does), or switch their "
        "gradients off",
        share=1.0 if of_loss else 0.5,
    )


def temperature_out_of_range(case: RunCase) -> Iterator[Finding]:
    """A softmax over similarities that is all but a maximum, or all but uniform."""
    curve, told = case.curve("temperature"), case.number("temperature")
    value = curve.last if curve is not None else told
    kind = case.text("loss")
    if not value or not any(name in kind for name in _SOFTMAX):
        return
    low, high = case.limits["temperature_low"], case.limits["temperature_high"]
    if low <= value <= high:
        return
    loss = case.curve("train_loss")
    what = "only the nearest row of a batch counts" if value < low else "all rows of a batch count almost alike"
    yield Finding(
        severity="warning",
        rule="temperature",
        marks=() if curve is None else curve.mark(),
        sentence=f"the temperature is {value:g}, far from its useful range ({low:g} to {high:g}): {what}",
        evidence=(f"{curve.told()}" if curve is not None else f"temperature = {value:g}")
        + f"; similarities of unit rows lie in [-1, 1], so logits in ±{1 / value:g}"
        + ("" if loss is None else f"; {loss.told()}"),
        remedy="begin with 0.1 (SupCon), and keep a learnt one within bounds",
        share=0.5,
    )


def underfitting(case: RunCase) -> Iterator[Finding]:
    """The training rows themselves are learnt poorly, and no better for some time."""
    fit, classes = case.trained("train_accuracy", "train_rank_at_1", "train_f1"), case.number("num_classes")
    mixed = case.settings.get("soft_targets") is True or bool(case.number("mixup_alpha"))
    if fit is None or mixed:  # counted against mixed rows the fit is low by construction
        return
    half = fit.tail(max(3, len(fit) // 2))
    flat = max(half.values) - min(half.values) < case.limits["flat"] and half.last - half.first < case.limits["worse"]
    if flat and case.guesses(classes) <= max(fit.values) < case.limits["poor_rank"]:
        yield Finding(
            severity="warning",
            rule="underfitting",
            marks=fit.mark(half.epochs[0]),
            sentence=f"the model underfits: {fit.name} is low and flat, {half.last:.3f} since epoch {half.epochs[0]:g}",
            evidence=fit.told() + (f"; chance is {1 / classes:.3f}" if classes and classes > 1 else ""),
            remedy="raise the rate, take a larger model or more dimensions, less weight decay and augmentation; see "
            "that it can learn a single batch by heart",
            share=1 - half.last,
        )


RULES = (rate_never_changed, weights_never_changed, parameters_missing, temperature_out_of_range, underfitting)
