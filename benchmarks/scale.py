"""How time and memory grow: with rows, with ids, with replicas, with epochs and with models.

Each figure is of a process of its own. Rows are those of a shop made up here, in a folder of
partitions of Parquet files of 1,000,000 rows: ids of 100,000 users and 20,000 items as text, two
numbers and a category, `click` and `buy`. The model: an MMoE of 4 experts of 64 -> 32 units on
embeddings of 16, Adam, batches of 4,096.

`fit` is `Preprocessor.fit` of the folder; `train` an epoch of `model.fit` on it, shuffled, after
a few steps that made the graph; `rows_per_s` and `peak_mb`, how far the peak of memory is above
that before, which is the whole of what grows with rows. `10^8 rows` are drawn on from the slope
between the two largest. `replicas` trains on batches in memory on as many replicas of one process,
each with a thread; `step_ratio` is the milliseconds of a step of the same rows divided by those of
one replica of as many threads. `epochs` and `models` say how many MB the process holds after
ten epochs, or ten models that were made, trained and dropped, and after fifty. `sharded` makes a
table under `ModelParallel` on so many devices of JAX: MB on one of them, of weights and of Adam's
state. `export` writes a SavedModel of a vocabulary of text, `peak_mb` above what the model and its
preprocessor take, `graph_mb` of its `saved_model.pb`, `load_s` the seconds of loading it,
`lookup_us` those of a request of a row; `in the graph` is with hash tables, as small vocabularies
are, and `sorted` as large ones.
"""

import functools
import json
import tempfile

import numpy as np

from benchmarks import studies
from benchmarks.job import answer
from benchmarks.scale_job import Job

ROWS, FAR = (10**5, 10**6, 10**7), 10**8
MOST = ROWS[-1]
EXPORTS = [(10**5, "in the graph"), (10**6, "in the graph"), (3 * 10**6, "in the graph")]
EXPORTS += [(10**5, "sorted"), (10**6, "sorted"), (3 * 10**6, "sorted"), (10**7, "sorted")]
OPTIONS = {"rows": (int, MOST, "the most rows that are read")}


def run(quick, rows=MOST):
    """A row for each figure."""
    with tempfile.TemporaryDirectory() as folder:
        grid = studies.Grid("scale", functools.partial(one_run, folder, quick), quick)
        runs = grid.run(_quick_cells() if quick else _cells(rows))
    found = [_row(own) for own in _by_cell(runs)]
    for job in ("fit", "train"):
        sizes = sorted((row for row in found if row["name"] == job), key=lambda r: r["rows"])
        found += [_drawn_on(*sizes[-2:])] if len(sizes) > 1 and not quick else []
    first = {row["of"]: row["ms"] for row in found if row["name"] == "one device"}
    for row in found:
        if row["name"] == "replicas":
            row["step_ratio"] = row["ms"] / first[row["of"]]
    return found


def _cells(most):
    rows = [size for size in ROWS if size <= most]
    cells = [{"name": job, "rows": size} for size in rows for job in ("fit", "train")]
    cells += [{"name": name, "of": 50} for name in ("epochs", "models")]
    cells += [{"name": "sharded", "rows": size, "of": num} for size in ROWS for num in (1, 2, 4, 8)]
    cells += [{"name": "export", "rows": size, "way": way} for size, way in EXPORTS]
    steps = [{"name": name, "of": num} for num in (1, 2, 4) for name in ("one device", "replicas")]
    # Three times, in turn, for the machine may have other work.
    return [{**cell, "seed": 0} for cell in cells] + [
        {**cell, "seed": seed} for seed in range(3) for cell in steps
    ]


def _quick_cells():
    cells = [{"name": job, "rows": 200} for job in ("fit", "train")]
    cells += [{"name": name, "of": 2} for name in ("one device", "replicas")]
    cells += [{"name": name, "of": 2} for name in ("epochs", "models")]
    cells += [{"name": "sharded", "rows": 96, "of": 2}]
    cells += [{"name": "export", "rows": 50, "way": way} for way in ("in the graph", "sorted")]
    return [{**cell, "seed": 0} for cell in cells]


def one_run(folder, quick, cell):
    """What a process of its own found; in the quick form only of what needs devices of its own."""
    asked = {**cell, "folder": folder, "quick": quick}
    if quick and cell["name"] not in ("replicas", "sharded"):
        return Job(**asked).find()
    asked = json.dumps(asked)
    if cell["name"] != "sharded":
        return answer("benchmarks.scale_job", asked, TF_CPP_MIN_LOG_LEVEL="3")
    flag = f"--xla_force_host_platform_device_count={cell['of']}"
    return answer("benchmarks.scale_sharded", asked, KERAS_BACKEND="jax", XLA_FLAGS=flag)


def _by_cell(runs):
    """The runs of each cell, of all seeds."""
    cells = {}
    for run in runs:
        key = tuple(run.get(name) for name in ("name", "rows", "of", "way"))
        cells.setdefault(key, []).append(run)
    return list(cells.values())


def _row(runs):
    row = {key: value for key, value in runs[0].items() if key != "seed"}
    if "ms" in row:
        row["ms"] = float(np.median([run["ms"] for run in runs]))
    return row


def _drawn_on(smaller, larger):
    """What `FAR` rows would take, if the slope between two sizes goes on."""
    row = {"name": larger["name"], "rows": FAR, "way": "drawn on"}
    for key in ("seconds", "peak_mb"):
        slope = (larger[key] - smaller[key]) / (larger["rows"] - smaller["rows"])
        row[key] = larger[key] + slope * (FAR - larger["rows"])
    return row | {"rows_per_s": FAR / row["seconds"]}


def headline(rows):
    """Rows a second and memory of the most rows read, the replicas' overhead, the export."""
    parts = []
    for job in ("fit", "train"):
        own = [row for row in rows if row["name"] == job and row.get("way") != "drawn on"]
        most = max(own, key=lambda row: row["rows"])
        parts += [f"{job}_rows_per_s={most['rows_per_s']:.0f}", f"{job}_mb={most['peak_mb']:.0f}"]
    parts += [
        f"{row['of']}_replicas={row['step_ratio']:.2f}" for row in rows if row["name"] == "replicas"
    ]
    exported = max((row for row in rows if row["name"] == "export"), key=lambda row: row["rows"])
    return " ".join([*parts, f"export_s={exported['seconds']:.1f}"])


def draw(rows, path):
    """Seconds and memory over the rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, (key, label) in zip(
        figure.subplots(1, 2),
        (("seconds", "seconds"), ("peak_mb", "MB above the start")),
        strict=True,
    ):
        for job in ("fit", "train"):
            own = sorted((row for row in rows if row["name"] == job), key=lambda row: row["rows"])
            measured = [row for row in own if row.get("way") != "drawn on"]
            (line,) = axis.plot(
                [row["rows"] for row in measured], [row[key] for row in measured], "o-", label=job
            )
            axis.plot(
                [row["rows"] for row in own[-2:]],
                [row[key] for row in own[-2:]],
                ":",
                color=line.get_color(),
            )
        # What a process has at hand may be enough for few rows: its peak then rises by nothing.
        of_jobs = [row[key] for row in rows if row["name"] in ("fit", "train")]
        vertical = "log" if min(of_jobs) > 0 else "linear"
        axis.set(xscale="log", yscale=vertical, xlabel="rows", ylabel=label)
        axis.grid(alpha=0.3)
    figure.axes[0].legend(title="dotted: drawn on")
    studies.save(figure, path)
