"""What a rule on runs is given: the history, the settings, and the limits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.history_reader import History


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
        """Rank@1 of the validation set, or else MAP@R."""
        return self.trained("rank_at_1", "map_at_r")

    def wanted(self) -> Curve | None:
        """What the run is for, as far as it was logged: a ranking, else what classifies."""
        return self.trained("rank_at_1", "map_at_r", "val_f1_macro", "val_f1", "val_accuracy", "auc")

    def falls(self, curve: Curve) -> bool:
        """Whether a loss fell."""
        return curve.change < -self.limits["loss_fell"] and curve.trend() < 0

    def text(self, name: str) -> str:
        """A setting as lower-case text; empty where it isn't given."""
        value = self.settings.get(name)
        return "" if value is None else str(value).lower()

    def number(self, name: str) -> float | None:
        """A setting that is a number, or None."""
        value = self.settings.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


Rule = Callable[[RunCase], Iterator[Finding]]
