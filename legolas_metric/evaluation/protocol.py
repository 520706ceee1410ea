"""What counts as a right answer: who asks, what is searched, and what must not be found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, check_choice, check_whole
from legolas_metric.rows import as_ids
from legolas_metric.signatures import typed, typed_fields

Exclude = Literal["self", "same_group"]
ExcludeRule = Callable[[Int64[Tensor, " q"], Int64[Tensor, " g"]], Bool[Tensor, "q g"]]
"""Row numbers of queries and of gallery rows -> which of the gallery rows a query must not find."""


@typed_fields
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
            object.__setattr__(self, name, check_whole(name, getattr(self, name), least))


@typed_fields
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
        distractors: keep rows labelled -1 in the gallery, as negatives of every query. Without, they are junk: neither
            found nor missed; a distractor is then a row of a label that no query has.
        min_positives: queries with fewer positives count as unanswerable.
        episodes: few-shot episodes instead of one gallery.
        repeats: of single-gallery-shot, where each query finds one row of each class, drawn anew so many times; a row
            labelled -1 is a class of its own. None: all rows are searched.
        seed: of the episodes, and of the draws.

    Raises:
        TypeError: lists that hold no ids, `distractors` that is neither True nor False, no `Episodes`.
        ValueError: an unknown `exclude`, ids that repeat, an empty list of ids, `min_positives` below 1, or settings
            that exclude each other: episodes draw their own queries and gallery; prototypes have neither a group nor a
            row number, and are one positive for each query.

    Example:
        >>> RetrievalProtocol.re_identification().exclude
        'same_group'
        >>> RetrievalProtocol.few_shot(ways=20, shots=1).name
        '20-way 1-shot'

    Source: Zheng et al. (2015), Market-1501; Li et al. (2014), CUHK03; few-shot, Vinyals et al. (2016).
    """

    name: str = "leave-one-out"
    exclude: Exclude | ExcludeRule = "self"
    queries: ArrayLike | None = field(default=None, repr=False)
    gallery: ArrayLike | None = field(default=None, repr=False)
    distractors: bool = True
    min_positives: int = 1
    episodes: Episodes | None = None
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not callable(self.exclude):
            check_choice("exclude", self.exclude, get_args(Exclude))
        if not isinstance(self.distractors, bool):
            raise TypeError(f"distractors must be True or False, got {self.distractors!r}")
        object.__setattr__(self, "min_positives", check_whole("min_positives", self.min_positives, 1))
        object.__setattr__(self, "seed", check_whole("seed", self.seed, -(2**63)))
        self._check_episodes()
        self._check_repeats()
        for side in ("queries", "gallery"):
            ids = getattr(self, side)
            if ids is None:
                continue
            known = tuple(as_ids(ids, None, name=side).tolist())
            if not known:
                raise ValueError(f"{side} is an empty list of ids: leave it out to take all rows")
            object.__setattr__(self, side, known)  # a tuple, so that protocols compare and stay frozen

    def _check_episodes(self) -> None:
        plan = self.episodes
        if plan is None:
            return
        if not isinstance(plan, Episodes):
            raise TypeError(f"episodes must be Episodes or None, got {plan!r}: RetrievalProtocol.few_shot makes them")
        if self.queries is not None or self.gallery is not None:
            raise ValueError("episodes draw their own queries and gallery: leave out the lists of ids, or the episodes")
        if plan.prototypes and self.exclude != "self":
            raise ValueError("prototypes have neither group nor row number: leave out exclude, or the prototypes")
        if plan.within_group and self.exclude == "same_group":
            raise ValueError("episodes within a group have no positives of another group: leave out one of the two")
        positives = 1 if plan.prototypes else plan.shots
        if self.min_positives > positives:
            raise ValueError(
                f"min_positives={self.min_positives} can't be met: each query has {positives} in its episode's gallery"
            )

    def _check_repeats(self) -> None:
        if self.repeats is None:
            return
        object.__setattr__(self, "repeats", check_whole("repeats", self.repeats, 1))
        if self.episodes is not None:
            raise ValueError(
                "repeats belong to single-gallery-shot, episodes draw a gallery of their own: leave out one"
            )
        if callable(self.exclude):
            raise ValueError("single-gallery-shot draws by label and group: leave out the rule of your own")
        if self.min_positives > 1:
            raise ValueError(f"min_positives={self.min_positives} can't be met: single-gallery-shot has one positive")

    @classmethod
    def named(cls, protocol: object) -> "RetrievalProtocol":
        """A protocol, or one of those that need no further word: "leave-one-out", "re-identification",
        "cross-session", "cross-day", "single-gallery-shot".

        Raises:
            TypeError, ValueError: neither.
        """
        if isinstance(protocol, RetrievalProtocol):
            return protocol
        words = {
            "leave-one-out": cls.leave_one_out,
            "re-identification": cls.re_identification,
            "cross-session": cls.cross_session,
            "cross-day": cls.cross_day,
            "single-gallery-shot": cls.single_gallery_shot,
        }
        known = ", ".join(map(repr, words))
        if not isinstance(protocol, str):
            raise TypeError(f"protocol must be a RetrievalProtocol or one of {known}, got {protocol!r}")
        if protocol not in words:
            raise ValueError(
                f"protocol must be one of {known}, got {protocol!r}: others are RetrievalProtocol.few_shot and .fixed"
            )
        return words[protocol]()

    def excluded(self, queries: Int64[Tensor, " q"], rows: Int64[Tensor, " g"]) -> Bool[Tensor, "q g"]:
        """What a rule of one's own takes out.

        Raises:
            TypeError: not a table of booleans.
            ValueError: another shape than [q, g].
        """
        assert callable(self.exclude)
        taken = self.exclude(queries, rows)
        shape = (len(queries), len(rows))
        if not isinstance(taken, Tensor) or taken.dtype != torch.bool:
            kind = f"a tensor of {taken.dtype}" if isinstance(taken, Tensor) else type(taken).__name__
            raise TypeError(f"exclude must return a bool tensor [queries, gallery rows], got {kind}")
        if tuple(taken.shape) != shape:
            raise ValueError(
                f"exclude must return one value for each of {shape[0]} queries (down) and {shape[1]} gallery rows "
                f"(across), got shape {tuple(taken.shape)}"
            )
        return taken

    @classmethod
    def leave_one_out(cls) -> "RetrievalProtocol":
        """Each labelled row asks all the others."""
        return cls()

    @classmethod
    @typed
    def re_identification(
        cls,
        *,
        queries: ArrayLike | None = None,
        gallery: ArrayLike | None = None,
        distractors: bool = False,
    ) -> "RetrievalProtocol":
        """Groups are cameras: what the query's own camera saw of its person is taken out (Zheng et al. 2015).

        As Market-1501's own evaluation, and CUHK03's under its new protocol (Zhong et al. 2017), have it: rows labelled
        -1 are junk, taken out too; a distractor is a row of a label that no query has (Market-1501: 0). Rank@k and mAP
        are those of their Python code; Market-1501's first code (in Matlab) took mAP by trapezoids, which is less.

        Args:
            queries, gallery: ids (default: all rows, each of which asks).
            distractors: True keeps rows labelled -1, as negatives of every query.
        """
        return cls(
            name="re-identification",
            exclude="same_group",
            queries=queries,
            gallery=gallery,
            distractors=distractors,
        )

    @classmethod
    def cross_session(cls) -> "RetrievalProtocol":
        """Groups are sessions or recordings: the query's own recording is taken out, beats of it are no test."""
        return cls(name="cross-session", exclude="same_group")

    @classmethod
    def cross_day(cls) -> "RetrievalProtocol":
        """Groups are days: a person must be found again on another day."""
        return cls(name="cross-day", exclude="same_group")

    @classmethod
    @typed
    def single_gallery_shot(
        cls,
        *,
        repeats: int = 10,
        queries: ArrayLike | None = None,
        gallery: ArrayLike | None = None,
        seed: int = 0,
    ) -> "RetrievalProtocol":
        """One gallery row of each person, drawn anew in each repeat: CUHK03's first protocol (Li et al. 2014).

        Groups are cameras: the query's person is drawn from other cameras than the query's, all others from any, as
        torchreid's `eval_cuhk03` draws them. Rank@k is its CMC; its mAP is of the whole gallery: take that of
        `re_identification()`. Each query counts once a repeat. Rows labelled -1 are junk.

        Args:
            repeats: draws of the gallery (torchreid: 10; the paper: 100).
            queries, gallery: ids (default: all rows, each of which asks).
            seed: of the draws.
        """
        return cls(
            name="single-gallery-shot",
            exclude="same_group",
            queries=queries,
            gallery=gallery,
            distractors=False,
            repeats=repeats,
            seed=seed,
        )

    @classmethod
    @typed
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
