"""Whether two exports, or an export and rows of another pipeline, share a space."""

import os
from pathlib import Path

import torch

from legolas_metric.checks import check_number
from legolas_metric.export.loading import Exported, load_export
from legolas_metric.export.space_change import TOLERANCE, SpaceComparison, compare_rows, other_space
from legolas_metric.files import EmbeddingFile, read_embeddings
from legolas_metric.lookup import lookup
from legolas_metric.signatures import typed

Side = Exported | EmbeddingFile
Named = Exported | EmbeddingFile | str | os.PathLike[str]


@typed
def compare_spaces(a: Named, b: Named, *, tolerance: float | int = TOLERANCE) -> SpaceComparison:
    """Whether rows of `b` may be compared with those of `a`: the same inputs must lie at the same places.

        largest = max |a_i - b_i| / |a_i|  over the examples of `a`, at most `tolerance`

    The examples of an export are embedded anew by the other. Rows of a file are matched with them by id, so that
    today's preprocessing is held against the one that was exported: embed the same examples, and save their ids.

    Args:
        a: an export, or a file of embeddings; or the path of one.
        b: likewise.
        tolerance: what arithmetic of other machines and libraries may change.

    Raises:
        FileNotFoundError, ValueError: an export or a file that can't be read; files without ids of other lengths.

    Example:
        >>> import torch
        >>> from legolas_metric.export.same_space import compare_spaces
        >>> from legolas_metric.export.writing import export_encoder
        >>> x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        >>> one, two = (export_encoder(torch.nn.Linear(3, 2), f"export-{i}", inputs=x) for i in range(2))
        >>> compare_spaces(one, one).same, compare_spaces(one, two).same
        (True, False)

    Source: ours.
    """
    check_number("tolerance", tolerance, above=0.0)
    first, second = _side(a), _side(b)
    limit = float(tolerance)
    if isinstance(first, Exported) and isinstance(second, Exported):
        if first.input_shape != second.input_shape:
            said = (
                f"another space: inputs of shape {list(second.input_shape)}, where they had {list(first.input_shape)}"
            )
            return other_space(said, limit)
        return compare_rows(first.examples["embeddings"], second.embed(first.examples["inputs"]), tolerance=limit)
    x, x_ids = _rows(first)
    y, y_ids = _rows(second)
    if x_ids is None or y_ids is None:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} and {len(y)} rows without ids on both sides: save the ids of the examples")
        return compare_rows(x, y, tolerance=limit)
    place, found = lookup(x_ids, y_ids)
    return compare_rows(x[found], y[place[found]], tolerance=limit)


def _side(named: Named) -> Side:
    if isinstance(named, Exported | EmbeddingFile):
        return named
    if not Path(named).is_dir():
        return read_embeddings(named)
    try:
        return load_export(named)
    except ValueError as error:
        if "pass encoder=" not in str(error):
            raise
        return load_export(named, engine="onnx")


def _rows(side: Side) -> tuple[torch.Tensor, torch.Tensor | None]:
    if isinstance(side, Exported):
        return side.examples["embeddings"], side.examples["ids"]
    unit = torch.nn.functional.normalize(side.embeddings.float(), dim=1)
    return unit, None if side.ids is None else side.ids.long()
