"""The types of all calls are checked, shapes across arguments and results too, at a fraction of what it took.

jaxtyping's own decorator binds the arguments of each call, then checks them twice; here beartype checks them once, and
the result, within one scope of the names of sizes (what jaxtyping documents as `jaxtyped("context")`).
"""

import functools
import inspect
import re
import reprlib
import threading
from dataclasses import is_dataclass

import jaxtyping
from beartype.roar import BeartypeCallHintViolation

plain = jaxtyping.jaxtyped
one_scope = plain("context")


def jaxtyped(fn=None, *, typechecker):
    """In place of `jaxtyping.jaxtyped`, which the hook that `--jaxtyping-packages` asks for puts before each def."""
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if is_dataclass(fn) and getattr(fn.__init__, "__globals__", None) is not globals():
        fn.__init__ = jaxtyped(fn.__init__, typechecker=typechecker)
    if inspect.isclass(fn):
        return fn
    late = any(isinstance(kind, str) for kind in fn.__annotations__.values())  # maybe a name for type checkers alone
    if late or inspect.isgeneratorfunction(fn):
        return plain(fn, typechecker=typechecker)
    written = dict(fn.__annotations__)  # where beartype puts stand-ins for classes that are yet to come
    typed = inner(fn, typechecker) if "<locals>" in fn.__qualname__ else typechecker(fn)
    fn.__annotations__ = written

    @functools.wraps(fn)
    def checked(*args, **kwargs):
        __tracebackhide__ = True
        try:
            with one_scope:
                return typed(*args, **kwargs)
        except BeartypeCallHintViolation as wrong:
            given = f"{reprlib.repr(args)} {reprlib.repr(kwargs)}"
            told = re.sub(r"parameter (\w+)=", r"parameter '\1' = ", str(wrong))
            raise jaxtyping.TypeCheckError(f"{told}\nCalled with {given}") from wrong

    return checked


class Asked(threading.local):
    """The function that is to be called once its arguments are checked."""

    fn = None


ASKED = Asked()
CHECKS = {}  # of functions within functions, by their code: beartype takes milliseconds to write one


def inner(fn, typechecker):
    if fn.__code__ not in CHECKS:

        @functools.wraps(fn)
        def call(*args, **kwargs):
            return ASKED.fn(*args, **kwargs)

        CHECKS[fn.__code__] = typechecker(call)
    check = CHECKS[fn.__code__]

    def typed(*args, **kwargs):
        ASKED.fn = fn
        return check(*args, **kwargs)

    return typed


jaxtyping.jaxtyped = jaxtyped
