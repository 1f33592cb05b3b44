"""`tfmoe export`."""

from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.paths import ModelFile, load_model
from tfmoe.cli.terminal import errors_shown, say


def export(
    model: ModelFile,
    path: Annotated[Path, typer.Argument(help="Folder of the served model.")],
    score: Annotated[
        str,
        typer.Option(help="One more output, `score`, of others with weights: click=1,buy=5."),
    ] = "",
    score_as: Annotated[
        str, typer.Option(help="sum, of weight times output; product, of output to its power.")
    ] = "sum",
) -> None:
    """Writes a SavedModel for TF Serving and checks it against the model."""
    with errors_shown():
        weights = _score(score)
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"A folder is written. Received {path}, which is a file.")
        loaded = load_model(model)
        from tfmoe.serving.export import export as write

        version = write(loaded, path, weights, score_as)  # type: ignore[arg-type]
        say(f"Wrote {version}, which predicts what the model predicts.")
        sampled = [t.name for t in loaded.schema.tasks if getattr(t, "negatives_kept", 1) < 1]
        if sampled:
            say(
                f"Negative rows of {', '.join(sampled)} were sampled: what is served is corrected, "
                "a probability in the whole table."
            )


def _score(given: str) -> dict[str, float] | None:
    """`{"click": 1.0}` of `"click=1"`."""
    weights = {}
    for part in given.split(",") if given else ():
        name, _, text = part.partition("=")
        try:
            weights[name.strip()] = float(text)
        except ValueError as error:
            raise ValueError(
                f"--score takes weights by output, such as click=1,buy=5. Received --score {given}."
            ) from error
    return weights or None
