"""Scores made log-likelihood ratios, and how much information they lose on the way: Cllr (Brummer & du Preez 2006).

Letters: t trials, l levels of the score.
"""

import math
import os
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_tensor, check_choice, check_number
from legolas_metric.evaluation.bootstrap import FEW_IDENTITIES
from legolas_metric.evaluation.identities import Identities, as_text, from_text, identities_in
from legolas_metric.evaluation.operating import OperatingPoints
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.files import read_tensors, write_tensors

How = Literal["logistic", "isotonic"]
_KIND = "calibration"  # as files name it


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """From scores to log-likelihood ratios (natural logarithm): ln P(score | same) / P(score | different).

    logistic: llr = scale score + offset, both kinds weighted as by `prior`. isotonic: the non-decreasing function that
    fits best (pool adjacent violators), without what the shares of the two kinds add; its ends are infinite.

    Attributes:
        how: "logistic" or "isotonic".
        scale, offset: of "logistic"; NaN otherwise.
        knots, values: of "isotonic": from each knot on, this llr; empty otherwise.
        cllr: of the scores that it was fitted on, calibrated.
        rounded: impostor pairs that were counted at the next known score below their own, as beyond a million pairs a
            report keeps the genuine scores only: 0 where the fit is exact.
        identities: whom it was fitted on; empty where unknown.

    Example:
        >>> from legolas_metric import verification_from_scores
        >>> report = verification_from_scores([3.0, 2.0, 0.5, 1.0, 0.0, -1.0], [1, 1, 1, 0, 0, 0])
        >>> fitted = Calibration.fit(report, how="isotonic")
        >>> fitted.llr([3.0, 1.0, -1.0]).tolist()
        [inf, 0.0, -inf]
        >>> round(fitted.cllr, 4)  # (2 of 6 trials are undecided: log2(2) each)
        0.3333

    Source: Brummer and du Preez (2006); pool adjacent violators, Zadrozny and Elkan (2002).
    """

    how: How
    scale: float
    offset: float
    knots: Float64[Tensor, " l"] = field(repr=False)
    values: Float64[Tensor, " l"] = field(repr=False)
    cllr: float
    rounded: int = 0
    identities: Identities = field(default=frozenset(), repr=False)

    @classmethod
    def fit(cls, report: VerificationReport, *, how: How = "logistic", prior: float | int = 0.5) -> "Calibration":
        """Fit on the pairs of a report.

        Args:
            report: of other people than those that will be judged. Beyond a million pairs its impostors count at the
                next genuine score below: see `rounded`.
            how: "logistic" or "isotonic".
            prior: share of genuine pairs for which "logistic" fits best, in (0, 1).

        Raises:
            ValueError: an unknown `how`, a prior outside (0, 1).

        Warns:
            UserWarning: fewer than ten identities, where they are known.
        """
        check_choice("how", how, ("logistic", "isotonic"))
        check_number("prior", prior, above=0.0)
        if prior >= 1:
            raise ValueError(f"prior must be below 1, got {prior}")
        if report.pairs is not None and report.pairs.identities < FEW_IDENTITIES:
            warnings.warn(
                f"a calibration on {report.pairs.identities} identities says little: ten or more are needed",
                stacklevel=2,
            )
        levels, genuine, impostor = _weights(report.operating)
        scale = offset = math.nan
        knots = values = levels[:0]
        if how == "logistic":
            scale, offset = _logistic(levels, genuine, impostor, prior)
            llr = scale * levels + offset
        else:
            llr = _pooled(genuine, impostor)
            begins = torch.ones(len(llr), dtype=torch.bool)
            begins[1:] = llr[1:] > llr[:-1]
            knots, values = levels[begins], llr[begins]
        return cls(
            how=how,
            scale=scale,
            offset=offset,
            knots=knots,
            values=values,
            cllr=_cllr(llr, genuine, impostor),
            rounded=_between(report.operating),
            identities=identities_in(report.pairs),
        )

    def llr(self, scores: ArrayLike) -> Float64[Tensor, " t"]:
        """Log-likelihood ratios of scores of the same kind; a score below all that were seen is as the least of them.

        Args:
            scores: [t].
        """
        given = as_tensor(scores, name="scores").double()
        if self.how == "logistic":
            return self.scale * given + self.offset
        knots, values = (table.to(given.device) for table in (self.knots, self.values))
        return values[(torch.searchsorted(knots, given.contiguous(), right=True) - 1).clamp_min(0)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a safetensors file, whole or not at all."""
        plain = {name: repr(getattr(self, name)) for name in ("scale", "offset", "cllr", "rounded")}
        settings = {"kind": _KIND, "how": self.how, "people": as_text(self.identities)} | plain
        write_tensors(path, {"knots": self.knots, "values": self.values}, settings)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ValueError: a file of something else.
        """
        tensors, settings = read_tensors(path)
        if settings.get("kind") != _KIND:
            raise ValueError(f"{path} holds {settings.get('kind', 'something else')}, no calibration")
        how: Any = settings["how"]
        figures = {name: float(settings[name]) for name in ("scale", "offset", "cllr")}
        return cls(
            how=how,
            knots=tensors["knots"],
            values=tensors["values"],
            rounded=int(settings["rounded"]),
            identities=from_text(settings["people"]),
            **figures,
        )


def cllr(llr: ArrayLike, same: ArrayLike) -> float:
    """What log-likelihood ratios cost over all priors, in bits: 0 of an oracle, 1 of one that always says 0.

        Cllr = (mean over genuine of log2(1 + e^-llr) + mean over impostors of log2(1 + e^llr)) / 2

    Args:
        llr: [t] log-likelihood ratios, natural logarithm; infinite ones are allowed.
        same: [t] booleans: whether the pair is genuine.

    Raises:
        ValueError: lengths that differ, NaN, no genuine or no impostor pair.

    Example:
        >>> import math
        >>> round(cllr([math.log(3), -math.log(3)], [True, False]), 6) == round(math.log2(4 / 3), 6)
        True

    Source: Brummer and du Preez (2006), Application-independent evaluation of speaker detection.
    """
    ratios, genuine = _trials(llr, same)
    return _cllr(ratios, genuine.double(), (~genuine).double())


def min_cllr(scores: ArrayLike, same: ArrayLike) -> float:
    """The Cllr that is left after the best non-decreasing calibration of these very scores: what they could tell.

    Args:
        scores: [t], finite, larger for likelier genuine pairs.
        same: [t] booleans.

    Raises:
        ValueError: as `cllr`.

    Example:
        >>> min_cllr([0.9, 0.8, 0.2, 0.1], [True, True, False, False])
        0.0

    Source: Brummer and du Preez (2006), Application-independent evaluation of speaker detection.
    """
    given, genuine = _trials(scores, same)
    levels, place = given.unique(return_inverse=True)
    counts = torch.zeros(2, len(levels), dtype=torch.float64)
    counts[0].index_add_(0, place[genuine], torch.ones(int(genuine.sum())).double())
    counts[1].index_add_(0, place[~genuine], torch.ones(int((~genuine).sum())).double())
    return _cllr(_pooled(counts[0], counts[1]), counts[0], counts[1])


def _trials(scores: ArrayLike, same: ArrayLike) -> tuple[Float64[Tensor, " t"], Tensor]:
    given, genuine = as_tensor(scores, name="scores").double().cpu(), as_tensor(same, name="same").bool().cpu()
    if given.ndim != 1 or given.shape != genuine.shape:
        raise ValueError(
            f"scores and same must be 1-D and of one length, got shapes {tuple(given.shape)} and {tuple(genuine.shape)}"
        )
    if bool(given.isnan().any()):
        raise ValueError(f"scores: NaN in {int(given.isnan().sum())} of {len(given)}: drop these pairs")
    if not 0 < int(genuine.sum()) < len(given):
        raise ValueError(f"{int(genuine.sum())} genuine pairs of {len(given)}: some of each kind are needed")
    return given, genuine


def _weights(points: OperatingPoints) -> tuple[Float64[Tensor, " l"], Float64[Tensor, " l"], Float64[Tensor, " l"]]:
    """Each level with the genuine and the impostor pairs at it; impostors between two levels count at the lower."""
    genuine, impostor = (
        torch.cat([accepted, accepted.new_zeros(1)]).diff().neg().double().cpu()
        for accepted in (points.genuine, points.impostor)
    )
    levels = points.levels.cpu()
    impostor[0] += points.impostor_pairs - float(points.impostor[0])  # below all levels
    used = (genuine + impostor) > 0
    return levels[used], genuine[used], impostor[used]


def _between(points: OperatingPoints) -> int:
    """Impostor pairs whose score is no known level."""
    ahead = torch.cat([points.impostor, points.impostor.new_zeros(1)])[1:]
    return points.impostor_pairs - int(points.impostor[0]) + int((points.above - ahead).sum())


def _cllr(llr: Float64[Tensor, " l"], genuine: Float64[Tensor, " l"], impostor: Float64[Tensor, " l"]) -> float:
    def mean(values: Float64[Tensor, " l"], weight: Float64[Tensor, " l"]) -> float:
        some = weight > 0  # an infinite cost of no pair is none
        return float((torch.nn.functional.softplus(values[some]) * weight[some]).sum() / weight.sum())

    return (mean(-llr, genuine) + mean(llr, impostor)) / 2 / math.log(2)


def _pooled(genuine: Float64[Tensor, " l"], impostor: Float64[Tensor, " l"]) -> Float64[Tensor, " l"]:
    """The non-decreasing llr of ascending levels that fits best: pool adjacent violators, less the log of the odds."""
    from sklearn.isotonic import isotonic_regression

    weight = genuine + impostor
    share = isotonic_regression((genuine / weight).numpy(), sample_weight=weight.numpy(), y_min=0, y_max=1)
    posterior = torch.from_numpy(np.asarray(share, dtype=np.float64))
    posterior = torch.where(posterior < 1e-12, 0.0, torch.where(posterior > 1 - 1e-12, 1.0, posterior))
    llr = torch.logit(posterior) - math.log(float(genuine.sum() / impostor.sum()))
    return llr.cummax(0).values  # rounding must not undo the order


def _logistic(
    levels: Float64[Tensor, " l"], genuine: Float64[Tensor, " l"], impostor: Float64[Tensor, " l"], prior: float
) -> tuple[float, float]:
    """Scale and offset by logistic regression (Newton's method), with a trace of ridge where the kinds are apart."""
    centre, spread = levels.mean(), levels.std().nan_to_num(1.0).clamp_min(1e-12)
    x = torch.stack([(levels - centre) / spread, torch.ones_like(levels)], 1)
    positive, negative = prior * genuine / genuine.sum(), (1 - prior) * impostor / impostor.sum()
    odds = math.log(prior / (1 - prior))
    ridge = torch.diag(torch.tensor([1e-6, 0.0], dtype=torch.float64))
    beta = torch.zeros(2, dtype=torch.float64)

    def loss(b: Float64[Tensor, " 2"]) -> Float64[Tensor, ""]:
        z = x @ b + odds
        soft = torch.nn.functional.softplus
        return positive @ soft(-z) + negative @ soft(z) + b @ ridge @ b / 2

    for _ in range(100):
        p = torch.sigmoid(x @ beta + odds)
        gradient = x.T @ (p * negative - (1 - p) * positive) + ridge @ beta
        curvature = (x.T * ((positive + negative) * p * (1 - p))) @ x + ridge + 1e-12 * torch.eye(2).double()
        step, share = torch.linalg.solve(curvature, gradient), 1.0
        while share > 1e-6 and float(loss(beta - share * step)) > float(loss(beta)):
            share /= 2
        beta = beta - share * step
        if float(step.abs().max()) * share < 1e-10:
            break
    scale = float(beta[0] / spread)
    return scale, float(beta[1]) - scale * float(centre)
