"""`tfmoe export`."""

from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.paths import ModelFile, load_model
from tfmoe.cli.terminal import errors_shown, say


def export(
    model: ModelFile,
    path: Annotated[Path, typer.Argument(help="Folder of the served model.")],
) -> None:
    """Writes a SavedModel for TF Serving and checks it against the model."""
    with errors_shown():
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"A folder is written. Received {path}, which is a file.")
        loaded = load_model(model)
        from tfmoe.serving.export import export as write

        say(f"Wrote {write(loaded, path)}, which predicts what the model predicts.")
