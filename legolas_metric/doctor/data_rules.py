"""Rules on classes, balance and inputs."""

from collections.abc import Iterator, Mapping

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.run_case import RunCase, balancings
from legolas_metric.measures import RANK_1

_PHOTOGRAPHS = ("rgb", "photo", "photos", "image", "images", "natural")
_IMAGENET = (0.485, 0.456, 0.406)  # means of its red, green and blue


def one_class_predicted(case: RunCase) -> Iterator[Finding]:
    """Accuracy and F1 of two classes are those of a model that says one class always.

    All class 0: F1 = 0 and accuracy = share of class 0. All class 1, which holds a share a: accuracy a, F1 2a/(1 + a).
    """
    accuracy, f1 = case.curve("val_accuracy"), case.curve("val_f1")
    if accuracy is None or f1 is None or case.settings.get("num_classes", 2) != 2:
        return
    shares = dict(zip(accuracy.epochs, accuracy.values))
    found = _one_class(shares, f1, case)
    if f1.epochs[-1] not in found:
        return
    told = ", ".join(
        f"all class {side} in epoch {epoch:g} (accuracy {shares[epoch]:.3f}, F1 {score:.3f})"
        for epoch, score in zip(f1.epochs, f1.values)
        if (side := found.get(epoch)) is not None
    )
    train = case.curve("train_f1", "train_accuracy")
    rises = train is not None and len(train) > 1 and train.last > train.first
    yield Finding(
        severity="fault",
        rule="one class predicted",
        marks=f1.mark(*found),
        sentence="one class is predicted for every row of the validation set: nothing is learnt"
        + (f", though {train.name} rises" if rises and train is not None else ""),
        evidence=told + (f"; {train.told()}" if rises and train is not None else ""),
        remedy="balance once, not several times; lower the rate; read the counts of predicted classes beside accuracy",
        share=len(found) / len(f1),
    )


def _one_class(shares: Mapping[float, float], f1: Curve, case: RunCase) -> dict[float, int]:
    """The class that an epoch says always, by epoch, as far as accuracy and F1 tell.

    A good classifier has an F1 near 2a/(1 + a) too. Of one class, a is the share of that class: the same whenever
    that class is said, and 1 - a whenever the other one is; and not high, unless it is the same in every epoch.
    """
    room = case.limits["one_class"]
    none = {epoch: 0 for epoch, score in zip(f1.epochs, f1.values) if score == 0 and 0 < shares.get(epoch, 0) < 1}
    all_ = {
        epoch: share
        for epoch, score in zip(f1.epochs, f1.values)
        if 0 < (share := shares.get(epoch, 0)) < 1 and score and abs(score - 2 * share / (1 + share)) <= room
    }
    if not all_:
        return none
    last = all_[max(all_)]
    fixed = [share for share in all_.values() if abs(share - last) <= room]
    told = len(fixed) == len(all_) > 1 or any(abs(1 - shares[epoch] - last) <= room for epoch in none)
    throughout = len(all_) == len(f1) >= case.limits["few_epochs"] and len(set(all_.values())) == 1
    if throughout or (told and last < case.limits["high_accuracy"]):
        return none | dict.fromkeys(all_, 1)
    return none


def one_class_called(case: RunCase) -> Iterator[Finding]:
    """`ClassifierLearner` saw one class alone called in the last epoch, of however many; a slow start is no fault."""
    told = [event for event in case.history.happened("one class") if event.get("epoch", 0) >= case.history.epochs > 0]
    if told and not any(one_class_predicted(case)):
        yield Finding(
            severity="fault",
            rule="one class predicted",
            sentence="one class was called for every row, in the last epoch too: nothing is learnt",
            evidence="; ".join(str(event.get("why")) for event in told),
            remedy="balance once, not several times; raise the rate if the loss hardly moved, lower it if it jumped",
            share=1.0,
        )


def class_gap(case: RunCase) -> Iterator[Finding]:
    """A macro mean that hides a class that isn't learnt."""
    classes = {n: c for n, c in case.history.curves.items() if n.startswith("val_f1_class_") and len(c)}
    if len(classes) < 2:
        return
    worst, best = (pick(classes.values(), key=lambda curve: curve.last) for pick in (min, max))
    if best.last - worst.last >= case.limits["f1_gap"] and worst.last < case.limits["poor_f1"]:
        mean = case.curve("val_f1_macro")
        hidden = "" if mean is None else f": the macro mean {mean.last:.2f} hides it"
        yield Finding(
            severity="fault",
            rule="class gap",
            marks=(*worst.mark(), *best.mark()),
            sentence=f"class {_of(worst)} is not learnt, F1 {worst.last:.2f} beside {best.last:.2f} of class "
            f"{_of(best)}{hidden}",
            evidence=f"{worst.told()}; {best.told()}",
            remedy="report F1 by class; balance batches or weigh the loss (one of the two), move the threshold "
            "to the share of "
            "the classes, and see whether the class can be told at all",
            share=best.last - worst.last,
        )


def _of(curve: Curve) -> str:
    return curve.name.removeprefix("val_f1_class_")


def balanced_twice(case: RunCase) -> Iterator[Finding]:
    """Several cures for imbalance at once push the other way."""
    used = balancings(case)
    seen = case.history.happened("double balancing")  # `ClassifierLearner` saw it at the start
    if len(used) > 1 or seen:
        both = f"{len(used)} balancings at once: {', '.join(used)}"
        yield Finding(
            severity="warning",
            rule="balanced twice",
            sentence=both if len(used) > 1 else f"balanced twice: {seen[0]['why']}",
            evidence="each alone makes rare classes count as much as common ones; together rare ones outweigh them",
            remedy="keep one: the sampler, or the weights, or the focal loss",
            share=max(len(used), 2) / 3,
        )


def soft_targets(case: RunCase) -> Iterator[Finding]:
    """A focal loss, and accuracies, that take mixed labels for hard ones: by the settings, as no curve shows it."""
    names = ("mixup_alpha", "cutmix_alpha", "label_smoothing")
    by = [f"{name} = {value:g}" for name in names if (value := case.number(name))]
    if case.settings.get("soft_targets") is True:
        by.append("soft_targets = true")
    if by and "focal" in case.text("loss"):
        yield Finding(
            severity="warning",
            rule="focal loss on soft targets",
            sentence="a focal loss on soft targets: its weight (1 - p)^gamma asks for the one right class, which "
            "mixed rows lack",
            evidence=f"loss = {case.settings['loss']}, {', '.join(by)}",
            remedy="use cross-entropy with soft targets, or the focal loss without",
        )
    if by and case.text("train_accuracy_labels") == "unmixed":
        yield Finding(
            severity="note",
            rule="accuracy of unmixed labels",
            sentence="training accuracy is counted on unmixed labels while the rows are mixed: it says little of "
            "the fit",
            evidence=f"train_accuracy_labels = {case.settings['train_accuracy_labels']}",
            remedy="count it on unmixed rows, or leave it out",
        )


def empty_classes(case: RunCase) -> Iterator[Finding]:
    """Classes without rows, or more of them than were declared."""
    found, declared = case.number("classes_found"), case.number("num_classes")
    empty = case.number("classes_without_test_rows") or 0
    said = []
    if found and declared and found != declared:
        said.append(f"{found:g} classes were found where num_classes = {declared:g}")
    if empty:
        said.append(f"{empty:g} classes have no test rows, and count as 0 in a mean over classes")
    if said:
        yield Finding(
            severity="warning",
            rule="empty classes",
            sentence="; ".join(said),
            evidence=f"with {empty:g} empty classes of {found or declared or empty:g} a per-class mean is at most "
            f"{1 - empty / (found or declared or empty):.2f}",
            remedy="leave empty classes out of the mean and say how many there are; take num_classes from the data",
            share=empty / (found or declared or empty),
        )


def foreign_constants(case: RunCase) -> Iterator[Finding]:
    """Inputs normalised with ImageNet's constants, by name or by number, that are no colour photographs."""
    kind, channels = case.text("input_kind"), case.number("channels")
    strange = kind not in ("", *_PHOTOGRAPHS) or (not kind and channels is not None and channels != 3)
    told = case.text("input_normalisation") or case.text("normalisation")
    means = case.settings.get("input_mean", case.settings.get("mean"))
    numbers = [means] if isinstance(means, float) else means if isinstance(means, list | tuple) else []
    by_number = bool(numbers) and all(mean in _IMAGENET for mean in numbers)
    if strange and (told == "imagenet" or by_number):
        yield Finding(
            severity="warning",
            rule="foreign constants",
            sentence=f"{kind or f'{channels:g}-channel'} inputs are normalised with ImageNet's constants, which are "
            "those of colour photographs",
            evidence=f"{f'mean = {means}' if by_number else f'input_normalisation = {told}'}, "
            + (f"input_kind = {kind}" if kind else f"channels = {channels:g}"),
            remedy="take mean and deviation from the training rows",
        )


def training_at_chance(case: RunCase) -> Iterator[Finding]:
    """A model that guesses its own training rows."""
    accuracy, classes = case.trained("train_accuracy", "train_rank_at_1"), case.number("num_classes")
    if accuracy is None or not classes or classes < 2:
        return
    if max(accuracy.values) < case.guesses(classes):
        yield Finding(
            severity="fault",
            rule="training at chance",
            marks=accuracy.mark(),
            sentence=f"{accuracy.name} stays at chance (1/{classes:g} = {1 / classes:.3f}): the training rows "
            "aren't learnt",
            evidence=accuracy.told(),
            remedy="check that labels and rows belong together (a shuffled column?), then the rate",
            share=1.0,
        )


def solved(case: RunCase) -> Iterator[Finding]:
    """The classes trained on are solved and the unseen ones are not: harder negatives have nothing to add."""
    seen, unseen = case.curve("train_rank_at_1"), case.curve("rank_at_1")
    if seen is None or unseen is None or seen.last < case.limits["solved"]:
        return
    if seen.last - unseen.last > case.limits["unseen_far_below"]:
        yield Finding(
            severity="warning",
            rule="training classes solved",
            marks=(*seen.mark(), *unseen.mark()),
            sentence=f"the classes trained on are solved ({RANK_1} {seen.last:.2f}), the unseen are not "
            f"({unseen.last:.2f})",
            evidence=f"{seen.told()}; {unseen.told()}",
            remedy="more identities, not harder negatives; augmentation, or a smaller model",
            share=seen.last - unseen.last,
        )


RULES = (
    *(one_class_predicted, one_class_called, class_gap, balanced_twice, soft_targets, empty_classes, foreign_constants),
    *(training_at_chance, solved),
)
