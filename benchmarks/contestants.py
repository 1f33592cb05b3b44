"""The models of the studies, of equal compute, and how they are trained and scored.

What is equal is the number of multiplications of a row of one task on its way from the
encoded columns to its score: of its router, of the experts it goes through, of its tower.
The task-aware model's experts have a given width; the others are as wide as its budget
allows. A dense MMoE computes all its experts, so that it has few of them. All have two
layers, the second half as wide as the first, but for one more rival: a shared bottom that
spends the budget on a single layer, which is some four times as wide.
"""

import itertools
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.gates.routers import MLPRouter
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.gates.task_aware import TaskAwareGate
from tfmoe.gates.task_router import TaskRouter
from tfmoe.gates.top_k import TopKGate
from tfmoe.model.model import MultiTaskModel
from tfmoe.objectives.mutual_information import MutualInformationLoss
from tfmoe.optimizers import Adam
from tfmoe.schema.tasks import Binary
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

SINGLE, SHARED, DENSE, TASK_AWARE = "single task", "shared bottom", "dense MMoE", "task-aware"
WIDE, MOD_SQUAD = "shared bottom, one layer", "Mod-Squad"
# Of the mutual information over steps, because a batch has few rows a task; the gradient sees a
# tenth of the weight.
MOMENTUM = 0.9
# Of the task-aware model: experts of a row, units of their first layer (the second has
# half), size of a task's embedding and of its router's hidden layer.
CHOSEN, WIDTH, DIM, HIDDEN = 4, 16, 8, 16
# The budget is what the task-aware model costs with so many experts and that width.
BUDGET_EXPERTS = 64


class Settings(NamedTuple):
    """What was tuned, on validation rows of seeds that no study has (`tuning.py`).

    Of numbers of experts within 2 % of each other the larger one. The task-aware model's weight of
    the mutual information was chosen of 0.03, 0.1 and 0.3 in single trials on those seeds;
    Mod-Squad's 1 was set by hand.
    """

    learning_rate: float = 3e-3
    num_experts: int = 1
    information: float = 0.0


SETTINGS = {
    ("grouped", SINGLE): Settings(3e-2),
    ("grouped", SHARED): Settings(1e-2),
    ("grouped", WIDE): Settings(1e-2),
    ("grouped", DENSE): Settings(1e-2, 2),
    ("grouped", TASK_AWARE): Settings(3e-2, 64, 0.1),
    ("grouped", MOD_SQUAD): Settings(3e-2, 64, 1.0),
    ("census", SINGLE): Settings(1e-3),
    ("census", SHARED): Settings(3e-3),
    ("census", WIDE): Settings(1e-3),
    ("census", DENSE): Settings(1e-3, 4),
    ("census", TASK_AWARE): Settings(1e-2, 16, 0.1),
    ("census", MOD_SQUAD): Settings(3e-3, 16, 1.0),
}


def cell(name, world, model, seed, **more):
    """All that determines a run of a study, as a flat dict.

    Args:
        name: str, the set.
        world: `World` of that name.
        model: str.
        seed: int.
        more: what the study varies.
    """
    return {
        "set": name,
        **more,
        "model": model,
        "seed": seed,
        "epochs": world.epochs,
        "batch_size": world.batch_size,
        "least_steps": world.least_steps,
        "num_tasks": len(world.tasks),
        "task_rows": world.rows,
        **{key: value for key, value in SETTINGS[name, model]._asdict().items() if value},
    }


def units_of(name, width):
    """Units of an expert's layers, of which the first has `width`."""
    return (width,) if name == WIDE else (width, width // 2)


def multiply_adds(name, num_features, width, num_experts):
    """Multiplications of a row of one task.

    Args:
        name: the model.
        num_features: int, encoded columns.
        width: int, units of an expert's first layer.
        num_experts: int, all that a router chooses from.
    """
    bottoms = (SINGLE, SHARED, WIDE)
    computed = num_experts if name == DENSE else 1 if name in bottoms else CHOSEN
    router = 0 if name in bottoms else num_features * num_experts
    if name in (TASK_AWARE, MOD_SQUAD):
        embedded = DIM if name == TASK_AWARE else 0
        router = (num_features + embedded) * HIDDEN + HIDDEN * num_experts
    units = units_of(name, width)
    expert = sum(a * b for a, b in itertools.pairwise((num_features, *units)))
    # An expert, its share in the mix; the towers have one layer.
    return router + computed * (expert + units[-1]) + units[-1]


def width_of(name, num_features, num_experts, budget):
    """The largest even width that costs no more than `budget`."""
    widths = range(2, 1000, 2)
    return max(w for w in widths if multiply_adds(name, num_features, w, num_experts) <= budget)


def mixture_of(name, schema, num_experts):
    """A recipe of the model's mixture, as wide as the budget allows."""
    num_features = sum(column.dim if column.embeds else 1 for column in schema.columns)
    budget = multiply_adds(TASK_AWARE, num_features, WIDTH, BUDGET_EXPERTS)
    units = units_of(name, width_of(name, num_features, num_experts, budget))
    if name in (SINGLE, SHARED, WIDE):
        return SharedBottom(hidden_units=units)
    gate = {
        DENSE: SoftmaxGate(),
        TASK_AWARE: TaskAwareGate(
            num_nonzeros=CHOSEN,
            router=TaskRouter(
                DIM, (HIDDEN,), embeddings_initializer=keras.initializers.RandomNormal(stddev=0.1)
            ),
            renormalize=True,
        ),
        MOD_SQUAD: mod_squad_gate(),
    }[name]
    return MMoE(num_experts=num_experts, hidden_units=units, gate=gate)


def mod_squad_gate():
    """A router a task above a hidden layer that they share.

    Without that layer a task's mean scores hardly depend on its weights, as the inputs have
    mean 0, and the loss has little to move.
    """
    return TopKGate(num_nonzeros=CHOSEN, router=MLPRouter((HIDDEN,)), usage_decay=0.95)


def losses_of(cell):
    """Auxiliary losses of a run: the mutual information of tasks and experts, if it has weight.

    Without it a task-aware router leaves most experts to nobody: in a trial on `grouped` 20 of
    64 had rows, and 45 with it.
    """
    weight = cell.get("information", 0.0)
    return [MutualInformationLoss(weight, momentum=MOMENTUM)] if weight else []


def train(split, mixture, cell, watched=None, mixer=None):
    """A trained model, with the weights of its best epoch.

    Args:
        split: `Split` whose rows belong to one task each.
        mixture: recipe.
        cell: dict, of which `seed`, `learning_rate`, `epochs`, `batch_size`, `least_steps` and
            `information` count.
        watched: sequence of the tasks on whose validation rows the best epoch is found;
            None for all.
        mixer: `TaskMixer`, or None.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    prep = Preprocessor(split.schema).fit(split.train, progress=False)
    model = MultiTaskModel(prep, mixture, tower_units=())
    return fit(model, split, cell, watched, mixer)


def fit(model, split, cell, watched=None, mixer=None):
    """Trains a model; see `train`."""
    prep = model.preprocessor
    batch_size = cell["batch_size"]
    steps = max(math.ceil(len(split.train) / batch_size), cell["least_steps"])
    # Scores are made at the end, from predictions: a metric a task would take more time
    # than the model.
    model.compile(
        Adam(cell["learning_rate"]),
        metrics={name: [] for name in model.schema.task_names},
        jit_compile=False,
        # A few steps are sooner done than made into a graph.
        run_eagerly=cell["epochs"] * steps < 10,
        aux_losses=losses_of(cell),
    )
    rows = prep.dataset(split.train, batch_size, shuffle=True, seed=cell["seed"], mixer=mixer)
    valid = split.valid
    if watched is not None:
        valid = valid[valid["task"].isin(watched)]
    best = _BestEpoch(prep.arrays(valid))
    model.fit(
        rows.repeat(), steps_per_epoch=steps, epochs=cell["epochs"], callbacks=[best], verbose=0
    )
    model.set_weights(best.weights)
    return model


class _BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the least loss on some rows.

    Keras's own way would build a function to evaluate, which takes longer than a run's
    evaluations.
    """

    def __init__(self, rows):
        super().__init__()
        self.features, self.labels, _ = rows
        self.least = np.inf

    def on_epoch_end(self, epoch, logs=None):
        loss = _loss(self.model, self.labels["score"], predict(self.model, self.features))
        if loss < self.least:
            self.least, self.weights = loss, self.model.get_weights()


def _loss(model, labels, predicted):
    """Mean squared error or log loss, as the tasks have it."""
    if not isinstance(model.schema.tasks[0], Binary):
        return np.mean((labels - predicted) ** 2)
    likelihood = np.where(labels == 1, predicted, 1 - predicted)
    return -np.mean(np.log(np.maximum(likelihood, 1e-7)))


def predict(model, features):
    """Scores `(n,)` of encoded rows."""
    return ops.convert_to_numpy(model(features)["score"]).astype("float64")


def scores(model, rows, metric):
    """Each task's score on the rows, a dict: mean squared error, or AUC."""
    predicted = predict(model, model.preprocessor.arrays(rows, labels=False))
    found = {}
    for task in rows["task"].unique():
        own = (rows["task"] == task).to_numpy()
        found[task] = score(rows["label"].to_numpy()[own], predicted[own], metric)
    return found


def score(labels, predicted, metric):
    """Mean squared error, or AUC."""
    from sklearn.metrics import roc_auc_score

    if metric == "auc":
        return float(roc_auc_score(labels, predicted))
    return float(np.mean((labels - predicted) ** 2))
