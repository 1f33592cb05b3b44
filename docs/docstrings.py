"""A griffe extension: what our docstrings have and Google's style does not know."""

import re
from typing import Any

import griffe

# An example's lines, up to an empty one.
_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?!\s*$).+)*", re.MULTILINE)
_CALL = re.compile(r"^Call arguments:\n((?: {4}.*\n?)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _CALL.sub(_listed, _EXAMPLE.sub(_fenced, obj.docstring.value))


def _fenced(found: re.Match[str]) -> str:
    """An example in a fence of its own."""
    return f"\n{found[1]}```pycon\n{found[0]}\n{found[1]}```"


def _listed(found: re.Match[str]) -> str:
    """Call arguments as a list, for they are not the constructor's parameters."""
    items = re.sub(r"^ {4}(\w[\w, ]*): ", r"- `\1`: ", found[1], flags=re.MULTILINE)
    items = re.sub(r"^ {5,}", "    ", items, flags=re.MULTILINE)
    return f"**Call arguments:**\n\n{items}"
