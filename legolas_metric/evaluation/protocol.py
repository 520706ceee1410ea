"""What counts as a right answer: who asks, what is searched, and what must not be found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from jaxtyping import Bool, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, check_at_least, check_choice
from legolas_metric.rows import as_ids

Exclude = Literal["self", "same_group"]
ExcludeRule = Callable[[Int64[Tensor, " q"], Int64[Tensor, " g"]], Bool[Tensor, "q g"]]
"""Row numbers of queries and of gallery rows -> which of the gallery rows a query must not find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """Few-shot episodes: `ways` classes, `shots` gallery rows of each, `queries` others of each that ask.

    Attributes:
        count: episodes.
        within_group: draw the classes of an episode from one group (one alphabet), which is harder.
        prototypes: the gallery holds the mean of each class's shots, not the shots.
    """

    ways: int
    shots: int
    queries: int
    count: int
    within_group: bool = False
    prototypes: bool = False

    def __post_init__(self) -> None:
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1), ("count", 1)):
            check_at_least(name, getattr(self, name), least)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalProtocol:
    """How a ranking is asked for. The default is leave-one-out: each labelled row asks all the others.

    The row of a query's own id is always taken out of its gallery. Rows labelled -1 never ask.

    Attributes:
        name: for tables.
        exclude: what else is taken out. "self": nothing. "same_group": rows of the query's class that share its group
            (camera, session, day), which are too easy to find. Or a function of row numbers, (queries [q], gallery
            rows [g]) -> bool [q, g], True for what a query must not find.
        queries: ids of the rows that ask (default: all).
        gallery: ids of the rows that are searched (default: all).
        distractors: keep rows labelled -1 in the gallery, as negatives of every query.
        min_positives: queries with fewer positives count as unanswerable.
        episodes: few-shot episodes instead of one gallery.
        seed: of the episodes.

    Raises:
        ValueError: an unknown `exclude`, ids that repeat, an empty list of ids, or `min_positives` below 1.

    Example:
        >>> RetrievalProtocol.re_identification().exclude
        'same_group'
        >>> RetrievalProtocol.few_shot(ways=20, shots=1).name
        '20-way 1-shot'
    """

    name: str = "leave-one-out"
    exclude: Exclude | ExcludeRule = "self"
    queries: ArrayLike | None = field(default=None, repr=False)
    gallery: ArrayLike | None = field(default=None, repr=False)
    distractors: bool = True
    min_positives: int = 1
    episodes: Episodes | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not callable(self.exclude):
            check_choice("exclude", self.exclude, get_args(Exclude))
        check_at_least("min_positives", self.min_positives, 1)
        for side in ("queries", "gallery"):
            ids = getattr(self, side)
            if ids is None:
                continue
            if len(ids) == 0:
                raise ValueError(f"{side} is an empty list of ids: leave it out to take all rows")
            # A tuple, so that protocols compare and stay frozen.
            object.__setattr__(self, side, tuple(as_ids(ids, len(ids), of=f"the protocol's {side}").tolist()))

    @classmethod
    def leave_one_out(cls) -> "RetrievalProtocol":
        """Each labelled row asks all the others."""
        return cls()

    @classmethod
    def re_identification(
        cls, *, queries: ArrayLike | None = None, gallery: ArrayLike | None = None
    ) -> "RetrievalProtocol":
        """Groups are cameras: what the query's own camera saw of its person is taken out (Zheng et al. 2015)."""
        return cls(name="re-identification", exclude="same_group", queries=queries, gallery=gallery)

    @classmethod
    def cross_session(cls) -> "RetrievalProtocol":
        """Groups are sessions or recordings: the query's own recording is taken out, beats of it are no test."""
        return cls(name="cross-session", exclude="same_group")

    @classmethod
    def cross_day(cls) -> "RetrievalProtocol":
        """Groups are days: a person must be found again on another day."""
        return cls(name="cross-day", exclude="same_group")

    @classmethod
    def few_shot(
        cls,
        *,
        ways: int,
        shots: int,
        queries: int = 1,
        episodes: int = 1000,
        within_group: bool = False,
        prototypes: bool = False,
        seed: int = 0,
    ) -> "RetrievalProtocol":
        """N-way K-shot episodes: Rank@1 is the accuracy of the nearest shot (or prototype).

        Args:
            ways: classes of an episode.
            shots: gallery rows of each class.
            queries: queries of each class.
            episodes: how many.
            within_group: classes of one group each (one alphabet); else of any.
            prototypes: compare with the mean of each class's shots (Snell et al. 2017).
            seed: of the draw.
        """
        drawn = Episodes(
            ways=ways, shots=shots, queries=queries, count=episodes, within_group=within_group, prototypes=prototypes
        )
        name = f"{ways}-way {shots}-shot" + (" within a group" if within_group else "")
        return cls(name=name, episodes=drawn, seed=seed)

    @classmethod
    def fixed(cls, queries: ArrayLike, gallery: ArrayLike) -> "RetrievalProtocol":
        """Given lists of ids: the queries (probes) and the gallery that they ask."""
        return cls(name="fixed lists", queries=queries, gallery=gallery)
