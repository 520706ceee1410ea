"""Work in threads: all of it, errors included, and torch's own threads as they were."""

import threading
import time

import pytest
import torch

from legolas_metric.compiled.threads import in_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_every_task_is_done_once_on_one_thread_of_torch(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = in_threads(lambda task: (task, torch.get_num_threads()), (task for task in range(50)))
        assert torch.get_num_threads() == threads
        assert sorted(task for task, _ in found) == list(range(50))
        assert {own for _, own in found} == {1}
        later = []
        one = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        one.start()
        one.join()
        assert later == [threads]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_reaches_the_caller(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)

    done = []

    def fail(task: int) -> None:
        if task == 3:
            raise ValueError("task 3")
        time.sleep(0.01)
        done.append(task)

    try:
        with pytest.raises(ValueError, match="task 3"):
            in_threads(fail, range(500))
        assert len(done) < 20, "no new task is begun after an error"
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_callers_at_the_same_time_keep_their_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    def call() -> None:
        in_threads(lambda task: time.sleep(0.002), range(20))
        seen.append(torch.get_num_threads())

    try:
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert seen == [2, 2, 2, 2]
    finally:
        torch.set_num_threads(before)
