"""`tfmoe report`."""

from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.paths import DataFiles, ModelFile, load_model, must_be_new
from tfmoe.cli.terminal import errors_shown, say, show, warn
from tfmoe.remote import address, names_in


def report(
    model: ModelFile,
    data: DataFiles,
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new.")],
    history: Annotated[
        Path | None,
        typer.Option(help="What `tfmoe train --history` or `GateReport.frame.to_csv` wrote."),
    ] = None,
) -> None:
    """Shows which experts each task uses: tables, pictures, numbers."""
    with errors_shown():
        import pandas as pd

        must_be_new(out)
        epochs = None
        if history is not None:
            # A task or a gate may be called "NA".
            numbers = pd.read_csv(history, nrows=0).columns.difference(["task", "gate"])
            gaps = {key: [""] for key in numbers}
            epochs = pd.read_csv(history, keep_default_na=False, na_values=gaps)
        loaded = load_model(model)
        from tfmoe.reports.pictures import write_report
        from tfmoe.reports.tables import use_table

        for use in write_report(loaded, data, out, epochs):
            show(use_table(use, use.gate, whole=out / "gates.csv"))
            for warning in use.warnings:
                warn(warning)
        say(f"Wrote {address(out)}: {', '.join(names_in(out))}")
