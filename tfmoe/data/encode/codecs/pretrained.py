"""Values that have vectors. Ids are as those of `Categorical`, of a vocabulary that is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.encode.codecs.base import Codec, single_values
from tfmoe.data.encode.codecs.categorical import are_missing
from tfmoe.data.encode.columns import TextCache, categorical_ids
from tfmoe.data.encode.graph_tables import graph_table
from tfmoe.data.encode.vocabulary import Vocabulary
from tfmoe.data.read.vectors import read_vectors
from tfmoe.schema.columns import FIRST_ID, MISSING_ID, UNKNOWN_ID


@dataclass(frozen=True)
class Matched:
    """How many cells have a value, and how many of these have no vector."""

    cells: int = 0
    without: int = 0

    def merge(self, other: Matched) -> Matched:
        """Those of both parts."""
        return Matched(self.cells + other.cells, self.without + other.without)


@dataclass(frozen=True)
class PretrainedFit:
    """The values, int64 or str `(n,)`, and their vectors, float32 `(n, size)`."""

    values: np.ndarray
    vectors: np.ndarray

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What turns values into ids."""
        is_int = self.values.dtype.kind == "i"
        kind = pa.int64() if is_int else pa.large_string()
        return Vocabulary(pa.array(self.values.tolist(), kind))


class PretrainedCodec(Codec):
    """See `Codec`."""

    fit_kind = PretrainedFit

    def __init__(self, column, schema):
        super().__init__(column, schema)
        self._cache = TextCache()

    @property
    def needs_fit(self):
        return True

    @cached_property
    def _given(self) -> PretrainedFit:
        column = self.column
        owner = f"Pretrained({column.name!r})"
        if column.vectors is None:
            raise ValueError(
                f"{owner} needs its vectors to be fitted, and a saved schema has but the path of a "
                "file. Received vectors=None. Give `vectors` again."
            )
        ids, vectors = read_vectors(column.vectors, owner)
        if column.dtype == "string":
            ids = ids.astype(str)
        elif column.dtype == "int" and ids.dtype.kind != "i":
            try:
                ids = ids.astype(np.int64)
            except ValueError as error:
                raise ValueError(
                    f"{owner} has values that are integers. Received dtype='int' with the id "
                    f"{ids[0].item()!r} ({error}). Leave `dtype` out."
                ) from error
        return PretrainedFit(ids, vectors)

    def kinds(self, dtypes):
        # As the vectors' ids are, where these are there.
        kind = self.column.dtype
        if kind is None and self.column.vectors is not None:
            kind = "int" if self._given.values.dtype.kind == "i" else "string"
        return {self.column.raw_name: kind}

    def nothing(self):
        return Matched()

    def count(self, chunk, seen):
        ids = self._ids(chunk[self.column.raw_name], self._given)
        present = int((ids != MISSING_ID).sum())
        return seen.merge(Matched(present, int((ids == UNKNOWN_ID).sum())))

    def notice(self, seen):
        if not seen.without:
            return None
        return (
            f"{seen.without:,} of {seen.cells:,} cells of {self.column.name!r} name values without "
            "a vector. They count as unknown, whose one vector is learned. Add their vectors if "
            "they should be told apart."
        )

    def fit(self, seen):
        return self._given

    def grown(self, fit, seen):
        return self._given

    def with_more(self, fit: PretrainedFit, vectors: Any) -> PretrainedFit:
        """A fit, and those of the vectors whose values it has not, at the end.

        Args:
            fit: the fit.
            vectors: as `Pretrained` takes them.

        Raises:
            ValueError: if the vectors are of another size, or as `read_vectors`.
        """
        owner = f"Pretrained({self.column.name!r})"
        values, rows = read_vectors(vectors, owner)
        size = fit.vectors.shape[1]
        if rows.shape[1] != size or (fit.values.dtype.kind == "i") > (values.dtype.kind == "i"):
            raise ValueError(
                f"{owner} has vectors of {size} numbers by {_kind(fit.values)}, and grows by such. "
                f"Received vectors of {rows.shape[1]} numbers by {_kind(values)}. Make them as the "
                "first ones were made."
            )
        values = values if fit.values.dtype.kind == "i" else values.astype(str)
        new = ~np.isin(values, fit.values)
        return PretrainedFit(
            np.concatenate([fit.values, values[new]]),
            np.concatenate([fit.vectors, rows[new]]),
        )

    def adopt(self, fit):
        self.__dict__["_given"] = fit

    def width(self, fit):
        return fit.vectors.shape[1]

    def table_rows(self, fit):
        return FIRST_ID + len(fit.values)

    def check(self, fit):
        values, vectors = fit.values, fit.vectors
        right = values.dtype == np.int64 or values.dtype.kind == "U"
        right = right and values.ndim == 1 and vectors.ndim == 2 and len(values) == len(vectors)
        right = right and vectors.size > 0 and vectors.dtype == np.float32
        return bool(right and np.isfinite(vectors).all() and len(np.unique(values)) == len(values))

    def _ids(self, array, fit):
        table = fit.vocabulary
        declared = self.column.dtype == "int"
        return categorical_ids(
            array, self.column.raw_name, table, table.is_int, self._cache, declared
        )

    def encode(self, chunk, fitted):
        name = self.column.name
        return {name: self._ids(chunk[self.column.raw_name], fitted.fits[name])}

    def _is_text(self, fitted):
        return not fitted.fits[self.column.name].vocabulary.is_int

    def signature(self, fitted):
        return {self.column.name: ("string" if self._is_text(fitted) else "int64", 1)}

    def request(self, df, fitted):
        cells = df[self.column.raw_name].tolist()
        return {self.column.name: single_values(cells, self._is_text(fitted))}

    def hold(self, encoder):
        self._table(encoder)

    def graph(self, raw, encoder):
        import tensorflow as tf

        name = self.column.name
        table = encoder.preprocessor.fits[name].vocabulary
        ids = tf.cast(self._table(encoder).lookup(raw[name]), tf.int32)
        return {name: tf.where(are_missing(raw[name], table), MISSING_ID, ids)}

    def _table(self, encoder):
        key = f"{self.column.name}_vectors"
        if key not in encoder.tables:
            vocabulary = encoder.preprocessor.fits[self.column.name].vocabulary
            encoder.tables[key] = graph_table(vocabulary, not vocabulary.is_int)
        return encoder.tables[key]

    def sample(self, fitted, num_rows, generator):
        vocabulary = fitted.fits[self.column.name].vocabulary
        values = vocabulary.values.slice(0, 1000).to_pylist()
        cells: list[Any] = [values[i] for i in generator.integers(0, len(values), num_rows)]
        for row in range(num_rows // 2, num_rows, 3):
            cells[row] = None if row % 2 else (-77 if vocabulary.is_int else "without a vector")
        return cells

    def typical(self, fitted, row):
        values = fitted.fits[self.column.name].vocabulary.values
        return values[row % min(3, len(values))].as_py()


def _kind(values):
    return "integers" if values.dtype.kind == "i" else "text"
