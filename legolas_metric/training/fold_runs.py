"""The folds of a cross-validation in turn, each done once, however often the run was interrupted."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, check_at_least
from legolas_metric.datasets.folds import Fold, KFold
from legolas_metric.evaluation.bootstrap import intervals
from legolas_metric.evaluation.ranking_measures import rank_at
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.rows import as_labels

RESULT = "result.safetensors"
"""In a fold's folder, what it came to."""
_OF_QUERIES = ("rank_at_1", "map_at_r", "r_precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldTask:
    """What a fold's training gets to know.

    Attributes:
        number: of the fold, from 0.
        train, validation: row numbers.
        folder: of this fold alone, for checkpoints; what an interrupted attempt left is still there.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from legolas_metric.training.fold_runs import FoldTask
        >>> task = FoldTask(number=0, train=torch.arange(3), validation=torch.arange(3, 5), folder=Path("fold_0"))
        >>> task.checkpoint is None
        True

    Source: ours.
    """

    number: int
    train: Int64[Tensor, " a"]
    validation: Int64[Tensor, " b"]
    folder: Path

    @property
    def checkpoint(self) -> Path | None:
        """`last.ckpt` in the folder, which Lightning's `ModelCheckpoint(folder, save_last=True)` writes; or None."""
        path = self.folder / "last.ckpt"
        return path if path.is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """What one fold came to.

    Attributes:
        number: of the fold.
        values: name -> figure.
        per_query: name -> [q], what a figure is the mean of; empty where that is not known.
        identities: [q] whose queries they are.
        shared: how many "rows", and, where labels are known, "identities", the fold's two parts both hold.

    Example:
        >>> from legolas_metric.training.fold_runs import FoldResult
        >>> FoldResult(number=0, values={"rank_at_1": 0.5}).per_query
        {}

    Source: ours.
    """

    number: int
    values: Mapping[str, float]
    per_query: Mapping[str, Float64[Tensor, " q"]] = field(default_factory=dict, repr=False)
    identities: Int64[Tensor, " q"] | None = field(default=None, repr=False)
    shared: Mapping[str, int] = field(default_factory=dict)


Outcome = RankingReport | Mapping[str, Any] | tuple[RankingReport, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class FoldsResult:
    """All folds: mean and spread over them, and the pooled queries with an interval over identities.

    Attributes:
        folds: one entry each.

    Example:
        >>> from legolas_metric.training.fold_runs import FoldResult, FoldsResult
        >>> result = FoldsResult(tuple(FoldResult(number=k, values={"auc": v}) for k, v in enumerate([0.5, 0.7])))
        >>> round(result.mean("auc"), 3), round(result.spread("auc"), 3)
        (0.6, 0.141)

    Source: ours.
    """

    folds: tuple[FoldResult, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Figures that every fold has."""
        return tuple(name for name in self.folds[0].values if all(name in fold.values for fold in self.folds))

    def mean(self, name: str = "rank_at_1") -> float:
        """Mean over folds, each counting alike."""
        return float(self._column(name).mean())

    def spread(self, name: str = "rank_at_1") -> float:
        """Standard deviation over folds (n - 1); NaN of one fold.

        Folds share most of their training rows, so this is no standard error of the mean: see `interval`.
        """
        return float(self._column(name).std()) if len(self.folds) > 1 else math.nan

    def pooled(self, name: str = "rank_at_1") -> float:
        """Mean over the queries of all folds, each query counting alike.

        Raises:
            ValueError: a figure whose queries are not known.
        """
        return float(self._pool(name)[0].mean())

    def interval(
        self, name: str = "rank_at_1", *, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Percentile interval of `pooled`, by the bootstrap over identities.

        Raises:
            ValueError: a figure whose queries are not known.
        """
        values, identities = self._pool(name)
        return intervals({name: values}, (identities, None), level=level, resamples=resamples, seed=seed)[name]

    def table(self) -> str:
        """A line for each fold, then mean, spread, and the pooled figures with their intervals."""
        rows = [["fold", *self.names]]
        rows += [[str(fold.number), *(f"{fold.values[name]:.4f}" for name in self.names)] for fold in self.folds]
        rows.append(["mean", *(f"{self.mean(name):.4f}" for name in self.names)])
        rows.append(["spread", *(f"{self.spread(name):.4f}" for name in self.names)])
        rows.append(["pooled", *(self._pooled_text(name) for name in self.names)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)

    def _pooled_text(self, name: str) -> str:
        if any(name not in fold.per_query for fold in self.folds):
            return "-"
        low, high = self.interval(name)
        return f"{self.pooled(name):.4f} [{low:.4f}, {high:.4f}]"

    def _column(self, name: str) -> Float64[Tensor, " k"]:
        if name not in self.names:
            raise ValueError(f"no figure {name!r} in every fold; there are {', '.join(self.names) or 'none'}")
        return torch.tensor([fold.values[name] for fold in self.folds], dtype=torch.float64)

    def _pool(self, name: str) -> tuple[Float64[Tensor, " q"], Int64[Tensor, " q"]]:
        for fold in self.folds:
            if name not in fold.per_query or fold.identities is None:
                raise ValueError(
                    f"fold {fold.number} does not tell the queries behind {name!r}: return a RankingReport from each "
                    "fold, or look at mean and spread"
                )
        values = torch.cat([fold.per_query[name] for fold in self.folds])
        return values, torch.cat([fold.identities for fold in self.folds if fold.identities is not None])


def run_folds(
    folds: KFold | Sequence[Fold | tuple[Tensor, Tensor]],
    train: Callable[[FoldTask], Outcome],
    *,
    folder: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    labels: ArrayLike | None = None,
) -> FoldsResult:
    """Train and evaluate each fold in turn; a fold that is done is never done again.

    A fold's result is written, whole or not at all, when it ends (`fold_{k}/result.safetensors`). After an interruption
    the same call goes on with the first fold without a result; `train` finds in its folder what it left there, and goes
    on from its own checkpoint.

    Args:
        folds: a `KFold`, or pairs (train rows, validation rows).
        train: trains one fold and returns its `RankingReport` on the validation rows, a mapping name -> figure, or a
            pair of both.
        folder: of the run.
        settings: plain values; results of other settings, or other folds, are refused rather than mixed.
        labels: [n] of all rows, by which a fold's result tells how many identities its two parts share, for the doctor
            (default: those of a `KFold` by identity).

    Raises:
        ValueError: no fold, or a folder with results of other folds or settings.
        TypeError: a fold that returns something else.

    Example:
        >>> from legolas_metric.datasets.folds import KFold
        >>> from legolas_metric.training.fold_runs import run_folds
        >>> folds = KFold([0, 0, 1, 1, 2, 2, 3, 3], 2, test_share=0)
        >>> result = run_folds(folds, lambda task: {"auc": 0.5 + task.number / 10}, folder="run")
        >>> result.mean("auc")
        0.55

    Source: ours.
    """
    check_at_least("the number of folds", len(folds), 1)
    identities = None if labels is None else as_labels(labels, None).cpu()
    if identities is None and isinstance(folds, KFold) and folds.how == "identity":
        identities = folds.labels
    done = []
    for number, (rows, validation) in enumerate(folds):
        own = Path(folder) / f"fold_{number}"
        digest = _digest(rows, validation, settings or {})
        if not (own / RESULT).is_file():
            own.mkdir(parents=True, exist_ok=True)
            outcome = train(FoldTask(number=number, train=rows, validation=validation, folder=own))
            result = replace(_result(number, outcome), shared=_shared(rows, validation, identities))
            _write(own / RESULT, result, digest)
        done.append(_read(own / RESULT, number, digest))
    return FoldsResult(tuple(done))


def read_folds(folder: str | os.PathLike[str]) -> FoldsResult:
    """What the folds of a folder came to, those that are done; `FoldsResult(())` where none is.

    Example:
        >>> from legolas_metric.training.fold_runs import read_folds
        >>> read_folds(".").folds
        ()
    """
    done = {path.parent.name.removeprefix("fold_"): path for path in Path(folder).glob(f"fold_*/{RESULT}")}
    numbers = sorted(int(name) for name in done if name.isdecimal())
    return FoldsResult(tuple(_read(done[str(number)], number, None) for number in numbers))


def _shared(rows: Tensor, validation: Tensor, labels: Tensor | None) -> dict[str, int]:
    """How much of the validation part the training part holds too."""
    shared = {"rows": int(torch.isin(validation, rows).sum())}
    if labels is not None:
        asked = labels[validation.cpu()].unique()
        shared["identities"] = int(torch.isin(asked[asked != UNLABELLED], labels[rows.cpu()]).sum())
    return shared


def _result(number: int, outcome: Outcome) -> FoldResult:
    if isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[0], RankingReport):
        result = _result(number, outcome[0])
        beside = _result(number, outcome[1]).values
        return replace(result, values={**result.values, **{k: v for k, v in beside.items() if k not in result.values}})
    if isinstance(outcome, RankingReport):
        queries = outcome.per_query
        first = rank_at(queries.start, queries.size, queries.tied, 1)
        columns = dict(zip(_OF_QUERIES, (first, queries.map_at_r, queries.r_precision), strict=True))
        values = {name: float(column.mean()) for name, column in columns.items()}
        per_query = {name: column.double().cpu() for name, column in columns.items()}
        return FoldResult(number=number, values=values, per_query=per_query, identities=queries.labels.cpu())
    if isinstance(outcome, Mapping):
        return FoldResult(number=number, values={str(name): float(value) for name, value in outcome.items()})
    raise TypeError(
        f"fold {number} returned {type(outcome).__name__}: return a RankingReport, a mapping of names to numbers, or "
        "a pair of both"
    )


def _write(path: Path, result: FoldResult, digest: str) -> None:
    tensors = {f"query/{name}": column for name, column in result.per_query.items()}
    if result.identities is not None:
        tensors["identities"] = result.identities
    tensors["values"] = torch.tensor(list(result.values.values()), dtype=torch.float64)
    write_tensors(
        path, tensors, {"names": json.dumps(list(result.values)), "digest": digest, "shared": json.dumps(result.shared)}
    )


def _read(path: Path, number: int, digest: str | None) -> FoldResult:
    tensors, about = read_tensors(path)
    if digest is not None and about.get("digest") != digest:
        raise ValueError(f"{path} is of other folds or settings: choose another folder, or delete that of the old run")
    values = dict(zip(json.loads(about["names"]), tensors["values"].tolist(), strict=True))
    per_query = {name.removeprefix("query/"): column for name, column in tensors.items() if name.startswith("query/")}
    return FoldResult(
        number=number,
        values=values,
        per_query=per_query,
        identities=tensors.get("identities"),
        shared=json.loads(about.get("shared", "{}")),
    )


def _digest(rows: Tensor, validation: Tensor, settings: Mapping[str, Any]) -> str:
    said = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for part in (rows, validation):
        said.update(part.cpu().long().numpy().tobytes() + b"|")
    return said.hexdigest()
