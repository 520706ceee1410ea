"""Classifiers: figures against scikit-learn and torchmetrics, one balancing at a time, mixed targets counted mixed."""

import warnings

import lightning as L
import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import classification as theirs

from legolas_metric import FocalLoss, SupConLoss
from legolas_metric.encoders import BiLSTM
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.training.attention_monitor import AttentionMonitor
from legolas_metric.training.class_balance import (
    balanced_sampler,
    balancings,
    class_weights,
    mixed_accuracy,
    mixup,
)
from legolas_metric.training.classifier import ClassifierLearner
from legolas_metric.training.epoch_confusion import EpochConfusion
from legolas_metric.training.history import RunHistory
from legolas_metric.training.rates import warm_restarts

D, C = 6, 4


def fit(learner, loader, validation=None, *, epochs=2, callbacks=(), root=None) -> L.Trainer:
    trainer = L.Trainer(
        default_root_dir=root,
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no")
        trainer.fit(learner, loader, validation)
    return trainer


@pytest.fixture
def data() -> TensorDataset:
    labels = torch.cat([torch.arange(C), torch.zeros(40).long(), torch.ones(12).long()])
    return TensorDataset(torch.randn(C, D)[labels] + torch.randn(len(labels), D), labels)


def learner(**settings) -> ClassifierLearner:
    return ClassifierLearner(nn.Sequential(nn.Linear(D, 5), nn.Tanh()), C, embedding_dim=5, **settings)


@pytest.mark.parametrize("present", [4, 3])
def test_figures_are_scikit_learns_over_the_classes_that_have_rows(present):
    logits, labels = torch.randn(90, C), torch.randint(present, (90,))
    counted = EpochConfusion(C)
    for part in range(0, 90, 40):
        counted.update(logits[part : part + 40], labels[part : part + 40])
    values, called, kinds = counted.values(), logits.argmax(1), list(range(present))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, called, labels=kinds, average=None, zero_division=0
    )
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, called))
    assert values["mpca"] == values["balanced_accuracy"] == pytest.approx(recall.mean())
    assert values["precision"] == pytest.approx(precision.mean())
    assert values["macro_f1"] == pytest.approx(f1.mean())
    assert values["f1_spread"] == pytest.approx(f1.std())
    assert values["empty_classes"] == C - present
    if present == C:
        assert values["macro_f1"] == pytest.approx(float(theirs.multiclass_f1_score(called, labels, C)))
        assert values["recall"] == pytest.approx(float(theirs.multiclass_recall(called, labels, C)))
        assert values["precision"] == pytest.approx(float(theirs.multiclass_precision(called, labels, C)))


def test_unlabelled_rows_count_for_nothing():
    counted = EpochConfusion(3)
    assert counted.values() == {}
    counted.update(torch.eye(3), torch.tensor([0, -1, 1]))
    assert counted.counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_weights_sum_to_the_number_of_classes():
    labels = torch.tensor([0] * 6 + [1] * 3 + [3] * 1 + [-1])
    weights = class_weights(labels, 5)
    assert weights.sum().item() == pytest.approx(5)
    assert weights[2] == weights[4] == 0
    torch.testing.assert_close(weights[[0, 1, 3]] * torch.tensor([6.0, 3.0, 1.0]), weights[3].expand(3))
    assert class_weights(labels, 4, power=0)[[0, 1, 3]].unique().numel() == 1
    with pytest.raises(ValueError, match="labels go up to 3 with num_classes=3: declare"):
        class_weights(labels, 3)


def test_a_balanced_sampler_brings_classes_alike_and_no_unlabelled_row():
    labels = torch.tensor([0] * 60 + [1] * 6 + [-1] * 6)
    drawn = labels[list(balanced_sampler(labels, 3, size=4000, seed=1))]
    assert set(drawn.tolist()) == {0, 1}
    assert (drawn == 1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert list(balanced_sampler(labels, 2, seed=3)) == list(balanced_sampler(labels, 2, seed=3))


def test_ways_of_balancing_are_found():
    labels = torch.tensor([0, 0, 0, 1])
    weighted = nn.CrossEntropyLoss(weight=class_weights(labels, 2))
    assert balancings(nn.CrossEntropyLoss()) == ()
    assert balancings(weighted) == ("class weights",)
    assert balancings(FocalLoss(gamma=0.0)) == ()
    assert balancings(FocalLoss(class_weights=[1.0, 2.0])) == ("focal loss", "class weights")
    assert balancings(nn.CrossEntropyLoss(weight=torch.ones(2))) == ()
    assert balancings(nn.CrossEntropyLoss(), [PKSampler([0, 0, 1, 1], 2, 2)]) == (
        "a sampler of as many rows of each class",
    )


def test_two_balancings_are_named_and_one_is_not(data, tmp_path):
    labels = data.tensors[1]
    weights = class_weights(labels, C)
    both = learner(class_weights=weights)
    loader = DataLoader(data, 16, sampler=balanced_sampler(labels, C))
    with pytest.warns(UserWarning, match="double balancing: .* class weights and by a weighted sampler"):
        fit(both, loader, epochs=1, root=tmp_path)
    assert [event.what for event in both.events] == ["double balancing"]
    assert [event["what"] for event in RunHistory(tmp_path).events] == ["double balancing"]
    one = learner(class_weights=weights)
    fit(one, DataLoader(data, 16, shuffle=True), epochs=1)
    assert one.events == []


def test_a_model_of_one_class_is_named_at_its_epoch(data):
    model = learner(lr=1e-6)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    with pytest.warns(UserWarning, match="one class: all 56 (train|val) rows of epoch 0 were called 2"):
        fit(model, DataLoader(data, 16), DataLoader(data, 16), epochs=1)
    assert [(event.what, event.epoch) for event in model.events] == [("one class", 0)] * 2


def test_an_epoch_logs_its_figures(data):
    loader = DataLoader(data, 16)
    model = learner(lr=1e-2, auxiliary={"supcon": (0.5, SupConLoss())}, schedule=lambda o: warm_restarts(o, period=2))
    trainer = fit(model, loader, loader, epochs=3)
    logged = trainer.callback_metrics
    assert {"train_loss", "train_loss/supcon", "val_loss", "train_mpca", "val_macro_f1"} <= set(logged)
    with torch.no_grad():
        expected = metrics.balanced_accuracy_score(data.tensors[1], model.eval()(data.tensors[0]).argmax(1))
    assert float(logged["val_mpca"]) == pytest.approx(expected)
    assert model.reports["val"].confusion.sum() == len(data)  # of one epoch, the sanity check left out
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5e-2)


def test_mixed_targets_are_counted_mixed(data):
    x, labels = data.tensors
    mixed, targets = mixup(x, labels, C, alpha=1.0, seed=4)
    first, share = mixed[0], None
    for other in range(len(x)):
        direction = x[0] - x[other]
        share = (first - x[other]) @ direction / direction.square().sum() if other else torch.tensor(1.0)
        if torch.allclose(share * x[0] + (1 - share) * x[other], first, atol=1e-5):
            break
    expected = torch.zeros(C).index_add_(0, labels[[0, other]], torch.stack([share, 1 - share]))
    torch.testing.assert_close(targets[0], expected, atol=1e-4, rtol=1e-4)
    assert mixed_accuracy(targets, targets) == pytest.approx(float(targets.max(1).values.mean()))
    model = learner(mixup_alpha=0.4)
    logged = fit(model, DataLoader(data, 16, shuffle=True)).callback_metrics
    assert {"train_loss", "train_accuracy"} == {name for name in logged if name.startswith("train")}


def test_what_does_not_go_together_is_refused(data):
    with pytest.raises(ValueError, match="focal loss is not defined"):
        learner(loss=FocalLoss(), mixup_alpha=0.2)
    with pytest.raises(ValueError, match="auxiliary losses take hard labels"):
        learner(auxiliary={"supcon": (1, SupConLoss())}, mixup_alpha=0.2)
    with pytest.raises(ValueError, match="class_weights has 3 entries for 4 classes"):
        learner(class_weights=torch.ones(3))
    with pytest.raises(ValueError, match="belong to cross-entropy"):
        learner(class_weights=torch.ones(4), loss=FocalLoss())


@pytest.mark.filterwarnings("ignore:one class")
def test_attention_that_attends_to_nothing_is_reported():
    signal = torch.randn(60, 12, 2)
    labels = torch.arange(60) % 2
    signal[labels == 1, 5] += 4.0  # one step tells the class
    loader = DataLoader(TensorDataset(signal, labels), 20)

    def run(lr):
        torch.manual_seed(0)
        model = ClassifierLearner(BiLSTM(2, hidden=6), 2, embedding_dim=12, lr=lr)
        if lr == 0.0:
            nn.init.zeros_(model.encoder.pool.score[2].weight)
        monitor = AttentionMonitor(signal)
        fit(model, loader, loader, epochs=6, callbacks=[monitor])
        return monitor.history

    with pytest.warns(UserWarning, match="attention is uniform"):
        assert run(0.0) == pytest.approx([1.0] * 6)
    assert run(3e-2)[-1] < 0.95
    with pytest.raises(TypeError, match="encoder tells no attention"):
        fit(
            learner(),
            DataLoader(TensorDataset(torch.randn(8, D), torch.arange(8) % C)),
            callbacks=[AttentionMonitor(signal)],
        )
