"""Our losses as PML's."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from legolas_metric.checks import shown
from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss
from legolas_metric.signatures import typed

PairLoss = SupConLoss | MultiSimilarityLoss | TripletLoss

# The names by which PML knows what it may wrap, and the settings that its record keeper writes down.
_PML_NAMES = {
    SupConLoss: ("SupConLoss", ("temperature",)),
    MultiSimilarityLoss: ("MultiSimilarityLoss", ("alpha", "beta", "base")),
    TripletLoss: ("TripletMarginLoss", ("margin",)),
}
_TRIPLET_REDUCERS = {"MeanReducer": "mean", "AvgNonZeroReducer": "active"}


@typed
def as_loss(loss: PairLoss, *, reducer: nn.Module | None = None) -> nn.Module:
    """One of our losses as a PML loss: for `CrossBatchMemory`, `DistributedLossWrapper`, trainers and testers.

    PML knows losses by the name of their class and by their base: a loss of ours as it is ends in "CrossBatchMemory not
    supported for TripletLoss", or in a TypeError of `DistributedLossWrapper`. Adapt it.

    Args:
        loss: `SupConLoss`, `MultiSimilarityLoss` or `TripletLoss`.
        reducer: one of PML's, in place of the loss's own mean; `as_loss(...).reducer = ...` does the same. It is given
            the losses of the anchors, [n] (each row's similarities are then held at once, in plain torch). Of a
            `TripletLoss`, which lists no triplets: `MeanReducer` or `AvgNonZeroReducer`.

    Returns:
        A `BaseMetricLossFunction` whose class bears the name by which PML knows that loss, and that holds `loss`.

    Raises:
        TypeError: another loss, or, also when it is called, a reducer that cannot be served.

    Example:
        >>> import torch
        >>> from legolas_metric import SupConLoss
        >>> from legolas_metric.interop.pml import as_loss
        >>> from pytorch_metric_learning.losses import CrossBatchMemory
        >>> memory = CrossBatchMemory(as_loss(SupConLoss()), embedding_size=4, memory_size=8)
        >>> memory(torch.eye(4), torch.tensor([0, 0, 1, 1])).ndim
        0

    Source: ours.
    """
    if type(loss) not in _PML_NAMES:
        raise TypeError(f"as_loss takes one of {', '.join(kind.__name__ for kind in _PML_NAMES)}, got {type(loss)}")
    return _loss_class(*_PML_NAMES[type(loss)])(loss, reducer)


@cache
def _loss_class(name: str, records: tuple[str, ...]) -> type[nn.Module]:
    from pytorch_metric_learning.losses import BaseMetricLossFunction
    from pytorch_metric_learning.reducers import MeanReducer

    class Own(MeanReducer):
        """Leaves the mean to the loss itself."""

        def __reduce__(self) -> tuple[Any, ...]:
            return _own_reducer, (name, records)

    class Adapted(BaseMetricLossFunction):
        own_reducer = Own

        def __init__(self, loss: PairLoss, reducer: nn.Module | None) -> None:
            super().__init__(reducer=reducer)
            self.loss = loss
            self.add_to_recordable_attributes(list_of_names=list(records), is_stat=False)
            _check_reducer(self.loss, self.reducer, Own)

        def __reduce__(self) -> tuple[Any, ...]:
            return as_loss, (self.loss,), self.__dict__  # a class made in a function has no name to be found by

        def get_default_reducer(self) -> MeanReducer:
            return Own()

        def compute_loss(
            self,
            embeddings: Tensor,
            labels: Tensor | None,
            indices_tuple: tuple[Tensor, ...] | None,
            ref_emb: Tensor,
            ref_labels: Tensor | None,
        ) -> dict[str, dict[str, Any]]:
            itself = ref_emb is embeddings and ref_labels is labels
            given = (embeddings, labels, indices_tuple, *((None, None) if itself else (ref_emb, ref_labels)))
            _check_reducer(self.loss, self.reducer, Own)
            if isinstance(self.reducer, Own):
                value = self.loss(*given)
            elif isinstance(self.loss, TripletLoss):
                value = _with_reduction(self.loss, _TRIPLET_REDUCERS[type(self.reducer).__name__])(*given)
            else:
                places = torch.arange(len(embeddings), device=embeddings.device)
                of_anchors = self.loss.per_anchor(*given)
                return {"loss": {"losses": of_anchors, "indices": places, "reduction_type": "element"}}
            return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}

    for record in records:
        setattr(Adapted, record, property(lambda adapted, record=record: getattr(adapted.loss, record)))
    Adapted.__name__ = Adapted.__qualname__ = name
    return Adapted


def _own_reducer(name: str, records: tuple[str, ...]) -> nn.Module:
    return _loss_class(name, records).own_reducer()  # pyright: ignore[reportAttributeAccessIssue]


def _check_reducer(loss: PairLoss, reducer: nn.Module, own: type[nn.Module]) -> None:
    from pytorch_metric_learning.reducers import BaseReducer, DivisorReducer

    kind = type(reducer)
    if not isinstance(reducer, BaseReducer):
        raise TypeError(f"reducer must be one of PML's, such as MeanReducer(), got {shown(reducer)}")
    if isinstance(reducer, DivisorReducer):
        raise TypeError("a DivisorReducer divides by what this loss doesn't give: use MeanReducer or SumReducer")
    if isinstance(loss, TripletLoss) and kind is not own and kind.__name__ not in _TRIPLET_REDUCERS:
        raise TypeError(
            f"a TripletLoss counts its triplets and lists none for a {kind.__name__}: use MeanReducer or "
            "AvgNonZeroReducer, or PML's TripletMarginLoss(reducer=...) on the tuple of as_miner(miner)"
        )


def _with_reduction(loss: TripletLoss, reduction: Any) -> TripletLoss:
    return TripletLoss(
        loss.margin,
        loss.selection,
        loss.soft,
        squared=loss.squared,
        cosine=loss.cosine,
        soft_margin=loss.soft_margin,
        reduction=reduction,
        gather=loss.gather,
        workspace_mb=loss.workspace_mb,
    )
