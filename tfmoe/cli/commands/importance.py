"""`tfmoe importance`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfmoe.cli.metrics import MOST_TASKS
from tfmoe.cli.paths import DataFiles, ModelFile, load_model, must_be_new
from tfmoe.cli.terminal import errors_shown, say, show
from tfmoe.remote import address, names_in

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

# Columns of each task that are shown without --all.
_MOST_COLUMNS = 8


def importance(
    model: ModelFile,
    data: DataFiles,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write, which must be new: a table, a picture.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Permutations of each column.")] = 5,
    num_rows: Annotated[
        int, typer.Option("--rows", min=2, help="So many rows at most, drawn from all.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    every: Annotated[bool, typer.Option("--all", help="Show all columns of all tasks.")] = False,
) -> None:
    """Shows on which columns each task's predictions lean, by permuting them one by one."""
    with errors_shown():
        if out is not None:
            must_be_new(out)
            from tfmoe.reports.pictures import require_matplotlib

            require_matplotlib()
        loaded = load_model(model)
        from tfmoe.reports.importance import permutation_importance, write_importance

        frame = permutation_importance(loaded, data, repeats, seed, num_rows)
        show(importance_table(frame, every))
        if out is not None:
            write_importance(frame, out)
            say(f"Wrote {address(out)}: {', '.join(names_in(out))}")


def importance_table(frame: "pd.DataFrame", every: bool = False) -> "Table":
    """A `rich.table.Table` of what `permutation_importance` found, a section for each task.

    Args:
        frame: DataFrame.
        every: whether to show more than 12 tasks and more than 8 columns of each.
    """
    from tfmoe.reports.importance import tasks_of
    from tfmoe.reports.tables import plain_table

    table = plain_table("What a task loses without a column's values")
    table.min_width = 46
    for name in ("task", "column"):
        table.add_column(name, overflow="fold")
    table.add_column("metric", no_wrap=True)
    for name in ("is", "worse by", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = 0
    for task, own in tasks_of(frame, len(frame) if every else MOST_TASKS):
        if table.row_count:
            table.add_section()
        for row in own[: len(own) if every else _MOST_COLUMNS].itertuples():
            spread = "" if row.spread != row.spread else f"{row.spread:.4f}"
            numbers = (str(row.metric), f"{row.base:.4f}", f"{row.drop:.4f}", spread)
            table.add_row(task, str(row.column), *numbers)
            shown += 1
    if shown < len(frame):
        table.caption = f"and {len(frame) - shown} more lines: --all shows them, --out writes them"
    return table
