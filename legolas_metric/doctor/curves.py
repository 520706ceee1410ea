"""How a logged value went: rise, fall, where it levels off, spikes."""

import math
from dataclasses import dataclass
from statistics import median

from legolas_metric.doctor.findings import Mark
from legolas_metric.doctor.thresholds import Limits


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

    def since(self, epoch: float | int) -> "Curve":
        """Its values from an epoch on."""
        return self.tail(sum(each >= epoch for each in self.epochs))

    def smoothed(self) -> "Curve":
        """Medians of three values in a row, each told at the middle one; the ends of their three."""
        last = max(len(self) - 3, 0)
        starts = [min(max(0, i - 1), last) for i in range(len(self))]
        return Curve(self.name, self.epochs, tuple(median(self.values[start : start + 3]) for start in starts))

    def level_from(self, limits: Limits) -> float | None:
        """The epoch from which it stays near its last level; None if it never rests.

        The last level is the median of its last part; the rest must be longer than that, since of a straight line as
        many would seem level.
        """
        n, part = len(self.values), round(len(self.values) * limits["level_part"], 6)
        if part < 2:
            return None
        level, room = median(self.values[-int(part) :]), limits["level_room"] * (max(self.values) - min(self.values))
        if abs(self.values[-1] - level) > limits["turn"] * (max(self.values) - min(self.values)):
            return None  # it has just left it
        start = next((i for i in range(n) if abs(median(self.values[i : i + 3]) - level) <= room), n)
        return self.epochs[start] if n - start >= part + 1 else None

    def spikes(self, limits: Limits, *, up: bool = True) -> list[float]:
        """Epochs that jumped up (or down) by many times the usual change, beyond all of the third before."""
        if not up:
            return Curve(self.name, self.epochs, tuple(-value for value in self.values)).spikes(limits)
        steps = [later - earlier for earlier, later in zip(self.values, self.values[1:])]
        if len(self.values) < limits["few_epochs"]:
            return []
        usual, back = median(abs(step) for step in steps), max(3, len(self.values) // 3)
        return [
            self.epochs[i + 1]
            for i, step in enumerate(steps)
            if usual
            and i + 1 >= back  # of the first values it isn't known yet what is usual
            and step > max(limits["spike"] * usual, limits["visible"] * abs(self.values[i]))
            and self.values[i + 1] > max(self.values[max(0, i + 1 - back) : i + 1])
        ]

    def sparse(self) -> bool:
        """Whether what is no number is only what lies between measurements, or as few epochs behind the last one."""
        known, gap, longest = set(self.epochs), 0, 0
        for epoch in sorted({*self.epochs, *self.broken}):
            gap = 0 if epoch in known else gap + 1
            longest = longest if gap and epoch > self.epochs[-1] else max(longest, gap)
        return gap <= longest

    def told(self) -> str:
        """First and last value, with their epochs."""
        return f"{self.name} {self.first:.4g} (epoch {self.epochs[0]:g}) to {self.last:.4g} (epoch {self.epochs[-1]:g})"

    def words(self, limits: Limits) -> str:
        """The trend in words."""
        if len(self) < 3:
            return f"{self.name} has {len(self)} value{'' if len(self) == 1 else 's'}: {self.told()}"
        if min(self.values) == max(self.values):
            return f"{self.name} stays at {self.last:.4g}"
        trend, start, least = self.trend(), self.level_from(limits), limits["trend"]
        rests = start is not None and start > self.epochs[0]
        way = "rises" if trend > least else "falls" if trend < -least else "neither rises nor falls"
        if rests and abs(trend) <= least:
            way = "rises" if self.last > self.first else "falls"
        turn = self._turn(limits)
        if turn:
            return f"{self.told()}: {turn}{self._jumps(limits)}"
        return f"{self.told()}: {way}{f', and levels off from epoch {start:g}' if rests else ''}{self._jumps(limits)}"

    def _turn(self, limits: Limits) -> str:
        """In words, that it went one way and then the other, by a good part of its range each; empty where not."""
        room, least = limits["turn"] * (max(self.values) - min(self.values)), limits["trend"]
        for larger, first, then in ((True, "rises", "falls"), (False, "falls", "rises")):
            epoch, best = self.best(larger=larger)
            at = self.epochs.index(epoch)
            before, after = (Curve(self.name, self.epochs[part], self.values[part]) for part in _halves(at))
            sign = 1 if larger else -1
            both = min(sign * (best - self.first), sign * (best - self.last)) > room
            if both and sign * before.trend() > least and sign * after.trend() < -least:
                return f"{first} until epoch {epoch:g}, then {then}"
        return ""

    def _jumps(self, limits: Limits) -> str:
        """Its spikes in words: values far beyond all before that did not last."""
        jumps = [
            epoch
            for up in (True, False)
            for epoch in self.spikes(limits, up=up)
            if (following := next((v for e, v in zip(self.epochs, self.values) if e > epoch), None)) is not None
            and ((self.at(epoch) or 0) > following) == up
        ]
        return f"; jumps in epoch {', '.join(f'{epoch:g}' for epoch in sorted(jumps)[:5])}" if jumps else ""


def _halves(at: int) -> tuple[slice, slice]:
    return slice(0, at + 1), slice(at, None)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
