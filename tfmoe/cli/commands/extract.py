"""`tfmoe extract`."""

from pathlib import Path
from typing import Annotated

import typer

from tfmoe.cli.paths import ModelFile, load_model, must_be_new
from tfmoe.cli.terminal import errors_shown, say
from tfmoe.files import new_file
from tfmoe.remote import address
from tfmoe.runs.by_name import USES, completion


def extract(
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
        str,
        typer.Option(
            help="weight, or usage: what training selected, without a table.",
            autocompletion=completion(USES),
        ),
    ] = "weight",
) -> None:
    """Writes a model of some tasks, with only the experts that these use."""
    with errors_shown():
        must_be_new(out, ".keras")
        loaded = load_model(model)
        from tfmoe.extraction.extract import extract as cut

        rows = None if data is None else loaded.preprocessor.arrays(data, labels=False)
        extracted = cut(loaded, task, threshold, rows, tolerance, by)  # type: ignore[arg-type]
        with new_file(out) as draft:
            extracted.save(draft)
        done = extracted.extraction
        kept = done.experts if isinstance(done.experts, dict) else {"": done.experts}
        for gate, experts in kept.items():
            if experts:
                of = f" of {gate}" if gate else ""
                say(f"Experts kept{of}: {', '.join(map(str, experts))}")
        all_kept = done.num_parameters >= done.num_parameters_before
        if data is None and by == "weight" and all_kept and len(loaded.structure.gates) > 0:
            say(
                "All experts were kept: which ones a gate uses that sees the row, only rows can "
                "tell. Give some as --data, or --by usage."
            )
        say(f"Parameters: {done.num_parameters:,} of {done.num_parameters_before:,}")
        if done.largest_change is not None:
            say(f"Largest change of a prediction: {done.largest_change:.3g}")
        say(f"Wrote {address(out)}")
