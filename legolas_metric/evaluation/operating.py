"""Thresholds and what they do: the operating points of a verification; accepted is s >= threshold."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import check_number
from legolas_metric.evaluation.roc import SLACK, RocCounts
from legolas_metric.signatures import typed_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a threshold does.

    Attributes:
        far: share of impostor pairs that are accepted (false match rate, FMR).
        frr: share of genuine pairs that are rejected (false non-match rate, FNMR).

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_verification
        >>> report = evaluate_verification(torch.eye(4).repeat(2, 1), torch.arange(8) % 4)
        >>> report.rates_at(0.5)
        Rates(far=0.0, frr=0.0)

    Source: ISO/IEC 19795-1, Biometric performance testing and reporting.
    """

    far: float
    frr: float


@typed_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What errors cost: prior miss FRR + (1 - prior) false_accept FAR, the detection cost of speaker recognition.

    Attributes:
        miss: of a genuine pair that is rejected.
        false_accept: of an impostor pair that is accepted.
        prior: share of genuine pairs among those that will be judged.

    Raises:
        ValueError: a cost or prior that is not positive, or a prior above 1.

    Example:
        >>> from legolas_metric import Cost
        >>> round(Cost(miss=10, prior=0.1).best_blind, 3), Cost().bayes_threshold
        (0.9, 0.0)

    Source: the detection cost function of NIST's speaker recognition evaluations.
    """

    miss: float | int = 1.0
    false_accept: float | int = 1.0
    prior: float | int = 0.5

    def __post_init__(self) -> None:
        check_number("miss", self.miss, above=0.0)
        check_number("false_accept", self.false_accept, above=0.0)
        check_number("prior", self.prior, above=0.0, most=1.0)

    @property
    def best_blind(self) -> float:
        """What the better of accepting all and accepting none costs."""
        return min(self.prior * self.miss, (1 - self.prior) * self.false_accept)

    @property
    def bayes_threshold(self) -> float:
        """The log-likelihood ratio (natural logarithm) from which on accepting is the cheaper."""
        if self.prior == 1:
            return -math.inf
        return math.log((1 - self.prior) * self.false_accept / (self.prior * self.miss))

    def of(self, rates: Rates) -> float:
        """What these rates cost, not normalised."""
        return self.prior * self.miss * rates.frr + (1 - self.prior) * self.false_accept * rates.far


@dataclass(frozen=True, slots=True, eq=False)
class OperatingPoints:
    """How many pairs each known similarity accepts.

    Attributes:
        levels: [m] known similarities, ascending: those of genuine pairs, and of impostor pairs too where they are few.
        genuine, impostor: [m] pairs of this similarity or a greater one.
        above: [m] impostor pairs of a greater one.
        genuine_pairs, impostor_pairs: all.
    """

    levels: Float64[Tensor, " m"]
    genuine: Int64[Tensor, " m"]
    impostor: Int64[Tensor, " m"]
    above: Int64[Tensor, " m"]
    genuine_pairs: int
    impostor_pairs: int

    @classmethod
    def of(cls, counts: RocCounts) -> "OperatingPoints":
        """From what a tally has counted."""
        accepted = counts.genuine.flip(0).cumsum(0).flip(0)
        return cls(
            counts.levels,
            accepted,
            counts.above + counts.tied,
            counts.above,
            int(counts.genuine.sum()),
            counts.impostors,
        )

    @property
    def far(self) -> Float64[Tensor, " m"]:
        """False accept rate at each level."""
        return self.impostor.double() / self.impostor_pairs

    @property
    def frr(self) -> Float64[Tensor, " m"]:
        """False reject rate at each level."""
        return 1 - self.genuine.double() / self.genuine_pairs

    def threshold_at(self, far: float) -> float:
        """The greatest threshold of the best TAR with this FAR at most; infinite where only none accepted will do."""
        within = self.impostor.double() <= far * self.impostor_pairs * (1 + SLACK)
        some = within & (self.genuine > 0)
        if not bool(some.any()):
            return math.inf
        best = self.genuine[some].max()
        return float(self.levels[some & (self.genuine == best)].max())

    def equal_error_threshold(self) -> float:
        """The threshold at which FAR and FRR lie nearest to each other; the greater of two."""
        gap = (self.far - self.frr).abs()
        return float(self.levels[gap == gap.min()].max())

    def cheapest_threshold(self, cost: Cost) -> float:
        """Where prior miss FRR + (1 - prior) false_accept FAR is least (minDCF); infinite for accepting none."""
        total = cost.prior * cost.miss * self.frr + (1 - cost.prior) * cost.false_accept * self.far
        if float(total.min()) > cost.prior * cost.miss:
            return math.inf
        return float(self.levels[total == total.min()].max())

    def some_levels(self, most: int) -> Float64[Tensor, " k"]:
        """At most so many of the levels, even in the genuine pairs and in the logarithm of the FAR."""
        if len(self.levels) <= most:
            return self.levels
        pairs = torch.linspace(0, self.genuine_pairs, most // 2, dtype=torch.float64, device=self.levels.device)
        rates = torch.logspace(0, -math.log10(self.impostor_pairs), most // 2, dtype=torch.float64)
        by_genuine = torch.searchsorted(-self.genuine.double(), -pairs)
        by_far = torch.searchsorted(-self.far, -rates.to(self.levels.device))
        return self.levels[torch.cat([by_genuine, by_far]).clamp_max(len(self.levels) - 1).unique()]

    def rates_at(self, threshold: float | int) -> Rates:
        """What a threshold does: exact at a known similarity, and for impostors linear in between.

        Raises:
            ValueError: NaN.
        """
        if math.isnan(threshold):
            raise ValueError("threshold must be a similarity, got NaN, which accepts and rejects nothing")
        place = int(torch.searchsorted(self.levels, self.levels.new_tensor(threshold)))
        accepted = int(self.genuine[place]) if place < len(self.levels) else 0
        upper = float(self.impostor[place]) if place < len(self.levels) else 0.0
        lower = float(self.above[place - 1]) if place else float(self.impostor_pairs)
        if 0 < place < len(self.levels):
            high, low = float(self.levels[place]), float(self.levels[place - 1])
            upper += (lower - upper) * (high - threshold) / (high - low)
        elif place == 0 and threshold < float(self.levels[0]):
            upper = lower
        return Rates(far=upper / self.impostor_pairs, frr=1 - accepted / self.genuine_pairs)
