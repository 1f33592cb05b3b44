"""Three models on MovieLens, side by side, and what every `tfmoe demo` leaves behind."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from tfmoe.cli.progress import ProgressLine
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.synthetic import Split
from tfmoe.files import next_version
from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.model.model import MultiTaskModel
from tfmoe.reports.gate_use import GateUse, gate_use
from tfmoe.reports.pictures import draw_gates
from tfmoe.reports.tables import GAP, plain_table
from tfmoe.schema.schema import Schema
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom


class Settings(NamedTuple):
    """What fits a data set: units of an expert, rows of a batch, most epochs."""

    units: int
    batch_size: int
    epochs: int


MOVIELENS = Settings(units=128, batch_size=4096, epochs=8)


class Trained(NamedTuple):
    """One model and what was measured of it.

    Attributes:
        model: `MultiTaskModel`, with the weights of its best epoch.
        row: dict: `model`, each task's metrics on the test part, `parameters`,
            `epochs`, `rows_per_s` in training after the first epoch.
        use: `GateUse`, or None without a gate.
    """

    model: MultiTaskModel
    row: dict
    use: GateUse | None


def mixtures(units: int) -> dict[str, keras.Layer]:
    """The demo's mixtures by name: one network of `units`, and eight such, gated."""
    return {
        "SharedBottom": SharedBottom(hidden_units=(units,)),
        "MMoE": MMoE(num_experts=8, hidden_units=(units,)),
        "DSelect-k": MMoE(
            num_experts=8,
            hidden_units=(units,),
            gate=DSelectKGate(num_nonzeros=2, entropy_reg=0.01),
        ),
    }


class _Speed(keras.callbacks.Callback):
    """Seconds spent in each epoch's training batches."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.stop = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(self.stop - self.start)


def run(
    split: Split,
    mixtures: Mapping[str, keras.Layer],
    epochs: int,
    batch_size: int,
    seed: int = 0,
    console: Console | None = None,
) -> Iterator[Trained]:
    """Fits the preprocessor, then trains and measures a model for each mixture.

    The weights kept are those of the epoch with the lowest validation loss; the test
    part is read once.

    Args:
        split: `Split` with train, valid and test part and a schema.
        mixtures: dict of mixtures by name.
        epochs: int >= 1, at most; training stops after two without an improvement.
        batch_size: int >= 1.
        seed: int.
        console: `rich.console.Console` for progress, or None.

    Yields:
        `Trained`, one for each model.
    """
    preprocessor = Preprocessor(split.schema).fit(split.train)
    train = preprocessor.dataset(split.train, batch_size=batch_size, shuffle=True, seed=seed)
    valid = preprocessor.dataset(split.valid, batch_size=batch_size)
    test = preprocessor.dataset(split.test, batch_size=batch_size)
    for name, mixture in mixtures.items():
        keras.utils.set_random_seed(seed)
        model = MultiTaskModel(preprocessor, mixture)
        model.compile("adam")
        speed = _Speed()
        best = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        line = ProgressLine(name, console, widest=max(mixtures, key=len))
        with line.progress:
            model.fit(
                train,
                validation_data=valid,
                epochs=epochs,
                callbacks=[line, best, speed],
                verbose=0,
            )
        scores = model.evaluate(test, verbose=0)
        uses = gate_use(model, split.test)
        # The first epoch compiles.
        later = speed.seconds[1:] or speed.seconds
        row = {
            "model": name,
            **{key: float(value) for key, value in scores.items()},
            "parameters": model.count_params(),
            "epochs": len(speed.seconds),
            "rows_per_s": len(split.train) * len(later) / sum(later),
        }
        yield Trained(model, row, uses[0] if uses else None)


def table(trained: Sequence[Trained], schema: Schema) -> Table:
    """The demo's results as a table."""
    shown = plain_table("On the test part")
    shown.add_column("model", no_wrap=True)
    columns = []
    for task in schema.tasks:
        metric = "rmse" if f"{task.name}_rmse" in trained[0].row else "auc"
        columns.append(f"{task.name}_{metric}")
        shown.add_column(f"{task.name} {metric.upper()}", justify="right")
    shown.add_column("experts used per task", justify="right")
    for title in ("parameters", "epochs", "rows/s"):
        shown.add_column(title, justify="right", no_wrap=True)
    for one in trained:
        used = "-" if one.use is None else ", ".join(f"{n:.1f}" for n in one.use.num_used)
        shown.add_row(
            one.row["model"],
            *(f"{one.row[column]:.4f}" for column in columns),
            used,
            f"{one.row['parameters']:,}",
            str(one.row["epochs"]),
            f"{one.row['rows_per_s']:,.0f}",
        )
    return shown


def rows_table(predictions: pd.DataFrame, schema: Schema, width: int, whole: str | Path) -> Table:
    """Raw rows beside their predictions: labels, predictions, and the inputs that fit.

    Args:
        predictions: what `served_predictions` returned.
        schema: `tfmoe.Schema` of the model.
        width: int, characters of a line.
        whole: where all columns are to be found.
    """
    titles = {name: str(name).replace("_predicted", " predicted") for name in predictions}
    given = {*_inputs(schema), *(task.raw_name for task in schema.tasks)}
    cells = {
        name: [_cell(value, name in given) for value in predictions[name]] for name in predictions
    }
    # A title is broken between words, a cell is not.
    widths = {name: max(map(cell_len, titles[name].split() + cells[name])) for name in predictions}
    inputs = _inputs(schema)
    shown = [name for name in predictions if name not in inputs]
    room = width - sum(widths[name] + GAP for name in shown)
    left_out = []
    for name in inputs:
        if widths[name] + GAP <= room:
            room -= widths[name] + GAP
        else:
            left_out.append(name)
    shown = [name for name in predictions if name not in left_out]
    table = plain_table("Ten raw rows, predicted by the SavedModel")
    for name in shown:
        numeric = pd.api.types.is_numeric_dtype(predictions[name])
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(titles[name], justify=justify, width=widths[name])
    for row in zip(*(cells[name] for name in shown), strict=True):
        table.add_row(*row)
    if left_out:
        table.caption = f"Without {', '.join(left_out)}: see {whole}"
    return table


def _inputs(schema: Schema) -> list[str]:
    """The table's own names of what a request holds."""
    names = list(schema.readers)
    return list(dict.fromkeys([schema.task_column, *names] if schema.task_column else names))


def _cell(value: object, is_given: bool) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:{'.6g' if is_given else '.3f'}}"
    return str(value)


def served_predictions(
    model: MultiTaskModel, version: str | Path, rows: pd.DataFrame
) -> pd.DataFrame:
    """Predictions of raw rows by the written SavedModel, as a DataFrame beside them."""
    import tensorflow as tf

    from tfmoe.serving.export import tensors

    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    answers = served(**tensors(model.preprocessor, rows))
    schema = model.schema
    names = {name: f"{name}_predicted" for name in schema.task_names}
    if schema.task_column:
        names = {"score": "score"}
    labels = list(dict.fromkeys(task.raw_name for task in schema.tasks))
    predicted = {title: answers[name].numpy() for name, title in names.items()}
    return rows[_inputs(schema) + labels].reset_index(drop=True).assign(**predicted)


def new_folder(path: str | Path) -> Path:
    """Makes `path/1`, or the next free number: an earlier run is never written over."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    folder = path / str(next_version(path))
    folder.mkdir()
    return folder


def draw(trained: Sequence[Trained], schema: Schema, path: str | Path) -> None:
    """The heat map of every model that has a gate."""
    uses = {one.row["model"]: one.use for one in trained if one.use is not None}
    draw_gates(uses, [task.name for task in schema.tasks], path)
