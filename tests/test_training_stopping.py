"""Stopping and keeping: the weights that remain are those of the epoch that was asked for, also after a resume."""

import math

import pytest
import torch

from legolas_metric.training.best_weights import BestWeights
from legolas_metric.training.stopping import RestoringStopper, StoppingRule

VALUES = [0.2, 0.5, 0.4, 0.45, 0.3, 0.6, 0.1]


def weights(epoch: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2,), float(epoch))}


def oracle(values, patience, mode="max", min_delta=0.0):
    """(epoch at which it stops or None, best epoch), by looking at all that came before."""
    sign = 1 if mode == "max" else -1
    counted, since, stop = -math.inf, 0, None
    for epoch, value in enumerate(values):
        if sign * value > counted + min_delta:
            counted, since = sign * value, epoch
        if epoch - since >= patience:
            stop = epoch
            break
    seen = [sign * value for value in values[: None if stop is None else stop + 1]]
    return stop, seen.index(max(seen))


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("patience", [1, 2, 3, 9])
@pytest.mark.parametrize("min_delta", [0.0, 0.15])
def test_the_rule_stops_where_looking_back_would(mode, patience, min_delta, tmp_path):
    generator = torch.Generator().manual_seed(patience)
    for _ in range(20):
        values = torch.rand(12, generator=generator).round(decimals=1).tolist()
        stopper = RestoringStopper(StoppingRule(mode=mode, patience=patience, min_delta=min_delta), folder=tmp_path)
        stopped = next((e for e, value in enumerate(values) if stopper.update(value, e, weights(e))), None)
        expected, best = oracle(values, patience, mode, min_delta)
        assert (stopped, stopper.rule.best_epoch) == (expected, best)
        kept = stopper.restored()
        assert kept.epoch == best
        assert kept.weights["weight"].tolist() == [best, best]
        assert len(list(tmp_path.iterdir())) == 1
        stopper.clear()


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("restore", ["best", "before_patience"])
def test_a_stopper_killed_and_resumed_equals_one_that_was_not(at, restore, tmp_path):
    """The state is of epoch `at`; the process goes on for two epochs more before it is killed."""

    def stopper(folder):
        return RestoringStopper(StoppingRule(patience=4), folder=folder, restore=restore)

    whole, killed, resumed = stopper(tmp_path / "a"), stopper(tmp_path / "b"), stopper(tmp_path / "b")
    for epoch, value in enumerate(VALUES):
        whole.update(value, epoch, weights(epoch))
    for epoch, value in enumerate(VALUES[: at + 2]):
        killed.update(value, epoch, weights(epoch))
        assert len(list((tmp_path / "b").iterdir())) <= 2 * (4 + 1)
        if epoch == at - 1:
            state = killed.state_dict()
    resumed.load_state_dict(state)
    for epoch in range(at, len(VALUES)):
        resumed.update(VALUES[epoch], epoch, weights(epoch))
    assert resumed.rule.state_dict() == whole.rule.state_dict()
    assert resumed.restored().epoch == whole.restored().epoch
    assert torch.equal(resumed.restored().weights["weight"], whole.restored().weights["weight"])


def test_a_write_that_was_killed_leaves_nothing(tmp_path):
    stopper = RestoringStopper(StoppingRule(patience=2), folder=tmp_path)
    (tmp_path / ".epoch_0.safetensors.x8.safetensors").write_bytes(b"half")
    stopper.update(0.9, 0, weights(0))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0.safetensors"]


def test_weights_that_are_gone_are_said_to_be(tmp_path):
    stopper = RestoringStopper(StoppingRule(patience=2), folder=tmp_path)
    stopper.update(0.9, 0, weights(0))
    state = stopper.state_dict()
    stopper.clear()
    with pytest.warns(UserWarning, match="weights of epoch 0"):
        stopper.load_state_dict(state)
    stopper.update(0.5, 1, weights(1))
    assert stopper.restored().epoch == 1


def test_before_patience_goes_back_to_the_last_epoch_in_which_all_was_well(tmp_path):
    rule = StoppingRule(patience=3, ratio_limit=1.15)
    stopper = RestoringStopper(rule, folder=tmp_path, restore="before_patience")
    ratios = [1.0, 1.3, 1.1, 1.2, 1.3, 1.4]  # beyond the limit from epoch 3 on; epoch 1 was alone
    stops = [stopper.update(e / 10, e, weights(e), ratio=(r, 1.0)) for e, r in enumerate(ratios)]
    assert stops == [False] * 5 + [True]
    assert stopper.restored().epoch == 5 - 3
    assert "validation over training is 1.4" in rule.why
    assert rule.best_epoch == 5  # the value went on rising, on an encoder that overfits


def test_an_improvement_that_chance_explains_does_not_count():
    rule = StoppingRule(patience=2)
    assert not rule.update(0.5, 0)
    assert not rule.update(0.6, 1, interval=(-0.05, 0.25))
    assert rule.update(0.7, 2, interval=(-0.01, 0.3))
    shown = StoppingRule(patience=2)
    assert not any(shown.update(v, e, interval=(0.01, 0.3)) for e, v in enumerate([0.5, 0.6, 0.7]))
    falling = StoppingRule(patience=1, mode="min")
    assert not any(falling.update(v, e, interval=(-0.3, -0.01)) for e, v in enumerate([0.5, 0.4]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_stops_at_once(value):
    rule = StoppingRule(patience=9)
    rule.update(0.5, 0)
    assert rule.update(value, 1)
    assert "monitored value is" in rule.why


def test_what_is_asked_wrongly_is_refused(tmp_path):
    with pytest.raises(ValueError, match="patience must be at least 1"):
        StoppingRule(patience=0)
    with pytest.raises(ValueError, match="got no ratio with ratio_limit"):
        StoppingRule(patience=1, ratio_limit=1.15).update(0.5, 0)
    with pytest.raises(ValueError, match="name must be a part"):
        BestWeights("x", folder=tmp_path, name="a/b")
