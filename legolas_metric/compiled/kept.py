"""Machine code kept on disk, keyed by processor and by the text of all modules a loop is made of. Imports numba.

numba itself looks at the file of the function alone: after a change in another module that it calls, the old code would
stay in use. And a file that is cut short, or a full disk, would end the program.
"""

import hashlib
import re
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.registry import cpu_target

_IMPORTED = re.compile(rb"^\s*from (legolas_metric[\w.]*) import \(?\s*(\w+)", re.MULTILINE)
_REMEDY = "each process compiles them anew; name a folder that can be written by NUMBA_CACHE_DIR"


class Kept(FunctionCache):
    """numba's cache of one function, which neither goes stale nor stops anything."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=stamp(function.__module__),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code of these argument types; None where none can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a file cut short raises whatever the reader stumbles over
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep machine code, where that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception:
            try:  # an index that cannot be read is begun anew
                self.flush()
                super().save_overload(sig, data)
            except Exception as error:
                warn_unkept(str(error))

    def holds_any(self) -> bool:
        """Whether there is machine code of some argument types, for this processor: a folder may serve several."""
        context: Any = cpu_target.target_context  # a property to numba, whose type a checker cannot tell
        target = context.codegen().magic_tuple()
        try:
            return any(key[1] == target for key in self._cache_file._load_index())
        except Exception:
            return False


@cache
def warn_unkept(why: str) -> None:
    """Say that compiled loops cannot be kept."""
    warnings.warn(f"compiled loops cannot be kept on disk ({why}): {_REMEDY}", stacklevel=2)


@cache
def stamp(module: str) -> str:
    """A hash of the text of a module and of all of this package that it imports."""
    texts: dict[str, bytes] = {}
    _read(module, texts)
    return hashlib.sha256(b"\0".join(texts[name] for name in sorted(texts))).hexdigest()


def _read(module: str, texts: dict[str, bytes]) -> None:
    spec = find_spec(module)
    if module in texts or spec is None or spec.origin is None:
        return
    texts[module] = Path(spec.origin).read_bytes()
    for package, name in _IMPORTED.findall(texts[module]):
        parent, child = package.decode(), f"{package.decode()}.{name.decode()}"
        place = Path(spec.origin).parents[module.count(".") - 1].joinpath(*child.split(".")[1:])
        _read(child if place.with_suffix(".py").is_file() else parent, texts)
