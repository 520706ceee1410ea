"""Back ends that are fitted on training people: whitening, LDA, WCCN, PLDA.

Letters: n rows, d and e dimensions, c people.

Rows are taken as unit vectors. Covariances are shrunk towards a multiple of the identity, as there are seldom people
enough: C' = (1 - shrinkage) C + shrinkage tr(C) / d I.
"""

import os
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, check_dimension, check_number, check_whole
from legolas_metric.evaluation.identities import Identities, as_text, from_text, identities, warn_of_shared
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.names import Names
from legolas_metric.rows import Rows, as_prepared, fitted_rows

_SEEN = "what it was fitted on it separates better than others; fit it on training people only"
Square = Float64[Tensor, "d d"]
Kind = TypeVar("Kind", bound="Projection")


class Projection:
    """A linear map of centred unit rows, fitted once; what the four back ends share.

    Args:
        dimensions: that are kept, the most useful ones; None for all there are.
        shrinkage: in [0, 1].
    """

    kind: ClassVar[str]

    def __init__(self, dimensions: int | None = None, *, shrinkage: float | int = 0.1) -> None:
        self.dimensions = None if dimensions is None else check_whole("dimensions", dimensions, 1)
        check_number("shrinkage", shrinkage, least=0.0, most=1.0)
        self.shrinkage = float(shrinkage)
        self.people: Identities = frozenset()
        self.centre = self.map = self.spread = torch.empty(0, dtype=torch.float64)

    def transform(self, embeddings: ArrayLike, ids: Int64[Tensor, " n"] | None = None) -> Float[Tensor, "n e"]:
        """The rows in the new space: compare them by their cosine.

        Args:
            embeddings: [n, d], by the encoder that made the rows it was fitted on.
            ids: not used.

        Raises:
            ValueError: not fitted yet; another dimension; what `evaluate_ranking` refuses.
        """
        del ids
        return self._mapped(embeddings).float()

    def _mapped(self, embeddings: ArrayLike) -> Float64[Tensor, "n e"]:
        if not len(self.map):
            raise ValueError(f"{type(self).__name__} is not fitted yet: call fit(embeddings, labels) first")
        rows = as_prepared(embeddings, "cosine")
        check_dimension(rows, self.map.T, names=("embeddings", "the rows it was fitted on"))
        return self.mapped(rows.double())

    def mapped(self, rows: Float64[Tensor, "n d"]) -> Float64[Tensor, "n e"]:
        """The bare map of unit rows, unchecked: arithmetic that can be exported."""
        return (rows - self.centre) @ self.map

    def check(self, labels: Int64[Tensor, " n"], names: Names | None = None) -> None:
        """Warn, by id, where people of a test set are among those it was fitted on."""
        warn_of_shared(self.people, identities(labels, names=names), _SEEN)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a safetensors file, whole or not at all."""
        settings = {"kind": self.kind, "shrinkage": repr(self.shrinkage), "people": as_text(self.people)}
        write_tensors(path, {"centre": self.centre, "map": self.map, "spread": self.spread}, settings)

    @classmethod
    def load(cls: type[Kind], path: str | os.PathLike[str]) -> Kind:
        """Read what `save` wrote.

        Raises:
            ValueError: a file of something else.
        """
        tensors, settings = read_tensors(path)
        if settings.get("kind") != cls.kind:
            raise ValueError(f"{path} holds {settings.get('kind', 'something else')}, not {cls.kind}")
        made = cls(tensors["map"].shape[1], shrinkage=float(settings["shrinkage"]))
        made.centre, made.map, made.spread = tensors["centre"], tensors["map"], tensors["spread"]
        made.people = from_text(settings["people"])
        return made

    def _kept(self, most: int) -> int:
        if self.dimensions is None:
            return most
        if self.dimensions > most:
            raise ValueError(f"dimensions must be at most {most} for these rows, got {self.dimensions}")
        return self.dimensions

    def _shrunk(self, covariance: Square) -> Square:
        d = len(covariance)
        even = torch.eye(d, dtype=torch.float64, device=covariance.device) * (covariance.trace() / d)
        return (1 - self.shrinkage) * covariance + self.shrinkage * even


class Whitening(Projection):
    """Make the covariance of all rows the identity: no labels needed, nothing known of people.

        x' = (x - mean) U diag(v)^-1/2,  with v, U of the shrunk covariance, greatest first

    Args:
        dimensions: that are kept, the most useful ones; None for all there are.
        shrinkage: of the covariance towards a multiple of the identity, in [0, 1].

    Raises:
        ValueError: dimensions below 1, shrinkage outside [0, 1]; when fitted, rows that `evaluate_ranking` refuses.

    Example:
        >>> import torch
        >>> rows = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> found = Whitening(shrinkage=0).fit(rows).transform(rows)
        >>> torch.allclose(found.T.cov(), torch.eye(4), atol=1e-4) or found.T.cov().diag().mean().round().item()
        True

    Source: principal axes scaled to unit variance; shrunk towards a multiple of the identity.
    """

    kind = "whitening"

    def fit(self, embeddings: ArrayLike, labels: ArrayLike | None = None) -> "Whitening":
        """Fit on [n, d]; labels only say whom it has seen. Returns itself."""
        rows = fitted_rows(embeddings, labels, ids=None, groups=None, metric="cosine")
        x = rows.embeddings.double()
        self.people = frozenset() if labels is None else identities(labels)
        self.centre = x.mean(0)
        values, vectors = torch.linalg.eigh(self._shrunk(_covariance(x - self.centre, len(x) - 1)))
        values, vectors = values.flip(0), vectors.flip(1)
        kept = self._kept(int((values > 1e-10 * values[0]).sum()))
        self.map = vectors[:, :kept] / values[:kept].sqrt()
        return self


class LDA(Projection):
    """The directions in which people differ most, for what one person varies (Fisher 1936, Rao 1948).

        B v = l W v,  v' W v = 1,  largest l first;  W within people, shrunk, B between them

    Args:
        dimensions: that are kept, the most useful ones; None for all there are.
        shrinkage: of the covariance towards a multiple of the identity, in [0, 1].

    Raises:
        ValueError: dimensions below 1, shrinkage outside [0, 1]; when fitted, rows that `evaluate_ranking` refuses,
            or no person of two rows.

    Example:
        >>> import torch
        >>> y = torch.arange(60) // 4
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(15, 6, generator=generator)[y] + torch.randn(60, 6, generator=generator)
        >>> LDA(3).fit(x, y).transform(x).shape
        torch.Size([60, 3])

    Source: Fisher (1936), The Use of Multiple Measurements in Taxonomic Problems; Rao (1948).
    """

    kind = "LDA"

    def fit(self, embeddings: ArrayLike, labels: ArrayLike) -> "LDA":
        """Fit on [n, d] of two people at least, one of whom has two rows. Returns itself."""
        x, y, self.people = _people(embeddings, labels)
        self.centre = x.mean(0)
        within, between, _ = _scatters(x, y)
        values, vectors = _joint(between / len(x), self._shrunk(within / len(x)))
        self.map = vectors[:, : self._kept(min(int(y.max()), x.shape[1]))]
        self.spread = values[: self.map.shape[1]]
        return self


class WCCN(Projection):
    """Make what one person varies alike in all directions (Hatch et al. 2006).

        x' = L' (x - mean),  L L' = W^-1;  W within people, shrunk

    With groups W is that of the means of a person's sessions: what changes from one to the next.

    Args:
        dimensions: that are kept, the most useful ones; None for all there are.
        shrinkage: of the covariance towards a multiple of the identity, in [0, 1].

    Raises:
        ValueError: dimensions below 1, shrinkage outside [0, 1]; when fitted, rows that `evaluate_ranking` refuses,
            or no person of two rows.

    Example:
        >>> import torch
        >>> y = torch.arange(60) // 4
        >>> x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
        >>> WCCN().fit(x, y).transform(x).shape
        torch.Size([60, 6])

    Source: Hatch et al. (2006), Within-class covariance normalization for SVM-based speaker recognition.
    """

    kind = "WCCN"

    def fit(self, embeddings: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None) -> "WCCN":
        """Fit on [n, d] of people of whom one at least has two rows, or two groups. Returns itself."""
        rows = fitted_rows(embeddings, labels, ids=None, groups=groups, metric="cosine")
        x, y, self.people = _people(embeddings, labels)
        self.centre = x.mean(0)
        if rows.groups is not None:
            assert rows.labels is not None
            x, y = _session_means(rows)
        within, _, _ = _scatters(x, y)
        root = torch.linalg.cholesky(torch.linalg.inv(self._shrunk(within / len(x))))
        self.map = root[:, : self._kept(x.shape[1])]
        return self


class PLDA(Projection):
    """Probabilistic LDA: a row is its person, y ~ N(0, B), plus e ~ N(0, W); scores are log-likelihood ratios.

        s(a, b) = ln p(a, b | one person) / (p(a) p(b)),  natural logarithm (Prince & Elder 2007, two-covariance model)

    B and W by the method of moments, in closed form: W = S_w / (n - c), B = (S_b / (c - 1) - W) / n0 without its
    negative part, n0 = (n - sum n_i^2 / n) / (c - 1); W shrunk. `evaluate_ranking(..., scorer=plda)` ranks by it.

    Args:
        dimensions: that are kept, the most useful ones; None for all there are.
        shrinkage: of the covariance towards a multiple of the identity, in [0, 1].

    Raises:
        ValueError: dimensions below 1, shrinkage outside [0, 1]; when fitted, rows that `evaluate_ranking` refuses,
            or no person of two rows.

    Example:
        >>> import torch
        >>> y = torch.arange(80) // 4
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(20, 6, generator=generator)[y] + 0.3 * torch.randn(80, 6, generator=generator)
        >>> plda = PLDA().fit(x[:40], y[:40])
        >>> scores = plda.score(x[40:41], x[[41, 44]])  # the same person, and another
        >>> (scores[0, 0] > 0 > scores[0, 1]).item()
        True

    Source: Prince and Elder (2007), Probabilistic Linear Discriminant Analysis for Inferences About Identity.
    """

    kind = "PLDA"

    def fit(self, embeddings: ArrayLike, labels: ArrayLike) -> "PLDA":
        """Fit on [n, d] of two people at least, one of whom has two rows. Returns itself."""
        x, y, self.people = _people(embeddings, labels)
        self.centre = x.mean(0)
        within, between, sizes = _scatters(x, y)
        n, c = len(x), len(sizes)
        inner = self._shrunk(within / (n - c))
        n0 = (n - float((sizes.double() ** 2).sum()) / n) / (c - 1)
        values, vectors = _joint((between / (c - 1) - within / (n - c)) / n0, inner)
        kept = self._kept(x.shape[1])
        self.spread, self.map = values[:kept].clamp_min(0), vectors[:, :kept]
        return self

    def transform(self, embeddings: ArrayLike, ids: Int64[Tensor, " n"] | None = None) -> Float64[Tensor, "n e"]:
        """Rows as `compare` takes them: u sqrt(b), and what each adds on its own; float64 [n, e + 1].

        In the space where W is the identity and B = diag(v), of two rows u and w the score is
        sum (v+1 ln) terms + sum a (u^2 + w^2) + sum b u w, with b = v / (2 v + 1), a = 1/2 (1/(v+1) - (v+1)/(2 v+1)).
        """
        del ids
        return self.terms(self._mapped(embeddings))

    def terms(self, u: Float64[Tensor, "n d"]) -> Float64[Tensor, "n e"]:
        """What `transform` makes of mapped rows, unchecked: arithmetic that can be exported."""
        v = self.spread
        b, a = v / (2 * v + 1), (1 / (v + 1) - (v + 1) / (2 * v + 1)) / 2
        constant = (torch.log(v + 1) - torch.log(2 * v + 1) / 2).sum()
        return torch.cat([u * b.sqrt(), (u.square() @ a + constant / 2)[:, None]], 1)

    def compare(self, x: Float64[Tensor, "q e"], y: Float64[Tensor, "g e"]) -> Float64[Tensor, "q g"]:
        """Log-likelihood ratios of transformed rows."""
        return x[:, :-1] @ y[:, :-1].T + x[:, -1:] + y[None, :, -1]

    def score(self, x: ArrayLike, y: ArrayLike) -> Float64[Tensor, "q g"]:
        """Log-likelihood ratios of all rows of x [q, d] with all rows of y [g, d]."""
        return self.compare(self.transform(x), self.transform(y))


def _covariance(centred: Float64[Tensor, "n d"], n: int) -> Square:
    return centred.T @ centred / n


def _people(embeddings: ArrayLike, labels: ArrayLike) -> tuple[Float64[Tensor, "n d"], Int64[Tensor, " n"], Identities]:
    """Labelled unit rows in float64, people numbered from 0, and who they are."""
    rows = fitted_rows(embeddings, labels, ids=None, groups=None, metric="cosine")
    assert rows.labels is not None
    inside = rows.labels != UNLABELLED
    y = rows.labels[inside].unique(return_inverse=True)[1]
    if not len(y) or int(y.max()) == 0 or len(y) == int(y.max()) + 1:
        raise ValueError(
            f"{len(y)} labelled rows of {int(y.max()) + 1 if len(y) else 0} people: two people at least are needed, "
            "and somebody with two rows"
        )
    return rows.embeddings[inside].double(), y, identities(rows.labels, names=rows.label_names)


def _scatters(x: Float64[Tensor, "n d"], y: Int64[Tensor, " n"]) -> tuple[Square, Square, Int64[Tensor, " c"]]:
    """Sums of squares within people and between them, and rows of each."""
    sizes = torch.bincount(y)
    means = torch.zeros(len(sizes), x.shape[1], dtype=torch.float64, device=x.device).index_add_(0, y, x)
    means /= sizes[:, None]
    inner, outer = x - means[y], means - x.mean(0)
    return inner.T @ inner, (outer.T * sizes) @ outer, sizes


def _session_means(rows: Rows) -> tuple[Float64[Tensor, "s d"], Int64[Tensor, " s"]]:
    """The mean of each session of each person."""
    assert rows.labels is not None
    assert rows.groups is not None
    inside = rows.labels != UNLABELLED
    x, keys = rows.embeddings[inside].double(), torch.stack([rows.labels[inside], rows.groups[inside]], 1)
    cells, place, count = keys.unique(dim=0, return_inverse=True, return_counts=True)
    means = torch.zeros(len(cells), x.shape[1], dtype=torch.float64, device=x.device).index_add_(0, place, x)
    people = cells[:, 0].unique(return_inverse=True)[1]
    if len(people) == int(people.max()) + 1:
        raise ValueError("nobody has rows of two groups: WCCN across sessions needs them; leave out groups")
    return means / count[:, None], people


def _joint(between: Square, within: Square) -> tuple[Float64[Tensor, " d"], Square]:
    """B v = l W v with v' W v = 1, largest l first."""
    values, vectors = torch.linalg.eigh(within)
    if float(values[0]) <= 1e-12 * float(values[-1]):
        raise ValueError("what people vary within themselves has no spread in some direction: pass shrinkage above 0")
    white = vectors / values.sqrt()
    found, turn = torch.linalg.eigh(white.T @ between @ white)
    return found.flip(0), (white @ turn).flip(1)
