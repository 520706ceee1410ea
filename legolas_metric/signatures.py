"""Arguments of the types that a signature names, told in one sentence: what it says is what is checked.

Judged are plain types: numbers, True and False, strings, paths, modules, and the records of this library. What holds
data (`ArrayLike`, tensors) is judged where it is read, and ranges where they are known.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from torch import nn, optim

from legolas_metric.checks import shown, within_int64

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=type)

_WORDS: Mapping[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    os.PathLike: "a path",
    NoneType: "left out",
    Sequence: "a list",
    Mapping: "a mapping",
    Callable: "a function or another callable",
}


def typed(function: Callable[P, T]) -> Callable[P, T]:
    """A function that refuses arguments of other types than its signature names; NumPy's numbers become Python's.

    Raises:
        TypeError: an argument of another type; the text names it, what it must be, and what came.

    Example:
        >>> @typed
        ... def drawn(count: int, *, seed: int | None = None) -> int:
        ...     return count
        >>> drawn("3")
        Traceback (most recent call last):
        ...
        TypeError: count must be an integer, got '3'
    """
    kinds = cache(lambda: _kinds(function))  # asked at the first call, when all names of the module exist

    @wraps(function)
    def checked(*args: P.args, **named: P.kwargs) -> T:
        order, known = kinds()
        plain = [_plain(name, value, known[name]) for name, value in zip(order, args)]
        rest = {name: _plain(name, value, known.get(name, ())) for name, value in named.items()}
        return call(*plain, *args[len(plain) :], **rest)

    call: Callable[..., T] = function
    cast(Any, checked).__wrapped__ = inspect.unwrap(function)
    return checked


def typed_fields(record: C) -> C:
    """A dataclass whose fields are judged like the arguments of `typed`."""
    cast(Any, record).__init__ = typed(cast(Any, record).__init__)
    return record


def _kinds(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, tuple[type, ...]]]:
    """The parameters that may be given by position; and of all the types, none where any but plain ones are named."""
    hints, code = get_type_hints(function), cast(Any, inspect.unwrap(function)).__code__
    count = code.co_argcount
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    return names[:count], {name: _types(hints.get(name, Any)) for name in names}


def _types(annotation: Any) -> tuple[type, ...]:
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if any(get_origin(part) is Literal for part in parts):
        return ()  # judged by its values
    types = tuple(get_origin(part) or part for part in parts)
    return types if all(isinstance(kind, type) and _is_plain(kind) for kind in types) else ()


def _is_plain(kind: type) -> bool:
    if kind in _WORDS or issubclass(kind, nn.Module | optim.Optimizer):
        return True
    ours = kind.__module__.partition(".")[0] == "legolas_metric"
    return ours and (not getattr(kind, "_is_protocol", False) or getattr(kind, "_is_runtime_protocol", False))


def _plain(name: str, value: Any, types: tuple[type, ...]) -> Any:
    """The value, as Python's own number where it is one; raise where it has none of the types."""
    if not types:
        return value
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not number and any(_is(value, kind) for kind in types):
        return value
    if isinstance(value, np.bool_) and bool in types:
        return bool(value)
    if number and isinstance(value, Integral) and (int in types or float in types):
        return within_int64(name, int(value))
    if number and float in types:
        return value if isinstance(value, float) and type(value) is float else float(cast(Any, value))
    raise TypeError(f"{name} must be {_words(types)}, got {shown(value)}")


def _is(value: Any, kind: type) -> bool:
    """Whether a value has a type; a list is whatever can be gone through, but for text."""
    if kind is Sequence:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) != 0
    return kind not in (int, float) and isinstance(value, kind)


def _words(types: tuple[type, ...]) -> str:
    kinds = [kind for kind in types if kind is not NoneType and not (kind is int and float in types)]
    words = [_WORDS.get(kind) or f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}" for kind in kinds]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
