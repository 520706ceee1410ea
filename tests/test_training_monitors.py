"""Several ValidationMonitors in one Trainer: part of the training set, and classes that are never trained on."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from legolas_metric import RunHistory, SupConLoss
from legolas_metric.datasets import load_omniglot
from legolas_metric.training import MetricLearner, RestoringEarlyStopping, ValidationMonitor
from legolas_metric.training.resume import as_record

SEEN, UNSEEN = (load_omniglot().take(torch.arange(start, start + 80)) for start in (0, 80))


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16))


def trainer_of(folder, *callbacks, epochs=2) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def two(**of_both) -> tuple[ValidationMonitor, ValidationMonitor]:
    return ValidationMonitor(UNSEEN, UNSEEN.labels, **of_both), ValidationMonitor(SEEN, SEEN.labels, name="train")


def test_each_logs_records_and_resumes_under_its_own_name(tmp_path):
    def learn(epochs, path=None):
        monitors = two()
        trainer = trainer_of(tmp_path, *monitors, epochs=epochs)
        trainer.fit(MetricLearner(net(), SupConLoss()), DataLoader(SEEN, 40), ckpt_path=path, weights_only=False)
        return trainer, monitors

    trainer, (unseen, seen) = learn(2)
    logged = trainer.callback_metrics
    assert float(logged["rank_at_1"]) == pytest.approx(unseen.history[-1].ranking.rank[1])
    assert float(logged["train_rank_at_1"]) == pytest.approx(seen.history[-1].ranking.rank[1])
    assert unseen.history[-1].ranking.rank[1] != seen.history[-1].ranking.rank[1]
    history = RunHistory(tmp_path / "history.jsonl")
    for name, monitor in (("rank_at_1", unseen), ("train_rank_at_1", seen)):
        assert history.series(name) == pytest.approx({at.epoch: at.ranking.rank[1] for at in monitor.history})
    path = tmp_path / "two.ckpt"
    trainer.save_checkpoint(path)
    _, (again, seen_again) = learn(3, path)
    assert [record.epoch for record in again.history] == [record.epoch for record in seen_again.history] == [0, 1, 2, 3]
    assert seen_again.history[0].ranking.rank[1] == seen.history[0].ranking.rank[1]


def test_two_of_one_name_are_told_before_training(tmp_path):
    monitors = ValidationMonitor(UNSEEN, UNSEEN.labels), ValidationMonitor(SEEN, SEEN.labels)
    with pytest.raises(RuntimeError, match="ValidationMonitor"):
        trainer_of(tmp_path, *monitors).fit(MetricLearner(net(), SupConLoss()), DataLoader(SEEN, 40))
    with pytest.raises(TypeError, match="name"):
        ValidationMonitor(UNSEEN, UNSEEN.labels, name=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.filterwarnings("ignore:an interval over 4")
def test_a_paired_stop_reads_the_monitor_that_its_value_is_of(tmp_path):
    unseen, seen = two()
    stop = RestoringEarlyStopping("train_rank_at_1", patience=9, paired=True)
    trainer_of(tmp_path, unseen, seen, stop).fit(MetricLearner(net(), SupConLoss()), DataLoader(SEEN, 40))
    best = as_record(stop.state_dict()["best"])
    assert best.map_at_r in [record.ranking.map_at_r for record in seen.history]
    assert best.map_at_r not in [record.ranking.map_at_r for record in unseen.history]
