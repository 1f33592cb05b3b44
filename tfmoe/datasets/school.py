"""School: examination scores of the pupils of 139 schools, a task each."""

from pathlib import Path

import numpy as np
import pandas as pd

from tfmoe.datasets import public
from tfmoe.datasets.synthetic import Split
from tfmoe.files import PathLike
from tfmoe.schema.columns import Column, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Regression
from tfmoe.validation import integer

_HOME = "https://github.com/jiayuzhou/MALSAR"
_NAME, _OWNER = "school", "school"


def school(name_or_path: PathLike = _NAME, seed: int = 0) -> Split:
    """Examination scores of London's pupils: 139 schools, each a task of its own rows.

    The file of MALSAR: 15,362 pupils in three years, 28 numbers of pupil and school, which it gives
    no names, and the score. A row has one task.

    Args:
        name_or_path: path of a folder that holds the file `school.mat`; or `"school"`, which is
            looked for in the folder that the environment variable TFMOE_DATA names.
        seed: int, of the split.

    Returns:
        A `Split` with `school` (1 to 139), the schema's `task_column`, `x_1` to `x_28` and `score`.
        Tasks are `school_1` to `school_139`. A number that is the same in all rows, as the last is,
        is in the tables, but no input. Of each school's pupils a random quarter is the test
        part, and a fifth of the others the validation part.

    Raises:
        ValueError: if the file is of another form.
        FileNotFoundError: if it is not there.

    MALSAR states no terms for the data: https://github.com/jiayuzhou/MALSAR. As a set of tasks:
    Argyriou et al., 2008, https://doi.org/10.1007/s10994-007-5040-8.
    """
    seed = integer(_OWNER, "seed", seed, 0)
    rows = _read(public.named(_OWNER, name_or_path, _NAME, "school.mat", _HOME))
    # A pupil's place among the school's, in a random order.
    order = np.random.default_rng(seed).permutation(len(rows))
    schools = rows["school"].iloc[order]
    place = schools.groupby(schools).cumcount().sort_index()
    size = rows["school"].map(rows["school"].value_counts())
    num_test = (size / 4).round()
    num_valid = ((size - num_test) / 5).round()
    part = np.where(place < num_test, 2, np.where(place < num_test + num_valid, 1, 0))
    train, valid, test = (rows[part == i].reset_index(drop=True) for i in range(3))
    inputs = [name for name in rows if name.startswith("x_") and rows[name].nunique() > 1]
    columns: list[Column] = [Numeric(name) for name in inputs]
    tasks = [
        Regression(f"school_{one}", source="score", key=int(one))
        for one in range(1, rows["school"].max() + 1)
    ]
    return Split(train, valid, test, Schema(columns, tasks, task_column="school"))


def _read(path: Path) -> pd.DataFrame:
    """All rows, the schools in the order of the file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path, variable_names=("X", "Y"))
        tables = [
            np.column_stack([x, y]) for x, y in zip(found["X"].flat, found["Y"].flat, strict=True)
        ]
        cells = np.concatenate(tables).astype("float32")
    except (KeyError, TypeError, ValueError, NotImplementedError, MatReadError) as error:
        raise ValueError(
            "school reads MALSAR's file, with X, a cell for each school of numbers (pupils, "
            f"numbers), and Y, one of scores (pupils, 1). Received {path}, of which the reader "
            f"says: {error}. Get the file from {_HOME}."
        ) from error
    names = [*(f"x_{i}" for i in range(1, cells.shape[1])), "score"]
    rows = pd.DataFrame(cells, columns=names)
    number = np.repeat(np.arange(1, len(tables) + 1), [len(table) for table in tables])
    rows.insert(0, "school", number)
    return rows
