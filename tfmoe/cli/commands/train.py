"""`tfmoe train`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tfmoe.cli import by_name
from tfmoe.cli.by_name import completion, one_of
from tfmoe.cli.metrics import metrics_table
from tfmoe.cli.paths import DataFiles, must_be_new
from tfmoe.cli.terminal import console, errors_shown, say, show
from tfmoe.files import new_file

GATE_HELP = (
    f"{one_of(by_name.GATES)}; by default the mixture's own: softmax, or top-k in mod-squad."
)


def train(
    data: DataFiles,
    schema: Annotated[Path, typer.Option(help="Schema file, .yaml or .json.")],
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
    wide: Annotated[
        bool, typer.Option("--wide", help="A weight of every value beside the network.")
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
        bool, typer.Option("--scenario-towers", help="Towers have factors of each scenario's own.")
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
        typer.Option(min=1, help="By default until validation stops improving."),
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
) -> None:
    """Fits a preprocessor and trains a model on a table."""
    with errors_shown():
        must_be_new(out, ".keras")
        if history is not None:
            must_be_new(history, ".csv")
        by_name.check_known("--dtype", dtype, by_name.DTYPES)
        by_name.check_known("--weighting", weighting, by_name.WEIGHTINGS)
        by_name.optimizer_parts(optimizer)  # or its error
        by_name.check_structure(mixture, gate, hidden_units)
        for name in interactions.split(",") if interactions is not None else ():
            by_name.check_known("--interactions", name.strip(), by_name.INTERACTIONS)

        from tfmoe.cli.quiet import start_tensorflow
        from tfmoe.schema.schema import Schema

        read = Schema.load(schema)
        weights = _weights(task_weight or [], read.task_names)
        towers = by_name.units_of(tower_units) if tower_units.strip() else ()
        start_tensorflow()
        import keras

        import tfmoe
        from tfmoe.cli.progress import ProgressLine
        from tfmoe.model.inputs import scenario_of
        from tfmoe.model.plan import batch_size_for
        from tfmoe.model.weighing import check_combines, check_tasks
        from tfmoe.objectives.weighting.by_name import weighting_of
        from tfmoe.reports.callback import GateReport
        from tfmoe.schema.columns import SCENARIO

        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:

            def structure(entropy_reg: Any) -> Any:
                return by_name.structure_by_name(
                    mixture, gate, num_experts, num_nonzeros, hidden_units, dropout, entropy_reg
                )

            # What does not go together is told first.
            asked = structure(entropy_reg)
            chosen = weighting_of(weighting)
            check_combines(chosen, asked)
            if chosen is not None:
                check_tasks(chosen, read)
            asks = SCENARIO in asked.context_columns.values()
            needs = {f"--mixture {mixture}": asks, "--pepnet": pepnet is not None}
            for option, given in {**needs, "--scenario-towers": scenario_towers}.items():
                if given:
                    scenario_of(read, option)
            prep = tfmoe.Preprocessor(read).fit(data)
            if entropy_reg is None:
                size = batch_size or batch_size_for(prep.num_rows)
                entropy_reg = by_name.decisive(gate, prep.num_rows, size, epochs)
            # Here, so that a few lines of Python with the same seed train the same model.
            keras.utils.set_random_seed(seed)
            recipe = structure(entropy_reg)
            model = tfmoe.MultiTaskModel(
                prep,
                recipe,
                towers,
                dropout or 0.0,
                **by_name.conditions(pepnet),
                scenario_towers=scenario_towers,
                interactions=by_name.interactions(interactions),
                wide=wide,
                embeddings_regularizer=embeddings_regularizer,
                kernel_regularizer=kernel_regularizer,
                column_dropout=column_dropout,
                position=position,
            )
        finally:
            keras.config.set_dtype_policy(before)
        model.compile(
            by_name.optimizer(optimizer, learning_rate),
            loss_weights=weights or None,
            weighting=weighting,
        )
        for _ in prep.dataset(valid) if valid else ():
            pass  # A bad cell is told before an epoch is spent, not after it.
        line = ProgressLine("training", console())
        callbacks = [line]
        if valid and epochs:
            # `fit` takes the number as it is; a validation table picks the epoch all the same.
            best = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
            callbacks.append(best)
        if history is not None:
            gates = GateReport(valid or data, console=False)
            callbacks.append(gates)
        with line.progress:
            fitted = model.fit(
                data,
                validation_data=valid,
                epochs=epochs,
                batch_size=batch_size,
                patience=patience,
                seed=seed,
                callbacks=callbacks,
                verbose=0,
            ).history
        with new_file(out) as draft:
            model.save(draft)
        show(metrics_table(*_last(model, fitted, valid), read.tasks))
        say(f"Wrote {out}")
        if history is not None:
            with new_file(history) as draft:
                gates.frame.to_csv(draft, index=False)
            say(f"Wrote {history}")


def _last(model: Any, history: dict[str, list[float]], valid: str | None) -> tuple[Any, str]:
    """What to show of a training: the numbers of the weights that are kept."""
    if valid:
        return model.evaluate(valid, verbose=0), "on the validation table"
    best = model.best_epoch
    if best is None:
        return {name: values[-1] for name, values in history.items()}, "in the last epoch"
    numbers = {n.removeprefix("val_"): v[best] for n, v in history.items() if n[:4] == "val_"}
    return numbers, f"on the rows held out, of epoch {best + 1}, which is kept"


def _weights(given: list[str], tasks: Sequence[str]) -> dict[str, float]:
    """`{"click": 2.0}` of `["click=2"]`."""
    weights = {}
    for text in given:
        task, _, number = text.partition("=")
        try:
            weights[task] = float(number)
        except ValueError:
            weights[task] = -1.0
        if task not in tasks or not 0 <= weights[task] < float("inf"):
            raise ValueError(
                f"--task-weight takes task=number, of the tasks {list(tasks)}, at least 0. "
                f"Received --task-weight {text}."
            )
    return weights
