"""Which static gate learns tasks in groups best, and finds the groups? 32 and 128 tasks.

The tasks are `grouped_tasks`: 16 true experts in four groups; a task is made of the four of its
group, for all rows alike. So all gates are static, one selection a task for all rows, and the
sparse ones select four. `gate_models.py` says who else is there and what the model is.

Each number of tasks is learned with Adam and with SGD (momentum 0.9), which are tables of their
own. Every contestant gets the same budget in each: 8 random trials of the learning rate, of gates
also of their rate as a multiple of the experts' and of what the gate has to be set, on one world,
the same for all. The two with the least error on validation rows are tried again on another world,
and the better one is run with 20 fresh seeds, which draw world, weights and order. Entropies and
temperatures reach their last value half-way; the best epoch is one of the second half.

DSelect-k and COMET weigh more than four experts while they have not decided, and validation rows
may like them best so. `at most 4` are the same trials, of which those come first that use, on
validation rows, at most four experts a task on average (up to 5 % more), and then those with less
error: that is the gate as a sparse one, which Top-k always is.

- `score`: mean squared error on test rows, mean over the tasks; the noise floor is 0.01. That of
  a run that diverged is the mean label's.
- `experts`: how many a task weighs above 1e-6.
- `jaccard`, `precision`, `recall`, `f1`: `tfmoe.data.selection_scores` of the experts that weigh
  more than 0.01.

The rows without a set have what the last four of these measures are for all experts and for any
four: `jaccard` and `recall` reward a gate that does not decide. A row `A - B` has the mean
differences of each measure over the seeds, their 95 % bounds and their `p`.

Six primary claims, named before the first run was recorded, all of 128 tasks and of DSelect-k at
most 4; by Holm's correction of six tests:

1. Adam: less error than Top-k;
2. Adam: less error than noisy Top-k;
3. Adam: a higher F1 than noisy Top-k;
4. SGD: less error than Top-k;
5. SGD: less error than noisy Top-k;
6. SGD: a higher F1 than noisy Top-k.

All else in the rows is for looking, not for claiming.
"""

import itertools

import numpy as np

from benchmarks import gate_study
from benchmarks.gate_models import ADAM, FEATURES, GATES, SGD
from benchmarks.gate_study import Study
from tfmoe.data import grouped_tasks

OPTIONS = {
    "tasks": (str, "128,32", "numbers of tasks"),
    "optimizers": (str, f"{ADAM},{SGD}", "with which they are learned"),
}
EXPERTS, CHOSEN, SELECTED = 16, 4, 0.01


def _world(num_tasks, rows, seed):
    return grouped_tasks(
        num_tasks, EXPERTS, CHOSEN, FEATURES, rows * 10 // 8, gate_study.NOISE, seed=seed
    )


def _selected(world, weights, x):
    return np.mean(weights, axis=0) > SELECTED


STUDY = Study(
    "synthetic",
    experts=EXPERTS,
    chosen=CHOSEN,
    router="static",
    gates=tuple(GATES),
    world=_world,
    selected=_selected,
    sizes={
        ADAM: {"rows": 8000, "epochs": 40, "batch_size": 256},
        SGD: {"rows": 8000, "epochs": 40, "batch_size": 128},
    },
)


def run(quick, tasks=OPTIONS["tasks"][1], optimizers=OPTIONS["optimizers"][1]):
    """A row for each number of tasks, optimizer and contestant; a row for each comparison."""
    numbers = [16] if quick else [int(number) for number in tasks.split(",")]
    rows = [row for number in numbers for row in gate_study.floors(STUDY, quick, number)]
    for number, optimizer in itertools.product(
        numbers, optimizers.split(",")[: 1 if quick else None]
    ):
        rows += gate_study.contest(STUDY, quick, number, optimizer)
    return rows


headline, draw = gate_study.headline, gate_study.draw
