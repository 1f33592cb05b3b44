"""Time of sparse compute: a layer of experts, and whole models, against dense compute.

The layer: experts of 128 -> 256 -> 128 units, each row through 2 of them, forward and
backward, beside a dense layer that has 2 experts in all. Routing is balanced, or skewed by
Zipf's law. The models are those of the `step` benchmark with 64 experts, in training and
in prediction, once with all experts computed and once with the selected ones.
"""

import itertools
import re
from dataclasses import replace

import numpy as np
import tensorflow as tf
from keras import ops

import tfmoe
from benchmarks.rivals.local import tfmoe_model
from benchmarks.rivals.worker import Sizes, keras_turn, make_batches
from benchmarks.timing import alternating
from tfmoe.compute import dispatch

BATCH, INPUTS, CHOSEN = 4096, 128, 2
# Experts of the size, and small ones, whose matmuls cost less than their layout.
UNITS = {"256-128": (256, 128), "32-16": (32, 16)}
EXPERTS = (4, 8, 16, 64, 256)
ROUNDS, SECONDS = 9, 0.05
MODEL = replace(Sizes(), num_experts=64, num_batches=4)
QUICK_MODEL = Sizes(3, 100, 4, 2, 8, (8, 4), (4,), 2, 32, 2)


def run(quick):
    """Measures; returns a row for each contestant."""
    # It warns of functions that are traced one after the other, as ours are.
    tf.get_logger().setLevel("ERROR")
    if quick:
        rows = layer_rows({"8-4": (8, 4)}, (4,), batch=64, rounds=2, seconds=0.0)
        return rows + model_rows(QUICK_MODEL, rounds=1)
    return layer_rows(UNITS, EXPERTS, BATCH, ROUNDS, SECONDS) + model_rows(MODEL, rounds=5)


def layer_rows(all_units, all_experts, batch, rounds, seconds):
    rows = []
    for name, units in all_units.items():
        # Dense layers of many experts take long: in each way of compiling they are timed
        # once a round, beside the other contestants of that round.
        for jit in (False, True):
            turns = {("two dense", CHOSEN, ""): _turn(units, CHOSEN, None, jit, batch)}
            for num in all_experts:
                turns["dense", num, ""] = _turn(units, num, None, jit, batch)
                for routing in ("balanced", "skewed"):
                    chosen = route(batch, num, routing)
                    turns["sparse", num, routing] = _turn(units, num, chosen, jit, batch)
            times = alternating(turns, rounds, seconds)
            base = times["two dense", CHOSEN, ""]
            for (way, num, routing), taken in times.items():
                rows.append(
                    {
                        "name": f"layer {name}",
                        "experts": num,
                        "way": way,
                        "routing": routing,
                        "jit": str(jit),
                        **_ratio(taken, base),
                        "auto": _rule(num, units) if way == "sparse" else "",
                    }
                )
    return rows


def _rule(num, units):
    num_weights = sum(a * b for a, b in itertools.pairwise((INPUTS, *units)))
    return "sparse" if dispatch.pays(CHOSEN, num, num_weights, certain=True) else "dense"


def route(batch, num_experts, routing):
    """Experts of each row `(batch, 2)`, distinct, drawn evenly or by Zipf's law."""
    rng = np.random.default_rng(0)
    logits = np.zeros(num_experts)
    if routing == "skewed":
        logits = -np.log(rng.permutation(np.arange(1, num_experts + 1)))
    scores = logits + rng.gumbel(size=(batch, num_experts))
    return np.argsort(-scores, axis=1)[:, :CHOSEN].astype("int32")


def _turn(units, num_experts, chosen, jit, batch):
    """A function that runs the layer forward and backward once."""
    layer = tfmoe.Experts(num_experts, units)
    layer.build((None, INPUTS))
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch, INPUTS)), tf.float32)
    chosen = None if chosen is None else tf.constant(chosen)
    count = num_experts if chosen is None else CHOSEN
    weights = tf.constant(rng.random((batch, 1, count)), tf.float32)

    @tf.function(jit_compile=jit, autograph=False)
    def step(x, weights):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            outputs = ops.matmul(weights, layer(x, chosen=chosen))
            loss = ops.sum(outputs * outputs)
        return tape.gradient(loss, [x, weights, *(w.value for w in layer.weights)])

    return lambda: step(x, weights)[0].numpy()


def _ratio(taken, base):
    q1, median, q3 = np.percentile(taken / base, (25, 50, 75))
    return {
        "ms": round(1e3 * float(np.median(taken)), 2),
        "ratio": round(float(median), 3),
        "q1": round(float(q1), 3),
        "q3": round(float(q3), 3),
    }


def model_rows(sizes, rounds):
    """Whole models; the ratio is to the same model with all experts computed."""
    rows = []
    for name, gate in {
        "top-k": tfmoe.TopKGate(num_nonzeros=CHOSEN),
        "DSelect-k, converged": tfmoe.DSelectKGate(num_nonzeros=CHOSEN),
    }.items():
        fits, predictions = {}, {}
        for way in ("dense", "sparse"):
            model = tfmoe_model(sizes, gate=gate, dispatch=way)
            if isinstance(gate, tfmoe.DSelectKGate):
                # Every bit is far outside its step.
                head = model.mixture.gate.head
                head.kernel.assign(1e6 * np.sign(head.kernel))
            model.compile("adam", jit_compile=False)
            features = {name: values[0] for name, values in make_batches(sizes)[0].items()}
            fits[way] = keras_turn(model, sizes)
            predictions[way] = lambda model=model, x=features: model.predict_on_batch(x)
        for what, turns in {"training": fits, "prediction": predictions}.items():
            times = alternating(turns, rounds, 0.0)
            for way, taken in times.items():
                rows.append(
                    {
                        "name": f"model, {name}, {what}",
                        "experts": sizes.num_experts,
                        "way": way,
                        "routing": "by the gate",
                        "jit": "False",
                        **_ratio(taken, times["dense"]),
                    }
                )
    return rows


def headline(rows):
    """Sparse layers against a dense layer of two experts; models against dense ones."""
    layers = {
        (row["experts"], row["routing"], row["jit"]): row["ratio"]
        for row in reversed(rows)  # the first, large units win
        if row["way"] == "sparse" and row["name"].startswith("layer")
    }
    parts = []
    for jit, suffix in (("False", ""), ("True", "_jit")):
        for num, routing, name in (
            (64, "balanced", "ratio_64"),
            (64, "skewed", "ratio_64_skewed"),
            (256, "balanced", "ratio_256"),
            (256, "skewed", "ratio_256_skewed"),
        ):
            if (num, routing, jit) in layers:
                parts.append(f"{name}{suffix}={layers[num, routing, jit]}")
    for row in rows:
        if row["way"] == "sparse" and row["name"].startswith("model"):
            name = re.sub(r"\W+", "_", row["name"].removeprefix("model, ").lower())
            parts.append(f"{name}_speedup={round(1 / row['ratio'], 1)}")
    return " ".join(parts)
