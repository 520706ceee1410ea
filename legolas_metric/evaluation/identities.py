"""Who is in a set: so that it is noticed where the people of two sets, which should differ, are the same."""

import ast
import warnings

from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.evaluation.identity_pairs import Pairs, PairsOfRows
from legolas_metric.names import Names, as_named

Identities = frozenset[int | str]
"""Labels, or their names where labels came as names."""

_SHOWN = 5
_NUMBERED = " (where the sets number other people alike, pass names, or numbers that differ)"


def identities(labels: ArrayLike, *, name: str = "labels", names: Names | None = None) -> Identities:
    """The identities among labels, which are names, or integers that stand for `names`; -1 is nobody.

    Example:
        >>> sorted(identities(["ann", "bob", None, "ann"]))
        ['ann', 'bob']
    """
    known = as_named(labels, None, name=name)
    codes = known.codes[known.codes != UNLABELLED].unique().tolist()
    called = known.names or names
    return frozenset(codes if called is None else (called[code] for code in codes))


def as_text(who: Identities) -> str:
    """Identities as text, for the metadata of files.

    Example:
        >>> as_text(frozenset(["bob", 7])), from_text("[7, 'bob']") == {"bob", 7}
        ("[7, 'bob']", True)
    """
    return repr(_in_order(who))


def from_text(text: str) -> Identities:
    """What `as_text` wrote."""
    return frozenset(ast.literal_eval(text))


def _in_order(who: Identities) -> list[int | str]:
    return sorted(who, key=lambda one: (isinstance(one, str), one))


def identities_in(pairs: Pairs | None) -> Identities:
    """The identities of a report's pairs; none where they are unknown."""
    if pairs is None:
        return frozenset()
    if isinstance(pairs, PairsOfRows):
        assert pairs.rows.labels is not None
        return identities(pairs.rows.labels, names=pairs.rows.label_names)
    return frozenset(pairs.who.unique().tolist())


def shared(one: Identities, other: Identities) -> str:
    """What is said of those that two sets share, empty where there are none: "3 (4, 7, 12)"."""
    both = _in_order(one & other)
    if not both:
        return ""
    return f"{len(both)} ({', '.join(map(str, both[:_SHOWN]))}{', ...' if len(both) > _SHOWN else ''})"


def warn_of_shared(one: Identities, other: Identities, what: str) -> None:
    """Warn, by id, where two sets share identities; `what` says what that does."""
    both = shared(one, other)
    if both:
        hint = "" if any(isinstance(name, str) for name in one & other) else _NUMBERED
        warnings.warn(f"{both} identities are in both sets: {what}{hint}", stacklevel=3)
