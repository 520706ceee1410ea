"""Work spread over as many threads as torch has, each of which gets torch to itself."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_DONE: Any = object()  # stands for the task after the last


def in_threads(function: Callable[[T], R], tasks: Iterable[T]) -> list[R]:
    """The results of all tasks, in any order; as many at a time as torch has threads, each on one.

    A thread takes its next task when it is free: of a million, none waits in memory.
    """
    threads = _threads()
    waiting, guard = iter(tasks), Lock()

    def stop() -> None:
        nonlocal waiting
        with guard:
            waiting = iter(())

    def work() -> list[R]:
        done = []
        try:
            while True:
                with guard:
                    task = next(waiting, _DONE)
                if task is _DONE:
                    return done
                done.append(function(task))
        except StopIteration as error:  # which a generator above would take for its own end
            stop()
            raise RuntimeError("a task raised StopIteration") from error
        except BaseException:
            stop()
            raise

    if threads == 1:
        return work()
    _busy.append(threads)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = [pool.submit(work) for _ in range(threads)]
            try:
                return [result for part in parts for result in part.result()]
            except BaseException:  # an interrupt, too
                stop()
                raise
    finally:
        _busy.remove(threads)
        torch.set_num_threads(threads)  # what those threads were told is what later ones would start with


_busy: list[int] = []  # of the callers that have threads at work


def _threads() -> int:
    """Torch's threads; those of another caller where there is one, since a thread that begins meanwhile is told 1."""
    return max([torch.get_num_threads(), *_busy])
