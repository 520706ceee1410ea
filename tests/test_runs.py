"""The commands of runs: from settings to a table and a page, and on again after an interruption."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from legolas_metric import evaluate_ranking, examine
from legolas_metric.files import read_embeddings
from legolas_metric.runs import RunSettings
from legolas_metric.runs.commands import embed_data, join, kfold, train
from legolas_metric.runs.search import Range, search_settings
from legolas_metric.training.history import RunHistory
from legolas_metric.training.module import MetricLearner
from legolas_metric.training.monitor import ValidationMonitor

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory", "ignore:an interval over", "ignore:Experiment logs directory"
)
TINY = {"mining": "none", "epochs": 3, "batch_size": 16, "steps_per_epoch": 4, "width": 8, "progress": False}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> Path:
    """Fifteen classes of eight noisy rows, in two sessions."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(15), 8)
    x = generator.normal(size=(15, 12))[labels] + 0.8 * generator.normal(size=(120, 12))
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    np.savez(path, x=x.astype(np.float32), y=np.array([f"p{i:02}" for i in labels]), session=np.arange(120) % 2)
    return path


def settings(arrays: Path, **changes) -> RunSettings:
    return RunSettings.of(TINY | {"data": str(arrays)} | changes)


@pytest.fixture(scope="module")
def whole(arrays, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    return folder, train(settings(arrays), folder)


def test_a_run_leaves_all_that_tells_of_it(whole):
    folder, found = whole
    names = {path.name for path in folder.iterdir()}
    assert names == {"settings.toml", "history.jsonl", "log.txt", "csv", "checkpoints", "report.html"}
    written = (folder / "settings.toml").read_text()
    assert "# torch: " in written
    assert "seed = 0" in written
    assert 'layout = "arrays"' in written  # as resolved
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best_model.safetensors", "last.ckpt"}
    columns = (folder / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train_loss", "rank_at_1"} <= set(columns)
    history = RunHistory(folder)
    ranks = history.series("rank_at_1")
    assert list(ranks) == [0, 1, 2, 3]
    best = max((value, -epoch) for epoch, value in ranks.items() if epoch)
    assert (found.kept.value, -found.kept.epoch - 1) == pytest.approx(best)
    assert found.first.rank[1] == pytest.approx(found.kept.value)
    assert found.first.baseline.rank[1] == pytest.approx(ranks[0])
    assert found.kept.label_names[:2] == ("p00", "p01")
    assert found.kept.normalisation is not None
    page = (folder / "report.html").read_text()
    assert "After each epoch." in page


def test_the_log_is_what_the_screen_showed(arrays, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(settings(arrays, epochs=1), None)
    shown = capsys.readouterr().out
    (folder,) = Path("runs").iterdir()
    log = (folder / "log.txt").read_text()
    for said in (
        f"Interrupted, it goes on by the same command with --out {folder}.",
        "Settings, as resolved",
        "epochs = 1",
        "Versions: python",
        "| untrained |",
        "Kept: epoch 1",
        "Wrote ",
    ):
        assert said in shown
        assert said in log
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO Settings", log)


@pytest.fixture(scope="module")
def mined(arrays, tmp_path_factory):
    """Another, by global mining."""
    folder = tmp_path_factory.mktemp("run") / "mined"
    return folder, train(settings(arrays, mining="hard"), folder)


@pytest.mark.parametrize(
    ("mining", "at"), [("none", "epoch 1"), ("none", "step 10"), ("hard", "epoch 3"), ("hard", "step 10")]
)
def test_a_run_that_was_killed_goes_on_and_ends_alike(mining, at, arrays, whole, mined, tmp_path, monkeypatch):
    asked = settings(arrays, mining=mining)
    folder, plain = mined if mining == "hard" else whole
    kind, number = at.split()
    steps: list[int] = []

    def killed(self, *arguments, **keywords):
        if (keywords["epoch"] if kind == "epoch" else self.global_step) == int(number):
            raise RuntimeError("killed")
        return inner(self, *arguments, **keywords)

    def counted(self, *arguments):
        steps.append(self.global_step)
        return step(self, *arguments)

    where = (ValidationMonitor, "_measure") if kind == "epoch" else (MetricLearner, "training_step")
    inner, step = getattr(*where), MetricLearner.training_step
    with monkeypatch.context() as patched:
        patched.setattr(*where, killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(asked, tmp_path / "killed")
    assert "ended by RuntimeError: killed" in (tmp_path / "killed" / "log.txt").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(MetricLearner, "training_step", counted)
        again = train(asked, tmp_path / "killed")
    assert steps == list(range(0 if at == "epoch 1" else 8, 12))  # from the last epoch that was through
    assert again.kept.digest == plain.kept.digest
    assert again.first.rank == plain.first.rank
    histories = [RunHistory(run).series("train_loss") for run in (folder, tmp_path / "killed")]
    assert histories[0] == pytest.approx(histories[1])


def test_a_run_that_has_ended_trains_no_further(arrays, whole, tmp_path, monkeypatch):
    folder, found = whole
    before = RunHistory(folder).series("train_loss")
    monkeypatch.setattr(
        "legolas_metric.training.module.MetricLearner.training_step", lambda *_: pytest.fail("it trained again")
    )
    again = train(settings(arrays), folder)
    assert again.first.rank == found.first.rank
    assert RunHistory(folder).series("train_loss") == before
    with pytest.raises(ValueError, match="width was 8 and is 9"):
        train(settings(arrays, width=9), folder)


@pytest.mark.parametrize(
    ("recipe", "rounds", "losses"),
    [
        (None, 0, ["SupConLoss"] * 2),
        ("near", 2, ["SupConLoss"] * 2),
        ("mined", 2, ["SupConLoss"] * 2),
        ("pk-batch-hard", 0, ["semihard", "hard"]),
    ],
)
def test_a_recipe_by_name_feeds_and_loses(recipe, rounds, losses, arrays, tmp_path, monkeypatch):
    seen = []
    step = MetricLearner.training_step

    def watched(self, *given):
        seen.append(getattr(self.loss, "selection", type(self.loss).__name__))
        return step(self, *given)

    monkeypatch.setattr(MetricLearner, "training_step", watched)
    found = {name: value for name, value in TINY.items() if name != "mining"}
    found |= {"epochs": 2, "steps_per_epoch": 1, "batch_size": 128} | ({} if recipe is None else {"recipe": recipe})
    train(RunSettings.of(found | {"data": str(arrays)}), tmp_path)
    assert seen == losses
    assert len(RunHistory(tmp_path).rounds) == rounds
    told = (tmp_path / "log.txt").read_text()
    assert ("Recipe pk-supcon: a random batch of " in told) == (recipe is None)
    page = (tmp_path / "report.html").read_text()
    assert ("recipe pk-supcon (a random batch of" in page) == (recipe is None)
    assert f"recipe {recipe or 'pk-supcon'}" in page


def test_patience_ends_a_run(arrays, tmp_path):
    train(settings(arrays, epochs=30, lr=1e-7, patience=2), tmp_path)
    assert max(RunHistory(tmp_path).series("rank_at_1")) < 10


@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_tensorboard_and_mlflow_hold_what_was_logged(arrays, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracking = pytest.importorskip("mlflow.tracking")
    asked = settings(arrays, epochs=2, loggers=["tensorboard", "mlflow"])
    train(asked, tmp_path / "run")
    folder = tmp_path / "run"
    ranks = RunHistory(folder).series("rank_at_1")
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    logged = [entry.value for entry in events.Scalars("rank_at_1")]
    assert logged[-2:] == pytest.approx([ranks[1], ranks[2]])
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    run = (folder / "mlflow_run.txt").read_text().strip()
    logged = [entry.value for entry in client.get_metric_history(run, "rank_at_1")]
    assert logged[-2:] == pytest.approx([ranks[1], ranks[2]])
    train(asked, folder)  # goes on in the same run of MLflow
    experiment = client.get_experiment_by_name("legolas-metric").experiment_id
    assert len(client.search_runs([experiment])) == 1


def test_folds_are_done_once_joined_and_embedded(arrays, tmp_path, monkeypatch, capsys):
    asked = settings(arrays, folds=3, epochs=2)
    done = []

    def train_one(*arguments, **keywords):
        done.append(keywords["fold"])
        if len(done) == 2:
            raise RuntimeError("killed")
        return inner(*arguments, **keywords)

    from legolas_metric.runs import commands

    inner = commands.train_one
    monkeypatch.setattr(commands, "train_one", train_one)
    with pytest.raises(RuntimeError, match="killed"):
        kfold(asked, tmp_path)
    with pytest.raises(FileNotFoundError, match="fold 1 is not done"):
        join(tmp_path)
    result = kfold(asked, tmp_path)
    assert done == [0, 1, 1, 2]
    assert len(result.folds) == 3
    shown = capsys.readouterr().out
    assert "| pooled |" in shown
    assert "test, ensemble (score)" in (tmp_path / "report.html").read_text()
    assert "Cross-validation" in (tmp_path / "report.html").read_text()
    found = examine(tmp_path)  # the doctor reads the folds together
    assert f"3 parts came to rank_at_1 {result.mean():.3f}, spread {result.spread():.3f}, pooled" in found.summary
    assert len(found.curves["rank_at_1"]) == 3
    assert {"auc", "eer", "eer_threshold"} <= set(result.names)
    assert "shared identities" not in {finding.rule for finding in found.findings}
    reports = join(tmp_path)
    whole = reports["ensemble (score)"]
    assert whole.baseline.rank[1] == reports["untrained"].rank[1]
    for name in ("untrained", "ensemble (score)"):  # the held-out figures stand in the table of `kfold`
        assert f"| test, {name} | {reports[name].rank[1]:.4f} [" in shown
    assert list(reports) == ["untrained", "fold 0", "fold 1", "fold 2", "ensemble (score)"]
    assert json.loads((tmp_path / "ensemble" / "ensemble.json").read_text())["how"] == "score"
    assert (tmp_path / "ensemble" / "report.html").is_file()

    assert embed_data(tmp_path, tmp_path / "e.npz", fold=1) == 120
    held = read_embeddings(tmp_path / "e.npz")
    test = torch.isin(held.labels, reports["fold 1"].per_query.labels)
    again = evaluate_ranking(held.embeddings[test], held.labels[test])
    assert again.rank[1] == pytest.approx(reports["fold 1"].rank[1])
    with pytest.raises(ValueError, match="has folds: pass --fold 0"):
        embed_data(tmp_path, tmp_path / "e.npz")


def test_an_ensemble_is_of_folds_and_embedding_of_like_inputs(whole, tmp_path):
    folder, _ = whole
    with pytest.raises(ValueError, match="is a run of `train`: an ensemble joins the folds of `kfold`"):
        join(folder)
    with pytest.raises(ValueError, match="has no folds: leave --fold out"):
        embed_data(folder, tmp_path / "e.npz", fold=0)
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros((4, 5), np.float32), y=np.arange(4))
    with pytest.raises(ValueError, match=r"inputs of shape \[5\], the run's are \[12\]"):
        embed_data(folder, tmp_path / "e.npz", data=str(other))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*experimental")
def test_a_study_goes_on(arrays, tmp_path, capsys):
    pytest.importorskip("optuna")
    asked, space = settings(arrays, epochs=1), {"lr": Range(low=1e-4, high=1e-2, log=True), "width": [4, 8]}
    search_settings(asked, space, trials=1, folder=tmp_path)
    capsys.readouterr()
    study = search_settings(asked, space, trials=2, folder=tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"Wrote {tmp_path / 'best.toml'}."
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert study.trials[0].params != study.trials[1].params
    best = RunSettings.read(tmp_path / "best.toml")
    assert best.lr == study.best_params["lr"]
    for trial in study.trials:
        ranks = RunHistory(tmp_path / f"trial_{trial.number}").series("rank_at_1")
        assert trial.value == pytest.approx(ranks[1])
    assert search_settings(asked, space, trials=2, folder=tmp_path).best_value == study.best_value
    with pytest.raises(ValueError, match="unknown key 'rate'"):
        search_settings(asked, {"rate": [1]}, trials=1, folder=tmp_path)


def test_a_split_by_session_shares_its_identities_and_the_doctor_reads_it_from_the_history(arrays, whole, tmp_path):
    train(settings(arrays, epochs=1, split_by="session", validation_share=0.5), tmp_path)
    found = examine(tmp_path)
    said = [finding.sentence for finding in found.findings if finding.rule == "shared identities"]
    assert said == ["15 identities lie in both the training and the validation part"]
    assert "lr" in found.curves
    assert "shared identities" not in {finding.rule for finding in examine(whole[0]).findings}


def test_a_batch_of_more_classes_than_there_are_names_its_key(arrays, tmp_path):
    said = "batch_size=128 and k=4 ask for 32 classes a batch, and there are 12 to train on: lower batch_size to 48"
    with pytest.raises(ValueError, match=said):
        train(settings(arrays, batch_size=128), tmp_path)
    train(settings(arrays, batch_size=48, epochs=1), tmp_path)  # in the same folder, which holds no run yet
    with pytest.raises(ValueError, match="holds a run of other settings"):
        train(settings(arrays, batch_size=40, epochs=1), tmp_path)
