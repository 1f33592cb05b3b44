"""The inputs of a model and their form: columns, labels, weights, the tasks of rows."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.schema.columns import SCENARIO
from tfmoe.schema.schema import Schema
from tfmoe.structures.base import Structure


def columns_of(schema: Schema, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the features that the encoder reads."""
    return {name: features[name] for name in schema.feature_names}


def task_of(schema: Schema, features: Any) -> dict[str, Tensor]:
    """The call argument `task`, as a dict; empty where rows have the labels of all tasks."""
    return {"task": features[schema.task_column]} if schema.task_column else {}


def symbols(schema: Schema, lengths: Mapping[str, int]) -> dict[str, keras.KerasTensor]:
    """Dict of `keras.Input` by name.

    Args:
        schema: `Schema`.
        lengths: dict of int, numbers or ids of a row of each wide column.
    """
    inputs: dict[str, Any] = {}
    for column in schema.columns:
        shape = (lengths[column.name],) if column.is_wide else ()
        for name in column.feature_names:
            ids = column.embeds and name == column.name
            dtype = "int32" if ids else "float32"
            inputs[name] = keras.Input(shape=shape, dtype=dtype, name=name)
    if schema.task_column:
        name = schema.task_column
        inputs[name] = keras.Input(shape=(), dtype="int32", name=name)
    return inputs


def context_of(
    schema: Schema, structure: Structure, features: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The call argument `context` of a structure, as a dict; empty where it wants none.

    Raises:
        ValueError: if it wants the ids of what is no `Categorical` column, or the scenario of rows
            without one.
    """
    columns = dict(structure.context_columns)
    if not columns:
        return {}
    for key, name in columns.items():
        if name == SCENARIO:
            columns[key] = scenario_of(schema, type(structure).__name__)
    plain = [c.name for c in schema.columns if c.embeds and not c.is_wide]
    unknown = [name for name in columns.values() if name not in plain]
    if unknown:
        raise ValueError(
            f"A gate hashes the ids of one Categorical column, of {plain}. Received "
            f"column={unknown[0]!r}."
        )
    return {"context": {key: features[name] for key, name in columns.items()}}


def scenario_of(schema: Schema, owner: str) -> str:
    """The column that says the scenario of a row.

    Raises:
        ValueError: if there is none; `owner` is what asks for it.
    """
    if schema.scenario is None:
        raise ValueError(
            f"{owner} is conditioned on the scenario of each row. Received a schema without one. "
            "Name its Categorical column: Schema(columns, tasks, scenario=...)."
        )
    return schema.scenario


def named(inputs: Mapping[str, keras.KerasTensor], features: Any) -> dict[str, Tensor]:
    """Features by name, in the type and shape of the model's inputs, as in Keras's `predict`.

    Args:
        inputs: dict of `keras.Input` by name.
        features: what `fit` was given: a dict of tensors, of which `(b, 1)` will do for `(b,)`.

    Raises:
        ValueError: if it is no dict, or a column is missing.
    """
    if not isinstance(features, dict) or not set(inputs) <= set(features):
        received = list(features) if isinstance(features, dict) else type(features).__name__
        raise ValueError(
            f"Features come as a dict by column, {list(inputs)}. Received {received}. "
            "`Preprocessor.dataset` and `arrays` make them."
        )
    found = {}
    for name, one in inputs.items():
        values = ops.convert_to_tensor(features[name])
        # TensorFlow forgets the rank where a column came as `(b,)` before and as `(b, 1)` now.
        unknown = getattr(values.shape, "rank", 0) is None
        if unknown or (len(values.shape) == len(one.shape) + 1 and values.shape[-1] == 1):
            values = ops.reshape(values, (-1, *one.shape[1:]))
        found[name] = ops.cast(values, one.dtype)
    return found


def labels_of(schema: Schema, y: Any) -> dict[str, Tensor]:
    """Labels as a dict by output.

    Raises:
        ValueError: if there are none, or some are of no output of the model, or there are several
            outputs and no dict.
    """
    names = schema.output_names
    if not isinstance(y, dict):
        if len(names) > 1:
            raise ValueError(
                f"Labels come as a dict by task, of the tasks {list(names)}. Received "
                f"labels of type {type(y).__name__}. `Preprocessor.dataset` makes them."
            )
        y = {names[0]: y}
    if not y:
        raise ValueError(
            f"Labels are needed of at least one of the tasks {list(names)}. Received none."
        )
    unknown = sorted(set(y) - set(names))
    if unknown:
        raise ValueError(
            f"Labels are given by task, of the tasks {list(names)}. Received labels for "
            f"{unknown}. Remove them, or add the tasks to the schema."
        )
    return y


def is_frame(x: Any) -> bool:
    """Whether something is a DataFrame, without an import of pandas."""
    return hasattr(x, "columns") and hasattr(x, "iloc")


def listed(given: Any) -> list[Any]:
    """One thing, several, or None, as a list of one's own."""
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def is_path(x: Any) -> bool:
    """Whether something is the path of a file, a glob, or a list of such."""
    if isinstance(x, list | tuple):
        return bool(x) and all(isinstance(one, str | os.PathLike) for one in x)
    return isinstance(x, str | os.PathLike)


def frame_of(schema: Schema, x: Any) -> Any:
    """Raw rows that are no pandas DataFrame yet, as one; anything else as it is.

    A table of Polars or pyarrow shares its columns with the DataFrame. One row comes as a dict,
    several as a list of such, or as a dict of equally long lists or arrays by column. A dict of
    arrays may also be what `Preprocessor.arrays` makes, ids and floats. It is raw rows if a column
    of the schema is a list, or an array of text or objects, or if columns go by the table's names
    where the schema has others: features have none of these. A dict of nothing but numeric arrays
    is features.

    Raises:
        ValueError: if the columns of a dict of raw rows are not equally long.
    """
    if hasattr(x, "__arrow_c_stream__") and not is_frame(x):
        return _frame_of_arrow(x)
    if isinstance(x, list) and x and all(isinstance(row, Mapping) for row in x):
        rows = x
    elif isinstance(x, Mapping) and x and _is_row(schema, x):
        rows = [x]
    elif isinstance(x, Mapping) and x and _is_table(schema, x):
        return _frame(x)
    else:
        return x
    import pandas as pd

    return pd.DataFrame(rows)


def _frame_of_arrow(x: Any) -> Any:
    import pandas as pd
    import pyarrow as pa

    return pa.table(x).to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)


def _is_row(schema: Schema, x: Mapping[str, Any]) -> bool:
    """Whether a dict is one raw row: single values where columns have single values."""
    lists = {name for column in schema.columns for name in column.list_names}
    single = [value for name, value in x.items() if name not in lists]
    plain = all(isinstance(v, str | bytes) or not hasattr(v, "__len__") for v in single)
    # Of columns of lists alone one row has lists, several have lists of lists.
    nested = not single and any(map(_is_nested, x.values()))
    return plain and not nested and all(np.ndim(v) == 0 for v in single if not _is_text(v))


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _is_nested(value: Any) -> bool:
    """Whether it holds a list or array for each of several rows."""
    if isinstance(value, list | tuple):
        return any(hasattr(one, "__len__") and not _is_text(one) for one in value)
    return len(getattr(value, "shape", ())) > 1


def _is_table(schema: Schema, x: Mapping[str, Any]) -> bool:
    """Whether a dict holds raw columns."""
    raw = {name for column in schema.columns for name in column.raw_names}
    names = set(schema.feature_names)
    if raw <= set(x) and not names <= set(x):
        return True
    return any(_is_raw(value) for name, value in x.items() if name in raw | {schema.task_column})


def _is_raw(values: Any) -> bool:
    """Whether they are no feature: a list, or text or objects."""
    if isinstance(values, list | tuple):
        return True
    is_array = isinstance(values, np.ndarray) or hasattr(values, "iloc")
    return is_array and getattr(values.dtype, "kind", "O") in "OUS"


def _frame(x: Mapping[str, Any]) -> Any:
    """A DataFrame of a dict of raw columns."""
    import pandas as pd

    single = [n for n, v in x.items() if _is_text(v) or not hasattr(v, "__len__")]
    lengths = {} if single else {name: len(values) for name, values in x.items()}
    if single or len(set(lengths.values())) > 1:
        received = f"a single value for {single}" if single else f"lengths {lengths}"
        raise ValueError(
            "Raw rows come as a dict by column of equally long lists or arrays, or, for one row, "
            f"of single values. Received {received}. Give each column a value for every row."
        )
    return pd.DataFrame({name: _series(values) for name, values in x.items()})


def _series(values: Any) -> Any:
    """A column as it is: pandas would make floats of integers with None among them."""
    import pandas as pd

    if isinstance(values, list | tuple):
        gaps = any(one is None for one in values)
        return pd.Series(list(values), dtype=object if gaps or _is_nested(values) else None)
    if _is_nested(values):
        return pd.Series(list(np.asarray(values)), dtype=object)
    return values.reset_index(drop=True) if hasattr(values, "iloc") else pd.Series(values)


def check_ids(schema: Schema, table_sizes: Mapping[str, int], x: Any) -> None:
    """Raises ValueError if a dict of NumPy arrays has ids that no embedding table has.

    Raw integers in such a dict are taken for ids, and most are none.
    """
    for column in schema.columns if isinstance(x, Mapping) else ():
        ids, size = x.get(column.name), table_sizes.get(column.table)
        if not isinstance(ids, np.ndarray) or size is None or ids.dtype.kind not in "iu":
            continue
        if ids.size and not 0 <= ids.min() <= ids.max() < size:
            raise ValueError(
                "A dict of numeric arrays holds ids, as `Preprocessor.arrays` makes them, of "
                f"{column.name!r} from 0 to {size - 1:,}. Received {column.name}="
                f"{ids.max() if ids.max() >= size else ids.min()}. If these are raw rows, pass a "
                "DataFrame, or lists in place of arrays."
            )


@contextlib.contextmanager
def quiet_end(*sources: Any) -> Iterator[None]:
    """Silences Keras at the end of a dataset whose number of batches is not known beforehand.

    Keras 3.15 warns at the end of every epoch of such a dataset (of CSV files, say) that
    it ran out of data.
    """
    with warnings.catch_warnings():
        if -2 in map(_num_batches, sources):
            warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
        yield


def _num_batches(source: Any) -> int | None:
    """Of a dataset, of which -2 are unknown; else None."""
    cardinality = getattr(source, "cardinality", None)
    if cardinality is None:
        return None
    # A distributed dataset has it as a number.
    return int(cardinality() if callable(cardinality) else cardinality)


def weights_may_come_third(method: Callable[..., Any]) -> Callable[..., Any]:
    """Lets `fit(*preprocessor.arrays(rows), batch_size=64)` give weights where Keras has the batch
    size."""

    @functools.wraps(method)
    def called(self: Any, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not (args[0] is None or isinstance(args[0], Integral)):
            return method(self, x, y, sample_weight=args[0], **kwargs)
        return method(self, x, y, *args, **kwargs)

    return called


def unpacked(x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Features, labels and weights; the triple that `Preprocessor.arrays` returns is unpacked.

    Weights that are given beside such a triple multiply its own.

    Raises:
        ValueError: if labels are given beside such a triple, or weights of unknown labels or of
            another number of rows.
    """
    if not (isinstance(x, tuple) and len(x) == 3):
        return x, y, sample_weight
    if y is not None:
        raise ValueError(
            "The labels of a table are columns of it, which the schema's tasks name. Received "
            f"y={type(y).__name__} beside a table. Add it to the table, and leave y out."
        )
    x, y, weights = x
    if sample_weight is None:
        return x, y, weights
    given = sample_weight if isinstance(sample_weight, dict) else dict.fromkeys(y, sample_weight)
    own = weights or {name: np.ones(len(labels), "float32") for name, labels in y.items()}
    return x, y, {**own, **{name: _weighed(own, name, more) for name, more in given.items()}}


def _weighed(weights: Mapping[str, np.ndarray], name: str, more: Any) -> np.ndarray:
    """Weights of a label's rows, times those given beside the table."""
    more = np.reshape(np.asarray(more, "float32"), (-1,))
    if name not in weights or len(more) != len(weights[name]):
        raise ValueError(
            f"sample_weight has a number for each row, or a dict of such by {list(weights)}. "
            f"Received {len(more)} numbers for {name!r}."
        )
    return weights[name] * more
