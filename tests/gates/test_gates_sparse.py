"""Gates that are sparse without a top k: Gumbel-softmax, sparsemax, entmax, ReLU."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tests.oracles import reference
from tfmoe.compute.math import mix
from tfmoe.gates.base import Gate

FEATURES, TASKS = 4, 3
COUNTS = [2, 3, 8, 17]
schedules = keras.optimizers.schedules


def matrix(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def make_gate(kind, *counts, **options):
    """A gate of some kind: the Gumbel gate chooses two, or is soft."""
    if kind == "gumbel":
        return tfmoe.GumbelGate(*counts, num_nonzeros=2, temperature=0.5, seed=1, **options)
    if kind == "soft":
        return tfmoe.GumbelGate(*counts, num_nonzeros=None, temperature=0.5, seed=1, **options)
    kinds = {"sparsemax": tfmoe.SparsemaxGate, "entmax": tfmoe.EntmaxGate, "relu": tfmoe.ReLUGate}
    return kinds[kind](*counts, **options)


def expected_row(kind, scores):
    """Of scores `(e,)`, by the oracle, outside training."""
    scores = scores.astype("float64")
    return {
        "gumbel": lambda: reference.top_k_gate(scores / 0.5, 2),
        "soft": lambda: reference.softmax(scores / 0.5),
        "sparsemax": lambda: reference.entmax(scores, 2),
        "entmax": lambda: reference.entmax(scores, 1.5),
        "relu": lambda: reference.relu(scores),
    }[kind]()


KINDS = ["gumbel", "soft", "sparsemax", "entmax", "relu"]
SMOOTH = KINDS[1:]  # whose weights are, almost everywhere, differentiable
each_kind = pytest.mark.parametrize("kind", KINDS)


def static_gate(gate, scores):
    """The gate, built with these scores `(t * e)`."""
    gate.build((None, FEATURES))
    gate.head.scores.assign(np.reshape(scores, (1, -1)))
    return gate


def router_of(name, dtype="float32"):
    return tfmoe.MLPRouter((6,), activation="tanh", dtype=dtype) if name == "mlp" else name


def scores_by_hand(gate, x, num_experts):
    if gate.router == "static":
        scores = gate.head.scores.numpy()
    else:
        if isinstance(gate.router, tfmoe.MLPRouter):
            layers = [(layer.kernel.numpy(), layer.bias.numpy()) for layer in gate.router.layers]
            x = np.array([reference.network(row, layers, np.tanh) for row in x])
        scores = x @ gate.head.kernel.numpy()
        if gate.head.bias is not None:
            scores = scores + gate.head.bias.numpy()
    return scores.reshape(-1, TASKS, num_experts)


@each_kind
@pytest.mark.parametrize("num_experts", COUNTS)
@pytest.mark.parametrize("router", ["linear", "static", "mlp"])
def test_gate_matches_reference(kind, num_experts, router):
    gate = make_gate(kind, TASKS, num_experts, router=router_of(router))
    gate.build((None, FEATURES))
    for seed, weight in enumerate(gate.trainable_weights):
        weight.assign(matrix(*weight.shape, seed=seed))
    x = matrix(5, FEATURES)
    weights, record = gate(x, return_aux=True)
    scores = scores_by_hand(gate, x, num_experts)
    expected = np.array([[expected_row(kind, row) for row in example] for example in scores])
    np.testing.assert_allclose(weights, expected, atol=2e-6)
    np.testing.assert_allclose(gate.logits(record.scores), scores, atol=1e-5)
    full = expected_row("soft", scores[0, 0]) if kind == "gumbel" else expected[0, 0]
    np.testing.assert_allclose(record.probabilities[0, 0], full, atol=2e-6)


@pytest.mark.parametrize("kind", ["sparsemax", "entmax"])
@given(
    values=st.lists(st.integers(-40, 40), min_size=2, max_size=40),
    offset=st.sampled_from([0.0, 1e4, -1e5]),
    spread=st.sampled_from([0.0, 0.125, 8.0]),
)
def test_ties_and_large_scores_lose_no_digits(kind, values, offset, spread):
    # Eighths are exact in single precision up to 1e5, so both see the same scores.
    scores = offset + spread * np.array(values, "float32")
    gate = static_gate(make_gate(kind, 1, len(values), router="static"), scores)
    weights = gate(matrix(1, FEATURES)).numpy()[0, 0]
    expected = expected_row(kind, scores)
    np.testing.assert_allclose(weights, expected, atol=2e-6)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    for value in set(values):
        assert len(set(weights[np.array(values) == value])) == 1, "A tie got two weights."


@pytest.mark.parametrize("kind", ["sparsemax", "entmax"])
@pytest.mark.parametrize("num_experts", [2, 64, 1000])
@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 1e30])
def test_the_edge_of_the_support_is_safe(kind, num_experts, distance):
    # At a distance of 1 (sparsemax) and 2 (entmax) all the others are just out.
    scores = np.full(num_experts, -distance, "float32")
    scores[num_experts // 2] = 0
    gate = static_gate(make_gate(kind, 1, num_experts, router="static"), scores)
    with tf.GradientTape() as tape:
        weights = gate(matrix(1, FEATURES))[0, 0]
        loss = ops.sum(weights * matrix(num_experts))
    np.testing.assert_allclose(weights, expected_row(kind, scores), atol=1e-5)
    gradient = tape.gradient(loss, gate.head.scores.value).numpy()
    assert np.isfinite(gradient).all()
    assert abs(gradient.sum()) < 1e-3, "A common shift of the scores changes the weights."


@pytest.mark.quick(2)
@each_kind
@given(
    num_experts=st.integers(2, 17),
    router=st.sampled_from(["linear", "static", "mlp"]),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 1e3]),
    policy=st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16"]),
    seed=st.integers(0, 1000),
)
def test_rows_are_weights_and_gradients_finite(kind, num_experts, router, scale, policy, seed):
    keras.utils.set_random_seed(seed)
    gate = make_gate(kind, 2, num_experts, router=router_of(router), dtype=policy)
    x = tf.constant(matrix(3, FEATURES, scale=scale, seed=seed))
    gate.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        weights, record = gate(x, training=True, return_aux=True)
        loss = ops.sum(record.weights * np.arange(num_experts, dtype="float32"))
        loss = loss + sum(gate.losses)
    rows = record.weights.numpy()
    assert (rows >= 0).all()
    if kind != "relu":
        np.testing.assert_allclose(rows.sum(axis=-1), 1, atol=1e-5)
    if kind == "gumbel":
        assert gate.always_sparse
        assert (np.count_nonzero(rows, axis=-1) <= gate.num_nonzeros).all()
    assert np.isfinite(ops.convert_to_numpy(ops.cast(weights, "float32"))).all()
    watched = [x, *(w.value for w in gate.trainable_weights)]
    for gradient in tape.gradient(loss, watched):
        assert gradient is None or np.isfinite(gradient.numpy()).all()


@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("router", ["linear", "static", "mlp"])
@pytest.mark.parametrize("num_experts", [2, 5, 16])
def test_gradients_match_finite_differences(kind, router, num_experts):
    router = router_of(router, dtype="float64")
    gate = make_gate(kind, 2, num_experts, router=router, dtype="float64")
    gate.build((None, FEATURES))
    weights = gate.trainable_weights
    rng = np.random.default_rng(3)
    # Small, or a single expert has all the weight of its row, and a slope of 0.
    values = [rng.normal(scale=0.3, size=w.shape) for w in weights]
    along = [rng.normal(size=w.shape) for w in weights]
    x, towards = rng.normal(size=(5, FEATURES)), rng.normal(size=(5, 2, num_experts))

    def loss(step=0.0):
        for weight, value, direction in zip(weights, values, along, strict=True):
            weight.assign(value + step * direction)
        return ops.sum(gate(x) * towards)

    with tf.GradientTape() as tape:
        total = loss()
    gradients = tape.gradient(total, [w.value for w in weights])
    slope = sum(np.sum(g.numpy() * d) for g, d in zip(gradients, along, strict=True))
    expected = (float(loss(1e-6)) - float(loss(-1e-6))) / 2e-6
    assert abs(expected) > 1e-3
    assert slope == pytest.approx(expected, rel=1e-5)


def compiled(gate, x, jit):
    """Weights, sum of losses, and gradients, of one training call."""

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            weights = gate(x, training=True)
            losses = sum(gate.losses) if gate.losses else tf.constant(0.0)
            loss = ops.sum(weights * matrix(*weights.shape)) + losses
        return weights, losses, tape.gradient(loss, [w.value for w in gate.trainable_weights])

    return tf.nest.flatten(step())


@pytest.mark.parametrize("kind", ["sparsemax", "entmax", "relu"])
def test_compiled_numbers_are_the_same(kind):
    gate = make_gate(kind, TASKS, 8)
    x = tf.constant(matrix(6, FEATURES))
    gate.build(x.shape)
    for plain, jit in zip(compiled(gate, x, False), compiled(gate, x, True), strict=True):
        np.testing.assert_allclose(jit, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_a_gumbel_choice_learns_as_the_soft_gate_does(k, jit):
    soft, hard = (
        tfmoe.GumbelGate(TASKS, 8, num_nonzeros, temperature=0.7, seed=5)
        for num_nonzeros in (None, k)
    )
    x = tf.constant(matrix(6, FEATURES))
    for gate in (soft, hard):
        gate.build(x.shape)
        gate.head.kernel.assign(matrix(*gate.head.kernel.shape))
    smooth, _, slope = compiled(soft, x, jit)
    weights, _, straight = compiled(hard, x, jit)
    np.testing.assert_allclose(straight, slope, rtol=1e-5, atol=1e-6)
    # What is cut is exactly 0; what is left are the soft weights, scaled up.
    smooth, weights = smooth.numpy(), weights.numpy()
    assert (np.count_nonzero(weights, axis=-1) == k).all()
    kept = np.sort(smooth, axis=-1)[..., -k, None] <= smooth
    expected = np.where(kept, smooth, 0) / np.where(kept, smooth, 0).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    if k == 1:
        assert set(np.unique(weights)) == {0.0, 1.0}


def test_gumbel_draws_follow_the_scores_whatever_the_temperature():
    scores = np.array([1.0, 0.0, -1.0, 0.5])
    gate = tfmoe.GumbelGate(1, 4, num_nonzeros=2, temperature=0.1, seed=3)
    gate.build((None, 1))
    gate.head.kernel.assign([scores])
    chosen = gate(np.ones((20_000, 1)), training=True).numpy()[:, 0]
    # The first drawn is the larger weight; the second is drawn from the rest.
    p = reference.softmax(scores)
    firsts = np.bincount(chosen.argmax(axis=-1), minlength=4) / len(chosen)
    np.testing.assert_allclose(firsts, p, atol=0.02)
    pair = np.mean((chosen[:, 0] > 0) & (chosen[:, 3] > 0))
    assert pair == pytest.approx(p[0] * p[3] / (1 - p[0]) + p[3] * p[0] / (1 - p[3]), abs=0.02)


def test_gumbel_noise_is_in_training_only_and_repeats_under_a_seed():
    x = matrix(6, FEATURES)

    def outputs(seed):
        gate = tfmoe.GumbelGate(1, 8, num_nonzeros=None, kernel_initializer="zeros", seed=seed)
        return [gate(x).numpy(), *(gate(x, training=True).numpy() for _ in range(2)), gate(x)]

    before, first, second, after = outputs(5)
    np.testing.assert_allclose(before, np.full((6, 1, 8), 0.125), rtol=1e-6)
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(outputs(5)[1], first, rtol=1e-5, atol=1e-6)
    assert np.abs(outputs(6)[1] - first).max() > 1e-3


def test_temperature_follows_its_schedule_through_training_calls():
    cooling = schedules.PolynomialDecay(4.0, 2, end_learning_rate=0.0)
    gate = tfmoe.GumbelGate(1, 3, num_nonzeros=None, temperature=cooling, router="static")
    scores = np.array([0.3, 0.2, -1.0])
    static_gate(gate, scores)
    x = matrix(2, FEATURES)
    for temperature in (4.0, 2.0, 1e-6, 1e-6):
        expected = reference.softmax(scores / temperature)
        for _ in range(2):  # inference does not move it
            np.testing.assert_allclose(gate(x)[0, 0], expected, atol=1e-6)
        assert np.isfinite(gate(x, training=True)).all()


@pytest.mark.parametrize("router", ["linear", "static"])
def test_relu_loss_and_coefficients_match_reference(router):
    gate = tfmoe.ReLUGate(TASKS, 5, num_nonzeros=2, max_coefficient=10.0, router=router)
    gate.build((None, FEATURES))
    np.testing.assert_allclose(gate.coefficient, [1e-8] * TASKS)
    # A task too dense, one too sparse, and one that is right where the router is static.
    signs = np.array([[1, 1, 1, 1, 1], [-1, -1, -1, 1, -1], [1, 1, -1, -1, -1]])
    weight = gate.trainable_weights[0]
    values = np.abs(matrix(weight.shape[0], TASKS, 5)) * signs
    weight.assign(np.reshape(values, weight.shape))
    x = np.abs(matrix(4, FEATURES)) * np.array([[1], [1], [1], [0]], "float32")
    coefficients = np.array([0.5, 2.0, 3.0])
    gate.coefficient.assign(coefficients)
    for _ in range(3):
        weights = gate(x, training=True).numpy()
        expected = reference.relu_gate_loss(weights, 2, coefficients)
        assert float(sum(gate.losses)) == pytest.approx(expected, rel=1e-5)
        coefficients = reference.relu_gate_coefficients(weights, 2, coefficients)
        np.testing.assert_allclose(gate.coefficient, coefficients, rtol=1e-5)
        gate(x)
        assert gate.losses == []
        np.testing.assert_allclose(gate.coefficient, coefficients, rtol=1e-5)


@pytest.mark.parametrize(("sign", "limit"), [(1, 0.5), (-1, 1e-8)])
def test_relu_coefficient_has_limits(sign, limit):
    gate = tfmoe.ReLUGate(1, 4, max_coefficient=0.5, router="static")
    static_gate(gate, [sign] * 4)
    gate.coefficient.assign([limit])
    gate(matrix(1, FEATURES), training=True)
    np.testing.assert_allclose(gate.coefficient, [limit])


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "mixed_bfloat16"])
def test_relu_coefficient_leaves_its_start_in_half_precision(policy):
    gate = tfmoe.ReLUGate(1, 4, router="static", dtype=policy)
    gate(matrix(1, FEATURES), training=True)
    np.testing.assert_allclose(gate.coefficient, [1.2e-8], rtol=1e-5)


def trained(gate, steps, **options):
    """A small mixture with this gate, after so many steps on one batch."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((FEATURES,))
    experts = keras.layers.Reshape((8, 4))(keras.layers.Dense(32, "tanh")(inputs))
    model = keras.Model(inputs, mix(experts, gate(inputs)))
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    x = matrix(128, FEATURES)
    y = np.tanh(x @ matrix(FEATURES, 8, seed=1)).reshape(128, 2, 4)
    repeated = np.tile(x, (steps, 1)), np.tile(y, (steps, 1, 1))
    model.fit(*repeated, batch_size=128, shuffle=False, verbose=0)
    return model, x


def gate_of(model):
    return next(layer for layer in model.layers if isinstance(layer, Gate))


@pytest.mark.quick(1)
@pytest.mark.parametrize(("router", "most"), [("linear", 0.1), ("static", 0.01)])
def test_relu_gate_comes_to_its_target(router, most):
    def active(steps):
        gate = tfmoe.ReLUGate(2, 8, num_nonzeros=2, max_coefficient=most, router=router)
        _, x = trained(gate, steps)
        return np.count_nonzero(gate(x), axis=-1).mean(axis=0)

    assert (active(1) > 3).all()
    np.testing.assert_allclose(active(300), 2, atol=1)


@pytest.mark.quick(1)
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda: tfmoe.ReLUGate(2, 8, num_nonzeros=2), "coefficient"),
        (
            lambda: tfmoe.GumbelGate(
                2, 8, num_nonzeros=None, temperature=schedules.ExponentialDecay(2.0, 1, 0.5)
            ),
            "steps",
        ),
    ],
)
def test_state_of_training_is_saved(make, state, jit, tmp_path):
    model, x = trained(make(), 3, jit_compile=jit)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    values = [getattr(gate_of(one), state).numpy() for one in (model, reloaded)]
    expected = 3 if state == "steps" else 1e-8 * 1.2**3
    np.testing.assert_allclose(values[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(values[1], values[0])
    np.testing.assert_allclose(reloaded(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.GumbelGate(temperature=0.0), "above 0.*Received temperature=0.0"),
        (lambda: tfmoe.GumbelGate(temperature="cold"), "schedules.*Received temperature='cold'"),
        (lambda: tfmoe.GumbelGate(num_nonzeros=0), "at least 1. Received num_nonzeros=0"),
        (lambda: tfmoe.ReLUGate(num_nonzeros=0), "at least 1. Received num_nonzeros=0"),
        (lambda: tfmoe.ReLUGate(max_coefficient=0), "at least.*Received max_coefficient=0."),
        (lambda: tfmoe.ReLUGate(num_nonzeros=None), "integer.*Received num_nonzeros=None"),
        (lambda: tfmoe.SparsemaxGate(0), "SparsemaxGate needs `num_tasks`.*num_tasks=0"),
        (lambda: tfmoe.EntmaxGate(2, 1), "EntmaxGate needs `num_experts`.*num_experts=1"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_gumbel_gate_learns_from_experts_without_weight_in_training_alone():
    """At inference they may not have been computed."""
    gate = tfmoe.GumbelGate(1, 4, num_nonzeros=1, seed=0)
    inputs = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    values = tf.constant([1.0, -2.0, 3.0, 0.5])
    for training in (True, False):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(gate(inputs, training=training) * values)
        gradient = tape.gradient(loss, gate.head.kernel.value)
        learns = gradient is not None and float(tf.reduce_max(tf.abs(gradient))) > 0
        assert learns == training
