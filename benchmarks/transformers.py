"""Mod-Squad's headline: is it ahead of other transformers, more so with more tasks and more rows?

Questions about people of Census-Income, one task a row: the first 4, 8 or 12 of `worlds.py`, with
600 or 4,000 rows each to train, 200 to validate and 1,000 to test. `transformers_models.py` says
who is compared: mixtures with the mutual-information loss and without, a shared transformer of
equal compute and single tasks of it; with 12 tasks of 4,000 rows also a shared transformer of equal
parameters. 2,000 steps of batches of 32 for all tasks together, of which single tasks get an equal
share each; the best of ten validations counts.

For each number of rows every contestant gets 4 random trials with 8 tasks: of Adam's learning rate
and, of Mod-Squad, of the loss's weight, 0.0005, 0.005 or 0.03. The best on validation rows is run
with 10 fresh seeds, which draw rows, weights and order, with each number of tasks. With 12 tasks of
4,000 rows the other weights are run too, at the learning rate of the one that was chosen.

- `score`: AUC on test rows, mean over the tasks; `common`: over the first four, which all have.
- `information`: mutual information of tasks and experts on test rows, mean over the two gates, as a
  share of the logarithm of the number of tasks.
- `advantage over ...`: Mod-Squad's `common` less a rival's, of the same seed: with a number of
  tasks, mean over both numbers of rows; with a number of rows, mean over the numbers of tasks.

A row `A - B` has the mean difference over the seeds, its 95 % bounds and its `p`; between two
advantages `slope` is that difference for each task more, or for each doubling of the rows.

Six primary claims, named before the first run was recorded, by Holm's correction of six tests. With
12 tasks of 4,000 rows Mod-Squad has a higher AUC than (1) single tasks, (2) the shared transformer
of equal compute, (3) the plain mixture. Its advantage over the shared transformer is larger (4)
with 12 tasks than with 4, (5) with 4,000 rows than with 600; that over the plain mixture is larger
(6) with 12 tasks than with 4. All else in the rows is for looking.
"""

import functools
import math

import numpy as np

from benchmarks import search, studies, transformers_models
from benchmarks.transformers_models import COMPUTE, MOD_SQUAD, PARAMETERS, PLAIN, SINGLE
from benchmarks.transformers_tables import made_up, table

COMPARED = (PLAIN, COMPUTE, SINGLE)  # with any number of tasks and rows
TASKS, ROWS = (4, 8, 12), (600, 4000)
SEARCHED = 8  # tasks
WEIGHTS = (0.0005, 0.005, 0.03)
VALID_ROWS, TEST_ROWS = 200, 1000  # of each task
SIZES = {"steps": 2000, "batch_size": 32}
QUICK_SIZES = {"steps": 2, "batch_size": 8}
BUDGET = search.Budget(trials=4, finalists=1, again=0, seeds=10)
LEARNING_RATE = {"learning_rate": search.log_uniform(1e-3, 2e-2)}
WEIGHT = {"weight": search.one_of(*WEIGHTS)}


def run(quick):
    """A row for each condition and contestant; rows of comparisons and of advantages."""
    tasks, numbers = ((4, 5), (8, 16)) if quick else (TASKS, ROWS)
    compared = (COMPUTE,) if quick else COMPARED
    budget = search.QUICK if quick else BUDGET
    total = len(numbers) * (1 + len(compared)) * (len(tasks) * budget.seeds + budget.trials)
    total += budget.trials + len(WEIGHTS) * budget.seeds
    grid = studies.Grid("transformers", functools.partial(one_run, quick), quick, total)
    found, rows = {}, []
    for number in numbers:
        largest = number == numbers[-1] and not quick
        for name in (MOD_SQUAD, *compared, *([PARAMETERS] * largest)):
            base = {"model": name, "rows": number} | (QUICK_SIZES if quick else SIZES)
            base |= search.best(grid, base | {"tasks": SEARCHED}, space_of(name), budget)
            for many in tasks[-1:] if name == PARAMETERS else tasks:
                own = _runs(grid, base | {"tasks": many}, budget)
                found[many, number, name] = own
                rows.append(_row(own))
            if largest and name == MOD_SQUAD:
                rows += _other_weights(grid, own[0], budget)
    return rows + _comparisons(found) + _advantages(found, tasks, numbers, compared)


def space_of(name):
    """What is searched of a contestant."""
    return LEARNING_RATE | (WEIGHT if name == MOD_SQUAD else {})


def _runs(grid, base, budget):
    return grid.run([base | {"seed": seed, "world": seed} for seed in range(budget.seeds)])


def one_run(quick, cell):
    """Scores of one training."""
    numbers = (cell["tasks"], cell["rows"], *((8, 20) if quick else (VALID_ROWS, TEST_ROWS)))
    rows = made_up(*numbers) if quick else _table(*numbers, cell["world"])
    return transformers_models.one_run(rows, cell)


_table = functools.lru_cache(maxsize=2)(table)


def _row(runs):
    first = runs[0]
    row = {"name": first["model"], "tasks": first["tasks"], "rows": first["rows"]}
    for key in ("score", "common"):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    if "information" in runs[0]:
        row["information"] = studies.mean(studies.by_seed(runs, "information"))[0]
    row |= {"seeds": len(runs), "learning_rate": first["learning_rate"]}
    return row | ({"weight": first["weight"]} if "weight" in first else {})


def _other_weights(grid, chosen, budget):
    """Rows of Mod-Squad with the weights that were not chosen, with the most tasks."""
    base = {key: chosen[key] for key in ("model", "rows", "steps", "batch_size", "tasks")}
    base |= {key: chosen[key] for key in LEARNING_RATE}
    others = [weight for weight in WEIGHTS if weight != chosen["weight"]]
    rows = [_row(_runs(grid, base | {"weight": weight}, budget)) for weight in others]
    return [row | {"name": f"{MOD_SQUAD}, {row['weight']}"} for row in rows]


def _comparisons(found):
    """Rows of Mod-Squad against each rival, by numbers of tasks and of rows."""
    rows = []
    for many, number, name in found:
        if name != MOD_SQUAD:
            own = {model: found[many, number, model] for model in (MOD_SQUAD, name)}
            where = {"tasks": many, "rows": number}
            rows.append(studies.difference(MOD_SQUAD, name, own, ("score", "common"), **where))
    return rows


def _advantages(found, tasks, numbers, compared):
    """Rows of Mod-Squad's advantages, and of how they grow with tasks and with rows."""
    rows = []
    for rival in compared:
        by_condition = {
            (many, number): studies.by_seed(found[many, number, MOD_SQUAD], "common")
            - studies.by_seed(found[many, number, rival], "common")
            for many in tasks
            for number in numbers
        }
        for place, values, steps in (
            (0, tasks, tasks[-1] - tasks[0]),
            (1, numbers, math.log2(numbers[-1] / numbers[0])),
        ):
            means = {}
            for value in values:
                own = [one for key, one in by_condition.items() if key[place] == value]
                name = f"advantage over {rival}, {value:,} {('tasks', 'rows')[place]}"
                means[name] = [
                    {"seed": seed, "score": score}
                    for seed, score in enumerate(np.mean(own, axis=0))
                ]
                score, error = studies.mean(studies.by_seed(means[name], "score"))
                rows.append({"name": name, "score": score, "score_error": error})
            names = list(means)
            row = studies.difference(names[-1], names[0], means, ("score",))
            rows.append(row | {"slope": row["score"] / steps})
    return rows


def headline(rows):
    """Mod-Squad's AUC less each rival's, with the most tasks and rows."""
    parts = []
    for rival in [name for name in COMPARED if any(row["name"] == name for row in rows)]:
        last = [row for row in rows if row["name"] == f"{MOD_SQUAD} - {rival}"][-1]
        parts.append(f"over_{rival.replace(',', '').replace(' ', '_')}={last['score']:.4f}")
    return " ".join(parts)


def draw(rows, path):
    """Mod-Squad's advantage over each rival by the number of tasks, a panel for each of rows."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["name"].startswith(f"{MOD_SQUAD} - ")]
    numbers = sorted({row["rows"] for row in shown})
    figure = Figure(figsize=(5 * len(numbers), 3.6), layout="constrained")
    panels = figure.subplots(1, len(numbers), squeeze=False, sharey=True)[0]
    for axis, number in zip(panels, numbers, strict=True):
        of_size = [row for row in shown if row["rows"] == number]
        for rival in COMPARED:
            own = [row for row in of_size if row["name"] == f"{MOD_SQUAD} - {rival}"]
            effects = [row["common"] for row in own]
            bounds = [
                [row["common"] - row["common_low"] for row in own],
                [row["common_high"] - row["common"] for row in own],
            ]
            tasks = [row["tasks"] for row in own]
            axis.errorbar(tasks, effects, bounds, marker="o", capsize=3, label=rival)
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.set(xlabel="tasks", title=f"{number:,} rows a task", xticks=tasks)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("Mod-Squad's AUC less the rival's,\nfirst four tasks")
    panels[0].legend()
    studies.save(figure, path)
