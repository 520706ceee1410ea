"""What a miner says to arguments that other libraries have."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")


FOREIGN = {
    "distance": "the metric is the index's: index=ExactIndex(metric='cosine' | 'dot' | 'euclidean')",
    "type_of_triplets": "the class says it: 'all' is SemiHardMiner(positive='all', margin=math.inf) or TripletLoss's "
    "own selection, 'hard' is HardMiner(), 'semihard' is SemiHardMiner(positive='all'), 'easy' is never mined",
    "pos_strategy": "'easy' is EasyPositiveMiner(), 'hard' is FullHardMiner(), 'semihard' and 'all' are "
    "SemiHardMiner(positive='nearest' | 'all')",
    "neg_strategy": "'hard' is HardMiner(), 'semihard' is SemiHardMiner()",
    "allowed_pos_range": "FalseNegativeGuard(near_duplicate=...) bounds negatives; positives have no range here",
    "allowed_neg_range": "use HardMiner(ranks=(first, last)) or SemiHardMiner(margin=...)",
    "use_pairs": "mine(bank, anchors=ids) serves chosen anchors",
    "collect_stats": "mine() and mine_batch() return them, as .stats",
    "batch_size": "the batch decides it",
    "k": "this is per_anchor here",
    "num_negatives": "this is per_anchor here",
    "range_min": "this is ranks=(first, last) here, counted from 1",
    "range_max": "this is ranks=(first, last) here, counted from 1",
    "margin": "nothing would read it: the margin belongs to the loss, and SemiHardMiner has a window of that width",
}
"""What stands for an argument of pytorch-metric-learning or of sentence-transformers."""


def explains(words: Mapping[str, str] = FOREIGN) -> Callable[[type[T]], type[T]]:
    """A class whose constructor says, of an argument that it hasn't, what stands for it here."""

    def decorate(cls: type[T]) -> type[T]:
        build: Callable[..., None] = cls.__init__
        known = [name for name in inspect.signature(build).parameters if name != "self"]

        @wraps(build)
        def __init__(self: T, *args: Any, **given: Any) -> None:
            for name in given:
                if name not in known:
                    remedy = words.get(name, f"it has {', '.join(known)}")
                    raise TypeError(f"{cls.__name__} has no argument {name!r}: {remedy}")
            build(self, *args, **given)

        cls.__init__ = __init__  # pyright: ignore[reportAttributeAccessIssue]  (the signature stays)
        return cls

    return decorate
