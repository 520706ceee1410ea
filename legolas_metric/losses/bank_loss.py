"""A pair loss against the whole bank, not only against the batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, as_integers, check_at_least
from legolas_metric.losses.terms import LossDetail
from legolas_metric.names import known_by
from legolas_metric.records import Pairs, Triplets
from legolas_metric.rows import as_labels
from legolas_metric.signatures import typed


@dataclass(frozen=True, slots=True, kw_only=True)
class BankDetail:
    """What a `BankLoss` saw.

    Attributes:
        loss: detail of the loss itself.
        rows: rows of the bank that served as reference.
        stale: rows that were left out because they are older than `max_age`.
        oldest: age in steps of the oldest row that served, 0 without any.
        warming_up: whether the bank was left out altogether.
    """

    loss: LossDetail
    rows: int
    stale: int
    oldest: int
    warming_up: bool


class BankLoss(nn.Module):
    """A pair loss whose reference rows are the batch itself, with gradient, and rows of a bank, without.

    loss(batch, batch + {rows of the bank that are not in the batch, and not older than max_age})

    An example that is in the batch is never compared with its own old row, nor with anything by it: its id tells. The
    bank is only read; write to it with `bank.update(ids, embeddings, step=step)`, after the step.

    Args:
        loss: `SupConLoss`, `MultiSimilarityLoss` or `TripletLoss`.
        bank: embeddings of the whole set.
        rows: how many rows of the bank to draw at each step, with `seed` and the step as the only source of chance
            (None: all of them).
        warm_up: before this step the batch alone is used, since early rows change too fast to be of use.
        max_age: steps after which a row is stale (None: never).
        seed: of the drawing.

    Raises:
        ValueError: negative `warm_up` or `max_age`, or `rows` below 1.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, SupConLoss
        >>> bank = EmbeddingBank(torch.eye(6), [0, 0, 1, 1, 2, 2])
        >>> loss = BankLoss(SupConLoss(), bank)
        >>> value, detail = loss(torch.eye(6)[:2], [0, 0], ids=[0, 1], step=0, detail=True)
        >>> detail.rows, detail.loss.no_positive
        (4, 0)

    Source: Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020.
    """

    @typed
    def __init__(
        self,
        loss: nn.Module,
        bank: EmbeddingBank,
        *,
        rows: int | None = None,
        warm_up: int = 0,
        max_age: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_at_least("warm_up", warm_up, 0)
        if rows is not None:
            check_at_least("rows", rows, 1)
        if max_age is not None:
            check_at_least("max_age", max_age, 0)
        if getattr(loss, "gather", None) is not None:
            raise ValueError("a BankLoss takes a loss without gather: every process's bank rows would be gathered, too")
        self.loss = loss
        self.bank = bank
        self.rows = rows
        self.warm_up = warm_up
        self.max_age = max_age
        self.seed = seed

    @typed
    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: ArrayLike,
        mined: Triplets | Pairs | None = None,
        *,
        ids: ArrayLike,
        step: int,
        weights: ArrayLike | None = None,
        detail: bool = False,
    ) -> Float[Tensor, ""] | tuple[Float[Tensor, ""], BankDetail]:
        """The loss of a batch at a step.

        Args:
            embeddings: [n, d], of this step.
            labels: [n] integers, or names where the bank has names.
            mined: triplets or pairs by id; of the bank, only their positives and negatives are used then.
            ids: [n], names of the batch's rows.
            step: encoder step, as the bank's rows are marked with.
            weights: [n], >= 0, of the anchors.
            detail: return (loss, BankDetail).

        Raises:
            TypeError: names where the bank has integers, or the other way round; mined that is no record.
            ValueError: a step before the bank's newest row.
        """
        n, device = len(embeddings), embeddings.device
        names = as_integers(ids, n, name="ids").to(device)
        own_labels = as_labels(labels, n, known=known_by(self.bank.label_names)).to(device)
        warming_up = step < self.warm_up
        chosen, stale = self._choose(names, mined, step)
        chosen = chosen[:0] if warming_up else chosen
        references = self.bank.embeddings[chosen].to(device, embeddings.dtype)
        result = self.loss(
            embeddings,
            own_labels,
            mined,
            torch.cat([embeddings, references]),
            torch.cat([own_labels, self.bank.labels[chosen].to(device)]),
            weights=weights,
            ids=names,
            ref_ids=torch.cat([names, self.bank.ids[chosen].to(device)]),
            detail=detail,
        )
        if not detail:
            return result
        value, inner = result
        oldest = step - int(self.bank.steps[chosen].min()) if len(chosen) else 0
        return value, BankDetail(loss=inner, rows=len(chosen), stale=stale, oldest=oldest, warming_up=warming_up)

    def _choose(
        self, names: Int64[Tensor, " n"], mined: Triplets | Pairs | None, step: int
    ) -> tuple[Int64[Tensor, " m"], int]:
        """Rows of the bank to compare with, and how many were too old."""
        bank = self.bank
        if step < bank.step:
            raise ValueError(f"step {step} is before the bank's newest row, written at step {bank.step}")
        if mined is None:
            rows = torch.arange(len(bank), device=bank.ids.device)
        else:
            rows = bank.rows(torch.cat([mined.positive, mined.negative]).unique())
        rows = rows[~torch.isin(bank.ids[rows], names.to(bank.ids.device))]
        fresh = rows if self.max_age is None else rows[step - bank.steps[rows] <= self.max_age]
        stale = len(rows) - len(fresh)
        if self.rows is None or self.rows >= len(fresh):
            return fresh, stale
        generator = torch.Generator().manual_seed(hash((self.seed, step)))
        drawn = torch.randperm(len(fresh), generator=generator)[: self.rows]
        return fresh[drawn.sort().values.to(fresh.device)], stale
