"""Vectors by id, as people keep them: in dicts, DataFrames and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.arrow import as_integers, decoded, split_numbers, to_text
from tfmoe.data.kinds import is_list, is_text, to_arrow
from tfmoe.data.numerals import whole_spelling
from tfmoe.data.read.tables import one_array
from tfmoe.remote import address, local_copy, name_of


def read_vectors(given: Any, owner: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and their vectors.

    Args:
        given: a path, URL, dict or DataFrame; see `Pretrained`.
        owner: the column, for errors.

    Returns:
        int64 or str `(n,)`, and float32 `(n, size)`.

    Raises:
        ValueError: if it is none of these, or ids repeat or are missing, or vectors are not finite
            or not alike.
        TypeError: if ids are floats that cannot tell integers apart, or bytes that are no text.
        FileNotFoundError: if there is no such file.
    """
    ids, vectors = _found(given, owner)
    try:
        vectors = np.array(vectors if isinstance(vectors, np.ndarray) else list(vectors), "float32")
    except (TypeError, ValueError) as error:
        raise _refused(owner, f"vectors that are no table of numbers ({error})") from error
    ids = _read_ids(ids, owner)
    if vectors.ndim != 2 or not vectors.size or len(ids) != len(vectors):
        raise _refused(owner, f"{len(ids)} ids with vectors of the shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise _refused(owner, "vectors with numbers that are not finite")
    if len(np.unique(ids)) < len(ids):
        values, counts = np.unique(ids, return_counts=True)
        raise _refused(owner, f"the id {values[counts > 1][0].item()!r} twice")
    return ids, vectors


def _read_ids(given, owner):
    """Ids as the cells of a column of them are read, int64 or str `(n,)`."""
    name = f"ids of {owner}"
    array = decoded(one_array(to_arrow(given, name, numbers=True)))
    if array.null_count:
        place = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise _refused(owner, f"no id of the vector in place {place} (from 0)")
    whole = as_integers(array, name, untyped=False)
    if whole is not None:
        return whole
    try:
        text = decoded(to_text(array, name))
    except TypeError:
        if is_text(array.type):
            raise  # bytes that are no text
        text = pa.array([str(one) for one in array.to_pylist()], pa.string())
    return np.array(whole_spelling(text).to_pylist())


def _refused(owner, what):
    return ValueError(
        f"{owner} takes vectors of finite numbers, one for each id and all equally long: a dict, a "
        "DataFrame whose index are the ids, or the path or URL of an .npz file with `ids` and "
        f"`vectors`, an .npy file or a Parquet file. Received {what}."
    )


def _found(given, owner):
    if isinstance(given, Mapping):
        return np.array(list(given)), list(given.values())
    if hasattr(given, "index") and hasattr(given, "to_numpy"):
        vectors = given.to_numpy()
        # A column of lists, as Parquet files have.
        nested = vectors.ndim == 2 and vectors.shape[1] == 1 and vectors.dtype == object
        nested = nested and all(np.ndim(cell) == 1 for cell in vectors[:, 0])
        return given.index.to_numpy(), list(vectors[:, 0]) if nested else vectors
    if not isinstance(given, str):
        raise _refused(owner, f"vectors={type(given).__name__}")
    read = _READERS.get(Path(name_of(address(given))).suffix)
    if read is None:
        raise _refused(owner, f"vectors={given!r}")
    with local_copy(given) as path:
        return read(path, owner)


def _of_npz(path, owner):
    with np.load(path, allow_pickle=False) as file:
        if not {"ids", "vectors"} <= set(file):
            raise _refused(owner, f"a file with {sorted(file)}")
        return tuple(
            _plain(lambda name=name: file[name], f"{path.name}'s {name}", owner)
            for name in ("ids", "vectors")
        )


def _of_npy(path, owner):
    vectors = _plain(lambda: np.load(path, allow_pickle=False), path.name, owner)
    return np.arange(len(vectors)), vectors


def _plain(read, what, owner):
    """An array that is read; of Python's objects none is, for reading them may run code."""
    try:
        return read()
    except ValueError as error:
        advice = "write texts with ids.astype(str), vectors with np.stack(vectors)"
        raise _refused(
            owner, f"{what}, an array that NumPy does not read ({error}); {advice}"
        ) from error


def _of_parquet(path, owner):
    import pyarrow.parquet as pq

    table = pq.read_table(path).combine_chunks()
    lists = [name for name in table.column_names if is_list(table[name].type)]
    others = [name for name in table.column_names if name not in lists]
    if len(lists) != 1 or len(others) != 1:
        raise _refused(owner, f"a file with the columns {table.column_names}")
    cells = table[lists[0]]
    cells = cells.chunk(0) if cells.num_chunks else pa.nulls(0)
    numbers, lengths = split_numbers(cells, lists[0])
    if len(set(lengths.tolist())) != 1:
        raise _refused(owner, "vectors of several lengths")
    return table[others[0]], numbers.reshape(len(lengths), -1)


_READERS = {".npz": _of_npz, ".npy": _of_npy, ".parquet": _of_parquet}
