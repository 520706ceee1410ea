"""What the processes of test_training_processes.py do."""

import os
import time
import traceback
from io import BytesIO
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from processes import begin, hurry
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from legolas_metric import HardMiner, MiningSchedule, SemiHardMiner, SupConLoss
from legolas_metric.datasets import load_omniglot
from legolas_metric.distributed import World
from legolas_metric.index.placement import needed
from legolas_metric.training import CollapseMonitor, GlobalMining, MetricLearner, MiningLoop, ValidationMonitor

JOINT, STEPS, EPOCHS = 48, 10, 5  # rows of a joint batch; 50 steps
STOP = 23  # steps after which the resumed run was interrupted, within an epoch


def data():
    train = load_omniglot().take(torch.arange(160))
    return torch.stack([train[row][0] for row in range(160)]).flatten(1).double(), train.labels


def encoder(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(1)
    middle = nn.BatchNorm1d(24) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(784, 24), middle, nn.Linear(24, 8)).double()


def schedule():
    return MiningSchedule([(0, SemiHardMiner(margin=1.0)), (2, HardMiner())])


class Reads:
    """A data set that counts what is read of it."""

    def __init__(self, x):
        self.x, self.read = x, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        self.read += 1
        return self.x[row]


# A plain loop


def plain_loop(world: World, **settings):
    x, labels = data()
    reads = Reads(x)
    given = {"steps_per_epoch": STEPS, "every_steps": 7, "embed_batch_size": 40, "progress": False} | settings
    loop = MiningLoop(
        x, labels, schedule=schedule(), embed_dataset=reads, batch_size=JOINT // world.size, world=world, **given
    )
    return loop, reads


def begin_run(world: World, settings):
    """A loop with its reads, a network, alone and as it is trained, and an optimizer."""
    net = encoder()
    model = DistributedDataParallel(net) if world.size > 1 else net
    return *plain_loop(world, **settings), net, model, torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)


def train(loop, net, model, optimizer, *, saved=None):
    """Losses of the joint batches and the ids of this process's; what stands after `STOP` steps goes to `saved`."""
    loss, seen = SupConLoss(gather=loop.world if loop.world.size > 1 else None), {"losses": [], "ids": []}
    for _ in range(loop.next_epoch, EPOCHS):
        for x, y, ids in loop.epoch(model):
            value = loss(model(x), y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            seen["losses"].append(value.item())
            seen["ids"].append(ids)
            if saved is not None and loop.step == STOP:
                begun = {key: list(values) for key, values in seen.items()}
                torch.save([begun, *(part.state_dict() for part in (loop, net, optimizer))], saved)
    return seen


def run_plain(world: World, **settings):
    """A whole run, and one that goes on from what it saved within an epoch."""
    loop, reads, net, model, optimizer = begin_run(world, settings)
    saved = BytesIO()
    seen = train(loop, net, model, optimizer, saved=saved)
    rounds = [[r.triplets.anchor, r.triplets.positive, r.triplets.negative] for r in loop.rounds]
    kept = {"seen": seen, "rounds": rounds, "bank": loop.bank.embeddings, "reads": reads.read, "drift": loop.last.drift}
    kept["placing"] = loop.holding.placing
    kept["held"] = loop.bank.embeddings.clone(), loop.bank.steps.clone()
    kept["weights"] = net.state_dict()

    loop, _, net, model, optimizer = begin_run(world, settings)
    saved.seek(0)
    begun, *states = torch.load(saved, weights_only=False)
    for part, state in zip((loop, net, optimizer), states, strict=True):
        part.load_state_dict(state)
    rest = train(loop, net, model, optimizer)
    kept["resumed"] = {key: begun[key] + rest[key] for key in begun}
    kept["held again"] = loop.bank.embeddings, loop.bank.steps
    if world.size > 1 and settings.keys() >= {"rotate", "memory_mb"}:
        kept["whole"] = loop.holding.saved_by_all(loop.bank)  # what a checkpoint holds that one process writes
        (state, *_) = world.gather_objects(states[0])
        again, _ = plain_loop(world, **settings)
        again.load_state_dict(state)
        with pytest.raises(ValueError, match=r"process 1 of \d has no saved state of its rows.*as many processes"):
            next(again.epoch(net))
    return kept


SETTINGS = {
    "whole": {},
    "rotating": {"rotate": 0.2, "ema": 0.9},
    "turns": {"turns": ("mined", "neighbors", "random"), "k": 8},
}
TOO_LITTLE = {"memory_mb": (needed(160, 160, 8, 1) - 1) / 2**20}  # for all 160 rows on one process, not for its own
SHARDED = {  # by the number of processes
    2: {"sharded": {"turns": ("mined", "neighbors", "random"), "k": 8, **TOO_LITTLE}},
    4: {"rotating by parts": {"rotate": 0.2, **TOO_LITTLE}},
}


def many(rank: int, size: int, port: int, folder: Path, checkpoint: Path | None) -> None:
    """Several runs in the same processes, since starting one takes longer than a run."""
    begin(rank, size, port)
    world = World.current(averages_gradients=True)
    for name, settings in (SETTINGS | SHARDED[2] if size == 2 else {"whole": {}} | SHARDED[4]).items():
        torch.save(run_plain(world, **settings), folder / f"{name}-{rank}.pt")
    # as torchrun would, which Lightning then goes by
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    if size == 4:
        under_lightning(folder / "whole", size, "ddp")
        lost_in_backward(rank, size, folder / "lost")
    under_lightning(folder / "again", size, "ddp", resume=checkpoint)
    under_lightning(folder / "mined", size, "ddp", pairs="mined")
    rotating = {"rotate": 0.2, **TOO_LITTLE}
    under_lightning(folder / "rotating", size, "ddp", **rotating)
    under_lightning(folder / "rotating on", size, "ddp", resume=folder / "rotating" / "stopped.ckpt", **rotating)
    lost_in_backward(rank, size, folder / "lost")


def lost_in_backward(rank: int, size: int, folder: Path) -> None:
    """One ends while the others wait for its gradient: in DDP's own collective, where the library has no word."""
    if rank == 1:
        MetricLearner.on_before_backward = lambda self, loss: os._exit(3)
    try:
        under_lightning(folder, size, "ddp")
    except RuntimeError as error:
        (folder / f"told-{rank}.txt").write_text("".join(traceback.format_exception(error)))
        os._exit(0)  # the group is broken, and waits for whoever would close it


class Sleeping(Reads):
    """Sleeps when it is read for the second time round."""

    def __getitem__(self, row):
        if self.read > 100:
            time.sleep(600)
        return super().__getitem__(row)


def sleeping(rank: int, size: int, port: int) -> None:
    begin(rank, size, port)
    x, labels = data()
    world = World.current(averages_gradients=True)
    held = Sleeping(x) if rank == 1 else Reads(x)
    loop = MiningLoop(
        x, labels, miner=HardMiner(), embed_dataset=held, batch_size=24, steps_per_epoch=2, progress=False, world=world
    )
    net = encoder()
    for _ in range(3):
        for inputs, y, _ in loop.epoch(net):
            SupConLoss(gather=world)(net(inputs), y).backward()
        hurry(5)


# Under Lightning


class Notes(L.Callback):
    """Keeps what this process saw."""

    def __init__(self, mining, watch, folder):
        self.mining, self.watch, self.folder = mining, watch, folder
        self.seen = {"losses": [], "ids": []}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == STOP:  # a resumed run is past it
            trainer.save_checkpoint(self.folder / "stopped.ckpt")  # within an epoch
        self.seen["losses"].append(float(outputs["loss"]))
        self.seen["ids"].append(batch[2])

    def on_fit_end(self, trainer, pl_module):
        rounds = [[r.triplets.anchor, r.triplets.positive, r.triplets.negative] for r in self.mining.rounds]
        kept = {"seen": self.seen, "rounds": rounds, "bank": self.mining.bank.embeddings}
        kept["rank_at_1"] = [record.ranking.rank[1] for record in self.watch.history]
        kept["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(kept, self.folder / f"lightning-{trainer.global_rank}.pt")


class First(L.Callback):
    """Keeps the first bank: what the untrained encoder gave."""

    def __init__(self, mining, folder):
        self.mining, self.folder = mining, folder

    def on_train_start(self, trainer, pl_module):
        torch.save(self.mining.bank.embeddings, self.folder / f"first-{trainer.global_rank}.pt")


def under_lightning(folder: Path, size: int, strategy: str, *, norm=False, pairs="batch", resume=None, **memory):
    folder.mkdir(exist_ok=True)
    x, labels = data()
    other = load_omniglot().take(torch.arange(300, 360))
    held = torch.stack([other[row][0] for row in range(60)]).flatten(1).double()
    mining = GlobalMining(
        x,
        labels,
        schedule=schedule(),
        batch_size=JOINT // size,
        steps_per_epoch=STEPS,
        every_steps=7,
        embed_batch_size=40,
        pairs=pairs,
        **memory,
    )
    watch = ValidationMonitor(held, other.labels)
    learner = MetricLearner(encoder(norm=norm), SupConLoss(), gather=size > 1, optimizer=descent, schedule=steady)
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=size,
        strategy=strategy,
        callbacks=[mining, watch, CollapseMonitor("warn"), First(mining, folder), Notes(mining, watch, folder)],
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, mining.loader(), ckpt_path=resume)


def descent(groups):
    return torch.optim.SGD(groups, 0.05)


def steady(optimizer):
    """No schedule."""


def by_torchrun(folder: Path) -> None:
    """With batch norm, with rows on their own processes, and with a process lost."""
    torch.set_num_threads(1)
    under_lightning(folder, 2, "ddp", norm=True)
    under_lightning(folder / "sharded", 2, "ddp", **TOO_LITTLE)
    if os.environ["RANK"] == "1":  # in the second epoch, when the others wait for its rows
        MetricLearner.on_train_epoch_end = lambda self: os._exit(3)
    try:
        under_lightning(folder / "lost", 2, "ddp", **TOO_LITTLE)
    except RuntimeError as error:
        (folder / "told.txt").write_text("".join(traceback.format_exception(error)))
        time.sleep(2)  # so that the agent misses the other one first
        os._exit(1)  # Lightning has taken the signal by which the agent ends it, and the agent waits 30 s
