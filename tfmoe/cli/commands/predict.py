"""`tfmoe predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfmoe.cli.paths import DataFiles, ModelFile, load_model, must_be_new
from tfmoe.cli.terminal import errors_shown, say
from tfmoe.files import new_file
from tfmoe.remote import address

if TYPE_CHECKING:
    import pyarrow as pa

    from tfmoe.model.model import MultiTaskModel


def predict(
    model: ModelFile,
    data: DataFiles,
    out: Annotated[Path, typer.Option(help=".csv or .parquet, a row for each input row.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of the table to write in front of the predictions, as they are: "
            "id,market, or once for each; or all."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
) -> None:
    """Writes a model's predictions for a table of raw rows."""
    with errors_shown():
        must_be_new(out, ".csv", ".parquet")
        kept = _columns(data, ",".join(keep)) if keep else {}  # a wrong name is told first
        loaded = load_model(model)
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet

        from tfmoe.schema.naming import free_name

        columns = dict(kept)
        for name, values in _predictions(loaded, data, batch_size).items():
            columns[free_name(name, columns)] = pa.array(values)
        table = pa.table(columns)
        with new_file(out) as draft:
            if out.suffix == ".csv":
                # Arrow's types keep integers with gaps integers.
                table.to_pandas(types_mapper=pd.ArrowDtype).to_csv(draft, index=False)
            else:
                pa.parquet.write_table(table, draft)
        say(f"Wrote {table.num_rows:,} rows to {address(out)}")


def _predictions(model: "MultiTaskModel", data: str, batch_size: int) -> dict[str, Any]:
    """Predictions by column; those of a class are a column each."""
    from tfmoe.schema.naming import free_name

    columns = {}
    # Not of `score`, for each task may have classes of its own.
    named = {task.name: getattr(task, "classes", None) for task in model.schema.tasks}
    for task, values in model.predict(data, batch_size=batch_size, verbose=0).items():
        if values.ndim == 1:
            columns[task] = values
            continue
        classes = named.get(task)
        for c in range(values.shape[1]):
            name = f"{task}_{classes[c] if classes else c}"
            columns[free_name(name, (*columns, *named))] = values[:, c]
    return columns


def _columns(data: str, keep: str) -> dict[str, "pa.ChunkedArray"]:
    """Columns of a table as they are, in the order of its rows; text files' as text.

    Raises:
        ValueError: if the table has no such column.
    """
    import pyarrow as pa

    from tfmoe.data.arrow import decoded
    from tfmoe.data.read.source import open_source

    parts = []
    for fragment in open_source(data).fragments():
        names = [name.strip() for name in keep.split(",")]
        if names == ["all"]:
            names = list(fragment.names)
        absent = [name for name in names if name not in fragment.names]
        if absent:
            raise ValueError(
                f"--keep takes columns of the table, {list(fragment.names)}, or all. Received "
                f"--keep {keep}, of which {absent} are not there."
            )
        parts.append(pa.table({name: pa.nulls(0) for name in names}))  # of a file without rows
        for chunk in fragment.read(dict.fromkeys(names, "text")):
            parts.append(pa.table({name: decoded(chunk[name]) for name in names}))
    table = pa.concat_tables(parts, promote_options="permissive")
    return dict(zip(table.column_names, table.columns, strict=True))
