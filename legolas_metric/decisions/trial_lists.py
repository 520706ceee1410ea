"""Lists of pairs as verification benchmarks have them, scored: "1 a.wav b.wav", "a.png b.png 0", LFW's pairs.txt."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import ArrayLike, Metric, check_metric, check_whole
from legolas_metric.evaluation.given_scores import verification_from_scores
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.files import check_exists
from legolas_metric.geometry import chunks, exact_similarity
from legolas_metric.rows import as_prepared

_SAME = {"1": True, "0": False, "target": True, "nontarget": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialList:
    """Pairs of recordings, and whether they are of one person.

    Attributes:
        left, right: [t] names of recordings.
        same: [t] whether the pair is genuine.
        folds: [t] fold of each pair, where the file says (LFW); None otherwise.

    Example:
        >>> import torch
        >>> listed = TrialList(left=("a", "a"), right=("b", "c"), same=torch.tensor([True, False]))
        >>> listed.scores(torch.eye(2)[[0, 0, 1]], ["a", "b", "c"]).tolist()
        [1.0, 0.0]

    Source: ours.
    """

    left: tuple[str, ...] = field(repr=False)
    right: tuple[str, ...] = field(repr=False)
    same: Bool[Tensor, " t"] = field(repr=False)
    folds: Int64[Tensor, " t"] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.left)

    def scores(
        self, embeddings: ArrayLike, names: Sequence[str], *, metric: Metric = "cosine"
    ) -> Float64[Tensor, " t"]:
        """The similarity of each pair.

        Args:
            embeddings: [n, d].
            names: [n] of the recordings, as the list calls them.
            metric: of the similarity.

        Raises:
            ValueError: a name that is not there (the first five are told), or that occurs twice.
        """
        check_metric(metric)
        rows = as_prepared(embeddings, metric)
        called = [str(name) for name in names]
        if len(called) != len(rows):
            raise ValueError(f"names has {len(called)} entries for {len(rows)} rows of embeddings")
        place = {name: row for row, name in enumerate(called)}
        if len(place) < len(called):
            raise ValueError(f"names must be unique, got {len(called) - len(place)} that occur more than once")
        missing = sorted({*self.left, *self.right} - place.keys())
        if missing:
            raise ValueError(
                f"the list names {len(missing)} recordings that have no embedding: {', '.join(missing[:5])}"
            )
        one, other = (torch.tensor([place[name] for name in side]) for side in (self.left, self.right))
        parts = chunks(len(one), rows_for(BLOCK, 32 * rows.shape[1]))
        return torch.cat([exact_similarity(rows[one[part]], rows[other[part]], metric) for part in parts])

    def verify(
        self,
        embeddings: ArrayLike,
        names: Sequence[str],
        *,
        metric: Metric = "cosine",
        fars: float | ArrayLike = (1e-2, 1e-3, 1e-4),
    ) -> VerificationReport:
        """The report of the listed pairs alone.

        Args:
            embeddings, names, metric: as in `scores`.
            fars: as in `evaluate_verification`.
        """
        return verification_from_scores(self.scores(embeddings, names, metric=metric), self.same, fars=fars)


def read_trials(path: str | os.PathLike[str]) -> TrialList:
    """Read a list of pairs, one a line, whose kind is seen from the lines themselves.

    "1 left right" (VoxCeleb), "left right 1" or "left right target" (NIST), both with spaces, tabs or commas; LFW's
    pairs.txt: "10 300" first, then "name 1 4" and "name 1 other 2", which name name/name_0001.jpg; blank lines, and
    those that begin with #, are passed over.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is none of these, by its number, or a list without both kinds.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "pairs.txt"
        ...     _ = place.write_text("1 a b\\n0 a c\\n")
        ...     len(read_trials(place))
        2

    Source: the lists of LFW (Huang et al. 2007), of VoxCeleb (Nagrani et al. 2017) and of NIST's evaluations.
    """
    place = Path(path)
    check_exists(place)
    lines = [
        (number, re.split(r"\s*[,\t]\s*", line.strip()) if "," in line or "\t" in line else line.split())
        for number, line in enumerate(place.read_text(encoding="utf-8-sig").split("\n"), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise ValueError(f"{path} holds no pairs: one a line, such as '1 left right'")
    first = lines[0][1]
    if len(first) <= 2 and all(word.isdigit() for word in first):
        return _read_lfw(path, first, lines[1:])
    # By all lines together: recordings may be called 0 and 1 themselves.
    ahead = all(words[0].lower() in _SAME for _, words in lines)
    pairs = [_pair(path, number, words, 0 if ahead else 2) for number, words in lines]
    left, right, same = zip(*pairs)
    return _list(path, left, right, same)


def _pair(path: object, number: int, words: Sequence[str], place: int) -> tuple[str, str, bool]:
    if len(words) == 3 and words[place].lower() in _SAME:
        left, right = (word for i, word in enumerate(words) if i != place)
        return left, right, _SAME[words[place].lower()]
    raise ValueError(
        f"{path}, line {number}: expected '1 left right' or 'left right 0' (or target, nontarget), "
        f"got {' '.join(words)[:80]!r}"
    )


def _read_lfw(path: object, head: Sequence[str], lines: Sequence[tuple[int, Sequence[str]]]) -> TrialList:
    def picture(person: str, number: str) -> str:
        return f"{person}/{person}_{int(number):04}.jpg"

    left, right, same = [], [], []
    for number, words in lines:
        if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
            ends = picture(words[0], words[1]), picture(words[0], words[2])
        elif len(words) == 4 and words[1].isdigit() and words[3].isdigit():
            ends = picture(words[0], words[1]), picture(words[2], words[3])
        else:
            raise ValueError(
                f"{path}, line {number}: expected 'name 1 4' or 'name 1 other 2', got {' '.join(words)[:80]!r}"
            )
        left.append(ends[0])
        right.append(ends[1])
        same.append(len(words) == 3)
    folds, each = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    if len(left) != 2 * folds * each:
        raise ValueError(f"{path} announces {folds} folds of {each} pairs of each kind, and holds {len(left)} pairs")
    fold = torch.arange(len(left)) // (2 * each)
    return _list(path, left, right, same, fold if folds > 1 else None)


def _list(
    path: object,
    left: Sequence[str],
    right: Sequence[str],
    same: Sequence[bool],
    folds: Int64[Tensor, " t"] | None = None,
) -> TrialList:
    genuine = torch.tensor(list(same))
    if not 0 < int(genuine.sum()) < len(genuine):
        raise ValueError(f"{path} has {int(genuine.sum())} genuine pairs of {len(genuine)}: some of each are needed")
    return TrialList(left=tuple(left), right=tuple(right), same=genuine, folds=folds)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldAccuracy:
    """Accuracy as LFW reports it: each fold judged at the threshold that is best on the others.

    Attributes:
        mean: of the folds' accuracies.
        standard_error: their sample deviation over the root of their number.
        accuracies, thresholds: of each fold.

    Example:
        >>> FoldAccuracy(mean=0.9, standard_error=0.01, accuracies=(0.9,), thresholds=(0.5,)).mean
        0.9

    Source: Huang et al. (2007), Labeled Faces in the Wild.
    """

    mean: float
    standard_error: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def accuracy_over_folds(scores: ArrayLike, same: ArrayLike, *, folds: int | ArrayLike = 10) -> FoldAccuracy:
    """The accuracy of given pairs, with the threshold of nine folds judged on the tenth (Huang et al. 2007).

    Args:
        scores: [t], finite.
        same: [t] booleans.
        folds: how many stretches of equal length, in the order given, as in LFW's list; or [t], the fold of each pair.

    Raises:
        ValueError: fewer than two folds, more folds than pairs, lengths that differ, NaN or inf.

    Example:
        >>> accuracy_over_folds([0.9, 0.1, 0.8, 0.3], [1, 0, 1, 0], folds=2).mean
        1.0

    Source: Huang et al. (2007), Labeled Faces in the Wild.
    """
    given = verification_from_scores(scores, same).pairs  # the checks of the arguments
    assert given is None
    values = torch.as_tensor(scores).double()
    genuine = torch.as_tensor(same).to(values.device, torch.bool)
    if isinstance(folds, int):
        count = check_whole("folds", folds, 2)
        if count > len(values):
            raise ValueError(f"folds must be at most the number of pairs, {len(values)}, got {count}")
        fold = torch.arange(len(values), device=values.device) * count // len(values)
    else:
        fold = torch.as_tensor(folds).to(values.device)
    numbers = fold.unique()
    if len(fold) != len(values) or len(numbers) < 2:
        raise ValueError(f"folds must name two or more, one for each of {len(values)} pairs")
    thresholds = [_most_accurate(values[fold != one], genuine[fold != one]) for one in numbers]
    hits = [
        float(((values[fold == one] >= threshold) == genuine[fold == one]).double().mean())
        for one, threshold in zip(numbers, thresholds)
    ]
    every = torch.tensor(hits, dtype=torch.float64)
    return FoldAccuracy(
        mean=float(every.mean()),
        standard_error=float(every.std() / len(hits) ** 0.5),
        accuracies=tuple(hits),
        thresholds=tuple(thresholds),
    )


def _most_accurate(scores: Float64[Tensor, " t"], same: Bool[Tensor, " t"]) -> float:
    """The threshold of the most right answers: halfway between two scores; of several the greatest."""
    levels, place = scores.unique(return_inverse=True)
    gain = torch.zeros_like(place[: len(levels)]).index_add_(0, place, 2 * same.long() - 1)
    right = torch.cat([gain.flip(0).cumsum(0).flip(0), gain.new_zeros(1)])  # accepted from level i on, less impostors
    best = int((right == right.max()).nonzero().max())
    if best == len(levels):
        return float(levels[-1]) + 1
    return float(levels[best]) if best == 0 else float(levels[best - 1] + levels[best]) / 2
