"""A run that was interrupted and resumed equals one that was not, to the bit."""

import random

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_training import D, Seen, data  # noqa: F401
from torch import nn
from torch.utils.data import Dataset

from legolas_metric import (
    EmbeddingBank,
    FullHardMiner,
    HardMiner,
    MiningSchedule,
    NeighborPKSampler,
    PKSampler,
    RandomMiner,
    SemiHardMiner,
)
from legolas_metric.losses import SupConLoss
from legolas_metric.miners.schedule import Plateau
from legolas_metric.training import GlobalMining, MetricLearner, MiningLoop, ValidationMonitor
from legolas_metric.training.batches import FedBatches
from legolas_metric.training.embedder import Placed
from legolas_metric.training.resume import generator_states, restore_generators

pytestmark = pytest.mark.filterwarnings("ignore:two reads of an example differ")
EPOCHS, STEPS = 4, 6
SETTINGS = {
    "each epoch": {},
    "every other epoch": {"every": 2},
    "within epochs, in turn, averaged": {"every_steps": 4, "rotate": 0.2, "ema": 0.9},
    "in turns": {"turns": ("mined", "neighbors", "random"), "k": 3, "pairs": "mined"},
}


class Noisy(Dataset):
    """Examples that draw from global generators (not from Python's, which the tests' type checks draw from as well)."""

    def __init__(self, x) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row):
        noise = torch.randn(D) + np.random.rand()  # noqa: NPY002
        return self.x[row] + 0.1 * noise


def run(x, labels, folder, settings, *, resume=None, noisy=True):
    """A training run from the same start each time; returns what came of it."""
    L.seed_everything(3 if resume is None else 99, verbose=False)
    encoder = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 4))
    stages = [(0, RandomMiner()), (1, SemiHardMiner(margin=1.0)), (Plateau(1), HardMiner()), (3, FullHardMiner())]
    schedule = MiningSchedule(stages)
    source = Noisy(x) if noisy else x
    mining = GlobalMining(
        source, labels, schedule=schedule, batch_size=12, monitor="rank_at_1", progress=False, **settings
    )
    seen = Seen()
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=5, save_top_k=-1)
    ends = ModelCheckpoint(folder, "end-{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        callbacks=[mining, seen, ValidationMonitor(x, labels), keep, ends],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    learner = MetricLearner(encoder, SupConLoss(), lr=0.05)
    trainer.fit(learner, mining.loader(), ckpt_path=resume, weights_only=None if resume is None else True)
    return learner, mining, seen, schedule


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_equals_uninterrupted(data, tmp_path, name):  # noqa: F811
    x, labels = data
    whole, mining, seen, schedule = run(x, labels, tmp_path, SETTINGS[name])
    assert len(seen.batches) == EPOCHS * STEPS
    assert schedule.changes
    for where, left in {"step=5": 19, "step=10": 14, "step=20": 4, "end-epoch=0": 18, "end-epoch=1": 12}.items():
        path = tmp_path / f"{where}.ckpt"
        again, resumed, seen_again, schedule_again = run(x, labels, tmp_path, SETTINGS[name], resume=path)
        assert seen_again.batches == seen.batches[-left:]
        for key, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key
        state, state_again = mining.state_dict(), resumed.state_dict()
        for key in ("epoch", "step", "next", "value", "schedule"):
            assert state[key] == state_again[key]
        assert torch.equal(state["bank"]["embeddings"], state_again["bank"]["embeddings"])
        assert torch.equal(state["bank"]["steps"], state_again["bank"]["steps"])
        assert schedule.changes == schedule_again.changes
        for old, new in zip(mining.rounds[-len(resumed.rounds) :], resumed.rounds, strict=True):
            assert (old.epoch, old.step, old.miner, old.drift) == (new.epoch, new.step, new.miner, new.drift)
            assert torch.equal(old.triplets.negative, new.triplets.negative)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1).item()])
def test_generators_are_restored(draw):
    np.random.standard_normal()  # noqa: NPY002  (leaves a second one in store)
    saved = generator_states()
    drawn = [draw() for _ in range(700)]  # more than a generator holds in store
    restore_generators(saved)
    assert [draw() for _ in range(700)] == drawn


def test_batches_go_on_behind_those_that_were_trained_on_however_many_were_fetched():
    def fed():
        batches = FedBatches(10)
        rows = [PKSampler(torch.arange(12) // 2, 2, 2, batches_per_epoch=3, seed=seed) for seed in (0, 1)]
        batches.feed(rows, 0)
        return batches

    whole = list(fed())
    assert len({tuple(batch) for batch in whole}) > 6
    for done in range(10):
        for ahead in (0, 1, 4):
            before, after = fed(), fed()
            loader = iter(before)
            for _ in range(min(done + ahead, 10)):
                next(loader)
            after.load_state_dict(before.state_dict(done))
            assert list(after) == whole[done:]


def test_batches_fetched_from_samplers_that_were_let_go_since_come_all_the_same():
    def sampler(seed):
        return PKSampler(torch.arange(12) // 2, 2, 2, batches_per_epoch=3, seed=seed)

    def later():
        return [sampler(2), sampler(1)]  # the second stays

    for ahead in range(5):
        before = FedBatches(12)
        before.feed([sampler(0), sampler(1)], 0)
        loader, whole = iter(before), []
        for _ in range(4 + ahead):
            whole.append(next(loader))
        kept = before._sources[1]
        before.feed([sampler(2), kept], 0)
        states = {done: before.state_dict(done) for done in range(4, 4 + ahead + 1)}
        whole.extend(loader)
        for done, state in states.items():
            assert len(state["fetched"]) == sum(step % 2 == 0 for step in range(done, 4 + ahead))
            after = FedBatches(12)
            after.feed(later(), 0)
            after.load_state_dict(state)
            again = iter(after)
            assert [next(again)] == whole[done : done + 1]
            once_more = FedBatches(12)  # saved and loaded again, in the midst of what was fetched
            once_more.feed(later(), 0)
            once_more.load_state_dict(after.state_dict(done + 1))
            assert list(again) == list(once_more) == whole[done + 1 :]


def test_classes_that_were_chosen_go_on_however_many_epochs_were_fetched():
    labels = torch.arange(24) // 2

    def fed(seed):
        rows = torch.randn(24, 3, generator=torch.Generator().manual_seed(seed))
        near = NeighborPKSampler(EmbeddingBank(rows, labels), 3, 2, batches_per_epoch=3)
        batches = FedBatches(12)
        batches.feed([near, PKSampler(labels, 2, 2)], 0)
        return batches

    whole = list(fed(0))
    for done in range(12):
        before, after = fed(0), fed(1)  # other neighbours
        loader = iter(before)
        for _ in range(min(done + 8, 12)):  # the next epochs of the former have begun
            next(loader)
        after.load_state_dict(before.state_dict(done))
        went_on = list(after)
        first = -(-done // 2)  # draw of the former, 3 of which are an epoch
        for draw in range(first, min(6, first - first % 3 + 3)):
            assert went_on[2 * draw - done] == whole[2 * draw]
        assert went_on[1 - done % 2 :: 2] == whole[done:][1 - done % 2 :: 2]


def test_resuming_in_the_same_object_plans_by_the_bank_that_came_back(data, tmp_path):  # noqa: F811
    x, labels = data
    learner, mining, *_ = run(x, labels, tmp_path, SETTINGS["in turns"])
    saved = mining.state_dict()
    old = mining.bank
    mining.load_state_dict(saved)
    mining.loop.resume(Placed(learner.encoder))
    assert mining.bank is not old
    assert mining.loop.feeder._pk["neighbors"].bank is mining.bank


@pytest.mark.parametrize(("saved", "now", "how"), [(0.9, None, "with"), (None, 0.9, "without")])
def test_a_run_with_an_averaged_encoder_goes_on_with_one(data, tmp_path, saved, now, how):  # noqa: F811
    x, labels = data
    run(x, labels, tmp_path, {"ema": saved})
    with pytest.raises(ValueError, match=f"ema={now}, but the saved run was {how} an averaged encoder"):
        run(x, labels, tmp_path / "again", {"ema": now}, resume=tmp_path / "step=5.ckpt")


def test_a_run_with_other_joint_batches_is_refused():
    """As with another number of processes and the same batch_size."""
    x, labels, encoder = torch.randn(40, D), torch.arange(40) // 4, nn.Linear(D, 4)
    loop, other = (
        MiningLoop(x, labels, miner=HardMiner(), batch_size=size, steps_per_epoch=3, progress=False) for size in (8, 4)
    )
    next(loop.epoch(encoder))
    other.load_state_dict(loop.state_dict())
    with pytest.raises(ValueError, match=r"trained on 8 rows a step, this one on 4 \(4 of each of 1 processes\)"):
        next(other.epoch(encoder))
