"""Focal loss of a classifier."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from legolas_metric.checks import UNLABELLED, ArrayLike, as_tensor, check_at_least, check_number
from legolas_metric.losses.loss_rows import as_rows, as_weights, refuse_names, tensor_of, wide_type
from legolas_metric.losses.means import as_given
from legolas_metric.losses.terms import LossDetail
from legolas_metric.rows import as_labels


def focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: int | float = 2.0,
    class_weights: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Float[Tensor, ""]:
    """`FocalLoss` as a pure function.

    Example:
        >>> import torch
        >>> round(focal_loss(torch.zeros(3, 4), [0, 1, 2]).item(), 4)  # (3/4)^2 ln 4
        0.7798
    """
    return _weighted(logits, labels, gamma, class_weights, weights)[0]


class FocalLoss(nn.Module):
    """Focal loss: cross-entropy that looks away from what is already right.

    L_i = -alpha_y (1 - p_y)^gamma log p_y,  p = softmax(logits), averaged over the labelled rows

    Targets are hard: with mixed ones (mixup, label smoothing) (1 - p_y)^gamma has no agreed meaning, so they are
    refused. One balancing strategy at a time: class weights together with a weighted sampler balance twice.

    Args:
        gamma: >= 0; 0 is cross-entropy.
        class_weights: [c], alpha of each class (default: 1). The mean is over rows, and not divided by them.

    Raises:
        ValueError: a negative gamma, or class weights that are negative or not finite.

    Example:
        >>> import torch
        >>> round(FocalLoss(gamma=0.0)(torch.zeros(3, 4), torch.tensor([0, 1, -1])).item(), 4)  # ln 4
        1.3863

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """

    class_weights: Tensor | None

    def __init__(self, gamma: int | float = 2.0, *, class_weights: ArrayLike | None = None) -> None:
        super().__init__()
        _check(gamma)
        self.gamma = gamma
        if class_weights is not None:
            class_weights = as_tensor(class_weights, name="class_weights")
            n = len(class_weights) if class_weights.ndim else 1
            as_weights(class_weights, torch.ones(()), n, "class_weights", "classes")
        self.register_buffer("class_weights", class_weights)

    def forward(
        self, logits: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None, detail: bool = False
    ) -> Float[Tensor, ""] | tuple[Float[Tensor, ""], LossDetail]:
        """The loss of a batch.

        Args:
            logits: [n, c], one column for each class that there is.
            labels: [n] integers below c; -1 is left out.
            weights: [n], >= 0: the mean over rows is weighted.
            detail: return (loss, LossDetail), whose mean similarities are the mean probability of the right class and
                of a wrong one, and whose `no_positive` counts unlabelled rows.

        Raises:
            TypeError: targets that are not integers.
            ValueError: labels that no column stands for, and lengths that do not match.
        """
        mean, p, weight, value = _weighted(logits, labels, self.gamma, self.class_weights, weights)
        if not detail:
            return mean
        total, wrong_classes = weight.sum(), torch.as_tensor(logits).shape[1] - 1
        right = (weight * p).sum() / total  # NaN without a labelled row
        return mean, LossDetail(
            active_share=float((weight * (value > 0)).sum() / total),
            no_positive=int((torch.as_tensor(labels) == UNLABELLED).sum()),
            mean_positive=float(right),
            mean_negative=float((1 - right) / wrong_classes),
        )


def _weighted(
    logits: ArrayLike, labels: ArrayLike, gamma: int | float, class_weights: ArrayLike | None, weights: ArrayLike | None
) -> tuple[Float[Tensor, ""], Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Mean; and of each row the probability of its class, its weight, and its value."""
    _check(gamma)
    rows = as_rows(logits, "logits")
    n, c = rows.shape
    targets = _hard(labels, n, c).to(rows.device)
    unlabelled = targets == UNLABELLED
    with torch.autocast(rows.device.type, enabled=False):
        wide = rows.to(wide_type(rows.dtype))
        places = targets.masked_fill(unlabelled, 0)
        log_p = wide.log_softmax(1).gather(1, places[:, None])[:, 0]
        # Kept off 0, where its power has no derivative for gamma < 1.
        miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(wide.dtype).tiny)
        alpha = as_weights(class_weights, wide, c, "class_weights", "classes")[places]
        value = -alpha * miss**gamma * log_p
        weight = as_weights(weights, wide, n, "weights", "rows of logits").masked_fill(unlabelled, 0.0)
        total = weight.sum()
        mean = (weight * value).sum() / total.masked_fill(total == 0, 1.0)
    return as_given(mean, rows.dtype), log_p.detach().exp(), weight, value.detach()


def _check(gamma: int | float) -> None:
    check_number("gamma", gamma)
    check_at_least("gamma", gamma, 0)


def _hard(labels: ArrayLike, n: int, c: int) -> Tensor:
    refuse_names(labels, "labels")
    given = tensor_of(labels, "labels")
    if given.is_floating_point() or given.ndim == 2:
        raise TypeError(
            f"focal loss takes hard targets, [{n}] integers, got {given.dtype} of shape {tuple(given.shape)}: for soft "
            "targets (mixup, label smoothing) its weight (1 - p)^gamma is not defined; use cross_entropy for those"
        )
    if torch.compiler.is_compiling():
        return given.long()
    targets = as_labels(given, n, of="logits")
    if n and int(targets.max()) >= c:
        raise ValueError(f"labels go up to {int(targets.max())}, but logits have {c} columns: one for each class")
    return targets
