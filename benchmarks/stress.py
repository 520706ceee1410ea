"""Refresh, mine, train, save, resume, in a loop, under faults: `python -m benchmarks.stress --minutes 60`.

A round trains a small encoder for a few epochs: it writes a bank to disk, mines it, and saves its whole state after
every step. Meanwhile it is killed (SIGKILL) at random moments, its files are damaged, its disk is full, and its clock
jumps. Then it goes on, and in the end must hold what a run that nobody disturbed holds, bit for bit: weights, mined
triplets, history. The watching process does all of it too, in one process and from several threads, and its memory must
stay flat. Needs Linux, and for a full disk the right to mount (root): without it that fault is left out, and told.
"""

import argparse
import errno
import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch

from legolas_metric import FullHardMiner, SemiHardMiner, StoredBank, StoredIndex, SupConLoss
from legolas_metric.files import write_json
from legolas_metric.index.exact import MINING
from legolas_metric.outputs import whole_file
from legolas_metric.training import MiningLoop, RunHistory

EPOCHS, STEPS, ROWS, D = 3, 4, 600, 24
DISK_MB = 1  # of the small disk, of which a run needs less than half
FULL = 3  # exit status of a run that found its disk full
GROWTH = 0.05  # of memory, between the first tenth of the rounds and the last, that still counts as flat


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def train(folder: Path) -> None:
    """A run, from its beginning or from where it stood; leaves `result.json`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(ROWS) // 6
    data = torch.randn(ROWS // 6, D, generator=generator).repeat_interleave(6, 0)
    data = data + torch.randn(ROWS, D, generator=generator)
    torch.manual_seed(1)
    encoder, loss = torch.nn.Linear(D, 16), SupConLoss()
    optimiser = torch.optim.Adam(encoder.parameters(), 1e-3)
    history = RunHistory(folder)
    loop = MiningLoop(
        data, labels, miner=SemiHardMiner(), batch_size=60, steps_per_epoch=STEPS, progress=False, history=history
    )
    steps = 0
    if (folder / "state.pt").exists():
        saved = torch.load(folder / "state.pt", weights_only=True)
        loop.load_state_dict(saved["loop"])
        encoder.load_state_dict(saved["encoder"])
        optimiser.load_state_dict(saved["optimiser"])
        steps = saved["steps"]
    while True:
        epoch = steps // STEPS
        if steps and steps % STEPS == 0:  # said by whoever begins the next epoch: the last may have died before that
            history.epoch(epoch=epoch - 1, step=steps, values={"weights": digest(*encoder.state_dict().values())})
        if epoch == EPOCHS:
            break
        if steps % STEPS == 0:
            mine(folder, encoder, data, labels, epoch, history)
        for x, y, ids in loop.epoch(encoder):
            optimiser.zero_grad()
            loss(encoder(x), y, loop.indices(ids)).backward()
            optimiser.step()
            steps += 1
            state = {"loop": loop.state_dict(), "encoder": encoder.state_dict(), "optimiser": optimiser.state_dict()}
            written = io.BytesIO()  # on a full disk torch.save itself tells of a position, not of the disk
            torch.save(state | {"steps": steps}, written)
            with whole_file(folder / "state.pt") as temporary:
                temporary.write_bytes(written.getbuffer())
    write_json(folder / "result.json", {"weights": digest(*encoder.state_dict().values())})


def mine(
    folder: Path, encoder: torch.nn.Module, data: torch.Tensor, labels: torch.Tensor, epoch: int, history: RunHistory
) -> None:
    """Refresh the bank on disk, mine it, and note what was found."""
    path, step = folder / "bank", epoch * STEPS
    if path.exists() and (old := StoredBank(path, memory_mb=64)).step <= step:
        bank = old.refresh(encoder, data, step=step, progress=False)
    else:
        bank = StoredBank.encode(
            path, encoder, data, labels=labels, storage="int8", step=step, memory_mb=64, progress=False
        )
    found = FullHardMiner().mine(bank, anchors=range(0, ROWS, 7))
    bank.verify()
    history.event(epoch=epoch, step=step, what="mined", why=digest(found.anchor, found.positive, found.negative))


def told(folder: Path) -> dict[str, object]:
    """What a finished run holds: by epoch, so that what was done twice counts once."""
    history = RunHistory(folder)
    return {
        "result": json.loads((folder / "result.json").read_text()),
        "mined": {entry["epoch"]: entry["why"] for entry in history.events if entry["what"] == "mined"},
        "epochs": {epoch: entry["values"]["weights"] for epoch, entry in history.epochs.items()},
        "rounds": [entry["values"]["triplets"] for entry in history.rounds],
    }


def child(folder: Path, chance: random.Random) -> int:
    """Start a run in a process of its own, whose clock jumps by hours, also backwards."""
    jumps = chance.randrange(2**31)
    process = os.fork()
    if process:
        return process
    clock, real = random.Random(jumps), time.time
    time.time = lambda: real() + clock.uniform(-1e5, 1e5)
    status = 1
    try:
        train(folder)
        status = 0
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            status = FULL
        else:
            sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def disturbed(folder: Path, chance: random.Random, seconds: float, counts: Counter[str], small_disk: bool) -> None:
    """A run that is killed, damaged and starved of disk until it has ended by itself."""
    ballast, tried = folder / "ballast", 0
    while True:
        tried += 1
        if small_disk and chance.random() < 0.4:
            fill(ballast)
        process = child(folder, chance)
        if tried < 12:
            time.sleep(chance.uniform(0, 1.2 * seconds))
            os.kill(process, signal.SIGKILL)  # or it has ended meanwhile
        _, status = os.waitpid(process, 0)
        ballast.unlink(missing_ok=True)
        if os.WIFSIGNALED(status):
            counts["kills"] += 1
            damage(folder, chance, counts)
        elif os.WEXITSTATUS(status) == FULL:
            counts["full disks"] += 1
        elif os.WEXITSTATUS(status):
            raise SystemExit(f"{folder}: a run ended with an error, see above")
        else:
            return


def fill(ballast: Path) -> None:
    """Leave a random sliver of the disk."""
    free = shutil.disk_usage(ballast.parent).free
    ballast.write_bytes(bytes(max(0, free - random.randrange(1 << 12, 1 << 16))))


def damage(folder: Path, chance: random.Random, counts: Counter[str]) -> None:
    """Flip a byte of the bank, or cut it short: it must be refused by name; then it is taken away."""
    path = folder / "bank"
    if not path.exists() or chance.random() < 0.5:
        return
    whole = path.read_bytes()
    broken = bytearray(whole)
    if chance.random() < 0.7:
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    else:
        del broken[chance.randrange(len(broken)) :]
    path.write_bytes(broken)
    counts["damaged files"] += 1
    try:
        StoredBank(path).verify()
    except ValueError as error:
        counts["damaged files refused"] += str(path) in str(error)
    path.unlink()


def searched(folder: Path, counts: Counter[str]) -> None:
    """Four threads search one bank, and find what one finds."""
    bank = StoredBank(folder / "bank", memory_mb=64)
    alone = StoredIndex(bank).self_join(2).ids
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(StoredIndex(bank).self_join(2).ids)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts["concurrent searches"] += len(found)
    counts["of them equal"] += sum(torch.equal(ids, alone) for ids in found)


def memory_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def mounted(folder: Path) -> bool:
    """Whether a small disk could be mounted there."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads must not fork
    MINING.worth(torch.device("cpu"), math.inf)  # or numba, some 60 MB, would come when searches had taken long enough
    chance, counts, resident = random.Random(asked.seed), Counter[str](), []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        undisturbed = Path(place) / "undisturbed"
        undisturbed.mkdir()
        train(undisturbed)
        expected = told(undisturbed)
        small = Path(place) / "small"
        has_disk = mounted(small)
        try:
            while time.monotonic() < start + 60 * asked.minutes:
                again = Path(place) / "again"
                again.mkdir()
                before = time.monotonic()
                train(again)
                seconds = time.monotonic() - before
                assert told(again) == expected, "two undisturbed runs differ"
                searched(again, counts)
                shutil.rmtree(again)
                small_disk = has_disk and chance.random() < 0.5
                folder = small / "run" if small_disk else Path(place) / "run"
                folder.mkdir()
                disturbed(folder, chance, seconds, counts, small_disk)
                counts["rounds"] += 1
                found = told(folder)
                counts["rounds equal"] += found == expected
                if found != expected:
                    print(json.dumps({"seed": asked.seed, "expected": expected, "found": found}), file=sys.stderr)
                counts["lines cut short"] += RunHistory(folder).broken
                shutil.rmtree(folder)
                resident.append(memory_mb())
        finally:
            if has_disk:
                subprocess.run(["umount", str(small)], check=False)
    tenth = max(1, len(resident) // 10)
    tenths = [sum(part) / len(part) for at in range(0, len(resident), tenth) if (part := resident[at : at + tenth])]
    first, last = tenths[0], sum(resident[-tenth:]) / tenth
    report = {
        "minutes": round((time.monotonic() - start) / 60, 1),
        "small disk": has_disk,
        **counts,
        "memory_mb of each tenth": [round(mean) for mean in tenths],
        "most": round(max(resident)),
    }
    print(json.dumps(report, indent=1))
    assert counts["rounds equal"] == counts["rounds"] > 0
    assert counts["damaged files refused"] == counts["damaged files"]
    assert counts["of them equal"] == counts["concurrent searches"]
    assert last < first * (1 + GROWTH), f"memory grew from {first:.0f} to {last:.0f} MB"


if __name__ == "__main__":
    main()
