"""What the studies share: a grid of runs that can be resumed, paired tests, pictures."""

import contextlib
import json
import re
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from scipy.stats import t as student
from scipy.stats import wilcoxon

from benchmarks import results

RUNS = results.ROOT / "benchmarks" / ".runs"
# Runs of studies that have not ended, which go on from here on another machine.
UNFINISHED = results.RESULTS / "unfinished"
# What of a cell stands beside the progress bar.
SHOWN = ("set", "model", "fraction", "rows", "unrelated", "seed")
# A claim holds if its effect has the right sign, as a mean and as a median, and is this
# unlikely to be chance.
SIGNIFICANT = 0.05


class Grid:
    """Runs of a study, of which none is made twice.

    A run is named by a cell, a flat dict of all that determines it but the constants of the study:
    whoever changes one deletes its runs. Its scores are appended
    to `.runs/NAME.jsonl` as soon as they are there, with the commit of the code that made
    them and what it ran on; a study that is started again skips what is there, and what is in
    `results/unfinished/NAME.jsonl`, where those of a study stand that was stopped and kept.
    After the first run that it makes it says how long the missing ones will take.

    Args:
        name: the study.
        function: from a cell to its scores, a dict that JSON can hold.
        quick: bool; if True nothing is read or kept.
        total: int, how many runs all calls of `run` ask for; None where that is not known, and
            what is told is about the first call that misses some.
    """

    def __init__(self, name, function, quick=False, total=None):
        self.name, self.function = name, function
        self.left, self.told = total, quick
        self.path = None if quick else RUNS / f"{name}.jsonl"
        self.scores, self.commits, self.environments = {}, {}, {}
        for path in [] if quick else [UNFINISHED / f"{name}.jsonl", self.path]:
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
                saved = json.loads(line)
                self.scores[_key(saved["cell"])] = saved["scores"]
                self.commits[_key(saved["cell"])] = saved["commit"]
                self.environments[_key(saved["cell"])] = saved.get("environment", "not noted")

    def run(self, cells):
        """Makes the runs that are missing; a list of dicts `{**cell, **scores}`."""
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
        missing = [cell for cell in cells if _key(cell) not in self.scores]
        self.left = self.left and self.left - (len(cells) - len(missing))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(self.name, total=len(missing))
            for cell in missing:
                bar.update(task, description=f"{self.name}: {_short(cell)}")
                # Before anything is made: an initializer without a seed draws one then.
                keras.utils.set_random_seed(cell["seed"])
                start = time.perf_counter()
                with _few_steps(self.path is None):
                    self._keep(cell, self.function(cell))
                if not self.told:
                    self.told = True
                    bar.console.print(self._forecast(len(missing), time.perf_counter() - start))
                self.left = self.left and self.left - 1
                bar.advance(task)
        if self.path is not None:
            keys = [_key(cell) for cell in cells]
            results.RUN_COMMITS[self.name].update(filter(None, map(self.commits.get, keys)))
            results.RUN_ENVIRONMENTS[self.name].update(map(self.environments.__getitem__, keys))
        return [{**cell, **self.scores[_key(cell)]} for cell in cells]

    def _forecast(self, missing, seconds):
        """How long the runs will take; the first one is slower than the others."""
        runs = self.left or missing
        hours = f"{runs * seconds / 3600:.2g} h" + ("" if self.left else ", and perhaps more")
        return f"{self.name}: about {runs} runs of {seconds:.3g} s: {hours}"

    def _keep(self, cell, scores):
        scores = json.loads(json.dumps(scores))
        self.scores[_key(cell)] = scores
        if self.path is None:
            return
        self.path.parent.mkdir(exist_ok=True)
        self.commits[_key(cell)] = results.commit()
        self.environments[_key(cell)] = results.environment()
        saved = {"cell": cell, "scores": scores, "commit": results.commit()}
        line = json.dumps(saved | {"environment": results.environment()})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def _few_steps(quick):
    """Without graphs in quick forms: to trace one takes longer than its few steps."""
    if not quick or keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            # tf.data keeps its graphs, and says so.
            warnings.filterwarnings("ignore", "Even though the `tf.config", UserWarning)
            yield
    finally:
        tf.config.run_functions_eagerly(before)


def _key(cell):
    return json.dumps(cell, sort_keys=True)


def _short(cell):
    return ", ".join(f"{name} {value}" for name, value in cell.items() if name in SHOWN)


def by_seed(runs, key, **where):
    """Values `(seeds,)` of the runs that agree with `where`, in the order of their seeds."""
    found = [run for run in runs if all(run[name] == value for name, value in where.items())]
    return np.array([run[key] for run in sorted(found, key=lambda run: run["seed"])], float)


def conditions(runs, *keys):
    """The different values of some keys, as dicts, in the order of the runs."""
    return [
        dict(zip(keys, values, strict=True))
        for values in dict.fromkeys(tuple(run[key] for key in keys) for run in runs)
    ]


def mean(values):
    """Mean and standard error over the seeds."""
    # Equal values have a mean that is rounded, and would differ from it.
    error = np.std(values, ddof=1) / len(values) ** 0.5 if np.ptp(values) else 0.0
    return float(np.mean(values)), float(error)


def paired(values, others):
    """How much larger `values` are than `others` of the same seeds.

    Returns:
        Dict of `effect`, the mean difference; `effect_error`, its standard error; `p` of
        Wilcoxon's signed-rank test, two-sided and exact: it asks for no normal differences,
        and of 10 seeds cannot be below 0.002.
    """
    difference = np.asarray(values, float) - others
    effect, error = mean(difference)
    p = float(wilcoxon(difference, method="exact").pvalue) if np.any(difference) else 1.0
    return {"effect": effect, "effect_error": error, "p": p}


def interval(values, others):
    """Bounds of how much larger `values` are than `others`, 95 %, by Student's t of the pairs."""
    effect, error = mean(np.asarray(values, float) - others)
    reach = float(student.ppf(0.975, len(values) - 1)) * error
    return effect - reach, effect + reach


def difference(ours, theirs, found, measures, **where):
    """A row of how much more `ours` has of each measure than `theirs`, and between what bounds.

    Args:
        ours, theirs: names.
        found: dict from a name to its runs.
        measures: the keys of runs that are compared.
        where: what else the row has.
    """
    row = {"name": f"{ours} - {theirs}", **where}
    for key in measures:
        pair = [by_seed(found[name], key) for name in (ours, theirs)]
        tested = paired(*pair)
        row |= {key: tested["effect"], f"{key}_error": tested["effect_error"]}
        row[f"{key}_median"] = float(np.median(pair[0] - pair[1]))
        row[f"{key}_low"], row[f"{key}_high"] = interval(*pair)
        row[f"{key}_p"] = tested["p"]
    return row


def score_rows(runs, key, *keys):
    """A row for each model under each condition: mean of `key` over the seeds."""
    rows = []
    for where in conditions(runs, *keys, "model"):
        values = by_seed(runs, key, **where)
        score, error = mean(values)
        rows.append({"name": where.pop("model"), **where, "score": score})
        rows[-1] |= {"standard_error": error, "seeds": len(values)}
    return rows


def claim(name, values, others, metric, **more):
    """A row that says whether `values` are better than `others`, as was claimed.

    Args:
        name: str, the claim.
        values, others: `(seeds,)`.
        metric: "auc", where more is better; or "mse" or "loss", where less is.
        more: what else the row has.
    """
    better, worse = (values, others) if metric == "auc" else (others, values)
    tested = paired(better, worse)
    # One run that failed moves the mean, but not the ranks that `p` is of.
    median = np.median(np.asarray(better) - worse)
    holds = min(tested["effect"], median) > 0 and tested["p"] < SIGNIFICANT
    return {"name": name, **more, **tested, "holds": "yes" if holds else "no"}


def headline(rows):
    """`claim_set=2/3` for each claim: in how many of its rows it holds."""
    parts = []
    for where in conditions([row for row in rows if "holds" in row], "name", "set"):
        own = [row for row in rows if row.items() >= where.items()]
        name = re.sub(r"\W+", "_", f"{where['name']} {where['set']}")
        parts.append(f"{name}={sum(row['holds'] == 'yes' for row in own)}/{len(own)}")
    return " ".join(parts)


def draw_lines(rows, x, path, x_label, y_labels, log=True):
    """A panel for each set: score over `x`, a line for each model, bars of standard errors.

    Args:
        rows: list of dicts with `set`, `name`, `score`, `standard_error` and `x`.
        x: str, the key of what goes along.
        path: file to write.
        x_label: str.
        y_labels: dict by set.
        log: bool; whether `x` is laid out by its logarithm.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(y_labels), 4), layout="constrained")
    for axis, (title, y_label) in zip(
        figure.subplots(1, len(y_labels), squeeze=False)[0], y_labels.items(), strict=True
    ):
        of_set = [row for row in rows if row.get("set") == title and "score" in row]
        for name in dict.fromkeys(row["name"] for row in of_set):
            points = sorted((row for row in of_set if row["name"] == name), key=lambda r: r[x])
            axis.errorbar(
                [point[x] for point in points],
                [point["score"] for point in points],
                [point["standard_error"] for point in points],
                marker="o",
                capsize=3,
                label=name,
            )
        scores = [row["score"] for row in of_set]
        if scores and min(scores) > 0 and max(scores) > 5 * min(scores):
            axis.set_yscale("log")
        ticks = sorted({row[x] for row in of_set})
        if log:
            axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    save(figure, path)


def points(axis, rows, key, error):
    """A point for each row, by name, with its standard error.

    Args:
        axis: Matplotlib's.
        rows: list of dicts.
        key, error: what of a row is the value, and its standard error.
    """
    values, names = [row[key] for row in rows], [row["name"] for row in rows]
    axis.errorbar(values, names, xerr=[row[error] for row in rows], fmt="o", capsize=3)
    axis.grid(alpha=0.3)


def save(figure, path):
    """Writes a picture, without the date and version that would differ from run to run."""
    Path(path).parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
