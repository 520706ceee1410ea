"""Which of several processes is lost: each counts its signs of life where the others can read them when it is gone."""

import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import torch.distributed as dist

_KEEPER = "process 0 of the run, or the launcher that keeps its store,"
_PATIENCE = 3.0  # seconds for a word from a process that lives
_BEAT = 0.5  # seconds between two signs of life


class Signs:
    """One process's signs, and what it reads of the others', in the store of their group.

    A collective ends at once for the neighbours of a process that has died, and for the others when the neighbours end,
    or at the time-out. So whoever finds out who is lost tells it by the store, and the store's keeper stays until the
    others have heard that.

    Args:
        rank, size: of this process within the group.
        group: a process group, whose store is used.
    """

    def __init__(self, rank: int, size: int, group: Any) -> None:
        self.rank, self.size, self._group = rank, size, group
        self._meeting, self._left, self._heard = 0, Event(), set[int]()

    def come(self) -> None:
        """Come to a meeting, and give signs of life until `leave`.

        Raises:
            RuntimeError: the store does not answer.
        """
        self._meeting = self._count("meetings", 1, [self.rank], in_time=False)[0]
        Thread(target=self._beat, daemon=True).start()

    def leave(self) -> None:
        """The meeting is over."""
        self._left.set()

    def missing(self) -> str:
        """Who has not come to the meeting, or doesn't answer; "" for nobody. Every process that lives asks it.

        By a thread: a launcher's signal breaks into this one, and its handler may raise (Lightning's does).
        """
        found, done = list[str](), Event()

        def seek() -> None:
            try:
                found.append(self._missing())
            finally:
                done.set()

        Thread(target=seek, daemon=True).start()
        while not done.is_set():
            with suppress(RuntimeError):
                done.wait()
        return found[0] if found else ""

    def _missing(self) -> str:
        """Who waits in a meeting is meant only where all that are missing wait."""
        end = time.monotonic() + _PATIENCE
        stays = end + _PATIENCE * (dist.get_rank() == 0)
        try:
            own, late = self._count("answers", 1, [self.rank])[0], self._behind("meetings", self._meeting)
            beats, quiet = self._count("beats"), self._behind("answers", own)
        except RuntimeError:
            return _processes(self._heard) or _KEEPER
        waiting, told = set[int](), set[int]()
        with suppress(RuntimeError):  # the keeper has gone
            while quiet and (time.monotonic() < end or (told and quiet & waiting and time.monotonic() < stays)):
                told = self._told(own)
                if told and dist.get_rank():
                    break
                time.sleep(0.1)
                waiting = {rank for rank, now in enumerate(self._count("beats")) if now > beats[rank]}
                quiet = self._behind("answers", own)
                if not told and time.monotonic() >= end:
                    told = (late | quiet) - waiting
                    self._count(f"lost/{own}", 1, sorted(told))
        lost = told or late | quiet
        return _processes(lost - waiting or lost)

    def _beat(self) -> None:
        """Count for as long as a meeting lasts, and hear who is lost."""
        with suppress(RuntimeError):
            while not self._left.wait(_BEAT):
                self._count("beats", 1, [self.rank])
                self._heard |= self._told(self._count("answers", 0, [self.rank])[0] + 1)

    def _told(self, answer: int) -> set[int]:
        """Who is lost, as another process has found out before this one asks for the n-th time."""
        return {rank for rank, times in enumerate(self._count(f"lost/{answer}")) if times}

    def _behind(self, what: str, own: int) -> set[int]:
        """The processes that have counted less than this one."""
        return {rank for rank, count in enumerate(self._count(what)) if count < own}

    def _count(
        self, what: str, more: int = 0, ranks: Sequence[int] | None = None, *, in_time: bool = True
    ) -> list[int]:
        """Add to what processes (default: all) count in the store; RuntimeError where the store is gone.

        It is waited for as long as the store waits elsewhere, or with `in_time` for some seconds.
        """
        store, counts = self._group.get_group_store(), list[list[int]]()
        whose = range(self.size) if ranks is None else ranks

        def count() -> None:
            with suppress(RuntimeError):
                counts.append([store.add(f"legolas_metric/{what}/{rank}", more) for rank in whose])

        # The store has no time-out of its own for this: where its keeper stands still, so would everybody.
        counting = Thread(target=count, daemon=True)
        counting.start()
        counting.join(_PATIENCE if in_time else store.timeout.total_seconds())
        if not counts:
            raise RuntimeError("the store of the process group does not answer")
        return counts[0]


def _processes(ranks: set[int]) -> str:
    return f"process {', '.join(map(str, sorted(ranks)))}" if ranks else ""
