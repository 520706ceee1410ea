"""Verification of scores that were made elsewhere: trial lists, other systems, fused scores."""

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_integers, as_tensor
from legolas_metric.evaluation.arguments import as_fars
from legolas_metric.evaluation.identity_pairs import PairsGiven
from legolas_metric.evaluation.scores import Ties
from legolas_metric.evaluation.tally import ExactTally
from legolas_metric.evaluation.verification_report import VerificationReport, report_of
from legolas_metric.signatures import typed

_BINS = 200


@typed
def verification_from_scores(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    identities: ArrayLike | None = None,
    fars: float | ArrayLike = (1e-2, 1e-3, 1e-4),
) -> VerificationReport:
    """The report of given scores, larger for likelier genuine pairs: exact, in O(t log t).

    Args:
        scores: [t], finite.
        same: [t] booleans, or 0 and 1: whether the pair is genuine.
        identities: [t, 2] integers, whose pair it is; or [t], where one side says whose trial it is. `intervals` draws
            them, and is refused without.
        fars: as in `evaluate_verification`.

    Raises:
        TypeError: scores that are no numbers, or `same` that is neither booleans nor 0 and 1.
        ValueError: lengths that differ, NaN or inf, no genuine or no impostor pair.

    Example:
        >>> report = verification_from_scores([0.9, 0.4, 0.6, 0.1], [True, True, False, False])
        >>> report.auc, report.rates_at(0.5)
        (0.75, Rates(far=0.5, frr=0.5))

    Source: ours; of the AUC, Hanley and McNeil (1982), The Meaning and Use of the Area under a Receiver Operating
    Characteristic (ROC) Curve.
    """
    rates = as_fars(fars)
    given, genuine = as_tensor(scores, name="scores"), as_tensor(same, name="same")
    if given.ndim != 1 or genuine.shape != given.shape:
        raise ValueError(
            f"scores and same must be 1-D and of one length, got shapes {tuple(given.shape)} and {tuple(genuine.shape)}"
        )
    if genuine.dtype != torch.bool and not bool(((genuine == 0) | (genuine == 1)).all()):
        raise TypeError(f"same must be booleans, or 0 and 1, got {genuine.dtype}: give True for each genuine pair")
    values, genuine = given.detach().double(), genuine.bool().to(given.device)
    if not bool(values.isfinite().all()):
        raise ValueError(f"scores: NaN or inf in {int((~values.isfinite()).sum())} of {len(values)}: drop these pairs")
    count = int(genuine.sum())
    if not count or count == len(values):
        raise ValueError(f"{count} genuine and {len(values) - count} impostor pairs: verification needs some of each")
    who = None if identities is None else _who(identities, len(values)).to(values.device)
    low, high = float(values.min()), float(values.max())
    edges = torch.linspace(low, high if high > low else low + 1, _BINS + 1, dtype=torch.float64, device=values.device)
    tally = ExactTally(values[genuine], torch.cat([edges, values[~genuine]]), Ties(0.0, 0.0, torch.inf), len(values))
    blocks = iter(values[~genuine].split(1 << 16))
    tally.add(lambda: blocks)
    pairs = None if who is None else PairsGiven(values, genuine, who)
    return report_of(tally.counts(), edges, rates, auc_error=0.0, pairs=pairs, metric=None, baseline=None)


def _who(identities: ArrayLike, count: int) -> Int64[Tensor, "t 2"]:
    """The two identities of each pair."""
    given = as_tensor(identities, name="identities")
    if given.ndim == 2 and given.shape[1] == 2:
        left, right = (as_integers(column, count, name="identities", of="scores") for column in given.unbind(1))
        return torch.stack([left, right], 1)
    return as_integers(given, count, name="identities", of="scores")[:, None].expand(-1, 2)
