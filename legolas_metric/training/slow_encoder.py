"""The encoder that embeds the bank: the trained one, or an exponential moving average of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from legolas_metric.training.embedder import Placed


@dataclass(slots=True)
class SlowEncoder:
    """An average of an encoder that moves more slowly; without a decay, the encoder itself.

    Attributes:
        decay: of the average, in (0, 1); None for none.
        average: made at the start.
    """

    decay: float | int | None
    average: AveragedModel | None = field(default=None, init=False)

    def start(self, placed: Placed) -> None:
        """Make the average, once."""
        if self.decay is None or self.average is not None:
            return
        if not isinstance(placed.encoder, nn.Module):
            raise TypeError(f"ema averages the parameters of an encoder that is a module, got {placed.encoder!r}")
        average = get_ema_multi_avg_fn(float(self.decay))
        self.average = AveragedModel(placed.encoder, multi_avg_fn=average, use_buffers=True)
        self.average.update_parameters(placed.encoder)  # the first one copies

    def update(self, placed: Placed) -> None:
        """Follow the encoder by a step."""
        if self.average is not None:
            assert isinstance(placed.encoder, nn.Module)
            self.average.update_parameters(placed.encoder)

    def embedding(self, placed: Placed) -> Placed:
        """What embeds, where the encoder is."""
        return placed if self.average is None else Placed(self.average, None, placed.device, placed.context)

    def state_dict(self) -> dict[str, Any] | None:
        """Of the average, None where there is none."""
        return None if self.average is None else self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take up a saved average, after `start`."""
        if self.average is not None and state is not None:
            self.average.load_state_dict(state)

    def check(self, state: Mapping[str, Any] | None) -> None:
        """Raise ValueError where one of two runs averages its encoder and the other does not."""
        if (state is not None) != (self.decay is not None):
            how = "without" if state is None else "with"
            raise ValueError(f"ema={self.decay}, but the saved run was {how} an averaged encoder: set ema as it was")
