"""Multi-similarity loss."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

from legolas_metric.checks import ArrayLike, check_number
from legolas_metric.distributed import World
from legolas_metric.losses.listed import Indices
from legolas_metric.losses.loss_inputs import Batch, Given, prepare
from legolas_metric.losses.loss_rows import settled
from legolas_metric.losses.loss_settings import answers_pml
from legolas_metric.losses.means import Ways, anchor_values, loss_detail, mean_and_sums
from legolas_metric.losses.pair_masks import Block
from legolas_metric.losses.symmetric import Finished, Positives
from legolas_metric.losses.terms import LossDetail, Sums, Terms
from legolas_metric.signatures import typed

# exp(80) is still a float32: beyond that the maximum of each row has to come off first.
_RANGE = 80.0
# Beyond it the exponents leave float32.
_STEEPEST = 1e6


def multi_similarity_loss(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    indices_tuple: Indices | None = None,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
    *,
    alpha: int | float = 2.0,
    beta: int | float = 50.0,
    base: int | float = 0.5,
    mining: int | float | None = None,
    weights: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    ref_ids: ArrayLike | None = None,
    gather: World | None = None,
    workspace_mb: int | None = 64,
) -> Float[Tensor, ""]:
    """`MultiSimilarityLoss` as a pure function.

    Example:
        >>> import torch
        >>> round(multi_similarity_loss(torch.eye(4).repeat(2, 1), torch.arange(8) % 4).item(), 4)
        0.1566
    """
    given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, gather)
    return _given_mean(given, _Shape(alpha, beta, base), mining, workspace_mb)[1]


class MultiSimilarityLoss(nn.Module):
    """Multi-similarity loss: positives and negatives weighted by how similar they are among their like.

    L_i = 1/alpha log(1 + sum_{p in P(i)} exp(-alpha (s_ip - base)))
          + 1/beta log(1 + sum_{n in N(i)} exp(beta (s_in - base)))

    with s the cosine similarity; the loss is the mean of L_i over all labelled anchors. With `mining`, a negative
    counts only where s_in + mining > min_P s_ip, and a positive only where s_ip - mining < max_N s_in; that is decided
    in float64, and rows that are equal have s = 1.

    Equal to PML's `MultiSimilarityLoss` (with `mining`, under its `MultiSimilarityMiner`) but for tuples of at most
    one pair, for which PML gives 0 and this gives the formula's value, and for label -1, a class like any other to PML.
    The authors' code drops positives of similarity above 1 - 1e-5, and so duplicates; this keeps them.

    Args:
        alpha, beta: > 0 and at most 1e6, sharpness of the weighting of positives and of negatives.
        base: similarity at which pairs start to matter.
        mining: None, or the authors' epsilon (0.1) for the rule above.
        gather: processes whose rows are reference rows of every anchor, see `World`.
        workspace_mb: memory for similarities; None holds all of them at once in plain torch, differentiable twice.

    Raises:
        TypeError: an argument of PML's that this does not have, with what to write instead.
        ValueError: alpha or beta that is not positive, or a setting that is not finite.

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(MultiSimilarityLoss()(embeddings, torch.arange(8) % 4).item(), 4)  # ln(1 + 1/e) / 2 + tiny
        0.1566

    Source: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019.
    """

    @answers_pml
    @typed
    def __init__(
        self,
        alpha: int | float = 2.0,
        beta: int | float = 50.0,
        base: int | float = 0.5,
        mining: int | float | None = None,
        *,
        gather: World | None = None,
        workspace_mb: int | None = 64,
    ) -> None:
        super().__init__()
        _Shape(alpha, beta, base)
        _check_mining(mining)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.mining = mining
        self.gather = gather
        self.workspace_mb = workspace_mb

    def forward(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        indices_tuple: Indices | None = None,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
        *,
        weights: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        ref_ids: ArrayLike | None = None,
        detail: bool = False,
    ) -> Float[Tensor, ""] | tuple[Float[Tensor, ""], LossDetail]:
        """The loss of a batch; arguments as those of `SupConLoss.forward`."""
        given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, self.gather)
        shape = _Shape(self.alpha, self.beta, self.base)
        batch, mean, sums = _given_mean(given, shape, self.mining, self.workspace_mb)
        return (mean, loss_detail(batch, sums)) if detail else mean

    def per_anchor(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        indices_tuple: Indices | None = None,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
    ) -> Float[Tensor, " n"]:
        """Each anchor's L_i, [n], by the plain formula: for a mean of one's own. 0 for an unlabelled anchor."""
        given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, None, None, None, None)
        return anchor_values(*_batch_and_ways(given, _Shape(self.alpha, self.beta, self.base), self.mining))


@dataclass(frozen=True, slots=True)
class _Shape:
    """The loss's constants; and the loss by sums: E = exp(beta (s - base)) of negatives, Q = exp(-alpha (s - base))."""

    alpha: int | float
    beta: int | float
    base: int | float

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, most=_STEEPEST)
        check_number("beta", self.beta, most=_STEEPEST)
        check_number("base", self.base, least=-_STEEPEST, most=_STEEPEST)
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(f"alpha and beta must be positive, got {self.alpha} and {self.beta}")

    def in_range(self, n: int) -> bool:
        """Whether every exponential, and the sum of a batch of n of them, is a normal float32."""
        least = max(self.beta * (1 + self.base), self.alpha * (1 - self.base))
        most = max(self.beta * (1 - self.base), self.alpha * (1 + self.base)) + math.log(max(1, n))
        return max(least, most) < _RANGE

    def weigh(self, s: Float[Tensor, "b v"], column: Int64[Tensor, "b p"], some: Float[Tensor, "b p"]) -> Positives:
        """As `PairSums.weigh`."""
        q = s.gather(1, column).sub_(self.base).mul_(-self.alpha).exp_().mul_(some)
        s.sub_(self.base).mul_(self.beta).exp_().scatter_(1, column, 0.0)
        return Positives(q, q)

    def finish(self, z: Float[Tensor, " n"], p: Float[Tensor, " n"], count: Float[Tensor, " n"]) -> Finished:
        """As `PairSums.finish`."""
        value = p.log1p() / self.alpha + z.log1p() / self.beta
        return Finished(_terms(value), 1 / (1 + z), -1 / (1 + p))


def _check_mining(mining: int | float | None) -> None:
    if isinstance(mining, bool):
        raise TypeError("mining is an epsilon such as 0.1, or None, not a switch")
    if mining is not None:
        check_number("mining", mining)


def _given_mean(
    given: Given, shape: _Shape, mining: int | float | None, workspace_mb: int | None
) -> tuple[Batch, Float[Tensor, ""], Sums]:
    batch, ways = _batch_and_ways(given, shape, mining, once=workspace_mb is not None)
    return batch, *mean_and_sums(batch, ways, workspace_mb)


def _batch_and_ways(
    given: Given, shape: _Shape, mining: int | float | None, *, once: bool = False
) -> tuple[Batch, Ways]:
    _check_mining(mining)
    batch = prepare(given, exact=mining is not None, once=once)
    formula, kernel = (partial(way, shape=shape, mining=mining, dtype=batch.dtype) for way in (_formula, _kernel))
    sums = shape if mining is None and shape.in_range(len(batch.r)) else None
    return batch, Ways(formula, kernel, sums)


def _formula(
    s: Float[Tensor, "b m"], block: Block, *, shape: _Shape, mining: int | float | None, dtype: torch.dtype
) -> Terms:
    positive, negative = block.positive, block.negative
    if mining is not None:
        decides = settled(s.detach(), dtype)
        least, most = _extremes(decides, decides.masked_fill(~negative, -torch.inf), block)
        positive = positive & ~(decides >= most[:, None] + mining)
        negative = negative & ~(decides <= least[:, None] - mining)
    # A column of zeros is the 1 inside the logarithm.
    pull = pad((-shape.alpha * (s - shape.base)).masked_fill(~positive, -torch.inf), (0, 1)).logsumexp(1)
    push = pad((shape.beta * (s - shape.base)).masked_fill(~negative, -torch.inf), (0, 1)).logsumexp(1)
    return _terms(pull / shape.alpha + push / shape.beta)


def _kernel(
    s: Float[Tensor, "b m"], block: Block, *, shape: _Shape, mining: int | float | None, dtype: torch.dtype
) -> Terms:
    band, positive = s[:, block.band], block.positive
    positives = band.clone()
    band.copy_(torch.where(block.negative, band, -torch.inf))
    if mining is not None:
        near, decides = settled(positives, dtype), settled(s, dtype)
        least, most = _extremes(near, decides, block)
        positive = positive & ~(near >= most[:, None] + mining)
        s.masked_fill_(decides <= least[:, None] - mining, -torch.inf)
    pull = torch.where(positive, -shape.alpha * (positives - shape.base), -torch.inf)
    pull_value = _log_one_plus_sum(pull)
    push_value = _log_one_plus_sum(s.sub_(shape.base).mul_(shape.beta))
    band.sub_(pull)
    return _terms(pull_value / shape.alpha + push_value / shape.beta)


def _log_one_plus_sum(exponents: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
    """log(1 + sum exp) of each row, whose entries become their shares of that sum: the derivative."""
    top = exponents.amax(1).clamp_min(0)
    total = exponents.sub_(top[:, None]).exp_().sum(1) + (-top).exp()
    exponents.div_(total[:, None])
    return top + total.log()


def _extremes(s: Tensor, negatives: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """The least similar positive (inf where there is none) and the most similar negative (-inf) of each anchor."""
    return torch.where(block.positive, s, torch.inf).amin(1), negatives.amax(1)


def _terms(value: Float[Tensor, " b"]) -> Terms:
    one = torch.ones_like(value)
    return Terms(value, one, (value.detach() > 0).to(value.dtype), one)
