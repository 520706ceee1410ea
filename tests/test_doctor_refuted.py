"""What a careful reader of the doctor refuted: false faults on good runs, and faults that it passed over."""

import math

import pytest
from trained_cases import rules, severe

from legolas_metric import examine

EPOCHS = list(range(1, 21))


def towards(first: float, last: float, pace: float = 5.0, count: int = 20) -> list[float]:
    """From `first` to nearly `last`, quickly first."""
    return [last + (first - last) * math.exp(-epoch / pace) for epoch in range(count)]


def of(found, rule: str):
    """Findings of a rule."""
    return [finding for finding in found.findings if finding.rule == rule]


# One class predicted


@pytest.mark.parametrize(
    ("accuracy", "f1"),
    [
        (towards(0.6, 0.997, 3), towards(0.6, 0.997, 3)),
        (towards(0.8, 0.99, 3), towards(0.86, 0.9934, 3)),
        (towards(0.5, 0.93, 3), [2 * a / (1 + a) for a in towards(0.5, 0.93, 3)]),  # rises: no share of a class
    ],
)
def test_a_good_classifier_is_not_called_one_class(accuracy, f1):
    run = {"epoch": EPOCHS, "train_loss": towards(0.69, 0.02), "val_loss": towards(0.69, 0.03)}
    found = examine(run | {"val_accuracy": accuracy, "val_f1": f1}, settings={"num_classes": 2})
    assert severe(found) == set(), found


@pytest.mark.parametrize("share", [0.3, 0.62, 0.96])
def test_one_class_at_a_fixed_share_is_found(share):
    one = [0.7 * share] * 3 + [share] * 17, [0.5] * 3 + [2 * share / (1 + share)] * 17
    throughout = [share] * 20, [2 * share / (1 + share)] * 20
    for accuracy, f1 in (one, throughout) if share < 0.9 else (throughout,):
        found = examine({"epoch": EPOCHS, "val_accuracy": accuracy, "val_f1": f1})
        assert "one class predicted" in severe(found)


# Cry wolf


def test_clusters_that_spread_are_no_fault_where_the_ranking_gained():
    run = {"epoch": EPOCHS, "intra": towards(1, 0.3), "inter": towards(1, 1.2), "davies_bouldin": towards(6, 6.5)}
    assert severe(examine(run | {"rank_at_1": towards(0.3, 0.9)})) == set()
    assert "pairs of the loss alone" in severe(examine(run | {"rank_at_1": towards(0.6, 0.4)}))
    assert "pairs of the loss alone" in severe(examine(run))


NAN = math.nan


def test_what_was_not_measured_in_an_epoch_is_no_fault():
    every_fourth = [0.3 + 0.03 * e if e % 4 == 0 else NAN for e in EPOCHS]
    ends_between = [NAN if e % 3 else 0.3 + 0.03 * e for e in EPOCHS]
    for ranking in (every_fourth, ends_between):
        assert severe(examine({"epoch": EPOCHS, "train_loss": towards(1, 0.2), "rank_at_1": ranking})) == set()
    broke = [0.3 + 0.03 * e if e < 9 else NAN for e in EPOCHS]
    found = examine({"epoch": EPOCHS, "train_loss": towards(1, 0.2), "rank_at_1": broke})
    assert of(found, "not finite")[0].sentence == "rank_at_1 is NaN or infinite from epoch 9 on"


def test_a_loss_that_was_no_number_once_is_told_of_that_epoch():
    loss = towards(1, 0.2)
    loss[4] = NAN
    found = examine({"epoch": EPOCHS, "train_loss": loss})
    assert of(found, "not finite")[0].sentence == "train_loss is NaN or infinite in epoch 5"


@pytest.mark.parametrize(
    "way",
    [
        {"class_weights": [0.05, 1.0]},
        {"class_weights": {"0": 0.05, "1": 1.0}},
        {"class_weights": "balanced"},
        {"sampler": "WeightedRandomSampler"},
        {"weighted_sampler": True},
        {"loss": "FocalLoss"},
    ],
)
def test_what_balances_classes_is_known_however_it_is_told(way):
    run, counts = {"epoch": EPOCHS, "train_loss": towards(1, 0.2)}, {"class_counts": [1000, 50]}
    assert severe(examine(run, settings=counts | way)) == set()
    other = {"loss": "focal"} if "loss" not in way else {"class_weights": [0.05, 1.0]}
    assert "balanced twice" in severe(examine(run, settings=counts | way | other))


@pytest.mark.parametrize("off", [{}, {"class_weights": None}, {"class_weights": False}, {"class_weights": "none"}])
def test_what_balances_nothing_is_no_balancing(off):
    run = {"epoch": EPOCHS, "train_loss": towards(1, 0.2)}
    assert severe(examine(run, settings={"class_counts": [1000, 50]} | off)) == {"imbalance without balancing"}


@pytest.mark.parametrize("name", ["eer", "davies_bouldin", "val_loss"])
def test_what_is_better_smaller_gets_worse_as_it_rises(name):
    def said(values):
        run = {"epoch": EPOCHS, "train_loss": towards(1, 0.9), name: values, "rank_at_1": towards(0.5, 0.4)}
        return "stopped on another value" in rules(examine(run, settings={"monitor": name}))

    assert not said(towards(0.1, 0.2))
    assert said(towards(0.2, 0.1))
