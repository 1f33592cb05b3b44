"""Tables for a console: whole at 80 columns, and what does not fit is named."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.reports.gate_use import GateUse

if TYPE_CHECKING:
    from rich.table import Table

# More than this cannot be read on a screen.
MOST_ROWS = 24
MOST_WEIGHTS = 4
# Characters between two columns.
GAP = 2


def plain_table(title: str | None = None) -> "Table":
    """A `rich.table.Table` without vertical lines, which would take room from the numbers.

    Its words are shown as they are, for values and names may have brackets.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    class PlainTable(Table):
        def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
            super().add_column(Text(header), *args, **options)

        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*map(Text, cells), **options)

        def __rich_console__(self, console: Any, options: Any) -> Any:
            for name in ("title", "caption"):
                words = getattr(self, name)
                if isinstance(words, str):
                    setattr(self, name, Text(words, f"table.{name}"))
            return super().__rich_console__(console, options)

    return PlainTable(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),  # and one for where a line would be
    )


def use_table(use: GateUse, title: str, whole: str | Path = "GateUse.frame()") -> "Table":
    """A `rich.table.Table` with a row for each task; the first 24 of many.

    Args:
        use: `GateUse`.
        title: str.
        whole: where all tasks are to be found, for the line below a table of many.
    """
    table = plain_table(f"{title}: experts used")
    table.add_column("task", overflow="fold")
    for name in ("a row", "in all", "entropy", "decided"):
        if name != "decided" or use.converged is not None:
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("expert:mean weight")  # the largest four
    for t, task in enumerate(use.tasks[:MOST_ROWS]):
        if np.isnan(use.num_used[t]):
            table.add_row(task, *[""] * (len(table.columns) - 2), "no rows")
            continue
        numbers = [f"{x[t]:.1f}" for x in (use.num_used, use.effective_experts)]
        numbers.append(f"{use.entropy[t]:.2f}")
        if use.converged is not None:
            numbers.append(f"{use.converged[t]:.0%}")
        largest = np.argsort(-use.mean_weight[t], kind="stable")[:MOST_WEIGHTS]
        # Without a space inside, so that a line is not broken between expert and weight.
        weights = [
            f"{use.experts[e]}:{use.mean_weight[t, e]:.2f}"
            for e in largest
            if use.mean_weight[t, e] >= 0.005
        ]
        table.add_row(task, *numbers, " ".join(weights))
    if len(use.tasks) > MOST_ROWS:
        table.caption = f"and {len(use.tasks) - MOST_ROWS} more tasks: see {whole}"
    return table
