"""The doctor on four stories, on runs trained into a fault, on healthy ones, and where a careless rule errs."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from legolas_metric import SupConLoss, evaluate_ranking, probe_embeddings
from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.examination import RULES, examine
from legolas_metric.doctor.history_reader import read_history
from legolas_metric.doctor.thresholds import THRESHOLDS, limits
from legolas_metric.doctor.value_names import canonical

STORIES = Path(__file__).parent / "stories"


def rules(found) -> set[str]:
    return {finding.rule for finding in found.findings}


def severe(found) -> set[str]:
    return {finding.rule for finding in found.findings if finding.severity != "note"}


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


def data(noise: float, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(400) % 20
    return torch.randn(20, 16, generator=generator)[y] + noise * torch.randn(400, 16, generator=generator), y


def hardest(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    distance = (2 - 2 * rows @ rows.T).clamp_min(1e-6).sqrt()
    same = labels[:, None] == labels
    return (distance.masked_fill(~same, 0).amax(1) - distance.masked_fill(same, 9).amin(1) + 1).relu().mean()


def train(loss, *, epochs: int, rate: float, noise: float = 1.0, steps: int = 8, shuffled: bool = False) -> list[dict]:
    """A run's lines: loss of each epoch, and ranking and probes of other rows of the same classes."""
    inputs, labels = data(noise)
    unseen, own = data(noise, seed=1)
    generator = torch.Generator().manual_seed(9)
    unseen = unseen + noise * torch.randn(unseen.shape, generator=generator)
    fed = labels[torch.randperm(len(labels), generator=generator)] if shuffled else labels
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32))
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    lines = []
    for epoch in range(epochs + 1):
        values: list[float] = []
        for _ in range(steps if epoch else 0):
            optimiser.zero_grad()
            value = loss(normalize(network(inputs)), fed)
            value.backward()
            optimiser.step()
            values.append(value.item())
        rows = network(unseen).detach()
        ranking, report = evaluate_ranking(rows, own), probe_embeddings(rows, own)
        line = {"rank_at_1": ranking.rank[1], "map_at_r": ranking.map_at_r, "effective_rank": report.effective_rank}
        line |= {"resultant_length": report.resultant_length, "mean_cosine": report.mean_cosine, "lr": rate}
        if values:
            line["train_loss"] = sum(values) / len(values)
        lines.append({"kind": "epoch", "epoch": epoch, "step": epoch * steps, "time": 0.0, "values": line})
    return lines


@pytest.fixture(scope="module")
def healthy() -> list[dict]:
    return train(SupConLoss(0.1), epochs=10, rate=3e-3)


def test_a_healthy_run_has_neither_fault_nor_warning(healthy, tmp_path):
    found = examine(healthy, settings={"loss": "supcon", "batch_size": 400, "num_classes": 20, "epochs": 10})
    assert severe(found) == set()
    assert found.healthy
    assert found.summary.startswith("Nothing is wrong in what was logged over 10 epochs: rank_at_1 0.")
    start = {"kind": "start", "settings": {"loss": "supcon", "train": {"batch_size": 400}}}
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [start, *healthy, {"kind": "end", "why": "done"}]
    (folder / "history.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"kind": "epo')
    assert examine(folder).findings == found.findings


def test_the_hardest_negatives_leave_the_loss_at_the_margin():
    lines = train(hardest, epochs=15, rate=3e-3, noise=2.0, steps=20)
    found = examine(lines, settings={"loss": "triplet", "margin": 1.0})
    assert {"collapsed loss", "collapse"} <= severe(found)
    other = examine(lines, settings={"loss": "triplet", "margin": 0.2})  # where the same loss means nothing
    assert "collapsed loss" not in rules(other)


def test_wrong_labels_make_a_run_worse_than_untrained():
    lines = train(SupConLoss(0.1), epochs=10, rate=1e-2, shuffled=True, steps=20)
    found = examine(lines)
    assert {"below untrained", "loss falls, ranking falls"} & rules(found)
    assert found.findings[0].severity == "fault"
    assert "the untrained encoder ranked best" in found.text()


def test_weights_that_never_change():
    lines = train(SupConLoss(0.1), epochs=6, rate=0.0)
    assert "loss unchanged" in rules(examine(lines))


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
    ],
)
def test_names_of_other_loggers(theirs, ours):
    assert canonical(theirs) == ours


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
