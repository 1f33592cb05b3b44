"""Whether the thresholds in use choose the faster way on this machine.

Each row is one choice: a threshold (`tfmoe.compute.thresholds`), what is computed, the way that
is chosen and another, forced by other thresholds, in turns. `ratio` is the chosen way's time
divided by the other's, a median over the rounds; where the chosen way is slower by more than a
twentieth, and in three rounds of four, it is measured again in three times the rounds, for of fifty
choices some seem off by chance. If it is so again, the row says `off here`, and what to set. Layers
are timed forward and backward, unless it says `inference`; tables and models are whole training
steps.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import tfmoe
from benchmarks.rivals.local import tfmoe_model
from benchmarks.rivals.worker import Sizes, keras_turn
from benchmarks.sparse import route
from benchmarks.timing import alternating
from tfmoe.compute import dense, dispatch, thresholds

ROUNDS, SECONDS, AGAIN = 7, 0.15, 3
# A chosen way may be slower than another by a twentieth.
MOST = 1.05
NEVER = 10**12


WHOLE = Sizes(num_batches=4)


@dataclass(frozen=True)
class Scale:
    """How large things are: of the whole benchmark, or of its quick form."""

    batch: int = 4096
    features: tuple = (64, 429)
    units: tuple = (256, 128)
    small_units: tuple = (32, 16)
    middle_units: tuple = (64, 64)
    narrow: tuple = (16, 32, 64)
    inputs: int = 128
    serving: tuple = (1, 100, 1000, 4096)
    tables: tuple = (10**4, 3 * 10**4, 10**5, 10**6)
    models: tuple = (0, 4, 8, 26)
    experts: tuple = (64, 256)
    sizes: Sizes = WHOLE


QUICK = Scale(
    batch=32,
    features=(4, 6),
    units=(8, 4),
    small_units=(4, 2),
    middle_units=(4, 4),
    narrow=(2,),
    inputs=4,
    serving=(1, 8),
    tables=(10, 20),
    models=(2,),
    experts=(8, 16),
    sizes=Sizes(2, 100, 4, 2, 3, (8, 4), (4,), 2, 32, 2),
)


@dataclass(frozen=True)
class Choice:
    """Two ways of computing the same, of which the thresholds in use choose the first.

    Attributes:
        name: the threshold.
        at: what is computed.
        ways: pair of `(what it is called, what makes a function to be timed)`, the chosen one
            first.
        remedy: what to set if the other way is faster.
    """

    name: str
    at: str
    ways: tuple[tuple[str, Callable], tuple[str, Callable]]
    remedy: str


def run(quick):
    """A row for each choice."""
    # It warns of functions that are traced one after the other, as ours are.
    tf.get_logger().setLevel("ERROR")
    scale = QUICK if quick else Scale()
    rounds, seconds = (1, 0.0) if quick else (ROUNDS, SECONDS)
    tried, rows = choices(scale), []
    if quick:
        tried = {choice.name: choice for choice in tried}.values()  # one of each
    for choice in tried:
        turns = {which: make() for which, (_, make) in enumerate(choice.ways)}
        row = row_of(choice, alternating(turns, rounds, seconds))
        if row["set"] and not quick:
            row = row_of(choice, alternating(turns, AGAIN * rounds, seconds))
        rows.append(row)
    return rows


def forcing(make, **forced):
    """What makes a turn that is made and called, and so traced, under some thresholds."""
    limits = replace(thresholds.current(), **forced)

    def within(function):
        with thresholds.use(limits):
            return function()

    def forced_make():
        turn = within(make)
        return lambda: within(turn)

    return forced_make


def row_of(choice, times):
    """A row from the seconds of both ways."""
    q1, ratio, q3 = np.percentile(times[0] / times[1], (25, 50, 75))
    off = ratio > MOST and q1 > 1
    (chosen, _), (other, _) = choice.ways
    value = getattr(thresholds.current(), choice.name)
    return {
        "name": choice.name,
        "in_use": str(list(value) if isinstance(value, tuple) else value),
        "at": choice.at,
        "chosen": chosen,
        "chosen_ms": round(1e3 * float(np.median(times[0])), 2),
        "other": other,
        "other_ms": round(1e3 * float(np.median(times[1])), 2),
        "ratio": round(float(ratio), 3),
        "q1": round(float(q1), 3),
        "q3": round(float(q3), 3),
        "verdict": "off here" if off else "ok",
        "set": choice.remedy if off else "",
    }


def headline(rows):
    """How many choices were tried, and the thresholds of those that are off."""
    off = dict.fromkeys(row["name"] for row in rows if row["verdict"] != "ok")
    kind, names = thresholds.kind_of_processor(), ",".join(off) or "none"
    return f"kind={kind} choices={len(rows)} off={names}"


def choices(scale):
    """All choices; those of one threshold are neighbours."""
    yield from _large_kernel(scale)
    yield from _most_unrolled(scale)
    yield from _narrow(scale)
    yield from _break_even(scale)
    yield from _slots(scale)
    yield from _dense_rows(scale)
    yield from _most_looked_up(scale)


def _unrolled(name, at, make, chosen, remedy):
    """One after the other or all at once."""
    most = {"most_unrolled": NEVER, "most_unrolled_large": NEVER}
    ways = [
        (words, forcing(make, **most, large_kernel=at, large_kernel_inference=at))
        for words, at in (("one after the other", None), ("all at once", 0))
    ]
    return Choice(name, at, tuple(ways if chosen else reversed(ways)), remedy)


def _large_kernel(scale):
    for features in scale.features:
        kernel, weights = (features, scale.units[0]), features * scale.units[0]
        chosen = dense.is_unrolled(8, kernel, training=True)
        yield _unrolled(
            "large_kernel",
            f"8 experts of {_shape(features, *scale.units)}, {scale.batch} rows",
            partial(layer_turn, scale.batch, features, 8, scale.units),
            chosen,
            f"large_kernel={weights if chosen else weights + 1}",
        )
    # The last kernel is the largest.
    chosen = dense.is_unrolled(8, kernel, training=False)
    for rows in scale.serving:
        yield _unrolled(
            "large_kernel_inference",
            f"8 experts of {_shape(features, *scale.units)}, {rows} rows, inference",
            partial(layer_turn, rows, features, 8, scale.units, training=False),
            chosen,
            f"large_kernel_inference={weights if chosen else 'null'}",
        )


def _most_unrolled(scale):
    for name, units in (
        ("most_unrolled", scale.small_units),
        ("most_unrolled_large", scale.units),
    ):
        for num in (8, 16, 32):
            chosen = dense.is_unrolled(num, (scale.inputs, units[0]), training=True)
            yield _unrolled(
                name,
                f"{num} experts of {_shape(scale.inputs, *units)}, {scale.batch} rows",
                partial(layer_turn, scale.batch, scale.inputs, num, units),
                chosen,
                f"{name}={num - 1 if chosen else num}",
            )


def _narrow(scale):
    """One wide product or one of each network, in the gradients of networks that share an input."""
    num, features = scale.experts[0], scale.features[-1]
    for units in scale.narrow:
        times = features // units
        chosen = features >= thresholds.current().narrow * units
        make = partial(layer_turn, scale.batch // 8, features, num, (units,))
        ways = [
            ("one wide product", forcing(make, narrow=0)),
            ("one of each", forcing(make, narrow=NEVER)),
        ]
        yield Choice(
            "narrow",
            f"{num} experts of {_shape(features, units)}, {scale.batch // 8} rows",
            tuple(ways if chosen else reversed(ways)),
            f"narrow={times + 1 if chosen else times}",
        )


def _break_even(scale):
    """Sparse or dense on both sides of break-even: of `num` experts a row has two."""
    cases = [("break_even", scale.units, num) for num in (4, 3)]
    cases += [("break_even_small", scale.small_units, num) for num in (8, 6)]
    cases += [("large_expert", scale.middle_units, 4)]
    for name, units, num in cases:
        weights = sum(a * b for a, b in itertools.pairwise((scale.inputs, *units)))
        pays = dispatch.pays(2, num, weights, certain=True)
        ways = [
            (way, partial(mixture_turn, scale.batch, scale.inputs, num, units, way))
            for way in ("sparse", "dense")
        ]
        value = num / 2 + 0.1 if pays else num / 2
        if name == "large_expert":
            value = weights + 1 if pays else weights
        yield Choice(
            name,
            f"MMoE, 2 of {num} experts of {_shape(scale.inputs, *units)}, {scale.batch} rows",
            tuple(ways if pays else reversed(ways)),
            f"{name}={value}",
        )


def _slots(scale):
    """Other lengths of spans and blocks than those in use."""
    limits = thresholds.current()
    some, many = scale.experts
    cases = [
        ("spans", (0, 8, 16), some, False),
        ("spans", (0, 2, 4, 6, 8, 10, 12, 16), some, False),
        ("spans", tuple(range(17)), some, False),
        ("block_cost", limits.block_cost // 3, some, False),
        ("block_cost", limits.block_cost * 3, some, False),
        ("blocks", tuple(-(-n // 2) for n in limits.blocks), some, False),
        ("blocks", tuple(2 * n for n in limits.blocks), some, False),
        # So many experts have few pairs each.
        ("block_pairs", tuple(n // 4 for n in limits.block_pairs), many, False),
        ("block_pairs", tuple(4 * n for n in limits.block_pairs), many, False),
        ("spans_xla", (8, 8), some, True),
        ("spans_xla", (12, 12), some, True),
        ("blocks_xla", tuple(-(-n // 2) for n in limits.blocks_xla), some, True),
        ("blocks_xla", tuple(2 * n for n in limits.blocks_xla), some, True),
    ]
    cases = [case for case in cases if case[1] != getattr(limits, case[0])]
    for (name, value, num, jit), routing in itertools.product(cases, ("balanced", "skewed")):
        make = partial(
            layer_turn,
            scale.batch,
            scale.inputs,
            num,
            scale.units,
            route(scale.batch, num, routing),
            jit=jit,
        )
        text = str(list(value) if isinstance(value, tuple) else value)
        yield Choice(
            name,
            f"2 of {num} experts of {_shape(scale.inputs, *scale.units)}, {scale.batch} rows, "
            f"{routing}{', XLA' if jit else ''}",
            (("as in use", forcing(make)), (text, forcing(make, **{name: value}))),
            f"{name}={text}".replace(" ", ""),
        )


def _dense_rows(scale):
    for rows in scale.tables:
        chosen = rows <= thresholds.current().dense_rows
        make = partial(table_turn, scale.batch // 4, rows)
        ways = [
            ("whole table", forcing(make, dense_rows=NEVER)),
            ("distinct rows", forcing(make, dense_rows=0)),
        ]
        yield Choice(
            "dense_rows",
            f"a table of {rows:,} x 16, 4 ids a row, {scale.batch // 4} rows, LazyAdam",
            tuple(ways if chosen else reversed(ways)),
            f"dense_rows={rows - 1 if chosen else rows}",
        )


def _most_looked_up(scale):
    """Whole models with few and many look-ups, by `model.fit`."""
    for num in scale.models:
        sizes = replace(scale.sizes, num_categorical=num)
        looked_up = num * sizes.dim
        most = thresholds.current().most_looked_up
        chosen = most is not None and looked_up <= most
        compiled, plain = (partial(fit_turn, sizes, jit) for jit in (True, False))
        ways = [("XLA", compiled), ("no XLA", plain)]
        yield Choice(
            "most_looked_up",
            f"a model of {num} columns x {sizes.dim}, {sizes.rows} rows of training",
            tuple(ways if chosen else reversed(ways)),
            f"most_looked_up={'null' if chosen else looked_up}",
        )


def _shape(*sizes):
    return " -> ".join(map(str, sizes))


def layer_turn(rows, features, num, units, chosen=None, training=True, jit=False):
    """A function that runs a layer of experts, forward and, in training, backward."""
    layer = tfmoe.Experts(num, units)
    layer.build((None, features))
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(rows, features)), tf.float32)
    chosen = None if chosen is None else tf.constant(chosen)
    variables = [weight.value for weight in layer.weights]

    @tf.function(jit_compile=jit, autograph=False)
    def step(x):
        if not training:
            return layer(x, chosen=chosen, training=False)
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, chosen=chosen, training=True)
            loss = ops.sum(outputs * outputs)
        return tape.gradient(loss, [x, *variables])

    return lambda: step(x)[0].numpy()


def mixture_turn(rows, features, num, units, way):
    """A function that runs a mixture whose gate takes two experts, forward and backward."""
    mixture = tfmoe.MMoE(1, num, units, tfmoe.TopKGate(num_nonzeros=2), dispatch=way)
    mixture.build((None, features))
    x = tf.constant(np.random.default_rng(0).normal(size=(rows, features)), tf.float32)
    variables = [weight.value for weight in mixture.trainable_weights]

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = mixture(x, training=True)
            loss = ops.sum(outputs * outputs)
        return tape.gradient(loss, [x, *variables])

    return lambda: step(x)[0].numpy()


def table_turn(rows, table_rows):
    """A function that takes a training step of a model that is little but a table."""
    table = tfmoe.Embedding(table_rows, 16)
    ids = keras.Input((4,), dtype="int32")
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(table(ids)))
    model = keras.Model(ids, outputs)
    optimizer = tfmoe.optimizers.LazyAdam()
    optimizer.build(model.trainable_variables)
    random = np.random.default_rng(0)
    batch = tf.constant(random.integers(table_rows, size=(rows, 4)), tf.int32)

    @tf.function(autograph=False)
    def step(ids):
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(model(ids, training=True) - 1.0))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return lambda: step(batch).numpy()


def fit_turn(sizes, jit):
    """A function that trains a model on a few batches."""
    model = tfmoe_model(sizes)
    model.compile("adam", jit_compile=jit)
    return keras_turn(model, sizes)
