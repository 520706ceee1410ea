"""What goes on top of an encoder, or between several."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Linear, batch norm, ReLU, linear: the space in which a contrastive loss is taken, while z itself is kept.

    Args:
        dim: width of the encoder's output.
        hidden: width between (default: dim).
        out: width of the projection.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import ProjectionHead
        >>> ProjectionHead(64, out=16)(torch.randn(4, 64)).shape
        torch.Size([4, 16])

    Source: Chen et al. (2020), A Simple Framework for Contrastive Learning, arXiv:2002.05709.
    """

    def __init__(self, dim: int, *, hidden: int | None = None, out: int = 128) -> None:
        super().__init__()
        width = hidden or dim
        self.layers = nn.Sequential(
            nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, out)
        )

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Project a batch of embeddings."""
        return self.layers(embeddings)


class ModalityDropout(nn.Module):
    """In training, leave out whole modalities of an example (zeros), so that none is leaned on alone; never all.

    Args:
        p: in [0, 1), the probability with which a modality is left out; where all would be, one drawn at random stays.

    Raises:
        ValueError: p outside [0, 1).

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import ModalityDropout
        >>> ecg, ppg = ModalityDropout(0.5)([torch.ones(4, 8), torch.ones(4, 1, 200)])
        >>> ecg.shape, ppg.shape
        (torch.Size([4, 8]), torch.Size([4, 1, 200]))

    Source: Neverova et al. (2016), ModDrop, arXiv:1501.00102.
    """

    def __init__(self, p: float | int = 0.2) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must lie in [0, 1), got {p}")
        self.p = p

    def forward(self, modalities: Sequence[Tensor]) -> list[Tensor]:
        """Leave out some modalities, [b, ...] each."""
        if not self.training or self.p == 0:
            return list(modalities)
        b, m = len(modalities[0]), len(modalities)
        kept = torch.rand(b, m) >= self.p
        none = ~kept.any(1)
        kept[none, torch.randint(m, (int(none.sum()),))] = True
        return [part * kept[:, k].to(part).view(-1, *[1] * (part.ndim - 1)) for k, part in enumerate(modalities)]
