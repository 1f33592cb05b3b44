"""Rows/s of fitting and of reading batches, against what people write by hand.

The table has 39 columns, 13 numbers and 26 strings of 10,000 values, and 2 labels. Each
round runs every contender once, in turn, and ratios are taken within a round:

- `read`: the bare Arrow read of the same file into NumPy arrays;
- `arrow`: the same without NumPy, so without making Python strings;
- `pandas fit`: read with pandas, then `value_counts` of each string column, mean and
  standard deviation of each number;
- `slices`: `tf.data.Dataset.from_tensor_slices(dict).shuffle(10_000).batch(4096)` of
  columns that are read and encoded already, which is what our `dataset` still has to do.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary

_BATCH = 4096
_NUMBERS = [f"n{i}" for i in range(13)]
_STRINGS = [f"c{i}" for i in range(26)]
_LABELS = ["y0", "y1"]


def _table(num_rows):
    rng = np.random.default_rng(0)
    values = pa.array([f"value_{i:05d}" for i in range(10_000)])
    columns = {name: np.round(rng.lognormal(size=num_rows), 4) for name in _NUMBERS}
    for name in _STRINGS:
        # Skewed like clicks: a few values are frequent, most are rare.
        places = (len(values) * rng.random(num_rows) ** 3).astype(np.int64)
        columns[name] = values.take(pa.array(places))
    columns |= {name: rng.integers(0, 2, num_rows) for name in _LABELS}
    return pa.table(columns)


def _schema():
    columns = [Numeric(name) for name in _NUMBERS]
    columns += [Categorical(name, dtype="string") for name in _STRINGS]
    return Schema(columns, [Binary(name) for name in _LABELS])


def _batches_of(path, text):
    if path.suffix == ".csv":
        return pyarrow.csv.open_csv(path)
    return pyarrow.parquet.ParquetFile(path, read_dictionary=text).iter_batches()


def _read(path):
    for batch in _batches_of(path, None):
        for column in batch.columns:
            column.to_numpy(zero_copy_only=False)


def _arrow(path):
    for _ in _batches_of(path, _STRINGS):
        pass


def _pandas_fit(path):
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    for name in _STRINGS:
        table[name].value_counts()
    for name in _NUMBERS:
        table[name].mean()
        table[name].std()


def _slices(features, labels):
    import tensorflow as tf

    rows = tf.data.Dataset.from_tensor_slices((features, labels))
    return rows.shuffle(10_000).batch(_BATCH).prefetch(tf.data.AUTOTUNE)


def _drain(dataset):
    for _ in dataset:
        pass


def _seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run(quick):
    """Measures; see the module.

    Args:
        quick: bool, whether to run it small, in some seconds.

    Returns:
        List of rows: name, rows_per_s (median), its quartiles, and where there is a rival
        ratio_to and ratio (median over rounds).
    """
    num_rows, rounds = (20_000, 2) if quick else (1_000_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        table = _table(num_rows)
        paths = {"parquet": Path(folder) / "rows.parquet", "csv": Path(folder) / "rows.csv"}
        pyarrow.parquet.write_table(table, paths["parquet"], row_group_size=131_072)
        # A third of the rows: text is slow to read for everybody.
        pyarrow.csv.write_csv(table.slice(0, num_rows // 3), paths["csv"])
        frame = table.slice(0, num_rows // 3).to_pandas()
        del table
        work, rivals = _contenders(paths, frame, num_rows)
        for _, warm_up in work.values():
            warm_up()
        speeds = {name: [] for name in work}
        for _ in range(rounds):
            for name, (rows, contender) in work.items():
                speeds[name].append(rows / _seconds(contender))
    return [_row(name, speeds, rivals.get(name)) for name in work]


def _contenders(paths, frame, num_rows):
    """Dict of name to (rows, callable), and dict of name to its rival's name."""
    prep = Preprocessor(_schema()).fit(paths["parquet"], progress=False)
    features, labels, _ = prep.arrays(frame)
    # A few batches tell its speed, which does not change, and more would take minutes.
    slices = _slices(features, labels).take(min(12, len(frame) // _BATCH))
    work = {"slices shuffled": (len(slices) * _BATCH, lambda: _drain(slices))}
    rivals = {}
    for kind, path in paths.items():
        rows = num_rows if kind == "parquet" else num_rows // 3
        ordered = prep.dataset(path, batch_size=_BATCH)
        shuffled = prep.dataset(path, batch_size=_BATCH, shuffle=True)
        work |= {
            f"{kind} arrow": (rows, lambda path=path: _arrow(path)),
            f"{kind} read": (rows, lambda path=path: _read(path)),
            f"{kind} pandas fit": (rows, lambda path=path: _pandas_fit(path)),
            f"{kind} fit": (
                rows,
                lambda path=path: Preprocessor(_schema()).fit(path, progress=False),
            ),
            f"{kind} dataset": (rows, lambda dataset=ordered: _drain(dataset)),
            f"{kind} dataset shuffled": (rows, lambda dataset=shuffled: _drain(dataset)),
        }
        rivals[f"{kind} fit"] = f"{kind} pandas fit"
        rivals[f"{kind} dataset"] = f"{kind} read"
        rivals[f"{kind} dataset shuffled"] = "slices shuffled"
    held = prep.dataset(frame, batch_size=_BATCH, shuffle=True)
    work["frame dataset shuffled"] = (len(frame), lambda: _drain(held))
    rivals["frame dataset shuffled"] = "slices shuffled"
    return work, rivals


def _row(name, speeds, rival):
    low, middle, high = (round(float(q)) for q in np.percentile(speeds[name], [25, 50, 75]))
    row = {"name": name, "rows_per_s": middle, "rows_per_s_q1": low, "rows_per_s_q3": high}
    if rival:
        ratios = np.divide(speeds[name], speeds[rival])
        row |= {"ratio_to": rival, "ratio": round(float(np.median(ratios)), 3)}
    return row


def headline(rows):
    """The result in a line."""
    ratio = {row["name"]: row.get("ratio") for row in rows}
    return (
        f"shuffled_vs_slices={ratio['parquet dataset shuffled']:.1f} "
        f"shuffled_csv_vs_slices={ratio['csv dataset shuffled']:.1f} "
        f"fit_vs_pandas={ratio['parquet fit']:.2f} "
        f"fit_csv_vs_pandas={ratio['csv fit']:.2f} "
        f"parquet_share_of_read={ratio['parquet dataset']:.2f} "
        f"csv_share_of_read={ratio['csv dataset']:.2f}"
    )
