"""What a history holds and no rule could judge, and why."""

from collections.abc import Iterator

from legolas_metric.doctor.run_case import RANKINGS, RunCase
from legolas_metric.doctor.value_names import is_read, loss_kind
from legolas_metric.measures import measure


def unjudged(case: RunCase) -> list[str]:
    """Rankings of too few values for a trend, and names that no rule reads."""
    return [*_short(case), *_unknown(case), *_of_unknown_loss(case)]


def _short(case: RunCase) -> Iterator[str]:
    asked = case.limits["few_epochs"]
    for name in RANKINGS:
        curve = case.history.get(name)
        if curve is not None and len(curve) < asked:
            yield f"{name} has {len(curve)} value{'' if len(curve) == 1 else 's'}, and a trend takes {asked:g}"


def _unknown(case: RunCase) -> Iterator[str]:
    """Values that are neither read by a rule nor figures of this library."""
    held = case.history.curves
    names = [name for name in held if name not in case.history.rounds and not is_read(name) and not measure(name).unit]
    if names:
        more = f" and {len(names[6:])} more" if names[6:] else ""
        yield f"no rule reads {', '.join(names[:6])}{more}"


def _of_unknown_loss(case: RunCase) -> Iterator[str]:
    told = case.text("loss")
    if told and case.history.get("train_loss") is not None and not loss_kind(told) and "focal" not in told:
        yield f"at which value the loss {told} has collapsed is not known, so that it is not looked for"
