"""The same layers with the same weights, to be run once on each backend.

`python tests/package/backend_numbers.py FILE` computes them in a process that has no TensorFlow
and writes them to FILE (npz).
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

IDS = np.array([[3, 1, 3], [3, 3, 3], [4, 1, 2], [3, 0, 0]], "int32")


def matrix(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def set_weights(layer):
    """Numbers that depend on the weight's place and shape alone."""
    for seed, weight in enumerate(layer.trainable_weights):
        weight.assign(0.3 * matrix(*weight.shape, seed=seed))


def layers():
    """Name to `(layer, inputs)`."""
    import tfmoe

    x, selectors = matrix(4, 5), {"num_nonzeros": 3, "gamma": 4.0, "entropy_reg": 0.1}
    found = {}
    for router in ("linear", "static", tfmoe.MLPRouter((6,))):
        name = router if isinstance(router, str) else "mlp"
        found[f"softmax_{name}"] = tfmoe.SoftmaxGate(2, 5, router=router), x
        found[f"top_k_{name}"] = tfmoe.TopKGate(2, 5, router=router), x
        found[f"dselect_k_{name}"] = tfmoe.DSelectKGate(2, 5, router=router, **selectors), x
        found[f"gumbel_{name}"] = tfmoe.GumbelGate(2, 5, 2, 0.5, router=router), x
        found[f"gumbel_soft_{name}"] = tfmoe.GumbelGate(2, 5, None, 0.5, router=router), x
        found[f"sparsemax_{name}"] = tfmoe.SparsemaxGate(2, 5, router=router), x
        found[f"entmax_{name}"] = tfmoe.EntmaxGate(2, 5, router=router), x
        found[f"relu_{name}"] = tfmoe.ReLUGate(2, 5, router=router), x
    gate, units = tfmoe.DSelectKGate(**selectors), {"hidden_units": (6, 4), "layer_norm": True}
    schema = tfmoe.Schema(
        [
            tfmoe.Numeric("age"),
            tfmoe.Categorical("city", dim=3),
            tfmoe.MultiCategorical("cities", share="city"),
            tfmoe.Sequence("visits", share="city", pooling="max"),
        ],
        [tfmoe.Binary("click")],
    )
    features = {"age": x[:, 0], "city": IDS[:, 0], "cities": IDS, "visits": IDS}
    kinds = tfmoe.Schema(
        [
            tfmoe.MultiCategorical("city", dim=3, weights="w", unknown_rate=0.5),
            tfmoe.Vector("emb", size=5),
            tfmoe.Timestamp("at", cyclic=False, dim=2),
            tfmoe.Text("title", hash_buckets=2, dim=2, max_length=3),
        ],
        [tfmoe.Binary("click")],
    )
    several = {"city": IDS, "city_weights": x[:, :3], "emb": x, "at": IDS[:, :2], "title": IDS}
    sizes = {"city": 5, "at": 34, "title": 5}
    return found | {
        **_trees(x, selectors),
        **_one_task(x),
        "balance": (tfmoe.TopKGate(2, 5, balance=balance()), x),
        "penalty": (tfmoe.DSelectKGate(2, 5, reachability="penalty", **selectors), x),
        "experts": (tfmoe.Experts(3, **units), x),
        "own_experts": (tfmoe.Experts(3, **units), matrix(4, 3, 5)),
        "mmoe": (tfmoe.MMoE(2, 5, gate=gate, **units), x),
        "omoe": (tfmoe.OMoE(2, 5, gate=gate, **units), x),
        "shared_bottom": (tfmoe.SharedBottom(2, **units), x),
        **_structures(x, gate, units),
        "towers": (tfmoe.Towers((1, 3), **units), matrix(4, 2, 5)),
        "embedding": (tfmoe.Embedding(5, 3), IDS),
        "encoder": (tfmoe.Encoder(schema, {"city": 5}), features),
        "encoder_copies": (tfmoe.Encoder(schema, {"city": 5}, copies=3), features),
        **_between(schema, features, x),
        "encoder_tokens": (tfmoe.Encoder(schema, {"city": 5}, tokens=4), features),
        "encoder_kinds": (tfmoe.Encoder(kinds, sizes), several),
        "encoder_kinds_copies": (tfmoe.Encoder(kinds, sizes, copies=2), several),
        "encoder_kinds_tokens": (tfmoe.Encoder(kinds, sizes, tokens=4), several),
        "mod_squad": (tfmoe.ModSquad(2, 5, 1, 4, pooling="last"), token_rows(4, 5)),
    }


def _between(schema, features, x):
    """What stands between columns and structure: interactions, histories, the first order."""
    import tfmoe

    attention = tfmoe.TargetAttention("city", softmax=True)
    read = tfmoe.Schema(
        [
            *(schema.column("age"), schema.column("city")),
            tfmoe.Sequence("visits", share="city", pooling=tfmoe.TargetAttention("city")),
            tfmoe.Sequence("weighed", share="city", pooling=attention, weights="w"),
            tfmoe.Sequence("cities", share="city", pooling=tfmoe.BST("city", 1)),
            tfmoe.Sequence("others", share="city", aligned_with="visits"),
        ],
        schema.tasks,
    )
    features = {**features, "others": IDS[:, ::-1].copy(), "weighed": IDS}
    features["weighed_weights"] = x[:, :3]
    flat = [tfmoe.MaskNet((4,), 3, sizes=[2, 3]), tfmoe.Cross(2)]
    by_column = [tfmoe.FM(), tfmoe.FiBiNET(2), tfmoe.AutoInt(2)]
    found = {type(layer).__name__: (layer, x) for layer in flat}
    found |= {type(layer).__name__: (layer, matrix(4, 3, 5)) for layer in by_column}
    together = tfmoe.Interactions([tfmoe.FM(True), tfmoe.Cross()], sizes=[2, 3])
    histories = tfmoe.Encoder(read, {"city": 5}), features
    copies = tfmoe.Encoder(read, {"city": 5}, copies=2), features
    return found | {"interactions": (together, x), "histories": histories, "copies": copies}


def token_rows(rows, size):
    """Tokens of rows of different lengths, and their mask."""
    return matrix(rows, 4, size), np.arange(4) < 1 + np.arange(rows)[:, None] % 4


def balance():
    import tfmoe

    usage = (tfmoe.ImportanceLoss, tfmoe.LoadLoss, tfmoe.SwitchLoss)
    return [*(kind(per_task=p) for kind in usage for p in (False, True)), tfmoe.ZLoss()]


def _trees(x, selectors):
    """Of the gates with state of their own, some steps in."""
    import tfmoe

    ids = {"inputs": x, "ids": np.array([7, -1, 0, 2**30], "int32")}
    soft, hard = (tfmoe.LearnedPermutation(4, (0.5, 0.1)) for _ in range(2))
    weights = np.abs(matrix(4, 2, 5))
    for layer in (soft, hard):
        layer(weights)
        set_weights(layer)
        layer.steps.assign(2)
    hard.harden()
    balanced = tfmoe.BalancedTopKGate(2, 5, rate=0.5)
    balanced(x)
    set_weights(balanced)
    balanced(x, training=True)
    return {
        "comet": (tfmoe.CometGate(2, 5, **selectors), x),
        "comet_plus": (tfmoe.CometGate(2, 5, permutation=soft, **selectors), x),
        "permutation": (soft, weights),
        "hard_permutation": (hard, weights),
        "balanced": (balanced, x),
        "hash": (tfmoe.HashGate(2, 5, per_task=True, seed=2**31), ids),
    }


def _structures(x, gate, units):
    """Those with experts or streams of tasks' own."""
    import tfmoe

    rows = {"inputs": x, "task": np.array([1, 0, 1, 0], "int32")}
    options = {"gate": gate, "dispatch": "sparse", **units}
    return {
        "ple": (tfmoe.PLE(2, 2, **options), x),
        "cgc_one_task": (tfmoe.CGC(2, **options), rows),
        "adatt_one_task": (tfmoe.AdaTT(2, 2, 2, 1, gate=gate, **units), rows),
        "home": (tfmoe.HoME(2, [[1], [0]], rank=2, gate=gate, hidden_units=(6, 4)), x),
        "home_one_task": (tfmoe.HoME(2, gate=gate, hidden_units=(6, 4)), rows),
        "stem": (tfmoe.STEM(2, gate=gate, **units), matrix(4, 3, 5)),
        "stem_one_task": (
            tfmoe.STEM(2, gate=gate, **units),
            {**rows, "inputs": matrix(4, 3, 5)},
        ),
        "cross_stitch": (tfmoe.CrossStitch(2, **units), x),
        "mtan": (tfmoe.MTAN(2, **units), x),
        "snr": (tfmoe.SNR(2, **units), x),
        **_scenarios(x),
    }


def _scenarios(x):
    """What is conditioned on the scenario of a row."""
    import tfmoe

    ids, prior = np.array([2, 0, 1, 2], "int32"), {"inputs": x, "prior": matrix(4, 2)}
    towers = {"inputs": matrix(4, 2, 5), "scenario": ids}
    return {
        "star": (tfmoe.STAR(2, 3, (6, 4)), {"inputs": x, "context": {"scenario": ids}}),
        "epnet": (tfmoe.EPNet((4,)), prior),
        "ppnet": (tfmoe.PPNet("user", (4,), num_tasks=2, tower_units=(3,)), prior),
        "scenario_towers": (tfmoe.ScenarioTowers((1, 3), 3, (4,)), towers),
    }


def _one_task(x):
    """Gates whose rows have one task each."""
    import tfmoe

    rows = {"inputs": x, "task": np.array([4, 0, 4, 2], "int32")}
    mlp, low_rank = (tfmoe.TaskRouter(3, (6,), kind) for kind in ("mlp", "low_rank"))
    return {
        "task_linear": (tfmoe.TopKGate(5, 4, balance=balance()), rows),
        "task_few": (
            tfmoe.DSelectKGate(2, 4, entropy_reg=0.1),
            {**rows, "task": rows["task"] // 4},
        ),
        "task_hash": (tfmoe.HashGate(5, 4, per_task=True), {**rows, "ids": rows["task"]}),
        "task_aware": (tfmoe.TaskAwareGate(5, 4, router=mlp), rows),
        "task_aware_low_rank": (tfmoe.TaskAwareGate(5, 4, router=low_rank), x),
    }


def sparse_steps():
    """Losses and weights after some steps in which only the selected experts run."""
    import keras

    import tfmoe

    results = {}
    for name, gate in {"top_k": tfmoe.TopKGate(), "dselect_k": tfmoe.DSelectKGate()}.items():
        mixture = tfmoe.MMoE(2, 12, (6, 4), gate, dispatch="sparse")
        symbol = keras.Input((5,))
        model = keras.Model(symbol, mixture(symbol))
        set_weights(mixture)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=compiles())
        x, y = matrix(90, 5), matrix(90, 2, 4, seed=1)
        history = model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0).history
        results[f"sparse_{name}_loss"] = np.array(history["loss"])
        for i, weight in enumerate(mixture.trainable_weights):
            results[f"sparse_{name}_{i}"] = keras.ops.convert_to_numpy(weight)
        results[f"sparse_{name}_predict"] = model.predict(x, verbose=0)
    return results


def dropped_steps():
    """That experts with dropout can be trained under a gate that may become sparse."""
    import keras

    import tfmoe

    mixture = tfmoe.MMoE(2, 16, (6, 4), tfmoe.DSelectKGate(), dropout=0.5, dispatch="sparse")
    symbol = keras.Input((5,))
    model = keras.Model(symbol, mixture(symbol))
    model.compile("sgd", "mse", jit_compile=compiles())
    history = model.fit(matrix(64, 5), matrix(64, 2, 4), verbose=0).history
    return {"dropped_is_finite": np.isfinite(history["loss"])}


def tiny_shares_step():
    """A step of the mutual information of shares so small that their products' squares are 0."""
    import keras

    from tfmoe.objectives.mutual_information import mutual_information

    class Shares(keras.layers.Layer):
        def build(self, input_shape):
            self.shares = self.add_weight(shape=(2, 2))
            self.shares.assign([[1.0, 1e-12], [1e-12, 1e-22]])

        def call(self, inputs):
            self.add_loss(mutual_information(self.shares))
            return inputs

    layer = Shares()
    symbol = keras.Input((1,))
    model = keras.Model(symbol, layer(symbol))
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=compiles())
    model.fit(np.zeros((4, 1)), np.zeros((4, 1)), verbose=0)
    return {"tiny_shares": keras.ops.convert_to_numpy(layer.shares)}


def squad_steps():
    """The same of a transformer of experts, where rows have one task each."""
    import keras

    import tfmoe

    gate = tfmoe.TopKGate(num_nonzeros=2, usage_decay=0.9)
    mixture = tfmoe.ModSquad(3, 5, 1, 12, gate, causal=True, dispatch="sparse")
    tokens, present = token_rows(24, 5)
    symbols = keras.Input((4, 5)), keras.Input((4,), dtype="bool"), keras.Input((), dtype="int32")
    model = keras.Model(symbols, mixture(symbols[:2], task=symbols[2]))
    set_weights(mixture)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=compiles())
    x, y = [tokens, present, np.arange(24, dtype="int32") % 3], matrix(24, 1, 5, seed=1)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return {
        f"squad_{i}": keras.ops.convert_to_numpy(weight) for i, weight in enumerate(mixture.weights)
    }


def compiles():
    """Whether to compile a step: JAX is slow without, TensorFlow's compiler with."""
    import keras

    return keras.backend.backend() == "jax"


def adam_step():
    """The table after one step in which an id occurs several times."""
    import keras

    import tfmoe

    layer = tfmoe.Embedding(5, 3)
    symbol = keras.Input((3,), dtype="int32")
    model = keras.Model(symbol, keras.ops.sum(layer(symbol), axis=(1, 2)))
    set_weights(layer)
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=compiles())
    model.fit(IDS, np.arange(4.0, dtype="float32"), batch_size=4, verbose=0)
    return keras.ops.convert_to_numpy(layer.embeddings)


def gate_steps():
    """Gates' weights after a step along the gradient, ReLU's coefficient among them."""
    import keras

    import tfmoe

    results = {}
    gates = [kind(2, 5) for kind in (tfmoe.SparsemaxGate, tfmoe.EntmaxGate, tfmoe.ReLUGate)]
    for gate in (tfmoe.TopKGate(2, 5, balance=balance()), *gates):
        symbol = keras.Input((5,))
        model = keras.Model(symbol, gate(symbol))
        set_weights(gate)
        model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=compiles())
        model.fit(matrix(4, 5), matrix(4, 2, 5, seed=1), batch_size=4, verbose=0)
        for weight in gate.weights:
            numbers = keras.ops.convert_to_numpy(weight)
            results[f"step_{type(gate).__name__}_{weight.name}"] = numbers
    return results | task_steps()


def task_steps():
    """The same where rows have one task each, usage among the weights."""
    import keras

    import tfmoe

    results, task = {}, np.array([4, 0, 4, 2] * 3, "int32")
    for name, gate in {
        "top_k": tfmoe.TopKGate(5, 4, balance=balance(), usage_decay=0.9),
        "aware": tfmoe.TaskAwareGate(5, 4, router=tfmoe.TaskRouter(3, (6,))),
    }.items():
        symbols = keras.Input((5,)), keras.Input((), dtype="int32")
        model = keras.Model(symbols, gate(symbols[0], task=symbols[1]))
        set_weights(gate)
        model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=compiles())
        y = matrix(12, 1, 4, seed=1)
        model.fit([matrix(12, 5), task], y, batch_size=4, shuffle=False, verbose=0)
        for weight in gate.weights:
            numbers = keras.ops.convert_to_numpy(weight)
            results[f"task_step_{name}_{weight.name}"] = numbers
    return results


def table(rows=96):
    """Raw rows of two tasks, of which labels are missing."""
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 9, rows),
            "age": rng.normal(40, 9, rows),
            "tags": [["a", "b", "c"][: rng.integers(0, 4)] for _ in range(rows)],
            "click": rng.integers(0, 2, rows).astype(float),
            "spend": rng.normal(size=rows),
        }
    )
    frame.loc[rng.uniform(size=rows) < 0.3, "spend"] = np.nan
    frame.loc[rng.uniform(size=rows) < 0.1, "click"] = np.nan
    return frame


def trained_model():
    """Fit on arrays, metrics and predictions, before and after saving."""
    import keras

    import tfmoe

    schema = tfmoe.Schema(
        [
            tfmoe.Categorical("user", dim=3),
            tfmoe.Numeric("age"),
            tfmoe.MultiCategorical("tags", dim=2),
        ],
        [tfmoe.Binary("click"), tfmoe.Regression("spend", where="click", standardize=False)],
    )
    prep = tfmoe.Preprocessor(schema).fit(table(), progress=False)
    decay = keras.optimizers.schedules.PolynomialDecay(0.02, 4, 0.0)
    gate = tfmoe.DSelectKGate(entropy_reg=decay)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(None, 3, (8, 4), gate), tower_units=(4,))
    set_weights(model)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=compiles())
    x, y, weights = prep.arrays(table())
    history = model.fit((x, y, weights), batch_size=32, epochs=2, shuffle=False, verbose=0).history
    logs = model.evaluate((x, y, weights), verbose=0)
    predictions = model.predict(x, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        reloaded = keras.saving.load_model(Path(folder) / "model.keras")
    for name, again in reloaded.predict(table(), verbose=0).items():
        np.testing.assert_allclose(again, predictions[name], atol=1e-6)
    results = {f"fit_{name}": np.array(values) for name, values in history.items()}
    results |= {f"evaluate_{name}": np.array(value) for name, value in logs.items()}
    return results | {f"predict_{name}": values for name, values in predictions.items()}


def linked_model():
    """Fit and predictions of a chain of every link, and of losses of other kinds."""
    import keras

    import tfmoe

    rows = table().drop(columns=["tags"])
    rng = np.random.default_rng(1)
    rows["buy"] = np.where(rows["click"] == 1, rng.integers(0, 2, len(rows)), np.nan)
    rows["refund"] = np.where(rows["buy"] == 1, rng.integers(0, 2, len(rows)), np.nan)
    rows["keep"] = rows["buy"] * rng.integers(0, 2, len(rows))
    rows["visits"] = rng.poisson(2.0, len(rows)).astype(float)
    rows["paid"] = rng.integers(0, 2, len(rows)) * np.exp(rng.normal(size=len(rows)))
    tasks = [
        tfmoe.Binary("click"),
        tfmoe.Binary("buy", given="click", link="escm2-dr"),
        tfmoe.Binary("refund", given="buy", link="aitm"),
        tfmoe.Binary("keep", given="buy", link="dbmtl"),
        tfmoe.Regression("visits", loss="poisson"),
        tfmoe.Regression("paid", loss="lognormal", parts=True),
        tfmoe.Regression("spend", loss="quantile", quantile=0.8),
        tfmoe.Binary("seen", source="click", loss="focal", label_smoothing=0.1),
    ]
    schema = tfmoe.Schema([tfmoe.Categorical("user", dim=3), tfmoe.Numeric("age")], tasks)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(6,)), tower_units=(4,))
    set_weights(model)
    model.compile(keras.optimizers.SGD(0.01), jit_compile=compiles())
    arrays = prep.arrays(rows)
    history = model.fit(arrays, batch_size=32, epochs=2, shuffle=False, verbose=0).history
    results = {f"linked_{name}": np.array(values) for name, values in history.items()}
    predictions = model.predict(rows, verbose=0)
    return results | {f"linked_predict_{name}": values for name, values in predictions.items()}


def weighed_steps():
    """Losses, weights of tasks and weights of a model whose losses are weighed, or gradients."""
    import keras

    import tfmoe

    columns = [tfmoe.Numeric(f"x{i}", transform="none") for i in range(3)]
    tasks = [tfmoe.Binary("a"), tfmoe.Regression("b", standardize=False), tfmoe.Binary("c")]
    x = {f"x{i}": matrix(64, seed=i) for i in range(3)}
    y = {"a": (x["x0"] > 0) * 1.0, "b": x["x1"] - x["x0"], "c": (x["x1"] > 0) * 1.0}
    y["b"][::3] = np.nan
    y["c"][-32:] = np.nan
    results = {}
    apart = {"ple_pcgrad": tfmoe.PLE(num_levels=2, hidden_units=(4,))}
    apart["cgc_dualbalancing"] = tfmoe.CGC(hidden_units=(4,))
    for name in (
        *("uncertainty", "dwa", "rlw", "famo", "gradnorm", "pcgrad", "upgrad"),
        *apart,
    ):
        mixture = apart.get(name, tfmoe.MMoE(num_experts=3, hidden_units=(4,)))
        model = tfmoe.MultiTaskModel(tfmoe.Schema(columns, tasks), mixture, ())
        set_weights(model)
        sgd = keras.optimizers.SGD(0.1)
        metrics = {task.name: [] for task in tasks}
        weighting = name.split("_")[-1]
        model.compile(sgd, weighting=weighting, metrics=metrics, jit_compile=compiles())
        options = {"batch_size": 32, "epochs": 3, "shuffle": False, "verbose": 0}
        history = model.fit(x, y, **options).history
        if name == "upgrad":  # solved by steps whose rounding is each backend's own
            history = {key: np.round(values, 3) for key, values in history.items()}
        results |= {f"weighed_{name}_{key}": np.array(v) for key, v in history.items()}
    return results


def auc():
    import tfmoe

    metric = tfmoe.AUC(from_logits=True)
    labels = np.random.default_rng(1).integers(0, 2, 500)
    metric.update_state(labels, matrix(500), np.abs(matrix(500, seed=2)))
    return metric.result()


def all_numbers():
    """Name to array."""
    import keras
    from keras import ops, tree

    results = {}
    for name, (layer, inputs) in layers().items():
        # A gate's ids and tasks stand beside its inputs.
        beside = isinstance(inputs, dict) and "inputs" in inputs
        call = partial(layer, **inputs) if beside else partial(layer, inputs)
        call()
        set_weights(layer)
        outputs = {"": call()}
        config = layer.get_config()
        if "entropy_reg" in config or config.get("balance") or hasattr(layer, "gate"):
            outputs["trained"] = call(training=True)
            outputs["losses"] = sum(layer.losses) if layer.losses else 0.0
        for part, values in outputs.items():
            for i, value in enumerate(tree.flatten(values)):
                results[f"{name}_{part}_{i}"] = ops.convert_to_numpy(value)
    results["auc"] = ops.convert_to_numpy(auc())
    results["adam_step"] = adam_step()
    results |= gate_steps() | sparse_steps() | squad_steps()
    results |= dropped_steps() | tiny_shares_step() | weighed_steps()
    keras.utils.set_random_seed(0)
    return results | trained_model() | linked_model()


if __name__ == "__main__":
    sys.modules["tensorflow"] = None  # as if it were not installed
    found = all_numbers()
    np.savez(sys.argv[1], **found)
