"""Four ways to learn many markets, side by side: what `tfmoe demo` runs on generated data."""

import functools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import ops
from rich.console import Console

from tfmoe.cli.progress import ProgressLine
from tfmoe.compute.types import Tensor
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.markets import Markets
from tfmoe.datasets.synthetic import Split
from tfmoe.gates.base import Gate
from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.gates.schedules import ramp
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.gates.top_k import TopKGate
from tfmoe.model.model import MultiTaskModel
from tfmoe.objectives.metrics import exact_auc
from tfmoe.optimizers import Adam
from tfmoe.reports.gate_use import USED, GateUse, gate_use
from tfmoe.schema.columns import Categorical
from tfmoe.schema.schema import Schema
from tfmoe.structures.base import Structure
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

ALONE, SHARED, DENSE = "each alone", "shared bottom", "MMoE"
DSELECT_K, NOISY_TOP_K = "DSelect-k", "noisy Top-k"
SPARSE = (DSELECT_K, NOISY_TOP_K)
WIDE = (256, 128)


class Sizes(NamedTuple):
    """What all models have in common.

    Attributes:
        num_experts, chosen: int, experts of a mixture, and how many a sparse gate is to select.
        units: tuple of int, of an expert's layers.
        epochs, batch_size: int, of every training.
    """

    num_experts: int = 16
    chosen: int = 2
    units: tuple[int, ...] = (32, 16)
    epochs: int = 14
    batch_size: int = 1024


class Settings(NamedTuple):
    """What is chosen for each model by itself.

    Attributes:
        learning_rate: float.
        tower: tuple of int, units of a market's own network, where each is alone.
        layers: int, of a shared bottom; the second has half of the first one's units.
        router: str, of MMoE's gate: "linear", the paper's, or "static".
        gamma, entropy_reg: float, of DSelect-k. The second rises from 0 to its value over half
            of the training.
    """

    learning_rate: float
    tower: tuple[int, ...] = ()
    layers: int = 1
    router: str = "static"
    gamma: float = 1.0
    entropy_reg: float = 0.0


# Chosen by `python -m benchmarks demo_choice`, on shops of other seeds than those shown.
SETTINGS = {
    ALONE: Settings(0.003, tower=(128,)),
    SHARED: Settings(0.003, layers=2),
    DENSE: Settings(0.01, router="static"),
    DSELECT_K: Settings(0.003, gamma=3.0, entropy_reg=0.1),
    NOISY_TOP_K: Settings(0.01),
}


# The sparse gate with the least loss in the same trials: what is extracted, saved and served.
OURS = NOISY_TOP_K

# By how much its mean AUC differs from theirs on the six shops of `python -m benchmarks demo`.
ON_SIX_SHOPS = {ALONE: 0.074, SHARED: 0.005, DENSE: -0.003, DSELECT_K: 0.025}


class Trained(NamedTuple):
    """One model and what was measured of it.

    Attributes:
        name: str.
        model: `MultiTaskModel`.
        valid: float, mean over the markets of the log loss on their validation rows.
        auc: `(t,)`, of each market on its test rows.
        experts: float, how many of its experts a row goes through; NaN without experts.
        multiplications: float, of a row from the encoded columns to its score.
        parameters: int.
        seconds: float, of the training.
        use: `GateUse`, or None without a gate.
    """

    name: str
    model: MultiTaskModel
    valid: float
    auc: np.ndarray
    experts: float
    multiplications: float
    parameters: int
    seconds: float
    use: GateUse | None

    def row(self) -> dict[str, Any]:
        """Its numbers, as JSON has them."""
        tasks = self.model.schema.task_names
        return {
            "model": self.name,
            "auc": float(np.mean(self.auc)),
            "auc_of": dict(zip(tasks, self.auc.tolist(), strict=True)),
            "experts": None if math.isnan(self.experts) else self.experts,
            "multiplications": self.multiplications,
            "parameters": self.parameters,
            "seconds": self.seconds,
        }


@keras.saving.register_keras_serializable("tfmoe_demo")
class Alone(Structure):
    """Nothing shared: each market's tower reads the columns themselves."""

    def call(self, inputs: Tensor, return_aux: bool = False, **ignored: Any) -> Any:
        outputs = inputs[:, None]
        return (outputs, []) if return_aux else outputs

    def compute_output_spec(self, inputs: Tensor, return_aux: bool = False, **ignored: Any) -> Any:
        outputs = keras.KerasTensor((inputs.shape[0], 1, inputs.shape[1]), dtype=inputs.dtype)
        return (outputs, []) if return_aux else outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_tasks": self.num_tasks}


def train(
    name: str,
    world: Markets,
    settings: Settings,
    sizes: Sizes,
    seed: int = 0,
    console: Console | None = None,
) -> Trained:
    """Trains one model and measures it.

    The weights kept are those of the epoch with the least log loss on validation rows, as a mean
    over the markets; of models alone, each market's own best. DSelect-k's epochs count once it
    has decided. The test part is read once.

    Args:
        name: str, a key of `SETTINGS`.
        world: `Markets`.
        settings: `Settings`.
        sizes: `Sizes`.
        seed: int, of weights and order.
        console: `rich.console.Console` for progress, or None for none.
    """
    split = _apart(world.split) if name == ALONE else world.split
    keras.utils.set_random_seed(seed)
    prep = Preprocessor(split.schema).fit(split.train, progress=False)
    steps = sizes.epochs * math.ceil(len(split.train) / sizes.batch_size)
    towers = settings.tower if name == ALONE else ()
    model = MultiTaskModel(
        prep, _recipe(name, split.schema, settings, sizes, steps), tower_units=towers
    )
    # AUC is measured at the end: in each step it would take longer than the model.
    model.compile(Adam(settings.learning_rate), metrics={n: [] for n in model.schema.task_names})
    rows = prep.dataset(split.train, sizes.batch_size, shuffle=True, seed=seed)
    epochs = _Epochs(prep, split.valid, sizes.chosen if name == DSELECT_K else None)
    line = ProgressLine(name, console or Console(quiet=True), widest=SHARED)
    start = time.perf_counter()
    with line.progress:
        model.fit(rows, epochs=sizes.epochs, callbacks=[line, epochs], verbose=0)
    seconds = time.perf_counter() - start
    best = epochs.best(apart=name == ALONE)
    scores = epochs.predict(best, split.test)
    valid = float(np.mean(np.array(epochs.losses)[best, np.arange(len(best))]))
    uses = gate_use(model, split.test, similarity=False)
    experts = float(np.mean(uses[0].num_used)) if uses else math.nan
    return Trained(
        name,
        model,
        valid,
        aucs(split, scores),
        experts,
        multiplications(model, experts),
        model.count_params(),
        seconds,
        uses[0] if uses else None,
    )


def aucs(split: Split, scores: np.ndarray) -> np.ndarray:
    """AUC of each market `(t,)` on the test part, of scores `(n,)`."""
    bought = split.test["bought"].to_numpy("float64")
    rows = _places(split.test, split.schema)
    return np.array([exact_auc(bought[own], scores[own]) for own in rows])


def _places(table: pd.DataFrame, schema: Schema) -> list[np.ndarray]:
    """For each market the places of its rows."""
    found = table.groupby("market").indices
    return [found[name] for name in schema.task_names]


def _apart(split: Split) -> Split:
    """The same rows where each market has products, and so embeddings, of its own."""
    train, valid, test = (
        table.assign(product=table["market"] + " " + table["product"])
        for table in (split.train, split.valid, split.test)
    )
    return Split(train, valid, test, split.schema)


def _recipe(name: str, schema: Schema, settings: Settings, sizes: Sizes, steps: int) -> Structure:
    if name == ALONE:
        return Alone()
    if name == SHARED:
        return SharedBottom(hidden_units=equal_units(schema, settings.layers, sizes))
    gate: Gate = SoftmaxGate(router=settings.router)
    if name == NOISY_TOP_K:
        gate = TopKGate(num_nonzeros=sizes.chosen, router="static", noisy=True)
    elif name == DSELECT_K:
        reg = ramp(max(1, steps // 2), settings.entropy_reg)
        gate = DSelectKGate(
            num_nonzeros=sizes.chosen, router="static", gamma=settings.gamma, entropy_reg=reg
        )
    return MMoE(num_experts=sizes.num_experts, hidden_units=sizes.units, gate=gate)


def equal_units(schema: Schema, layers: int, sizes: Sizes) -> tuple[int, ...]:
    """Units of the widest shared bottom with at most a mixture's parameters, towers included."""
    num_tasks = len(schema.tasks)
    num_inputs = sum(c.dim if isinstance(c, Categorical) else 1 for c in schema.columns)

    def count(units: Sequence[int]) -> int:
        pairs = zip((num_inputs, *units), units, strict=False)
        return sum((before + 1) * after for before, after in pairs)

    def towers(units: Sequence[int]) -> int:
        return num_tasks * (units[-1] + 1)

    budget = sizes.num_experts * (count(sizes.units) + num_tasks) + towers(sizes.units)
    found = (1,) * layers
    while count(found) + towers(found) <= budget:
        best, width = found, found[0] + 1
        found = (width,) if layers == 1 else (width, max(1, width // 2))
    return best


def multiplications(model: MultiTaskModel, experts: float) -> float:
    """Of a row from the encoded columns to its score, with so many experts computed."""

    def one(kernels: Iterable[Any]) -> int:
        return sum(math.prod(kernel.shape[1:]) for kernel in kernels)

    total: float = one([*model.towers.hidden.kernels, model.towers.kernel])
    structure: Any = model.structure
    if isinstance(structure, SharedBottom):
        total += one(structure.bottom.kernels)
    elif isinstance(structure, MMoE):
        kernels = structure.experts.kernels
        total += experts * (one(kernels) + kernels[-1].shape[-1])
        if structure.gate.router == "linear":
            total += kernels[0].shape[1] * structure.num_experts
    return total


class _Epochs(keras.callbacks.Callback):
    """Keeps each epoch's weights, and each market's log loss on its validation rows."""

    def __init__(self, prep: Preprocessor, valid: pd.DataFrame, most: int | None) -> None:
        super().__init__()
        self.prep, self.most = prep, most
        self.features = prep.arrays(valid, labels=False)
        self.bought = valid["bought"].to_numpy()
        self.rows = _places(valid, prep.schema)
        self.losses: list[list[float]] = []
        self.weights: list[Any] = []
        self.decided: list[bool] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        scores = self._scores(self.features)
        right = np.where(self.bought == 1, scores, 1 - scores)
        losses = -np.log(np.maximum(right, 1e-7))
        self.losses.append([float(losses[own].mean()) for own in self.rows])
        self.weights.append(self.model.get_weights())
        self.decided.append(self.most is None or self._used() <= self.most)

    def _scores(self, features: Any) -> np.ndarray:
        return ops.convert_to_numpy(self.model(features)["score"])

    def _used(self) -> int:
        """The most experts that a market uses. The gate is static: any row tells."""
        one = {name: values[:1] for name, values in self.features.items()}
        gate = self.model.structure.gate
        weights = ops.convert_to_numpy(gate(self.model.encode(one), task=None))
        return int((weights > USED).sum(axis=-1).max())

    def best(self, apart: bool) -> np.ndarray:
        """For each market the epoch whose weights it is measured with: all the same or apart."""
        losses = np.array(self.losses)
        # One that never decides is shown as it ends.
        first = self.decided.index(True) if True in self.decided else len(losses) - 1
        losses[:first] = np.inf
        if apart:
            return losses.argmin(axis=0)
        return np.full(losses.shape[1], losses.mean(axis=1).argmin())

    def predict(self, best: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Scores `(n,)`; the model is left with the weights that most markets have."""
        features = self.prep.arrays(table, labels=False)
        places = {name: t for t, name in enumerate(self.prep.schema.task_names)}
        wanted = best[table["market"].map(places).to_numpy()]
        scores = np.zeros(len(table))
        for epoch in sorted(set(best), key=list(best).count):
            self.model.set_weights(self.weights[epoch])
            own = wanted == epoch
            scores[own] = self._scores(features)[own]
        return scores


def time_ratio(
    model: MultiTaskModel, other: MultiTaskModel, table: pd.DataFrame, rounds: int = 15
) -> float:
    """Median time of a prediction by `model`, divided by the other's of the same round."""
    features = model.preprocessor.arrays(table, labels=False)
    turns = [functools.partial(one.predict_on_batch, features) for one in (model, other)]
    seconds = np.zeros((rounds, 2))
    for turn in turns:
        turn()  # compiles
    for own in seconds:
        for place, turn in enumerate(turns):
            start = time.perf_counter()
            turn()
            own[place] = time.perf_counter() - start
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def widened(name: str, model: MultiTaskModel, sizes: Sizes) -> MultiTaskModel:
    """The same model with experts of `WIDE` units, not trained: only its time is of interest."""
    recipe = _recipe(name, model.schema, SETTINGS[name], sizes._replace(units=WIDE), steps=1)
    return MultiTaskModel(model.preprocessor, recipe, tower_units=())


def standalone(trained: Trained) -> np.ndarray:
    """Parameters `(t,)` of each market's standalone model, as `extract` makes it."""
    model, num_tasks = trained.model, len(trained.model.schema.tasks)
    structure: Any = model.structure
    if isinstance(structure, Alone):
        return np.full(num_tasks, trained.parameters / num_tasks)
    own = sum(math.prod(w.shape) for w in model.towers.weights) // num_tasks
    rest = trained.parameters - own * num_tasks
    if trained.use is None:
        return np.full(num_tasks, rest + own)
    # What does not train, a count of steps, is there once.
    gate = sum(math.prod(w.shape) for w in structure.gate.trainable_weights)
    experts = sum(math.prod(w.shape) for w in structure.experts.weights)
    used = (trained.use.mean_weight > 0).sum(axis=1)
    each = experts / structure.num_experts
    return rest - gate - experts + own + gate / num_tasks + used * each
