"""The losses of the arena, each with the parameters that it learns (proxies), which have a rate of their own."""

from collections.abc import Callable

from pytorch_metric_learning import losses as pml
from torch import Tensor, nn

from benchmarks.recipes.trial import Recipe
from legolas_metric import MultiSimilarityLoss, SupConLoss, TripletLoss

PROXY_RATE = 10.0  # times the encoder's
COOLING, WARMEST = 1 / 3, 0.1
ARC_MARGIN = 11.5  # degrees

Objective = Callable[[Tensor, Tensor, float], Tensor]
"""(embeddings, labels, share of the run that is over) -> the loss."""


def objective(recipe: Recipe, value: float, classes: int, width: int) -> tuple[Objective, list[nn.Parameter]]:
    """The loss of a recipe, and its own parameters."""
    if recipe.loss == "supcon":
        return _supcon(recipe, value), []
    if recipe.loss == "triplet":
        return _triplet(value, recipe.warm_up), []
    if recipe.loss == "multi-similarity":
        return _timeless(MultiSimilarityLoss(alpha=2.0, beta=40.0, base=value, mining=0.1)), []
    if recipe.loss == "proxy-anchor":
        module = pml.ProxyAnchorLoss(classes, width, margin=0.1, alpha=value)
    elif recipe.loss == "arcface":
        module = pml.ArcFaceLoss(classes, width, margin=ARC_MARGIN, scale=value)
    else:
        module = pml.NormalizedSoftmaxLoss(classes, width, temperature=value)
    own, proxies = _timeless(module), list(module.parameters())
    if recipe.loss != "softmax and supcon":
        return own, proxies
    pairs = _supcon(recipe, value)
    return (lambda x, y, done: own(x, y, done) + pairs(x, y, done)), proxies


def _timeless(module: nn.Module) -> Objective:
    return lambda x, y, done: module(x, y)


def _supcon(recipe: Recipe, value: float) -> Objective:
    """With `cooled`, T = 0.1 (value / 0.1)^(done / (1/3)) in the first third."""
    if not recipe.cooled:
        return _timeless(SupConLoss(temperature=value))

    def loss(x: Tensor, y: Tensor, done: float) -> Tensor:
        share = min(1.0, done / COOLING)
        return SupConLoss(temperature=WARMEST * (value / WARMEST) ** share)(x, y)

    return loss


def _triplet(margin: float, warm_up: float) -> Objective:
    """Semi-hard while it warms up, then batch-hard, which alone may collapse."""
    easy, hard = (TripletLoss(margin=margin, selection=selection) for selection in ("semihard", "hard"))
    return lambda x, y, done: (easy if done < warm_up else hard)(x, y)


def proxies_at_own_rate(encoder: nn.Module, proxies: list[nn.Parameter], rate: float) -> list[dict[str, object]]:
    """Parameter groups for AdamW: decay for the encoder alone."""
    groups: list[dict[str, object]] = [{"params": list(encoder.parameters()), "lr": rate, "weight_decay": 1e-4}]
    return [*groups, {"params": proxies, "lr": PROXY_RATE * rate, "weight_decay": 0.0}] if proxies else groups
