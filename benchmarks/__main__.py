"""Runs a benchmark, shows its rows and keeps them."""

import argparse
import importlib
import sys

from benchmarks import results

# Each module has `run(quick)`, which returns rows, `headline(rows)`, and perhaps
# `draw(rows, path)`.
BENCHMARKS = {
    "conflict": "benchmarks.conflict",
    "demo": "benchmarks.demo",
    "extract": "benchmarks.extract",
    "pipeline": "benchmarks.pipeline",
    "robust": "benchmarks.robust",
    "selectors": "benchmarks.selectors",
    "sparse": "benchmarks.sparse",
    "squad": "benchmarks.squad",
    "step": "benchmarks.step",
    "tasks": "benchmarks.tasks",
    "transfer": "benchmarks.transfer",
    "unseen": "benchmarks.unseen",
}


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name",
        choices=[*BENCHMARKS, "tables"],
        help="the benchmark; `tables` makes tables and pictures of the README files anew from "
        "the saved rows",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small, in seconds, to see that it runs; not saved"
    )
    parser.add_argument("--no-save", action="store_true", help="do not keep the rows")
    chosen = parser.parse_args(arguments)
    if chosen.name == "tables":
        fill_tables()
        draw_pictures(BENCHMARKS)
        return
    benchmark = importlib.import_module(BENCHMARKS[chosen.name])
    rows = benchmark.run(chosen.quick)
    if not chosen.quick and not chosen.no_save:
        results.save(chosen.name, rows, " ".join(["python -m benchmarks", *arguments]))
        draw_pictures([chosen.name])
    results.print_table(rows)
    print(benchmark.headline(rows))


def fill_tables():
    for path in results.READMES:
        if path.exists():
            text = path.read_text(encoding="utf-8")
            path.write_text(results.fill(text), encoding="utf-8")


def draw_pictures(names):
    """A picture of the saved rows of each benchmark that can draw one."""
    for name in names:
        rows, _ = results.newest(name)
        draw = getattr(importlib.import_module(BENCHMARKS[name]), "draw", None) if rows else None
        if draw is not None:
            draw(rows, results.PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
