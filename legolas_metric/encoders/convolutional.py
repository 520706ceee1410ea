"""Convolutional encoders of images and signals, enough to see a method work on two cores."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float32
from torch import Tensor, channels_last, nn


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, batch norm, ReLU and 2 x 2 max pooling: the few-shot literature's encoder.

    Maps [b, c, 28, 28] to [b, width] (to [b, width * (h // 16) * (w // 16)] for other sizes), not normalised.

    Args:
        in_channels: of the images.
        width: channels of every block, 64 in the literature.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import Conv4
        >>> Conv4()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 64])

    Source: Vinyals et al. (2016), Matching Networks for One Shot Learning, arXiv:1606.04080.
    """

    def __init__(self, *, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        inputs = (in_channels, width, width, width)
        self.blocks = nn.Sequential(*(_block(channels, width) for channels in inputs))
        self.to(memory_format=channels_last)  # pyright: ignore[reportCallIssue]  (half the time on a CPU)

    def forward(self, images: Float32[Tensor, "b c h w"]) -> Float32[Tensor, "b d"]:
        """Embed a batch of images."""
        return self.blocks(images.contiguous(memory_format=channels_last)).flatten(1)


class ResNet1D(nn.Module):
    """A strided convolution, then residual blocks that halve the signal: for an ECG and other signals in time.

    Maps [b, c, t] to [b, widths[-1]], the mean over time of the last block, not normalised; t is free, but the longer a
    sample lasts, the less of the signal a kernel sees (a beat of 0.8 s at 250 Hz fits the defaults).

    Args:
        in_channels: leads of the signal.
        widths: channels of the blocks.
        kernel: samples of each kernel, odd.

    Raises:
        ValueError: no widths, or an even kernel.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import ResNet1D
        >>> ResNet1D()(torch.zeros(2, 1, 200)).shape
        torch.Size([2, 128])

    Source: He et al. (2016), Deep Residual Learning for Image Recognition, arXiv:1512.03385; in time, Hannun et al.
    (2019), Cardiologist-level arrhythmia detection, Nature Medicine 25.
    """

    def __init__(self, *, in_channels: int = 1, widths: Sequence[int] = (32, 64, 128), kernel: int = 7) -> None:
        super().__init__()
        if not widths or kernel % 2 == 0:
            raise ValueError(f"expected at least one width and an odd kernel, got widths={widths}, kernel={kernel}")
        self.stem = nn.Sequential(
            nn.Conv1d(in_channels, widths[0], kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            *(_Residual(inputs, outputs, kernel) for inputs, outputs in pairwise((widths[0], *widths)))
        )

    def forward(self, signals: Float32[Tensor, "b c t"]) -> Float32[Tensor, "b d"]:
        """Embed a batch of signals."""
        return self.blocks(self.stem(signals)).mean(2)


class _Residual(nn.Module):
    """x' = ReLU(shortcut(x) + f(x)): two convolutions, the first of stride 2, beside one of a single sample."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
        )
        self.shortcut = nn.Sequential(nn.Conv1d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm1d(outputs))

    def forward(self, x: Float32[Tensor, "b c t"]) -> Float32[Tensor, "b e u"]:
        return torch.relu(self.shortcut(x) + self.body(x))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),  # after the pooling: the same values and gradients, from a quarter of the work
    )
