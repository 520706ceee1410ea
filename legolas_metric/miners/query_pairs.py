"""Mining of pairs without classes: queries, the answer to each, and a corpus of other rows."""

import copy
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, check_dimension
from legolas_metric.lookup import lookup
from legolas_metric.miners.batch_rows import row_keys
from legolas_metric.miners.index_option import batch_metric
from legolas_metric.miners.miner import Miner, RankingMiner
from legolas_metric.miners.triplets import HardMiner
from legolas_metric.records import Triplets
from legolas_metric.rows import as_prepared
from legolas_metric.signatures import typed


@typed
def mine_pairs(
    queries: ArrayLike, positives: ArrayLike, corpus: ArrayLike | None = None, *, miner: Miner | None = None
) -> Triplets:
    """Negatives of queries whose answers are known: row i of `queries` goes with row i of `positives`.

    The other positives and the corpus are the candidates; rows that are equal, bit for bit, to a query's own positive
    are no negatives of it. Peak memory: 8 d bytes a row of the three, and what `miner.mine` says.

    Args:
        queries: [n, d].
        positives: [n, d].
        corpus: [m, d], further rows, none of which answers a query.
        miner: of triplets (default: `HardMiner()`); its index gives the metric. A guard's vote asks what label a row's
            neighbours carry, which pairs haven't: it is left out, with a warning; its other rules serve.

    Returns:
        Triplets whose anchors are rows of `queries` and positives rows of `positives`; a negative below n is a row of
        `positives`, and n + j is row j of `corpus`.

    Raises:
        TypeError: a miner of pairs, or of another library.
        ValueError: as `EmbeddingBank`; lengths that differ, fewer than two different answers and no corpus.

    Example:
        >>> import torch
        >>> from legolas_metric.miners.query_pairs import mine_pairs
        >>> queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> answers = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> triplets = mine_pairs(queries, answers, torch.tensor([[0.8, 0.3]]))
        >>> triplets.anchor.tolist(), triplets.positive.tolist(), triplets.negative.tolist()
        ([0, 1], [0, 1], [2, 2])

    Source: ours.
    """
    chosen = HardMiner() if miner is None else miner
    if not isinstance(chosen, Miner):
        raise TypeError(f"miner must be a miner of triplets such as HardMiner(), got {chosen!r}")
    metric = batch_metric(chosen.index)
    sides = {"queries": queries, "positives": positives} | ({} if corpus is None else {"corpus": corpus})
    rows = [as_prepared(side, metric, name=name) for name, side in sides.items()]
    for side, name in zip(rows[1:], list(sides)[1:]):
        check_dimension(rows[0], side, names=("queries", name))
    n = len(rows[0])
    if len(rows[1]) != n:
        raise ValueError(f"queries has {n} rows, positives {len(rows[1])}: row i of one goes with row i of the other")
    classes = _answers(rows[1], rows[2] if len(rows) > 2 else None)
    if corpus is None and len(classes.unique()) == 1:
        raise ValueError("no negatives: all positives are one row, and there is no corpus: pass a corpus")
    bank = EmbeddingBank(torch.cat(rows), torch.cat([classes[:n], classes]), metric=metric)
    own = _without_vote(chosen)
    found = own.mine(bank, bank.ids[:n], candidates=bank.ids[n:])
    chosen.calls, chosen.warned = own.calls, own.warned
    return replace(found, positive=found.anchor, negative=found.negative - n)


def _answers(positives: Tensor, corpus: Tensor | None) -> Tensor:
    """A class for each different positive, and for the rows of the corpus that are equal to one; -1 for the others."""
    known, classes = row_keys(positives).unique(return_inverse=True)
    if corpus is None:
        return classes
    place, found = lookup(row_keys(corpus), known)
    return torch.cat([classes, torch.where(found, place, UNLABELLED)])


def _without_vote(miner: Miner) -> Miner:
    """A copy of the miner, its guard without the vote, and in the same state."""
    own = copy.copy(miner)
    if isinstance(own, RankingMiner) and own.guard is not None and own.guard.vote is not None:
        warnings.warn(
            "the guard can't vote: it asks what label a candidate's neighbours carry, and pairs have no labels. The "
            "vote is left out; relative=, absolute=, near_duplicate= and skip= serve pairs too",
            stacklevel=3,
        )
        own.guard = replace(own.guard, vote=None)
        own.strategy = replace(own.strategy, guard=own.guard)
    return own
