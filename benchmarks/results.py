"""Rows of results: where they come from, how they are kept, how they are shown."""

import functools
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "results"
PICTURES = PAGES / "pictures"

# Benchmarks that may be run in parts, and what of a row tells its part.
PARTS = {
    "conflicting_tasks": ("set",),
    "correlation": ("set",),
    "correlation_2026-11": ("set",),
    "defaults": ("table",),
    "many_tasks": ("set",),
    "movielens": ("set",),
    "regions": ("set",),
    "scenarios": ("set",),
    "sparse": ("processor",),
    "step": ("processor",),
    "structures": ("set",),
    "synthetic": ("tasks", "set"),
    "synthetic_2026-11": ("tasks", "set"),
    "thresholds": ("processor",),
    "tuned": ("set",),
    "weighting": ("set",),
}

# Studies that are commands no more, and the one that took the place of each: their rows, page and
# picture stay, their module is gone.
SUPERSEDED = {
    "correlation_2026-11": "correlation",
    "movielens_cut": "movielens",
    "multimnist_2026-11": "multimnist",
    "synthetic_2026-11": "synthetic",
}

# By benchmark, the commits that made the runs its rows are from, where runs are kept, and what they
# ran on.
RUN_COMMITS = defaultdict(set)
RUN_ENVIRONMENTS = defaultdict(set)


def provenance(command):
    """What a row must say of the run it is from; to be asked before the run.

    Args:
        command: the exact command that a reader can type.

    Returns:
        Dict of `commit`, `dirty` (whether files differed from it), `date` (UTC, at its start),
        `versions`, `processor`, `cores` and `command`.
    """
    # Here, and not above: it brings TensorFlow along, which `tables` can do without.
    import tfmoe

    return {
        "commit": commit(),
        "dirty": is_dirty(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "tfmoe": tfmoe.__version__,
            **{name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "numpy")},
        },
        "processor": _processor(),
        "cores": os.cpu_count(),
        "command": command,
    }


@functools.cache
def commit():
    """The commit that was checked out when this was first asked, or None.

    Another may be by the time that a long run ends, of code that it has not loaded.
    """
    return _git("rev-parse", "--short=12", "HEAD")


@functools.cache
def is_dirty():
    """Whether files differed from the commit when this was first asked."""
    # But for what runs before this one made.
    made = (":(exclude)benchmarks/results", ":(exclude)docs/results")
    return bool(_git("status", "--porcelain", "--", ".", *made))


@functools.cache
def environment():
    """What the last bits of a run may depend on beside its commit, as text."""
    names = ("keras", "tensorflow", "numpy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    faster = {"0": "off", "1": "on"}.get(os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""), "as it is")
    parts = [_processor(), f"oneDNN {faster}", *versions, *["changed files"] * is_dirty()]
    return ", ".join(parts)


def _git(*arguments):
    """What git prints, or None outside a repository that has a commit."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor():
    # Linux leaves platform.processor() empty or says only "x86_64".
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def save(name, rows, run):
    """Appends rows, each with its provenance as `run`, to `results/<name>.jsonl`.

    Args:
        name: the benchmark.
        rows: list of flat dicts that JSON can hold.
        run: what `provenance` returned before the benchmark ran.
    """
    if RUN_COMMITS[name]:
        run = run | {"run_commits": sorted(RUN_COMMITS[name])}
    if RUN_ENVIRONMENTS[name]:
        run = run | {"run_environments": sorted(RUN_ENVIRONMENTS[name])}
    lines = [json.dumps({**row, "run": run}, ensure_ascii=False) + "\n" for row in rows]
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.jsonl", "a", encoding="utf-8") as file:
        file.writelines(lines)


def newest(name):
    """Rows of the last saved run, or of the last of each of `PARTS`, and where they are from.

    Returns:
        List of rows, ordered by their parts; list of the runs' provenance, the oldest first.
    """
    path = RESULTS / f"{name}.jsonl"
    if not path.exists():
        return [], []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = {_part(name, line): line["run"] for line in lines}
    lines = [line for line in lines if line["run"] == last[_part(name, line)]]
    runs = list({line["run"]["date"]: line["run"] for line in lines}.values())
    lines.sort(key=lambda line: _part(name, line))
    keys = PARTS.get(name, ())
    return [
        {key: row[key] for key in row if key != "run"}
        | dict(zip(keys, _part(name, row), strict=True))
        for row in lines
    ], runs


def _part(name, row):
    """What of a row, or of the run that it is from, names its part."""
    return tuple(row[key] if key in row else row["run"][key] for key in PARTS.get(name, ()))


def stamp(path, runs):
    """Writes into a picture from which runs its rows are."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("run", dates(runs))
    with Image.open(path) as picture:
        picture.save(path, pnginfo=info)


def stamped(path):
    """The `dates` of the runs that a picture shows; None if it does not say."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.text.get("run")


def dates(runs):
    """When the runs were, as text."""
    return ", ".join(run["date"] for run in runs)


def print_table(rows):
    """Shows rows in the terminal."""
    header, body = cells(rows)
    table = Table(*header, box=SIMPLE)
    for line in body:
        table.add_row(*line)
    # A narrower table would cut numbers; a narrow terminal wraps its lines instead.
    columns = zip(header, *body, strict=True)
    width = sum(max(map(len, column)) + 3 for column in columns) + 1
    Console(width=max(Console().width, width), soft_wrap=True).print(table)


def cells(rows):
    """Header and body as text; a column for every key that any row has.

    Lists are for pictures and have no column. What `KEY_error`, `KEY_p` and the bounds `KEY_low`
    and `KEY_high` say stands in the column of KEY.
    """
    keys = [key for row in rows for key in row if not isinstance(row[key], list)]
    keys = list(dict.fromkeys(keys))
    beside = {f"{key}{ending}" for key in keys for ending in ("_error", "_low", "_high", "_p")}
    keys = [key for key in keys if key not in beside]
    return keys, [[_cell(row, key) for key in keys] for row in rows]


def _cell(row, key):
    shown = text(row.get(key))
    if row.get(f"{key}_error") is not None:
        shown += f" ± {row[f'{key}_error']:.2g}"
    if row.get(f"{key}_low") is not None:
        shown += f", {row[f'{key}_low']:.2g} to {row[f'{key}_high']:.2g}"
    if row.get(f"{key}_p") is not None:
        shown += f" (p {row[f'{key}_p']:.2g})"
    return shown


def text(value):
    """A value as tables show it."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.4f}" if 0.5 <= abs(value) < 1 else f"{value:.3g}"  # an AUC, mostly
    return str(value)
