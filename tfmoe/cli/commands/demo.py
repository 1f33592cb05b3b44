"""`tfmoe demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.by_name import DATA_SETS, completion, one_of
from tfmoe.cli.terminal import console, errors_shown, say, show
from tfmoe.files import new_file


def demo(
    data: Annotated[
        str, typer.Option(help=f"{one_of(DATA_SETS)}.", autocompletion=completion(DATA_SETS))
    ] = "synthetic",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the MovieLens files.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results; each run gets a number.")] = Path(
        "demo"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="At most; by default 15 or 8.")] = None,
    seed: int = 0,
) -> None:
    """Trains three models on one table, compares, exports and serves one."""
    with errors_shown():
        from tfmoe.cli.quiet import start_tensorflow
        from tfmoe.datasets.movielens import movielens
        from tfmoe.datasets.synthetic import synthetic_ratings

        say(f"Data: {data}")
        if data == "synthetic":
            split = synthetic_ratings(seed=seed)
        else:
            split = movielens(data_dir or data, seed=seed)
        sizes = [f"{len(part):,}" for part in (split.train, split.valid, split.test)]
        say(f"Rows: {sizes[0]} to train, {sizes[1]} to validate, {sizes[2]} to test")
        start_tensorflow()
        from tfmoe.cli import demo as study
        from tfmoe.reports.pictures import require_matplotlib
        from tfmoe.serving.export import export

        require_matplotlib()
        settings = study.SYNTHETIC if data == "synthetic" else study.MOVIELENS
        trained = list(
            study.run(
                split,
                study.mixtures(settings.units),
                epochs or settings.epochs,
                settings.batch_size,
                seed,
                console(),
            )
        )
        folder = study.new_folder(out)
        show(study.table(trained, split.schema))
        with new_file(folder / "results.json") as draft:
            draft.write_text(json.dumps([one.row for one in trained], indent=2), encoding="utf-8")
        study.draw(trained, split.schema, folder / "gates.png")
        model = trained[-1].model
        model.save(folder / "model.keras")
        version = export(model, folder / "serving")
        rows = split.test.sample(10, random_state=seed)
        predictions = study.served_predictions(model, version, rows)
        with new_file(folder / "predictions.csv") as draft:
            predictions.to_csv(draft, index=False)
        show(
            study.rows_table(predictions, split.schema, console().width, folder / "predictions.csv")
        )
        say(f"Heat map of the gates: {folder / 'gates.png'}")
        say(f"Model: {folder / 'model.keras'}, SavedModel: {version}")
