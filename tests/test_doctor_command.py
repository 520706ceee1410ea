"""`legolas-metric doctor`: text, JSON, a page; and the runs that other loggers left."""

import json
import sys
from pathlib import Path

import pytest
from processes import python
from typer.testing import CliRunner

from legolas_metric import RunHistory, examine
from legolas_metric.cli.app import app
from legolas_metric.doctor.log_readers import by_epoch
from legolas_metric.report import Remark, run_sections

STORIES = Path(__file__).parent / "stories"
LOSSES = [1.0, 0.7, 0.5, 0.4, 0.35, 0.3]
RANKS = [0.5, 0.45, 0.4, 0.35, 0.33, 0.3]
FALLS = "loss falls, ranking falls"


def doctor(*arguments: object):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)], catch_exceptions=False)


def test_text_is_worst_first_and_begins_with_the_summary():
    said = doctor(STORIES / "imbalance.csv", "--settings", STORIES / "imbalance.json").output
    assert said.startswith("The run is not good: class 1 is not learnt")
    assert said.index("FAULT") < said.index("WARNING") < said.index("NOTE")
    assert "val_f1_macro 0.4062 (epoch 1) to 0.5 (epoch 24): rises, and levels off from epoch 8" in said


def test_json_is_as_documented():
    told = json.loads(doctor(STORIES / "imbalance.csv", "--settings", STORIES / "imbalance.json", "--json").output)
    assert set(told) == {"findings", "summary"}
    named = {"severity", "rule", "sentence", "evidence", "remedy"}
    assert all(set(each) == named for each in told["findings"])
    assert told["findings"][0]["severity"] == "fault"


def test_the_page_marks_each_finding_where_it_lies(tmp_path):
    page = tmp_path / "page.html"
    assert doctor(STORIES / "pairs_that_were_random.csv", "--html", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "the negatives were random throughout" in text
    found = examine(STORIES / "pairs_that_were_random.csv")
    place = next(n for n, each in enumerate(found.findings, 1) if each.rule == FALLS)
    assert f"{place} (fault): the loss falls while rank_at_1 falls" in text
    assert all(mark.value in found.curves for each in found.findings for mark in each.marks)


def test_remarks_are_lines_with_numbers_and_values_without_any_come_last():
    remarks = [
        Remark(number=n, severity=s, sentence="it is so", value="b", epoch=2) for n, s in ((1, "note"), (2, "fault"))
    ]
    sections = run_sections({"a": ([1, 2], [1, 2]), "b": ([1, 2], [2, 1])}, remarks)
    assert [section.title for section in sections] == ["b", "a"]
    drawn = sections[0].content
    assert [note.text for note in drawn.layout.annotations] == ["1, 2"]
    assert drawn.layout.shapes[0].x0 == 2
    assert not sections[1].content.layout.annotations


def test_what_is_no_run_ends_with_one_line(tmp_path):
    ended = python("-m", "legolas_metric", "doctor", tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("legolas-metric: no history.jsonl or metrics.csv in")
    assert len(ended.stderr.splitlines()) == 1


def test_the_page_never_overwrites_what_is_read(tmp_path):
    (tmp_path / "run.csv").write_bytes((STORIES / "imbalance.csv").read_bytes())
    with pytest.raises(ValueError, match=r"run\.csv"):
        doctor(tmp_path / "run.csv", "--html", tmp_path / "run.csv")


# Other loggers


def test_steps_become_epochs_by_the_epoch_that_lightning_logs_beside_them():
    values = {"epoch": [(9, 0), (19, 1)], "loss": [(4, 2.0), (9, 4.0), (14, 1.0)], "rank": [(19, 0.5)]}
    assert [(line["epoch"], line["values"]) for line in by_epoch(values)] == [
        (0, {"loss": 3.0}),
        (1, {"loss": 1.0, "rank": 0.5}),
    ]
    assert [line["epoch"] for line in by_epoch({"loss": [(1, 2.0), (2, 1.0)]})] == [1, 2]


@pytest.mark.filterwarnings("ignore")  # of tensorboard's own parts
def test_tensorboards_event_files_are_read(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "lightning_logs" / "version_0")) as writer:
        for epoch, (loss, rank) in enumerate(zip(LOSSES, RANKS)):
            writer.add_scalar("train/loss", loss, 10 * epoch)
            writer.add_scalar("val/Rank@1", rank, 10 * epoch)
            writer.add_scalar("epoch", epoch, 10 * epoch)
    found = examine(tmp_path)
    assert FALLS in {each.rule for each in found.findings}
    assert found.curves["rank_at_1"].epochs == (1, 2, 3, 4, 5, 6)
    assert found.curves["train_loss"].values == pytest.approx(LOSSES)


@pytest.mark.filterwarnings("ignore")  # of tensorboard's own parts
def test_scalars_that_tensorboard_keeps_as_tensors_are_read_and_texts_are_not(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for epoch, (loss, rank) in enumerate(zip(LOSSES, RANKS), 1):
            writer.add_scalar("train/loss", loss, epoch, new_style=True)
            writer.add_scalar("val/Rank@1", rank, epoch)
            writer.add_text("remark", "a text is a tensor too", epoch)
    found = examine(tmp_path)
    assert FALLS in {each.rule for each in found.findings}
    assert found.curves["train_loss"].values == pytest.approx(LOSSES)
    assert not [name for name in found.curves if "remark" in name]


@pytest.mark.parametrize(("written", "read"), [("40.0", True), ("!!python/object:builtins.dict {}", False)])
def test_lightnings_hparams_are_settings_and_what_is_no_plain_yaml_is_told(tmp_path, written, read):
    rows = "".join(f"{n},{loss}\n" for n, loss in enumerate(LOSSES, 1))
    (tmp_path / "metrics.csv").write_text("epoch,train_loss\n" + rows)
    (tmp_path / "hparams.yaml").write_text(f"loss: supcon\ntemperature: {written}\n")
    said = doctor(tmp_path).output
    assert ("temperature" in {each.rule for each in examine(tmp_path).findings}) == read
    assert ("hparams.yaml" in said) == (not read)


@pytest.mark.filterwarnings("ignore")  # of mlflow's own parts
def test_an_mlflow_store_is_read_and_a_run_chosen_by_its_name(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = tracking.MlflowClient(tracking_uri=store)
    experiment = client.create_experiment("study", artifact_location=str(tmp_path))

    def write(name: str, ranks: list[float]) -> None:
        run = client.create_run(experiment, run_name=name).info.run_id
        client.log_param(run, "lr", 1e-3)
        client.log_param(run, "weighted_sampler", True)
        for epoch, (loss, rank) in enumerate(zip(LOSSES, ranks), 1):
            client.log_metric(run, "train_loss", loss, step=epoch)
            client.log_metric(run, "val_rank1", rank, step=epoch)

    write("falling", RANKS)
    assert FALLS in {each.rule for each in examine(tmp_path).findings}  # a folder with mlflow.db, of one run
    write("rising", RANKS[::-1])
    assert FALLS in {each.rule for each in examine(f"{store}#falling").findings}
    assert FALLS not in {each.rule for each in examine(f"{tmp_path / 'mlflow.db'}#rising").findings}
    with pytest.raises(ValueError, match=r"holds 2 runs '': name one behind #, of .*rising"):
        examine(store)


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_an_absent_extra_is_named(package, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / ("events.out.tfevents.1" if package == "tensorboard" else "mlflow.db")).write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}, .*pip install 'legolas-metric\[tracking\]'"):
        examine(tmp_path)


def test_a_folder_of_several_runs_asks_for_one(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("epoch,train_loss\n1,0.5\n")
    with pytest.raises(FileNotFoundError, match=r"it holds several runs, pass one of them: .*first"):
        examine(tmp_path)


def test_lightning_counts_epochs_from_0_which_is_no_untrained_encoder(tmp_path):
    lines = "\n".join(f"{epoch},{loss},{rank}" for epoch, (loss, rank) in enumerate(zip(LOSSES, RANKS)))
    (tmp_path / "metrics.csv").write_text(f"epoch,train_loss,rank_at_1\n{lines}\n")
    found = examine(tmp_path)
    assert found.curves["rank_at_1"].epochs[0] == 1
    assert "the untrained encoder (epoch 0)" in found.missing
    assert "below untrained" not in {each.rule for each in found.findings}


def test_a_loss_that_was_not_finite_is_null_in_our_history(tmp_path):
    values = [{"kind": "epoch", "epoch": e, "values": {"train_loss": None if e > 2 else 1.0}} for e in range(1, 5)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in values) + '{"cut": \n')
    found = examine(tmp_path)
    assert found.findings[0].sentence == "train_loss is NaN or infinite from epoch 3 on"
    assert "1 lines of history.jsonl, which are no lines of a history" in found.missing


def test_a_run_history_is_examined_as_its_file(tmp_path):
    history = RunHistory(tmp_path / "history.jsonl")
    for epoch in range(6):
        history.epoch(
            epoch=epoch, step=10 * epoch, values={"rank_at_1": 0.2 + 0.1 * epoch, "val_loss": 1 - 0.1 * epoch}
        )
    assert examine(history).text() == examine(history.path).text()
