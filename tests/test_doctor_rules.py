"""Rules of one's own, auxiliary losses by name, and careless turns of single rules."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from trained_cases import drawn, rows_of, rules, severe

from legolas_metric import Finding, diagnose, examine
from legolas_metric.doctor.thresholds import Threshold
from legolas_metric.training.classifier import ClassifierLearner

EPOCHS = list(range(7))
FALLING = [math.nan, *(1 / epoch for epoch in EPOCHS[1:])]


# Rules of one's own


def few_dimensions(case):
    """An effective rank far below the number of classes."""
    rank, classes = case.trained("effective_rank"), case.number("num_classes")
    if rank is not None and classes and rank.last < case.limits["dimensions"] * classes:
        yield Finding(severity="fault", rule="few", sentence="few dimensions", evidence=rank.told(), remedy="more")


DIMENSIONS = {"dimensions": Threshold(0.2, "effective rank for each class", "ours")}


def test_a_rule_of_ones_own_stands_beside_the_others_with_a_limit_that_settings_change():
    run = {"epoch": EPOCHS, "effective_rank": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]}
    asked = {"num_classes": 20}
    found = examine(run, settings=asked, rules=[few_dimensions], thresholds=DIMENSIONS)
    assert found.findings[0].rule == "few"
    assert "effective rank halved" in rules(found)
    assert found.summary.startswith("The run is not good: few dimensions.")
    changed = asked | {"doctor": {"dimensions": 0.1}}
    assert "few" not in rules(examine(run, settings=changed, rules=[few_dimensions], thresholds=DIMENSIONS))
    assert "few" not in rules(examine(run, settings=asked))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"rules": [lambda case: "bad"]}, TypeError, "must yield findings, a Finding each, and yielded"),
        ({"rules": [lambda case: None]}, TypeError, "must yield findings"),
        ({"rules": ["few"]}, TypeError, "rules must be functions of a RunCase|parameter rules="),
        ({"thresholds": {"spike": Threshold(1.0, "a", "b")}}, ValueError, "the threshold 'spike' is there already"),
        (
            {"thresholds": {"own": 0.2}},
            TypeError,
            r"must be Threshold\(value, meaning, source\), got 0.2|parameter thresholds=",
        ),
        ({"settings": {"doctor": {"dimensions": 1}}}, ValueError, "names no threshold dimensions"),
        ({"settings": {"doctor": {"spike": "big"}}}, TypeError, r"\['spike'\] must be a number, got 'big'"),
        ({"settings": {"doctor": 3}}, TypeError, "must map names of thresholds to numbers, got 3"),
    ],
)
def test_what_is_no_rule_or_threshold_is_refused_by_name(given, error, said):
    with pytest.raises(error, match=said):
        examine({"epoch": [1, 2], "train_loss": [1.0, 0.5]}, **given)


def test_settings_change_the_limits_of_embeddings_too():
    labels = torch.arange(80) % 8
    rows = rows_of(labels, drawn(8, 16), 2.5, 2)  # a weak ranking
    weak = diagnose(rows, labels)
    assert "weak ranking" in {finding.rule for finding in weak.findings}
    lenient = {"doctor": {"poor_rank": weak.ranking.rank[1]}}
    assert "weak ranking" not in {finding.rule for finding in diagnose(rows, labels, settings=lenient).findings}
    run = {"epoch": [1, 2], "train_loss": [1.0, 0.5]}
    assert "weak ranking" in rules(examine(run, embeddings=(rows, labels)))
    assert "weak ranking" not in rules(examine(run, embeddings=(rows, labels), settings=lenient))


# Auxiliary losses


def classified(folder, weight: float):
    """A classifier with a loss that draws classes to their mean, by Lightning and its CSV logger."""
    torch.manual_seed(0)
    labels = torch.arange(120) % 6
    data = DataLoader(TensorDataset(rows_of(labels, drawn(6, 16), 1.0, 2), labels), batch_size=60)

    def centre(rows: Tensor, fed: Tensor) -> Tensor:
        return torch.stack([(rows[fed == c] - rows[fed == c].mean(0)).square().sum(1).mean() for c in range(6)]).mean()

    learner = ClassifierLearner(nn.Linear(16, 8), 6, embedding_dim=8, auxiliary={"centre": (weight, centre)}, lr=1e-2)
    trainer = L.Trainer(
        max_epochs=6,
        logger=CSVLogger(folder, name="csv"),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(learner, data, data)
    return examine(folder)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and short epochs
def test_an_auxiliary_loss_of_the_classifier_that_outweighs_its_main_one(tmp_path):
    found = classified(tmp_path / "heavy", 5.0)
    said = next(finding for finding in found.findings if finding.rule == "auxiliary outweighs")
    assert said.severity == "warning"
    assert said.sentence.startswith("the auxiliary loss centre outweighs the main one")
    assert "weight 5" in said.evidence
    assert [mark.value for mark in said.marks] == ["train_loss/centre", "train_loss"]
    assert found.curves["lr"].last == pytest.approx(1e-2)
    light = classified(tmp_path / "light", 0.001)
    assert "auxiliary outweighs" not in rules(light)
    assert severe(light) == set(), light
    untold = examine({"epoch": [1, 2], "train_loss": [1.0, 0.5], "train_loss/centre": [3.0, 2.0]})
    assert {f.rule: f.severity for f in untold.findings}["auxiliary outweighs"] == "note"  # its weight is not known


# Careless turns


def rounds(**values: list[float]):
    count = len(next(iter(values.values())))
    lines = [
        {"kind": "round", "epoch": n, "values": {name: of_round[n] for name, of_round in values.items()}}
        for n in range(count)
    ]
    return [{"kind": "epoch", "epoch": 1, "values": {"train_loss": 1.0}}, *lines]


@pytest.mark.parametrize(
    ("triplets", "outside", "settings", "said"),
    [
        (400.0, 70.0, {}, "70% of the anchors"),  # four negatives of an anchor
        (1200.0, 70.0, {"schedule": ["0: SemiHardMiner(positive='all')"]}, None),  # four positives
        (100.0, 300.0, {}, "75% of the pairs"),  # more than anchors: several positives of each
        (900.0, 300.0, {}, None),
    ],
)
def test_what_lies_outside_the_window_is_counted_of_anchors_or_of_pairs(triplets, outside, settings, said):
    lines = rounds(anchors=[100.0], triplets=[triplets], outside_window=[outside])
    found = [f.sentence for f in examine(lines, settings=settings).findings if f.rule == "mining: outside_window"]
    assert [sentence[: len(said or "")] for sentence in found] == ([said] if said else [])


@pytest.mark.parametrize(
    ("fed", "severity"),
    [
        ([0.2, 0.3, 0.25], "warning"),
        ([0.46, 0.47, 0.45], "note"),  # every anchor, an epoch of as many rows
        ([0.2, 0.3, 0.6], None),  # in one round it was enough
        ([0.7, 0.8, 0.9], None),
    ],
)
def test_triplets_that_were_not_fed(fed, severity):
    found = {f.rule: f.severity for f in examine(rounds(fed=fed)).findings}
    assert found.get("mining: fed") == severity


def test_triplets_that_serve_several_epochs_are_fed_for_longer():
    lines = rounds(fed=[0.3, 0.3, 0.3])
    for line in lines[1:]:
        line["epoch"] *= 3
    assert "mining: fed" not in rules(examine(lines))


def test_a_bank_that_settles_is_not_stale_and_an_old_one_is():
    assert "stale bank" not in rules(examine(rounds(drift=[0.42, 0.74, 0.78])))
    assert "stale bank" in severe(examine(rounds(drift=[0.7, 0.6, 0.65])))
    aged = rounds(max_age=[900.0, 950.0, 990.0])
    assert "stale bank" in severe(examine(aged, settings={"steps_per_epoch": 100}))
    assert "stale bank" not in rules(examine(aged, settings={"steps_per_epoch": 500}))
    assert "stale bank" not in rules(examine(aged))


def test_map_at_r_that_falls_alone_is_found_and_a_kept_epoch_softens():
    curves = {"epoch": EPOCHS, "train_loss": FALLING, "rank_at_1": [0.5, 0.51, 0.5, 0.52, 0.5, 0.51, 0.5]}
    falls = curves | {"map_at_r": [0.4, 0.38, 0.35, 0.33, 0.3, 0.28, 0.25]}
    found = examine(falls)
    assert "the loss falls while map_at_r falls" in found.text()
    rises = curves | {"map_at_r": [0.4, 0.48, 0.35, 0.33, 0.3, 0.28, 0.25]}
    kept = [
        {"kind": "epoch", "epoch": e, "values": {n: v[e] for n, v in rises.items() if n != "epoch"}} for e in EPOCHS
    ]
    assert {f.severity for f in examine(kept).findings if f.rule == "below untrained"} == {"fault"}
    kept.append({"kind": "event", "epoch": 6, "what": "best weights", "why": "epoch 1"})
    assert {f.severity for f in examine(kept).findings if f.rule == "below untrained"} == {"warning"}


def test_a_measure_that_never_was_a_number_is_a_note_and_a_loss_a_fault():
    run = {"epoch": EPOCHS, "train_loss": FALLING, "val_recall_class_3": [math.nan] * 7}
    found = examine(run)
    assert {f.rule: f.severity for f in found.findings}["never a number"] == "note"
    assert "val_recall_class_3 was never a number" in found.text()
    assert examine({"epoch": EPOCHS, "val_loss": [math.nan] * 7, "lr": [0.1] * 7}).findings[0].severity == "fault"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"input_mean": [0.485, 0.456, 0.406], "input_kind": "ecg"}, True),
        ({"mean": 0.485, "channels": 1}, True),
        ({"normalisation": "imagenet", "channels": 1}, True),
        ({"input_mean": [0.485, 0.456, 0.406], "channels": 3}, False),
        ({"input_mean": [0.485, 0.456, 0.406]}, False),  # of what, is not told
        ({"input_mean": [0.0805], "channels": 1}, False),
        ({"normalisation": "imagenet", "input_kind": "photos"}, False),
    ],
)
def test_constants_of_photographs_by_name_and_by_number(settings, found):
    assert ("foreign constants" in rules(examine({"train_loss": [1.0, 0.5]}, settings=settings))) == found


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"loss": "focal", "cutmix_alpha": 0.3}, True),
        ({"loss": "FocalLoss", "label_smoothing": 0.1}, True),
        ({"loss": "focal", "label_smoothing": 0.0}, False),
        ({"loss": "cross_entropy", "label_smoothing": 0.1}, False),
    ],
)
def test_soft_targets_of_every_sort(settings, found):
    assert ("focal loss on soft targets" in rules(examine({"train_loss": [1.0, 0.5]}, settings=settings))) == found
