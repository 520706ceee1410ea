"""What is deployed: encoder and back end as one module, and the names of spaces.

Letters: b inputs, e dimensions.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from legolas_metric.checks import Metric
from legolas_metric.datasets.embedding import evaluating
from legolas_metric.decisions.projections import LDA, PLDA, WCCN, Projection, Whitening
from legolas_metric.files import read_tensors
from legolas_metric.training.best_weights import digest_of

_KINDS: tuple[type[Projection], ...] = (Whitening, LDA, WCCN, PLDA)
Embed = Callable[[Tensor], Tensor]


class Deployed(nn.Module):
    """Encoder, unit rows, back end: one map from inputs to the rows that are compared.

        cosine:  z / |z|,  z = back end (f(x) / |f(x)|)
        dot:     PLDA's terms (t, c) of a row as (t, c, 1): the product with a gallery's (t', 1, c') is the score

    Args:
        encoder: from inputs to [b, d].
        back_end: a fitted projection, or None.
    """

    def __init__(self, encoder: nn.Module, back_end: Projection | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.back_end = back_end

    def forward(self, inputs: Tensor) -> Float32[Tensor, "b e"]:
        """Embed a batch."""
        rows = nn.functional.normalize(self.encoder(inputs).float(), dim=1)
        if self.back_end is None:
            return rows
        mapped = self.back_end.mapped(rows.double())
        if isinstance(self.back_end, PLDA):
            terms = self.back_end.terms(mapped)
            return torch.cat([terms, torch.ones_like(terms[:, :1])], 1).float()
        return nn.functional.normalize(mapped, dim=1).float()


def metric_of(back_end: Projection | None) -> Metric:
    """By which deployed rows are compared."""
    return "dot" if isinstance(back_end, PLDA) else "cosine"


def as_gallery(rows: Float[Tensor, "n e"], metric: Metric) -> Float[Tensor, "n e"]:
    """Deployed rows on the side of the gallery: what a row adds on its own meets the other's 1."""
    return rows if metric == "cosine" else torch.cat([rows[:, :-2], rows[:, -1:], rows[:, -2:-1]], 1)


def embedded(embed: Embed, inputs: Tensor, batch_size: int) -> Float32[Tensor, "n e"]:
    """Rows of inputs, by batches, in evaluation mode.

    Raises:
        ValueError: rows that are not finite.
    """
    with evaluating(embed if isinstance(embed, nn.Module) else None), torch.inference_mode():
        rows = torch.cat([embed(part) for part in inputs.split(batch_size)])
    rows = rows.float().cpu().clone()
    bad = ~rows.isfinite().all(1)
    if bool(bad.any()):
        first = bad.nonzero().flatten()[:5].tolist()
        raise ValueError(f"{int(bad.sum())} of {len(rows)} embeddings are not finite (first rows: {first})")
    return rows.clone()


def read_back_end(path: Path) -> Projection:
    """The projection in a file, of whichever kind.

    Raises:
        ValueError: a file of something else.
    """
    kind = read_tensors(path)[1].get("kind")
    for known in _KINDS:
        if known.kind == kind:
            return known.load(path)
    raise ValueError(f"{path} holds {kind or 'something else'}, which is no back end of this version")


def back_end_digest(back_end: Projection | None) -> str | None:
    """SHA-256 of what a back end does to rows."""
    return (
        None if back_end is None else digest_of({"centre": back_end.centre, "map": back_end.map, "v": back_end.spread})
    )


def hash_of(plain: Any) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}
