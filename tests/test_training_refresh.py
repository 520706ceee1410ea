"""How the bank is kept up while training: within an epoch, a share at a time, by an average of the encoder."""

import copy
import math

import lightning as L
import pytest
import torch
from test_training import STAGES, Seen, data, encoder, fit  # noqa: F401

from legolas_metric import (
    CollapseGuard,
    HardMiner,
    MiningSchedule,
    RandomMiner,
    SemiHardMiner,
    TripletSampler,
    probe_embeddings,
)
from legolas_metric.losses import SupConLoss
from legolas_metric.miners.schedule import Plateau
from legolas_metric.training import GlobalMining, MetricLearner, ValidationMonitor

HARD = MiningSchedule([(0, HardMiner())])


def embed(encoder: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The rows of a bank as PyTorch alone gives them, with the encoder left as it is."""
    with torch.no_grad():
        return torch.nn.functional.normalize(copy.deepcopy(encoder).eval()(x))


class Oracle(L.Callback):
    """After each step: what the bank should hold, by a loop of its own. To be passed before `GlobalMining`."""

    def __init__(self, x, share=None, decay=None) -> None:
        self.x, self.share, self.decay = x, share, decay
        self.next = 0

    def on_fit_start(self, trainer, pl_module) -> None:
        self.shadow = copy.deepcopy(pl_module.encoder)
        self.rows = embed(self.shadow, self.x)
        self.steps = [0] * len(self.x)

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if self.decay is None:
            self.shadow = pl_module.encoder
        else:
            for mine, theirs in zip(self.shadow.state_dict().values(), pl_module.encoder.state_dict().values()):
                mine.copy_(self.decay * mine + (1 - self.decay) * theirs)
        if self.share is not None:
            for _ in range(math.ceil(self.share * len(self.x))):
                self.rows[self.next] = embed(self.shadow, self.x[self.next : self.next + 1])[0]
                self.steps[self.next] = trainer.global_step
                self.next = (self.next + 1) % len(self.x)


def test_within_an_epoch_a_round_replaces_the_batches_that_are_left(data):  # noqa: F811
    x, labels = data
    seen = Seen()
    mining = GlobalMining(x, labels, schedule=HARD, batch_size=12, every_steps=4, progress=False)
    learner = MetricLearner(encoder(), SupConLoss(), lr=0.1)
    fit(learner, mining.loader(), mining, seen, epochs=2)
    # 6 steps an epoch: a round at each epoch's start, and at every fourth step that is not an epoch's last
    assert [(r.epoch, r.step) for r in mining.rounds] == [(0, 0), (0, 4), (1, 6), (1, 8)]
    assert all(r.drift < 0.9999 for r in mining.rounds[1:])
    ahead = 1  # Lightning fetches a batch before it is asked for
    for number, (_, rows) in enumerate(seen.batches):
        (last,) = [r for r in mining.rounds if r.step <= number][-1:]
        (earlier,) = [r for r in mining.rounds if r.step <= max(0, number - ahead)][-1:]
        located = [len(r.triplets.locate(torch.tensor(rows))[0]) for r in (last, earlier)]
        assert max(located) >= 4
    assert set(map(len, (seen.rows(0), seen.rows(1)))) == {6}


def test_a_rotating_share_is_rewritten_after_each_step_and_the_rest_ages(data):  # noqa: F811
    x, labels = data
    mining = GlobalMining(x, labels, schedule=HARD, batch_size=12, rotate=0.3, progress=False)
    oracle = Oracle(x, share=0.3)
    ages = []

    class Ages(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            torch.testing.assert_close(mining.bank.embeddings, oracle.rows)
            assert mining.bank.steps.tolist() == oracle.steps
            ages.append(mining.bank.max_age)

    net, embedded = encoder(), []

    def note(module, inputs, _) -> None:
        if module is net and not net.training:  # the oracle's are copies
            embedded.append(len(inputs[0]))

    net.register_forward_hook(note)
    fit(MetricLearner(net, SupConLoss(), lr=0.1), mining.loader(), oracle, mining, Ages(), epochs=2)
    # 22 of 72 rows a step: all are written once after 4 steps, and the oldest is then 3 steps old
    assert ages == [1, 2, 3] + [3] * 9
    assert [r.triplets.stats.max_age for r in mining.rounds] == [0, 3]
    assert mining.rounds[0].triplets.stats.drift is None
    assert -1 <= mining.rounds[1].triplets.stats.drift == mining.rounds[1].drift < 0.9999
    assert sum(embedded) == 72 + 12 * 22  # each round but the first found the bank as it was


def test_a_bank_that_rotates_too_slowly_is_refused(data):  # noqa: F811
    x, labels = data
    schedule = MiningSchedule([(0, HardMiner(max_staleness=4))])
    mining = GlobalMining(x, labels, schedule=schedule, batch_size=12, rotate=0.1, progress=False)
    with pytest.raises(ValueError, match="the bank's oldest row is 6 steps old, max_staleness=4"):
        fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, epochs=2)


def test_the_bank_is_embedded_by_the_average_of_the_encoder(data):  # noqa: F811
    x, labels = data
    mining = GlobalMining(x, labels, schedule=HARD, batch_size=12, rotate=0.5, ema=0.9, progress=False)
    oracle = Oracle(x, share=0.5, decay=0.9)
    learner = MetricLearner(encoder(), SupConLoss(), lr=0.1)
    fit(learner, mining.loader(), oracle, mining, epochs=2)
    torch.testing.assert_close(mining.bank.embeddings, oracle.rows, rtol=1e-4, atol=1e-5)
    assert (mining.bank.embeddings - embed(learner.encoder, x)).abs().max() > 0.01


def test_a_plateau_of_a_logged_metric_starts_the_next_stage(data):  # noqa: F811
    x, labels = data
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(1), HardMiner())])
    monitor = ValidationMonitor(x, labels)
    mining = GlobalMining(x, labels, schedule=schedule, batch_size=24, monitor="rank_at_1", progress=False)
    learner = MetricLearner(encoder(), SupConLoss(), lr=0.0, weight_decay=0.0)
    learner.encoder[1].momentum = 0.0  # so that nothing at all moves
    fit(learner, mining.loader(), mining, monitor, epochs=4)
    assert [r.miner for r in mining.rounds] == ["RandomMiner", "RandomMiner", "HardMiner", "HardMiner"]
    (change,) = schedule.changes
    assert change.epoch == 2
    assert "for 1 epochs" in change.reason


def test_a_guard_that_steps_the_schedule_back_is_heeded_by_the_next_round(data):  # noqa: F811
    x, labels = data
    schedule = MiningSchedule([(0, RandomMiner()), (1, SemiHardMiner())])
    guard = CollapseGuard("step_back", schedule=schedule)
    mining = GlobalMining(x, labels, schedule=schedule, batch_size=24, progress=False)

    class Watch(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            rows = torch.ones(50, 8) if trainer.current_epoch == 1 else torch.randn(50, 8)
            guard.check(probe_embeddings(rows), epoch=trainer.current_epoch + 1)

    fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, Watch(), epochs=4)
    assert [r.miner for r in mining.rounds] == ["RandomMiner", "SemiHardMiner", "RandomMiner", "SemiHardMiner"]
    assert [change.epoch for change in schedule.changes] == [1, 2, 3]
    assert "point collapse" in schedule.changes[1].reason


def test_a_monitor_that_is_never_logged_is_warned_of_and_begins_no_stage(data):  # noqa: F811
    x, labels = data
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(1), HardMiner())])
    monitor = ValidationMonitor(x, labels)
    mining = GlobalMining(x, labels, schedule=schedule, batch_size=24, monitor="rank_at_one", progress=False)
    with pytest.warns(UserWarning, match=r"monitor=.rank_at_one. is not among the logged .* logged: .*rank_at_1"):
        fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, monitor, epochs=4)
    assert [r.miner for r in mining.rounds] == ["RandomMiner"] * 4


def test_epochs_before_the_first_validation_do_not_count(data):  # noqa: F811
    x, labels = data
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(1), HardMiner())])

    class Growing(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            if trainer.current_epoch >= 2:
                pl_module.log("grows", float(trainer.current_epoch))

    mining = GlobalMining(x, labels, schedule=schedule, batch_size=24, monitor="grows", progress=False)
    with pytest.warns(UserWarning, match="monitor='grows'"):
        fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, Growing(), epochs=6)
    assert [r.miner for r in mining.rounds] == ["RandomMiner"] * 6


@pytest.mark.parametrize(("batch_size", "steps", "turns"), [(12, 6, 1), (12, 30, 1), (12, 6, 2)])
def test_what_share_of_the_mined_batches_is_fed_is_recorded(data, batch_size, steps, turns):  # noqa: F811
    x, labels = data
    mining = GlobalMining(
        x,
        labels,
        schedule=HARD,
        batch_size=batch_size,
        turns=("mined", "random")[:turns],
        k=3,
        steps_per_epoch=steps,
        progress=False,
    )
    fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, epochs=1)
    (only,) = mining.rounds
    batches = len(TripletSampler(only.triplets, batch_size))
    assert only.fed == min(1.0, steps / turns / batches)
    assert (only.fed == 1.0) == (steps == 30)


def test_a_round_within_an_epoch_draws_the_class_graph_anew(data):  # noqa: F811
    x, labels = data
    graphs, seeds = {}, []

    class Graphs(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            sampler = mining.loop.feeder._pk["neighbors"]
            graphs[sampler] = sampler.choice
            if batch_idx % 2:
                seeds.append(int(batch[1][0]))

    mining = GlobalMining(
        x,
        labels,
        schedule=HARD,
        batch_size=12,
        turns=("mined", "neighbors"),
        k=3,
        every_steps=6,
        steps_per_epoch=24,
        progress=False,
    )
    learner = MetricLearner(encoder(), SupConLoss(), lr=0.5)
    fit(learner, mining.loader(), mining, Graphs(), epochs=1)
    assert [r.step for r in mining.rounds] == [0, 6, 12, 18]
    assert len(graphs) == 4
    assert len({str(graph.tolist()) for graph in graphs.values()}) > 1
    assert sorted(seeds) == list(range(12))  # each class in turn, whichever graph its batch is of
