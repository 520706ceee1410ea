"""Docstrings head their example "Example:"; the site's reader of docstrings takes only "Examples:" for code."""

import re
from typing import Any

import griffe


class ExamplesAsCode(griffe.Extension):
    """Rename the heading before a docstring is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Take up one object of the package."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
