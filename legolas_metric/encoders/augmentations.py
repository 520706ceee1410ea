"""Augmentations of whole batches that a processor can afford, stronger for rare classes if asked."""

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, check_number
from legolas_metric.rows import as_labels


def augment_signals(
    signals: Float[Tensor, "b c t"],
    *,
    noise: float | int = 0.05,
    scale: float | int = 0.1,
    shift: float | int = 0.05,
    mask: float | int = 0.1,
    strength: Float[Tensor, " b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b c t"]:
    """Shift in time, stretch the amplitude, add noise, and blank a stretch of time; each drawn anew for each example.

    Args:
        signals: [b, c, t].
        noise: standard deviation of what is added, as a share of the signal's own.
        scale: amplitude is multiplied by 1 + scale u, u in [-1, 1].
        shift: by up to this share of t, to either side; what leaves comes in at the other end.
        mask: share of t that is set to 0, of a length in [0, mask].
        strength: [b], multiplies all four of each example, see `rarity`.
        generator: of the draws, on the processor.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import augment_signals
        >>> augment_signals(torch.randn(4, 1, 200)).shape
        torch.Size([4, 1, 200])

    Source: Um et al. (2017), Data Augmentation of Wearable Sensor Data, arXiv:1706.00527.
    """
    b, _, t = signals.shape
    s = _strength(strength, b, signals)
    step = torch.arange(t, device=signals.device)
    moved = (_spread(b, generator).to(signals) * shift * s * t).round().long()
    place = (step[None] - moved[:, None]) % t
    out = signals.gather(2, place[:, None].expand_as(signals))
    own = out.flatten(1).std(1, unbiased=False)
    out = out * (1 + scale * s * _spread(b, generator).to(signals)).view(b, 1, 1)
    drawn = torch.randn(out.shape, generator=generator).to(out)
    out = out + drawn * (noise * s * own).view(b, 1, 1)
    length = (torch.rand(b, generator=generator).to(signals) * mask * s * t).clamp_max(t)
    start = torch.rand(b, generator=generator).to(signals) * (t - length)
    blank = (step[None] >= start[:, None]) & (step[None] < (start + length.floor())[:, None])
    return out.masked_fill(blank[:, None], 0.0)


def augment_images(
    images: Float[Tensor, "b c h w"],
    *,
    shift: float | int = 0.1,
    contrast: float | int = 0.2,
    erase: float | int = 0.2,
    flip: bool = False,
    strength: Float[Tensor, " b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b c h w"]:
    """Shift, change the contrast, erase a square, and mirror if asked; each drawn anew for each example.

    Args:
        images: [b, c, h, w].
        shift: by up to this share of height and width; what comes in is 0.
        contrast: pixels are multiplied by 1 + contrast u, u in [-1, 1].
        erase: side of the square, as a share of the shorter side, up to this.
        flip: mirror every other image; not for characters, nor where left and right differ.
        strength: [b], multiplies shift, contrast and erase of each example, see `rarity`.
        generator: of the draws, on the processor.

    Example:
        >>> import torch
        >>> from legolas_metric.encoders import augment_images
        >>> augment_images(torch.rand(4, 1, 28, 28)).shape
        torch.Size([4, 1, 28, 28])

    Source: Zhong et al. (2020), Random Erasing Data Augmentation, arXiv:1708.04896.
    """
    b, _, h, w = images.shape
    s = _strength(strength, b, images)
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    down, right = (
        (_spread(b, generator).to(images) * (shift * s).clamp_max(1.0) * side).round().long() for side in (h, w)
    )
    y, x = rows[None] - down[:, None], columns[None] - right[:, None]
    if flip:
        mirrored = torch.rand(b, generator=generator).to(images) < 0.5
        x = torch.where(mirrored[:, None], w - 1 - x, x)
    inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None]
    batch = torch.arange(b, device=images.device)[:, None, None]
    out = images.movedim(1, -1)[batch, y.clamp(0, h - 1)[:, :, None], x.clamp(0, w - 1)[:, None]].movedim(-1, 1)
    out = out * (1 + contrast * s * _spread(b, generator).to(images)).view(b, 1, 1, 1)
    side = (torch.rand(b, generator=generator).to(images) * erase * s * min(h, w)).clamp_max(min(h, w)).floor()
    top = torch.rand(b, generator=generator).to(images) * (h - side)
    left = torch.rand(b, generator=generator).to(images) * (w - side)
    in_rows = (rows[None] >= top[:, None]) & (rows[None] < (top + side)[:, None])
    in_columns = (columns[None] >= left[:, None]) & (columns[None] < (left + side)[:, None])
    gone = (in_rows[:, :, None] & in_columns[:, None]) | ~inside
    return out.masked_fill(gone[:, None], 0.0)


def rarity(labels: ArrayLike, *, most: float | int = 3.0) -> Float32[Tensor, " n"]:
    """How much more to augment each row: 1 for rows of the largest class, more for rarer ones, up to `most`.

    min(most, sqrt(n_largest / n_own)); rows labelled -1 have 1

    Args:
        labels: [n] of the training part.
        most: at least 1.

    Raises:
        ValueError: `most` below 1.

    Example:
        >>> from legolas_metric.encoders import rarity
        >>> rarity([0, 0, 0, 0, 1]).tolist()
        [1.0, 1.0, 1.0, 1.0, 2.0]

    Source: ours.
    """
    check_number("most", most, least=1.0)
    values: Int64[Tensor, " n"] = as_labels(labels, None)
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    labelled = values >= 0
    if not bool(labelled.any()):
        return torch.ones(len(values))
    largest = count[place[labelled]].max()
    return torch.where(labelled, (largest / count[place]).sqrt().clamp_max(most), 1.0).float()


def _spread(b: int, generator: torch.Generator | None) -> Float[Tensor, " b"]:
    return 2 * torch.rand(b, generator=generator) - 1


def _strength(strength: Float[Tensor, " b"] | None, b: int, like: Tensor) -> Float[Tensor, " b"]:
    return like.new_ones(b) if strength is None else strength.to(like)
