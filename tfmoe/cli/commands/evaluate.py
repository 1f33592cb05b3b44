"""`tfmoe evaluate`."""

from typing import Annotated

import typer

from tfmoe.cli.metrics import metrics_table
from tfmoe.cli.paths import DataFiles, ModelFile, load_model
from tfmoe.cli.terminal import errors_shown, show


def evaluate(
    model: ModelFile,
    data: DataFiles,
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show every number, also of more than 12 tasks."),
    ] = False,
) -> None:
    """Measures a model on a table with labels."""
    with errors_shown():
        loaded = load_model(model)
        if not loaded.compiled:
            loaded.compile()  # as one that was extracted: what is measured follows from the tasks
        rows = loaded.preprocessor.dataset(data, batch_size=batch_size)
        numbers = loaded.evaluate(rows, verbose=0)
        show(metrics_table(numbers, tasks=loaded.schema.tasks, every=every))
