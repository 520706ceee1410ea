"""How a row is kept on disk, and what comes back of it: float32, or half or a quarter of that.

What comes back is what is searched: it is a float32 row as any other, near the one that was given, and the distance of
the two is measured when it is written.

Letters: n rows, d dimensions.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.geometry import prepare

Storage = Literal["float32", "float16", "bfloat16", "int8"]

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "int8")}
_MOST = 127  # the largest number of a row in int8


@dataclass(frozen=True, slots=True)
class Codes:
    """Rows as they are kept; they give the rows themselves by number.

    Attributes:
        values: [n, d], of the dtype of the storage.
        scale: [n], what 1 stands for in int8; None under "cosine", where the direction says all, and in other dtypes.
        metric: under "cosine" unit rows come back.
    """

    values: Shaped[Tensor, "n d"]
    scale: Float32[Tensor, " n"] | None
    metric: Metric

    dtype = torch.float32
    device = torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        """Of the rows."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: Any) -> Float32[Tensor, "*b d"]:
        wide = self.values[part].float()
        if self.scale is not None:
            wide = wide * self.scale[part].unsqueeze(-1)
        return prepare(wide.flatten(0, -2), self.metric).view_as(wide)


def kept(rows: Float32[Tensor, "n d"], storage: Storage, metric: Metric) -> Codes:
    """Prepared rows as a storage keeps them.

    float32 as they are; float16 and bfloat16 rounded to the nearest; int8 in steps of a 127th of the row's largest
    number.

    Raises:
        ValueError: numbers that float16 does not hold.

    Example:
        >>> import torch
        >>> from legolas_metric.disk.codes import kept
        >>> kept(torch.tensor([[0.6, 0.8]]), "int8", "cosine").values
        tensor([[ 95, 127]], dtype=torch.int8)
    """
    if storage != "int8":
        values = rows.to(DTYPES[storage])
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"storage={storage!r} holds numbers up to {torch.finfo(values.dtype).max:.5g}, the rows go to "
                f"{float(rows.abs().max()):.5g}: use storage='bfloat16', or scale the embeddings down"
            )
        return Codes(values, None, metric)
    scale = rows.abs().amax(1) / _MOST
    steps = rows.double() / torch.where(scale > 0, scale, 1.0)[:, None].double()
    values = steps.round_().clamp_(-_MOST, _MOST).to(torch.int8)
    return Codes(values, None if metric == "cosine" else scale, metric)
