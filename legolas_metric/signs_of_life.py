"""Which of several processes is lost: each counts its signs of life where the others can read them when it is gone."""

import atexit
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch.distributed as dist

T = TypeVar("T")

_KEEPER = "process 0 of the run, or the launcher that keeps its store,"
_PATIENCE = 3.0  # seconds for a word from a process that lives
_BEAT = 0.5  # seconds between two signs of life


class NoAnswer(RuntimeError):
    """The store of the process group does not answer."""


class Signs:
    """One process's signs, and what it reads of the others', in the store of their group.

    A collective ends at once for the neighbours of a process that has died, and for the others when the neighbours end,
    or at the time-out. So whoever finds out who is lost tells it by the store, and the store's keeper stays until the
    others have heard that.

    Signs are given from the beginning until the group is destroyed, by a thread: who waits in a collective can't.

    Args:
        rank, size: of this process within the group.
        group: a process group, whose store is used.
    """

    def __init__(self, rank: int, size: int, group: Any) -> None:
        self.rank, self.size, self._group = rank, size, ref(group)
        self._meeting, self._asked, self._heard = 0, 0, ""
        self._keeps, self._end = dist.get_rank() == 0, Event()
        self._beating = Thread(target=self._beat, daemon=True)
        self._beating.start()

    @classmethod
    def of(cls, rank: int, size: int, group: Any) -> "Signs":
        """Those that this process gives to a group."""
        with _giving:
            found = _given.get(group)
            if found is None:
                found = _given[group] = cls(rank, size, group)
            return found

    def come(self) -> None:
        """Come to a meeting.

        Raises:
            NoAnswer: the store does not answer.
        """
        self._meeting = self._ask(lambda store: store.add(_key("meetings", self.rank), 1), in_time=False)

    def missing(self) -> str:
        """Who has not come to the last meeting, or doesn't answer; "" for nobody. Every process that lives asks it.

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

    def stop(self) -> None:
        """Give no more signs."""
        self._end.set()
        self._beating.join(_PATIENCE)

    def _missing(self) -> str:
        end = time.monotonic() + _PATIENCE
        stays = end + _PATIENCE * self._keeps
        try:
            self._asked = own = self._ask(lambda store: store.add(_key("answers", self.rank), 1))
            late, quiet, beats = self._behind("meetings", self._meeting), self._behind("answers", own), self._beats()
        except NoAnswer:
            return self._heard or _KEEPER
        alive, told = set[int](), ""
        with suppress(NoAnswer):  # the keeper has gone
            while quiet and (time.monotonic() < end or (told and quiet & alive and time.monotonic() < stays)):
                told = self._ask(lambda store: _told(store, own))
                if told and not self._keeps:
                    break
                time.sleep(0.1)
                alive = {rank for rank, now in enumerate(self._beats()) if now > beats[rank]}
                quiet = self._behind("answers", own)
                if not told and time.monotonic() >= end:
                    told = self._tell(own, quiet - alive or quiet & late)
        # Who lives and waits as this process does is meant only where nobody else is missing.
        return told or _processes(quiet - alive or quiet & late or quiet or late)

    def _beat(self) -> None:
        """Count for as long as there is a group, and hear who is lost."""
        with suppress(RuntimeError):
            while not self._end.wait(_BEAT) and (store := self._store()) is not None:
                store.add(_key("beats", self.rank), 1)
                self._heard = _told(store, self._asked + 1) or self._heard
                del store  # which lives no longer than its group

    def _tell(self, answer: int, lost: set[int]) -> str:
        """Tell who is lost; what another has told before counts."""
        if not lost:
            return ""
        return self._ask(lambda store: store.compare_set(_key("lost", answer), "", _processes(lost))).decode()

    def _beats(self) -> list[int]:
        return self._ask(lambda store: [store.add(_key("beats", rank), 0) for rank in range(self.size)])

    def _behind(self, what: str, own: int) -> set[int]:
        """The processes that have counted less than this one."""
        return self._ask(lambda store: {rank for rank in range(self.size) if store.add(_key(what, rank), 0) < own})

    def _store(self) -> Any:
        group = self._group()
        return None if group is None else group.get_group_store()

    def _ask(self, ask: Callable[[Any], T], *, in_time: bool = True) -> T:
        """What the store says; it is waited for as long as the store waits elsewhere, or with `in_time` for seconds."""
        store, said = self._store(), list[T]()

        def wait() -> None:
            with suppress(RuntimeError):
                said.append(ask(store))

        if store is not None:
            # The store has no time-out of its own for this: where its keeper stands still, so would everybody.
            waiting = Thread(target=wait, daemon=True)
            waiting.start()
            waiting.join(_PATIENCE if in_time else store.timeout.total_seconds())
        if not said:
            raise NoAnswer("the store of the process group does not answer")
        return said[0]


_given: WeakKeyDictionary[Any, Signs] = WeakKeyDictionary()  # to each group
_giving = Lock()  # two threads that ask at once begin one thread of signs


@atexit.register
def _stop() -> None:
    """An interpreter that ends must not meet a thread that comes back from the store."""
    for signs in list(_given.values()):
        signs.stop()


def of_others(error: Exception) -> bool:
    """Whether an error says that other processes did not answer; else it is this process's own."""
    return isinstance(error, NoAnswer | dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _told(store: Any, answer: int) -> str:
    """Who is lost, as another process has found out before this one asks for the n-th time; "" if none has."""
    key = _key("lost", answer)
    return store.get(key).decode() if store.check([key]) else ""


def _key(what: str, number: int) -> str:
    return f"legolas_metric/{what}/{number}"


def _processes(ranks: set[int]) -> str:
    return f"process {', '.join(map(str, sorted(ranks)))}" if ranks else ""
