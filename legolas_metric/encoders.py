"""Small reference encoders, enough to see a method work on two cores."""

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


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
