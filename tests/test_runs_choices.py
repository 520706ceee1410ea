"""What settings can choose: encoders of signals, classifiers' losses, miners, augmentation."""

from pathlib import Path
from unittest.mock import create_autospec

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from legolas_metric import FocalLoss, RandomMiner
from legolas_metric.encoders import BiLSTM
from legolas_metric.losses.focal import focal_loss
from legolas_metric.losses.head import HeadLoss
from legolas_metric.runs import RunSettings
from legolas_metric.runs.commands import train
from legolas_metric.runs.run_data import load_data
from legolas_metric.runs.run_parts import build_encoder, build_loss, build_schedule
from legolas_metric.runs.run_settings import LossName, Mining
from legolas_metric.runs.steps import PrepareSteps
from legolas_metric.training.history import RunHistory
from legolas_metric.training.module import MetricLearner

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:an interval over", "ignore:.*few")
TINY = {"epochs": 3, "batch_size": 16, "steps_per_epoch": 4, "width": 8, "progress": False, "mining": "none"}


@pytest.fixture(scope="module")
def signals(tmp_path_factory) -> Path:
    """Ten persons by the rates of two waves, 12 noisy signals each."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 12)
    rate = generator.uniform(1, 6, (10, 2))[labels][:, :, None]
    phase = generator.uniform(0, 1, (120, 2, 1))
    x = np.sin(2 * np.pi * (rate * np.linspace(0, 1, 24) + phase)) + 0.2 * generator.normal(size=(120, 2, 24))
    path = tmp_path_factory.mktemp("data") / "signals.npz"
    np.savez(path, signals=(3 + x).astype(np.float32), labels=labels * 1000)  # labels that are no places in a list
    return path


@pytest.mark.parametrize(("encoder", "width"), [("resnet1d", 16), ("bilstm", 16), ("transformer", 8)])
def test_each_encoder_of_signals_can_be_chosen(encoder, width, signals):
    settings = RunSettings.of(TINY | {"data": str(signals), "encoder": encoder})
    data, filled = load_data(settings)
    net = build_encoder(filled, data.input_shape)
    net[0].fit(data.dataset)
    assert net(data.dataset[:5]).shape == (5, width)
    assert torch.equal(net.eval()(data.dataset[:5]), net(data.dataset[:5]))
    with pytest.raises(ValueError, match="does not take inputs of shape"):
        build_encoder(settings, (12,))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width must be a multiple of 4 for encoder='transformer', got 6"):
        build_encoder(RunSettings(encoder="transformer", width=6), (1, 20))


def test_every_loss_and_miner_of_the_settings_is_there():
    rows, labels = torch.randn(12, 5, requires_grad=True), torch.arange(12) // 3
    for name in LossName.__args__:
        value = build_loss(RunSettings(loss=name, mining="none"), 5, labels)(rows, labels, None)
        assert value.isfinite()
        assert torch.autograd.grad(value, rows)[0].abs().sum() > 0
    for name in Mining.__args__:
        schedule = build_schedule(RunSettings(mining=name), crossing=False)
        assert (schedule is None) == (name == "none")


@pytest.mark.parametrize("focal", [False, True])
def test_a_head_numbers_the_classes_that_were_declared(focal):
    loss = HeadLoss(4, [700, -1, 20, 9, 20], loss=FocalLoss() if focal else None)
    rows, labels = torch.randn(6, 4), torch.tensor([20, 700, -1, 9, 9, 20])
    known = torch.tensor([9, 20, 700])
    places = [int((known == label).nonzero()) for label in labels if label >= 0]
    logits = loss.head(rows)[labels >= 0]
    expected = (focal_loss if focal else cross_entropy)(logits, torch.tensor(places))
    torch.testing.assert_close(loss(rows, labels), expected)
    with pytest.raises(ValueError, match="label 8 is none of the 3 classes declared"):
        loss(rows, labels.masked_fill(labels == 9, 8))
    with pytest.raises(ValueError, match="no mined triplets"):
        loss(rows, labels, RandomMiner()(rows, labels))
    with pytest.raises(ValueError, match="2 classes or more"):
        HeadLoss(4, [3, 3, -1])


def test_a_run_of_a_bilstm_as_classifier_learns_and_tells_its_attention(signals, tmp_path):
    changes = {"data": str(signals), "encoder": "bilstm", "loss": "cross-entropy", "epochs": 4, "lr": 1e-2}
    asked = RunSettings.of(TINY | changes | {"steps_per_epoch": 6})
    found = train(asked, tmp_path)
    history = RunHistory(tmp_path)
    entropies = history.series("attention_entropy")
    assert list(entropies) == [1, 2, 3, 4]
    assert all(0 < value <= 1 for value in entropies.values())
    losses = list(history.series("train_loss").values())
    assert losses[-1] < losses[0]
    assert isinstance(found.encoder[1].net, BiLSTM)
    with pytest.raises(ValueError, match="each row comes once an epoch, and 96 rows make 6 batches of 16"):
        train(RunSettings.of(asked.plain() | {"steps_per_epoch": 7}), tmp_path / "long")


def test_a_killed_run_draws_what_it_would_have(signals, tmp_path, monkeypatch):
    """Dropout, augmentation and the order of rows, which all are random."""
    changes = {"data": str(signals), "encoder": "transformer", "loss": "focal", "augment": "rare"}
    asked = RunSettings.of(TINY | changes)
    whole = train(asked, tmp_path / "whole")
    step = MetricLearner.training_step

    def killed(self, *arguments):
        if self.global_step == 10:
            raise RuntimeError("killed")
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(MetricLearner, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(asked, tmp_path / "killed")
    assert train(asked, tmp_path / "killed").kept.digest == whole.kept.digest
    losses = [RunHistory(tmp_path / run).series("train_loss") for run in ("whole", "killed")]
    assert losses[0] == losses[1]


def test_rare_classes_are_augmented_more():
    labels = torch.tensor([0] * 36 + [1] * 4)
    moved = {}
    for augment in ("none", "all", "rare"):
        inputs = torch.ones(40, 1, 50) + torch.linspace(0, 1, 50)
        before = inputs.clone()
        prepare = PrepareSteps(RunSettings(augment=augment), labels, 2)
        order = torch.arange(39, -1, -1)  # ids, not places in the batch, say whose class is rare
        trainer = create_autospec(L.Trainer, instance=True, global_step=3)
        prepare.on_train_batch_start(trainer, MetricLearner(nn.Identity()), (inputs, labels[order], order), 0)
        far = (inputs - before).abs().flatten(1).mean(1)
        moved[augment] = (float(far[order < 36].mean()), float(far[order >= 36].mean()))
    assert moved["none"] == (0.0, 0.0)
    assert moved["all"][0] > 0
    assert moved["rare"][0] == pytest.approx(moved["all"][0])
    assert moved["rare"][1] > 1.5 * moved["all"][1]
    with pytest.raises(ValueError, match="augment='all' is for images and signals"):
        PrepareSteps(RunSettings(augment="all"), labels, 1)
