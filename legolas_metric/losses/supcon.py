"""Supervised contrastive loss."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from legolas_metric.checks import ArrayLike
from legolas_metric.losses.batch import Indices, prepare
from legolas_metric.losses.blockwise import Terms, mean_of, weighted_sums
from legolas_metric.losses.relation import Block
from legolas_metric.numerics import masked_logsumexp


def supcon_loss(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    indices_tuple: Indices | None = None,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
    *,
    temperature: float | Float[Tensor, ""] = 0.1,
    weights: ArrayLike | None = None,
    workspace_mb: int | None = 16,
) -> Float[Tensor, ""]:
    """Functional form of `SupConLoss`."""
    batch = prepare(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights=weights)
    sums = weighted_sums(
        batch.x / temperature,
        batch.r,
        batch.weights,
        batch.relation,
        kernel=_out_kernel,
        formula=_out_formula,
        workspace_mb=workspace_mb,
    )
    return mean_of(sums)


class SupConLoss(nn.Module):
    """Supervised contrastive loss (Khosla et al. 2020, L_out): every positive against all other rows.

    mean over anchors i with a positive of -1/|P(i)| sum_{p in P(i)} log(exp(s_ip / T) / sum_{a != i} exp(s_ia / T))

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(SupConLoss(temperature=0.5)(embeddings, torch.arange(8) % 4).item(), 4)  # ln(e^2 + 6) - 2
        0.5944
    """

    def __init__(self, temperature: float = 0.1, *, workspace_mb: int | None = 16) -> None:
        super().__init__()
        self.temperature = temperature
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
        return supcon_loss(
            embeddings,
            labels,
            indices_tuple,
            ref_emb,
            ref_labels,
            temperature=self.temperature,
            weights=weights,
            workspace_mb=self.workspace_mb,
        )


def _out_formula(logits: Float[Tensor, "b m"], block: Block) -> Terms:
    share, some = _share(logits, block)
    log_sum = masked_logsumexp(logits, block.positive | block.negative)
    value = torch.where(some, log_sum - (logits * share).sum(1), 0.0)
    return _terms(value, some)


def _out_kernel(logits: Float[Tensor, "b m"], block: Block) -> Terms:
    band = logits[:, block.band]
    share, some = _share(logits, block)
    mean_positive = (band * share).sum(1)
    band.masked_fill_(~(block.positive | block.negative), -torch.inf)
    top = logits.amax(1).masked_fill(~some, 0.0)
    total = logits.sub_(top[:, None]).exp_().sum(1)
    value = torch.where(some, top + total.log() - mean_positive, 0.0)
    logits.mul_(torch.where(some, 1 / total, 0.0)[:, None])
    band.sub_(share)
    return _terms(value, some)


def _share(logits: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    count = block.positive.sum(1)
    share = block.positive.to(logits.dtype) / count.clamp_min(1)[:, None]
    return share, count > 0


def _terms(value: Tensor, some: Tensor) -> Terms:
    counted = some.to(value.dtype)
    return Terms(value, counted, (value.detach() > 0).to(value.dtype), torch.ones_like(counted))
