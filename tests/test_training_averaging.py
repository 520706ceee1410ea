"""Averages of weights, against a loop that adds them up."""

import pytest
import torch
from test_training_stopping_lightning import Scripted, fit
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from legolas_metric.training.averaged_weights import AveragedWeights
from legolas_metric.training.weight_averaging import WeightAverage, mean_weights


def states(count: int) -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(count)]


def test_an_exponential_average_is_torchs():
    encoders = states(4)
    theirs = AveragedModel(encoders[0], multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    ours = WeightAverage(decay=0.7)
    for encoder in encoders:
        theirs.update_parameters(encoder)
        ours.update(encoder.state_dict())
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.weights()[name], value)


@pytest.mark.parametrize("cut", [1, 3])
def test_the_last_few_are_averaged_also_after_a_resume(cut):
    encoders = states(5)
    before, after = WeightAverage(last=2), WeightAverage(last=2)
    for encoder in encoders[:cut]:
        before.update(encoder.state_dict())
    after.load_state_dict(before.state_dict())
    for encoder in encoders[cut:]:
        after.update(encoder.state_dict())
    expected = (encoders[3].state_dict()["0.weight"] + encoders[4].state_dict()["0.weight"]) / 2
    torch.testing.assert_close(after.weights()["0.weight"], expected)
    assert after.weights()["1.num_batches_tracked"].dtype == torch.int64


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="one of decay and last"):
        WeightAverage()
    with pytest.raises(ValueError, match="decay must lie in"):
        WeightAverage(decay=1.0)
    with pytest.raises(ValueError, match="at least one state dict"):
        WeightAverage(last=2).weights()
    with pytest.raises(ValueError, match="'bias' is in some of them only"):
        mean_weights([nn.Linear(2, 2).state_dict(), nn.Linear(2, 2, bias=False).state_dict()])
    with pytest.raises(ValueError, match="'weight' has shapes"):
        mean_weights([{"weight": torch.zeros(2)}, {"weight": torch.zeros(3)}])


def test_the_module_has_the_average_when_fitting_has_ended(tmp_path):
    module = Scripted([0.1] * 5)
    fit(module, AveragedWeights(last=2), root=tmp_path)
    assert module.layer.weight.item() == 3.5  # after epoch e the weight is e
    module = Scripted([0.1] * 3)
    nn.init.zeros_(module.layer.weight)
    fit(module, AveragedWeights(decay=0.5), root=tmp_path)
    assert (
        module.layer.weight.item() == 0.5 * (0.5 * 0 + 0.5 * 0) + 0.5 * 1
    )  # the module changes its weight after the callbacks
