"""The types of all calls of the library are checked in tests, sizes across arguments and results too.

The option `--jaxtyping-packages` of pytest (pyproject.toml) puts `jaxtyping.jaxtyped` before each def and class of the
library. That decorator binds the arguments of each call by its signature, and then has beartype check them twice, which
takes a third to half of the tests' time. What stands here takes its place: beartype checks arguments and result once,
in one scope of the names of sizes, which is what jaxtyping documents as `jaxtyped("context")`. The few functions that
this does not serve are left to jaxtyping.
"""

import functools
import inspect
from dataclasses import is_dataclass

import jaxtyping
from beartype import BeartypeConf, beartype

plain = jaxtyping.jaxtyped
one_scope = plain("context")
check_types = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def jaxtyped(fn=None, *, typechecker):
    """In place of `jaxtyping.jaxtyped`; `typechecker` is the option's beartype."""
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if is_dataclass(fn) and getattr(fn.__init__, "__globals__", None) is not globals():  # inherited: is checked already
        fn.__init__ = jaxtyped(fn.__init__, typechecker=typechecker)
    if inspect.isclass(fn):
        return fn
    late = any(isinstance(kind, str) for kind in fn.__annotations__.values())  # maybe a name for type checkers alone
    if late or inspect.isgeneratorfunction(fn):
        return plain(fn, typechecker=typechecker)
    written = dict(fn.__annotations__)  # where beartype puts stand-ins for classes that are yet to come
    typed = check_types(fn)
    fn.__annotations__ = written

    @functools.wraps(fn)
    def checked(*args, **kwargs):
        __tracebackhide__ = True
        with one_scope:
            return typed(*args, **kwargs)

    return checked


jaxtyping.jaxtyped = jaxtyped
