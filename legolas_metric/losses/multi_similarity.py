"""Multi-similarity loss."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from legolas_metric.checks import ArrayLike
from legolas_metric.losses.batch import Indices, prepare
from legolas_metric.losses.blockwise import Terms, mean_of, weighted_sums
from legolas_metric.losses.relation import Block


def multi_similarity_loss(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    indices_tuple: Indices | None = None,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    mining: float | None = None,
    weights: ArrayLike | None = None,
    workspace_mb: int | None = 16,
) -> Float[Tensor, ""]:
    """Functional form of `MultiSimilarityLoss`."""
    batch = prepare(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights=weights)
    sums = weighted_sums(
        batch.x,
        batch.r,
        batch.weights,
        batch.relation,
        kernel=partial(_kernel, alpha=alpha, beta=beta, base=base, mining=mining),
        formula=partial(_formula, alpha=alpha, beta=beta, base=base, mining=mining),
        workspace_mb=workspace_mb,
    )
    return mean_of(sums)


class MultiSimilarityLoss(nn.Module):
    """Multi-similarity loss (Wang et al. 2019).

    mean over anchors of (1/alpha) log(1 + sum_P exp(-alpha (s - base))) + (1/beta) log(1 + sum_N exp(beta (s - base)))

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(MultiSimilarityLoss()(embeddings, torch.arange(8) % 4).item(), 4)
        0.1566
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        mining: float | None = None,
        *,
        workspace_mb: int | None = 16,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.mining = mining
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
    ) -> Float[Tensor, ""]:
        """The loss of a batch."""
        return multi_similarity_loss(
            embeddings,
            labels,
            indices_tuple,
            ref_emb,
            ref_labels,
            alpha=self.alpha,
            beta=self.beta,
            base=self.base,
            mining=self.mining,
            weights=weights,
            workspace_mb=self.workspace_mb,
        )


def _formula(
    s: Float[Tensor, "b m"], block: Block, *, alpha: float, beta: float, base: float, mining: float | None
) -> Terms:
    positive, negative = block.positive, block.negative
    if mining is not None:
        hardest_positive, hardest_negative = _extremes(s.detach(), s.detach().masked_fill(~negative, -torch.inf), block)
        positive = positive & (s < hardest_negative[:, None] + mining)
        negative = negative & (s > hardest_positive[:, None] - mining)
    # A column of zeros is the 1 inside the logarithm.
    pull = pad((-alpha * (s - base)).masked_fill(~positive, -torch.inf), (0, 1)).logsumexp(1) / alpha
    push = pad((beta * (s - base)).masked_fill(~negative, -torch.inf), (0, 1)).logsumexp(1) / beta
    return _terms(pull + push)


def _kernel(
    s: Float[Tensor, "b m"], block: Block, *, alpha: float, beta: float, base: float, mining: float | None
) -> Terms:
    band = s[:, block.band]
    positive = block.positive
    positives = band.clone()
    band.masked_fill_(~block.negative, -torch.inf)
    if mining is not None:
        hardest_positive, hardest_negative = _extremes(positives, s, block)
        positive = positive & (positives < hardest_negative[:, None] + mining)
        s.masked_fill_(s <= hardest_positive[:, None] - mining, -torch.inf)
    pull = positives.sub_(base).mul_(-alpha).masked_fill_(~positive, -torch.inf)
    pull_value = _log_one_plus_sum(pull)
    push_value = _log_one_plus_sum(s.sub_(base).mul_(beta))
    band.sub_(pull)
    return _terms(pull_value / alpha + push_value / beta)


def _log_one_plus_sum(exponents: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
    """log(1 + sum exp) of each row, whose entries become their shares of that sum: the derivative."""
    top = exponents.amax(1).clamp_min(0)
    total = exponents.sub_(top[:, None]).exp_().sum(1) + (-top).exp()
    exponents.div_(total[:, None])
    return top + total.log()


def _extremes(s: Tensor, negatives: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """The least similar positive (inf where there is none) and the most similar negative (-inf) of each anchor."""
    return s.masked_fill(~block.positive, torch.inf).amin(1), negatives.amax(1)


def _terms(value: Float[Tensor, " b"]) -> Terms:
    one = torch.ones_like(value)
    return Terms(value, one, (value.detach() > 0).to(value.dtype), one)
