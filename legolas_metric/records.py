"""Small frozen records in which results travel: what was found, and what was not.

Each prints as a short table, in a terminal and in a notebook.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_integers
from legolas_metric.lookup import lookup
from legolas_metric.tables import Sheet, Shown
from legolas_metric.triplet_files import Form, Naming, records_of, write_csv, write_jsonl, write_parquet

_SHOWN = 5  # rows of a record of tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStats:
    """How an index answered: which engine, how exactly, and at what cost.

    Attributes:
        engine: name of what did the work, for example "exact" or "faiss:Flat".
        precision: "float32", "bfloat16" or "int16": of the screening; the answers are the same in any case.
        recall: None where the search is exact; else the share of the true neighbours that were found, measured on a
            sample of the queries; NaN where that was not measured.
        certified: share of the rows whose screening was certified without a rescan; None where nothing is screened.
        widened: queries for which the first search held too few admissible rows and was widened.
        details: further figures by name; of the exact engine: tiles, groups_per_row (whose scores were looked at),
            scores_per_row, reranked_per_row, and rescanned (rows). How many groups and scores were looked at varies
            from run to run, with which thread comes first.
    """

    engine: str
    precision: str = "float32"
    recall: float | None = None
    certified: float | None = None
    widened: int = 0
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class Neighbors(Shown):
    """The k best admissible rows of each query, best first.

    Attributes:
        ids: int64 [n, k]; -1 where fewer than k admissible rows exist.
        similarities: float32 [n, k]; -inf there.
        stats: how they were found.

    Example:
        >>> import torch
        >>> from legolas_metric import ExactIndex
        >>> found = ExactIndex().fit(torch.eye(3), [0, 0, 1]).self_join(2, want="positive")
        >>> found.ids.tolist()
        [[1, -1], [0, -1], [-1, -1]]

    Source: ours.
    """

    ids: Int64[Tensor, "n k"]
    similarities: Float32[Tensor, "n k"]
    stats: SearchStats

    def _sheet(self) -> Sheet:
        n, k = self.ids.shape
        rows = [
            [row, *(f"{name} ({value:.3f})" for name, value in zip(ids, values))]
            for row, (ids, values) in enumerate(
                zip(self.ids[:_SHOWN, :_SHOWN].tolist(), self.similarities[:_SHOWN, :_SHOWN].tolist())
            )
        ]
        columns = ["query", *(f"rank {rank + 1}" for rank in range(min(k, _SHOWN)))]
        return Sheet(f"Neighbors of {n} queries, k={k}, engine {self.stats.engine}", columns, rows, n - len(rows))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class MiningStats(Shown):
    """What a miner was asked, what it could not do, and how it went about it. Counts are anchors unless said otherwise.

    Attributes:
        anchors: anchors asked for (rows with a label).
        no_positive: without another row of their class.
        no_negative: without a row of another class.
        outside_window: with negatives, but none inside the window (semi-hard) or at the ranks; counted for each
            positive where `positive="all"`, and so are the next three.
        fallback: served by `on_empty="hardest"` instead of the rule.
        exhausted: dropped, because a guard rejected all their candidates.
        short: served with fewer negatives than `per_anchor`, because there are no more.
        filtered: candidates rejected by a guard, by reason.
        contested: pairs of anchor and positive whose first candidate a guard rejected.
        search: how the index answered; `widened`, `engine`, `precision`, `recall`, `certified` and `details` are its.
        seconds: wall time.
        max_age: encoder steps between the oldest row of the bank and its newest, or the step that the miner was told.
        drift: mean cosine between the rows of the bank's last update and their rewrites; None before any.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, FullHardMiner
        >>> stats = FullHardMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 2])).stats
        >>> stats.anchors, stats.no_positive, stats.recall
        (4, 2, None)

    Source: ours.
    """

    anchors: int
    no_positive: int = 0
    no_negative: int = 0
    outside_window: int = 0
    fallback: int = 0
    exhausted: int = 0
    short: int = 0
    filtered: Mapping[str, int] = field(default_factory=dict)
    contested: int = 0
    search: SearchStats
    seconds: float
    max_age: int = 0
    drift: float | None = None

    @property
    def widened(self) -> int:
        """Searches that were widened until enough negatives were found."""
        return self.search.widened

    @property
    def engine(self) -> str:
        """What did the work, see `SearchStats`."""
        return self.search.engine

    @property
    def precision(self) -> str:
        """Of the screening, see `SearchStats`."""
        return self.search.precision

    @property
    def recall(self) -> float | None:
        """None: exact; NaN: not measured."""
        return self.search.recall

    @property
    def certified(self) -> float | None:
        """Share of the rows whose screening was certified."""
        return self.search.certified

    @property
    def details(self) -> Mapping[str, float]:
        """Further figures of the index, by name, summed over its searches."""
        return self.search.details

    def _sheet(self) -> Sheet:
        counts = {
            "without a positive": self.no_positive,
            "without a negative": self.no_negative,
            "outside the window": self.outside_window,
            "served by the fallback": self.fallback,
            "exhausted by the guard": self.exhausted,
            "short of per_anchor": self.short,
            **{f"filtered: {reason}": count for reason, count in self.filtered.items()},
            "searches widened": self.widened,
        }
        recall = self.search.recall
        rows: list[Sequence[object]] = [["anchors", f"{self.anchors:,}"]]
        rows += [[name, f"{count:,}"] for name, count in counts.items() if count]
        rows.append(["engine", f"{self.engine} ({self.precision})"])
        rows.append(["recall", "exact" if recall is None else "not measured" if recall != recall else f"{recall:.3f}"])
        rows.append(["seconds", f"{self.seconds:.3g}"])
        rows += [["max_age", f"{self.max_age} steps"]] if self.max_age else []
        rows += [["drift", f"{self.drift:.4f}"]] if self.drift is not None else []
        return Sheet("MiningStats", ["", ""], rows)


@dataclass(frozen=True, slots=True, repr=False)
class Triplets(Shown):
    """Mined triplets, by id.

    Attributes:
        anchor, positive, negative: int64 [t], ids (not row numbers of a batch).
        s_ap, s_an: float32 [t], similarities at mining time; they chose the triplets, a loss computes its own.
        stats: what was asked and what was found.

    Example:
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> import torch
        >>> bank = EmbeddingBank(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> triplets = HardMiner().mine(bank)
        >>> len(triplets), triplets.stats.anchors
        (4, 4)

    Source: ours.
    """

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_ap: Float32[Tensor, " t"]
    s_an: Float32[Tensor, " t"]
    stats: MiningStats

    def __len__(self) -> int:
        return len(self.anchor)

    def locate(self, batch_ids: ArrayLike) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"], Int64[Tensor, " m"]]:
        """Positions inside a batch, as pytorch-metric-learning's `indices_tuple`.

        Args:
            batch_ids: [b], the ids of the batch's rows, each once.

        Returns:
            (a, p, n): positions of the triplets that lie wholly inside the batch; empty tensors where none does.
        """
        given = as_integers(batch_ids, None, name="batch_ids")
        place, found = lookup(torch.stack([self.anchor, self.positive, self.negative]), given.to(self.anchor.device))
        a, p, n = place[:, found.all(0)].to(given.device).unbind(0)
        return a, p, n

    def records(self, *, names: Naming | None = None, text: Naming | None = None) -> list[dict[str, object]]:
        """One record for each pair of anchor and positive, with its negatives, nearest first.

        Args:
            names: what stands for an id: a sequence or a mapping by id, or two of them, (anchors', positives' and
                negatives'), where these are numbered apart, as by `mine_pairs`. Default: the id.
            text: the same, of the texts that a trainer reads; it goes before `names`.

        Returns:
            [{"anchor", "positive", "negatives": [...], "scores": [...]}]; scores are similarities, the
            positive's first.

        Raises:
            ValueError: an id that `names` or `text` has not.

        Example:
            >>> import torch
            >>> from legolas_metric import EmbeddingBank, FullHardMiner
            >>> rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
            >>> triplets = FullHardMiner().mine(EmbeddingBank(rows, [0, 0, 1, 1]), anchors=[0])
            >>> triplets.records(names=["a", "b", "c", "d"])[0]["negatives"]
            ['c']
        """
        return list(records_of(self._rows(), names if text is None else text))

    def to_jsonl(
        self,
        path: str | os.PathLike[str],
        *,
        names: Naming | None = None,
        text: Naming | None = None,
        form: Form = "n-tuple",
    ) -> None:
        """Write JSON lines, whole or not at all.

        Args:
            path: of the file.
            names, text: see `records`.
            form: of a line: "n-tuple" is {"anchor", "positive", "negatives", "scores"}; "triplet" is {"anchor",
                "positive", "negative", "s_ap", "s_an"}; "labelled-pair" is {"anchor", "other", "label", "score"}, 1
                for the positive and 0 for each negative.

        Raises:
            ValueError: an unknown form, or an id that `names` or `text` has not.
            OSError: the folder cannot be written.
        """
        write_jsonl(path, self._rows(), names if text is None else text, form)

    def to_csv(
        self,
        path: str | os.PathLike[str],
        *,
        names: Naming | None = None,
        text: Naming | None = None,
        form: Form = "triplet",
    ) -> None:
        """Write comma-separated values with a line of column names; arguments and errors as `to_jsonl`."""
        write_csv(path, self._rows(), names if text is None else text, form)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        *,
        names: Naming | None = None,
        text: Naming | None = None,
        form: Form = "triplet",
    ) -> None:
        """Write a parquet file; arguments and errors as `to_jsonl`, and ImportError without pyarrow."""
        write_parquet(path, self._rows(), names if text is None else text, form)

    def _rows(self) -> Iterator[tuple[int, int, int, float, float]]:
        columns = (self.anchor, self.positive, self.negative, self.s_ap, self.s_an)
        return zip(*(column.tolist() for column in columns))

    def _sheet(self) -> Sheet:
        parts = (self.anchor, self.positive, self.negative, self.s_ap, self.s_an)
        rows: list[list[object]] = [
            [a, p, n, f"{s_ap:.4f}", f"{s_an:.4f}"]
            for a, p, n, s_ap, s_an in zip(*(part[:_SHOWN].tolist() for part in parts))
        ]
        title = f"Triplets: {len(self):,} of {self.stats.anchors:,} anchors"
        return Sheet(title, ["anchor", "positive", "negative", "s_ap", "s_an"], rows, len(self) - len(rows))


@dataclass(frozen=True, slots=True, repr=False)
class Pairs(Shown):
    """Mined pairs, by id: (anchor_p, positive) and (anchor_n, negative), the four parts of a PML tuple.

    Attributes:
        anchor_p, positive: int64 [s], ids (not row numbers of a batch).
        anchor_n, negative: int64 [t], ids.
        s_ap: float32 [s], s_an: float32 [t], similarities at mining time.
        stats: what was asked and what was found.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, MultiSimilarityMiner
        >>> pairs = MultiSimilarityMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 1]))
        >>> len(pairs.anchor_p) == len(pairs.positive) == len(pairs.s_ap)
        True

    Source: ours.
    """

    anchor_p: Int64[Tensor, " s"]
    positive: Int64[Tensor, " s"]
    anchor_n: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_ap: Float32[Tensor, " s"]
    s_an: Float32[Tensor, " t"]
    stats: MiningStats

    def _sheet(self) -> Sheet:
        sides = (
            ("positive", self.anchor_p, self.positive, self.s_ap),
            ("negative", self.anchor_n, self.negative, self.s_an),
        )
        rows: list[list[object]] = [
            [kind, a, other, f"{s:.4f}"]
            for kind, anchor, row, score in sides
            for a, other, s in zip(anchor[:_SHOWN].tolist(), row[:_SHOWN].tolist(), score[:_SHOWN].tolist())
        ]
        positive, negative = len(self.anchor_p), len(self.anchor_n)
        title = f"Pairs: {positive:,} positive and {negative:,} negative of {self.stats.anchors:,} anchors"
        return Sheet(title, ["pair", "anchor", "other", "s"], rows, positive + negative - len(rows))
