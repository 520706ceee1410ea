"""What a rule on runs is given: the history, the settings, and the limits."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.history_reader import History

RANKINGS = ("rank_at_1", "map_at_r", "mean_average_precision")


@dataclass(frozen=True, slots=True)
class RunCase:
    """A run, as the rules see it."""

    history: History
    settings: Mapping[str, Any]
    limits: Mapping[str, float]

    def curve(self, *names: str, least: int = 1) -> Curve | None:
        """The first of these values that was logged at least `least` times."""
        found = (self.history.get(name) for name in names)
        return next((curve for curve in found if curve is not None and len(curve) >= least), None)

    def trained(self, *names: str) -> Curve | None:
        """The same, with as many values as a trend takes."""
        return self.curve(*names, least=int(self.limits["few_epochs"]))

    def ranking(self) -> Curve | None:
        """Rank@1 of the validation set, or else MAP@R, or mAP."""
        return next(iter(self.rankings()), None)

    def rankings(self, *, least: int = 0) -> list[Curve]:
        """Rank@1, MAP@R and mAP of the validation set, those with as many values as asked, or as a trend takes."""
        asked = least or int(self.limits["few_epochs"])
        found = (self.curve(name, least=asked) or self._strictest(name, asked) for name in RANKINGS)
        return [curve for curve in found if curve is not None]

    def _strictest(self, name: str, least: int) -> Curve | None:
        """Where a figure was logged by protocol alone, the protocol that ends lowest."""
        curves = self.history.curves
        held = [curve for key, curve in curves.items() if key.startswith(f"{name}/") and len(curve) >= least]
        return min(held, key=lambda curve: curve.last, default=None)

    def saturated(self) -> bool:
        """Whether the ranking has no room left to gain."""
        ranking = self.ranking()
        return ranking is not None and ranking.last >= self.limits["saturated"]

    def gained(self) -> bool:
        """Whether the run ends with a ranking, or else an accuracy, above its first."""
        wanted = self.wanted()
        return wanted is not None and wanted.last >= wanted.first + self.limits["worse"]

    def kept(self) -> bool:
        """Whether the history says that the best weights were kept or restored."""
        return bool(self.history.happened("restore") or self.history.happened("best weights"))

    def kept_better(self, ranking: Curve) -> bool:
        """Whether weights were kept that rank better than the first epoch's."""
        return self.kept() and ranking.best(larger=True)[1] > ranking.first + self.limits["worse"]

    def wanted(self) -> Curve | None:
        """What the run is for, as far as it was logged: a ranking, else what classifies."""
        return self.ranking() or self.trained("val_f1_macro", "val_f1", "val_accuracy", "auc")

    def falls(self, curve: Curve) -> bool:
        """Whether a loss fell."""
        return curve.change < -self.limits["loss_fell"] and curve.trend() < 0

    def guesses(self, classes: float | None) -> float:
        """The accuracy below which a model of so many classes guesses."""
        return 1 / classes + self.limits["above_chance"] * (1 - 1 / classes) if classes and classes > 1 else 0.0

    def text(self, name: str) -> str:
        """A setting as lower-case text; empty where it isn't given."""
        value = self.settings.get(name)
        return "" if value is None else str(value).lower()

    def number(self, name: str) -> float | None:
        """A setting that is a number, or None."""
        return number_of(self.settings.get(name))


def number_of(value: object) -> float | None:
    """A finite number, also where a logger kept it as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def listed(value: object) -> list[Any]:
    """A setting that is a list; empty where it is something else."""
    return list(value) if isinstance(value, list | tuple) else []


def balancings(case: RunCase) -> list[str]:
    """What the settings name that makes rare classes count more: a sampler, weights, the loss."""
    weights, sampler = case.settings.get("class_weights"), case.text("sampler")
    alike = any(name in sampler for name in ("pk", "balanced", "m_per", "mper", "weighted"))
    given = len(weights) > 1 if isinstance(weights, list | tuple | Mapping) else weights not in (None, False, "", 0)
    told = case.settings.get("weighted_sampler") not in (None, False, "", 0)
    return [
        *(["weighted sampler"] if told or alike else []),
        *(["class weights"] if given and str(weights).lower() not in _OFF else []),
        *(["focal loss"] if "focal" in case.text("loss") else []),
    ]


_OFF = ("none", "null", "false", "no")

Rule = Callable[[RunCase], Iterator[Finding]]
