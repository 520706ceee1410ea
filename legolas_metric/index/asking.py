"""Processes that answer each other, though each asks what it needs when it needs it.

Letters: n rows of all processes, m of them that are asked for.
"""

from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any

from legolas_metric.distributed import World

Answer = Callable[[Any, Any], Any]
"""Carries a request out on every process: (request, what this one asks by it, or None) -> this one's answer."""


class Asking:
    """Around work in which each process may ask all of them, as often as it likes. Ours.

    Every question is a round: all tell what they ask, and carry out each of these requests together, one after the
    other. Who has done its work goes on answering until nobody asks. So the work needs no common pace: one process
    may search twice, another never. What fails on one process fails on all, in the next round.

    Args:
        world: the processes; each enters and leaves.
        what: is done meanwhile, for errors.
        answer: carries out a request, with collectives.
    """

    def __init__(self, world: World, what: str, answer: Answer) -> None:
        self._world, self._what, self._answer = world, what, answer
        self._over = False  # whether the processes have parted, by an error

    def ask(self, request: Hashable, given: Any) -> Any:
        """What all processes together answer to a request that compares equal on all who ask the same."""
        return self._round(request, given)[1]

    def __enter__(self) -> "Asking":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._over:
            return
        if isinstance(error, Exception):
            self._world.tell(f"{type(error).__name__}: {error}", self._what, error)
        elif error is None:
            while self._round(None, None)[0]:
                pass

    def _round(self, request: Hashable, given: Any) -> tuple[bool, Any]:
        """Whether anybody asked anything, and the answer to this process."""
        try:
            asked = self._world.tell(request, self._what)
            own = None
            for one in dict.fromkeys(some for some in asked if some is not None):
                answer = self._answer(one, given if one == request else None)
                own = answer if one == request else own
        except BaseException:
            self._over = True
            raise
        return any(some is not None for some in asked), own
