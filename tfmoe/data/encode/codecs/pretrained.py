"""Values that have vectors. Ids are as those of `Categorical`, of a vocabulary that is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.encode.codecs.categorical import CategoricalCodec
from tfmoe.data.encode.codecs.lists import ListCodec
from tfmoe.data.encode.vocabulary import Vocabulary
from tfmoe.data.read.vectors import read_vectors
from tfmoe.schema.columns import MISSING_ID, UNKNOWN_ID


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

    def equals(self, other: PretrainedFit) -> bool:
        """Whether values and vectors are the same, in the same order."""
        same = np.array_equal(self.values, other.values)
        return same and np.array_equal(self.vectors, other.vectors)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What turns values into ids."""
        is_int = self.values.dtype.kind == "i"
        kind = pa.int64() if is_int else pa.large_string()
        return Vocabulary(pa.array(self.values.tolist(), kind))


class PretrainedCodec(CategoricalCodec):
    """See `Codec`. Its table of values, which others may share, comes with the vectors."""

    fit_kind = PretrainedFit

    def __init__(self, column, schema):
        super().__init__(column, schema)
        others = [c for c in schema.columns if c.table == column.name and c.name != column.name]
        kinds = [ListCodec if other.is_list else CategoricalCodec for other in others]
        # Of all columns with its vectors; they are counted here, where the vectors are.
        self._readers = [self, *(kind(o, schema) for kind, o in zip(kinds, others, strict=True))]

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

    @property
    def dtype(self):
        # As the vectors' ids are, where these are there.
        known = self.column.vectors is not None or "_given" in self.__dict__
        return self._given.vocabulary.dtype if known else self.column.dtype

    def nothing(self):
        return Matched()

    def count(self, chunk, seen):
        table = self._given.vocabulary
        for reader in self._readers:
            ids = reader.ids(chunk, *reader.reading_by(table, table.is_int))
            # Missing elements of lists have the id of padding.
            present = int((ids > MISSING_ID).sum())
            seen = seen.merge(Matched(present, int((ids == UNKNOWN_ID).sum())))
        return seen

    def notice(self, seen):
        if not seen.without:
            return None
        what = " and ".join(repr(reader.column.name) for reader in self._readers)
        of = "cells" if len(self._readers) == 1 else "values"
        return (
            f"{seen.without:,} of {seen.cells:,} {of} of {what} name values without "
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

    def take_over(self, other):
        if "_given" in other.__dict__:
            self.adopt(other._given)

    def width(self, fit):
        return fit.vectors.shape[1]

    def vocabulary(self, fit):
        return fit.vocabulary

    def check(self, fit):
        values, vectors = fit.values, fit.vectors
        right = values.dtype == np.int64 or values.dtype.kind == "U"
        right = right and values.ndim == 1 and vectors.ndim == 2 and len(values) == len(vectors)
        right = right and vectors.size > 0 and vectors.dtype == np.float32
        return bool(right and np.isfinite(vectors).all() and len(np.unique(values)) == len(values))


def _kind(values):
    return "integers" if values.dtype.kind == "i" else "text"
