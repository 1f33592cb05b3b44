"""A fitted Preprocessor as a folder: `preprocessor.json` and `arrays.npz`. No pickles."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.encode.columns import NumericFit
from tfmoe.data.encode.vocabulary import ARROW_TYPES
from tfmoe.data.fit.fitted import Fitted
from tfmoe.data.fit.lengths import Lengths
from tfmoe.data.fit.sketches import Moments, Quantiles
from tfmoe.data.fit.statistics import Statistics
from tfmoe.files import PathLike, check_local, new_files
from tfmoe.schema.schema import Schema

_JSON, _ARRAYS = "preprocessor.json", "arrays.npz"
_FORMAT = 1


def save(path: PathLike, schema: Schema, fitted: Fitted, statistics: Statistics | None) -> None:
    """Writes the folder, or both files into one that is there.

    Both appear or none does. `statistics` None leaves out what only merging needs.

    Raises:
        FileExistsError: if there is a saved Preprocessor at `path`, or another file.
        ValueError: if the path is a remote one.
    """
    check_local(path)
    path = Path(path)
    taken = [file for file in (path / _JSON, path / _ARRAYS) if file.exists()]
    if taken or (path.exists() and not path.is_dir()):
        raise FileExistsError(
            "A Preprocessor is saved into a folder of its own and never over another file. "
            f"Received path={str(path)!r}, where there is {str((taken or [path])[0])!r}. Choose "
            "another path, or remove it."
        )
    arrays: dict[str, np.ndarray] = {}
    document: dict[str, Any] = {
        "format": _FORMAT,
        "schema": schema.to_dict(),
        "num_rows": fitted.num_rows,
        "dtypes": fitted.dtypes,
        "lengths": fitted.lengths,
        "label_means": {task: _mean_to_json(mean) for task, mean in fitted.label_means.items()},
        "numeric": {
            name: {"mean": fit.mean, "scale": fit.scale, "fill": fit.fill}
            for name, fit in fitted.numeric.items()
        },
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
    }


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
        ValueError: if it was written by a newer version.
    """
    path = Path(path)
    if not (path / _JSON).exists() or not (path / _ARRAYS).exists():
        raise FileNotFoundError(
            f"A saved Preprocessor is a folder with {_JSON} and {_ARRAYS}. Received "
            f"path={str(path)!r}, which is none. Pass the path that was given to `save`."
        )
    document = json.loads((path / _JSON).read_text(encoding="utf-8"))
    if document.get("format") != _FORMAT:
        raise ValueError(
            f"This version of tfmoe reads format {_FORMAT}. Received format="
            f"{document.get('format')!r} in {str(path)!r}. Fit and save again, or use the version "
            "that wrote it."
        )
    schema = Schema.from_dict(document["schema"])
    with np.load(path / _ARRAYS, allow_pickle=False) as file:
        arrays = dict(file)
    values = {name: _get_values(arrays, name) for name in document["vocabulary"]}
    owners = {c.table: document["dtypes"][c.name] for c in schema.columns if hasattr(c, "table")}
    fitted = Fitted.build(
        schema,
        document["num_rows"],
        owners,
        {name: values[name][:size] for name, size in document["vocabulary"].items()},
        {
            name: NumericFit(**fit, boundaries=arrays[f"boundaries/{name}"])
            for name, fit in document["numeric"].items()
        },
        document["lengths"],
        {task.name: _get_mean(document, task) for task in schema.tasks},
        # Files of older versions hash each spelling of a truth value as it is.
        document.get("one_spelling", False),
    )
    given = document.get("statistics")
    if given is None:
        return schema, fitted, None
    return schema, fitted, _get_statistics(schema, document["num_rows"], given, arrays)


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
    for owner in statistics.dtypes:
        if f"counts/{owner}" in arrays:
            counts = pa.array(arrays[f"counts/{owner}"])
            table = pa.table({"value": _get_values(arrays, owner), "count": counts})
            statistics.counts_of(owner).add_table(table)
    return statistics
