"""Trainings on several replicas of one process and on one device: how far apart they end.

Run as `python -m tests.distribution.replica_cases REPLICAS NAME...`, for a process has its devices
for good; it prints a dict of the differences as JSON.
"""

import json
import sys

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import tfmoe
from tfmoe.runs import by_name

ROWS, BATCH = 49, 16  # the last batch has a row: replicas without any

COLUMNS = [
    tfmoe.Numeric("x0", transform="none"),
    tfmoe.Numeric("x1", transform="none"),
    tfmoe.Categorical("user", hash_buckets=9, dim=4),
    tfmoe.MultiCategorical("seen", hash_buckets=9, dim=4, max_length=3),
]
TASKS = [tfmoe.Binary("a"), tfmoe.Regression("b", standardize=False), tfmoe.Binary("c")]


def table():
    """Rows with gaps: a replica's part of a batch may have no label of a task at all."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{i}": rng.normal(size=ROWS) for i in range(2)})
    frame["user"] = rng.integers(0, 30, ROWS)
    frame["seen"] = [rng.integers(0, 30, n).tolist() for n in rng.integers(0, 4, ROWS)]
    frame["a"] = (frame.x0 + rng.normal(size=ROWS) > 0).astype(float)
    frame["b"] = frame.x0 - frame.x1
    # Far off in the second batch, for the second of two replicas.
    frame["far"] = frame.b.where(np.arange(ROWS) // (BATCH // 2) != 3, 1e4)
    frame["c"] = frame.a * (frame.x1 > 0)
    frame["chained"] = frame.c
    frame["weight"] = rng.uniform(0.5, 2, ROWS)
    frame["group"] = np.arange(ROWS) // 7
    frame["task"] = np.array(["a", "b", "c"])[rng.integers(0, 3, ROWS)]
    frame["place"] = rng.integers(0, 4, ROWS)
    frame["score"] = np.select([frame.task == "b"], [frame.b], frame.a)
    frame.loc[rng.random(ROWS) < 0.6, "b"] = np.nan
    frame.loc[:7, "c"] = np.nan
    return frame


def schema(tasks=TASKS, columns=COLUMNS, **options):
    return tfmoe.Schema(columns, tasks, **options)


JOINT = schema(weight_column="weight")
PER_ROW = schema(task_column="task")
SCENARIOS = schema(columns=[*COLUMNS, tfmoe.Categorical("place", dim=2)], scenario="place")


def mmoe(gate=None, **options):
    options = {"num_experts": 4, "hidden_units": (6,), **options}
    return tfmoe.MMoE(gate=gate or tfmoe.SoftmaxGate(), **options)


def structure(name):
    options = {"num_experts": 4, "num_nonzeros": 2, "hidden_units": (8,)}
    return getattr(tfmoe, by_name.STRUCTURES[name]).from_options(**options, gate=None)


def gate(name, **options):
    return getattr(tfmoe, by_name.GATES[name])(**options)


USAGE = [
    tfmoe.ImportanceLoss(0.5),
    tfmoe.SwitchLoss(0.5, per_task=True),
    tfmoe.ZLoss(0.1),
]


def cases():
    """By name: schema, structure, arguments of the model and of `compile`."""
    found = {"plain": {}, "per-row": {"schema": PER_ROW}}
    found["measured"] = {"measured": True}
    found["measured-per-row"] = {"measured": True, "schema": PER_ROW}
    # Those that draw random numbers draw others on each replica.
    for name in sorted(set(by_name.STRUCTURES) - {"snr"}):
        own = {"schema": SCENARIOS} if name == "star" else {}
        found[f"structure-{name}"] = {"structure": lambda name=name: structure(name), **own}
    for name in sorted(set(by_name.GATES) - {"gumbel"}):
        found[f"gate-{name}"] = {"structure": lambda name=name: mmoe(gate(name))}
        found[f"gate-per-row-{name}"] = {"schema": PER_ROW, **found[f"gate-{name}"]}
    balanced = {"balance": [*USAGE, tfmoe.LoadLoss(0.5)], "usage_decay": 0.9}
    found |= {
        "balance": {"structure": lambda: mmoe(tfmoe.TopKGate(**balanced))},
        "balance-per-row": {
            "schema": PER_ROW,
            "structure": lambda: mmoe(tfmoe.TopKGate(**balanced)),
        },
        "balance-static": {"structure": lambda: mmoe(tfmoe.TopKGate(router="static", **balanced))},
        "entropy": {"structure": lambda: mmoe(tfmoe.DSelectKGate(entropy_reg=0.5))},
        "entropy-comet": {"structure": lambda: mmoe(tfmoe.CometGate(entropy_reg=0.5))},
        "permuted": {"structure": lambda: mmoe(permuted())},
        "sparse": {"structure": lambda: mmoe(tfmoe.TopKGate(), num_experts=8, dispatch="sparse")},
        "information": {"compile": {"aux_losses": tfmoe.MutualInformationLoss(0.5)}},
        "information-averaged": {
            "schema": PER_ROW,
            "compile": {"aux_losses": tfmoe.MutualInformationLoss(0.5, momentum=0.5)},
        },
        "regularized": {"model": {"embeddings_regularizer": 0.1, "kernel_regularizer": 0.1}},
        "pairwise": {
            "schema": schema(
                [tfmoe.Binary("a", loss="pairwise"), tfmoe.Binary("c")], group="group"
            ),
            "dataset": {"keep_groups": True},
        },
        "position": {
            "schema": schema(columns=[*COLUMNS, tfmoe.Categorical("place", hash_buckets=5)]),
            "model": {"position": "place"},
        },
        "chain": {"schema": chained()},
        "chain-escm2": {"schema": chained(tfmoe.ESCM2())},
        "chain-aitm": {"schema": chained(tfmoe.AITM())},
        "separate": {"structure": lambda: structure("ple"), "compile": {"weighting": "upgrad"}},
        "separate-chain": {
            "schema": chained(tfmoe.AITM()),
            "model": {"embeddings_regularizer": 0.1},
            "compile": {"weighting": "dualbalancing"},
        },
        "focal": {"schema": schema([tfmoe.Binary("a", loss="focal"), TASKS[1]])},
        "quantile": {"schema": schema([TASKS[0], regression("quantile")])},
        "huber": {"schema": schema([TASKS[0], regression("huber")])},
        "multiclass": {"schema": schema([TASKS[1], tfmoe.Multiclass("c", num_classes=3)])},
        "given-loss": {"compile": {"loss": {"b": "mae"}, "metrics": {"a": ["accuracy"]}}},
        "many-tables": {"compile": {"optimizer": rates()}},
        "half": {"policy": "mixed_float16"},
        # Of one replica gradients are more than half precision can hold, once an epoch.
        "half-overflow": {
            "policy": "mixed_float16",
            "schema": schema([tfmoe.Regression("far", standardize=False)]),
            "compile": {"optimizer": scaled},
        },
    }
    for name in by_name.WEIGHTINGS:
        found[f"weighting-{name}"] = {"compile": {"weighting": name}}
        found[f"weighting-per-row-{name}"] = {**found[f"weighting-{name}"], "schema": PER_ROW}
    for name, make in OPTIMIZERS.items():
        found[f"optimizer-{name}"] = {"compile": {"optimizer": make}, "large": True}
    return found


def chained(link=None):
    options = {} if link is None else {"link": link}
    return schema([tfmoe.Binary("a"), tfmoe.Binary("chained", given="a", **options)])


def permuted():
    return tfmoe.CometGate(permutation=tfmoe.LearnedPermutation(num_steps=50, entropy_reg=0.5))


def regression(loss):
    return tfmoe.Regression("b", loss=loss, standardize=False)


def rates():
    return lambda: tfmoe.optimizers.ByPart(
        {"embeddings": keras.optimizers.SGD(0.2), "rest": keras.optimizers.SGD(0.1)}
    )


def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**10)


class Unknown(keras.optimizers.Adagrad):
    """An optimizer of somebody's own."""


OPTIMIZERS = {
    "lazy-adam": lambda: tfmoe.optimizers.LazyAdam(0.01),
    "adagrad": lambda: tfmoe.optimizers.Adagrad(0.1),
    "adam": lambda: tfmoe.optimizers.Adam(0.01),
    "keras-rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "unknown": lambda: Unknown(0.01),
    "by-part": lambda: tfmoe.optimizers.ByPart(
        {"embeddings": tfmoe.optimizers.LazyAdam(0.01), "rest": keras.optimizers.SGD(0.1)},
        global_clipnorm=0.1,
    ),
    "clipped": lambda: tfmoe.optimizers.LazyAdam(0.01, global_clipnorm=0.1),
    "clipped-each": lambda: tfmoe.optimizers.Adagrad(0.1, clipnorm=0.05),
}


def trained(strategy, case):
    """The history of a training, its weights, and what was measured after it."""
    keras.config.set_dtype_policy(case.get("policy", "float32"))
    given = case.get("schema", JOINT)
    compiled = {"jit_compile": False, **case.get("compile", {})}
    if not case.get("measured"):
        # Metrics are what makes most of a step's graph.
        compiled = {"metrics": {task: [] for task in given.task_names}, **compiled}
    optimizer = compiled.pop("optimizer", lambda: keras.optimizers.SGD(0.1))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        prep = tfmoe.Preprocessor(given).fit(FRAME, progress=False)
        mixture = case.get("structure", mmoe)()
        model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(4,), **case.get("model", {}))
        model.compile(optimizer(), **compiled)
    data = model.training_preprocessor.dataset(FRAME, BATCH, **case.get("dataset", {}))
    validated = {"validation_data": data} if case.get("measured") else {}
    history = model.fit(data, epochs=2, verbose=0, **validated).history
    weights = {w.path: np.array(w) for w in model.trainable_weights}
    state = {w.path: np.array(w) for w in model.non_trainable_weights if "seed" not in w.path}
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        state["loss scale"] = np.array(model.optimizer.dynamic_scale)
    return history, weights, state


def difference(strategy, case):
    """The largest relative difference of histories, weights and states from those of one device."""
    alone, together = trained(tf.distribute.get_strategy(), case), trained(strategy, case)
    found = {}
    for one, other in zip(alone, together, strict=True):
        if one.keys() != other.keys():
            return {"names": [*one, *other]}
        for name, expected in one.items():
            expected, value = np.asarray(expected, "float64"), np.asarray(other[name], "float64")
            if (np.isnan(expected) != np.isnan(value)).any():
                found[name] = [expected.tolist(), value.tolist()]
                continue
            error = np.nan_to_num(np.abs(value - expected))
            scale = 1 + np.nan_to_num(np.abs(expected))
            found[name] = float(np.max(error / scale, initial=0.0))
    return found


FRAME = table()


def main(num, *names):
    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(num)]
    tf.config.set_logical_device_configuration(cpu, devices)
    # A graph that is run a few times is not worth it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # One for all: a second one would take the first one's numbers of collective operations.
    mirrored = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(num)])
    known = cases()
    found = {}
    for name in names or sorted(known):
        try:
            found[name] = difference(mirrored, known[name])
        except Exception as error:  # told with all others
            found[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        keras.utils.clear_session()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
