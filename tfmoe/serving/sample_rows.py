"""Raw rows made from what was fitted, for checks and sample requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tfmoe.data import arrow
from tfmoe.data.encode.graph import is_text
from tfmoe.schema.columns import MISSING_INT, Column, Numeric

if TYPE_CHECKING:
    import pandas as pd

    from tfmoe.data.preprocessor import Preprocessor


def sample_rows(preprocessor: Preprocessor, num_rows: int, seed: int = 0) -> pd.DataFrame:
    """Raw rows made from what was fitted, unknown and missing values among them.

    Returns:
        DataFrame of the schema's raw columns; its first rows have no missing value. The
        task column holds known keys only, for other rows belong to no task.
    """
    import pandas as pd

    generator = np.random.default_rng(seed)
    readers: dict[str, list[Column]] = {}
    for column in preprocessor.schema.columns:
        readers.setdefault(column.raw_name, []).append(column)
    columns = {
        raw: _sample_cells(preprocessor, columns, num_rows, generator)
        for raw, columns in readers.items()
    }
    if preprocessor.schema.task_column:
        columns |= _sample_tasks(preprocessor, num_rows, generator)
    return pd.DataFrame(columns)


def _sample_cells(preprocessor, readers, num_rows, generator):
    """A raw column that all of its readers can read, as a Series."""
    import pandas as pd

    categories = [column for column in readers if not isinstance(column, Numeric)]
    if not categories and any(reader.element is not None for reader in readers):
        return _sample_vectors(preprocessor, readers, num_rows, generator)
    if not categories:
        fit = preprocessor.numeric[readers[0].name]
        return pd.Series(_sample_numbers(readers[0], fit, num_rows, generator), dtype="float64")
    # What reads text reads integers too, but not the other way round.
    text = categories == readers and all(is_text(preprocessor, one) for one in categories)
    # Vocabularies have values to choose from.
    column = min(categories, key=lambda one: bool(_owner(preprocessor, one).hash_buckets))
    cells = _sample_categories(preprocessor, column, text, num_rows, generator)
    return pd.Series(cells, dtype=object)


def _sample_tasks(preprocessor, num_rows, generator):
    """The task column; where inputs read it too, it is what they expect."""
    import pandas as pd

    schema = preprocessor.schema
    keys = generator.choice(np.array(schema.task_keys, object), num_rows)
    readers = [column for column in schema.columns if column.raw_name == schema.task_column]
    if any(not is_text(preprocessor, column) for column in readers):
        keys = [int(key) for key in keys]
    return {schema.task_column: pd.Series(keys, dtype=object)}


def _sample_numbers(column, fit, num_rows, generator):
    if column.embeds and len(fit.boundaries):
        numbers = generator.choice(fit.boundaries, num_rows)
        numbers = numbers + generator.normal(size=num_rows) * np.ptp(fit.boundaries) / 10
    else:
        numbers = np.clip(generator.normal(size=num_rows), -4, 4) / fit.scale + fit.mean
        if column.transform == "log":
            numbers = np.sign(numbers) * np.expm1(np.abs(numbers))
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e12])
    numbers[num_rows // 2 :: 3] = generator.choice(odd, len(numbers[num_rows // 2 :: 3]))
    return numbers


def _sample_vectors(preprocessor, readers, num_rows, generator):
    """Lists of numbers, for columns that read one number each."""
    import pandas as pd

    vectors = generator.normal(size=(num_rows, 1 + max(reader.element or 0 for reader in readers)))
    for reader in readers:
        fit = preprocessor.numeric[reader.name]
        vectors[:, reader.element or 0] = _sample_numbers(reader, fit, num_rows, generator)
    return pd.Series(list(vectors), dtype=object)


def _owner(preprocessor, column):
    return preprocessor.schema.column(column.table)


def _sample_categories(preprocessor, column, text, num_rows, generator):
    """Cells of a categorical column, as text or as integers (of text, those that it names)."""
    owner = _owner(preprocessor, column)
    known = [] if owner.hash_buckets else preprocessor.vocabulary(column.name)[:1000].tolist()
    unknown = ["not in any vocabulary", "\u00fc\U0001f600"] if text else [-1, 2**62 + 1]
    if text:
        values = list(map(str, known)) or unknown
    else:
        numbers = arrow.whole_numbers(pa.array(known).cast(pa.string())).tolist()
        values = [number for number in numbers if number != MISSING_INT] or unknown

    def one(row):
        late = row >= num_rows // 2
        if late and generator.random() < 0.3:
            return unknown[generator.integers(2)]
        if late and generator.random() < 0.3:
            return None
        return values[generator.integers(len(values))]

    if not hasattr(column, "separator"):
        return [one(row) for row in range(num_rows)]
    cells = []
    for row in range(num_rows):
        count = 1 + generator.integers(preprocessor.lengths[column.name] + 1)
        cell = [one(row) for _ in range(count)]
        if column.separator is not None:
            cell = column.separator.join("" if value is None else value for value in cell)
        cells.append(None if row >= num_rows // 2 and generator.random() < 0.2 else cell)
    return cells
