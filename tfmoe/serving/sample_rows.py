"""Raw rows made from what was fitted, for checks and sample requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tfmoe.data import arrow
from tfmoe.data.encode.codecs import codec_of
from tfmoe.data.encode.graph import is_text
from tfmoe.schema.columns import MISSING_INT, Categorical, Column, MultiCategorical, Numeric
from tfmoe.schema.histories import list_groups
from tfmoe.schema.pretrained import Pretrained

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
    columns = {
        raw: _sample_cells(preprocessor, readers, num_rows, generator)
        for raw, readers in _readers(preprocessor.schema).items()
    }

    _align(preprocessor.schema, columns)

    def weigh(count):
        weights = [] if count is None else generator.choice([0.5, 2.0, -1.0, np.nan], count)
        return None if count is None or generator.random() < 0.2 else list(weights)

    for raw, cells in _with_weights(preprocessor.schema, columns, weigh).items():
        columns[raw] = cells if hasattr(cells, "dtype") else pd.Series(cells, dtype=object)
    name = preprocessor.schema.task_column
    if name:
        keys = generator.choice(np.array(preprocessor.schema.task_keys, object), num_rows)
        columns[name] = pd.Series(_task_cells(preprocessor, keys), dtype=object)
    return pd.DataFrame(columns)


def typical_rows(preprocessor: Preprocessor, num_rows: int) -> pd.DataFrame:
    """Raw rows for people to read, made from what was fitted: none is missing or unknown.

    Categories are the most frequent ones by turns, lists two of them; numbers lie at the mean and
    half a standard deviation beside it, or at quantiles, with four digits. Of a hashed column no
    value is known, and of a number that is left as it is no mean: those are made up.

    Returns:
        DataFrame of the schema's raw columns and the task column.
    """
    import pandas as pd

    columns = {
        raw: [_typical_cell(preprocessor, readers, row) for row in range(num_rows)]
        for raw, readers in _readers(preprocessor.schema).items()
    }
    _align(preprocessor.schema, columns)
    columns = _with_weights(preprocessor.schema, columns, lambda count: [1.0, 0.5][:count])
    name = preprocessor.schema.task_column
    if name:
        keys = preprocessor.schema.task_keys
        columns[name] = _task_cells(preprocessor, [keys[i % len(keys)] for i in range(num_rows)])
    return pd.DataFrame({raw: pd.Series(cells, dtype=object) for raw, cells in columns.items()})


def _align(schema, columns):
    """Cuts and fills the cells of sequences that share positions to one length in a row."""
    for group in list_groups(schema.columns):
        if len(group) > 1:
            cells = zip(*(columns[column.raw_name] for column in group), strict=True)
            rows = [_of_one_length(group, row) for row in cells]
            for column, aligned in zip(group, zip(*rows, strict=True), strict=True):
                columns[column.raw_name] = list(aligned)


def _of_one_length(group, cells):
    pairs = [*zip(group, cells, strict=True)]
    lengths = [len(_elements(*pair)) for pair in pairs if pair[1] is not None]
    return [_of_length(*pair, lengths[0]) if lengths else None for pair in pairs]


def _elements(column, cell):
    if cell is None:
        return []
    return cell if column.separator is None else cell.split(column.separator)


def _of_length(column, cell, length):
    if cell is None:
        return None
    gap = None if column.separator is None else ""
    elements = (_elements(column, cell) + [gap] * length)[:length]
    return elements if column.separator is None else column.separator.join(elements)


def _readers(schema):
    """The columns that read each raw one."""
    readers: dict[str, list[Column]] = {}
    for column in schema.columns:
        if column.raw_names:
            readers.setdefault(column.raw_name, []).append(column)
    return readers


def _own_codec(schema, readers):
    """The codec of the first reader of a kind that makes cells of its own, or None."""
    own = [
        c
        for c in readers
        if not isinstance(c, Numeric | Categorical | Pretrained) or getattr(c, "boundaries", ())
    ]
    return codec_of(own[0], schema) if own else None


def _with_weights(schema, columns, weigh):
    """Raw columns and beside them the weights of lists, for which `weigh` makes a cell's."""
    for column in schema.columns:
        if isinstance(column, MultiCategorical) and column.weights is not None:
            columns[column.weights] = [
                weigh(_count(cell, column.separator)) for cell in columns[column.raw_name]
            ]
    return columns


def _count(cell, separator):
    """How many values a cell has, None if it is missing."""
    if cell is None or isinstance(cell, float):
        return None
    return len(cell.split(separator)) if isinstance(cell, str) else len(cell)


def _typical_cell(preprocessor, readers, row):
    own = _own_codec(preprocessor.schema, readers)
    if own is not None:
        return own.typical(preprocessor, row)
    category = _category(preprocessor, readers)
    if category is None:
        numbers = [_typical_number(one, preprocessor.numeric[one.name], row) for one in readers]
        if readers[0].element is None:
            return numbers[0]
        places = {one.element or 0: number for one, number in zip(readers, numbers, strict=True)}
        return [places.get(place, 0.0) for place in range(1 + max(places))]
    column, text = category
    values = _known(preprocessor, column, text) or (["a", "b", "c"] if text else [1, 2, 3])
    values = values[:3]
    cell = values[row % len(values)]
    if not hasattr(column, "separator"):
        return cell
    second = values[(row + 1) % len(values)]
    cells = [cell] if second == cell or preprocessor.lengths[column.name] < 2 else [cell, second]
    return cells if column.separator is None else column.separator.join(map(str, cells))


def _typical_number(column, fit, row):
    """The mean, or half a standard deviation below or above it; or a quartile."""
    if column.embeds and len(fit.boundaries):
        number = fit.boundaries[len(fit.boundaries) * (2, 1, 3)[row % 3] // 4]
    elif column.transform in ("none", "buckets"):
        number = fit.fill or 0.0
    else:
        number = fit.mean + (0.0, -0.5, 0.5)[row % 3] / (fit.scale or 1.0)
        if column.transform == "log":
            number = np.sign(number) * np.expm1(np.abs(number))
        elif number < 0 < fit.mean:
            number = fit.mean / 2  # many numbers are never negative
    return float(f"{number:.4g}")


def _category(preprocessor, readers):
    """The column whose cells all readers of a raw one can read, and whether these are text.

    None if all readers read numbers.
    """
    categories = [column for column in readers if not isinstance(column, Numeric)]
    if not categories:
        return None
    # What reads text reads integers too, but not the other way round.
    text = categories == readers and all(is_text(preprocessor, one) for one in categories)
    # Vocabularies have values to choose from.
    return min(categories, key=lambda one: bool(_owner(preprocessor, one).hash_buckets)), text


def _sample_cells(preprocessor, readers, num_rows, generator):
    """A raw column that all of its readers can read, as a Series."""
    import pandas as pd

    own = _own_codec(preprocessor.schema, readers)
    if own is not None:
        return pd.Series(own.sample(preprocessor, num_rows, generator), dtype=object)
    category = _category(preprocessor, readers)
    if category is None and any(reader.element is not None for reader in readers):
        return _sample_vectors(preprocessor, readers, num_rows, generator)
    if category is None:
        fit = preprocessor.numeric[readers[0].name]
        return pd.Series(_sample_numbers(readers[0], fit, num_rows, generator), dtype="float64")
    cells = _sample_categories(preprocessor, *category, num_rows, generator)
    return pd.Series(cells, dtype=object)


def _task_cells(preprocessor, keys):
    """Keys as the task column has them; where inputs read it too, as they expect."""
    name = preprocessor.schema.task_column
    readers = [column for column in preprocessor.schema.columns if column.raw_name == name]
    if any(not is_text(preprocessor, column) for column in readers):
        return [int(key) for key in keys]
    return list(keys)


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


def _known(preprocessor, column, text):
    """Values of a column's vocabulary, the most frequent first; none of a hashed one."""
    hashes = _owner(preprocessor, column).hash_buckets
    known = [] if hashes else preprocessor.vocabulary(column.name).drop_null()[:1000].tolist()
    if text:
        return list(map(str, known))
    numbers = arrow.whole_numbers(pa.array(known).cast(pa.string())).tolist()
    return [number for number in numbers if number != MISSING_INT]


def _sample_categories(preprocessor, column, text, num_rows, generator):
    """Cells of a categorical column, as text or as integers (of text, those that it names)."""
    unknown = ["not in any vocabulary", "\u00fc\U0001f600"] if text else [-1, 2**62 + 1]
    values = _known(preprocessor, column, text) or unknown

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
