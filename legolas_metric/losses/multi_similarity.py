"""Multi-similarity loss."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from legolas_metric.checks import ArrayLike
from legolas_metric.distributed import World
from legolas_metric.losses.alone import PairForm, lone_mean, lone_rows
from legolas_metric.losses.loss_inputs import Batch, Given, Indices, prepare
from legolas_metric.losses.means import Ways, loss_detail, mean_and_sums
from legolas_metric.losses.pair_masks import Block
from legolas_metric.losses.symmetric import Finished, Positives
from legolas_metric.losses.terms import MULTI, LossDetail, Sums, Terms

# exp(80) is still a float32: beyond that the maximum of each row has to come off first.
_RANGE = 80.0


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
    return _loss(given, _Shape(alpha, beta, base), mining, workspace_mb)


class MultiSimilarityLoss(nn.Module):
    """Multi-similarity loss: positives and negatives weighted by how similar they are among their like.

    L_i = 1/alpha log(1 + sum_{p in P(i)} exp(-alpha (s_ip - base)))
          + 1/beta log(1 + sum_{n in N(i)} exp(beta (s_in - base)))

    with s the cosine similarity; the loss is the mean of L_i over all labelled anchors. With `mining`, a negative
    counts only where s_in + mining > min_P s_ip, and a positive only where s_ip - mining < max_N s_in.

    Equal to PML's `MultiSimilarityLoss` (with `mining`, under its `MultiSimilarityMiner`) but for tuples of at most
    one pair, for which PML gives 0 and this gives the formula's value, and for label -1, a class like any other to PML.
    The authors' code drops positives of similarity above 1 - 1e-5, and so duplicates; this keeps them.

    Args:
        alpha, beta: > 0, sharpness of the weighting of positives and of negatives.
        base: similarity at which pairs start to matter.
        mining: None, or the authors' epsilon (0.1) for the rule above.
        gather: processes whose rows are reference rows of every anchor, see `World`.
        workspace_mb: memory for similarities; None holds all of them at once in plain torch, differentiable twice.

    Raises:
        ValueError: alpha or beta that is not positive.

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(MultiSimilarityLoss()(embeddings, torch.arange(8) % 4).item(), 4)  # ln(1 + 1/e) / 2 + tiny
        0.1566

    Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019.
    """

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
        if isinstance(mining, bool):
            raise TypeError("mining is an epsilon such as 0.1, or None, not a switch")
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
        if not detail:
            return _loss(given, shape, self.mining, self.workspace_mb)
        batch = prepare(given)
        mean, sums = _mean(batch, shape, self.mining, self.workspace_mb)
        return mean, loss_detail(batch, sums)


@dataclass(frozen=True, slots=True)
class _Shape:
    """The loss's constants; and the loss by sums: E = exp(beta (s - base)) of negatives, Q = exp(-alpha (s - base))."""

    alpha: int | float
    beta: int | float
    base: int | float

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(f"alpha and beta must be positive, got {self.alpha} and {self.beta}")

    def in_range(self, n: int) -> bool:
        """Whether every exponential, and the sum of a batch of n of them, is a normal float32."""
        least = max(self.beta * (1 + self.base), self.alpha * (1 - self.base))
        most = max(self.beta * (1 - self.base), self.alpha * (1 + self.base)) + math.log(max(1, n))
        return max(least, most) < _RANGE

    def weigh(self, s: Float[Tensor, "b v"], positive: Float[Tensor, "b w"]) -> Positives:
        """As `PairSums.weigh`."""
        band = s[:, : positive.shape[1]]
        q = (-self.alpha * (band - self.base)).exp_().mul_(positive)
        s.sub_(self.base).mul_(self.beta).exp_()
        band.mul_(1 - positive)
        return Positives(q, q)

    def finish(self, z: Float[Tensor, " n"], p: Float[Tensor, " n"], count: Float[Tensor, " n"]) -> Finished:
        """As `PairSums.finish`."""
        value = p.log1p() / self.alpha + z.log1p() / self.beta
        return Finished(_terms(value), 1 / (1 + z), -1 / (1 + p))


def _loss(given: Given, shape: _Shape, mining: int | float | None, workspace_mb: int | None) -> Float[Tensor, ""]:
    rows = lone_rows(given, workspace_mb) if mining is None else None
    if rows is not None and workspace_mb is not None and shape.in_range(len(rows)):
        sums = PairForm(MULTI, float(shape.beta), shift=shape.beta * shape.base, slope=shape.alpha / shape.beta)
        mean = lone_mean(rows, given, sums, workspace_mb)
        assert mean is not None
        return mean
    return _mean(prepare(given), shape, mining, workspace_mb)[0]


def _mean(
    batch: Batch, shape: _Shape, mining: int | float | None, workspace_mb: int | None
) -> tuple[Float[Tensor, ""], Sums]:
    sums = shape if mining is None and shape.in_range(len(batch.r)) else None
    ways = Ways(partial(_formula, shape=shape, mining=mining), partial(_kernel, shape=shape, mining=mining), sums)
    return mean_and_sums(batch, ways, workspace_mb)


def _formula(s: Float[Tensor, "b m"], block: Block, *, shape: _Shape, mining: int | float | None) -> Terms:
    positive, negative = block.positive, block.negative
    if mining is not None:
        least, most = _extremes(s.detach(), s.detach().masked_fill(~negative, -torch.inf), block)
        positive = positive & ~(s >= most[:, None] + mining)
        negative = negative & ~(s <= least[:, None] - mining)
    # A column of zeros is the 1 inside the logarithm.
    pull = pad((-shape.alpha * (s - shape.base)).masked_fill(~positive, -torch.inf), (0, 1)).logsumexp(1)
    push = pad((shape.beta * (s - shape.base)).masked_fill(~negative, -torch.inf), (0, 1)).logsumexp(1)
    return _terms(pull / shape.alpha + push / shape.beta)


def _kernel(s: Float[Tensor, "b m"], block: Block, *, shape: _Shape, mining: int | float | None) -> Terms:
    band, positive = s[:, block.band], block.positive
    positives = band.clone()
    band.copy_(torch.where(block.negative, band, -torch.inf))
    if mining is not None:
        least, most = _extremes(positives, s, block)
        positive = positive & ~(positives >= most[:, None] + mining)
        s.copy_(torch.where(s <= least[:, None] - mining, -torch.inf, s))  # NaN stays
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
