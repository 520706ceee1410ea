"""Examples as pictures inside the page: images as PNG, signals as curves, without any imaging library."""

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch

from legolas_metric.checks import ArrayLike

_WIDTH, _HEIGHT = 240, 72


@dataclass(frozen=True, slots=True)
class Card:
    """Examples that belong together, such as a mined pair or triplet, with what there is to say about them.

    Attributes:
        pictures: (caption, example) each. An example is an image (uint8, [h, w], [h, w, 3] or [3, h, w]) or a signal
            (floating point, [t] or [leads, t]).
        text: a line under them, such as the similarities.

    Example:
        >>> import numpy as np
        >>> from legolas_metric.report import Card
        >>> image = np.zeros((28, 28), np.uint8)
        >>> card = Card([("anchor, class 3", image), ("negative, class 8", image)], "similarity 0.93")

    Source: ours.
    """

    pictures: Sequence[tuple[str, ArrayLike]]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Cards side by side.

    Attributes:
        cards: in reading order.

    Example:
        >>> import numpy as np
        >>> from legolas_metric.report import Card, Gallery
        >>> beat = np.sin(np.arange(250) / 20)
        >>> len(Gallery([Card([("person 3", beat), ("person 5", beat)], "similarity 1.00")]).cards)
        1

    Source: ours.
    """

    cards: Sequence[Card]


def picture_html(example: ArrayLike, caption: str) -> str:
    """One example as an <img> or <svg> element; the caption is its text for those who can't see it.

    Raises:
        TypeError: neither uint8 nor floating point.
        ValueError: a shape that is neither an image's nor a signal's.
    """
    values = torch.as_tensor(example).detach().cpu().numpy()
    if values.dtype == np.uint8:
        source = base64.b64encode(png(values)).decode()
        return f'<img src="data:image/png;base64,{source}" alt="{escape(caption)}">'
    if np.issubdtype(values.dtype, np.floating):
        return _curve(np.atleast_2d(values), caption)
    raise TypeError(f"an image must be uint8 and a signal floating point, got {values.dtype}")


def png(image: np.ndarray) -> bytes:
    """A PNG file of an image.

    Args:
        image: uint8, [h, w] grey, [h, w, 3] or [3, h, w] red-green-blue (a last axis of 3 wins).

    Example:
        >>> import numpy as np
        >>> from legolas_metric.report.pictures import png
        >>> png(np.zeros((2, 3), np.uint8))[:8]
        b'\\x89PNG\\r\\n\\x1a\\n'
    """
    pixels = image
    if pixels.ndim == 3 and pixels.shape[-1] != 3 and pixels.shape[0] in (1, 3):
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)):
        raise ValueError(f"an image must be [h, w], [h, w, 3] or [3, h, w], got shape {image.shape}")
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 2
    # Each line of pixels begins with the number of its filter: 0, none.
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def _curve(signal: np.ndarray, caption: str) -> str:
    if signal.ndim != 2 or signal.shape[1] < 2:
        raise ValueError(f"a signal must be [t] or [leads, t] with t >= 2, got shape {signal.shape}")
    leads, length = signal.shape
    xs = np.linspace(1, _WIDTH - 1, length)
    lines = []
    for lead, values in enumerate(np.nan_to_num(signal.astype(np.float64))):
        low, high = float(values.min()), float(values.max())
        ys = _HEIGHT * (lead + 0.94 - 0.88 * (values - low) / ((high - low) or 1.0))
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys))
        lines.append(f'<polyline points="{points}"/>')
    box = f"0 0 {_WIDTH} {_HEIGHT * leads}"
    return f'<svg class="signal" viewBox="{box}" role="img" aria-label="{escape(caption)}">{"".join(lines)}</svg>'
