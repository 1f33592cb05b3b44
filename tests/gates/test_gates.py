import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tests.oracles import reference
from tfmoe.compute.math import expert_codes, smooth_step
from tfmoe.gates.base import Gate
from tfmoe.gates.rows import Rows

FEATURES, TASKS = 4, 3


def inputs(rows=5, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(rows, FEATURES))).astype("float32")


def parts(scores, sizes, num_tasks=TASKS):
    """The last axis as one array a task and run of scores: `[t][part] (..., size)`."""
    blocks = np.split(scores, num_tasks, axis=-1)
    return [np.split(block, np.cumsum(sizes)[:-1], axis=-1) for block in blocks]


def set_randomly(gate, scale, seed=0):
    """Gives the gate's weights other values than those it starts with; returns them."""
    rng = np.random.default_rng(seed)
    for weight in gate.weights:
        weight.assign(rng.normal(scale=scale, size=weight.shape))
    return [weight.numpy() for weight in gate.weights]


@pytest.mark.parametrize("num_experts", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softmax_gate_matches_reference(num_experts, temperature):
    gate = tfmoe.SoftmaxGate(TASKS, num_experts, temperature)
    weights = gate(inputs())
    matrices = np.split(gate.head.kernel.numpy(), TASKS, axis=1)
    expected = reference.softmax_gate(inputs(), matrices, temperature)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_static_softmax_gate_matches_reference():
    gate = tfmoe.SoftmaxGate(TASKS, 4, temperature=0.5, router="static")
    weights = gate(inputs())
    scores = gate.head.scores.numpy().reshape(TASKS, 4)
    assert len(np.unique(scores)) == scores.size
    expected = [[reference.softmax(row / 0.5) for row in scores]]
    np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize(("num_experts", "k"), [(2, 1), (3, 2), (8, 2), (8, 4), (3, 5)])
@pytest.mark.parametrize("router", ["linear", "static"])
@pytest.mark.parametrize("renormalize", [None, True, False])
def test_top_k_gate_matches_reference(num_experts, k, router, renormalize):
    options = {"num_nonzeros": k, "router": router, "renormalize": renormalize}
    gate = tfmoe.TopKGate(TASKS, num_experts, **options)
    x = inputs() if router == "linear" else inputs(1)
    weights, record = gate(x, return_aux=True)
    scores = x @ gate.head.kernel.numpy() if router == "linear" else gate.head.scores.numpy()
    scores = scores.reshape(len(x), TASKS, num_experts)
    weigh = reference.top_k_of_all if renormalize is False else reference.top_k_gate
    expected = [[weigh(row, k) for row in example] for example in scores]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    full = [[reference.softmax(row) for row in example] for example in scores]
    np.testing.assert_allclose(record.probabilities, full, atol=1e-6)
    np.testing.assert_allclose(record.scores, scores, atol=1e-5)


def test_shares_of_all_teach_the_choice_of_one_expert():
    """And an extracted gate has the whole one's shares."""
    gate = tfmoe.TopKGate(TASKS, 5, num_nonzeros=1, renormalize=False)
    with tf.GradientTape() as tape:
        weights = gate(inputs())
        total = tf.reduce_sum(weights)
    gradient = tape.gradient(total, gate.head.kernel.value)
    assert np.all(np.any(gradient.numpy() != 0, axis=0))
    few = {"num_nonzeros": 1, "renormalize": False, "expert_ids": [3, 1], "num_choices": 5}
    part = tfmoe.TopKGate(TASKS, 2, **few)
    part.build((None, FEATURES))
    part.head.kernel.assign(gate.head.kernel)
    np.testing.assert_allclose(part(inputs()), weights.numpy()[..., [3, 1]], atol=1e-6)
    with pytest.raises(ValueError, match="Received renormalize='no'"):
        tfmoe.TopKGate(renormalize="no")


def test_top_k_keeps_a_chosen_score_of_zero_and_masks_exactly():
    gate = tfmoe.TopKGate(1, 4, num_nonzeros=2, router="static")
    gate.build((None, FEATURES))
    gate.head.scores.assign([[0.0, -3.0, 1.0, -2.0]])
    weights = gate(inputs(1)).numpy()[0, 0]
    np.testing.assert_allclose(weights[[0, 2]], reference.softmax(np.array([0.0, 1.0])), atol=1e-6)
    assert weights[1] == weights[3] == 0


def test_noise_is_in_training_only_and_repeats_under_a_seed():
    def outputs(seed):
        keras.utils.set_random_seed(0)
        gate = tfmoe.TopKGate(TASKS, 8, noisy=True, seed=seed)
        gate(inputs())
        quiet = [gate(inputs()).numpy() for _ in range(2)]
        noisy = [gate(inputs(), training=True).numpy() for _ in range(2)]
        return [*quiet, *noisy]

    quiet, again, first, second = outputs(seed=5)
    np.testing.assert_allclose(quiet, again, rtol=1e-5, atol=1e-6)
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - quiet).max() > 1e-3
    for ours, repeated in zip(outputs(seed=5), (quiet, again, first, second), strict=True):
        np.testing.assert_allclose(ours, repeated, rtol=1e-5, atol=1e-6)
    assert np.abs(outputs(seed=6)[2] - first).max() > 1e-3


def test_noise_has_the_learned_spread():
    tasks = 800  # each draws its own noise
    gate = tfmoe.TopKGate(tasks, 2, num_nonzeros=2, noisy=True, router="static", seed=1)
    gate.build((None, FEATURES))
    gate.head.scores.assign(np.tile([[1.0, 0.0, 2.0, -1.0]], tasks))
    weights = gate(inputs(1), training=True).numpy()[0].astype("float64")
    logits = np.log(weights[:, 0] / weights[:, 1])
    spread = [np.log1p(np.exp(2.0)), np.log1p(np.exp(-1.0))]
    assert abs(np.mean(logits) - 1.0) < 0.25
    assert abs(np.std(logits) / np.hypot(*spread) - 1) < 0.1


COUNTS = [2, 3, 5, 8, 9, 16, 31]


@pytest.mark.quick(40)
@pytest.mark.parametrize("num_experts", COUNTS)
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("reachability", ["fold", "penalty"])
def test_dselect_k_matches_reference(num_experts, k, gamma, reachability):
    options = {"num_nonzeros": k, "gamma": gamma, "reachability": reachability}
    fold = reachability == "fold"
    m = (num_experts - 1).bit_length()
    sizes = [k * m, k]

    static = tfmoe.DSelectKGate(TASKS, num_experts, router="static", **options)
    static.build((None, FEATURES))
    (scores,) = set_randomly(static, scale=0.3 * gamma)
    z = np.array([z.reshape(k, m) for z, _ in parts(scores[0], sizes)])
    alpha = [alpha for _, alpha in parts(scores[0], sizes)]
    expected = reference.dselect_k_static(z, alpha, num_experts, gamma, fold)
    np.testing.assert_allclose(static(inputs()), expected, atol=1e-6)

    routed = tfmoe.DSelectKGate(TASKS, num_experts, **options)
    routed.build((None, FEATURES))
    kernel, bias = (parts(w, sizes) for w in set_randomly(routed, scale=0.15 * gamma))
    dense = [[(kernel[t][part], bias[t][part]) for t in range(TASKS)] for part in range(len(sizes))]
    expected = reference.dselect_k_per_example(inputs(), *dense, num_experts, gamma, fold)
    np.testing.assert_allclose(routed(inputs()), expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("router", ["linear", "static"])
def test_dselect_k_starts_as_the_authors_layer(gamma, router):
    gate = tfmoe.DSelectKGate(TASKS, 8, 4, gamma, router=router)
    gate.build((None, 50))
    for weight in gate.weights:
        for bits, alphas in parts(weight.numpy(), [12, 4]):
            assert np.abs(bits).max() <= gamma / 100
            assert np.abs(alphas).max() <= 0.05
            if bits.size > 100:
                assert bits.std() == pytest.approx(gamma / 100 / np.sqrt(3), rel=0.15)
                assert alphas.std() == pytest.approx(0.05 / np.sqrt(3), rel=0.15)
        blocks = np.split(weight.numpy(), TASKS, axis=-1)
        assert not np.allclose(blocks[0], blocks[1])


def auxiliary_loss(gate, x):
    gate(x, training=True)
    return float(sum(gate.losses))


@pytest.mark.parametrize(("num_experts", "entropy"), [(8, 2.079), (16, 2.772)])
def test_entropy_at_the_start(num_experts, entropy):
    gate = tfmoe.DSelectKGate(1, num_experts, 4, entropy_reg=1.0, router="static")
    assert auxiliary_loss(gate, inputs()) / 4 == pytest.approx(entropy, abs=1.5e-3)
    np.testing.assert_allclose(ops.sum(gate(inputs()), axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("num_experts", "row_sum", "penalty"), [(5, 0.625, 6.41), (6, 0.75, 5.32), (9, 0.565, 7.09)]
)
def test_penalty_at_the_start(num_experts, row_sum, penalty):
    gate = tfmoe.DSelectKGate(1, num_experts, 4, router="static", reachability="penalty")
    assert auxiliary_loss(gate, inputs()) == pytest.approx(penalty, rel=0.015)
    assert float(ops.sum(gate(inputs()))) == pytest.approx(row_sum, abs=0.01)


def selectors_of(gate, x):
    """Selectors `(b, t, k, e)` by the oracle, of a gate of three selectors."""
    scores = gate(x, return_aux=True)[1].scores.numpy()
    k, e, m = gate.num_nonzeros, gate.num_experts, (gate.num_experts - 1).bit_length()
    z = scores[..., : k * m].reshape(len(scores), -1, m)
    fold = gate.reachability == "fold"
    r = [[reference.selector(row, e, gate.gamma, fold) for row in rows] for rows in z]
    return np.array(r).reshape(len(scores), TASKS, k, e)


@pytest.mark.parametrize("router", ["linear", "static"])
@pytest.mark.parametrize("reachability", ["fold", "penalty"])
def test_dselect_k_losses_match_reference(router, reachability):
    gate = tfmoe.DSelectKGate(
        TASKS, 6, 3, entropy_reg=0.1, router=router, reachability=reachability
    )
    gate.build((None, FEATURES))
    set_randomly(gate, scale=0.1)
    selectors = selectors_of(gate, inputs())
    expected = 0.1 * reference.entropy_loss(selectors)
    if reachability == "penalty":
        expected += reference.reachability_loss(selectors)
    assert auxiliary_loss(gate, inputs()) == pytest.approx(expected, rel=1e-5)
    gate(inputs())
    assert gate.losses == []
    # The same rows twice are a batch twice as large and no other loss.
    twice = np.concatenate([inputs(), inputs()])
    assert auxiliary_loss(gate, twice) == pytest.approx(expected, rel=1e-5)


def test_penalty_of_a_lost_selector_is_finite():
    gate = tfmoe.DSelectKGate(1, 5, 1, router="static", reachability="penalty")
    gate.build((None, FEATURES))
    gate.head.scores.assign([[9.0, 9.0, 9.0, 0.0]])  # 111 is nobody's code
    assert auxiliary_loss(gate, inputs()) == pytest.approx(1e6)
    assert not np.any(gate(inputs()))


@pytest.mark.parametrize(
    ("bits", "fold", "penalty"),
    [
        ((9, -9, 9), 1.0, 1.0),  # 101 is nobody's code: folded to 1, or lost
        ((0, -9, 9), 1.0, 0.0),  # 001 and 101 are both 1 with folding
        ((0, -9, -9), 0.0, 0.0),  # 000 and 100 are 0 and 4
        ((-9, 0.1, 9), 0.0, 0.0),
    ],
)
def test_a_selector_has_converged_once_it_names_one_expert(bits, fold, penalty):
    for reachability, expected in (("fold", fold), ("penalty", penalty)):
        options = {"router": "static", "reachability": reachability}
        gate = tfmoe.DSelectKGate(2, 5, 2, **options)
        gate.build((None, FEATURES))
        decided, alphas = (-9, -9, -9), (0.3, 0.1)
        gate.head.scores.assign([[*bits, *decided, *alphas, *decided, *decided, *alphas]])
        scores = gate(inputs(), return_aux=True)[1].scores
        assert gate.converged(scores).numpy().tolist() == [[(expected + 1) / 2, 1.0]]


@given(
    num_experts=st.integers(2, 20),
    k=st.integers(1, 4),
    router=st.sampled_from(["linear", "static"]),
    reachability=st.sampled_from(["fold", "penalty"]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 1000),
)
def test_a_converged_row_is_sparse_and_stands_still(
    num_experts, k, router, reachability, scale, seed
):
    options = {"router": router, "reachability": reachability}
    gate = tfmoe.DSelectKGate(2, num_experts, k, **options)
    gate.build((None, FEATURES))
    set_randomly(gate, scale, seed)
    bits = k * (num_experts - 1).bit_length()
    scores = tf.constant(gate(inputs(seed=seed), return_aux=True)[1].scores)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        _, weights = gate.select(scores, Rows(2), training=False)
        loss = ops.sum(weights * np.random.default_rng(1).normal(size=num_experts))
    moves = np.any(tape.gradient(loss, scores).numpy()[..., :bits] != 0, axis=-1)
    share = gate.converged(scores).numpy()
    assert share.shape == weights.shape[:2]
    done = share == 1
    assert not moves[done].any()
    assert (np.count_nonzero(weights.numpy()[done] > 1e-6, axis=-1) <= k).all()
    assert (np.round(share * k, 4) % 1 == 0).all()


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8), st.sampled_from([0.01, 1.0, 10.0]))
def test_smooth_step_matches_reference(values, gamma):
    expected = [reference.smooth_step(t, gamma) for t in values]
    got = smooth_step(np.array(values), gamma)
    np.testing.assert_allclose(got, expected, atol=1e-9)


@given(st.integers(2, 40), st.integers(0, 2**31))
def test_every_code_names_an_expert(num_experts, seed):
    bits = np.random.default_rng(seed).uniform(size=((num_experts - 1).bit_length(), 3))
    codes = expert_codes(ops.convert_to_tensor(bits), num_experts).numpy()
    np.testing.assert_allclose(codes.sum(axis=0), 1, atol=1e-12)
    # A code of certain bits names one expert, and every expert has one.
    m = bits.shape[0]
    certain = np.array([[code >> (m - 1 - j) & 1 for j in range(m)] for code in range(2**m)])
    named = expert_codes(ops.convert_to_tensor(certain.T.astype("float64")), num_experts).numpy()
    assert set(named.max(axis=0)) == {1.0}
    assert set(named.argmax(axis=0)) == set(range(num_experts))


def make_gate(kind, num_experts, k, router, **options):
    if kind is not tfmoe.SoftmaxGate:
        options["num_nonzeros"] = k
    return kind(2, num_experts, router=router, **options)


KINDS = [tfmoe.SoftmaxGate, tfmoe.TopKGate, tfmoe.DSelectKGate]
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.quick(2)
@each_kind
@given(
    num_experts=st.integers(2, 17),
    k=st.integers(1, 5),
    router=st.sampled_from(["linear", "static"]),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 1e4]),
    policy=st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16"]),
    seed=st.integers(0, 1000),
)
def test_rows_are_weights_and_gradients_finite(kind, num_experts, k, router, scale, policy, seed):
    keras.utils.set_random_seed(seed)
    options = {"dtype": policy}
    if kind is tfmoe.TopKGate:
        options["noisy"] = True
    if kind is tfmoe.DSelectKGate:
        options["entropy_reg"] = 0.5
    gate = make_gate(kind, num_experts, k, router, **options)
    x = tf.constant(inputs(3, scale, seed))
    gate.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        weights, record = gate(x, training=True, return_aux=True)
        loss = ops.sum(record.weights * np.arange(num_experts, dtype="float32"))
        loss = loss + sum(gate.losses)
    rows = record.weights.numpy()
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=-1), 1, atol=1e-5)
    if kind is tfmoe.TopKGate:
        assert (np.count_nonzero(rows, axis=-1) <= k).all()
    assert np.isfinite(ops.convert_to_numpy(ops.cast(weights, "float32"))).all()
    watched = [x, *(w.value for w in gate.trainable_weights)]
    for gradient in tape.gradient(loss, watched):
        assert gradient is None or np.isfinite(gradient.numpy()).all()


@given(
    num_experts=st.integers(2, 40),
    k=st.integers(1, 5),
    gamma=st.sampled_from([0.1, 1.0, 10.0]),
    router=st.sampled_from(["linear", "static"]),
    seed=st.integers(0, 1000),
)
def test_a_saturated_dselect_k_row_has_at_most_k_experts(num_experts, k, gamma, router, seed):
    gate = tfmoe.DSelectKGate(2, num_experts, k, gamma, router=router)
    gate.build((None, FEATURES))
    set_randomly(gate, scale=1e6, seed=seed)
    weights = gate(inputs(3, seed=seed)).numpy()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert (np.count_nonzero(weights, axis=-1) <= k).all()


@pytest.mark.parametrize("router", ["linear", "static"])
@pytest.mark.parametrize(("kind", "num_experts"), [*((kind, 5) for kind in KINDS), (KINDS[2], 8)])
def test_gradients_match_finite_differences(kind, num_experts, router):
    gate = make_gate(kind, num_experts, 2, router, dtype="float64")
    gate.build((None, FEATURES))
    values = set_randomly(gate, scale=0.2)
    x = inputs().astype("float64")
    towards = np.random.default_rng(1).normal(size=(len(x), 2, num_experts))
    along = [np.random.default_rng(2).normal(size=v.shape) for v in values]

    def loss(step=0.0):
        for weight, value, direction in zip(gate.weights, values, along, strict=True):
            weight.assign(value + step * direction)
        return ops.sum(gate(x) * towards)

    with tf.GradientTape() as tape:
        total = loss()
    gradients = tape.gradient(total, [w.value for w in gate.weights])
    slope = sum(np.sum(g.numpy() * d) for g, d in zip(gradients, along, strict=True))
    step = 1e-6
    expected = (float(loss(step)) - float(loss(-step))) / (2 * step)
    assert abs(expected) > 1e-3
    assert slope == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("router", ["linear", "static"])
@pytest.mark.parametrize("reachability", ["fold", "penalty"])
def test_gradients_of_dselect_ks_losses_match_finite_differences(reachability, router):
    gate = tfmoe.DSelectKGate(
        2, 5, 2, entropy_reg=0.3, router=router, reachability=reachability, dtype="float64"
    )
    gate.build((None, FEATURES))
    values = set_randomly(gate, scale=0.1)
    x = inputs().astype("float64")
    along = [np.random.default_rng(2).normal(size=v.shape) for v in values]

    def loss(step=0.0):
        for weight, value, direction in zip(gate.weights, values, along, strict=True):
            weight.assign(value + step * direction)
        gate(x, training=True)
        return sum(gate.losses)

    with tf.GradientTape() as tape:
        total = loss()
    gradients = tape.gradient(total, [w.value for w in gate.weights])
    slope = sum(np.sum(g.numpy() * d) for g, d in zip(gradients, along, strict=True))
    expected = (float(loss(1e-6)) - float(loss(-1e-6))) / 2e-6
    assert abs(expected) > 1e-3
    assert slope == pytest.approx(expected, rel=1e-5)


def test_a_saturated_bit_gets_a_gradient_of_exactly_zero():
    gate = tfmoe.DSelectKGate(1, 4, 1, router="static")
    gate.build((None, FEATURES))
    gate.head.scores.assign([[0.7, 0.1, 0.0]])
    with tf.GradientTape() as tape:
        loss = ops.sum(gate(inputs(1)) * np.arange(4.0))
    gradient = tape.gradient(loss, gate.head.scores.value).numpy()[0]
    assert gradient[0] == 0
    assert gradient[1] != 0


@each_kind
def test_mlp_router_makes_the_scores(kind):
    router = tfmoe.MLPRouter((6, 3), activation="tanh")
    gate = make_gate(kind, 4, 2, router)
    x = inputs()
    _, record = gate(x, return_aux=True)
    layers = [(layer.kernel.numpy(), layer.bias.numpy()) for layer in gate.router.layers]
    hidden = np.array([reference.network(row, layers, np.tanh) for row in x])
    scores = hidden @ gate.head.kernel.numpy()
    if gate.head.bias is not None:
        scores = scores + gate.head.bias.numpy()
    np.testing.assert_allclose(np.reshape(record.scores, scores.shape), scores, atol=1e-5)
    assert gate.router is not router
    assert not router.built


def test_a_gates_members_never_start_alike():
    seeded = keras.initializers.RandomUniform(-1, 1, seed=3)
    for gate in (
        tfmoe.SoftmaxGate(3, 4, kernel_initializer=seeded),
        tfmoe.DSelectKGate(3, 4),
        tfmoe.DSelectKGate(3, 4, router="static"),
        tfmoe.SoftmaxGate(3, 4, router="static"),
        tfmoe.SoftmaxGate(3, 4, router=tfmoe.MLPRouter((4, 4), kernel_initializer=seeded)),
    ):
        gate.build((None, FEATURES))
        values = np.concatenate([w.numpy().ravel() for w in gate.weights if w.name != "bias"])
        drawn = values[values != 0]
        assert len(np.unique(drawn)) == len(drawn), gate


def test_a_built_gate_is_a_recipe_too():
    gate = tfmoe.SoftmaxGate(2, 3, router=tfmoe.MLPRouter((4,)))
    gate(inputs())
    mixture = tfmoe.MMoE(2, 3, (4,), gate=gate)
    mixture(inputs())
    assert mixture.gate is not gate
    again = tfmoe.SoftmaxGate(2, 3, router=gate.router)
    again(inputs())
    # Two of the router, one of the head, and none of the layers given as recipes.
    assert [len(g.weights) for g in (gate, mixture.gate, again)] == [3, 3, 3]


GATES = [getattr(tfmoe, name) for name in tfmoe.__all__]
GATES = [
    kind for kind in GATES if isinstance(kind, type) and issubclass(kind, Gate) and kind is not Gate
]
# Which learns nothing and so takes neither a router nor a balance loss.
LEARNED = [kind for kind in GATES if kind is not tfmoe.HashGate]


@pytest.mark.parametrize("kind", LEARNED)
def test_every_gate_takes_the_arguments_of_all_gates(kind):
    given = {
        "expert_ids": [4, 1, 0],
        "num_choices": 6,
        "balance": [tfmoe.ImportanceLoss(0.3, True)],
    }
    gate = kind(2, 3, **given, usage_decay=0.9)
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(gate)))
    again = keras.saving.deserialize_keras_object(saved)
    for one in (gate, again):
        assert one.expert_ids == (4, 1, 0)
        assert one.num_choices == 6
        assert one.usage_decay == 0.9
        assert [loss.__dict__ for loss in one.balance] == [{"weight": 0.3, "per_task": True}]
    assert again.get_config() == gate.get_config()


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (tfmoe.HashGate, {}),
        *((kind, {"router": r}) for kind in LEARNED for r in ("linear", "static")),
    ],
)
def test_a_gate_that_kept_some_experts_gives_them_the_weights_of_the_whole(kind, given):
    kept, x, ids = [5, 0, 3], inputs(20), np.arange(20)
    whole = kind(TASKS, 7, **given)
    part = kind(TASKS, 3, expert_ids=kept, num_choices=7, **given)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(part))
    assert (again.expert_ids, again.num_choices) == (tuple(kept), 7)
    for gate in (whole, part):
        gate.build(x.shape)
    rng = np.random.default_rng(0)
    for weight in whole.trainable_weights:
        weight.assign(rng.normal(scale=0.3, size=weight.shape))
    part.set_weights(whole.get_weights())
    (all_weights, all_of), (weights, record) = (
        g(x, ids=ids, return_aux=True) for g in (whole, part)
    )
    np.testing.assert_allclose(weights, all_weights.numpy()[..., kept], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(record.scores, all_of.scores, rtol=1e-5, atol=1e-6)
    for name in ("probabilities", "weights"):
        expected = getattr(all_of, name).numpy()[..., kept]
        np.testing.assert_allclose(getattr(record, name), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ({"expert_ids": [0, 5], "num_choices": 5}, r"expert_ids=\[0, 5\] with num_choices=5"),
        ({"expert_ids": [1, 1], "num_choices": 5}, r"expert_ids=\[1, 1\]"),
        ({"expert_ids": [], "num_choices": 5}, r"expert_ids=\[\]"),
        ({"expert_ids": [0, 1]}, "Received num_choices=None"),
        ({"num_choices": 5}, r"expert_ids=\[\] with num_choices=5"),
    ],
)
def test_kept_experts_are_checked(given, received):
    with pytest.raises(ValueError, match=received):
        tfmoe.SoftmaxGate(2, 2, **given)
    with pytest.raises(
        ValueError, match=r"each expert in `expert_ids`.*expert_ids=\[0\] with num_experts=3"
    ):
        tfmoe.SoftmaxGate(2, 3, expert_ids=[0], num_choices=5).build((None, FEATURES))


@each_kind
def test_gate_says_what_is_wrong(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name} needs `num_tasks`.*Received num_tasks=0"):
        kind(0, 4)
    with pytest.raises(ValueError, match=f"{name} needs `num_experts`.*Received num_experts=1"):
        kind(2, 1)
    with pytest.raises(ValueError, match=f"{name} takes `router`.*Received router='mlp'"):
        kind(2, 4, router="mlp")
    with pytest.raises(ValueError, match=f"{name} must know `num_experts`.*num_experts=None"):
        kind(2)(inputs())
    with pytest.raises(ValueError, match=re.escape("(batch, features). Received shape (5,)")):
        kind(2, 4)(inputs()[:, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.SoftmaxGate(temperature=0.0), "above 0. Received temperature=0.0"),
        (lambda: tfmoe.SoftmaxGate(temperature=np.nan), "above 0. Received temperature=nan"),
        (lambda: tfmoe.TopKGate(num_nonzeros=0), "at least 1. Received num_nonzeros=0"),
        (lambda: tfmoe.TopKGate(num_nonzeros=1.5), "integer.*Received num_nonzeros=1.5"),
        (lambda: tfmoe.DSelectKGate(num_nonzeros=0), "at least 1. Received num_nonzeros=0"),
        (lambda: tfmoe.DSelectKGate(gamma=0), "above 0. Received gamma=0. Values"),
        (lambda: tfmoe.DSelectKGate(entropy_reg=-1), "at least 0, or.*Received entropy_reg=-1"),
        (lambda: tfmoe.DSelectKGate(reachability="x"), '"fold" or "penalty". Received reach'),
        (lambda: tfmoe.MLPRouter(()), r'Received hidden_units=\(\).*use router="linear"'),
        (lambda: tfmoe.MLPRouter((4, 0)), "at least 1. Received hidden_units=0"),
        (lambda: tfmoe.MLPRouter(4), r"sequence of integers. Received.*write \(4,\)"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_record_says_what_it_has():
    record = tfmoe.SoftmaxGate(TASKS, 4)(inputs(), return_aux=True)[1]
    assert isinstance(record, tfmoe.GateOutput)
    assert (record.has_task, record.has_mask) == (False, False)
    task, mask = np.zeros(5, "int32"), np.ones(5, "float32")
    record = tfmoe.SoftmaxGate(TASKS, 4)(inputs(), task=task, row_mask=mask, return_aux=True)[1]
    assert (record.has_task, record.has_mask) == (True, True)
    assert record.rows(TASKS).counts(record.weights).numpy().ravel().tolist() == [5, 0, 0]


def test_saved_graphs_number_the_fields_of_a_record_as_they_did():
    """A Functional model's file names a layer's output by its place among all of them."""
    x, task, mask = keras.Input((4,)), keras.Input((), dtype="int32"), keras.Input(())
    for options, places in (
        ({}, {"probabilities": 1, "scores": 2, "weights": 3}),
        ({"task": task}, {"probabilities": 1, "scores": 2, "task": 3, "weights": 4}),
        ({"row_mask": mask}, {"mask": 1, "probabilities": 2, "scores": 3, "weights": 4}),
    ):
        record = tfmoe.SoftmaxGate(TASKS, 4)(x, return_aux=True, **options)[1]
        model = keras.Model(
            [x, *options.values()], {name: getattr(record, name) for name in places}
        )
        found = {name: place for name, (_, _, place) in model.get_config()["output_layers"].items()}
        assert found == places


def test_no_mask_of_keras_reaches_a_gate():
    """Keras fills in an argument named `mask` from the layer before."""
    x = keras.layers.Masking()(np.zeros((5, 4), "float32"))
    with pytest.warns(UserWarning, match="does not support masking"):
        record = tfmoe.SoftmaxGate(TASKS, 4)(x, return_aux=True)[1]
    assert not record.has_mask


def test_experts_of_older_files_go_by_their_old_name():
    gate = tfmoe.TopKGate(2, 3, kept=[4, 1, 0], num_choices=6)
    config = gate.get_config()
    assert config["expert_ids"] == [4, 1, 0]
    ids = config.pop("expert_ids")
    assert tfmoe.TopKGate.from_config({**config, "kept": ids}).expert_ids == (4, 1, 0)
    assert tfmoe.TopKGate.from_config({**config, "kept": None, "num_choices": None})
    with pytest.raises(ValueError, match="which was called `kept`, once"):
        tfmoe.TopKGate(2, 2, kept=[4, 1], expert_ids=[4, 1], num_choices=6)
    squad = tfmoe.ModSquad(2, 8, 1, 4, expert_ids=[[0, 1], [2, 3]])
    config = squad.get_config()
    again = tfmoe.ModSquad.from_config({**config, "expert_ids": None, "kept": [[0, 1], [2, 3]]})
    assert again.get_config() == config


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("router", ["static", "linear", "task"])
def test_scores_that_are_nearly_alike_do_not_tie_in_half_precision(policy, router):
    """A gate's parameters are as exact as its scores."""
    made = tfmoe.TaskRouter(dim=2, hidden_units=(2,)) if router == "task" else router
    gate = tfmoe.TopKGate(1, 4, num_nonzeros=1, router=made, dtype=policy)
    gate.build((None, 1))
    for weight in gate.weights:
        weight.assign(np.ones(weight.shape))
    scores = np.array([1.001, 1.002, 1.003, 1.0], "float32")
    last = gate.head.scores if router == "static" else gate.head.kernel
    last.assign(np.broadcast_to(scores, last.shape))
    assert np.argmax(gate(np.ones((1, 1)))[0, 0]) == 2


@pytest.mark.parametrize("one_task", [True, False])
@pytest.mark.parametrize(
    "gate",
    [
        tfmoe.DSelectKGate(entropy_reg=0.1),
        tfmoe.CometGate(entropy_reg=0.1),
        tfmoe.TopKGate(balance=tfmoe.ZLoss(1.0)),
        tfmoe.SparsemaxGate(),
        tfmoe.EntmaxGate(),
        tfmoe.ReLUGate(),
    ],
    ids=lambda gate: type(gate).__name__,
)
def test_a_batch_without_rows_adds_nothing(gate, one_task):
    mixture = tfmoe.MMoE(3, 8, (4,), gate)
    task = np.zeros(0, "int32") if one_task else None
    assert mixture(np.zeros((0, 5), "float32"), task=task, training=True).shape[0] == 0
    assert np.isfinite([float(loss) for loss in mixture.losses]).all()
