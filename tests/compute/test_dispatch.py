"""Sparse compute gives what dense compute gives, drops nothing, and is used where it pays."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.oracles import reference
from tfmoe.compute import dispatch, thresholds

FEATURES, UNITS = 3, (4, 2)


def pick(rows, k, num_experts, skew=0.0, absent=0.0, seed=0):
    """Experts of each row, each at most once; `num_experts` for the share `absent`."""
    rng = np.random.default_rng(seed)
    scores = -skew * np.log(1 + np.arange(num_experts)) + rng.gumbel(size=(rows, num_experts))
    chosen = np.argsort(-scores, axis=1)[:, :k].astype("int32")
    chosen[rng.random(chosen.shape) < absent] = num_experts
    return chosen


def matrix(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def shaken(num_experts, **options):
    layer = tfmoe.Experts(num_experts, UNITS, **options)
    layer.build((None, FEATURES))
    shake(layer)
    return layer


@given(
    rows=st.integers(1, 40),
    num_experts=st.integers(1, 9),
    k=st.integers(1, 4),
    skew=st.sampled_from([0.0, 1.0, 50.0]),
    absent=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_pair_has_a_slot_of_its_expert(rows, num_experts, k, skew, absent, seed):
    chosen = pick(rows, min(k, num_experts), num_experts, skew, absent, seed)
    plan = dispatch.plan(ops.convert_to_tensor(chosen), num_experts)
    slots, pairs, live = (np.array(part) for part in (plan.slots, plan.pairs, plan.live))
    owners = [
        *np.repeat(np.arange(num_experts), int(plan.span)),
        *np.repeat(np.array(plan.experts), int(plan.block)),
    ]
    present = chosen < num_experts
    assert live.sum() == present.sum(), "Pairs were dropped."
    assert len(set(slots[present])) == present.sum(), "Pairs share a slot."
    assert live[slots[present]].all()
    np.testing.assert_array_equal(np.array(owners)[slots[present]], chosen[present])
    np.testing.assert_array_equal(pairs[slots[present]], np.flatnonzero(present))


@given(
    rows=st.integers(1, 200),
    num_experts=st.integers(1, 9),
    k=st.integers(1, 4),
    skew=st.sampled_from([0.0, 1.0, 50.0]),
    seed=st.integers(0, 99),
)
def test_chosen_experts_match_reference(rows, num_experts, k, skew, seed):
    chosen = pick(rows, min(k, num_experts), num_experts, skew, seed=seed)
    layer, x = shaken(num_experts, layer_norm=True), matrix(rows, FEATURES)
    every = reference.experts(x, networks(layer))
    expected = [[every[b, e] for e in row] for b, row in enumerate(chosen)]
    np.testing.assert_allclose(layer(x, chosen=chosen), expected, atol=1e-5)


CASES = [
    pick(1, 1, 2),
    pick(3, 2, 8, skew=50),
    pick(37, 2, 5, skew=1, absent=0.3),
    pick(40, 2, 5, absent=1.0),
    pick(600, 2, 4, skew=1),  # blocks of 64
    pick(1200, 2, 8, skew=50),  # and of 128
    pick(300, 2, 64, skew=1, absent=0.3),
]


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("jit", "loops"),
    [(False, False), (True, True), (True, False)],
    ids=["graph", "xla-loop", "xla-batched"],
)
@pytest.mark.parametrize("chosen", CASES, ids=lambda c: "x".join(map(str, c.shape)))
def test_values_and_gradients_match_dense(chosen, jit, loops, monkeypatch):
    # The batched form is the one for accelerators.
    monkeypatch.setattr(dispatch, "_loops", lambda: loops)
    rows, k = chosen.shape
    num_experts = int(max(2, chosen.max()))
    layer = shaken(num_experts, layer_norm=True)
    coefficients = matrix(rows, k, UNITS[-1]) * (chosen < num_experts)[..., None]
    variables = [w.value for w in layer.weights]

    @tf.function(
        jit_compile=jit,
        input_signature=[tf.TensorSpec((None, FEATURES)), tf.TensorSpec((None, k), tf.int32)],
        autograph=False,
    )
    def sparse(x, chosen):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, chosen=chosen) * coefficients
        return [outputs, *tape.gradient(outputs, [x, *variables])]

    x = tf.constant(matrix(rows, FEATURES))
    with tf.GradientTape() as tape:
        tape.watch(x)
        own = np.minimum(chosen, num_experts - 1)[..., None]
        outputs = ops.take_along_axis(layer(x), own, axis=1) * coefficients
    dense = [outputs, *tape.gradient(outputs, [x, *variables])]
    for got, expected in zip(sparse(x, chosen), dense, strict=True):
        scale = 3e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(got, tf.convert_to_tensor(expected), atol=scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"spans": (0,), "blocks": (3, 5, 7)},
        {"spans": (24,), "block_cost": 0},
        {"block_cost": 10**6},
        {"block_pairs": (0, 0), "spans_xla": (4, 4), "blocks_xla": (2, 3)},
    ],
    ids=lambda setting: ",".join(setting),
)
@pytest.mark.parametrize("jit", [False, True])
def test_however_slots_are_cut_numbers_are_the_same(setting, jit):
    chosen, x = tf.constant(pick(300, 2, 6, skew=1, absent=0.1)), tf.constant(matrix(300, FEATURES))
    layer, found = shaken(6), []
    for changes in ({}, setting):

        @tf.function(jit_compile=jit, autograph=False)
        def run(x, chosen):
            with tf.GradientTape() as tape:
                outputs = layer(x, chosen=chosen) * tf.cast(chosen < 6, "float32")[..., None]
            return outputs, *tape.gradient(outputs, [w.value for w in layer.weights])

        with thresholds.use(**changes):
            found.append(run(x, chosen))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_slots_are_filled_anew_and_see_their_experts_weights():
    chosen = pick(20, 2, 5, absent=0.2)
    x, kernel, bias = matrix(20, 3), matrix(5, 3, 4), matrix(5, 4, seed=1)
    values, scale = matrix(20, 2, 4, seed=2), matrix(5, 4, seed=3)
    slots = dispatch.Slots.of(ops.convert_to_tensor(x), ops.convert_to_tensor(chosen), 5)
    products = slots.matmul(kernel).add(bias).gather()
    scaled = slots.refill(ops.convert_to_tensor(values)).map(lambda v, s: v * s, scale).gather()
    for b, k in zip(*np.nonzero(chosen < 5), strict=True):
        e = chosen[b, k]
        np.testing.assert_allclose(products[b, k], x[b] @ kernel[e] + bias[e], atol=1e-5)
        np.testing.assert_allclose(scaled[b, k], values[b, k] * scale[e], atol=1e-6)
    assert np.isfinite(products).all()


def test_experts_chosen_for_all_rows():
    layer, x = shaken(5), matrix(4, FEATURES)
    chosen = np.array([3, 0], "int32")
    np.testing.assert_allclose(layer(x, chosen=chosen), np.array(layer(x))[:, chosen], atol=1e-6)


def test_dropout_is_applied_to_chosen_experts():
    layer, x = shaken(5, dropout=0.5), matrix(64, FEATURES)
    outputs = np.array(layer(x, chosen=pick(64, 2, 5), training=True))
    assert 0.6 < np.mean(outputs == 0) < 0.9  # relu leaves half of them


def gates():
    return {
        "top_k": tfmoe.TopKGate(),
        "top_k_static": tfmoe.TopKGate(router="static"),
        "dselect_k_decided": tfmoe.DSelectKGate(gamma=0.02),
        "dselect_k_static": tfmoe.DSelectKGate(gamma=0.02, router="static"),
        "dselect_k_open": tfmoe.DSelectKGate(gamma=9.0),
        "entmax": tfmoe.EntmaxGate(),
        "sparsemax": tfmoe.SparsemaxGate(router="static"),
        "gumbel": tfmoe.GumbelGate(seed=1),
        "comet": tfmoe.CometGate(gamma=0.02),
    }


def pair(gate, kind=tfmoe.MMoE, num_experts=16, **options):
    """The same mixture, dense and sparse."""
    mixtures = []
    for mode in ("dense", "sparse"):
        mixture = kind(3, num_experts, UNITS, gate, "tanh", dispatch=mode, **options)
        mixture.build((None, FEATURES))
        for seed, weight in enumerate(mixture.trainable_weights):
            weight.assign(2 * matrix(*weight.shape, seed=seed))
        mixtures.append(mixture)
    return mixtures


@pytest.mark.quick(6)
@pytest.mark.parametrize("kind", [tfmoe.MMoE, tfmoe.OMoE])
@pytest.mark.parametrize("gate", gates())
def test_a_sparse_mixture_is_the_dense_one(gate, kind):
    x = tf.constant(matrix(50, FEATURES))
    results = []
    for mixture in pair(gates()[gate], kind):
        for training in (False, True):
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = mixture(x, training=training)
                loss = ops.sum(outputs * matrix(3, UNITS[-1], seed=5))
            weights = [w.value for w in mixture.trainable_weights]
            gradients = tape.gradient(loss, [x, *weights], unconnected_gradients="zero")
            # What is left out at inference may have a gradient there.
            gradients = gradients if training else []
            results.append([outputs, *map(tf.convert_to_tensor, gradients)])
    dense, sparse = results[:2], results[2:]
    for ours, expected in zip(sparse, dense, strict=True):
        for got, want in zip(ours, expected, strict=True):
            np.testing.assert_allclose(got, want, atol=2e-5 * max(1, np.abs(want).max()))


def spied(mixture, x, training=False):
    """What the mixture's experts were asked for: a list of `chosen`."""
    asked, call = [], mixture.experts.call

    def call_and_note(inputs, chosen=None, training=False):
        asked.append(None if chosen is None else tuple(chosen.shape))
        return call(inputs, chosen, training)

    mixture.experts.call = call_and_note
    mixture(x, training=training)
    return asked


@pytest.mark.parametrize(
    ("gate", "num_experts", "training", "asked"),
    [
        (tfmoe.TopKGate(), 24, False, [(50, 6)]),
        (tfmoe.TopKGate(), 23, False, [None]),  # 3 tasks of 2 experts: too many of 23
        (tfmoe.TopKGate(router="static"), 24, True, [(6,)]),
        (tfmoe.SoftmaxGate(), 64, False, [None]),
        (tfmoe.DSelectKGate(gamma=1e-4), 24, True, [(50, 6)]),  # all rows have decided
        (tfmoe.DSelectKGate(gamma=9.0), 24, True, [None]),  # not all have
        (tfmoe.DSelectKGate(gamma=1e-4), 23, True, [None]),
        (tfmoe.GumbelGate(), 16, False, [(50, 3)]),
        (tfmoe.GumbelGate(), 16, True, [None]),  # what is not chosen gets a gradient too
    ],
)
def test_auto_is_sparse_where_it_pays(gate, num_experts, training, asked):
    mixture = tfmoe.MMoE(3, num_experts, UNITS, gate)
    mixture.build((None, FEATURES))
    mixture.gate.head.weights[0].assign(2 * matrix(*mixture.gate.head.weights[0].shape))
    assert spied(mixture, matrix(50, FEATURES), training) == asked


def test_large_experts_pay_sooner():
    large, small = 128 * 256 + 256 * 128, 128 * 32 + 32 * 16
    assert dispatch.pays(2, 4, large, certain=True)
    assert not dispatch.pays(2, 4, small, certain=True)
    assert dispatch.pays(2, 8, small, certain=True)
    assert not dispatch.pays(2, 7, large, certain=False)
    with thresholds.use(large_expert=0, break_even=3):
        assert dispatch.pays(2, 6, small, certain=True)
        assert not dispatch.pays(2, 5, large, certain=True)


def test_no_row_depends_on_its_batch_mates():
    _, mixture = pair(tfmoe.TopKGate())
    x = matrix(300, FEATURES)
    # All rows but one choose alike: a capacity would overflow.
    x[1:] = x[1]
    whole = np.array(mixture(x))
    for row in (0, 1, 299):
        np.testing.assert_allclose(mixture(x[row : row + 1])[0], whole[row], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_training_is_the_same_sparse_and_dense(jit):
    x, y = matrix(96, FEATURES), matrix(96, 3, UNITS[-1], seed=1)
    losses = []
    for mixture in pair(tfmoe.TopKGate(), num_experts=7):
        symbol = keras.Input((FEATURES,))
        model = keras.Model(symbol, mixture(symbol))
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
        losses.append(model.fit(x, y, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_sparse_needs_a_gate_that_selects():
    with pytest.raises(ValueError, match=r"if the gate selects.*Received dispatch='sparse'"):
        tfmoe.MMoE(2, 4, gate=tfmoe.SoftmaxGate(), dispatch="sparse")
    with pytest.raises(ValueError, match=r'"auto", "dense" or "sparse". Received dispatch=True'):
        tfmoe.MMoE(2, 4, dispatch=True)


def test_a_batch_without_rows():
    mixture = tfmoe.MMoE(2, 16, (6, 4), tfmoe.TopKGate(), dispatch="sparse")
    mixture.build((None, 5))

    @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32)])
    def run(x):
        with tf.GradientTape() as tape:
            outputs = mixture(x, training=True)
        return outputs, tape.gradient(outputs, mixture.experts.kernels[0].value)

    outputs, gradient = run(np.zeros((0, 5), "float32"))
    assert outputs.shape == (0, 2, 4)
    np.testing.assert_array_equal(gradient, np.zeros((16, 5, 6)))
    assert np.any(run(np.ones((3, 5), "float32"))[1])
    assert mixture(np.zeros((0, 5), "float32")).shape == (0, 2, 4)


@pytest.mark.slow
def test_towers_and_routers_of_no_rows():
    gate = tfmoe.SoftmaxGate(40, 3)
    towers = tfmoe.Towers((1,) * 40, hidden_units=(4,))

    @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32)])
    def run(x):
        task = tf.zeros(tf.shape(x)[:1], tf.int32)
        return gate(x, task=task), towers(x[:, None], task=task)

    weights, outputs = run(np.zeros((0, 5), "float32"))
    assert weights.shape[0] == outputs.shape[0] == 0
    assert run(np.zeros((2, 5), "float32"))[0].shape == (2, 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("num_rows", "num_experts"), [(0, 5), (0, 1), (28, 1)])
def test_xla_compiles_where_no_block_is_filled(num_rows, num_experts):
    cut = {"expert_ids": [1], "num_choices": 2} if num_experts == 1 else {}
    gate = tfmoe.TopKGate(num_nonzeros=1, **cut)
    mixture = tfmoe.MMoE(1, num_experts, hidden_units=(4,), dispatch="sparse", gate=gate)
    inputs = matrix(num_rows, FEATURES)
    expected = mixture(inputs)
    found = tf.function(mixture, jit_compile=True)(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
