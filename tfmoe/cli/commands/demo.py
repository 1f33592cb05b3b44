"""`tfmoe demo`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfmoe.cli.terminal import console, errors_shown, say, show
from tfmoe.files import check_local, new_file
from tfmoe.runs.by_name import DATA_SETS, completion, one_of

if TYPE_CHECKING:
    from tfmoe.datasets.synthetic import Split
    from tfmoe.model.model import MultiTaskModel


def demo(
    data: Annotated[
        str, typer.Option(help=f"{one_of(DATA_SETS)}.", autocompletion=completion(DATA_SETS))
    ] = "synthetic",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the MovieLens files, or its URL.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Local folder for results; each run gets a number.")
    ] = Path("demo"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="By default 14; on MovieLens at most 8.")
    ] = None,
    seed: int = 0,
) -> None:
    """Trains several models on one table, compares, exports and serves one."""
    with errors_shown():
        check_local(out)
        if data == "synthetic" and data_dir is not None:
            raise ValueError(
                f"--data-dir holds the files of a --data from {DATA_SETS[1:]}. Received --data-dir "
                f"{data_dir} without one."
            )
        if data == "synthetic":
            _markets(out, epochs, seed)
        else:
            _movielens(data, data_dir, out, epochs, seed)


def _markets(out: Path, epochs: int | None, seed: int) -> None:
    from tfmoe.datasets.markets import synthetic_markets

    world = synthetic_markets(seed=seed)
    num_markets = len(world.regions)
    say(f"Data: a made-up shop in {num_markets} markets. Who will buy? Each market is a task.")
    say("Regions of markets have tastes of their own; no model is told which markets go together.")
    _say_sizes(world.split)
    say("Settings: the best of four trials on other shops (docs/results/demo_choice.md)")
    from tfmoe.cli.quiet import start_tensorflow

    # At 1 it tells of types in DSelect-k's choice between two graphs, which does no harm.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    start_tensorflow()
    import numpy as np

    from tfmoe.cli import demo as study
    from tfmoe.cli import markets, markets_picture, markets_text
    from tfmoe.extraction.extract import extract
    from tfmoe.reports.pictures import require_matplotlib

    require_matplotlib()
    sizes = markets.Sizes() if epochs is None else markets.Sizes(epochs=epochs)
    trained = [
        markets.train(name, world, settings, sizes, seed, console())
        for name, settings in markets.SETTINGS.items()
    ]
    named = {one.name: one for one in trained}
    ours, dense, split = named[markets.OURS], named[markets.DENSE], world.split
    wide = [markets.widened(one.name, one.model, sizes) for one in (ours, dense)]
    some = split.test[:4096]
    market = split.schema.task_names[0]
    alone = extract(ours.model, market, data=split.test[split.test["market"] == market])
    found = markets_text.Comparison(
        markets.ALONE,
        markets.SHARED,
        markets.DENSE,
        markets.OURS,
        float(np.mean(markets.aucs(split, world.probability))),
        [float(np.mean(markets.standalone(one))) for one in trained],
        markets.time_ratio(ours.model, dense.model, some),
        markets.time_ratio(wide[0], wide[1], some),
        markets.WIDE,
        market,
        alone.extraction,
        markets.ON_SIX_SHOPS,
        sizes.chosen,
        sizes.num_experts,
    )
    folder = study.new_folder(out)
    show(markets_text.models_table(trained, found))
    console().print(markets_text.findings(trained, found))
    with new_file(folder / "results.json") as draft:
        rows = [one.row() for one in trained]
        draft.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    markets_picture.draw(
        trained, markets.OURS, world.regions, found.possible, found.sizes, folder / "demo.png"
    )
    alone.save(folder / f"{market}.keras")
    version = _leave_model(ours.model, split, folder, seed)
    say(f"Picture: {folder / 'demo.png'}")
    say(f"Models: {folder / 'model.keras'}, {folder / market}.keras, SavedModel: {version}")


def _movielens(data: str, data_dir: Path | None, out: Path, epochs: int | None, seed: int) -> None:
    from tfmoe.datasets.movielens import movielens

    say(f"Data: {data}")
    split = movielens(data_dir or data, seed=seed)
    _say_sizes(split)
    from tfmoe.cli.quiet import start_tensorflow

    start_tensorflow()
    from tfmoe.cli import demo as study
    from tfmoe.reports.pictures import require_matplotlib

    require_matplotlib()
    settings = study.MOVIELENS
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
    version = _leave_model(trained[-1].model, split, folder, seed)
    say(f"Heat map of the gates: {folder / 'gates.png'}")
    say(f"Model: {folder / 'model.keras'}, SavedModel: {version}")


def _say_sizes(split: "Split") -> None:
    sizes = [f"{len(part):,}" for part in (split.train, split.valid, split.test)]
    say(f"Rows: {sizes[0]} to train, {sizes[1]} to validate, {sizes[2]} to test")


def _leave_model(model: "MultiTaskModel", split: "Split", folder: Path, seed: int) -> Path | str:
    """Saves and exports a model, and shows ten raw rows that what was exported predicts."""
    from tfmoe.cli import demo as study
    from tfmoe.serving.export import export

    model.save(folder / "model.keras")
    version = export(model, folder / "serving")
    rows = split.test.sample(10, random_state=seed)
    predictions = study.served_predictions(model, version, rows)
    with new_file(folder / "predictions.csv") as draft:
        predictions.to_csv(draft, index=False)
    show(study.rows_table(predictions, split.schema, console().width, folder / "predictions.csv"))
    return version
