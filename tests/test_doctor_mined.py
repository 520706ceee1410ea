"""Runs that mine, by the loop and by Lightning: what is wrong with each is found, and nothing in the healthy."""

from pathlib import Path

import lightning as L
import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import nn
from trained_cases import rules, severe

from legolas_metric import (
    FalseNegativeGuard,
    HardMiner,
    SupConLoss,
    evaluate_ranking,
    examine,
    probe_embeddings,
)
from legolas_metric.datasets import load_omniglot
from legolas_metric.training import (
    CollapseMonitor,
    GlobalMining,
    MetricLearner,
    MiningLoop,
    RunHistory,
    ValidationMonitor,
)
from legolas_metric.training.best_checkpoint import BestCheckpoint
from legolas_metric.training.early_stopping import RestoringEarlyStopping


@pytest.fixture(scope="module")
def drawings():
    data = load_omniglot()
    return data.take(torch.arange(600)), data.take(torch.arange(6000, 6400))


def drawer(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))


def mined(folder, data, validation, *, labels=None, epochs=6, net=None, loss=None, dataset=None, **settings) -> Path:
    """A run by MiningLoop, with its history."""
    labels = data.labels if labels is None else labels
    net, loss, history = net or drawer(), loss or SupConLoss(0.1), RunHistory(folder)
    given = {"miner": HardMiner(), "batch_size": 64, "steps_per_epoch": 10, **settings}
    loop = MiningLoop(dataset or data, labels, progress=False, history=history, **given)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    pictures = validation.images[:, None].float() / 255
    history.start(seed=1, settings={"batch_size": 64, "k": 4, "num_classes": len(labels.unique()), "epochs": epochs})

    def told(epoch: int, values: dict[str, float]) -> None:
        net.eval()
        with torch.no_grad():
            rows = net(pictures)
        report, probe = evaluate_ranking(rows, validation.labels), probe_embeddings(rows, validation.labels)
        values |= {"rank_at_1": report.rank[1], "map_at_r": report.map_at_r, "effective_rank": probe.effective_rank}
        values |= {"lr": 1e-3, "resultant_length": probe.resultant_length, "queries": report.queries}
        history.epoch(epoch=epoch, step=10 * epoch, values=values, verdict=probe.verdict)
        net.train()

    told(0, {})
    for epoch in range(epochs):
        total = 0.0
        for x, y, ids in loop.epoch(net):
            value = loss(net(x), y, loop.indices(ids))
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            total += value.item() / 10
        told(epoch + 1, {"train_loss": total})
    history.end(why="finished")
    return Path(folder)


def test_healthy_runs_of_the_loop_have_no_fault(drawings, tmp_path):
    for number, miner in enumerate((HardMiner(), guarded())):
        found = examine(mined(tmp_path / str(number), *drawings, miner=miner))
        assert severe(found) == set(), found
        assert found.curves["rank_at_1"].last > found.curves["rank_at_1"].first


def guarded(near: float | None = None) -> HardMiner:
    return HardMiner(guard=FalseNegativeGuard(near_duplicate=near))


def lightning_run(folder, data, validation, loss, **settings) -> Path:
    monitor = ValidationMonitor(validation, validation.labels, collate_fn=torch.stack)
    stopping = RestoringEarlyStopping("rank_at_1", patience=settings.pop("patience", 3))
    best = BestCheckpoint("rank_at_1", folder=folder)
    callbacks = [GlobalMining(data, data.labels, schedule=HardMiner(), batch_size=64, steps_per_epoch=10), monitor]
    trainer = L.Trainer(
        max_epochs=settings.pop("epochs", 5),
        callbacks=[*callbacks, CollapseMonitor("warn"), stopping, best],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(settings.pop("learner", MetricLearner)(drawer(), loss, **settings), callbacks[0].loader())
    return Path(folder)


class Forgetful(MetricLearner):
    """Its optimiser holds the encoder alone."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.encoder.parameters(), lr=1e-3)


@pytest.fixture(scope="module")
def by_lightning(drawings, tmp_path_factory) -> Path:
    return lightning_run(tmp_path_factory.mktemp("lightning"), *drawings, SupConLoss(0.1))


def test_a_healthy_run_by_lightning_has_no_fault_and_its_history_tells_what_was_kept(by_lightning):
    found = examine(by_lightning)
    assert severe(found) == set(), found
    events = RunHistory(by_lightning).events
    assert {"restore", "best weights"} <= {event["what"] for event in events}
    settings = RunHistory(by_lightning).starts[0]["settings"]
    assert settings["not_optimised"] == []
    assert (settings["MetricLearner"]["loss"], settings["MetricLearner"]["temperature"]) == ("SupConLoss", 0.1)
    assert "best not kept" not in rules(found)


def test_a_run_that_stopped_in_warm_up_and_whose_loss_has_parameters_of_its_own(drawings, tmp_path):
    data, validation = drawings
    loss = ProxyAnchorLoss(30, 32)
    run = lightning_run(tmp_path, data, validation, loss, learner=Forgetful, epochs=8, patience=1)
    found = examine(run, settings={"warmup_epochs": 10, "epochs": 40})
    assert {"parameters missing", "stopped in warm-up"} <= severe(found)
    assert "loss" in next(f for f in found.findings if f.rule == "parameters missing").sentence
    stops = [event for event in RunHistory(run).events if event["what"] == "stop"]
    assert stops == [] or "no improvement" in stops[0]["why"]
    assert "stopped in warm-up" not in rules(examine(run, settings={"warmup_epochs": 10, "epochs": 8}))  # as planned
