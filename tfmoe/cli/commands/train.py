"""`tfmoe train`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfmoe.cli.metrics import metrics_table
from tfmoe.cli.paths import MaybeDataFiles, free_beside, must_be_new
from tfmoe.cli.terminal import console, errors_shown, say, show, warn
from tfmoe.files import new_file
from tfmoe.remote import address
from tfmoe.runs import by_name
from tfmoe.runs.by_name import completion, one_of

if TYPE_CHECKING:
    from tfmoe.runs.run import Run

GATE_HELP = (
    f"{one_of(by_name.GATES)}; by default the mixture's own: softmax, or top-k in mod-squad."
)


def train(
    context: typer.Context,
    data: MaybeDataFiles = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="Schema file, .yaml or .json; needed without --config or --from."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="File of a whole run, .yaml: these options as keys, with underscores. What is "
            "given on the command line comes before."
        ),
    ] = None,
    write_config: Annotated[
        Path | None, typer.Option(help="Where to write the whole run, .yaml, for --config.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the model.")] = Path("model.keras"),
    valid: Annotated[
        str | None,
        typer.Option(
            help="Validation table; picks the epoch. By default, unless --epochs is given, a "
            "tenth of the rows is held out."
        ),
    ] = None,
    mixture: Annotated[
        str,
        typer.Option(
            help=f"{one_of(by_name.STRUCTURES)}.", autocompletion=completion(by_name.STRUCTURES)
        ),
    ] = "mmoe",
    gate: Annotated[
        str | None, typer.Option(help=GATE_HELP, autocompletion=completion(by_name.GATES))
    ] = None,
    num_experts: Annotated[
        int | None, typer.Option(min=2, help=f"By default {by_name.NUM_EXPERTS}.")
    ] = None,
    num_nonzeros: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Experts a task selects, for gates that take a number; by default "
            f"{by_name.NUM_NONZEROS}.",
        ),
    ] = None,
    entropy_reg: Annotated[
        float | None,
        typer.Option(min=0, help="Drives a gate such as dselect-k to decide; by default its own."),
    ] = None,
    hidden_units: Annotated[
        str | None,
        typer.Option(
            help="Units of an expert's layers; of mod-squad a token's size. By default "
            f"{by_name.UNITS}."
        ),
    ] = None,
    tower_units: Annotated[
        str, typer.Option(help="Units of each task's tower; '' for none.")
    ] = "64",
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="In experts and towers.")
    ] = None,
    layer_norm: Annotated[
        bool,
        typer.Option("--layer-norm/--no-layer-norm", help="Normalise the experts' hidden layers."),
    ] = False,
    embedding_dim: Annotated[
        int | None, typer.Option(min=1, help="Size of all embeddings; by default the schema's.")
    ] = None,
    embeddings_regularizer: Annotated[
        float | None, typer.Option(min=0, help="L2 of the embeddings that a batch looks up.")
    ] = None,
    kernel_regularizer: Annotated[
        float | None, typer.Option(min=0, help="L2 of the kernels of experts and towers.")
    ] = None,
    column_dropout: Annotated[
        float, typer.Option(min=0, max=0.99, help="Of whole columns of a row.")
    ] = 0.0,
    interactions: Annotated[
        str | None,
        typer.Option(
            help="Layers in which columns meet, before the mixture, with commas between them: "
            f"{one_of(by_name.INTERACTIONS)}.",
            autocompletion=completion(by_name.INTERACTIONS),
        ),
    ] = None,
    interactions_stacked: Annotated[
        bool,
        typer.Option(
            "--interactions-stacked/--no-interactions-stacked",
            help="One reads what the one before it has made.",
        ),
    ] = False,
    interactions_alone: Annotated[
        bool,
        typer.Option(
            "--interactions-alone/--no-interactions-alone",
            help="They stand in place of the row, not beside it.",
        ),
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide/--no-wide", help="A weight of every value beside the network.")
    ] = False,
    pepnet: Annotated[
        str | None,
        typer.Option(
            help="Columns that personalise, such as user_id,movie_id: inputs are weighed by the "
            "schema's scenario, towers by these (PEPNet)."
        ),
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(help="Column that says where a row was shown, which only training reads."),
    ] = None,
    scenario_towers: Annotated[
        bool,
        typer.Option(
            "--scenario-towers/--no-scenario-towers",
            help="Towers have factors of each scenario's own.",
        ),
    ] = False,
    task_weight: Annotated[
        list[str] | None,
        typer.Option(help="A task's weight in the loss, task=number; several times."),
    ] = None,
    weighting: Annotated[
        str,
        typer.Option(
            help="How tasks' losses are weighed or gradients combined: "
            f"{one_of(by_name.WEIGHTINGS)}.",
            autocompletion=completion(by_name.WEIGHTINGS),
        ),
    ] = "fixed",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="By default until validation stops improving; with --valid at most so many."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="By default by the number of rows.")
    ] = None,
    patience: Annotated[
        int, typer.Option(min=0, help="Epochs without a better validation loss before the end.")
    ] = 3,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Of optimizers that name none of their own.")
    ] = 1e-3,
    optimizer: Annotated[
        str,
        typer.Option(
            help=f"{one_of(by_name.OPTIMIZERS)}, or one for each part of the model, with rates: "
            "embeddings=lazy_adam:0.01,gates=adam:0.0001,rest=adam.",
            autocompletion=completion(by_name.OPTIMIZERS),
        ),
    ] = "adam",
    dtype: Annotated[
        str,
        typer.Option(
            help=f"{one_of(by_name.DTYPES)}. With wide experts mixed_bfloat16 is "
            "faster where the processor multiplies bfloat16: GPUs, Xeons with AMX.",
            autocompletion=completion(by_name.DTYPES),
        ),
    ] = "float32",
    history: Annotated[
        Path | None,
        typer.Option(help="Where to write what the gates select after each epoch, .csv."),
    ] = None,
    seed: int = 0,
    from_model: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A .keras file, to train that model on, as it was compiled; its schema and layers "
            "stay, and options of these are refused.",
        ),
    ] = None,
    grow: Annotated[
        bool,
        typer.Option(
            "--grow/--no-grow",
            help="With --from: new values of the table get ids and rows of their own first.",
        ),
    ] = False,
    new_rows: Annotated[
        str,
        typer.Option(help="What new rows start as: initializer, or unknown, the unknown's row."),
    ] = "initializer",
    moments: Annotated[
        str,
        typer.Option(help="Means and quantiles when growing: frozen, or update."),
    ] = "frozen",
    evict_after: Annotated[
        int | None,
        typer.Option(min=1, help="Values that so many growths have not seen lose their ids."),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder in which the training is kept, epoch by epoch, for --resume."),
    ] = None,
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Keep it after so many batches too.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on with the training in --checkpoints."),
    ] = False,
    workers: Annotated[
        bool,
        typer.Option(
            "--workers",
            help="Train with other machines, each of which runs this command; the environment's "
            "TF_CONFIG says which they are. The first one writes the model.",
        ),
    ] = False,
) -> None:
    """Fits a preprocessor and trains a model on a table, or trains on a model that there is."""
    with errors_shown():
        must_be_new(out, ".keras")
        if history is not None:
            must_be_new(history, ".csv")
        if write_config is not None:
            must_be_new(write_config, ".yaml", ".yml")
        run = run_of(context, config)
        if _is_given(context, "patience") and run.epochs is not None and run.valid is None:
            raise ValueError(
                "--patience ends a training that is validated. Received --patience "
                f"{patience} with --epochs {run.epochs} and without --valid. Add --valid, or leave "
                "out --epochs, and a tenth of the rows is held out."
            )
        if run.from_model is None:
            run.read_schema()  # or its error, before TensorFlow starts
        from tfmoe.runs.workers import (
            build_with_workers,
            check_workers,
            join_workers,
            train_with_workers,
        )

        if workers:
            check_workers(run)
            if history is not None:
                raise ValueError(
                    "Each worker sees its own rows alone. Received --history with --workers. Leave "
                    "it out, and see afterwards with `tfmoe report`."
                )

        strategy = join_workers() if workers else None
        from tfmoe.cli.quiet import start_tensorflow

        start_tensorflow()
        from tfmoe.cli.progress import ProgressLine
        from tfmoe.reports.callback import GateReport

        line = ProgressLine("training", console())
        callbacks: list[Any] = [line]
        if history is not None:
            gates = GateReport(run.valid or run.data, console=False)
            callbacks.append(gates)
        measured: Any = run.valid
        model = build_with_workers(run, strategy) if workers else run.build()
        if model.is_chief:
            _say_growth(model)
        if workers:
            with line.progress:
                fitted, measured = train_with_workers(run, model, strategy, callbacks)
            model.save(out, overwrite=False)
        else:
            with line.progress:
                fitted = run.fit(model, callbacks)
            out = _saved(model, out)
        numbers = _last(model, fitted, measured)
        if not model.is_chief:
            say(f"The first worker writes {address(out)}")
            return
        show(metrics_table(*numbers, model.schema.tasks))
        say(f"Wrote {address(out)}")
        if history is not None:
            with new_file(history) as draft:
                gates.frame.to_csv(draft, index=False)
            say(f"Wrote {address(history)}")
        if write_config is not None:
            run.save(write_config)
            say(f"Wrote {address(write_config)}")


def _saved(model: Any, out: Path) -> Path:
    """Where a model was saved: what was trained for hours is not lost for a name."""
    try:
        model.save(out, overwrite=False)
    except FileExistsError:
        other = free_beside(out)
        warn(f"{address(out)} has come while the model was trained, which gets another name.")
        model.save(other, overwrite=False)
        return other
    return out


def _say_growth(model: Any) -> None:
    """Says what growing has done to the tables, if it was wanted."""
    for owner, growth in (model.training_preprocessor.growth or {}).items():
        say(
            f"{owner}: {growth.added:,} new values, {growth.reused:,} of them with the rows of "
            f"others; {growth.evicted:,} left; {growth.rows:,} rows"
        )


def run_of(context: typer.Context, config: Path | None) -> "Run":
    """The run that a file and the options say, which come before the file's keys.

    Args:
        context: of the command, which knows which options were given.
        config: file, or None.

    Raises:
        ValueError: if neither says the table or the schema, or as `Run`.
    """
    from tfmoe.runs.run import Run, load_settings

    known = {one.name for one in dataclasses.fields(Run)}
    given = {
        name: value
        for name, value in context.params.items()
        if name in known and (config is None or _is_given(context, name))
    }
    if given.get("task_weight") is not None:
        given["task_weight"] = _weights(given["task_weight"])
    settings = {} if config is None else load_settings(config)[0]
    settings |= {name: value for name, value in given.items() if value is not None}
    started = {"from", "from_model"} & {*settings}
    for name, option in (("data", "DATA, a table"), ("schema", "--schema, or --from")):
        if name not in settings and not (name == "schema" and started):
            raise ValueError(
                f"A training needs {option}. Received none. Give it, or a file that has it as "
                "--config."
            )
    return Run.from_dict(settings)


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stood on the command line."""
    # By name, for some versions of typer bring a click of their own.
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _last(model: Any, history: dict[str, list[float]], valid: Any) -> tuple[Any, str]:
    """What to show of a training: the numbers of the weights that are kept."""
    if valid is not None:
        return model.evaluate(valid, verbose=0), "on the validation table"
    best = model.best_epoch
    if best is None:
        return {name: values[-1] for name, values in history.items()}, "in the last epoch"
    numbers = {n.removeprefix("val_"): v[best] for n, v in history.items() if n[:4] == "val_"}
    return numbers, f"on the rows held out, of epoch {best + 1}, which is kept"


def _weights(given: list[str]) -> dict[str, float]:
    """`{"click": 2.0}` of `["click=2"]`."""
    weights = {}
    for text in given:
        task, _, number = text.partition("=")
        try:
            weights[task] = float(number)
        except ValueError:
            weights[task] = -1.0
        if not 0 <= weights[task] < float("inf"):
            raise ValueError(
                f"--task-weight takes task=number, at least 0. Received --task-weight {text}."
            )
    return weights
