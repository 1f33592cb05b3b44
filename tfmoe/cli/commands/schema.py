"""`tfmoe schema`."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfmoe.cli.paths import DataFiles, must_be_new
from tfmoe.cli.terminal import errors_shown, say, warn

if TYPE_CHECKING:
    import pandas as pd

    from tfmoe.schema.schema import Schema


def schema(
    data: DataFiles,
    label: Annotated[list[str], typer.Option(help="A label's column; repeat for each.")],
    out: Annotated[Path, typer.Option(help="Where to write it, .yaml or .json.")] = Path(
        "schema.yaml"
    ),
    task_column: Annotated[
        str | None,
        typer.Option(
            help="Column that names each row's task, if rows have one; --label is theirs."
        ),
    ] = None,
) -> None:
    """Proposes a schema file for a table, to be read and edited."""
    with errors_shown():
        from tfmoe.schema.schema import Schema

        must_be_new(out, ".yaml", ".yml", ".json")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if task_column is None:
                proposed = Schema.infer(_head(data), label)
            else:
                proposed = _one_task_a_row(_head(data, task_column), label, task_column)
        proposed.save(out)
        for one in caught:
            warn(one.message)
        say(f"Proposed {out}. Read it before you train: is every column of its kind?")


def _one_task_a_row(df: "pd.DataFrame", label: list[str], task_column: str) -> "Schema":
    """A schema with a task for each value of the column, all of one label."""
    import dataclasses

    from tfmoe.schema.infer import names
    from tfmoe.schema.schema import Schema
    from tfmoe.validation import NAME

    if len(label) != 1 or task_column not in df.columns:
        raise ValueError(
            "With --task-column, a column of the table, the rows of all tasks have one --label. "
            f"Received --task-column {task_column} with {len(label)} labels. Write other "
            "schemas by hand."
        )
    whole = Schema.infer(df.drop(columns=task_column), label)
    keys = sorted(df[task_column].dropna().unique(), key=_by_number)
    plain = [key if NAME.match(key) else f"{task_column}_{key}" for key in keys]
    tasks = [
        dataclasses.replace(
            whole.tasks[0],
            name=named["name"],
            source=label[0],
            key=None if named["name"] == key else key,
        )
        for key, named in zip(keys, names(plain, NAME.match), strict=True)
    ]
    return dataclasses.replace(whole, tasks=tasks, task_column=task_column)


def _by_number(text: str) -> tuple[int, float, str]:
    """Sorts "2" before "10", and text behind numbers."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _head(data: str, text: str | None = None) -> "pd.DataFrame":
    """Some thousand rows of a table, as a DataFrame; the column `text` as it is written."""
    from tfmoe.data.arrow import decoded, to_text
    from tfmoe.data.read.source import open_source

    fragment = next(iter(open_source(data).fragments()))
    if not hasattr(fragment, "first"):
        raise ValueError(f"A schema is proposed for .csv, .tsv or .parquet files. Received {data}.")
    table = fragment.first(10_000, text).slice(0, 10_000)
    if text is not None and text in table.column_names:
        place, cells = table.column_names.index(text), table[text].combine_chunks()
        table = table.set_column(place, text, decoded(to_text(cells, text)))
    # Spreadsheets leave columns without a name behind.
    return table.select([i for i, name in enumerate(table.column_names) if name]).to_pandas()
