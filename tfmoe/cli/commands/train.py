"""`tfmoe train`."""

from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli import by_name
from tfmoe.cli.by_name import completion, one_of
from tfmoe.cli.paths import DataFiles, must_be_new
from tfmoe.cli.terminal import console, errors_shown, metrics_table, say, show
from tfmoe.files import new_file

GATE_HELP = (
    f"{one_of(by_name.GATES)}; by default the mixture's own: softmax, or top-k in mod-squad."
)


def train(
    data: DataFiles,
    schema: Annotated[Path, typer.Option(help="Schema file, .yaml or .json.")],
    out: Annotated[Path, typer.Option(help="Where to write the model.")] = Path("model.keras"),
    valid: Annotated[str | None, typer.Option(help="Validation table; picks the epoch.")] = None,
    mixture: Annotated[
        str,
        typer.Option(
            help=f"{one_of(by_name.STRUCTURES)}.", autocompletion=completion(by_name.STRUCTURES)
        ),
    ] = "mmoe",
    gate: Annotated[
        str | None, typer.Option(help=GATE_HELP, autocompletion=completion(by_name.GATES))
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
        by_name.check_structure(mixture, gate, hidden_units)

        from tfmoe.cli.quiet import start_tensorflow
        from tfmoe.schema.schema import Schema

        read = Schema.load(schema)
        start_tensorflow()
        import keras

        import tfmoe
        from tfmoe.cli.progress import ProgressLine
        from tfmoe.reports.callback import GateReport

        keras.utils.set_random_seed(seed)
        prep = tfmoe.Preprocessor(read).fit(data)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            recipe = by_name.structure_by_name(
                mixture, gate, num_experts, num_nonzeros, hidden_units
            )
            model = tfmoe.MultiTaskModel(prep, recipe)
        finally:
            keras.config.set_dtype_policy(before)
        model.compile(tfmoe.optimizers.Adam(learning_rate))
        line = ProgressLine("training", console())
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
        with new_file(out) as draft:
            model.save(draft)
        if valid:
            # Those of the epoch whose weights are kept, which need not be the last.
            show(metrics_table(model.evaluate(watched, verbose=0), "on the validation table"))
        else:
            last = {name: values[-1] for name, values in fitted.items()}
            show(metrics_table(last, "in the last epoch"))
        say(f"Wrote {out}")
        if history is not None:
            with new_file(history) as draft:
                gates.frame.to_csv(draft, index=False)
            say(f"Wrote {history}")
