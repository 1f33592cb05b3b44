"""The bar that `Preprocessor.fit` shows."""

import contextlib


@contextlib.contextmanager
def progress_bar(wanted, total):
    """A function to be called with the number of rows done since the last call."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield lambda rows: None
        return

    class Speed(ProgressColumn):
        def render(self, task):
            return Text(f"{task.completed:,.0f} rows, {task.speed or 0:,.0f} rows/s")

    columns = (TextColumn("fit"), BarColumn(), Speed())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("fit", total=total)
        yield lambda rows: bar.advance(task, rows)
