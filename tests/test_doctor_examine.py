"""The doctor on four stories, on runs trained into a fault, on healthy ones, and where a careless rule errs."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from trained_cases import drawn, encoder, rows_of, rules, severe

from legolas_metric import EmbeddingBank
from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.examination import RULES, examine
from legolas_metric.doctor.history_reader import read_history
from legolas_metric.doctor.thresholds import THRESHOLDS, limits
from legolas_metric.doctor.value_names import canonical

HISTORIES, STORIES = (Path(__file__).parent / name for name in ("histories", "stories"))


@pytest.mark.parametrize(
    ("story", "right"),
    [
        ("imbalance", {"class gap", "rate too small", "levels off"}),
        (
            "pairs_that_were_random",
            {
                *("negatives were random", "pairs of the loss alone", "loss falls, ranking falls", "AUC hides Rank@1"),
                *("best not kept", "stopped on another value"),
            },
        ),
        (
            "double_balancing",
            {
                *("uniform attention", "stopped while improving", "balanced twice", "empty classes"),
                *("focal loss on soft targets", "foreign constants", "accuracy of unmixed labels"),
            },
        ),
        ("one_class_predicted", {"one class predicted", "overfitting", "balanced twice", "few epochs"}),
    ],
)
def test_what_the_authors_found_in_their_stories(story, right):
    found = examine(STORIES / f"{story}.csv", settings=STORIES / f"{story}.json")
    assert right <= rules(found)
    assert found.findings[0].severity == "fault"
    assert found.findings[0].sentence in found.summary
    assert all(finding.evidence and finding.remedy for finding in found.findings)
    json.dumps(found.json())


def test_the_stories_tell_what_they_tell_in_figures():
    texts = {
        story: examine(STORIES / f"{story}.csv", settings=STORIES / f"{story}.json").text()
        for story in ("imbalance", "pairs_that_were_random", "double_balancing", "one_class_predicted")
    }
    assert "F1 0.26 beside 0.74 of class 0: the macro mean 0.50 hides it" in texts["imbalance"]
    assert "levels off from epoch 8" in texts["imbalance"]
    assert "in a gallery of 5,000 that AUC means a mean rank of 554" in texts["pairs_that_were_random"]
    assert "best 0.0176 in epoch 1: it falls from the first epoch on" in texts["pairs_that_were_random"]
    assert "Not logged, and so not judged: learning rate, the untrained encoder" in texts["pairs_that_were_random"]
    assert "in epoch 10 of 80" in texts["double_balancing"]
    assert "3 balancings at once" in texts["one_class_predicted"]
    assert "all class 0 in epoch 1 (accuracy 0.712, F1 0.000), all class 1 in epoch 2" in texts["one_class_predicted"]


def test_without_settings_only_what_the_history_shows_is_said():
    found = examine(STORIES / "double_balancing.csv")
    assert severe(found) == set()
    assert "balanced twice" not in rules(found)


def test_a_healthy_run_has_neither_fault_nor_warning(tmp_path):
    run = HISTORIES / "as_warm_as_usual"
    settings = {"loss": "supcon", "batch_size": 300, "num_classes": 20, "epochs": 8}
    found = examine(run, settings=settings)
    assert severe(found) == set()
    assert found.healthy
    assert found.summary.startswith("The run is good: rank_at_1 0.5367 (epoch 0) to")
    assert ", and nothing is wrong in what was logged over 8 epochs." in found.summary
    torn = tmp_path / "history.jsonl"
    torn.write_text((run / "history.jsonl").read_text() + '{"kind": "epo')
    assert examine(tmp_path, settings=settings).findings == found.findings


def test_what_a_loss_rests_at_depends_on_its_margin():
    assert "collapsed loss" not in rules(examine(HISTORIES / "loss_at_its_margin", settings={"margin": 0.2}))


def test_what_settings_explain_is_no_fault():
    """A temperature of a distillation, low accuracy of mixed rows, a sampler of rare classes, counts that are near."""
    for run, settings, rule in (
        ("too_warm", {"loss": "cross_entropy", "temperature": 4.0}, "temperature"),
        ("too_few_inputs", {"mixup_alpha": 0.2}, "underfitting"),
        ("rare_class", {"sampler": "pk"}, "imbalance without balancing"),
        ("rare_class", {"class_counts": [600, 300]}, "imbalance without balancing"),
    ):
        assert rule in rules(examine(HISTORIES / run))
        assert rule not in rules(examine(HISTORIES / run, settings=settings))


def test_what_both_parts_share_is_seen_in_their_embeddings():
    labels, centres = torch.arange(300) % 20, drawn(20, 16)
    inputs, other = (rows_of(labels, centres, 1.0, seed) for seed in (2, 3))
    network, sound = encoder(), HISTORIES / "as_warm_as_usual"
    known, apart = labels < 10, labels >= 10
    train = network(inputs[known]).detach(), labels[known]
    held = network(other[apart]).detach(), labels[apart]
    clean = examine(sound, embeddings=held, trained_on=train)
    assert not {"shared identities", "near duplicates across parts"} & rules(clean)
    copied = torch.cat([held[0], train[0][:20] * 1.0001]), torch.cat([held[1], 500 + torch.arange(20) % 2])
    found = examine(sound, embeddings=copied, trained_on=EmbeddingBank(*train))
    assert "near duplicates across parts" in severe(found)
    assert "20 validation rows" in found.text()
    both = examine(sound, embeddings=(network(other).detach(), labels), trained_on=train)
    assert "shared identities" in severe(both)
    with pytest.raises(ValueError, match="pass those of the validation rows"):
        examine(sound, trained_on=train)


def test_a_loss_that_breaks_is_named_with_its_epoch():
    found = examine({"epoch": [1, 2, 3], "train_loss": [1.0, math.nan, math.nan], "lr": [0.5, 0.5, 0.5]})
    assert found.findings[0].sentence == "train_loss is NaN or infinite from epoch 2 on"
    assert "learning rate up to 0.5" in found.findings[0].evidence


def test_rules_that_a_careless_doctor_would_cry():
    """Each looks like the fault, and is none."""
    epochs = list(range(1, 11))
    noisy = {
        "epoch": epochs,
        "train_loss": [1 / e for e in epochs],
        "rank_at_1": [0.8, 0.82, 0.79, 0.81] * 2 + [0.8, 0.78],
    }
    assert severe(examine(noisy)) == set()  # a plateau with noise is no fall
    calibrated = {"epoch": epochs, "train_loss": [1 / e for e in epochs], "rank_at_1": [0.1 * e for e in epochs]}
    calibrated |= {"val_loss": [1.0, 0.7, 0.6, 0.58, 0.6, 0.63, 0.66, 0.7, 0.72, 0.75]}
    assert severe(examine(calibrated)) == set()  # the loss overshoots while the ranking still gains
    cone = {"epoch": epochs, "train_loss": [1 / e for e in epochs], "rank_at_1": [0.09 * e for e in epochs]}
    cone |= {"resultant_length": [0.997] * 10}
    assert severe(examine(cone)) == set()  # ReLU before the head
    narrow = {"epoch": epochs, "rank_at_1": [0.09 * e for e in epochs], "effective_rank": [60 / e for e in epochs]}
    assert severe(examine(narrow)) == set()  # directions that the classes don't need
    tuned = {"epoch": epochs, "train_loss": [1 / e for e in epochs], "lr": [5e-6] * 10}
    assert severe(examine(tuned)) == set()  # a small rate that does move: a pretrained encoder
    good = {
        "epoch": epochs,
        "val_accuracy": [0.9 + 0.005 * e for e in epochs],
        "val_f1": [0.8 + 0.01 * e for e in epochs],
    }
    assert severe(examine(good)) == set()  # high accuracy is not one class
    random_first = {
        "epoch": epochs,
        "negatives_from": ["random"] * 3 + ["bank"] * 7,
        "strategy": ["random"] * 3 + ["hard"] * 7,
    }
    assert severe(examine(random_first | {"train_loss": [1 / e for e in epochs]})) == set()  # a warm-up


def test_rounds_of_mining_are_judged():
    epoch = {"kind": "epoch", "epoch": 1, "values": {"train_loss": 1.0}}
    sound = {"anchors": 100, "fallback": 2, "no_negative": 0, "outside_window": 20, "fed": 0.9, "drift": 0.98}
    poor = {"anchors": 100, "fallback": 30, "no_negative": 60, "outside_window": 70, "fed": 0.3, "drift": 0.6}
    rounds = [[{"kind": "round", "epoch": n, "values": values} for n in range(3)] for values in (sound, poor)]
    told = [rules(examine([epoch, *of_run])) for of_run in rounds]
    assert "stale bank" not in rules(examine([epoch, *rounds[1][:2]]))  # a run that has just begun
    starving = {f"mining: {name}" for name in ("fallback", "no_negative", "outside_window", "fed")}
    assert told[0] & {*starving, "stale bank"} == set()
    assert {*starving, "stale bank"} <= told[1]


def test_the_later_line_of_an_epoch_counts_and_lines_of_one_epoch_are_joined(tmp_path):
    lines = [
        {"kind": "epoch", "epoch": 1, "values": {"train_loss": 3.0, "rank_at_1": 0.1}},
        {"kind": "event", "epoch": 1, "what": "resume", "why": "killed"},
        {"kind": "epoch", "epoch": 1, "values": {"train_loss": 2.0}},
    ]
    history = read_history(lines)
    assert history.curves["train_loss"].values == (2.0,)
    assert history.curves["rank_at_1"].values == (0.1,)
    assert [event["what"] for event in history.events] == ["resume"]
    path = tmp_path / "metrics.csv"  # as Lightning writes it: training and validation on lines of their own
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["epoch", "step", "train_loss_epoch", "val/Rank@1", "lr-Adam"], [0, 9, "", 0.5, ""]])
        writer.writerows([[0, 9, 1.5, "", 0.1], [1, 19, 1.2, 0.6, 0.1]])
    history = read_history(tmp_path)
    assert history.curves["rank_at_1"].values == (0.5, 0.6)
    assert history.curves["train_loss"].values == (1.5, 1.2)
    assert history.curves["lr"].values == (0.1, 0.1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("val/loss", "val_loss"),
        ("Rank@1", "rank_at_1"),
        ("eval_accuracy", "val_accuracy"),
        ("weird thing", "weird_thing"),
        ("lr-AdamW/pg1", "lr"),
        ("lr-AdamW-momentum", "lr_adamw_momentum"),
    ],
)
def test_names_of_other_loggers(theirs, ours):
    assert canonical(theirs) == ours


def test_keras_names_what_is_of_training_by_what_stands_beside_it():
    table = {"epoch": [0, 1], "accuracy": [0.5, 0.9], "loss": [1.0, 0.5], "val_accuracy": [0.4, 0.6]}
    read = read_history(table)
    assert read.curves["train_accuracy"].values == (0.5, 0.9)
    assert read.curves["val_accuracy"].values == (0.4, 0.6)
    del table["val_accuracy"]
    assert read_history(table).curves["val_accuracy"].values == (0.5, 0.9)


# What other programs, and accidents, leave


TABLE = "epoch,train_loss,rank_at_1\n1,1.0,0.25\n2,0.5,0.5\n"


@pytest.mark.parametrize(
    "text",
    [
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", ";").replace(".", ","),
        TABLE.replace("0.25", "25%").replace("0.5\n", "50 %\n"),
        "\ufeff" + TABLE,
    ],
)
def test_tables_of_other_programs_are_read(text, tmp_path):
    path = tmp_path / "run.csv"
    path.write_text(text, encoding="utf-8")
    read = read_history(path)
    assert read.curves["train_loss"].values == (1.0, 0.5)
    assert read.curves["rank_at_1"].values == (0.25, 0.5)


def test_what_is_no_line_of_a_history_is_left_out_and_told(tmp_path):
    lines = [
        {"kind": "epoch", "values": {"train_loss": 9.0}},  # of no epoch
        {"kind": "epoch", "epoch": 1, "values": [1, 2]},
        {"kind": "round", "epoch": None, "step": 0, "values": None},
        {"kind": "start", "settings": [1]},
        [1, 2],
        {"kind": "epoch", "epoch": 1, "values": {"train_loss": 1.0}},
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "settings.json").write_text("")
    found = examine(tmp_path)
    assert found.curves["train_loss"].values == (1.0,)
    assert found.missing[-2:] == (
        "5 lines of history.jsonl, which are no lines of a history",
        "settings.json, which holds no settings",
    )


def test_a_value_of_every_step_is_read_by_stretches_and_its_noise_is_no_spike(tmp_path):
    steps, noise = 20_000, torch.rand(20_000, generator=torch.Generator().manual_seed(0)).tolist()
    rows = (f"{step},{1 / (1 + step / 2e3) + 0.1 * noise[step]:.5f},{step / steps:.5f}" for step in range(steps))
    path = tmp_path / "run.csv"
    path.write_text("epoch,train_loss,rank_at_1\n" + "\n".join(rows))
    found = examine(path)
    assert severe(found) == set(), found
    assert len(found.curves["train_loss"]) == 500
    assert found.curves["train_loss"].epochs[-1] == steps
    assert found.curves["rank_at_1"].last == pytest.approx(0.999, abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"class_counts": [1, "a"]},
        {"class_counts": {"a": None}},
        {"not_optimised": True},
        {"stages": True},
        {"queries": -1, "temperature": 0, "loss": "supcon"},
        {"epochs": "eighty", "num_classes": [2], "sequence_length": {}},
    ],
)
def test_settings_that_are_no_such_thing_are_left_aside(settings):
    for run in ("uniform_attention", "too_warm", "rare_class"):
        assert examine(HISTORIES / run, settings=settings).findings


def test_numbers_that_a_logger_kept_as_text_are_numbers():
    told = examine(HISTORIES / "stopped_while_improving", settings={"epochs": "60", "patience": "5"})
    assert "stopped while improving" in rules(told)


def test_epochs_are_counted_by_their_numbers_where_not_all_are_logged():
    lines = [{"epoch": epoch, "rank_at_1": 0.1 * epoch} for epoch in (5, 10, 15, 20)]
    found = examine(lines, settings={"epochs": 20, "warmup_epochs": 6})
    assert not {"few epochs", "stopped in warm-up"} & rules(found)
    assert "over 20 epochs" in found.summary


def curve(*values: float) -> Curve:
    return Curve("x", tuple(map(float, range(len(values)))), tuple(map(float, values)))


def test_trends():
    rise = curve(*(1 - math.exp(-epoch) for epoch in range(20)))
    assert rise.trend() > 0.9
    assert 2 <= rise.level_from(limits({})) <= 4
    assert "rises, and levels off from epoch" in rise.words(limits({}))
    line = curve(*range(20))
    assert line.level_from(limits({})) is None
    assert curve(5, 4.8, 4.7, 4.5, 9, 4.4, 4.3, 4.2).spikes(limits({})) == [4]
    assert line.spikes(limits({})) == []


def test_thresholds_have_a_source_and_settings_change_them():
    assert all(threshold.source and threshold.meaning for threshold in THRESHOLDS.values())
    assert len(RULES) == len({rule.__name__ for rule in RULES})
    assert all(rule.__doc__ for rule in RULES)
    settings = json.loads((STORIES / "imbalance.json").read_text())
    strict = examine(STORIES / "imbalance.csv", settings=settings | {"doctor": {"f1_gap": 0.6}})
    assert "class gap" not in rules(strict)
    with pytest.raises(ValueError, match="names no threshold colour"):
        examine(STORIES / "imbalance.csv", settings={"doctor": {"colour": 1}})


def test_what_is_no_history_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no history.jsonl or metrics.csv in"):
        examine(tmp_path)
    with pytest.raises(FileNotFoundError, match="pass a run's folder"):
        examine(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="holds no values"):
        examine(tmp_path / "empty.csv")
    (tmp_path / "history.jsonl").write_text('{"kind": "epoch"\n{"kind": "end"}\n')
    with pytest.raises(ValueError, match="holds no values"):
        examine(tmp_path)
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(ValueError, match="neither JSON nor TOML"):
        examine(STORIES / "imbalance.csv", settings=tmp_path / "s.json")
