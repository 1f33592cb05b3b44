"""`tfmoe tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfmoe.cli.terminal import errors_shown, say, show
from tfmoe.files import check_local

if TYPE_CHECKING:
    from rich.table import Table

    from tfmoe.runs.tune import Tuned

# Trials that are shown, the best ones.
_MOST_TRIALS = 8
_TRIALS = 20


def tune(
    config: Annotated[
        Path,
        typer.Option(
            help="File of a run, .yaml, as `tfmoe train --config` takes, or its URL; under "
            "`search` what is tried of its keys."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Local folder of trials and results; one that is there is gone on with."),
    ] = Path("tuned"),
    trials: Annotated[
        int | None,
        typer.Option(min=1, help=f"How many in all; by default {_TRIALS}, or as --minutes has it."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="After which no further trial is started.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(help="Number of the validation that decides: loss, or one such as click_auc."),
    ] = "loss",
) -> None:
    """Searches for the settings of a run that measure best on validation rows."""
    with errors_shown():
        check_local(out)
        from tfmoe.runs.run import load_settings
        from tfmoe.runs.tune import require_optuna

        require_optuna()
        settings, search = load_settings(config)

        from tfmoe.cli.quiet import start_tensorflow

        start_tensorflow()
        from tfmoe.runs.picture import draw_importances
        from tfmoe.runs.tune import tune as search_for

        def started(number: int, tried: dict[str, Any]) -> None:
            say(f"Trial {number}: {', '.join(f'{n}={_short(v)}' for n, v in tried.items())}")

        if trials is None and minutes is None:
            trials = _TRIALS
        tuned = search_for(settings, search, out, trials, minutes, metric, started)
        show(trials_table(tuned))
        written = ["best.yaml", "trials.csv"]
        if draw_importances(tuned.importances, out / "importance.svg"):
            written.append("importance.svg")
        say(f"Wrote {out}: {', '.join(written)}")
        say(f"tfmoe train --config {out / 'best.yaml'} trains the best one.")


def trials_table(tuned: "Tuned") -> "Table":
    """A `rich.table.Table` of the best trials, with what mattered most on the left."""
    from tfmoe.reports.tables import plain_table

    finished = tuned.trials[tuned.trials["state"] == "finished"]
    rising = tuned.number > finished["number"].min()
    best = finished.sort_values("number", ascending=not rising, kind="stable")[:_MOST_TRIALS]
    tried = best.columns[5:].drop("reason")
    own = [name for name in tried if name not in tuned.importances]
    keys = [*tuned.importances, *own]
    number = (tuned.trials["state"] != "refused").sum()
    table = plain_table(f"The best of {number} trials, by {tuned.metric} in validation")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column(tuned.metric, justify="right", no_wrap=True)
    for name in keys:
        share = tuned.importances.get(name)
        table.add_column(name if share is None else f"{name} {share:.0%}", overflow="fold")
    for row in best.to_dict("records"):
        table.add_row(
            str(row["trial"]), f"{row['number']:.4f}", *(_short(row[name]) for name in keys)
        )
    if tuned.importances:
        table.caption = "Percentages: shares in how the numbers differ."
    return table


def _short(value: Any) -> str:
    if value is None or value != value:  # not tried, or nothing
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
