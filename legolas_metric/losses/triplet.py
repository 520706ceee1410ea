"""Triplet loss."""

from jaxtyping import Float
from torch import Tensor, nn

from legolas_metric.checks import ArrayLike
from legolas_metric.distributed import World
from legolas_metric.losses.listed import Indices
from legolas_metric.losses.loss_inputs import Batch, Given, prepare
from legolas_metric.losses.loss_settings import answers_pml
from legolas_metric.losses.means import loss_detail
from legolas_metric.losses.terms import LossDetail, Sums
from legolas_metric.losses.triplet_terms import Reduction, Selection, TripletRule, mean_by_rule
from legolas_metric.signatures import typed


def triplet_loss(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    indices_tuple: Indices | None = None,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
    *,
    margin: int | float = 0.2,
    selection: Selection = "hard",
    soft: bool = False,
    squared: bool = False,
    cosine: bool = False,
    soft_margin: int | float = 0.0,
    reduction: Reduction = "active",
    weights: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    ref_ids: ArrayLike | None = None,
    gather: World | None = None,
    workspace_mb: int | None = 64,
) -> Float[Tensor, ""]:
    """`TripletLoss` as a pure function.

    Example:
        >>> import torch
        >>> embeddings = torch.ones(8, 4)  # collapsed: the margin
        >>> round(triplet_loss(embeddings, torch.arange(8) // 2, margin=0.3).item(), 4)
        0.3
    """
    rule = TripletRule(margin, selection, soft, squared, cosine, soft_margin, reduction)
    given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, gather)
    return _mean(given, rule, workspace_mb)[1]


class TripletLoss(nn.Module):
    """Triplet loss on distances of unit rows, d = sqrt(2 - 2 s).

    hinge: max(0, d_ap - d_an + margin);  soft: log(1 + exp(d_ap - d_an + soft_margin)), without `margin`

    The hinge's mean is taken over the triplets whose loss is not 0, as in PML: triplets that are won do not dilute
    those that are not. Collapsed embeddings have the value `margin` (hinge) or ln 2 (soft).

    `selection` says which triplets of a batch count:
        "hard": each anchor's farthest positive with its nearest negative (batch-hard).
        "semihard": each positive with the nearest negative of d_ap < d_an < d_ap + margin; a positive without one is
            left out, and nothing is put in its place.
        "all": every anchor, positive and negative, by counting and never by listing (hinge), or one positive of each
            anchor at a time (soft).
        "violating": those of them with d_an <= d_ap + margin. The hinge of the others is 0, so that it differs from
            "all" only where `soft`, or in a mean over all that count.
    An `indices_tuple` takes its place: a 3-tuple is taken as it is, each triplet as often as it is listed; of a
    4-tuple, each anchor's positives with each of its negatives, a pair that is listed twice once. A pair that the
    labels contradict is left out, and said.

    Distances are taken in float64, and rows that are equal have d = 0, so that no choice hangs on rounding.

    Equal to PML's `TripletMarginLoss` ("all"; "hard" under its `BatchHardMiner`; `soft` with `soft_margin` for its
    `smooth_loss` with `margin`; `squared` with `LpDistance(power=2)`; `cosine` with `CosineSimilarity()`; "mean" with
    `MeanReducer()`) but for the repeated pairs above, and label -1, a class like any other to PML. Where d = 0 the
    derivative of d is taken as 0.

    Args:
        margin: >= 0, in d (in d^2 where `squared`, in s where `cosine`).
        selection: see above.
        soft: the soft margin instead of the hinge.
        squared: d^2 instead of d.
        cosine: 1 - s instead of d: the hinge is max(0, s_an - s_ap + margin).
        soft_margin: what is added inside the softplus.
        reduction: "active", the mean over triplets of a loss above 0, or "mean", over all that count.
        gather: processes whose rows are reference rows of every anchor, see `World`.
        workspace_mb: memory for similarities; None holds all of them at once in plain torch, differentiable twice.

    Raises:
        TypeError: an argument of PML's that this does not have, with what to write instead.
        ValueError: another selection or reduction, a margin that is negative or not finite, settings that exclude each
            other.

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(TripletLoss(margin=1.5)(embeddings, torch.arange(8) % 4).item(), 4)  # 0 - sqrt(2) + 1.5
        0.0858

    Source: Weinberger & Saul, JMLR 2009; Schroff et al., FaceNet, CVPR 2015; Hermans et al., In Defense of the Triplet
    Loss for Person Re-Identification, 2017. "violating" as PML's TripletMarginMiner.
    """

    @answers_pml
    @typed
    def __init__(
        self,
        margin: int | float = 0.2,
        selection: Selection = "hard",
        soft: bool = False,
        *,
        squared: bool = False,
        cosine: bool = False,
        soft_margin: int | float = 0.0,
        reduction: Reduction = "active",
        gather: World | None = None,
        workspace_mb: int | None = 64,
    ) -> None:
        super().__init__()
        TripletRule(margin, selection, soft, squared, cosine, soft_margin, reduction)
        self.margin = margin
        self.selection: Selection = selection
        self.soft = soft
        self.squared = squared
        self.cosine = cosine
        self.soft_margin = soft_margin
        self.reduction: Reduction = reduction
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
        """The loss of a batch; arguments as those of `SupConLoss.forward`, `weights` being the anchors'."""
        rule = TripletRule(
            self.margin, self.selection, self.soft, self.squared, self.cosine, self.soft_margin, self.reduction
        )
        given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, self.gather)
        batch, mean, sums = _mean(given, rule, self.workspace_mb)
        return (mean, loss_detail(batch, sums)) if detail else mean


def _mean(given: Given, rule: TripletRule, workspace_mb: int | None) -> tuple[Batch, Float[Tensor, ""], Sums]:
    batch = prepare(given, keep_triplets=True, exact=True)
    return batch, *mean_by_rule(batch, rule, workspace_mb)
