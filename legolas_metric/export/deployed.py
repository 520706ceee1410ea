"""What is deployed: encoder and back end as one module, and the names of spaces.

Letters: b and n inputs, d and e dimensions.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from legolas_metric.checks import Metric
from legolas_metric.datasets.embedding import evaluating
from legolas_metric.decisions.projections import LDA, PLDA, WCCN, Projection, Whitening
from legolas_metric.decisions.score_norm import ScoreNorm
from legolas_metric.files import read_tensors
from legolas_metric.training.best_weights import digest_of

_KINDS: tuple[type[Projection], ...] = (Whitening, LDA, WCCN, PLDA)
Embed = Callable[[Tensor], Tensor]


@runtime_checkable
class Engine(Protocol):
    """What computes rows of inputs: torch, or ONNX."""

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """Rows as they are compared."""
        ...

    def directions(self, inputs: Tensor, /) -> Tensor:
        """Unit rows of which templates are means."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class After:
    """What comes after an encoder: nothing, or a back end, or score normalisation, or both.

        cosine:  z / |z|,  z = back end (f(x) / |f(x)|)
        dot:     terms of a row, whose product with those of the gallery's side is the score: PLDA's, or ScoreNorm's

    Attributes:
        back_end: a fitted projection, or None.
        score_norm: of rows after the back end, or None.
    """

    back_end: Projection | None = None
    score_norm: ScoreNorm | None = None

    @property
    def metric(self) -> Metric:
        """By which deployed rows are compared."""
        return "dot" if isinstance(self.back_end, PLDA) or self.score_norm is not None else "cosine"

    def directions(self, rows: Float[Tensor, "n d"]) -> Float32[Tensor, "n e"]:
        """Unit rows of which templates are means: before PLDA, whose rows are no directions, after other back ends."""
        unit = nn.functional.normalize(rows.float(), dim=1)
        if self.back_end is None or isinstance(self.back_end, PLDA):
            return unit
        return nn.functional.normalize(self.back_end.mapped(unit.double()), dim=1).float()

    def finished(self, directions: Float32[Tensor, "n d"]) -> Float32[Tensor, "n e"]:
        """Rows as they are compared."""
        if isinstance(self.back_end, PLDA):
            terms = self.back_end.terms(self.back_end.mapped(directions.double()))
            return torch.cat([terms, torch.ones_like(terms[:, :1])], 1).float()
        return directions if self.score_norm is None else self.score_norm.terms(directions).float()

    def gallery_side(self, rows: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Finished rows on the other side of the pair: what a row adds on its own meets the other's 1."""
        if self.score_norm is not None:
            return self.score_norm.turned(rows)
        return rows if self.metric == "cosine" else torch.cat([rows[:, :-2], rows[:, -1:], rows[:, -2:-1]], 1)

    def digest(self) -> list[Any]:
        """What it does to rows, as SHA-256 and plain values."""
        said: list[Any] = [None, None]
        if self.back_end is not None:
            end = self.back_end
            said[0] = digest_of({"centre": end.centre, "map": end.map, "v": end.spread})
        if self.score_norm is not None:
            norm = self.score_norm
            said[1] = [digest_of({"cohort": norm.cohort}), norm.how, norm.top]
        return said


class Deployed(nn.Module):
    """Encoder, unit rows, and what comes after: one map from inputs to the rows that are compared.

    Args:
        encoder: from inputs to [b, d].
        after: what comes after it.
    """

    def __init__(self, encoder: nn.Module, after: After) -> None:
        super().__init__()
        self.encoder = encoder
        self.after = after

    def forward(self, inputs: Tensor) -> Float32[Tensor, "b e"]:
        """Embed a batch."""
        return self.after.finished(self.directions(inputs))

    def directions(self, inputs: Tensor) -> Float32[Tensor, "b e"]:
        """Unit rows of which templates are means."""
        return self.after.directions(self.encoder(inputs))


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


def hash_of(plain: Any) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}
