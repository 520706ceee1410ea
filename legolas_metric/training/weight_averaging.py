"""Averages of weights: of all steps, later ones counting more, or of the last few epochs alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from legolas_metric.checks import check_whole, shown
from legolas_metric.signatures import typed

Weights = dict[str, Tensor]


@typed
def mean_weights(states: Sequence[Mapping[str, Tensor]]) -> Weights:
    """The mean of several state dicts of one module, name by name; integers (counters) are the last one's.

    Running statistics of batch norm are averaged too, which is near what the averaged weights give; exactly it is what
    `torch.optim.swa_utils.update_bn` finds over the training set.

    Args:
        states: [k] state dicts, alike in names and shapes.

    Raises:
        ValueError: no state, or states whose names or shapes differ.

    Example:
        >>> import torch
        >>> from legolas_metric.training.weight_averaging import mean_weights
        >>> mean_weights([{"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}])["w"].item()
        0.5

    Source: Izmailov et al. (2018), Averaging Weights Leads to Wider Optima, arXiv:1803.05407.
    """
    if isinstance(states, Mapping | str) or not all(isinstance(state, Mapping) for state in states):
        raise TypeError(f"states must be a list of state dicts, got {shown(states)}")
    if not states:
        raise ValueError("no weights to average: give at least one state dict")
    _check_alike(states[0], states[-1])
    for state in states:
        _check_alike(states[0], state)
    total: Weights = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            # Added up in float64, so that equal weights have themselves as their mean.
            total[name] = torch.stack([state[name].detach().double() for state in states]).mean(0).to(last.dtype)
        else:
            total[name] = last.detach().clone()
    return total


class WeightAverage:
    """An average of an encoder's weights as it trains: exponential over steps, or the mean of the last N states.

        ema:   m = decay m + (1 - decay) w, from the first w on
        last:  mean of the last N weights that were told

    Args:
        decay: in (0, 1), of an exponential moving average that is updated every step, say 0.999.
        last: N, in place of decay, of a mean that is updated every epoch.

    Raises:
        ValueError: both or neither.

    Example:
        >>> import torch
        >>> from legolas_metric.training.weight_averaging import WeightAverage
        >>> average, encoder = WeightAverage(decay=0.5), torch.nn.Linear(1, 1, bias=False)
        >>> for value in (0.0, 1.0):
        ...     _ = torch.nn.init.constant_(encoder.weight, value)
        ...     average.update(encoder.state_dict())
        >>> average.weights()["weight"].item()
        0.5

    Source: Polyak and Juditsky (1992); Izmailov et al. (2018), arXiv:1803.05407.
    """

    @typed
    def __init__(self, *, decay: float | None = None, last: int | None = None) -> None:
        if (decay is None) == (last is None):
            raise ValueError(f"give one of decay and last, got decay={decay}, last={last}")
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1), got {decay}")
        self.decay = decay
        self.last = None if last is None else check_whole("last", last, 1)
        self._states: list[Weights] = []  # of an exponential average the one that there is

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Take up the weights as they are now, a state dict."""
        if self._states:
            _check_alike(self._states[0], weights)
        taken = {name: value.detach().clone() for name, value in weights.items()}
        if self.last is not None:
            self._states = [*self._states, taken][-self.last :]
        elif not self._states:
            self._states = [taken]
        else:
            assert self.decay is not None
            for name, held in self._states[0].items():
                if held.is_floating_point():
                    held.lerp_(taken[name], 1 - self.decay)
                else:
                    held.copy_(taken[name])

    def weights(self) -> Weights:
        """The average, a state dict.

        Raises:
            ValueError: nothing was taken up.
        """
        return mean_weights(self._states)

    def state_dict(self) -> dict[str, Any]:
        """What it holds, as plain values and tensors."""
        return {"states": [{name: value.clone() for name, value in state.items()} for state in self._states]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._states = [dict(state) for state in state_dict["states"]]


def _check_alike(first: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    for name in first.keys() | other.keys():
        if name not in first or name not in other:
            raise ValueError(f"the weights are not of one module: {name!r} is in some of them only")
        if first[name].shape != other[name].shape:
            shapes = f"{tuple(first[name].shape)} and {tuple(other[name].shape)}"
            raise ValueError(f"the weights are not of one module: {name!r} has shapes {shapes}")
