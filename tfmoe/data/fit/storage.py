"""A fitted Preprocessor as a folder: `preprocessor.json` and `arrays.npz`. No pickles."""

import dataclasses
import hashlib
import json
import math
import os
import zipfile
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.encode.codecs import codecs_of
from tfmoe.data.encode.columns import NumericFit
from tfmoe.data.encode.rows import categorical_columns
from tfmoe.data.encode.vocabulary import ARROW_TYPES, packed_text
from tfmoe.data.fit.counts import one_spelling_of
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
# The second has vocabularies that have grown, whose ids others would mistake.
_FORMAT, _GROWN = 1, 2


def save(path: PathLike, schema: Schema, fitted: Fitted, statistics: Statistics | None) -> None:
    """Writes the folder, or both files into one that is there.

    Both appear or none does. `statistics` None leaves out what only merging needs.

    Raises:
        FileExistsError: if there is a saved Preprocessor at `path`, or another file.
    """
    _check_free(path)
    document, arrays = _contents(schema, fitted)
    if statistics is not None:
        document["statistics"] = _put_statistics(arrays, fitted, statistics)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with new_files(path) as draft:
        np.savez_compressed(draft / _ARRAYS, **arrays)  # type: ignore[arg-type]
        (draft / _JSON).write_text(text, encoding="utf-8")


def digest(schema: Schema, fitted: Fitted) -> str:
    """A text that differs where what encoding needs does."""
    document, arrays = _contents(schema, fitted)
    found = hashlib.sha256(json.dumps(document).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def _contents(schema: Schema, fitted: Fitted) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What encoding needs, as plain data and arrays."""
    arrays: dict[str, np.ndarray] = {}
    document: dict[str, Any] = {
        "format": _GROWN if fitted.ancestors else _FORMAT,
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
        "had_flags": list(fitted.had_flags),
    }
    if fitted.ancestors:
        document["ancestors"] = list(fitted.ancestors)
    for name, fit in fitted.numeric.items():
        arrays[f"boundaries/{name}"] = fit.boundaries
    for name, values in fitted.vocabularies.items():
        _put_values(arrays, name, values.drop_null())
        if values.null_count:
            arrays[f"free/{name}"] = np.flatnonzero(values.is_null())
    for name, unseen in fitted.unseen.items():
        arrays[f"unseen/{name}"] = unseen
    return document, arrays


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


def _put_statistics(arrays, fitted, statistics):
    for name, counts in statistics.counts.items():
        # A vocabulary that was fitted is the head of this table: the longer one replaces it. One
        # that has grown has another order, and one of truth values other spellings.
        table = counts.as_seen()
        is_head = name not in fitted.unseen and one_spelling_of(table) is table
        place = name if is_head else f"counted/{name}"
        _put_values(arrays, place, table["value"].combine_chunks())
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
        "markers": [[*key, seen] for key, seen in statistics.markers.items() if seen],
        "contradictions": statistics.contradictions,
        "conditional": statistics.conditional,
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
    arrays[f"text/{name}"], arrays[f"offsets/{name}"] = packed_text(values)


def _get_values(arrays, name):
    if f"ints/{name}" in arrays:
        return pa.array(arrays[f"ints/{name}"], ARROW_TYPES["int"])
    offsets, text = arrays[f"offsets/{name}"], arrays[f"text/{name}"]
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(text.astype(np.uint8))]
    values = pa.Array.from_buffers(ARROW_TYPES["string"], len(offsets) - 1, buffers)
    # The file may come from a stranger: offsets must not point outside.
    values.validate(full=True)
    return values


def _get_vocabulary(arrays, name):
    """Values in the order of their ids, null where one is free."""
    known, free = _get_values(arrays, name), arrays.get(f"free/{name}")
    if free is None:
        return known
    size = len(known) + len(free)
    places = np.full(size, -1)
    places[np.delete(np.arange(size), free)] = np.arange(len(known))
    return known.take(pa.array(places, mask=places < 0))


def _grown(fitted, arrays):
    return [name for name in fitted.vocabularies if f"unseen/{name}" in arrays]


def _get_unseen(path, fitted, name, arrays):
    unseen = arrays[f"unseen/{name}"]
    if unseen.shape != (len(fitted.vocabularies[name]),) or unseen.dtype.kind != "i":
        raise _damaged(path, f"the vocabulary of {name!r} has not the ids that it has grown to")
    return unseen.astype(np.int64)


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
    if document.get("format") not in (_FORMAT, _GROWN):
        raise ValueError(
            f"This version of tfmoe reads the formats {_FORMAT} and {_GROWN}. Received format="
            f"{document.get('format')!r} in {str(path)!r}. Fit and save again, or use the version "
            "that wrote it."
        )
    schema = Schema.from_dict(document["schema"])
    arrays = _read_arrays(path, folder / _ARRAYS)
    values = {name: _get_vocabulary(arrays, name) for name in document["vocabulary"]}
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
        tuple(document.get("had_flags", ())),
    )
    ancestors = tuple(map(str, document.get("ancestors", ())))
    unseen = {name: _get_unseen(path, fitted, name, arrays) for name in _grown(fitted, arrays)}
    fitted = dataclasses.replace(fitted, unseen=unseen, ancestors=ancestors)
    given = document.get("statistics")
    if given is None:
        return schema, fitted, None
    statistics = _get_statistics(path, schema, document["num_rows"], given, arrays)
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
        if not is_integer(size) or not 0 <= size <= len(values[name]):
            raise _damaged(path, f"the vocabulary of {name!r} has not {size} values")
        if pc.count_distinct(known).as_py() != size - known.null_count:
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


def _get_statistics(path, schema, num_rows, given, arrays):
    statistics = Statistics(schema, given["max_distinct"])
    statistics.num_rows = num_rows
    statistics.dtypes = given["dtypes"]
    statistics.longest = given["longest"]
    for name, counts in given.get("cell_lengths", {}).items():
        statistics.lengths[name] = Lengths({int(size): count for size, count in counts.items()})
    for name, moments in given["moments"].items():
        statistics.moments[name] = Moments(*moments)
    # Files of earlier versions have none of these three.
    for raw, reader, texts in given.get("markers", ()):
        statistics.markers[raw, reader] = Counter(texts)
    statistics.contradictions.update(given.get("contradictions", {}))
    statistics.conditional.update(given.get("conditional", {}))
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
            apart = f"ints/counted/{owner}" in arrays or f"text/counted/{owner}" in arrays
            place = f"counted/{owner}" if apart else owner
            values = _get_values(arrays, place)
            if len(values) != len(counts):
                raise _damaged(path, f"{len(values)} values of {owner!r} have {len(counts)} counts")
            table = pa.table({"value": values, "count": counts})
            statistics.counts_of(owner).add_table(table)
    return statistics
