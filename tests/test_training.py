"""Training with global mining in the loop: what is mined is what is fed, and every round is kept."""

import lightning as L
import pytest
import torch
from torch import nn

from legolas_metric import (
    FullHardMiner,
    HardMiner,
    MiningSchedule,
    NeighborPKSampler,
    PKSampler,
    RandomMiner,
    SemiHardMiner,
)
from legolas_metric.bank import EmbeddingBank
from legolas_metric.losses import SupConLoss
from legolas_metric.training import GlobalMining, MetricLearner, ValidationMonitor
from legolas_metric.training.batches import FedBatches
from legolas_metric.training.module import one_cycle

CLASSES, EACH, D = 12, 6, 8


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(CLASSES).repeat_interleave(EACH)[torch.randperm(CLASSES * EACH)]
    return torch.randn(CLASSES, D)[labels] + torch.randn(len(labels), D), labels


def encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def fit(learner, loader, *callbacks, epochs=3, **settings) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(learner, loader)
    return trainer


class Seen(L.Callback):
    """Notes what each training batch held."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[int]]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        assert all(module.training for module in pl_module.encoder.modules())
        self.batches.append((trainer.current_epoch, batch[2].tolist()))

    def rows(self, epoch: int) -> list[list[int]]:
        return [rows for at, rows in self.batches if at == epoch]


STAGES = ((0, RandomMiner()), (1, SemiHardMiner()), (2, FullHardMiner()))


def test_every_epoch_mines_with_the_schedules_miner_and_keeps_the_round(data):
    x, labels = data
    mining = GlobalMining(x, labels, schedule=MiningSchedule(STAGES), batch_size=24, progress=False)
    trainer = fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining)
    assert [r.miner for r in mining.rounds] == ["RandomMiner", "SemiHardMiner", "FullHardMiner"]
    assert [(r.epoch, r.step) for r in mining.rounds] == [(0, 0), (1, 3), (2, 6)]
    assert trainer.global_step == 9
    assert mining.rounds[0].drift is None
    assert all(-1 <= r.drift < 0.9999 for r in mining.rounds[1:])
    assert mining.bank is not None
    assert mining.bank.steps.unique().tolist() == [6]


def test_the_bank_holds_the_encoder_in_evaluation_mode_as_it_was_when_mining(data):
    x, labels = data
    learner = MetricLearner(encoder(), SupConLoss(), lr=0.0, weight_decay=0.0)
    mining = GlobalMining(x, labels, schedule=MiningSchedule(STAGES[:1]), batch_size=24, progress=False)
    before = EmbeddingBank.encode(learner.encoder, x, labels=labels, progress=False)
    fit(learner, mining.loader(), mining, epochs=1)
    assert mining.bank is not None
    torch.testing.assert_close(mining.bank.embeddings, before.embeddings)


def test_batches_are_the_mined_triplets(data):
    x, labels = data
    seen = Seen()
    mining = GlobalMining(x, labels, schedule=MiningSchedule([(0, HardMiner())]), batch_size=12, progress=False)
    fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, seen, epochs=2)
    for r in mining.rounds:
        inside = 0
        for rows in seen.rows(r.epoch):
            a, p, n = r.triplets.locate(torch.tensor(rows))
            assert torch.equal(labels[rows][a], labels[rows][p])
            assert (labels[rows][a] != labels[rows][n]).all()
            covered = torch.stack([a, p, n]).unique()
            assert len(rows) == 12
            assert len(covered) >= 10  # at most two places were left when the next triplet did not fit
            inside += len(a)
        assert inside >= len(seen.rows(r.epoch)) * 4


def test_turns_alternate_mined_and_random_batches(data):
    x, labels = data
    seen = Seen()
    mining = GlobalMining(
        x, labels, schedule=MiningSchedule(STAGES[:1]), batch_size=12, k=3, turns=("random", "mined"), progress=False
    )
    fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, seen, epochs=2)
    for epoch in (0, 1):
        expected = PKSampler(labels, 4, 3, batches_per_epoch=3, seed=0)
        expected.set_epoch(epoch)
        assert seen.rows(epoch)[::2] == list(expected)
        triplets = mining.rounds[epoch].triplets
        assert all(len(triplets.locate(torch.tensor(rows))[0]) >= 4 for rows in seen.rows(epoch)[1::2])


def test_neighbor_batches_hold_classes_that_lie_near_each_other_in_the_bank(data):
    x, labels = data
    seen = Seen()
    mining = GlobalMining(
        x, labels, schedule=MiningSchedule(STAGES[:1]), batch_size=12, k=3, turns=("mined", "neighbors"), progress=False
    )
    fit(MetricLearner(encoder(), SupConLoss(), lr=0.0), mining.loader(), mining, seen, epochs=1)
    expected = NeighborPKSampler(mining.bank, 4, 3, batches_per_epoch=3, seed=0)
    assert seen.rows(0)[1::2] == list(expected)


def test_the_loss_sees_only_mined_triplets_where_asked(data):
    x, labels = data
    calls = []

    def loss(embeddings, labels, indices):
        calls.append(indices)
        return SupConLoss()(embeddings, labels, indices)

    for pairs in ("batch", "mined"):
        calls.clear()
        mining = GlobalMining(
            x, labels, schedule=MiningSchedule(STAGES[:1]), batch_size=24, pairs=pairs, progress=False
        )
        fit(MetricLearner(encoder(), loss), mining.loader(), mining, epochs=1)
        assert len(calls) == 3
        if pairs == "batch":
            assert calls == [None] * 3
        else:
            assert all(len(a) == len(p) == len(n) > 0 for a, p, n in calls)


def test_ids_need_not_be_row_numbers(data):
    x, labels = data
    ids = torch.randperm(1000)[: len(labels)]
    seen = Seen()
    mining = GlobalMining(x, labels, schedule=MiningSchedule(STAGES[:1]), ids=ids, batch_size=12, progress=False)
    fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, seen, epochs=1)
    for _, names in seen.batches:
        assert torch.isin(torch.tensor(names), ids).all()
        assert len(mining.rounds[0].triplets.locate(torch.tensor(names))[0]) >= 4


def test_the_bank_is_refreshed_only_as_often_as_asked(data):
    x, labels = data
    mining = GlobalMining(x, labels, schedule=MiningSchedule(STAGES), batch_size=24, every=2, progress=False)
    seen = Seen()
    fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining, seen, epochs=4)
    assert [(r.epoch, r.miner) for r in mining.rounds] == [(0, "RandomMiner"), (2, "FullHardMiner")]
    assert seen.rows(0) != seen.rows(1)  # mined once, in another order
    for rows in seen.rows(1):
        assert len(mining.rounds[0].triplets.locate(torch.tensor(rows))[0]) >= 8


def test_workers_draw_the_first_epochs_batches_after_mining(data):
    x, labels = data
    seen = Seen()
    mining = GlobalMining(x, labels, schedule=MiningSchedule(STAGES[:1]), batch_size=24, progress=False)
    fit(MetricLearner(encoder(), SupConLoss()), mining.loader(num_workers=1), mining, seen, epochs=2)
    assert [len(seen.rows(epoch)) for epoch in (0, 1)] == [3, 3]
    for r in mining.rounds:
        assert all(len(r.triplets.locate(torch.tensor(rows))[0]) >= 8 for rows in seen.rows(r.epoch))


def test_a_seed_repeats_the_run(data):
    x, labels = data

    def run() -> torch.Tensor:
        torch.manual_seed(5)
        stages = [(0, RandomMiner()), (1, HardMiner())]
        mining = GlobalMining(x, labels, schedule=MiningSchedule(stages), batch_size=24, progress=False)
        learner = MetricLearner(encoder(), SupConLoss())
        fit(learner, mining.loader(), mining)
        return learner(x)

    assert torch.equal(run(), run())


def test_a_sampler_that_runs_dry_starts_over_with_another_order():
    sampler = PKSampler(torch.arange(4).repeat_interleave(4), 2, 2, seed=1)
    fed = FedBatches(5)
    fed.feed([sampler], 0)
    batches = list(fed)
    assert len(fed) == len(batches) == 5
    assert len({tuple(sorted(rows)) for rows in batches}) > len(sampler)


def test_unfed_batches_say_what_to_do():
    with pytest.raises(RuntimeError, match="pass this GlobalMining to the Trainer's callbacks"):
        next(iter(FedBatches(3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": ("random",)}, "must hold 'mined' or 'neighbors'"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"every_steps": 0}, "every_steps must be at least 1, got 0"),
        ({"rotate": 1.0}, "rotate must lie between 0 and 1, got 1.0"),
        ({"ema": 0.0}, "ema must lie between 0 and 1, got 0.0"),
        ({"groups": [1, 2]}, "groups has 2 entries for 72 rows of the data set"),
    ],
)
def test_bad_settings_are_refused_before_training(data, settings, message):
    x, labels = data
    with pytest.raises(ValueError, match=message):
        GlobalMining(x, labels, schedule=MiningSchedule(STAGES), progress=False, **settings)


def test_a_miner_that_finds_nothing_stops_the_run_and_says_why(data):
    x, labels = data
    schedule = MiningSchedule([(0, SemiHardMiner(margin=1e-6))])
    mining = GlobalMining(x, labels, schedule=schedule, progress=False)
    with pytest.raises(ValueError, match=r"no triplet in epoch 0, of 72 anchors 72 outside the window: ease"):
        fit(MetricLearner(encoder(), SupConLoss()), mining.loader(), mining)


def test_the_monitor_measures_the_untrained_encoder_and_every_epoch(data):
    x, labels = data
    monitor = ValidationMonitor(x, labels)
    learner = MetricLearner(encoder(), SupConLoss(), lr=0.05)
    mining = GlobalMining(x, labels, schedule=MiningSchedule(STAGES), batch_size=24, progress=False)
    trainer = fit(learner, mining.loader(), mining, monitor, epochs=4)
    assert [record.epoch for record in monitor.history] == [0, 1, 2, 3, 4]
    first, last = monitor.history[0], monitor.history[-1]
    assert last.ranking.map_at_r > first.ranking.map_at_r
    assert float(trainer.callback_metrics["map_at_r"]) == pytest.approx(last.ranking.map_at_r)
    assert float(trainer.callback_metrics["effective_rank"]) == pytest.approx(last.collapse.effective_rank)


def test_the_learner_is_the_loss_of_its_encoder(data):
    x, labels = data
    learner = MetricLearner(nn.Linear(D, 3), SupConLoss(temperature=0.3))
    learner.log = lambda *args, **settings: None
    expected = SupConLoss(temperature=0.3)(learner.encoder(x[:9]), labels[:9])
    assert torch.equal(learner.training_step((x[:9], labels[:9], torch.arange(9)), 0), expected)


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing():
    rates = [one_cycle(step, 200) for step in range(201)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[20] == pytest.approx(1)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[10] == pytest.approx((1 / 25 + 1) / 2)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_the_learner_follows_the_cycle(data):
    x, labels = data
    rates = []

    class Rate(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    mining = GlobalMining(x, labels, schedule=MiningSchedule(STAGES), batch_size=8, progress=False)
    fit(MetricLearner(encoder(), SupConLoss(), lr=0.5), mining.loader(), mining, Rate())
    assert rates == pytest.approx([0.5 * one_cycle(step, 27) for step in range(27)])
