"""Does a gate for each task pay where tasks are less alike? MMoE's synthetic study, anew.

The tasks are `correlated_tasks`: the same sum of a line and five sines of a direction each, of
which each pair has the cosine p = 0.5, 0.9 or 1. 100 features, 100,000 rows to train, 10,000 to
choose by and to test on, with the labels of 2 or 8 tasks. The paper does not say how steep its
sines are: `scale` is 1, with which they are no straight lines. Behind one gate for all tasks
(OMoE) or one each (MMoE) stand eight experts of one layer, of 4 or 16 units; towers have 8. The
paper has 2 tasks and experts of 16; with 4 and 8 tasks experts are scarce. `correlation_models.py`
says what stands beside them.

Every contestant gets the same budget for each number of tasks and size of experts: 6 random trials
of the learning rate of Adam at p = 0.5, on one world, the same for all; the two with the least
error on validation rows are tried again on another world, and the better one is run with 20 fresh
seeds, which draw the directions, the rows, the weights and the order, and so at the other
correlations, without a further search. The sines are always the same. Of a run the best epoch on
validation rows counts.

- `score`: mean squared error on test rows, mean over the tasks; the noise floor is 0.01. That of
  a run that diverged is the mean label's.
- `multiplications`: of a row, all its tasks together.

A row `A - B` has the mean difference over the seeds, its 95 % bounds and its `p`.

Six primary claims, named before the first run was recorded, all at p = 0.5, where gates of their
own should help most; by Holm's correction of six tests. With 2 tasks and experts of 16 MMoE has
less error than

1. OMoE;
2. a shared bottom of equal parameters;

with 8 tasks and experts of 16 than

3. OMoE;

and with 8 tasks and experts of 4, of which OMoE has too few units for 8 tasks, than

4. a shared bottom of equal parameters;
5. a shared bottom of equal compute;
6. single tasks.

All else in the rows is for looking, not for claiming.
"""

import itertools
import re

import keras

from benchmarks import correlation_models as models
from benchmarks import search, studies
from benchmarks.correlation_models import MULTI_GATE, ONE_GATE, SHARED, SINGLE, WIDE
from tfmoe.data import correlated_tasks

OPTIONS = {
    "tasks": (str, "2,8", "numbers of tasks"),
    "units": (str, "4,16", "units of an expert"),
}
MODELS = (MULTI_GATE, ONE_GATE, SHARED, WIDE, SINGLE)
SEARCHED, OTHERS = 0.5, (0.9, 1.0)  # the correlations
SCALE = 1.0
SIZES = {"rows": 100_000, "epochs": 6, "batch_size": 1024}
QUICK_SIZES = {"rows": 100, "epochs": 1, "batch_size": 50}
BUDGET = search.Budget(trials=6, finalists=2, again=1, seeds=20)
# Of 10,000 rows and batches of 128 the best was near the end of a range up to 0.03.
SPACE = {"learning_rate": search.log_uniform(1e-3, 0.1)}


def run(quick, tasks=OPTIONS["tasks"][1], units=OPTIONS["units"][1]):
    """A row for each condition and contestant; a row for each comparison with MMoE."""
    sizes = [[int(number) for number in text.split(",")] for text in (tasks, units)]
    parts = list(itertools.product(*sizes))[: 1 if quick else None]
    contestants = (MULTI_GATE, SHARED) if quick else MODELS
    others, budget = (OTHERS[1:], search.QUICK) if quick else (OTHERS, BUDGET)
    each = budget.runs + len(others) * budget.seeds
    grid = studies.Grid("correlation", one_run, quick, len(parts) * len(contestants) * each)
    rows = []
    for number, width in parts:
        cell = {"set": name_of(number, width), "tasks": number, "units": width, "scale": SCALE}
        cell |= QUICK_SIZES if quick else SIZES
        found = {correlation: {} for correlation in (SEARCHED, *others)}
        for name in contestants:
            base = cell | {"model": name, "correlation": SEARCHED}
            found[SEARCHED][name], settings = search.winner(grid, base, SPACE, budget)
            for correlation in others:
                base = base | settings | {"correlation": correlation}
                seeds = range(budget.seeds)
                cells = [base | {"seed": seed, "world": seed} for seed in seeds]
                found[correlation][name] = grid.run(cells)
        for correlation, runs in found.items():
            where = {"set": cell["set"], "correlation": correlation}
            rows += [_row(own, where) for own in runs.values()]
            rows += [
                studies.difference(MULTI_GATE, rival, runs, ("score",), **where)
                for rival in contestants[1:]
            ]
    return rows


def name_of(tasks, units):
    """A part of the study, as rows name it."""
    return f"{tasks} tasks, experts of {units}"


def _row(runs, where):
    first = runs[0]
    score, error = studies.mean(studies.by_seed(runs, "score"))
    row = {"name": first["model"], **where, "score": score, "score_error": error}
    row |= {key: first[key] for key in ("parameters", "multiplications", "learning_rate")}
    return row | {"seeds": len(runs)}


def one_run(cell):
    """Errors on validation and test rows, and how large the model is."""
    parts = (cell["rows"], cell["rows"] // 10, cell["rows"] // 10)
    world = correlated_tasks(
        cell["correlation"],
        models.FEATURES,
        scale=cell["scale"],
        num_rows=parts,
        num_tasks=cell["tasks"],
        seed=cell["world"],
    )
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    model = models.build(cell["model"], cell["tasks"], cell["units"])
    models.train(model, world, cell)
    width = models.width_of(cell["model"], cell["tasks"], cell["units"])
    return {
        "score": models.error(model, world.test),
        "valid": models.error(model, world.valid),
        "parameters": model.count_params(),
        "multiplications": models.multiplications(cell["model"], cell["tasks"], width),
    }


def headline(rows):
    """The difference in error of MMoE and each rival, by condition."""
    parts = []
    for row in rows:
        if "score_p" in row:
            name = re.sub(r"\W+", "_", f"{row['name']} {row['set']} {row['correlation']:g}")
            parts.append(f"{name}={row['score']:.5f}")
    return " ".join(parts)


def draw(rows, path):
    """Error over the correlation, a panel for each number of tasks and size of experts."""
    shown = [row | {"standard_error": row["score_error"]} for row in rows if "seeds" in row]
    labels = dict.fromkeys([row["set"] for row in shown], "mean squared error")
    studies.draw_lines(shown, "correlation", path, "cosine of the tasks", labels, log=False)
