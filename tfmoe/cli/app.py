"""The command line: `tfmoe demo | schema | train | evaluate | predict | report | ...`."""

import json
import logging
import re
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    help="Multi-task recommender models on mixtures of experts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()

DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")
DataFiles = Annotated[
    str, typer.Argument(help="Table: .csv, .parquet or .tfrecord; a glob in quotes for several.")
]
ModelFile = Annotated[Path, typer.Argument(help="A .keras file that `tfmoe train` has written.")]


class _Fails:
    """Shows what is wrong with the user's input without a traceback."""

    def __enter__(self):
        # Keras retraces for each model and each last batch, and TensorFlow warns of it.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)

    def __exit__(self, kind, error, traceback):
        if error is None or isinstance(error, typer.Exit | typer.Abort):
            return
        message = str(error)
        if not isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError):
            # TensorFlow makes an error of its own of one that came up in reading rows.
            own = re.search(r"(?:ValueError|TypeError|OSError|\w+NotFoundError): (.+?)\n", message)
            if own is None:
                return
            message = own[1]
        # Escaped, for an error may quote brackets.
        console.print(f"[bold red]Error:[/] {escape(message)}", highlight=False)
        raise typer.Exit(1) from error


def _say(text):
    # A path may have brackets, which are no markup.
    console.print(escape(text))


def _must_be_new(path, *suffixes):
    """Fails before the work whose results could not be written, and makes their folder."""
    if path.exists():
        raise FileExistsError(f"{path} is there already. Remove it or choose another name.")
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"A name that ends in {' or '.join(suffixes)} is needed. Received {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)


def _load(path):
    import keras

    import tfmoe

    if not path.exists():
        raise FileNotFoundError(f"There is no model at {path}. `tfmoe train` writes one.")
    model = keras.saving.load_model(path)
    if not isinstance(model, tfmoe.MultiTaskModel):
        raise ValueError(
            f"A MultiTaskModel is needed, which knows its columns. Received {path}, a "
            f"{type(model).__name__}. `tfmoe train` writes one."
        )
    return model


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="synthetic, ml-1m or ml-latest-small.")] = "synthetic",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the MovieLens files.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results; each run gets a number.")] = Path(
        "demo"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="At most; by default 15 or 8.")] = None,
    seed: int = 0,
):
    """Trains three models on one table, compares, exports and serves one."""
    with _Fails():
        from tfmoe.cli import demo as run
        from tfmoe.datasets.movielens import movielens
        from tfmoe.datasets.synthetic import synthetic_ratings
        from tfmoe.reports.pictures import require_matplotlib
        from tfmoe.serving.export import export

        require_matplotlib()
        console.print(f"Data: {data}")
        if data == "synthetic":
            settings, split = run.SYNTHETIC, synthetic_ratings(seed=seed)
        else:
            settings, split = run.MOVIELENS, movielens(data_dir or data, seed=seed)
        sizes = [f"{len(part):,}" for part in (split.train, split.valid, split.test)]
        console.print(f"Rows: {sizes[0]} to train, {sizes[1]} to validate, {sizes[2]} to test")
        trained = list(_trained(split, settings, epochs or settings.epochs, seed))
        folder = run.new_folder(out)
        console.print(run.table(trained, split.schema))
        (folder / "results.json").write_text(
            json.dumps([one.row for one in trained], indent=2), encoding="utf-8"
        )
        run.draw(trained, split.schema, folder / "gates.png")
        model = trained[-1].model
        model.save(folder / "model.keras")
        version = export(model, folder / "serving")
        rows = split.test.sample(10, random_state=seed)
        predictions = run.served_predictions(model, version, rows)
        predictions.to_csv(folder / "predictions.csv", index=False)
        console.print(_frame(predictions, "Ten raw rows, predicted by the SavedModel"))
        _say(f"Heat map of the gates: {folder / 'gates.png'}")
        _say(f"Model: {folder / 'model.keras'}, SavedModel: {version}")


def _trained(split, settings, epochs, seed):
    from tfmoe.cli import demo as run

    mixtures = run.mixtures(settings.units)
    return run.run(split, mixtures, epochs, settings.batch_size, seed, console)


def _frame(df, title):
    table = Table(title=title)
    for name in df.columns:
        table.add_column(str(name).replace("_predicted", " predicted"), overflow="ellipsis")
    for row in df.itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v)[:16] for v in row))
    return table


@app.command()
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
):
    """Proposes a schema file for a table, to be read and edited."""
    with _Fails():
        from tfmoe.schema.schema import Schema

        _must_be_new(out, ".yaml", ".yml", ".json")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if task_column is None:
                proposed = Schema.infer(_head(data), label)
            else:
                proposed = _one_task_a_row(_head(data, task_column), label, task_column)
        proposed.save(out)
        for one in caught:
            console.print(f"[yellow]{escape(str(one.message))}[/]", highlight=False)
        _say(f"Proposed {out}. Read it before you train: is every column of its kind?")


def _one_task_a_row(df, label, task_column):
    """A schema with a task for each value of the column, all of one label."""
    import dataclasses

    from tfmoe.schema.infer import names
    from tfmoe.schema.schema import Schema
    from tfmoe.validation import NAME

    if len(label) != 1 or task_column not in df.columns:
        raise ValueError(
            "With --task-column, a column of the table, the rows of all tasks have one --label. "
            f"Received --task-column {task_column} with {len(label)} labels. Write other "
            "schemas by hand."
        )
    whole = Schema.infer(df.drop(columns=task_column), label)
    keys = sorted(df[task_column].dropna().unique(), key=_by_number)
    plain = [key if NAME.match(key) else f"{task_column}_{key}" for key in keys]
    tasks = [
        dataclasses.replace(
            whole.tasks[0],
            name=named["name"],
            source=label[0],
            key=None if named["name"] == key else key,
        )
        for key, named in zip(keys, names(plain, NAME.match), strict=True)
    ]
    return dataclasses.replace(whole, tasks=tasks, task_column=task_column)


def _by_number(text):
    """Sorts "2" before "10", and text behind numbers."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _head(data, text=None):
    """Some thousand rows of a table, as a DataFrame; the column `text` as it is written."""
    from tfmoe.data.arrow import decoded, to_text
    from tfmoe.data.read.source import open_source

    fragment = open_source(data).fragments()[0]
    if not hasattr(fragment, "first"):
        raise ValueError(f"A schema is proposed for .csv, .tsv or .parquet files. Received {data}.")
    table = fragment.first(10_000, text).slice(0, 10_000)
    if text in table.column_names:
        place, cells = table.column_names.index(text), table[text].combine_chunks()
        table = table.set_column(place, text, decoded(to_text(cells, text)))
    # Spreadsheets leave columns without a name behind.
    return table.select([i for i, name in enumerate(table.column_names) if name]).to_pandas()


@app.command()
def train(
    data: DataFiles,
    schema: Annotated[Path, typer.Option(help="Schema file, .yaml or .json.")],
    out: Annotated[Path, typer.Option(help="Where to write the model.")] = Path("model.keras"),
    valid: Annotated[str | None, typer.Option(help="Validation table; picks the epoch.")] = None,
    mixture: Annotated[str, typer.Option(help="mmoe, omoe, mod-squad or shared-bottom.")] = "mmoe",
    gate: Annotated[
        str | None,
        typer.Option(
            help="softmax, top-k, task-aware, balanced-top-k, dselect-k, comet, gumbel, relu, "
            "sparsemax or entmax; by default softmax, and for mod-squad top-k."
        ),
    ] = None,
    num_experts: Annotated[int, typer.Option(min=2)] = 8,
    num_nonzeros: Annotated[
        int, typer.Option(min=1, help="Experts a task selects, for gates that take a number.")
    ] = 2,
    hidden_units: Annotated[
        str, typer.Option(help="Units of an expert's layers; of mod-squad a token's size.")
    ] = "256,128",
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-3,
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, mixed_bfloat16 or mixed_float16. With wide experts mixed_bfloat16 is "
            "faster where the processor multiplies bfloat16: GPUs, Xeons with AMX."
        ),
    ] = "float32",
    history: Annotated[
        Path | None,
        typer.Option(help="Where to write what the gates select after each epoch, .csv."),
    ] = None,
    seed: int = 0,
):
    """Fits a preprocessor and trains a model on a table."""
    with _Fails():
        import keras

        import tfmoe
        from tfmoe.cli.by_name import mixture_by_name
        from tfmoe.cli.progress import ProgressLine
        from tfmoe.reports.callback import GateReport

        _must_be_new(out, ".keras")
        if history is not None:
            _must_be_new(history, ".csv")
        if dtype not in DTYPES:
            raise ValueError(f"Choose --dtype from {', '.join(DTYPES)}. Received --dtype {dtype}.")
        keras.utils.set_random_seed(seed)
        prep = tfmoe.Preprocessor(tfmoe.Schema.load(schema)).fit(data)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            recipe = mixture_by_name(mixture, gate, num_experts, num_nonzeros, hidden_units)
            model = tfmoe.MultiTaskModel(prep, recipe)
        finally:
            keras.config.set_dtype_policy(before)
        model.compile(tfmoe.optimizers.Adam(learning_rate))
        line = ProgressLine("training", console)
        best = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        watched = prep.dataset(valid, batch_size=batch_size) if valid else None
        for _ in watched or ():
            pass  # A bad cell is told before an epoch is spent, not after it.
        callbacks = [line, best] if valid else [line]
        if history is not None:
            gates = GateReport(valid or data, console=False)
            callbacks.append(gates)
        with line.progress:
            fitted = model.fit(
                prep.dataset(data, batch_size=batch_size, shuffle=True, seed=seed),
                validation_data=watched,
                epochs=epochs,
                callbacks=callbacks,
                verbose=0,
            ).history
        model.save(out)
        if valid:
            # Those of the epoch whose weights are kept, which need not be the last.
            console.print(_metrics(model.evaluate(watched, verbose=0), "on the validation table"))
        else:
            last = {name: values[-1] for name, values in fitted.items()}
            console.print(_metrics(last, "in the last epoch"))
        _say(f"Wrote {out}")
        if history is not None:
            gates.frame.to_csv(history, index=False)
            _say(f"Wrote {history}")


def _metrics(values, title=None):
    table = Table("metric", "value", title=title)
    for name, value in sorted(values.items()):
        table.add_row(name, f"{float(value):.5f}")
    return table


@app.command()
def evaluate(
    model: ModelFile,
    data: DataFiles,
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
):
    """Measures a model on a table with labels."""
    with _Fails():
        loaded = _load(model)
        if not loaded.compiled:
            loaded.compile()  # as one that was extracted: what is measured follows from the tasks
        rows = loaded.preprocessor.dataset(data, batch_size=batch_size)
        console.print(_metrics(loaded.evaluate(rows, verbose=0)))


@app.command()
def predict(
    model: ModelFile,
    data: DataFiles,
    out: Annotated[Path, typer.Option(help=".csv or .parquet, a row for each input row.")],
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
):
    """Writes a model's predictions for a table of raw rows."""
    with _Fails():
        import pandas as pd

        _must_be_new(out, ".csv", ".parquet")
        loaded = _load(model)
        rows = loaded.preprocessor.dataset(data, batch_size=batch_size, labels=False)
        columns = {}
        # Not of `score`, for each task may have classes of its own.
        named = {task.name: getattr(task, "classes", None) for task in loaded.schema.tasks}
        for task, values in loaded.predict(rows, verbose=0).items():
            if values.ndim == 1:
                columns[task] = values
                continue
            classes = named.get(task)
            for c in range(values.shape[1]):
                columns[f"{task}_{classes[c] if classes else c}"] = values[:, c]
        predictions = pd.DataFrame(columns)
        if out.suffix == ".csv":
            predictions.to_csv(out, index=False)
        else:
            predictions.to_parquet(out, index=False)
        _say(f"Wrote {len(predictions):,} rows to {out}")


@app.command("export")
def export_model(
    model: ModelFile,
    path: Annotated[Path, typer.Argument(help="Folder of the served model.")],
):
    """Writes a SavedModel for TF Serving and checks it against the model."""
    with _Fails():
        from tfmoe.serving.export import export

        if path.exists() and not path.is_dir():
            raise FileExistsError(f"A folder is written. Received {path}, which is a file.")
        version = export(_load(model), path)
        _say(f"Wrote {version}, which predicts what the model predicts.")


@app.command("extract")
def extract_model(
    model: ModelFile,
    task: Annotated[list[str], typer.Option(help="A task to keep; repeat for each.")],
    out: Annotated[Path, typer.Option(help="Where to write the model, .keras.")],
    data: Annotated[
        str | None, typer.Option(help="Table to find the used experts on, and the change.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, help="Mean weight, or usage, up to which an expert is dropped.")
    ] = 0.0,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest change of a prediction.")] = 1e-6,
    by: Annotated[
        str, typer.Option(help="weight, or usage: what training selected, without a table.")
    ] = "weight",
):
    """Writes a model of some tasks, with only the experts that these use."""
    with _Fails():
        from tfmoe.extraction.extract import extract

        _must_be_new(out, ".keras")
        loaded = _load(model)
        rows = None if data is None else loaded.preprocessor.arrays(data, labels=False)
        extracted = extract(loaded, task, threshold, rows, tolerance, by)
        extracted.save(out)
        done = extracted.extraction
        kept = done.experts if isinstance(done.experts, dict) else {"": done.experts}
        for gate, experts in kept.items():
            if experts:
                of = f" of {gate}" if gate else ""
                console.print(f"Experts kept{of}: {', '.join(map(str, experts))}")
        console.print(f"Parameters: {done.num_parameters:,} of {done.num_parameters_before:,}")
        if done.largest_change is not None:
            console.print(f"Largest change of a prediction: {done.largest_change:.3g}")
        _say(f"Wrote {out}")


@app.command()
def report(
    model: ModelFile,
    data: DataFiles,
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new.")],
    history: Annotated[
        Path | None,
        typer.Option(help="What `tfmoe train --history` or `GateReport.frame.to_csv` wrote."),
    ] = None,
):
    """Shows which experts each task uses: tables, pictures, numbers."""
    with _Fails():
        import pandas as pd

        from tfmoe.reports.pictures import use_table, write_report

        epochs = None
        if history is not None:
            # A task or a gate may be called "NA".
            numbers = pd.read_csv(history, nrows=0).columns.difference(["task", "gate"])
            gaps = {key: [""] for key in numbers}
            epochs = pd.read_csv(history, keep_default_na=False, na_values=gaps)
        for use in write_report(_load(model), data, out, epochs):
            console.print(use_table(use, use.gate))
            for warning in use.warnings:
                console.print(f"[yellow]{escape(warning)}[/]")
        _say(f"Wrote {', '.join(sorted(str(path) for path in out.iterdir()))}")


if __name__ == "__main__":
    app()
