"""A fitted Preprocessor as a folder: `preprocessor.json` and `arrays.npz`. No pickles."""

import dataclasses
import json
import math
import os
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.encode.codecs import codecs_of
from tfmoe.data.encode.columns import NumericFit
from tfmoe.data.encode.rows import categorical_columns
from tfmoe.data.encode.vocabulary import ARROW_TYPES
from tfmoe.data.fit.fitted import LONGEST, Fitted
from tfmoe.data.fit.lengths import Lengths
from tfmoe.data.fit.sketches import Moments, Quantiles
from tfmoe.data.fit.statistics import Statistics
from tfmoe.files import new_files
from tfmoe.remote import PathLike, address, exists, is_remote, join, local_copy
from tfmoe.schema.columns import Numeric
from tfmoe.schema.schema import Schema
from tfmoe.validation import is_integer

_JSON, _ARRAYS = "preprocessor.json", "arrays.npz"
_FORMAT = 1


def save(path: PathLike, schema: Schema, fitted: Fitted, statistics: Statistics | None) -> None:
    """Writes the folder, or both files into one that is there.

    Both appear or none does. `statistics` None leaves out what only merging needs.

    Raises:
        FileExistsError: if there is a saved Preprocessor at `path`, or another file.
    """
    _check_free(path)
    arrays: dict[str, np.ndarray] = {}
    document: dict[str, Any] = {
        "format": _FORMAT,
        "schema": schema.to_dict(),
        "num_rows": fitted.num_rows,
        "dtypes": fitted.dtypes,
        "lengths": fitted.lengths,
        "label_means": {task: _mean_to_json(mean) for task, mean in fitted.label_means.items()},
        "label_moments": {task: list(pair) for task, pair in fitted.label_moments.items()},
        "numeric": {
            name: {"mean": fit.mean, "scale": fit.scale, "fill": fit.fill}
            for name, fit in fitted.numeric.items()
        },
        "fits": {n: _put_plain(arrays, f"fit/{n}", fit) for n, fit in fitted.fits.items()},
        "vocabulary": {name: len(values) for name, values in fitted.vocabularies.items()},
        "one_spelling": fitted.one_spelling,
    }
    for name, fit in fitted.numeric.items():
        arrays[f"boundaries/{name}"] = fit.boundaries
    for name, values in fitted.vocabularies.items():
        _put_values(arrays, name, values)
    if statistics is not None:
        document["statistics"] = _put_statistics(arrays, statistics)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with new_files(path) as draft:
        np.savez_compressed(draft / _ARRAYS, **arrays)  # type: ignore[arg-type]
        (draft / _JSON).write_text(text, encoding="utf-8")


def _check_free(path):
    taken = [one for one in (join(path, _JSON), join(path, _ARRAYS)) if exists(one)]
    if not is_remote(path) and os.path.isfile(address(path)):
        taken = [address(path)]
    if taken:
        raise FileExistsError(
            "A Preprocessor is saved into a folder of its own and never over another file. "
            f"Received path={address(path)!r}, where there is {taken[0]!r}. Choose another path, "
            "or remove it."
        )


def _put_statistics(arrays, statistics):
    for name, counts in statistics.counts.items():
        # The vocabulary is the head of this table: the longer one replaces it.
        table = counts.table()
        _put_values(arrays, name, table["value"].combine_chunks())
        arrays[f"counts/{name}"] = table["count"].to_numpy()
    for name, sketch in statistics.quantiles.items():
        arrays[f"quantiles/{name}"] = np.frombuffer(sketch.to_bytes(), np.uint8)
    labels = {}
    for task, seen in statistics.labels.items():
        labels[task] = _moments_to_json(seen) if isinstance(seen, Moments) else seen.tolist()
    return {
        "max_distinct": statistics.max_distinct,
        "dtypes": statistics.dtypes,
        "moments": {name: _moments_to_json(seen) for name, seen in statistics.moments.items()},
        "longest": statistics.longest,
        "cell_lengths": {name: seen.counts for name, seen in statistics.lengths.items()},
        "labels": labels,
        "seen": {n: _put_plain(arrays, f"seen/{n}", one) for n, one in statistics.seen.items()},
    }


def _put_plain(arrays, prefix, part):
    """A dataclass of plain data: its numbers, and its arrays into those of the file."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    arrays |= {f"{prefix}/{n}": v for n, v in values.items() if isinstance(v, np.ndarray)}
    return {n: v for n, v in values.items() if not isinstance(v, np.ndarray)}


def _get_plain(arrays, prefix, kind, numbers):
    """The dataclass that `_put_plain` was given."""
    own = {name: values for name, values in arrays.items() if name.startswith(f"{prefix}/")}
    return kind(**numbers, **{name.rsplit("/", 1)[1]: values for name, values in own.items()})


def _moments_to_json(moments):
    return [moments.count, moments.mean, moments.m2]


def _mean_to_json(mean):
    """NaN is no JSON: null stands for it."""
    if np.isnan(mean).any():
        return None
    return mean.tolist() if isinstance(mean, np.ndarray) else mean


def _put_values(arrays, name, values):
    if pa.types.is_integer(values.type):
        arrays[f"ints/{name}"] = values.to_numpy()
        return
    # Text as one run of UTF-8 bytes and where each value begins and ends.
    _, offsets, data = values.cast(pa.large_string()).buffers()
    offsets = np.frombuffer(offsets, np.int64) if offsets else np.zeros(1, np.int64)
    offsets = offsets[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    arrays[f"text/{name}"] = data[offsets[0] : offsets[-1]]
    arrays[f"offsets/{name}"] = offsets - offsets[0]


def _get_values(arrays, name):
    if f"ints/{name}" in arrays:
        return pa.array(arrays[f"ints/{name}"], ARROW_TYPES["int"])
    offsets, text = arrays[f"offsets/{name}"], arrays[f"text/{name}"]
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(text.astype(np.uint8))]
    values = pa.Array.from_buffers(ARROW_TYPES["string"], len(offsets) - 1, buffers)
    # The file may come from a stranger: offsets must not point outside.
    values.validate(full=True)
    return values


def load(path: PathLike) -> tuple[Schema, Fitted, Statistics | None]:
    """Reads the folder: `(schema, fitted, statistics)`, the last None if left out.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it was written by a newer version, or is damaged.
    """
    path = address(path)
    if not exists(join(path, _JSON)) or not exists(join(path, _ARRAYS)):
        raise FileNotFoundError(
            f"A saved Preprocessor is a folder with {_JSON} and {_ARRAYS}. Received "
            f"path={path!r}, which is none. Pass the path that was given to `save`."
        )
    try:
        with local_copy(path) as folder:
            return _read(path, folder)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    except zipfile.BadZipFile as error:
        raise _damaged(path, str(error)) from error


def _damaged(path, what):
    return ValueError(
        f"A saved Preprocessor is what `save` wrote, unchanged. Received path={str(path)!r}, where "
        f"{what}. Save it again."
    )


def _read(path, folder):
    """What the files in a folder hold; `path` is what errors call it."""
    document = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    if document.get("format") != _FORMAT:
        raise ValueError(
            f"This version of tfmoe reads format {_FORMAT}. Received format="
            f"{document.get('format')!r} in {str(path)!r}. Fit and save again, or use the version "
            "that wrote it."
        )
    schema = Schema.from_dict(document["schema"])
    arrays = _read_arrays(path, folder / _ARRAYS)
    values = {name: _get_values(arrays, name) for name in document["vocabulary"]}
    owners = {c.table: document["dtypes"][c.name] for c in categorical_columns(schema)}
    _check_contents(path, schema, document, values)
    fitted = Fitted.build(
        schema,
        document["num_rows"],
        owners,
        {name: values[name][:size] for name, size in document["vocabulary"].items()},
        {name: _get_numeric(path, name, fit, arrays) for name, fit in document["numeric"].items()},
        document["lengths"],
        {task.name: _get_mean(document, task) for task in schema.tasks},
        # Folders of earlier versions have none.
        {task: (pair[0], pair[1]) for task, pair in document.get("label_moments", {}).items()},
        _get_fits(path, schema, document.get("fits", {}), arrays),
        # Files of older versions hash each spelling of a truth value as it is.
        document.get("one_spelling", False),
    )
    given = document.get("statistics")
    if given is None:
        return schema, fitted, None
    statistics = _get_statistics(schema, document["num_rows"], given, arrays)
    for name, fit in fitted.fits.items():
        statistics.codecs[name].adopt(fit)
    return schema, fitted, statistics


def _read_arrays(path, arrays_file):
    """The arrays of the file, none of which says that it is larger than what is there."""
    arrays = {}
    with zipfile.ZipFile(arrays_file) as packed:
        for member in packed.infolist():
            with packed.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = {1: "read_array_header_1_0", 2: "read_array_header_2_0"}[version[0]]
                shape, _, dtype = getattr(np.lib.format, read)(file)
                if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    raise _damaged(path, f"{member.filename!r} is cut off")
    with np.load(arrays_file, allow_pickle=False) as file:
        arrays = dict(file)
    return arrays


def _check_contents(path, schema, document, values):
    """Raises ValueError where vocabularies or lengths are not what encoding relies on."""
    for name, size in document["vocabulary"].items():
        known = values[name][:size]
        is_int = pa.types.is_integer(known.type)
        if is_int != (document["dtypes"][name] == "int"):
            raise _damaged(path, f"the vocabulary of {name!r} is of another type than its column")
        if not is_integer(size) or not 0 <= size <= len(values[name]) or known.null_count:
            raise _damaged(path, f"the vocabulary of {name!r} has not {size} values")
        if pc.count_distinct(known).as_py() != size:
            raise _damaged(path, f"the vocabulary of {name!r} has a value twice")
    needed = {c.name for c in schema.columns if c.is_sized}
    lengths = document["lengths"]
    bad = {
        name: length
        for name, length in lengths.items()
        if not is_integer(length) or not 0 <= length <= LONGEST
    }
    if bad or not needed <= set(lengths):
        raise _damaged(path, f"`lengths` are {lengths}, of list columns with 1 to {LONGEST} values")
    missing = [c.name for c in schema.columns if isinstance(c, Numeric)]
    missing = [name for name in missing if name not in document["numeric"]]
    if missing:
        raise _damaged(path, f"nothing was fitted of {missing}")


def _get_numeric(path, name, fit, arrays):
    boundaries = np.asarray(arrays[f"boundaries/{name}"], "float64")
    numbers = [value for value in fit.values() if value is not None]
    numbers = np.concatenate([np.array(numbers, "float64"), boundaries])
    if not np.isfinite(numbers).all() or not (np.diff(boundaries) >= 0).all():
        raise _damaged(path, f"what was fitted of {name!r} is not finite, or not in order")
    return NumericFit(**fit, boundaries=boundaries)


def _get_fits(path, schema, given, arrays):
    """What the codecs have fitted. Raises ValueError where they cannot use it."""
    fits = {}
    for name, codec in codecs_of(schema).items():
        if codec.fit_kind is not None:
            fits[name] = _get_plain(arrays, f"fit/{name}", codec.fit_kind, given[name])
            if not codec.check(fits[name]):
                raise _damaged(path, f"what was fitted of {name!r} is nothing to encode with")
    return fits


def _get_mean(document, task):
    mean = document["label_means"][task.name]
    if task.num_outputs == 1:
        return float("nan") if mean is None else mean
    return np.full(task.num_outputs, np.nan) if mean is None else np.array(mean)


def _get_statistics(schema, num_rows, given, arrays):
    statistics = Statistics(schema, given["max_distinct"])
    statistics.num_rows = num_rows
    statistics.dtypes = given["dtypes"]
    statistics.longest = given["longest"]
    for name, counts in given.get("cell_lengths", {}).items():
        statistics.lengths[name] = Lengths({int(size): count for size, count in counts.items()})
    for name, moments in given["moments"].items():
        statistics.moments[name] = Moments(*moments)
    for task, seen in given["labels"].items():
        moments = isinstance(statistics.labels[task], Moments)
        statistics.labels[task] = Moments(*seen) if moments else np.array(seen, np.int64)
    for name in statistics.quantiles:
        statistics.quantiles[name] = Quantiles.from_bytes(arrays[f"quantiles/{name}"].tobytes())
    for name, seen in statistics.seen.items():
        statistics.seen[name] = _get_plain(arrays, f"seen/{name}", type(seen), given["seen"][name])
    for owner in statistics.dtypes:
        if f"counts/{owner}" in arrays:
            counts = pa.array(arrays[f"counts/{owner}"])
            table = pa.table({"value": _get_values(arrays, owner), "count": counts})
            statistics.counts_of(owner).add_table(table)
    return statistics
