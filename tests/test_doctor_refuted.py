"""What a careful reader of the doctor refuted: false faults on good runs, and faults that it passed over."""

import math
import random

import pytest
from trained_cases import rules, severe

from legolas_metric import examine
from legolas_metric.doctor.claim_rules import thresholds_move
from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.history_reader import History
from legolas_metric.doctor.run_case import RunCase
from legolas_metric.doctor.thresholds import limits

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


@pytest.mark.parametrize(("ends", "moves"), [((12.0, 12.4, 12.2), False), ((0.3, 0.7, 0.5), True), ((9.0, 14.0), True)])
def test_thresholds_that_are_distances_are_compared_on_their_own_scale(ends, moves):
    parts = {f"fold_{n}": History({"threshold": Curve("threshold", (1.0,), (end,))}) for n, end in enumerate(ends)}
    case = RunCase(History({}, parts=parts), {}, limits({}))
    assert bool(list(thresholds_move(case))) == moves


def test_an_auxiliary_loss_of_a_solved_run_is_a_note():
    run = {"epoch": EPOCHS, "main_loss": towards(1, 0.012, 2), "auxiliary_loss": towards(1, 0.031, 2)}
    asked = {"auxiliary_weight": 0.5}
    assert severe(examine(run | {"rank_at_1": towards(0.5, 0.97, 2)}, settings=asked)) == set()
    assert severe(examine(run | {"rank_at_1": towards(0.5, 0.6)}, settings=asked)) == {"auxiliary outweighs"}


def test_noise_of_a_small_loss_is_no_spike():
    for seed in range(40):
        noise = random.Random(seed)
        loss = [(0.005 + 0.05 * math.exp(-i / 5)) * math.exp(noise.gauss(0, 0.3)) for i in range(20)]
        assert severe(examine({"epoch": EPOCHS, "train_loss": loss})) == set()
    loss[12] = 1.0
    assert "loss spikes" in severe(examine({"epoch": EPOCHS, "train_loss": loss}))


def test_measures_logged_with_two_digits_may_rest():
    run = {"epoch": EPOCHS, "train_loss": towards(0.1, 0.01)}
    assert severe(examine(run | {"map_at_r": [0.97] * 20, "rank_at_1": [0.99] * 20})) == set()
    assert "weights never changed" in severe(examine(run | {"map_at_r": [0.273418] * 20, "rank_at_1": [0.4] * 20}))


# Passed over


ROSE_AND_FELL = [0.3, 0.5, 0.7, 0.8, 0.9, 0.9, 0.88, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.48, 0.46, 0.44, 0.42]
ROSE_AND_FELL += [0.4]
UP_AND_DOWN = [0.1 + 0.072 * min(e, 20 - e) for e in range(20)]


@pytest.mark.parametrize(
    ("ranking", "severity"),
    [
        (ROSE_AND_FELL, "fault"),
        (UP_AND_DOWN, "fault"),
        ([*towards(0.3, 0.889, count=19), 0.35], "warning"),
        ([*towards(0.3, 0.9, 2, 10), *[0.75] * 10], "warning"),
    ],
)
@pytest.mark.parametrize("name", ["rank_at_1", "map_at_r", "val_accuracy"])
def test_a_ranking_that_rose_and_fell_is_found(ranking, severity, name):
    found = examine({"epoch": EPOCHS, "train_loss": towards(1, 0.2), name: ranking})
    assert of(found, "ranking fell from its peak")[0].severity == severity
    assert f"{max(ranking):.4f}" in found.summary
    kept = [{"epoch": e, "rank_at_1": r} for e, r in zip(EPOCHS, ranking)]
    kept.append({"kind": "event", "epoch": 20, "what": "best weights", "why": "epoch 6"})
    assert severe(examine(kept)) == set()


def test_a_loss_that_jumps_and_stays_while_the_ranking_falls():
    loss, ranking = [*towards(1, 0.3, count=10), *[6.0] * 10], [*towards(0.3, 0.63, count=10), *[0.02] * 10]
    assert "ranking fell from its peak" in severe(examine({"epoch": EPOCHS, "train_loss": loss, "rank_at_1": ranking}))


def test_a_ranking_that_wavers_has_not_fallen():
    for seed in range(40):
        noise = random.Random(seed)
        ranking = [value + noise.gauss(0, 0.02) for value in towards(0.3, 0.8, 3)]
        found = examine({"epoch": EPOCHS, "train_loss": towards(1, 0.2), "rank_at_1": ranking})
        assert severe(found) == set(), found


def test_a_loss_that_diverges_is_found():
    run = {"epoch": EPOCHS, "train_loss": [1 + 0.05 * i for i in range(20)], "lr": [1e-3] * 20}
    found = examine(run | {"rank_at_1": [0.5 - 0.003 * i for i in range(20)]})
    assert of(found, "loss diverges")[0].severity == "fault"
    turned = run | {"train_loss": [*towards(1, 0.3, count=10), *[0.3 + 0.1 * i for i in range(10)]]}
    assert severe(examine(turned)) == {"loss diverges"}
    assert "loss diverges" not in rules(examine(run | {"rank_at_1": towards(0.3, 0.9)}))  # harder triplets, and learnt


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"train_accuracy": towards(0.2, 1.0), "val_accuracy": towards(0.2, 0.35)}, {"num_classes": 10}),
        ({"train_rank_at_1": towards(0.3, 0.975), "rank_at_1": towards(0.2, 0.35)}, {}),
        ({"val_loss": [*towards(2, 0.7, 5, 24), *[0.75 + 0.06 * i for i in range(6)]]}, {}),
        (
            {
                "val_loss": [*towards(1, 0.5, 2, 6), *[0.53 + 0.03 * i for i in range(14)]],
                "val_accuracy": towards(0.3, 0.8, 1.5),  # all but flat since epoch 6
            },
            {},
        ),
    ],
)
def test_what_is_learnt_by_heart_is_a_warning(values, settings):
    count = len(next(iter(values.values())))
    found = examine({"train_loss": towards(2, 0.01, count=count)} | values, settings=settings)
    assert {finding.severity for finding in found.findings if finding.rule in HEART} == {"warning"}, found


HEART = ("overfitting", "training classes solved")


def mined(name: str, shares: list[float]):
    rounds = [
        {"kind": "round", "epoch": n, "values": {"anchors": 100.0, "triplets": 100.0, name: 100 * share}}
        for n, share in enumerate(shares)
    ]
    return examine([{"kind": "epoch", "epoch": 1, "values": {"train_loss": 1.0}}, *rounds])


RULE_OF = {"fallback": "mining: fallback", "no_negative": "mining: no_negative", "contested": "guard rejects most"}


@pytest.mark.parametrize(
    ("name", "usual", "milder"),
    [("fallback", "fault", "warning"), ("no_negative", "warning", "note"), ("contested", "warning", "note")],
)
def test_all_rounds_of_mining_are_judged(name, usual, milder):
    def severities(shares):
        return [finding.severity for finding in of(mined(name, shares), RULE_OF[name])]

    assert severities([0.9] * 19 + [0.05]) == [usual]
    assert severities([0.9] * 20) == [usual]
    assert severities([0.0] * 19 + [0.6]) == [milder]
    assert severities([0.9] * 3 + [0.0] * 17) == []


# In words


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (ROSE_AND_FELL, "rises until epoch 5, then falls"),
        ([1 - value for value in ROSE_AND_FELL], "falls until epoch 5, then rises"),
        ([*towards(0.3, 0.889, count=19), 0.35], "rises until epoch 19, then falls"),
        (towards(0.3, 0.9), "rises"),
    ],
)
def test_trends_that_turn(values, said):
    trend = examine({"epoch": EPOCHS, "rank_at_1": values}).trends[0]
    assert said in trend
    assert ("levels off" in trend) == (said == "rises")


def test_what_levels_off_rose_or_fell():
    values = [0.1, 0.5, *(0.8 + 0.01 * (i % 3) for i in range(18))]
    assert ": rises, and levels off" in examine({"epoch": EPOCHS, "rank_at_1": values}).trends[0]


def test_a_good_run_is_called_good_and_a_weak_one_is_not():
    run = {"epoch": EPOCHS, "train_loss": towards(1, 0.2)}
    good = examine(run | {"rank_at_1": towards(0.3, 0.9)}).summary
    assert good.startswith("The run is good: rank_at_1 0.3 (epoch 1) to 0.8866 (epoch 20), its best, and nothing")
    weak = examine(run | {"rank_at_1": towards(0.05, 0.1)}).summary
    assert weak.startswith("The run is not good: it is a weak ranking: 90% of the queries find another class first")
    assert examine(run).summary.startswith("Nothing is wrong in what was logged over 20 epochs")
