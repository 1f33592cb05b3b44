"""`tfmoe evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.metrics import metrics_table, segments_table
from tfmoe.cli.paths import DataFiles, ModelFile, load_model, must_be_new
from tfmoe.cli.terminal import errors_shown, say, show
from tfmoe.remote import address, names_in

_K = 10


def evaluate(
    model: ModelFile,
    data: DataFiles,
    batch_size: Annotated[int, typer.Option(min=1)] = 4096,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show every number, also of more than 12 tasks."),
    ] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of the table, input or not, by whose values each task's metric is "
            "told: country, or once for each."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="A column whose values group rows, such as user_id, for GAUC, NDCG, recall and "
            "MRR; by default the schema's."
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of a group that NDCG and recall see, by default 10."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability above which a row counts as predicted, for precision."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write, which must be new: numbers, reliability curves, metrics by "
            "segment."
        ),
    ] = None,
) -> None:
    """Measures a model on a table with labels."""
    with errors_shown():
        from tfmoe.model.measure import check_measured

        columns = [name for one in by or () for name in one.split(",")]
        check_measured(columns, group, k or _K, threshold, "evaluate")
        if out is not None:
            must_be_new(out)
            from tfmoe.reports.pictures import require_matplotlib

            require_matplotlib()
        loaded = load_model(model)
        if k is not None and group is None and loaded.schema.group is None:
            raise ValueError(
                f"--k is of NDCG and recall of groups. Received --k {k} without --group, and a "
                "schema without one. Add --group, or leave out --k."
            )
        from tfmoe.model.measure import measure, with_measures
        from tfmoe.model.watched import reported

        if not loaded.compiled:
            loaded.compile()  # as one that was extracted: what is measured follows from the tasks
        # First what fails at once where a column is not there.
        found = measure(loaded, data, columns, group, k or _K, threshold, batch_size)
        rows = loaded.preprocessor.dataset(data, batch_size=batch_size)
        # What is exact was measured, but for scenarios.
        logs = loaded.evaluate(rows, verbose=0, exact=loaded.schema.scenario is not None)
        logs = with_measures(logs, found._replace(segments=found.segments[:0]), reported(loaded))
        show(metrics_table(logs, tasks=loaded.schema.tasks, every=every))
        for column in columns:
            own = found.segments[found.segments["column"] == column]
            if len(own):
                at = f"see {out / 'segments.csv'}" if out else "--out writes all of them"
                show(segments_table(own, column, at))
        if out is not None:
            from tfmoe.reports.quality import write_measures

            write_measures(found, out)
            say(f"Wrote {address(out)}: {', '.join(names_in(out))}")
