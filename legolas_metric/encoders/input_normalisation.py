"""Input normalisation that is fitted on the training part and saved with the model."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from legolas_metric.checks import ArrayLike, as_tensor


class InputNormalisation(nn.Module):
    """Subtract each channel's mean, divide by its standard deviation, as they are over the training part.

    A part of the model, `nn.Sequential(InputNormalisation(1).fit(x[train]), encoder)`: its figures lie in the
    state dict with the weights. Infrared images, signals and spectra have other figures than ImageNet's.

    Args:
        channels: c.
        axis: of the channels in a batch: 1 for [b, c, ...], -1 for sequences [b, t, c].

    Behaviour in corner cases: a channel that never varies is only centred. Used before it is fitted, it refuses.

    Raises:
        ValueError: axis 0; when fitted, no rows, NaN or inf, or another number of channels.
            RuntimeError: used before it is fitted.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import InputNormalisation
        >>> x = 5 + 3 * torch.randn(200, 2, 50)
        >>> normalised = InputNormalisation(2).fit(x[:100])(x[:100])
        >>> round(abs(normalised.mean().item()), 3), round(normalised.std().item(), 2)
        (0.0, 1.0)

    Source: LeCun et al. (1998), Efficient BackProp.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, channels: int, *, axis: int = 1) -> None:
        super().__init__()
        if axis == 0:
            raise ValueError("axis 0 counts the examples: channels lie on another, such as 1 or -1")
        self.axis = axis
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, dataset: Any, rows: ArrayLike | None = None) -> "InputNormalisation":
        """Measure mean and standard deviation, in float64, one example at a time; returns itself.

        Args:
            dataset: array [n, ...], or a map-style data set (items x or (x, ...)), whose examples may differ in length.
            rows: numbers of the training rows (default: all that is given).

        Raises:
            ValueError: another number of channels, or values that are not finite.
        """
        source: Any = dataset if isinstance(dataset, Dataset) else as_tensor(dataset, name="the inputs")
        chosen: Iterable[int] = range(len(source)) if rows is None else torch.as_tensor(rows).tolist()
        c = len(self.mean)
        count, total, squares = 0, torch.zeros(c).double(), torch.zeros(c).double()
        shift: Tensor | None = None
        for row in chosen:
            item = source[row]
            example = torch.as_tensor(item[0] if isinstance(item, tuple | list) else item).double().cpu()[None]
            if example.shape[self.axis] != c:
                raise ValueError(f"example {row} has {example.shape[self.axis]} channels on axis {self.axis}, not {c}")
            values = example.movedim(self.axis, 0).flatten(1)
            if not bool(values.isfinite().all()):
                raise ValueError(f"example {row} holds NaN or inf: drop it before the normalisation is fitted")
            shift = values.mean(1) if shift is None else shift  # so that squares of large means don't cancel
            values = values - shift[:, None]
            count, total, squares = count + values.shape[1], total + values.sum(1), squares + values.square().sum(1)
        if shift is None:
            raise ValueError("no row to fit the normalisation on")
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(shift + mean)
        self.std.copy_(torch.where(deviation > 1e-8 * (1 + shift.abs()), deviation, 1.0))
        self.fitted.fill_(True)
        return self

    def forward(self, inputs: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
        """Normalise a batch.

        Raises:
            RuntimeError: not fitted.
        """
        # An export can't look into a tensor; who exports has called it before.
        if not torch.compiler.is_compiling() and not self.fitted:
            raise RuntimeError("the normalisation is not fitted: call fit(training inputs), or load a model's weights")
        shape = [1] * inputs.ndim
        shape[self.axis] = len(self.mean)
        return (inputs - self.mean.view(shape)) / self.std.view(shape)

    def figures(self) -> dict[str, list[float]]:
        """Mean and standard deviation, as plain values for `BestCheckpoint(normalisation=...)`."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}
