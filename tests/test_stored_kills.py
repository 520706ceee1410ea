"""A bank on disk is the old one or the new one, wherever its writer is killed."""

from processes import python

KILLED = """
import os, signal, sys, time, traceback
import numpy as np, torch
from legolas_metric import StoredBank
torch.set_num_threads(1)  # a fork has none of its parent's threads, and would wait for them
path = sys.argv[1]
rows, labels = torch.randn(4_000, 64, generator=torch.Generator().manual_seed(0)), torch.arange(4_000) // 4
sign = lambda step: 1 if step % 2 else -1
def write(step):
    StoredBank.write(path, (sign(step) * block for block in rows.split(500)), labels, step=step, storage="float16")
def lines(where, last=None):  # counts what runs of the library there, and ends its process at the last that it is told
    def trace(frame, event, arg):
        if where in f"{frame.f_code.co_filename}:{frame.f_code.co_name}":
            trace.run += 1
            if trace.run == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
    trace.run = 0
    return trace
def killed(work, wait=None):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    bank = StoredBank(path)
    bank.verify()
    assert torch.equal(bank.embeddings[:].sign(), (sign(bank.step) * rows).half().sign())
    return bank.step
def traced(step, trace):
    sys.settrace(trace)
    write(step)
    sys.settrace(None)
def write_on(step):
    for later in range(step, 10**6):
        write(later)
write(1)
step = 1
for where, kills in (("legolas_metric", 10), ("outputs.py:_beside", 30)):
    step += 1
    counted = lines(where)
    traced(step, counted)
    new = []
    for last in np.linspace(1, counted.run, kills, dtype=int):
        before, step = step, killed(lambda: traced(step + 1, lines(where, last)))
        new.append(step - before)
    print(*new)
for wait in np.random.default_rng(0).uniform(0, 0.1, 8):  # within a line too, such as what the system writes
    before, step = step, killed(lambda: write_on(step + 1), wait)
    assert step >= before
write(step + 1)
print(len(os.listdir(os.path.dirname(path))))
"""


def test_a_writer_killed_at_any_moment_leaves_the_old_bank_or_the_new(tmp_path):
    """At lines of the library that are counted, from the first to the last of a write; and whenever the clock says."""
    (tmp_path / "banks").mkdir()
    done = python("-c", KILLED, tmp_path / "banks" / "bank", check=True)
    *turns, after = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    for new in turns:
        assert new == sorted(new)  # the old bank up to one line, the new one from there on
        assert set(new) == {0, 1}
    assert [len(turns), after] == [2, [1]]  # what the kills left went with the next write
