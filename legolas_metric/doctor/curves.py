"""How a logged value went: rise, fall, where it levels off, spikes."""

import math
from dataclasses import dataclass
from statistics import median

from legolas_metric.doctor.findings import Mark
from legolas_metric.doctor.thresholds import THRESHOLDS

_VISIBLE = 0.05  # of a value, below which a jump is none that anyone would see


@dataclass(frozen=True, slots=True)
class Curve:
    """A value over epochs, ascending; what isn't finite is kept apart.

    Attributes:
        name: of the value.
        epochs, values: the finite ones.
        broken: epochs in which it was NaN or infinite.
    """

    name: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]
    broken: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def first(self) -> float:
        """The first value."""
        return self.values[0]

    @property
    def last(self) -> float:
        """The last value."""
        return self.values[-1]

    @property
    def change(self) -> float:
        """(last - first) / |first|, infinite where it began at 0 and went elsewhere."""
        gap = self.last - self.first
        return gap / abs(self.first) if self.first else math.copysign(math.inf, gap) if gap else 0.0

    def best(self, *, larger: bool) -> tuple[float, float]:
        """(epoch, value) of the best value; the first of equal ones."""
        pick = (max if larger else min)(self.values)
        return self.epochs[self.values.index(pick)], pick

    def mark(self, *epochs: float | int) -> tuple[Mark, ...]:
        """Places on it for a page: these epochs, or the last."""
        return tuple(Mark(self.name, epoch) for epoch in epochs or self.epochs[-1:])

    def tail(self, count: int) -> "Curve":
        """Its last values."""
        return Curve(self.name, self.epochs[-count:], self.values[-count:])

    def at(self, epoch: float | int) -> float | None:
        """Its value in an epoch, or None."""
        return dict(zip(self.epochs, self.values)).get(epoch)

    def trend(self) -> float:
        """Kendall's tau of the value with time, in [-1, 1]: 1 rises throughout, -1 falls throughout."""
        n = len(self.values)
        signs = [_sign(later - earlier) for i, earlier in enumerate(self.values) for later in self.values[i + 1 :]]
        return sum(signs) / (n * (n - 1) / 2) if n > 1 else 0.0

    def level_from(self, share: float = 0.05) -> float | None:
        """The epoch from which it stays within `share` of its whole range of its last level; None if it never rests.

        The last level is the median of the last third; the rest must be more than a third of the epochs, since
        of a straight line as many would seem level.
        """
        n = len(self.values)
        if n < 6:
            return None
        level, room = median(self.values[-(n // 3) :]), share * (max(self.values) - min(self.values))
        start = next((i for i in range(n) if abs(median(self.values[i : i + 3]) - level) <= room), n)
        return self.epochs[start] if n - start >= n / 3 + 1 else None

    def spikes(self, factor: float, *, up: bool = True) -> list[float]:
        """Epochs that jumped up (or down) by `factor` times the usual change, beyond all of the third before."""
        if not up:
            return Curve(self.name, self.epochs, tuple(-value for value in self.values)).spikes(factor)
        steps = [later - earlier for earlier, later in zip(self.values, self.values[1:])]
        if len(steps) < 4:
            return []
        usual, back = median(abs(step) for step in steps), max(3, len(self.values) // 3)
        return [
            self.epochs[i + 1]
            for i, step in enumerate(steps)
            if usual
            and step > max(factor * usual, _VISIBLE * abs(self.values[i]))
            and self.values[i + 1] > max(self.values[max(0, i + 1 - back) : i + 1])
        ]

    def told(self) -> str:
        """First and last value, with their epochs."""
        return f"{self.name} {self.first:.4g} (epoch {self.epochs[0]:g}) to {self.last:.4g} (epoch {self.epochs[-1]:g})"

    def words(self) -> str:
        """The trend in words."""
        if len(self) < 3:
            return f"{self.name} has {len(self)} values"
        trend, start = self.trend(), self.level_from()
        least = THRESHOLDS["trend"].value
        way = "rises" if trend > least else "falls" if trend < -least else "neither rises nor falls"
        rest = f", and levels off from epoch {start:g}" if start is not None and start > self.epochs[0] else ""
        return f"{self.told()}: {way}{rest}{self._jumps()}"

    def _jumps(self) -> str:
        """Its spikes in words: values far beyond all before that did not last."""
        jumps = [
            epoch
            for up in (True, False)
            for epoch in self.spikes(THRESHOLDS["spike"].value, up=up)
            if (following := next((v for e, v in zip(self.epochs, self.values) if e > epoch), None)) is not None
            and ((self.at(epoch) or 0) > following) == up
        ]
        return f"; jumps in epoch {', '.join(f'{epoch:g}' for epoch in sorted(jumps)[:5])}" if jumps else ""


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)
