"""Compiled loops on other people's machines, and work in threads: all of it, errors included."""

import builtins
import errno
import hashlib
import importlib
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from processes import python

from legolas_metric import ExactIndex
from legolas_metric.compiled import jit, readiness
from legolas_metric.compiled.threads import in_threads
from legolas_metric.index.arithmetic import exact_arithmetic
from legolas_metric.index.exact.precision import has_int16

needs_numba = pytest.mark.skipif(not jit.has_numba(), reason="numba does not compile here")


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
        assert len(done) < 400, "no new task is begun after an error"  # of which a thread does a hundred a second
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


@pytest.mark.parametrize("threads", [1, 2])
def test_a_task_that_raises_stop_iteration_does_not_end_with_a_part(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)

    def take(task: int) -> int:
        return next(iter(())) if task == 30 else task

    try:
        with pytest.raises(RuntimeError, match="a task raised StopIteration"):
            in_threads(take, range(60))
    finally:
        torch.set_num_threads(before)


def test_overlapping_searches_keep_float32_and_give_the_switches_back():
    """The first thread leaves while the second is inside: the second still has its float32."""
    torch.set_float32_matmul_precision("medium")
    second_inside, first_left, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        with exact_arithmetic(torch.device("cpu")):
            second_inside.set()
            first_left.wait(300)
            seen.append(torch.get_float32_matmul_precision())

    try:
        other = threading.Thread(target=second)
        with exact_arithmetic(torch.device("cpu")):
            other.start()
            assert second_inside.wait(300)
        first_left.set()
        other.join()
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_numba_that_does_not_load_is_told_with_the_remedy(monkeypatch):
    real = builtins.__import__

    def fails(name, *rest, **more):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.3 or less")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", fails)
    assert "cannot be imported (Numba needs NumPy 2.3 or less; pip install" in str(jit._missing())
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert "NUMBA_DISABLE_JIT is set (unset it" in str(jit._missing())
    monkeypatch.setattr(jit, "_missing", lambda: "numba is not installed (pip install numba)")
    with pytest.warns(UserWarning, match="numba is not installed .*plain torch instead"):
        assert not jit.has_numba.__wrapped__()


@needs_numba
def test_a_narrower_target_has_no_int16_and_disabled_loops_are_not_missed():
    """In one process each, which has not imported numba: code for any processor; and numba told not to compile."""
    ask = (
        "import os, torch, warnings; warnings.simplefilter('ignore')\n"
        "os.environ.pop('NUMBA_CPU_FEATURES', None); os.environ['{}'] = '{}'\n"
        "from legolas_metric.index.exact.precision import has_int16\n"
        "from legolas_metric import ExactIndex\n"
        "print(has_int16(torch.device('cpu')), ExactIndex(precision='{}').fit(torch.eye(40)).self_join(1, want='any')"
        ".ids.shape[0])"
    )
    for settings in (("NUMBA_CPU_NAME", "generic", "auto"), ("NUMBA_DISABLE_JIT", "1", "float32")):
        done = python("-c", ask.format(*settings))
        assert done.stdout.strip() == "False 40", done.stderr


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """A module with one loop that calls another module's, kept in a folder of its own; (folder, load)."""
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from legolas_metric.compiled.jit import compiled\n\n@compiled\ndef twice(x):\n    return 2 * x\n"
    (tmp_path / "a_loop.py").write_text(text)

    def load():
        sys.modules.pop("a_loop", None)
        importlib.invalidate_caches()
        return importlib.import_module("a_loop").twice

    yield tmp_path / "kept", load
    sys.modules.pop("a_loop", None)


def test_a_kept_loop_is_loaded_and_a_file_cut_short_is_made_anew(loop):
    folder, load = loop
    assert load()(3) == 6
    again = load()
    assert again(3) == 6
    assert sum(again.stats.cache_hits.values()) == 1
    for path in folder.rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:20])
    assert load()(3) == 6
    whole = load()
    assert whole(3) == 6
    assert sum(whole.stats.cache_hits.values()) == 1


def test_a_full_disk_is_told_once_and_stops_nothing(loop, monkeypatch):
    from legolas_metric.compiled import kept

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    _, load = loop
    kept.warn_unkept.cache_clear()
    monkeypatch.setattr(kept.IndexDataCacheFile, "_save_index", full)
    with pytest.warns(UserWarning, match="No space left on device.*NUMBA_CACHE_DIR"):
        assert load()(3) == 6
    assert load()(4) == 8


def test_no_folder_to_keep_loops_in_is_told(loop, monkeypatch):
    from legolas_metric.compiled import kept

    kept.warn_unkept.cache_clear()
    monkeypatch.setattr(kept.FunctionCache._impl_class, "_locator_classes", [])
    with pytest.warns(UserWarning, match="no folder for them can be written.*NUMBA_CACHE_DIR"):
        assert loop[1]()(3) == 6


@needs_numba
def test_machine_code_is_keyed_by_the_text_of_what_it_calls(monkeypatch):
    from legolas_metric.compiled import kept

    before = kept.stamp.__wrapped__("legolas_metric.index.exact.passes")
    texts: dict[str, bytes] = {}
    kept._read("legolas_metric.index.exact.passes", texts)
    parts = {name.removeprefix("legolas_metric.") for name in texts}
    assert parts >= {"compiled.pointers", "compiled.avx2", "compiled.row_loops", "index.exact.layout"}
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path.name == "pointers.py" else b""))
    assert kept.stamp.__wrapped__("legolas_metric.index.exact.passes") != before


def _joins() -> tuple[tuple[int, int], str]:
    """The micro-tile of this process, and a digest of what the engine finds with it."""
    from legolas_metric.compiled.avx2 import PANELS

    rows = torch.randn(700, 37, generator=torch.Generator().manual_seed(0))
    index = ExactIndex(precision="int16").fit(rows, torch.arange(700) // 3)
    window = torch.full((700,), -1.0), torch.full((700,), 0.2)
    found = [index.self_join(1), index.self_join(3, window=window), index.self_join(5, farthest=True)]
    assert {one.stats.certified for one in found} == {1.0}
    text = str([(one.ids.tolist(), one.similarities.tolist()) for one in found])
    return PANELS, hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.skipif(not has_int16(torch.device("cpu")), reason="no int16 here")
def test_every_micro_tile_finds_the_same():
    """A process that compiles for AVX2 alone, from the same folder of machine code."""
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi"}
    done = python("-c", f"import os; os.environ |= {narrow}\nfrom test_compiled import _joins\nprint(*_joins())")
    assert done.stdout.split("(6, 16) ")[1:] == [_joins()[1] + "\n"], done.stderr


def test_code_for_another_processor_is_not_taken(loop, monkeypatch):
    from numba.core.codegen import JITCPUCodegen

    _, load = loop
    assert load()(3) == 6
    here = JITCPUCodegen.magic_tuple
    for target, is_here in ((here, True), (lambda codegen: (*here(codegen)[:2], "+another"), False)):
        monkeypatch.setattr(JITCPUCodegen, "magic_tuple", target)
        again = load()
        assert again._cache.holds_any() == is_here
        assert again(3) == 6
        assert sum(again.stats.cache_hits.values()) == is_here


class _Kept:
    """Stands for a loop: whether it is kept on disk."""

    def __init__(self, kept: bool) -> None:
        self._cache = self
        self.holds_any = lambda: kept


@pytest.mark.parametrize("kept", [False, True])
def test_loops_are_loaded_when_that_pays_and_compiled_with_a_word(kept, capsys, monkeypatch):
    monkeypatch.setattr(readiness, "runs_compiled", lambda device: True)
    loops, here = readiness.Loops("the test's loops", 20.0, lambda: [_Kept(kept)]), torch.device("cpu")
    assert not loops.worth(here, 0.2)
    assert not loops.worth(here, 0.4)
    assert loops.worth(here, 0.2) == kept, "what was spent before counts"
    assert not capsys.readouterr().err
    assert loops.worth(here, 25.0)
    said = capsys.readouterr().err
    assert said == ("" if kept else "compiling the test's loops, once: about 20 s\n")
    assert loops.worth(here, 0.0)
    assert not loops.worth(torch.device("meta"), 100.0)


def test_small_searches_load_no_compiler():
    """Neither rows nor a search of 1,500 rows, nor the mining of a bank, in a process without it."""
    ask = (
        "import sys, torch\n"
        "from legolas_metric import EmbeddingBank, ExactIndex\n"
        "bank = EmbeddingBank(torch.randn(1500, 64), torch.arange(1500) // 5)\n"
        "for want in ('negative', 'positive', 'any'):\n"
        "    ExactIndex().fit(bank.embeddings, bank.labels).self_join(3, want=want)\n"
        "print('numba' in sys.modules)"
    )
    assert python("-c", ask, check=True).stdout.strip() == "False"
