"""Runs a benchmark, shows its rows and keeps them."""

import argparse
import importlib
import shlex
import sys

from benchmarks import pages, results

# Each module has `run(quick, **options)`, which returns rows, `headline(rows)`, and perhaps
# `draw(rows, path)` and `OPTIONS`, a dict from an option's name to its type, default and help.
BENCHMARKS = {
    "aliexpress": "benchmarks.aliexpress",
    "census": "benchmarks.census",
    "combining": "benchmarks.combining",
    "conflict": "benchmarks.conflict",
    "conflicting_tasks": "benchmarks.conflicting_tasks",
    "correlation": "benchmarks.correlation",
    "defaults": "benchmarks.defaults",
    "demo": "benchmarks.demo",
    "demo_choice": "benchmarks.demo_choice",
    "demo_movielens": "benchmarks.demo_movielens",
    "embedding": "benchmarks.embedding",
    "extract": "benchmarks.extract",
    "funnel": "benchmarks.funnel",
    "gpu": "benchmarks.gpu",
    "growth": "benchmarks.growth",
    "interest": "benchmarks.interest",
    "many_tasks": "benchmarks.many_tasks",
    "movielens": "benchmarks.movielens",
    "multimnist": "benchmarks.multimnist",
    "peers": "benchmarks.peers",
    "pipeline": "benchmarks.pipeline",
    "ranking": "benchmarks.ranking",
    "regions": "benchmarks.regions",
    "robust": "benchmarks.robust",
    "scale": "benchmarks.scale",
    "scenarios": "benchmarks.scenarios",
    "selectors": "benchmarks.selectors",
    "sparse": "benchmarks.sparse",
    "squad": "benchmarks.squad",
    "step": "benchmarks.step",
    "structures": "benchmarks.structures",
    "synthetic": "benchmarks.synthetic",
    "tasks": "benchmarks.tasks",
    "thresholds": "benchmarks.thresholds",
    "transfer": "benchmarks.transfer",
    "transformers": "benchmarks.transformers",
    "tuned": "benchmarks.tuned",
    "unseen": "benchmarks.unseen",
    "weighting": "benchmarks.weighting",
}


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name",
        choices=[*BENCHMARKS, "all", "tables"],
        help="the benchmark; `all --quick` is all of them, one after the other; `tables` makes "
        "tables, verdicts and pictures of docs/results anew from the saved rows",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small, in seconds, to see that it runs; not saved"
    )
    parser.add_argument("--no-save", action="store_true", help="do not keep the rows")
    chosen, rest = parser.parse_known_args(arguments)
    if chosen.name == "all" and not chosen.quick:
        parser.error("`all` is for `--quick`: the whole takes many hours.")
    if chosen.name in ("all", "tables"):
        _options({}, chosen.name, rest)
    if chosen.name == "tables":
        fill_pages()
        draw_pictures(BENCHMARKS)
        return
    for name in BENCHMARKS if chosen.name == "all" else [chosen.name]:
        benchmark = importlib.import_module(BENCHMARKS[name])
        options = _options(getattr(benchmark, "OPTIONS", {}), name, rest)
        keep = not chosen.quick and not chosen.no_save
        command = shlex.join(["python", "-m", "benchmarks", *arguments])
        run = results.provenance(command) if keep else None
        rows = benchmark.run(chosen.quick, **options)
        if keep:
            results.save(name, rows, run)
            fill_pages()
            draw_pictures([name])
        results.print_table(rows)
        print(benchmark.headline(rows), flush=True)


def _options(known, name, arguments):
    """A benchmark's own options, a dict."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}")
    for option, (kind, default, text) in known.items():
        parser.add_argument(
            f"--{option}", type=kind, default=default, help=f"{text} (default {default})"
        )
    return vars(parser.parse_args(arguments))


def fill_pages():
    for path in pages.paths():
        text = path.read_text(encoding="utf-8")
        path.write_text(pages.fill(text), encoding="utf-8")


def draw_pictures(names):
    """A picture of the saved rows of each benchmark that can draw one."""
    for name in names:
        rows, runs = results.newest(name)
        draw = getattr(importlib.import_module(BENCHMARKS[name]), "draw", None) if rows else None
        if draw is not None:
            path = results.PICTURES / f"{name}.png"
            draw(rows, path)
            results.stamp(path, runs)


if __name__ == "__main__":
    main()
