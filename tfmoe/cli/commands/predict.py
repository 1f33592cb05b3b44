"""`tfmoe predict`."""

from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.paths import DataFiles, ModelFile, load_model, must_be_new
from tfmoe.cli.terminal import errors_shown, say
from tfmoe.files import new_file


def predict(
    model: ModelFile,
    data: DataFiles,
    out: Annotated[Path, typer.Option(help=".csv or .parquet, a row for each input row.")],
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
) -> None:
    """Writes a model's predictions for a table of raw rows."""
    with errors_shown():
        must_be_new(out, ".csv", ".parquet")
        loaded = load_model(model)
        import pandas as pd

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
        with new_file(out) as draft:
            if out.suffix == ".csv":
                predictions.to_csv(draft, index=False)
            else:
                predictions.to_parquet(draft, index=False)
        say(f"Wrote {len(predictions):,} rows to {out}")
