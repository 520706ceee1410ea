"""Stopping and keeping under Lightning: what the rule says, a trainer does."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping as PlainEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from test_training_stopping import VALUES, weights
from torch import nn
from torch.utils.data import DataLoader

from legolas_metric.encoders import InputNormalisation
from legolas_metric.training.best_checkpoint import BestCheckpoint
from legolas_metric.training.best_weights import BestWeights, read_weights_file
from legolas_metric.training.early_stopping import EarlyStopping, RestoringEarlyStopping
from legolas_metric.training.monitor import ValidationMonitor


class Scripted(L.LightningModule):
    """Logs given values; after epoch e its weight is e."""

    def __init__(self, values, *, late=False, **others) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.values, self.others, self.late = values, others, late

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum() * 0

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        with torch.no_grad():
            self.layer.weight.fill_(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        value = self.values[self.current_epoch]
        if value is not None:
            self.log("rank_at_1", value)
        for name, column in self.others.items():
            self.log(name, column[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    @property
    def epoch_of_weights(self) -> int:
        return int(self.layer.weight)


def fit(module, *callbacks, epochs=None, root, resume=None, keep=False) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=epochs or len(module.values),
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        default_root_dir=root,
        enable_checkpointing=keep,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(torch.zeros(1, 1))
    trainer.fit(module, loader, ckpt_path=resume, weights_only=None if resume is None else True)
    return trainer


@pytest.mark.parametrize(("mode", "min_delta"), [("max", 0.0), ("min", 0.0), ("max", 0.15)])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_stopping_and_keeping_equal_lightnings(mode, min_delta, patience, tmp_path):
    module = Scripted(VALUES)
    theirs = PlainEarlyStopping("rank_at_1", mode=mode, patience=patience, min_delta=min_delta)
    plain = fit(module, theirs, root=tmp_path)
    for order in (0, 1):
        module = Scripted(VALUES)
        ours = EarlyStopping("rank_at_1", mode=mode, patience=patience, min_delta=min_delta)
        best = BestCheckpoint("rank_at_1", mode=mode, folder=tmp_path / f"ours{order}")
        reference = ModelCheckpoint(tmp_path / f"theirs{order}", "best", monitor="rank_at_1", mode=mode)
        callbacks = [ours, best, reference]
        trainer = fit(module, *callbacks[:: 1 - 2 * order], root=tmp_path, keep=True)
        assert trainer.current_epoch == plain.current_epoch
        assert module.epoch_of_weights == trainer.current_epoch - 1
        theirs_best = torch.load(reference.best_model_path, weights_only=True)
        held = load_file(best.path)
        assert held.keys() == theirs_best["state_dict"].keys()
        assert all(torch.equal(held[name], value) for name, value in theirs_best["state_dict"].items())
        assert read_weights_file(best.path).epoch == theirs_best["epoch"]
        assert [path.name for path in best.path.parent.iterdir()] == ["best_model.safetensors"]


@pytest.mark.parametrize("stops", [True, False])
def test_the_best_epochs_weights_return_when_it_stops_and_when_it_ends(stops, tmp_path):
    module = Scripted(VALUES[:5])
    stop = RestoringEarlyStopping("rank_at_1", patience=2 if stops else 9)
    trainer = fit(module, stop, root=tmp_path)
    assert trainer.current_epoch == (4 if stops else 5)
    assert module.epoch_of_weights == stop.restored_epoch == 1
    assert not list(tmp_path.iterdir())


def test_a_ratio_of_logged_values_stops(tmp_path):
    losses = {"val_loss": [1.0, 1.1, 1.2, 1.4, 1.5, 2.0, 2.0], "train_loss": [1.0] * 7}
    module = Scripted([e / 10 for e in range(7)], **losses)
    stop = RestoringEarlyStopping(
        "rank_at_1", patience=2, restore="before_patience", ratio=("val_loss", "train_loss", 1.15)
    )
    trainer = fit(module, stop, root=tmp_path)
    assert trainer.current_epoch == 4
    assert module.epoch_of_weights == 1
    focal = Scripted([e / 10 for e in range(7)], **losses)
    assert fit(focal, EarlyStopping("rank_at_1", patience=2, ratio=("val_loss", "train_loss", 20)), root=tmp_path)
    assert focal.epoch_of_weights == 6


def test_an_epoch_without_a_value_is_not_judged_by_an_older_one(tmp_path):
    module = Scripted([0.5, None, 0.4, None, 0.6, None])
    stop = EarlyStopping("rank_at_1", patience=2)
    best = BestCheckpoint("rank_at_1", folder=tmp_path)
    fit(module, stop, best, root=tmp_path)
    assert stop.rule.updates == 3
    assert not stop.rule.stopped
    assert read_weights_file(best.path).epoch == 4


def test_a_name_that_nobody_logs_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="rank_at_one, none of 2 epochs logged all of it; logged: rank_at_1"):
        fit(Scripted(VALUES), EarlyStopping("rank_at_one", patience=2), root=tmp_path)
    with pytest.warns(UserWarning, match="no epoch was kept.*'rank_at_one'; logged: rank_at_1"):
        fit(Scripted(VALUES), BestCheckpoint("rank_at_one", folder=tmp_path), root=tmp_path)


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.parametrize("at", [1, 3])
def test_a_fit_that_is_resumed_goes_back_to_the_same_epoch(at, tmp_path):
    values = [0.2, 0.5, 0.4, 0.45, 0.3, 0.1]
    ends = ModelCheckpoint(tmp_path / "ends", "{epoch}", save_top_k=-1)

    def callbacks():
        return [RestoringEarlyStopping("rank_at_1", patience=9), BestCheckpoint("rank_at_1", folder=tmp_path)]

    class Killed(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            if trainer.current_epoch == at + 1:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(Scripted(values), *callbacks(), ends, Killed(), root=tmp_path, keep=True)
    module, (stop, best) = Scripted(values), callbacks()
    again = ModelCheckpoint(tmp_path / "ends", "{epoch}", save_top_k=-1)
    fit(module, stop, best, again, keep=True, root=tmp_path, resume=tmp_path / "ends" / f"epoch={at}.ckpt")
    assert module.epoch_of_weights == stop.restored_epoch == 1
    assert read_weights_file(best.path).epoch == 1


def test_the_file_holds_what_is_needed_to_use_it(tmp_path):
    best = BestWeights(
        "map_at_r",
        folder=tmp_path,
        name="ecg",
        fold=0,
        last=True,
        settings={"lr": 0.1},
        label_names=["ann", "bob"],
        normalisation={"mean": [0.5], "std": [2.0]},
    )
    for epoch, value in enumerate([0.3, 0.5, math.nan, 0.4]):
        best.update(value, epoch, weights(epoch))
    held = read_weights_file(tmp_path / "best_ecg_fold0.safetensors")
    assert (held.epoch, held.value, held.monitor) == (1, 0.5, "map_at_r")
    assert held.settings == {"lr": 0.1}
    assert held.label_names == ("ann", "bob")
    assert held.normalisation == {"mean": [0.5], "std": [2.0]}
    assert read_weights_file(tmp_path / "last_ecg_fold0.safetensors").epoch == 3
    changed = bytearray(best.path.read_bytes())
    changed[-1] ^= 1
    best.path.write_bytes(changed)
    with pytest.raises(ValueError, match="do not agree with their digest"):
        read_weights_file(best.path)


def test_a_resumed_run_does_not_replace_better_weights(tmp_path):
    best = BestWeights("rank_at_1", folder=tmp_path)
    best.update(0.3, 0, weights(0))
    state = best.state_dict()
    best.update(0.8, 1, weights(1))
    again = BestWeights("rank_at_1", folder=tmp_path)
    again.load_state_dict(state)
    assert not again.update(0.5, 1, weights(7))
    assert read_weights_file(again.path).value == 0.8


def test_a_part_of_the_module_can_be_kept(tmp_path):
    module = Scripted(VALUES)
    best = BestCheckpoint("rank_at_1", folder=tmp_path, part="layer")
    fit(module, best, root=tmp_path)
    nn.Linear(1, 1).load_state_dict(read_weights_file(best.path).weights)
    with pytest.raises(ValueError, match="part='encoder' is no module of Scripted; it has layer"):
        fit(Scripted(VALUES), BestCheckpoint("rank_at_1", folder=tmp_path, part="encoder"), root=tmp_path)


def test_on_lightning_the_file_tells_what_the_module_tells(tmp_path):
    class Told(Scripted):
        def __init__(self) -> None:
            super().__init__([0.2, 0.5])
            self.save_hyperparameters({"lr": 0.25})
            self.norm = InputNormalisation(1).fit(torch.tensor([[1.0], [3.0]]))
            self.label_names = ("ann", "bob")

    best = BestCheckpoint("rank_at_1", folder=tmp_path)
    fit(Told(), best, root=tmp_path)
    held = read_weights_file(best.path)
    assert held.settings == {"lr": 0.25}
    assert held.label_names == ("ann", "bob")
    assert held.normalisation == {"mean": [2.0], "std": [1.0]}
    own = BestCheckpoint("rank_at_1", folder=tmp_path, name="own", settings={"lr": 1}, label_names=["eve"])
    fit(Told(), own, root=tmp_path)
    held = read_weights_file(own.path)
    assert (held.settings, held.label_names) == ({"lr": 1}, ("eve",))


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:.*exists and is not empty")
def test_by_the_paired_interval_only_what_chance_leaves_counts(tmp_path):
    labels = torch.arange(20).repeat_interleave(2)
    noise = torch.randn(40, 20)

    class Rows(nn.Module):
        """Of epoch e, the share of identities whose rows find each other: half, half and one, then all."""

        def __init__(self) -> None:
            super().__init__()
            self.epoch = nn.Parameter(torch.zeros(1))

        def forward(self, rows):
            rows = rows[:, 0].long()
            right = labels[rows] < torch.tensor([10, 10, 11, 11, 20])[int(self.epoch)]
            return torch.where(right[:, None], torch.eye(20)[labels[rows]], noise[rows])

    class Growing(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Rows()

        def training_step(self, batch, batch_idx):
            return self.encoder.epoch.sum() * 0

        def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
            with torch.no_grad():
                self.encoder.epoch.fill_(self.current_epoch + 1)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def run(paired: bool, *others, epochs=4, resume=None) -> tuple[EarlyStopping, int]:
        monitor = ValidationMonitor(torch.arange(40.0)[:, None], labels, history=False)
        stop = EarlyStopping("rank_at_1", patience=2, paired=paired)
        trainer = fit(Growing(), monitor, stop, *others, epochs=epochs, root=tmp_path, keep=True, resume=resume)
        return stop, trainer.current_epoch

    assert not run(False)[0].rule.stopped
    stop, epochs = run(True)
    assert (stop.rule.stopped, epochs) == (True, 3)
    run(True, ModelCheckpoint(tmp_path / "ends", "{epoch}", save_top_k=-1), epochs=2)
    again = ModelCheckpoint(tmp_path / "ends", "{epoch}", save_top_k=-1)
    resumed, epochs = run(True, again, resume=tmp_path / "ends" / "epoch=1.ckpt")
    assert (resumed.rule.state_dict(), epochs) == (stop.rule.state_dict(), 3)


def test_a_paired_interval_without_rankings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="paired=True compares rankings of a ValidationMonitor"):
        fit(Scripted(VALUES), EarlyStopping("rank_at_1", patience=2, paired=True), root=tmp_path)
