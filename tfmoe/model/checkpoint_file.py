"""A tree of plain data and arrays as one file, which appears whole or not at all."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tfmoe.files import replaced

_DOCUMENT, _ARRAY = "document", "__array__"
# What a file says that was cut, changed or is another one.
_BROKEN = (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError)


def write(path: Path, tree: Any) -> None:
    """Writes a tree of dicts by text, lists, numbers, texts, None and arrays. No pickles.

    Raises:
        TypeError: if it holds anything else.
    """
    arrays: list[np.ndarray] = []
    text = json.dumps(_plain(tree, arrays))
    named = {str(place): array for place, array in enumerate(arrays)}
    with replaced(path) as draft, draft.open("wb") as file:
        np.savez(file, document=np.frombuffer(text.encode(), np.uint8), **named)  # type: ignore[arg-type]


def read(path: Path) -> Any:
    """The tree that `write` was given; tuples are lists.

    Raises:
        ValueError: if the file is none, or not whole.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            document = json.loads(file[_DOCUMENT].tobytes().decode())
            arrays = [file[str(place)] for place in range(len(file.files) - 1)]
        return _tree(document, arrays)
    except _BROKEN as error:
        raise ValueError(
            f"A checkpoint is a file that tfmoe.Checkpoint wrote, whole. Received {path}: {error}."
        ) from error


def _plain(tree: Any, arrays: list[np.ndarray]) -> Any:
    """The tree as JSON, its arrays in a list."""
    if isinstance(tree, dict):
        return {str(name): _plain(value, arrays) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value, arrays) for value in tree]
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray):
        name = tree.dtype.name
        # NumPy's files do not know the types that it has from others, such as bfloat16.
        arrays.append(tree.view(f"u{tree.dtype.itemsize}") if tree.dtype.kind == "V" else tree)
        return {_ARRAY: len(arrays) - 1, "dtype": name}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(
        "A checkpoint keeps dicts, lists, numbers, texts and arrays. Received "
        f"{tree!r} of type {type(tree).__name__}."
    )


def _tree(document: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(document, dict) and _ARRAY in document:
        array = arrays[document[_ARRAY]]
        if array.dtype.name == document["dtype"]:
            return array
        import ml_dtypes

        return array.view(getattr(ml_dtypes, document["dtype"]))
    if isinstance(document, dict):
        return {name: _tree(value, arrays) for name, value in document.items()}
    if isinstance(document, list):
        return [_tree(value, arrays) for value in document]
    return document
