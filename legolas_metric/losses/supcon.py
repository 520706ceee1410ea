"""Supervised contrastive loss."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from legolas_metric.checks import ArrayLike, check_choice, check_number
from legolas_metric.distributed import World
from legolas_metric.geometry import masked_logsumexp
from legolas_metric.losses.listed import Indices
from legolas_metric.losses.loss_inputs import Batch, Given, prepare
from legolas_metric.losses.loss_settings import answers_pml
from legolas_metric.losses.means import Ways, anchor_values, loss_detail, mean_and_sums
from legolas_metric.losses.pair_masks import Block
from legolas_metric.losses.symmetric import Finished, Positives
from legolas_metric.losses.terms import LossDetail, Sums, Terms
from legolas_metric.signatures import typed

Form = Literal["out", "in"]

# From exp(-40) to exp(40) sums and their inverses are normal float32; beyond, the maximum of each row is needed.
_RANGE = 40.0
# Beyond these 1 / T, or the gradient, leaves float32.
_COLDEST, _HOTTEST = 1e-6, 1e6


def supcon_loss(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    indices_tuple: Indices | None = None,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
    *,
    temperature: int | float | Float[Tensor, ""] = 0.1,
    form: Form = "out",
    weights: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    ref_ids: ArrayLike | None = None,
    gather: World | None = None,
    workspace_mb: int | None = 64,
) -> Float[Tensor, ""]:
    """`SupConLoss` as a pure function; a tensor as temperature gets a gradient.

    Example:
        >>> import torch
        >>> embeddings = torch.ones(8, 4)  # collapsed: log(8 - 1)
        >>> round(supcon_loss(embeddings, torch.arange(8) // 2).item(), 4)
        1.9459
    """
    _check(temperature, form)
    given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, gather)
    return _mean(prepare(given, once=workspace_mb is not None), temperature, form, workspace_mb)[0]


class SupConLoss(nn.Module):
    """Supervised contrastive loss: every positive against all the other rows of the batch.

    out:  L_i = -1/|P(i)| sum_{p in P(i)} log(exp(s_ip / T) / sum_{a != i} exp(s_ia / T))
    in:   L_i = -log(1/|P(i)| sum_{p in P(i)} exp(s_ip / T) / sum_{a != i} exp(s_ia / T))

    with s the cosine similarity; the loss is the mean of L_i over the anchors that have a positive. Under an
    `indices_tuple` the sums run over the listed pairs. Collapsed embeddings have the value ln(B - 1).

    Equal to PML's `SupConLoss` (L_out) but for: a batch of one class, or a tuple of at most one pair, for which PML
    gives 0 and this gives the formula's value; anchors whose L_i is 0, or rounds to it (nothing to compare their
    positive with, or a small T), which PML leaves out of the mean; label -1, a class like any other to PML; and rows of
    zeros, refused here. A pair that is listed twice counts once in both.

    Args:
        temperature: T, between 1e-6 and 1e6.
        form: "out" or "in", see above.
        learnable: make ln T a parameter, `log_temperature`, that starts at `temperature`.
        gather: processes whose rows are reference rows of every anchor, see `World`.
        workspace_mb: memory for similarities; None holds all of them at once in plain torch, differentiable twice.

    Raises:
        TypeError: an argument of PML's that this does not have, with what to write instead.
        ValueError: a temperature that is not positive or out of range, or another form.

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(SupConLoss(temperature=0.5)(embeddings, torch.arange(8) % 4).item(), 4)  # ln(e^2 + 6) - 2
        0.5944

    Source: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020.
    """

    @answers_pml
    @typed
    def __init__(
        self,
        temperature: int | float = 0.1,
        *,
        form: Form = "out",
        learnable: bool = False,
        gather: World | None = None,
        workspace_mb: int | None = 64,
    ) -> None:
        super().__init__()
        _check(temperature, form)
        self.form: Form = form
        self.gather = gather
        self.workspace_mb = workspace_mb
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log()) if learnable else None
        self._fixed = float(temperature)

    @property
    def temperature(self) -> float | Float[Tensor, ""]:
        """T: a number, or where it is learnable a tensor."""
        return self._fixed if self.log_temperature is None else self.log_temperature.exp()

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
        """The loss of a batch.

        Args:
            embeddings: [n, d], of any length: normalised here. Rows shorter than the least normal number of their dtype
                (6.1e-5 in float16) count as zero rows.
            labels: [n] integers, -1 for unlabelled: negative to every labelled anchor, and nothing else.
            indices_tuple: (a, p, n), (a1, p, a2, n) or a record of ids; default: all pairs.
            ref_emb, ref_labels: [m, d] and [m], reference rows instead of the batch itself.
            weights: [n], >= 0: the mean over anchors is weighted.
            ids, ref_ids: [n] and [m]; the same id is the same example, and no pair.
            detail: return (loss, LossDetail).

        Returns:
            The loss, in the embeddings' own type (computed in float32, or in float64 where they are); under autocast in
            float32 at least.

        Raises:
            ValueError: NaN, inf or a row of zeros; a record of ids without the batch's `ids`; what does not fit.
        """
        given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, self.gather)
        batch = prepare(given, once=self.workspace_mb is not None)
        mean, sums = _mean(batch, self.temperature, self.form, self.workspace_mb)
        return (mean, loss_detail(batch, sums)) if detail else mean

    def per_anchor(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        indices_tuple: Indices | None = None,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
    ) -> Float[Tensor, " n"]:
        """Each anchor's L_i, [n], by the plain formula: for a mean of one's own. 0 for an anchor without a positive."""
        batch = prepare(Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, None, None, None, None))
        return anchor_values(batch, _ways(batch, self.temperature, self.form))


def _check(temperature: int | float | Float[Tensor, ""], form: Form) -> None:
    check_choice("form", form, get_args(Form))
    if isinstance(temperature, Tensor):
        if torch.compiler.is_compiling():
            return
        temperature = float(temperature.detach())
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    check_number("temperature", temperature, least=_COLDEST, most=_HOTTEST)


def _mean(
    batch: Batch, temperature: int | float | Float[Tensor, ""], form: Form, workspace_mb: int | None
) -> tuple[Float[Tensor, ""], Sums]:
    return mean_and_sums(batch, _ways(batch, temperature, form), workspace_mb)


def _ways(batch: Batch, temperature: int | float | Float[Tensor, ""], form: Form) -> Ways:
    if isinstance(temperature, Tensor):  # it may have been learnt
        _check(temperature, form)
    inner = form == "in"
    scale = 1 / temperature
    sums = None
    if batch.symmetric and not torch.compiler.is_compiling():
        highest = float(scale.detach() if isinstance(scale, Tensor) else scale)
        sums = _PairSums(inner) if highest < _RANGE else None
    return Ways(partial(_formula, inner=inner), partial(_kernel, inner=inner), sums, scale)


def _formula(logits: Float[Tensor, "b m"], block: Block, *, inner: bool) -> Terms:
    some = block.positive.any(1)
    log_all = masked_logsumexp(logits, block.positive | block.negative)
    if inner:
        log_positive = masked_logsumexp(logits, block.positive) - block.positive.sum(1).to(logits.dtype).log()
    else:
        log_positive = (logits * _shares(block, logits.dtype)).sum(1)
    return _terms(torch.where(some, log_all - log_positive, 0.0), some.to(logits.dtype))


def _kernel(logits: Float[Tensor, "b m"], block: Block, *, inner: bool) -> Terms:
    band = logits[:, block.band]
    some = block.positive.any(1)
    if inner:
        chosen = torch.where(block.positive, band, -torch.inf)
        log_positive = (
            torch.where(some, chosen.logsumexp(1), 0.0) - block.positive.sum(1).clamp_min(1).to(logits.dtype).log()
        )
        shares = torch.where(some[:, None], chosen.softmax(1), 0.0)
    else:
        shares = _shares(block, logits.dtype)
        log_positive = (band * shares).sum(1)
    band.copy_(torch.where(block.positive | block.negative, band, -torch.inf))
    top = logits.amax(1)
    top = top.masked_fill(top == -torch.inf, 0.0)
    total = logits.sub_(top[:, None]).exp_().sum(1)
    value = torch.where(some, top + total.log() - log_positive, 0.0)
    logits.mul_(torch.where(some, 1 / total, 0.0)[:, None])
    band.sub_(shares)
    return _terms(value, some.to(value.dtype))


@dataclass(frozen=True, slots=True)
class _PairSums:
    """E = exp(s), which stays in range; Q = s (out) or E (in)."""

    inner: bool

    def weigh(self, s: Float[Tensor, "b v"], column: Int64[Tensor, "b p"], some: Float[Tensor, "b p"]) -> Positives:
        """As `PairSums.weigh`."""
        if self.inner:
            q = s.exp_().gather(1, column) * some
            return Positives(q, q)
        q = s.gather(1, column) * some
        s.exp_()
        return Positives(q, some)

    def finish(self, z: Float[Tensor, " n"], p: Float[Tensor, " n"], count: Float[Tensor, " n"]) -> Finished:
        """As `PairSums.finish`."""
        counted = (count > 0).to(z.dtype)
        least = torch.finfo(z.dtype).tiny  # of the sums of anchors that there is nothing to compare with
        count, z = count.clamp_min(1), z.clamp_min(least)
        if self.inner:
            p = p.clamp_min(least)
            log_positive, by_p = (p / count).log_(), counted / -p
        else:
            log_positive, by_p = p / count, counted / -count
        return Finished(_terms(z.log().sub_(log_positive).mul_(counted), counted), counted / z, by_p)


def _shares(block: Block, dtype: torch.dtype) -> Float[Tensor, "b w"]:
    """1/|P(i)| at the positives."""
    return block.positive.to(dtype) / block.positive.sum(1, keepdim=True).clamp_min(1)


def _terms(value: Float[Tensor, " b"], counted: Float[Tensor, " b"]) -> Terms:
    return Terms(value, counted, (value.detach() > 0).to(value.dtype), torch.ones_like(counted))
