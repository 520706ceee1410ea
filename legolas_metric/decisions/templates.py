"""Templates: several recordings of a person made one, and who a new sample is. Letters: q probes, t templates, c names.

A name may stand for several templates; then its score is fused from theirs.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, as_tensor, check_choice, check_dimension, check_whole
from legolas_metric.decisions.calibration import Calibration
from legolas_metric.evaluation.decision import DecisionRule
from legolas_metric.evaluation.scores import score_block, turned, widened, within_range
from legolas_metric.geometry import chunks, normalise
from legolas_metric.names import as_named
from legolas_metric.rows import as_prepared

TemplateNames = tuple[str, ...] | Int64[Tensor, " t"]
How = Literal["mean", "all"]
Fuse = Literal["max", "mean"]


def enrol(
    embeddings: ArrayLike, *, by: ArrayLike, how: How = "mean", weights: ArrayLike | None = None
) -> tuple[Float32[Tensor, "t d"], TemplateNames]:
    """Make the recordings of each person a template.

        mean:  sum of w x / |x| over the person's rows, scaled to unit length (w = 1 without weights)
        all:   every row, for scores that are fused afterwards: by their maximum, or by their mean

    Args:
        embeddings: [n, d].
        by: [n] whose each row is, integers or names; -1 or a missing name is left out.
        how: "mean" or "all".
        weights: [n] quality of each row, at least 0; of "mean" only.

    Returns:
        The templates, in ascending order of their names; and the names, a tuple where names were given.

    Raises:
        ValueError: rows that `evaluate_ranking` refuses, weights that are negative, not finite or zero for all rows of
            a person, rows of a person that cancel out.

    Warns:
        UserWarning: some templates rest on one row, and others on several.

    Example:
        >>> import torch
        >>> templates, names = enrol(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), by=["bob", "bob", "bob"])
        >>> names, templates.round(decimals=3).tolist()
        (('bob',), [[0.44699999690055847, 0.8939999938011169]])

    Source: ours.
    """
    check_choice("how", how, ("mean", "all"))
    rows = as_prepared(embeddings, "cosine")
    known = as_named(by, len(rows), name="by")
    each = known.codes.to(rows.device)
    inside = (each != UNLABELLED).nonzero().flatten()
    order = inside[each[inside].argsort(stable=True)]
    if not len(order):
        raise ValueError("by names nobody: all of its entries are missing")
    codes, place = each[order].unique(return_inverse=True)
    if how == "all":
        if weights is not None:
            raise ValueError("weights belong to how='mean': with how='all' every row is kept as it is")
        return rows[order], _called(each[order], known.names)
    weight = _weights(weights, len(rows)).to(rows.device)[order]
    total = torch.zeros(len(codes), rows.shape[1], dtype=torch.float64, device=rows.device)
    total.index_add_(0, place, rows[order].double() * weight[:, None])
    heavy = torch.zeros(len(codes), dtype=torch.float64, device=rows.device).index_add_(0, place, weight)
    nothing = torch.linalg.vector_norm(total, dim=1) <= 1e-6 * heavy
    if bool(nothing.any()):
        called = codes[nothing].tolist() if known.names is None else _called(codes[nothing], known.names)
        raise ValueError(
            f"{int(nothing.sum())} templates have no direction (first: {list(called)[:5]}): their "
            "weights are all 0, or their rows cancel out"
        )
    _tell_single(torch.bincount(place))
    return normalise(total.float()), _called(codes, known.names)


def _tell_single(rows: Int64[Tensor, " t"]) -> None:
    """Say where some templates rest on one row and others on more; where all do, nothing was to be averaged."""
    single = int((rows == 1).sum())
    if 0 < single < len(rows):
        warnings.warn(
            f"{single} of {len(rows)} templates rest on one row: they are less sure than the others; enrol more of "
            "these, or judge them apart",
            stacklevel=3,
        )


def _weights(weights: ArrayLike | None, n: int) -> Float64[Tensor, " n"]:
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    given = as_tensor(weights, name="weights").double().cpu()
    if given.shape != (n,) or not bool(given.isfinite().all()) or float(given.min()) < 0:
        raise ValueError(f"weights must be {n} finite numbers of at least 0, one a row, got shape {tuple(given.shape)}")
    return given


def _called(codes: Int64[Tensor, " t"], names: tuple[str, ...] | None) -> TemplateNames:
    return codes if names is None else tuple(names[code] for code in codes.tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identification:
    """Who each probe is: the best names, how sure, and whether any of them.

    Attributes:
        names: [q] tuples of k, best first; None beyond the names there are.
        scores: [q, k] similarity of each (-inf there).
        accepted: [q] whether the first reaches the rule's threshold; all True without a rule.
        llr: [q] log-likelihood ratio of the first, by the calibration; None without one.

    Example:
        >>> import torch
        >>> identify(torch.eye(2), torch.eye(2), [7, 9], k=2).names
        ((7, 9), (9, 7))

    Source: ours.
    """

    names: tuple[tuple[str | int | None, ...], ...]
    scores: Float64[Tensor, "q k"]
    accepted: Bool[Tensor, " q"]
    llr: Float64[Tensor, " q"] | None = None

    @property
    def who(self) -> tuple[str | int | None, ...]:
        """The name of each probe, or None: nobody."""
        return tuple(names[0] if known else None for names, known in zip(self.names, self.accepted.tolist()))


def identify(
    probes: ArrayLike,
    templates: ArrayLike,
    names: Sequence[str] | ArrayLike,
    *,
    rule: DecisionRule | None = None,
    k: int = 1,
    fuse: Fuse = "max",
    calibration: Calibration | None = None,
    metric: Metric = "cosine",
) -> Identification:
    """Who new samples are: the nearest name, or nobody where it is not near enough.

    Args:
        probes: [q, d].
        templates: [t, d], as `enrol` makes them.
        names: [t], whose each template is; one name may stand for several.
        rule: whose threshold the best name must reach. Mind that a search among c names makes about c times as many
            false accepts as one comparison: take the threshold of `evaluate_open_set`, or a FAR divided by c.
        k: names to give.
        fuse: what the score of several templates of a name is, their "max" or their "mean".
        calibration: which makes the best score a log-likelihood ratio.
        metric: of the similarity; the rule's, where it has one, must be the same.

    Raises:
        ValueError: lengths or dimensions that differ, a rule of another metric, missing names, k below 1.

    Example:
        >>> import torch
        >>> found = identify(torch.tensor([[1.0, 0.1]]), torch.eye(2), ["ann", "bob"])
        >>> found.who
        ('ann',)

    Source: ours.
    """
    check_choice("fuse", fuse, ("max", "mean"))
    if rule is not None and rule.metric not in (None, metric):
        raise ValueError(f"the rule's threshold is of metric {rule.metric!r}, not {metric!r}")
    x, y = as_prepared(probes, metric, name="probes"), as_prepared(templates, metric, name="templates")
    check_dimension(x, y, names=("probes", "templates"))
    known = as_named(names, len(y), name="names", of="templates")
    if bool((known.codes == UNLABELLED).any()):
        raise ValueError("names has missing entries: give each template its own")
    codes, place = known.codes.to(y.device).unique(return_inverse=True)
    scores = fused_scores(x, y, place, len(codes), metric, fuse)
    top = scores.topk(min(check_whole("k", k, 1), len(codes)), dim=1)
    called = codes[top.indices].tolist()
    if known.names is not None:
        called = [[known.names[code] for code in row] for row in called]
    padding = k - top.values.shape[1]
    values = torch.nn.functional.pad(top.values, (0, padding), value=-torch.inf)
    accepted = values[:, 0] >= (-torch.inf if rule is None else rule.threshold)
    return Identification(
        names=tuple((*row, *[None] * padding) for row in called),
        scores=values,
        accepted=accepted,
        llr=None if calibration is None else calibration.llr(values[:, 0]),
    )


def fused_scores(
    x: Tensor, y: Tensor, place: Int64[Tensor, " t"], count: int, metric: Metric, fuse: Fuse
) -> Float64[Tensor, "q c"]:
    """The score of each probe with each name, fused from those with its templates. Rows are prepared."""
    wide, out = widened(y, metric), []
    shares = torch.bincount(place, minlength=count).double()
    for part in chunks(len(x), rows_for(BLOCK, 16 * len(y))):
        scores = within_range(score_block(turned(widened(x[part], metric), metric), wide, metric), metric)
        where = place.expand(len(scores), -1)
        if fuse == "max":
            each = scores.new_full((len(scores), count), -torch.inf).scatter_reduce_(1, where, scores, "amax")
        else:
            each = scores.new_zeros(len(scores), count).scatter_add_(1, where, scores) / shares
        out.append(each)
    return torch.cat(out)
