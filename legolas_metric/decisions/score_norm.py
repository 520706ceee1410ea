"""Score normalisation: a score is compared with those that strangers get (a cohort), for each side of the pair.

Letters: n rows, m of the cohort, q and g the sides of a comparison.
"""

import os
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, check_choice, check_dimension, check_whole
from legolas_metric.evaluation.identities import Identities, as_text, from_text, identities, shared
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.geometry import normalise
from legolas_metric.index.exact import ExactIndex
from legolas_metric.rows import as_prepared

_KIND = "score normalisation"  # as files name it
_LEAST = 1e-6
"""The least deviation of cohort scores that is divided by: below, rounding decides."""


class ScoreNorm:
    """AS-norm and S-norm of cosine similarities (Matejka et al. 2017; Karam et al. 2011).

        s'(a, b) = ((s - mean_a) / std_a + (s - mean_b) / std_b) / 2

    mean_a and std_a are of the similarities of a to the cohort: to all of it ("s"), or to its `top` nearest rows
    ("as"), which the exact engine finds.

    Args:
        cohort: [m, d], rows of people who are in no comparison: as a rule training rows.
        how: "as" or "s".
        top: nearest cohort rows that "as" takes; all, where there are fewer.
        labels: [m] whose the cohort's rows are; given, a test set that shares people with it is refused.

    Raises:
        ValueError: a cohort of fewer than two rows, or that `evaluate_ranking` would refuse.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.arange(80) // 4
        >>> x = torch.randn(20, 8, generator=generator)[y] + 0.5 * torch.randn(80, 8, generator=generator)
        >>> norm = ScoreNorm(x[:40], top=10, labels=y[:40])
        >>> plain = evaluate_ranking(x[40:], y[40:])
        >>> evaluate_ranking(x[40:], y[40:], scorer=norm, baseline=plain).difference().identities
        10

    Source: Matejka et al. (2017), Analysis of Score Normalization in Multilingual Speaker Recognition; Karam et al.
    (2011).
    """

    def __init__(
        self, cohort: ArrayLike, *, how: Literal["as", "s"] = "as", top: int = 200, labels: ArrayLike | None = None
    ) -> None:
        check_choice("how", how, ("as", "s"))
        rows = as_prepared(cohort, "cosine", name="cohort")
        if len(rows) < 2:
            raise ValueError("cohort has one row: a deviation needs two at least, and to be of use some hundred")
        self.how, self.top = how, min(check_whole("top", top, 2), len(rows))
        self.people: Identities = frozenset() if labels is None else identities(labels)
        self.cohort = rows
        self._index = ExactIndex().fit(rows) if how == "as" else None

    def transform(self, rows: Float[Tensor, "n d"], ids: Int64[Tensor, " n"] | None = None) -> Float64[Tensor, "n e"]:
        """Unit rows with mean and deviation of their cohort scores as two more columns.

        Raises:
            ValueError: rows of another dimension than the cohort's.
        """
        del ids
        unit = normalise(rows.detach().float())
        check_dimension(unit, self.cohort, names=("rows", "the cohort"))
        wide = unit.double()
        near = None if self._index is None else self._index.search(unit, self.top).similarities.double()
        return torch.cat([wide, *self._spread(wide, near)], 1)

    def _spread(
        self, wide: Float64[Tensor, "n d"], near: Float64[Tensor, "n k"] | None
    ) -> tuple[Float64[Tensor, "n 1"], Float64[Tensor, "n 1"]]:
        """Mean and deviation of the cohort scores of unit rows: of those given, or of all."""
        if near is not None:
            mean, std = near.mean(1, keepdim=True), near.std(1, correction=0, keepdim=True)
        else:
            # Mean and deviation of <x, c> over the cohort: <x, mean c>, and x' cov(c) x.
            cohort = self.cohort.double()
            centre = cohort.mean(0)
            spread = (cohort - centre).T @ (cohort - centre) / len(cohort)
            mean = wide @ centre[:, None]
            std = ((wide @ spread) * wide).sum(1, keepdim=True).clamp_min(0).sqrt()
        return mean, std.clamp_min(_LEAST)

    def terms(self, unit: Float[Tensor, "n d"]) -> Float64[Tensor, "n e"]:
        """Unit rows so that a plain product is the score: [n, 2 d + 2], unchecked, arithmetic that can be exported.

        (x / 2 std, x, -mean / 2 std, 1); on the other side of the pair `turned`: (x, x / 2 std, 1, -mean / 2 std)
        """
        wide = unit.double()
        near = (wide @ self.cohort.double().T).topk(self.top).values if self.how == "as" else None
        mean, std = self._spread(wide, near)
        return torch.cat([wide / (2 * std), wide, -mean / (2 * std), torch.ones_like(std)], 1)

    @staticmethod
    def turned(terms: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Terms of rows on the other side of the pair."""
        d = terms.shape[1] // 2 - 1
        return torch.cat([terms[:, d : 2 * d], terms[:, :d], terms[:, -1:], terms[:, -2:-1]], 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a safetensors file, whole or not at all."""
        settings = {"kind": _KIND, "how": self.how, "top": str(self.top), "people": as_text(self.people)}
        write_tensors(path, {"cohort": self.cohort}, settings)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ScoreNorm":
        """Read what `save` wrote.

        Raises:
            ValueError: a file of something else.
        """
        tensors, settings = read_tensors(path)
        if settings.get("kind") != _KIND:
            raise ValueError(f"{path} holds {settings.get('kind', 'something else')}, no score normalisation")
        how: Any = settings["how"]
        made = cls(tensors["cohort"], how=how, top=int(settings["top"]))
        made.people = from_text(settings["people"])
        return made

    def compare(self, x: Float64[Tensor, "q e"], y: Float64[Tensor, "g e"]) -> Float64[Tensor, "q g"]:
        """Normalised scores of transformed rows."""
        scores = x[:, :-2] @ y[:, :-2].T
        left = (scores - x[:, -2:-1]) / x[:, -1:]
        return (left + (scores - y[None, :, -2]) / y[None, :, -1]) / 2

    def score(self, x: ArrayLike, y: ArrayLike) -> Float64[Tensor, "q g"]:
        """Normalised scores of all rows of x [q, d] with all rows of y [g, d]."""
        return self.compare(*(self.transform(as_prepared(rows, "cosine", name="rows")) for rows in (x, y)))

    def check(self, labels: Int64[Tensor, " n"], names: tuple[str, ...] | None) -> None:
        """Refuse a test set that shares people with the cohort.

        Raises:
            ValueError: it shares some.
        """
        both = shared(self.people, identities(labels, names=names))
        if both:
            raise ValueError(
                f"{both} identities of the test set are in the cohort: they would be compared with themselves; take a "
                "cohort of others, or pass no labels of it where numbers are reused for other people"
            )
