"""What counts as a right answer: who asks, what is searched, and what must not be found."""

from dataclasses import dataclass
from typing import Literal, get_args

from legolas_metric.checks import check_choice

Exclude = Literal["self", "same_group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalProtocol:
    """How a ranking is asked for. The default is leave-one-out: each labelled row asks all the others.

    Rows labelled -1 never ask; they stay in the gallery as distractors, negatives of every query.

    Attributes:
        exclude: what is taken out of a query's gallery. "self": the row of the same id. "same_group": also rows of the
            query's class that share its group (same camera, session or recording), which are too easy to find.

    Raises:
        ValueError: an unknown `exclude`.

    Example:
        >>> RetrievalProtocol()
        RetrievalProtocol(exclude='self')
    """

    exclude: Exclude = "self"

    def __post_init__(self) -> None:
        check_choice("exclude", self.exclude, get_args(Exclude))
