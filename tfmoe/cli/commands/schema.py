"""`tfmoe schema`."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.paths import DataFiles, must_be_new
from tfmoe.cli.terminal import errors_shown, say, warn


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
        if task_column is not None and len(label) != 1:
            raise ValueError(
                "With --task-column, a column of the table, the rows of all tasks have one "
                f"--label. Received --task-column {task_column} with {len(label)} labels. Write "
                "other schemas by hand."
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            proposed = Schema.infer(data, label, task_column)
        proposed.save(out)
        for one in caught:
            warn(one.message)
        say(f"Proposed {out}. Read it before you train: is every column of its kind?")
