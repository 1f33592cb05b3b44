"""Which gate routes rows best, where the right experts depend on the row? 16 tasks.

The tasks are `region_tasks`: 8 true experts in four groups of two. Two orthogonal planes part
the inputs into four regions; in each a task is made of the two experts of another group, and
which they are differs from task to task. The gates see the row, by a linear router a task, all of
them with a bias; the sparse ones select two. Every gate can say exactly which experts are right:
the largest scores can, and so can the bits of DSelect-k and the trees of COMET. `gate_models.py`
says who else is there and what the model is.

The tasks are learned with Adam and with SGD (momentum 0.9), which are tables of their own. Every
contestant gets the same budget in each: 8 random trials of the learning rate, of gates also of
their rate as a multiple of the experts' and of what the gate has to be set, on one world, the same
for all. The two with the least error on validation rows are tried again on another world, and the
better one is run with 20 fresh seeds, which draw world, weights and order. Entropies reach their
last value half-way; the best epoch is one of the second half.

`at most 2` are the same trials of DSelect-k and COMET, of which those come first that use, on
validation rows, at most two experts a row on average (up to 5 % more), and then those with less
error.

- `score`: mean squared error on test rows, mean over the tasks; the noise floor is 0.01. That of
  a run that diverged is the mean label's.
- `experts`: how many a task weighs above 1e-6 for a row, mean over tasks and rows.
- `jaccard`, `precision`, `recall`, `f1`: `tfmoe.data.selection_scores` of the experts that more
  than half of a region's test rows weigh above 0.01, for each task and region.

The rows without a set have what the last four of these measures are for all experts and for any
two. A row `A - B` has the mean differences of each measure over the seeds, their 95 % bounds and
their `p`.

Six primary claims, named before the first run was recorded, all of DSelect-k at most 2; by Holm's
correction of six tests:

1. Adam: less error than Top-k;
2. Adam: less error than noisy Top-k;
3. Adam: a higher F1 than noisy Top-k;
4. SGD: less error than Top-k;
5. SGD: less error than noisy Top-k;
6. SGD: a higher F1 than noisy Top-k.

All else in the rows is for looking, not for claiming.
"""

import numpy as np

from benchmarks import gate_study
from benchmarks.gate_choices import GUMBEL
from benchmarks.gate_models import ADAM, FEATURES, GATES, SGD
from benchmarks.gate_study import Study
from tfmoe.data import region_tasks

OPTIONS = {"optimizers": (str, f"{ADAM},{SGD}", "with which the tasks are learned")}
TASKS, EXPERTS, CHOSEN, PLANES, SELECTED = 16, 8, 2, 2, 0.01


def _world(num_tasks, rows, seed):
    return region_tasks(
        num_tasks, EXPERTS, CHOSEN, PLANES, FEATURES, rows * 10 // 8, gate_study.NOISE, seed=seed
    )


def _selected(world, weights, x):
    """Of each task and region `(t, r, e)`; none in a region without rows."""
    regions = world.regions(x)
    shares = np.zeros(world.weights.shape)
    for region in np.unique(regions):
        shares[:, region] = np.mean(weights[regions == region] > SELECTED, axis=0)
    return shares > 0.5


STUDY = Study(
    "regions",
    experts=EXPERTS,
    chosen=CHOSEN,
    router="linear",
    gates=tuple(name for name in GATES if name != GUMBEL),
    world=_world,
    selected=_selected,
    sizes={
        ADAM: {"rows": 8000, "epochs": 60, "batch_size": 128},
        SGD: {"rows": 8000, "epochs": 50, "batch_size": 80},
    },
)


def run(quick, optimizers=OPTIONS["optimizers"][1]):
    """A row for each optimizer and contestant; a row for each comparison."""
    num_tasks = 4 if quick else TASKS
    rows = gate_study.floors(STUDY, quick, num_tasks)
    for optimizer in optimizers.split(",")[: 1 if quick else None]:
        rows += gate_study.contest(STUDY, quick, num_tasks, optimizer)
    return rows


headline, draw = gate_study.headline, gate_study.draw
