"""How the doctor reads what loggers leave: whose epoch a line is of, which column is which value, what a cell holds."""

import csv
import json
import math

import pytest
import torch
from trained_cases import rules, severe

from legolas_metric import Finding, evaluate_ranking, examine
from legolas_metric.datasets.folds import KFold
from legolas_metric.doctor.history_reader import read_history
from legolas_metric.doctor.value_names import canonical
from legolas_metric.training.fold_runs import run_folds

NAN = math.nan
EPOCHS = list(range(1, 21))


def decay(start: float, end: float, pace: float = 5) -> list[float]:
    return [end + (start - end) * math.exp(-epoch / pace) for epoch in range(20)]


# Lines of Lightning's CSV, with a monitor of the rate, whose lines have no epoch, and a test at the end


def lightnings(empty) -> dict[str, list]:
    """Columns of a run over 8 epochs of 4 steps."""
    names = ("epoch", "lr-SGD", "step", "test_loss", "train_loss", "val_loss", "val_rank_at_1")
    rows = []
    for epoch in range(8):
        rows.append((empty, 0.1 / (epoch + 1), 4 * epoch, empty, empty, empty, empty))
        rows.append((epoch, empty, 4 * epoch + 3, empty, empty, 1 - 0.05 * epoch, 0.2 + 0.1 * epoch))
        rows.append((epoch, empty, 4 * epoch + 3, empty, 1 - 0.1 * epoch, empty, empty))
    rows.append((8, empty, 32, 7.0, empty, empty, empty))
    return dict(zip(names, map(list, zip(*rows))))


@pytest.mark.parametrize("how", ["csv", "pandas", "none", "rows"])
def test_lines_without_an_epoch_are_of_the_epoch_that_their_step_lies_in(how, tmp_path):
    table = lightnings({"csv": "", "pandas": NAN, "rows": NAN, "none": None}[how])
    rows = [dict(zip(table, row)) for row in zip(*table.values())]
    if how == "csv":
        with (tmp_path / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table))
            writer.writeheader()
            writer.writerows(rows)
    read = read_history({"csv": tmp_path, "rows": rows}.get(how, table))
    assert read.epochs == 8
    assert read.curves["lr"].epochs == tuple(range(1, 9))
    assert read.curves["lr"].values == tuple(0.1 / n for n in range(1, 9))
    assert read.curves["rank_at_1"].values == tuple(0.2 + 0.1 * n for n in range(8))
    assert read.curves["val_loss"].values == tuple(1 - 0.05 * n for n in range(8))
    assert (read.curves["test_loss"].epochs, read.curves["test_loss"].values) == ((8.0,), (7.0,))
    assert not any(curve.broken for curve in read.curves.values())
    assert read.remarks == ()


def test_a_loss_that_breaks_is_broken_in_a_table_of_pandas_too():
    table = lightnings(NAN)
    table["train_loss"] = [NAN if epoch >= 5 else loss for epoch, loss in zip(table["epoch"], table["train_loss"])]
    assert read_history(table).curves["train_loss"].broken == (6, 7, 8)


def test_a_line_of_no_epoch_and_no_step_is_left_out_and_told():
    table = {"epoch": [1, "", 2], "train_loss": [1.0, 9.0, 0.5]}
    read = read_history(table)
    assert (read.epochs, read.curves["train_loss"].values) == (2, (1.0, 0.5))
    assert "1 lines without an epoch, or a step that tells it, are left out" in read.remarks
    del table["epoch"]
    assert read_history(table).epochs == 3


# Columns that say the same


def test_a_test_is_no_validation():
    run = {"epoch": EPOCHS, "train_loss": decay(1, 0.1), "val_loss": decay(1, 0.5), "test_loss": [9.0] * 20}
    read = read_history(run)
    assert read.curves["val_loss"].values == tuple(run["val_loss"])
    assert read.curves["test_loss"].values == (9.0,) * 20
    assert "val_loss" not in read_history({"epoch": [1], "test_loss": [9.0]}).curves


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_columns_for_one_value_the_plainer_is_read_and_the_other_told(order):
    columns = {"val_loss": [1.0, 0.9], "valid_loss": [5.0, 6.0]}
    run = dict(list(columns.items())[::order]) | {"val/Recall@1": [0.4, 0.5], "rank_at_1": [0.1, 0.2]}
    found = examine(run)
    assert found.curves["val_loss"].values == (1.0, 0.9)
    assert found.curves["rank_at_1"].values == (0.1, 0.2)
    assert "valid_loss is left out: val_loss stands beside it" in found.summary
    assert "val/Recall@1 is left out: rank_at_1 stands beside it" in found.reading


# Names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *((name, "rank_at_1") for name in ("val/Recall@1", "R@1", "val/R@1", "val/rank-1", "val/precision_at_1")),
        *((name, "rank_at_1") for name in ("Rank-1", "eval_recall@1", "P@1", "dev/recall_at_1", "R1", "valid/CMC@1")),
        *((name, "mean_average_precision") for name in ("val/mAP", "mAP", "map", "val_mAP")),
        *((name, "map_at_r") for name in ("mAP@R", "val/MAP@R", "valid_map_at_r")),
        *(
            (name, "val_accuracy")
            for name in ("val_top1", "valid/acc", "acc_val", "Accuracy/val", "val.accuracy", "acc")
        ),
        *((name, "auc") for name in ("val/auroc", "AUROC", "roc_auc", "eval_roc_auc")),
        *((name, "val_loss") for name in ("valid/loss", "Loss/val", "valLoss", "loss_valid", "dev_loss", "eval/loss")),
        *((name, "train_loss") for name in ("Loss/train", "trainLoss", "training/loss", "loss")),
        *((name, "test_loss") for name in ("Loss/test", "test/loss", "test_loss_epoch", "loss_test")),
        ("val_rank_at_1/within", "rank_at_1/within"),
        ("val/rank_at_1/within", "rank_at_1/within"),
        ("train/loss/centre", "train_loss/centre"),
        ("test/Recall@1", "test_rank_at_1"),
        ("train/R@1", "train_rank_at_1"),
        ("training_acc", "train_accuracy"),
        ("valid_f1_class_0", "val_f1_class_0"),
        ("val/f1_score", "val_f1"),
        ("val/macro_f1", "val_f1_macro"),
        ("acc", "val_accuracy"),
        ("train_auc", "train_auc"),
        ("val_db", "davies_bouldin"),
        ("val_threshold", "threshold"),
        ("rank_at_1_low", "rank_at_1_low"),
        ("val_rank_at_5", "val_rank_at_5"),
        ("val", "val"),
    ],
)
def test_names_of_other_loggers(theirs, ours):
    assert canonical(theirs) == ours


@pytest.mark.parametrize("name", ["val/Recall@1", "val/mAP", "val_rank_at_1", "valid/acc", "val_top1"])
def test_a_ranking_that_is_there_is_not_said_to_be_missing(name):
    found = examine({"epoch": EPOCHS, "train_loss": decay(1, 0.1), name: decay(0.3, 0.9)})
    assert "a ranking (rank_at_1 or map_at_r)" not in found.missing
    assert found.reading == ()


def test_a_ranking_of_a_protocol_alone_is_judged_by_the_strictest():
    across = {"val_rank_at_1/within": decay(0.5, 0.9), "val/rank_at_1/across": decay(0.5, 0.1)}
    found = examine({"epoch": EPOCHS, "train_loss": decay(1, 0.1), **across})
    assert "the loss falls while rank_at_1/across falls" in found.summary
    assert "a ranking (rank_at_1 or map_at_r)" not in found.missing
    assert found.reading == ()


def test_map_alone_is_judged_as_a_ranking():
    found = examine({"epoch": EPOCHS, "train_loss": decay(1, 0.1), "val/mAP": decay(0.7, 0.3)})
    assert "loss falls, ranking falls" in severe(found)


# Cells


@pytest.mark.parametrize("cell", ["N/A", "-", "null", "oops"])
def test_one_cell_that_is_no_number_does_not_drop_its_column(cell):
    ranks = [f"{value:.4f}" for value in decay(0.3, 0.9)]
    ranks[7] = cell
    found = examine({"epoch": EPOCHS, "rank_at_1": ranks})
    assert len(found.curves["rank_at_1"]) == 19
    assert ("1 of the 20 cells of rank_at_1 is no number, such as 'oops'" in found.reading) == (cell == "oops")


def test_a_word_that_says_nothing_is_a_word_where_words_stand():
    verdicts = ["point collapse", "None", "None"]
    assert read_history({"epoch": [1, 2, 3], "verdict": verdicts, "lr": [1, 1, 1]}).words["verdict"] == tuple(verdicts)


def test_columns_that_are_mostly_words_and_those_no_rule_knows_are_told():
    words = ["a", "b", *["0.5"] * 3, *["c"] * 15]
    found = examine({"epoch": EPOCHS, "rank_at_1": words, "train_loss": decay(1, 0.1), "weird thing": decay(1, 2)})
    assert "rank_at_1 is left out, as 17 of its cells are no numbers" in found.reading
    assert "no rule reads weird_thing" in found.reading
    assert "no rule reads weird_thing" in found.summary


def test_a_ranking_of_few_values_is_told():
    ranks = ["" if epoch % 5 else 0.04 * epoch for epoch in EPOCHS]
    found = examine({"epoch": EPOCHS, "train_loss": decay(1, 0.1), "rank_at_1": ranks})
    assert "rank_at_1 has 4 values, and a trend takes 5" in found.reading


@pytest.mark.parametrize(
    ("name", "values", "last", "said"),
    [
        ("rank_at_1", [1.0, 1.1, 1.2], 0.012, "rank_at_1, up to 1.2, is read as percent"),
        ("val_accuracy", [0.5, 60.0, 71.2], 0.712, "val_accuracy, up to 71.2, is read as percent"),
        ("train/auc", [93.0, 94.0], 0.94, "train_auc, up to 94, is read as percent"),
        ("rank_at_1/cross-day", [10.0, 20.0], 0.2, "rank_at_1/cross-day, up to 20, is read as percent"),
        ("rank_at_1", [0.5, 1.0 + 1e-7], 1.0 + 1e-7, None),
        ("train_loss", [5.0, 1.2], 1.2, None),
        ("rank_at_1", [1.0, 200.0], 200.0, "rank_at_1 lies between 1 and 200, and is to be a share of 1, or percent"),
        ("val_f1", [-1.0, 0.5], 0.5, "val_f1 lies between -1 and 0.5, and is to be a share of 1, or percent"),
    ],
)
def test_percent_without_a_sign_is_a_share(name, values, last, said):
    read = read_history({"epoch": list(range(1, len(values) + 1)), name: values})
    assert read.curves[canonical(name)].last == pytest.approx(last, rel=1e-9)
    assert read.remarks == (() if said is None else (said,))


# What a run is stopped by


@pytest.mark.parametrize("name", ["val/loss", "val_loss", "valid_loss", "valLoss", "val_loss_epoch"])
@pytest.mark.parametrize("key", ["monitor", "stopped_on"])
@pytest.mark.parametrize("within", [False, True])
def test_the_value_that_stops_a_run_may_have_any_of_its_names(name, key, within):
    run = {"epoch": EPOCHS, "train_loss": decay(1, 0.98), name: decay(1, 0.5), "map_at_r": decay(0.5, 0.4)}
    told = {key: name}
    found = examine(run, settings={"early_stopping": told} if within else told)
    assert "stopped on another value" in severe(found)


# Losses by their names


@pytest.mark.parametrize(
    ("loss", "rests_at", "rule"),
    [
        *((loss, math.log(63), "collapsed loss") for loss in ("info_nce", "InfoNCE", "NT-Xent", "nt_xent", "SupCon()")),
        ("NTXentLoss(temperature=0.1)", math.log(127), "collapsed loss"),
        ("soft-margin triplet", math.log(2), "collapsed loss"),
        *((loss, math.log(10), "loss of guessing") for loss in ("CrossEntropyLoss()", "nn.CrossEntropyLoss", "CE")),
    ],
)
def test_a_loss_is_known_by_any_of_its_names(loss, rests_at, rule):
    run = {"epoch": EPOCHS, "train_loss": [rests_at * (1 + 0.001 * (epoch % 3)) for epoch in EPOCHS]}
    found = examine(run, settings={"loss": loss, "batch_size": 64, "num_classes": 10})
    assert rule in severe(found)
    assert found.reading == ()


@pytest.mark.parametrize("loss", ["my_loss", "BinaryCrossEntropy"])
def test_a_loss_that_is_not_known_is_told(loss):
    found = examine({"epoch": EPOCHS, "train_loss": [math.log(10)] * 20}, settings={"loss": loss, "num_classes": 10})
    assert f"at which value the loss {loss.lower()} has collapsed is not known" in found.summary
    assert "loss of guessing" not in rules(found)


# Evidence


def test_evidence_has_figures_and_epochs_and_what_chance_would_come_to():
    run = {"epoch": EPOCHS, "auc": decay(0.7, 0.9), "rank_at_1": decay(0.1, 0.3)}
    found = {each.rule: each for each in examine(run, settings={"num_classes": 40}).findings}
    hidden = found["AUC hides Rank@1"]
    assert "auc 0.7 (epoch 1) to 0.8955 (epoch 20)" in hidden.evidence
    assert "rank_at_1 0.1 (epoch 1) to 0.2955 (epoch 20)" in hidden.evidence
    assert "a random ranking: 1 / 40 = 0.0250 among 40 classes" in found["weak ranking"].evidence
    assert "not known" in {each.rule: each for each in examine(run).findings}["weak ranking"].evidence


# Folds, and rules of one's own


def test_a_fold_that_is_not_done_does_not_shorten_the_others(tmp_path):
    x, labels = torch.eye(8).repeat_interleave(10, 0), torch.arange(8).repeat_interleave(10)
    folds = KFold(labels, 3, test_share=0)
    run_folds(folds, lambda task: evaluate_ranking(x[task.validation], labels[task.validation]), folder=tmp_path)
    for number in range(3):
        lines = [{"epoch": epoch, "values": {"rank_at_1": 0.1 * epoch}} for epoch in range(2 if number == 0 else 6)]
        text = "".join(json.dumps({"kind": "epoch", **line}) + "\n" for line in lines)
        (tmp_path / f"fold_{number}" / "history.jsonl").write_text(text)
    (tmp_path / "fold_0" / "result.safetensors").unlink()
    read = read_history(tmp_path)
    assert read.epochs == 5
    assert len(read.curves["rank_at_1"]) == 6
    assert "fold_0: its result, as it isn't done" in read.unread


def test_a_severity_that_is_none_is_refused_by_name():
    said = r"severity of 'mine' must be one of fault, warning, note, got 'error'|parameter severity="
    with pytest.raises((ValueError, TypeError), match=said):
        Finding(severity="error", rule="mine", sentence="It is so.", evidence="a", remedy="b")  # pyright: ignore


def test_a_limit_that_is_none_is_refused_by_name():
    def mine(case):
        yield case.limits["nope"]

    with pytest.raises(ValueError, match=r"an unknown limit 'nope': pass thresholds=\{'nope': Threshold"):
        examine({"epoch": [1, 2], "train_loss": [1.0, 0.5]}, rules=[mine])
