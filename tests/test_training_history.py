"""history.jsonl: whole lines, only added; read without Lightning; and what the callbacks write to it and to loggers."""

import json
import math
import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from test_training import data, encoder  # noqa: F401
from torch import nn

from legolas_metric import HardMiner, MiningSchedule, RandomMiner, RetrievalProtocol, SemiHardMiner, SupConLoss
from legolas_metric.datasets import load_omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.miners.schedule import Plateau
from legolas_metric.training import CollapseMonitor, GlobalMining, MetricLearner, RunHistory, ValidationMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
NO_FILES = {"logger": False, "enable_checkpointing": False}


def test_what_is_written_is_read(tmp_path):
    history = RunHistory(tmp_path / "runs" / "history.jsonl")
    assert history.lines() == []
    history.start(seed=3, settings={"lr": np.float32(0.5), "of": RandomMiner}, data="ab", weights="cd")
    history.epoch(epoch=0, step=0, values={"rank_at_1": torch.tensor(0.25), "val_loss": math.nan})
    history.epoch(epoch=1, step=4, values={"rank_at_1": np.float64(0.5)})
    history.round(epoch=1, step=4, values={"triplets": np.int64(7)}, miner="HardMiner")
    history.epoch(epoch=1, step=4, values={"rank_at_1": 0.75})
    history.event(epoch=1, step=4, what="stop", why="enough")
    history.end(why="finished", best_epoch=1, values={"rank_at_1": 0.75})
    again = RunHistory(tmp_path / "runs")
    assert [line["kind"] for line in again.lines()] == ["start", "epoch", "epoch", "round", "epoch", "event", "end"]
    assert again.starts[0]["settings"]["lr"] == 0.5
    assert again.starts[0]["digest"] == {"data": "ab", "weights": "cd"}
    assert {"python", "torch", "legolas-metric"} <= set(again.starts[0]["versions"])
    assert again.series("rank_at_1") == {0: 0.25, 1: 0.75}
    assert math.isnan(again.series("val_loss")[0])
    assert again.rounds[0]["miner"] == "HardMiner"
    assert again.ended["best_epoch"] == 1
    for line in (tmp_path / "runs" / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # strict JSON: no NaN
        assert "time" in json.loads(line)


def test_a_line_that_a_crash_cut_short_harms_no_other(tmp_path):
    history = RunHistory(tmp_path)
    history.epoch(epoch=0, step=0, values={"a": 1.0})
    with history.path.open("a") as file:
        file.write('{"kind": "epoch", "epoch": 1, "val')
    assert list(history.epochs) == [0]
    history.epoch(epoch=2, step=0, values={"a": 2.0})
    assert list(history.epochs) == [0, 2]
    assert history.broken == 1


def test_the_part_without_lightning_imports_without_it():
    script = (
        "import sys; sys.modules['lightning'] = None\n"
        "from legolas_metric.training import MiningLoop, RunHistory, WithIds, MiningRound, EpochRecord\n"
        "import legolas_metric.training as t; assert 'GlobalMining' in dir(t)\n"
        "try: t.GlobalMining\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "GlobalMining needs Lightning: pip install 'legolas-metric[train]'" in ended.stdout


class Keeps(CSVLogger):
    """A logger that keeps what it is given."""

    def __init__(self, folder):
        super().__init__(folder)
        self.given = {}

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.given.setdefault(name, []).append((step, float(value)))


def run(x, labels, folder, *, epochs=4, resume=None, stages=None, every=1, **settings):
    torch.manual_seed(3)
    schedule = MiningSchedule(stages or [(0, RandomMiner()), (1, HardMiner())])
    mining = GlobalMining(x, labels, schedule=schedule, batch_size=12, progress=False, **settings)
    protocols = [RetrievalProtocol(), RetrievalProtocol(name="few", min_positives=3)]
    watch = ValidationMonitor(x, labels, protocol=protocols, every=every)
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1)
    logger = Keeps(folder)
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[mining, watch, CollapseMonitor(), keep],
        logger=logger,
        log_every_n_steps=1,
        **QUIET,
    )
    trainer.fit(MetricLearner(encoder(), SupConLoss(), lr=0.05), mining.loader(), ckpt_path=resume, weights_only=True)
    return mining, watch, logger, RunHistory(logger.log_dir), trainer


@pytest.fixture
def finished(data, tmp_path):  # noqa: F811
    return (*run(*data, tmp_path / "first", every=2), tmp_path)


def test_a_run_is_written_and_resumed_with_its_beginning(finished, data):  # noqa: F811
    mining, watch, logger, history, _, folder = finished
    # what was written
    assert [line["kind"] for line in history.lines()][:2] == ["start", "round"]
    settings = history.starts[0]["settings"]
    assert settings["GlobalMining"]["batch_size"] == 12
    assert settings["Trainer"]["max_epochs"] == 4
    assert settings["MetricLearner"]["lr"] == 0.05
    assert set(history.starts[0]["digest"]) == {"data", "inputs", "weights"}
    assert list(history.epochs) == [0, 1, 2, 3, 4]
    ranks = {record.epoch: record.ranking.rank[1] for record in watch.history}
    assert list(ranks) == [0, 2, 4]
    assert history.series("rank_at_1") == pytest.approx(ranks)  # no epoch has the figures of another
    assert history.series("rank_at_1/few") == pytest.approx(ranks)
    assert list(history.series("train_loss")) == [1, 2, 3, 4]
    assert set(history.series("healthy/bank").values()) == {1.0}
    assert [(r["epoch"], r["step"], r["miner"]) for r in history.rounds] == [
        (r.epoch, r.step, r.miner) for r in mining.rounds
    ]
    best = max(ranks, key=lambda epoch: (ranks[epoch], -epoch))
    assert (history.ended["why"], history.ended["best_epoch"]) == ("finished", best)
    # what loggers were given
    assert [value for _, value in logger.given["mining/triplets"]] == [72.0] * 4
    assert {"mining/fed", "mining/drift", "mining/outside_window", "mining/encode_seconds"} <= set(logger.given)
    assert logger.given["rank_at_1"][0] == (0, pytest.approx(ranks[0]))
    assert len(logger.given["rank_at_1"]) == 3
    assert logger.given["healthy/validation"]
    # and a run that goes on from each kind of place: in mid-epoch, at an epoch's last step, at the end
    for step, rounds in {9: 3, 12: 3, 24: 1}.items():
        again, watch_again, _, later, _ = run(
            *data, folder / f"again{step}", every=2, resume=folder / "first" / f"step={step}.ckpt"
        )
        assert len(again.rounds) == rounds
        assert [r.epoch for r in watch_again.history] == [0, 2, 4]
        for old, new in zip(watch.history, watch_again.history, strict=True):
            assert old.ranking.rank == new.ranking.rank
            assert old.collapse.verdict == new.collapse.verdict
        assert torch.equal(watch.history[0].ranking.per_query.map_at_r, watch_again.baseline.ranking.per_query.map_at_r)
        assert watch_again.history[-1].ranking.protocol is watch_again.protocols[0]
        assert [event["what"] for event in later.events] == ["resume"]
        assert later.epochs.get(0) is None


def test_a_plateau_has_waited_as_long_after_a_resume_at_an_epochs_last_step(data, tmp_path):  # noqa: F811
    x, labels = data
    stages = [(0, SemiHardMiner(margin=1.0)), (Plateau(2, min_delta=1.0), HardMiner())]  # two epochs without a gain
    settings = {"stages": stages, "monitor": "rank_at_1"}
    whole, *_ = run(x, labels, tmp_path / "first", **settings)
    assert [change.epoch for change in whole.schedule.changes] == [3]  # known from epoch 1 on, waited to epoch 3
    for step in (6, 12, 18):
        again, *_ = run(
            x, labels, tmp_path / f"again{step}", resume=tmp_path / "first" / f"step={step}.ckpt", **settings
        )
        assert again.schedule.changes == whole.schedule.changes
        assert [r.miner for r in again.rounds] == [r.miner for r in whole.rounds][-len(again.rounds) :]


def test_without_a_folder_of_its_own_a_run_leaves_no_file(data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    x, labels = data
    for place, option in ((tmp_path, None), (tmp_path / "own", None), (tmp_path, tmp_path / "asked.jsonl")):
        mining = GlobalMining(x, labels, schedule=HardMiner(), batch_size=24, progress=False, history=option)
        trainer = L.Trainer(max_epochs=1, callbacks=[mining], default_root_dir=place, **QUIET, **NO_FILES)
        trainer.fit(MetricLearner(encoder(), SupConLoss()), mining.loader())
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl"))
    assert written == ["asked.jsonl", "own/history.jsonl"]


class Point(nn.Module):
    """Maps everything to nearly one point from its second epoch on."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 4)
        self.collapsed = False

    def forward(self, x):
        z = self.net(x)
        return z * 1e-4 + torch.ones(4) if self.collapsed else z


class Breaks(L.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.encoder.collapsed = trainer.current_epoch >= 1


@pytest.mark.parametrize("act", ["warn", "step_back", "stop"])
def test_a_collapse_is_acted_upon(data, tmp_path, act):  # noqa: F811
    x, labels = data
    schedule = MiningSchedule([(0, RandomMiner()), (1, HardMiner())])
    mining = GlobalMining(x, labels, schedule=schedule, batch_size=24, progress=False)
    guard = CollapseMonitor(act)
    callbacks = [Breaks(), mining, ValidationMonitor(x, labels), guard]
    trainer = L.Trainer(max_epochs=4, callbacks=callbacks, default_root_dir=tmp_path, **QUIET, **NO_FILES)
    trainer.fit(MetricLearner(Point(), SupConLoss(), lr=1e-9), mining.loader())
    history = RunHistory(tmp_path)
    assert guard.actions[0].act == act
    assert guard.actions[0].epoch == 2
    assert (history.events[0]["what"], history.events[0]["why"][:7]) == ("stage", "0 -> 1:")
    assert "point collapse" in next(event["why"] for event in history.events if event["what"] == "guard")
    assert history.series("healthy/validation")[1] == 1.0
    assert history.series("healthy/validation")[2] == 0.0
    assert trainer.current_epoch == (2 if act == "stop" else 4)
    miners = [r.miner for r in mining.rounds]
    assert miners[:2] == ["RandomMiner", "HardMiner"]
    if act == "step_back":
        assert miners[2] == "RandomMiner"


def test_a_sound_run_of_few_steps_an_epoch_raises_no_alarm(tmp_path):
    """In its first steps batch norm's running statistics leave the rows of a sound encoder in a narrow cone."""
    rows = load_omniglot()
    train, unseen = rows.take(torch.arange(400)), rows.take(torch.arange(6000, 6300))
    for warm_up, alarms in ((0, True), (20, False)):
        torch.manual_seed(0)
        schedule = MiningSchedule([(0, SemiHardMiner(on_empty="hardest")), (1, HardMiner())])
        mining = GlobalMining(train, train.labels, schedule=schedule, batch_size=64, steps_per_epoch=4, progress=False)
        guard = CollapseMonitor("step_back", warm_up=warm_up)
        callbacks = [mining, ValidationMonitor(unseen, unseen.labels), guard]
        folder = tmp_path / str(warm_up)
        trainer = L.Trainer(max_epochs=2, callbacks=callbacks, default_root_dir=folder, **QUIET, **NO_FILES)
        trainer.fit(MetricLearner(Conv4(width=16), SupConLoss(0.1)), mining.loader())
        assert bool(guard.actions) == alarms
        assert (0.0 in RunHistory(folder).series("healthy/validation").values()) == alarms


def test_a_guard_says_what_it_needs(data):  # noqa: F811
    x, labels = data
    for act, callbacks, message in (
        ("warn", [], "CollapseMonitor looks at GlobalMining or ValidationMonitor"),
        ("step_back", [GlobalMining(x, labels, schedule=HardMiner(), progress=False)], "more than one stage"),
    ):
        trainer = L.Trainer(max_epochs=1, callbacks=[*callbacks, CollapseMonitor(act)], **QUIET, **NO_FILES)
        with pytest.raises(ValueError, match=message):
            trainer.fit(MetricLearner(encoder(), SupConLoss()), torch.utils.data.DataLoader(x))
    with pytest.raises(ValueError, match="patience must be at least 1"):
        CollapseMonitor(patience=0)
