"""CometGate with its learned permutation, HashGate, BalancedTopKGate."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from scipy import stats

import tfmoe
from tests.gates.test_gates import FEATURES, TASKS, auxiliary_loss, inputs, set_randomly
from tests.oracles import reference

COUNTS = [2, 3, 5, 8, 9, 16, 31]
ROUTERS = ["static", "linear", "mlp"]


def router(name):
    return tfmoe.MLPRouter((6, 3), activation="tanh") if name == "mlp" else name


def built(gate):
    gate.build((None, FEATURES))
    return gate


def scores_of(gate, x):
    """`(b, t, s)` from the weights of a gate."""
    if gate.router == "static":
        scores = gate.head.scores.numpy()
    else:
        hidden = x
        if gate.router != "linear":
            layers = [(layer.kernel.numpy(), layer.bias.numpy()) for layer in gate.router.layers]
            hidden = np.array([reference.network(row, layers, np.tanh) for row in x])
        scores = hidden @ gate.head.kernel.numpy()
        if gate.head.bias is not None:
            scores = scores + gate.head.bias.numpy()
    return scores.reshape(len(scores), gate.num_tasks, -1)


def splits_and_leaves(gate, x):
    """`(b, t, k, e - 1)` and `(b, t, k, e)`."""
    scores, k, e = scores_of(gate, x), gate.num_nonzeros, gate.num_experts
    splits, leaves = np.split(scores, [k * (e - 1)], axis=-1)
    return splits.reshape(*splits.shape[:2], k, e - 1), leaves.reshape(*leaves.shape[:2], k, e)


def rows(function, *arrays):
    """The function of each example's and task's parts."""
    both = zip(*arrays, strict=True)
    return np.array([[function(*row) for row in zip(*example, strict=True)] for example in both])


# COMET


@pytest.mark.quick(40)
@pytest.mark.parametrize("num_experts", COUNTS)
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", ROUTERS)
def test_comet_matches_reference(num_experts, k, gamma, name):
    gate = built(tfmoe.CometGate(TASKS, num_experts, k, gamma, router=router(name)))
    set_randomly(gate.head, scale=0.3 * gamma)
    parts = splits_and_leaves(gate, inputs())
    expected = rows(lambda splits, leaves: reference.comet_row(splits, leaves, gamma), *parts)
    weights, record = gate(inputs(), return_aux=True)
    # Of a gate with gamma 10 the leaves' scores differ by tens, which exp magnifies.
    np.testing.assert_allclose(weights, expected, atol=1e-6 if name == "static" else 2e-5)
    np.testing.assert_array_equal(record.probabilities, weights)


@pytest.mark.parametrize("gamma", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("name", ["linear", "static"])
def test_comet_starts_undecided(gamma, name):
    gate = tfmoe.CometGate(TASKS, 8, 4, gamma, router=name)
    gate.build((None, 50))
    for weight in gate.head.weights:
        width = [28, 32]
        blocks = np.split(weight.numpy(), TASKS, axis=-1)
        splits = np.concatenate([block[..., : width[0]].ravel() for block in blocks])
        leaves = np.concatenate([block[..., width[0] :].ravel() for block in blocks])
        assert np.abs(splits).max() <= gamma / 100
        assert splits.std() == pytest.approx(gamma / 100 / np.sqrt(3), rel=0.2)
        if weight.name == "bias":
            assert not leaves.any()
        else:
            assert np.abs(leaves).max() <= 0.05
            assert leaves.std() == pytest.approx(0.05 / np.sqrt(3), rel=0.2)


@pytest.mark.parametrize("name", ["linear", "static"])
@pytest.mark.parametrize("num_experts", [6, 8])
def test_comet_entropy_matches_reference(name, num_experts):
    gate = built(tfmoe.CometGate(TASKS, num_experts, 3, entropy_reg=0.1, router=name))
    if num_experts == 8:  # at the start, trees of 8 leaves are all but uniform
        assert auxiliary_loss(gate, inputs()) / 0.1 / TASKS / 3 == pytest.approx(2.079, abs=2e-3)
    set_randomly(gate.head, scale=0.1)
    splits, _ = splits_and_leaves(gate, inputs())
    trees = rows(lambda row: reference.comet_trees(row, 1.0), splits)
    expected = 0.1 * reference.entropy_loss(trees)
    assert auxiliary_loss(gate, inputs()) == pytest.approx(expected, rel=1e-5)
    # The same rows twice are a batch twice as large and no other loss.
    twice = np.concatenate([inputs(), inputs()])
    assert auxiliary_loss(gate, twice) == pytest.approx(expected, rel=1e-5)
    gate(inputs())
    assert gate.losses == []


def test_comet_entropy_follows_its_schedule_over_training_calls():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.0, 1.0, 4.0])
    gate = built(tfmoe.CometGate(1, 5, 2, entropy_reg=schedule))
    found = []
    for _ in range(4):
        found.append(auxiliary_loss(gate, inputs()))
        gate(inputs())
    # Counted in training calls alone: steps 0, 1, 2, 3.
    np.testing.assert_allclose(np.array(found) / found[1], [0, 1, 4, 4], rtol=1e-6)


@given(
    num_experts=st.integers(2, 40),
    k=st.integers(1, 5),
    gamma=st.sampled_from([0.1, 1.0, 10.0]),
    name=st.sampled_from(["linear", "static"]),
    seed=st.integers(0, 1000),
)
def test_a_saturated_comet_row_has_at_most_k_experts(num_experts, k, gamma, name, seed):
    gate = built(tfmoe.CometGate(2, num_experts, k, gamma, router=name))
    set_randomly(gate.head, scale=1e6, seed=seed)
    weights, record = gate(inputs(3, seed=seed), return_aux=True)
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1, atol=1e-5)
    assert (np.count_nonzero(weights, axis=-1) <= k).all()
    np.testing.assert_array_equal(gate.converged(record.scores), 1)


def test_a_tree_has_converged_when_the_path_with_mass_has():
    gate = built(tfmoe.CometGate(1, 5, 2, router="static"))
    # Nodes 0 to 3 split, 4 to 8 are experts 0 to 4. The first tree goes left at 0 and
    # right at 1, to node 4: what 2 and 3 say does not matter. The second is undecided.
    splits = [[9.0, -9.0, 0.1, 0.1], [9.0, 0.1, 9.0, 9.0]]
    gate.head.scores.assign([[*splits[0], *splits[1], *np.zeros(10)]])
    weights, record = gate(inputs(1), return_aux=True)
    np.testing.assert_allclose(gate.converged(record.scores), [[0.5]])
    np.testing.assert_array_equal(np.flatnonzero(weights), [0, 3])


def test_comet_gradients_are_finite_where_a_leaf_is_never_reached():
    gate = built(tfmoe.CometGate(1, 8, 2, router="static"))
    scores = np.zeros(30, "float32")
    scores[:14] = [9, -9, 0, 0.2, 9, 0, -9, *([0.4999999] * 7)]
    scores[14:] = np.linspace(-80, 80, 16)
    gate.head.scores.assign([scores])
    with tf.GradientTape() as tape:
        loss = ops.sum(gate(inputs(1)) * np.arange(8.0))
    gradient = tape.gradient(loss, gate.head.scores.value).numpy()[0]
    assert np.isfinite(gradient).all()
    assert (gradient[[0, 1, 4, 6]] == 0).all()
    assert np.any(gradient != 0)


def test_comet_permutes_all_tasks_and_trees_alike():
    options = {"num_nonzeros": 2, "router": "static"}
    plain = built(tfmoe.CometGate(TASKS, 5, **options))
    recipe = tfmoe.LearnedPermutation(10, (0.05, 0.01))
    gate = built(tfmoe.CometGate(TASKS, 5, permutation=recipe, **options))
    set_randomly(plain.head, scale=0.3)
    set_randomly(gate.head, scale=0.3)
    matrix = gate.permutation.matrix().numpy()
    np.testing.assert_allclose(gate(inputs()), plain(inputs()).numpy() @ matrix, atol=1e-5)
    set_randomly(gate.head, scale=1e6)
    scores = gate(inputs(), return_aux=True)[1].scores
    np.testing.assert_array_equal(gate.converged(scores), 0)
    gate.permutation.harden()
    np.testing.assert_array_equal(gate.converged(scores), 1)
    assert (np.count_nonzero(gate(inputs()), axis=-1) <= 2).all()
    assert not recipe.built


# Hash


@pytest.mark.parametrize("num_experts", COUNTS)
@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_hash_gate_matches_reference(num_experts, per_task, seed):
    gate = tfmoe.HashGate(TASKS, num_experts, per_task=per_task, seed=seed)
    ids = np.array([0, 1, 2, 3, 1000, 2**31 - 1, -1, -(2**31)])
    weights, record = gate(inputs(8), ids=ids, return_aux=True)
    experts = [
        [reference.hash_expert(int(i), num_experts, seed, t * per_task) for t in range(TASKS)]
        for i in ids
    ]
    np.testing.assert_array_equal(weights, np.eye(num_experts)[np.array(experts)])
    for values in (record.scores, record.probabilities, record.weights):
        np.testing.assert_array_equal(values, weights)
    assert gate.weights == []
    np.testing.assert_array_equal(gate(inputs(8), ids=ids.astype("int32")), weights)


@pytest.mark.parametrize("num_experts", [3, 8, 31])
@pytest.mark.parametrize("seed", [0, 1])
def test_neighbouring_ids_spread_evenly_and_tasks_independently(num_experts, seed):
    ids = np.arange(40_000)
    gate = tfmoe.HashGate(2, num_experts, per_task=True, seed=seed)
    x = np.zeros((len(ids), 1), "float32")
    first, second = np.argmax(gate(x, ids=ids), axis=-1).T

    def p_value(cells, count):
        return stats.chisquare(np.bincount(cells, minlength=count)).pvalue

    assert p_value(first, num_experts) > 1e-4
    assert p_value(first * num_experts + second, num_experts**2) > 1e-4
    # An id says nothing about the next one's expert, nor one seed about another.
    assert p_value(first[:-1] * num_experts + first[1:], num_experts**2) > 1e-4
    other = tfmoe.HashGate(1, num_experts, seed=seed + 2)
    other = np.argmax(other(x, ids=ids), axis=-1)[:, 0]
    assert p_value(first * num_experts + other, num_experts**2) > 1e-4


def test_hash_gate_takes_ids_in_a_model_of_any_batch_size():
    x, ids = keras.Input((FEATURES,)), keras.Input((), dtype="int32")
    model = keras.Model([x, ids], tfmoe.HashGate(TASKS, 5)(x, ids=ids))
    for size in (1, 6):
        numbers = np.arange(size, dtype="int32")
        expected = tfmoe.HashGate(TASKS, 5)(inputs(size), ids=numbers)
        np.testing.assert_array_equal(model([inputs(size), numbers]), expected)


# Bias-balanced top-k


@pytest.mark.quick(20)
@pytest.mark.parametrize("num_experts", COUNTS)
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("name", ROUTERS)
def test_balanced_top_k_gate_matches_reference(num_experts, k, name):
    gate = built(tfmoe.BalancedTopKGate(TASKS, num_experts, k, router=router(name)))
    bias = np.random.default_rng(5).normal(scale=0.3, size=(TASKS, num_experts))
    gate.bias.assign(bias)
    scores = scores_of(gate, inputs())
    biases = np.broadcast_to(gate.bias.numpy(), scores.shape)
    expected = rows(lambda s, c: reference.balanced_top_k_gate(s, c, k), scores, biases)
    weights, record = gate(inputs(), return_aux=True)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    affinity = 1 / (1 + np.exp(-scores))
    full = affinity / affinity.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(record.probabilities, full, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_the_bias_moves_in_training_only_and_by_its_rate(policy):
    gate = built(tfmoe.BalancedTopKGate(TASKS, 5, 2, rate=1e-4, dtype=policy))
    bias = np.linspace(0, 2, TASKS * 5).reshape(TASKS, 5).astype("float32")
    gate.bias.assign(bias)
    weights = gate(inputs()).numpy()
    np.testing.assert_array_equal(gate.bias, bias)
    gate(inputs(), training=True)
    expected = reference.balanced_bias(weights, bias, 1e-4)
    assert np.any(expected != bias)
    np.testing.assert_allclose(gate.bias, expected, rtol=0, atol=2e-7)
    assert gate.bias.path not in [weight.path for weight in gate.trainable_weights]


def test_the_bias_levels_the_load():
    keras.utils.set_random_seed(0)
    # Inputs with a mean far from 0 make some experts high for all examples.
    x = inputs(256) + 2
    gate = tfmoe.BalancedTopKGate(TASKS, 8, 2, rate=0.01)

    def load():
        return np.count_nonzero(gate(x), axis=0) / (len(x) * 2 / 8)

    unlevelled = load()
    step = tf.function(lambda: gate(x, training=True), jit_compile=True)
    for _ in range(300):
        step()
    assert unlevelled.max() > 3
    assert load().max() < 1.5


def test_affinities_that_underflow_still_give_weights():
    gate = built(tfmoe.BalancedTopKGate(1, 3, 2, router="static"))
    gate.head.scores.assign([[-300.0, -301.0, -400.0]])
    weights = gate(inputs(1)).numpy()[0, 0]
    np.testing.assert_allclose(weights, [*reference.softmax(np.array([1.0, 0.0])), 0], atol=1e-6)


# All of them


def permuted(*arguments, **options):
    permutation = tfmoe.LearnedPermutation(10)
    return tfmoe.CometGate(*arguments, permutation=permutation, **options)


@pytest.mark.quick(1)
@pytest.mark.parametrize("make", [tfmoe.CometGate, permuted, tfmoe.BalancedTopKGate])
@given(
    num_experts=st.integers(2, 17),
    k=st.integers(1, 5),
    name=st.sampled_from(["linear", "static"]),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 1e4]),
    policy=st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16"]),
    seed=st.integers(0, 1000),
)
def test_rows_are_weights_and_gradients_finite(make, num_experts, k, name, scale, policy, seed):
    keras.utils.set_random_seed(seed)
    options = {} if make is tfmoe.BalancedTopKGate else {"entropy_reg": 0.5}
    gate = make(2, num_experts, num_nonzeros=k, router=name, dtype=policy, **options)
    x = tf.constant(inputs(3, scale, seed))
    gate.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        weights, record = gate(x, training=True, return_aux=True)
        loss = ops.sum(record.weights * np.arange(num_experts, dtype="float32"))
        loss = loss + sum(gate.losses)
    found = record.weights.numpy()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    if make is tfmoe.BalancedTopKGate:
        assert (np.count_nonzero(found, axis=-1) <= k).all()
    assert np.isfinite(ops.convert_to_numpy(ops.cast(weights, "float32"))).all()
    watched = [x, *(w.value for w in gate.trainable_weights)]
    for gradient in tape.gradient(loss, watched):
        assert gradient is None or np.isfinite(gradient.numpy()).all()


@pytest.mark.parametrize("name", ["linear", "static"])
@pytest.mark.parametrize("num_experts", [5, 8])
@pytest.mark.parametrize("kind", [tfmoe.CometGate, tfmoe.BalancedTopKGate])
def test_gradients_match_finite_differences(kind, num_experts, name):
    gate = built(kind(2, num_experts, 2, router=name, dtype="float64"))
    values = set_randomly(gate.head, scale=0.2)
    x = inputs().astype("float64")
    towards = np.random.default_rng(1).normal(size=(len(x), 2, num_experts))
    along = [np.random.default_rng(2).normal(size=v.shape) for v in values]

    def loss(step=0.0):
        for weight, value, direction in zip(gate.head.weights, values, along, strict=True):
            weight.assign(value + step * direction)
        return ops.sum(gate(x) * towards)

    with tf.GradientTape() as tape:
        total = loss()
    gradients = tape.gradient(total, [w.value for w in gate.head.weights])
    slope = sum(np.sum(g.numpy() * d) for g, d in zip(gradients, along, strict=True))
    expected = (float(loss(1e-6)) - float(loss(-1e-6))) / 2e-6
    assert abs(expected) > 1e-3
    assert slope == pytest.approx(expected, rel=1e-5)


DECAY = keras.optimizers.schedules.PolynomialDecay(0.1, 20, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(
            tfmoe.CometGate(num_nonzeros=2, entropy_reg=DECAY), id="comet", marks=pytest.mark.slow
        ),
        pytest.param(
            tfmoe.CometGate(permutation=tfmoe.LearnedPermutation(6), router="static"),
            id="comet_plus",
            marks=pytest.mark.slow,
        ),
        pytest.param(tfmoe.BalancedTopKGate(rate=0.01), id="balanced"),
    ],
)
def test_training_under_the_compiler_agrees_and_state_survives_saving(gate, tmp_path):
    x, y = inputs(32), np.random.default_rng(1).normal(size=(32, TASKS, 4))

    def trained(jit_compile):
        keras.utils.set_random_seed(0)
        symbol = keras.Input((FEATURES,))
        model = keras.Model(symbol, tfmoe.MMoE(TASKS, 5, (8, 4), gate)(symbol))
        model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=jit_compile)
        callbacks = [tfmoe.HardenPermutations()]
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    plain, compiled = trained(False), trained(True)
    for one, other in zip(plain.weights, compiled.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, err_msg=one.path)
    compiled.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    for one, other in zip(compiled.weights, reloaded.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    np.testing.assert_allclose(reloaded(x), compiled(x), rtol=1e-5, atol=1e-6)
    # What was counted, chosen or moved is no longer as it began.
    states = [w for w in compiled.weights if w.name in ("steps", "order", "bias")]
    states = [w for w in states if w.path.split("/")[-2] != "head"]
    assert states
    assert not any(np.all(np.isin(w, (0, -1))) for w in states)


@pytest.mark.parametrize(
    "kind", [tfmoe.CometGate, permuted, tfmoe.HashGate, tfmoe.BalancedTopKGate]
)
def test_a_gate_with_fewer_experts_gives_the_whole_ones_columns(kind):
    kept = [6, 0, 3]
    options = {"ids": np.arange(5)} if kind is tfmoe.HashGate else {}
    whole, part = kind(TASKS, 7), kind(TASKS, 3, expert_ids=kept, num_choices=7)
    expected, record = whole(inputs(), return_aux=True, **options)
    part(inputs(), **options)
    part.set_weights(whole.get_weights())
    got, kept_record = part(inputs(), return_aux=True, **options)
    np.testing.assert_allclose(got, expected.numpy()[..., kept], rtol=1e-5, atol=1e-6)
    for key in ("probabilities", "weights"):
        expected = getattr(record, key).numpy()[..., kept]
        np.testing.assert_allclose(getattr(kept_record, key), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.CometGate(num_nonzeros=0), "at least 1. Received num_nonzeros=0"),
        (lambda: tfmoe.CometGate(gamma=0), "above 0. Received gamma=0. Values"),
        (lambda: tfmoe.CometGate(entropy_reg=-1), "of at least 0.*Received entropy_reg=-1"),
        (
            lambda: tfmoe.CometGate(permutation=True),
            "LearnedPermutation.*Received permutation=True",
        ),
        (lambda: tfmoe.LearnedPermutation(0), "at least 1. Received num_steps=0"),
        (lambda: tfmoe.LearnedPermutation(9, 0.1), "pair.*Received temperature=0.1"),
        (lambda: tfmoe.LearnedPermutation(9, (1, 0)), r"above 0. Received temperature=\(1, 0\)"),
        (
            lambda: tfmoe.LearnedPermutation(9, num_iterations=(20, 19)),
            "Received num_iterations=19",
        ),
        (lambda: tfmoe.LearnedPermutation(9, entropy_reg=-1), "least 0. Received entropy_reg=-1"),
        (lambda: tfmoe.LearnedPermutation(9).harden(), "once it is built. Received built=False"),
        (lambda: tfmoe.HashGate(column=3), "name of a categorical column.*Received column=3"),
        (lambda: tfmoe.HashGate(router="static"), "no `router`. Received router='static'"),
        (lambda: tfmoe.HashGate(balance=tfmoe.SwitchLoss()), "no `balance`. Received balance="),
        (lambda: tfmoe.HashGate(seed=-1), "at least 0. Received seed=-1"),
        (lambda: tfmoe.HashGate()(inputs()), "must know `num_tasks`.*Received num_tasks=None"),
        (lambda: tfmoe.HashGate(2, 4)(inputs()), "ids of a categorical column. Received ids=None"),
        (lambda: tfmoe.HashGate(2, 4, "user")(inputs()), "ids of column 'user'. Received ids=None"),
        (
            lambda: tfmoe.HashGate(2, 4)(inputs(), ids=np.ones((5, 1), "int32")),
            re.escape("shape (batch,). Received ids of shape (5, 1) and type int32"),
        ),
        (
            lambda: tfmoe.HashGate(2, 4)(inputs(), ids=np.ones(5, "float32")),
            re.escape("integers of shape (batch,). Received ids of shape (5,) and type float32"),
        ),
        (lambda: tfmoe.BalancedTopKGate(num_nonzeros=0), "at least 1. Received num_nonzeros=0"),
        (lambda: tfmoe.BalancedTopKGate(rate=-1), "at least 0. Received rate=-1. A usual"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
