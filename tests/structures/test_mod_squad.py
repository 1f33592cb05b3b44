import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfmoe
from tests.experts.test_experts import shake
from tests.oracles import reference
from tfmoe.compute import dispatch
from tfmoe.experts.attention import MoEAttention

TASKS, EXPERTS, DIM = 3, 8, 4


def matrix(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def tokens(rows=4, count=5):
    """Tokens, and a mask of rows of different lengths; the first is full."""
    lengths = [max(1, count - i) for i in range(rows)]
    return matrix(rows, count, DIM), np.arange(count) < np.array(lengths)[:, None]


def top_k(**options):
    return tfmoe.TopKGate(num_nonzeros=2, **options)


def shaken(layer, *shape):
    layer.build(*shape)
    shake(layer)
    return layer


def block(**options):
    layer = tfmoe.ModSquadBlock(TASKS, **{"num_experts": EXPERTS, "gate": top_k(), **options})
    return shaken(layer, (None, None, DIM))


def mod_squad(**options):
    options = {"num_experts": EXPERTS, "gate": top_k(), **options}
    layer = tfmoe.ModSquad(TASKS, DIM, **options)
    return shaken(layer, ((None, None, DIM), (None, None)))


TASK = np.array([0, 2, 1, 2], "int32")


def biases(attention):
    """Of keys and values; the keys' is any, for it changes nothing."""
    if not attention.kv_bias:
        return 0.0, 0.0
    return matrix(attention.head_dim, seed=9), attention.value_bias.numpy()


@pytest.mark.parametrize("kv_bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_experts", "k"), [(1, 1), (4, 2)])
def test_attention_matches_reference(num_experts, k, causal, kv_bias):
    x, present = tokens()
    layer = shaken(MoEAttention(num_experts, 3, causal, kv_bias), x.shape)
    chosen = np.argsort(matrix(20, num_experts), axis=1)[:, :k].astype("int32")
    weights = np.abs(matrix(20, num_experts, seed=1))
    weights[~np.any(chosen[..., None] == np.arange(num_experts), axis=1)] = 0
    if num_experts == 1:
        weights[:] = 1  # plain attention of one head
    names = ("queries", "outputs", "keys", "values")
    parts = [getattr(layer, name).numpy() for name in names]
    expected = reference.moe_attention(
        x, present, weights.reshape(4, 5, num_experts), parts, causal, biases(layer)
    )
    taken = np.take_along_axis(weights, chosen, axis=1)
    np.testing.assert_allclose(layer(x, present, weights), expected, atol=1e-5)
    np.testing.assert_allclose(layer(x, present, taken, chosen), expected, atol=1e-5)


def forward(layer, x, present, task, weigh=reference.top_k_of_all):
    """A block in NumPy, and its records."""
    outputs, records = layer(x, present, task, return_aux=True)
    x = x + layer.embedding.embeddings.numpy()[task][:, None]
    branches = []
    for norm, gate, record in zip(layer.norms, layer.gates, records, strict=True):
        scale, offset = norm.gamma.numpy(), norm.beta.numpy()
        epsilon = layer.epsilon
        seen = np.array(
            [[reference.layer_norm(t, scale, offset, epsilon) for t in row] for row in x]
        )
        kernels = np.split(gate.head.kernel.numpy(), TASKS, axis=1)
        scores = [token @ kernels[t] for row, t in zip(seen, task, strict=True) for token in row]
        np.testing.assert_allclose(record.scores[:, 0], scores, atol=1e-4)
        weights = np.array([weigh(row, gate.num_nonzeros) for row in scores])
        weights = weights.reshape(*present.shape, -1) * present[..., None]
        branches.append((seen, weights))
        if gate is layer.gates[0]:
            names = ("queries", "outputs", "keys", "values")
            parts = [getattr(layer.attention, name).numpy() for name in names]
            x = x + reference.moe_attention(
                seen, present, weights, parts, layer.causal, biases(layer.attention)
            )
    seen, weights = branches[1]
    (up, down), (before, after) = layer.mlp.kernels, layer.mlp.biases
    for (b, c, e), weight in np.ndenumerate(weights):
        hidden = reference.gelu(seen[b, c] @ up.numpy()[e] + before.numpy()[e])
        x[b, c] += weight * (hidden @ down.numpy()[e] + after.numpy()[e])
    return outputs, x, records


@pytest.mark.quick(4)
@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("causal", [False, True])
def test_mod_squad_matches_reference(causal, pooling, paper):
    x, present = tokens()
    options, weigh = {}, reference.top_k_of_all
    if not paper:
        options = {"kv_bias": False, "epsilon": 1e-3, "gate": top_k(renormalize=True)}
        weigh = reference.top_k_gate
    mixture = mod_squad(num_blocks=1, causal=causal, pooling=pooling, **options)
    outputs, expected, records = forward(mixture.blocks[0], x, present, TASK, weigh)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    np.testing.assert_array_equal(records[0].mask, present.ravel())
    scale, offset = mixture.norm.gamma.numpy(), mixture.norm.beta.numpy()
    pooled = []
    for row, mask in zip(expected, present, strict=True):
        epsilon = mixture.blocks[0].epsilon
        normed = [reference.layer_norm(token, scale, offset, epsilon) for token in row[mask]]
        pooled.append(normed[-1] if pooling == "last" else np.mean(normed, axis=0))
    got = mixture((x, present), task=TASK)
    np.testing.assert_allclose(got, np.array(pooled)[:, None], atol=1e-4)


def test_gates_of_tokens_are_the_papers_unless_they_say_otherwise():
    for gate, expected in ((None, False), (top_k(), False), (top_k(renormalize=True), True)):
        found = mod_squad(gate=gate).gates + block(gate=gate).gates
        assert [one.renormalize for one in found] == [expected] * 6
    assert mod_squad(gate=tfmoe.SoftmaxGate()).gates
    assert tfmoe.MMoE(gate=top_k()).get_config()["gate"]["config"]["renormalize"] is None


def test_files_that_do_not_say_it_have_the_former_way():
    """What a config of before has not, in a recipe and in the gate that it holds."""
    for kind, whole in ((tfmoe.ModSquad, mod_squad()), (tfmoe.ModSquadBlock, block())):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(whole)))
        config.pop("build_config")
        for name in ("kv_bias", "epsilon"):
            config["config"].pop(name)
        config["config"]["gate"]["config"].pop("renormalize")
        former = keras.saving.deserialize_keras_object(config)
        assert isinstance(former, kind)
        again = kind.from_config(former.get_config())
        for one in (former, again):
            one.build(
                ((None, None, DIM), (None, None)) if kind is tfmoe.ModSquad else (None, 5, DIM)
            )
            found = one.blocks[0] if kind is tfmoe.ModSquad else one
            assert (found.kv_bias, found.epsilon) == (False, 1e-3)
            assert [norm.epsilon for norm in found.norms] == [1e-3] * 2
            assert [gate.renormalize for gate in one.gates] == [True] * len(one.gates)


@pytest.mark.parametrize("gate", [top_k(), tfmoe.SoftmaxGate(), top_k(router="static")])
def test_one_task_a_row_is_a_part_of_all_tasks(gate):
    x, present = tokens()
    mixture = mod_squad(gate=gate)
    every, records = mixture((x, present), return_aux=True)
    own, own_records = mixture((x, present), task=TASK, return_aux=True)
    rows = np.arange(4)
    np.testing.assert_allclose(own[:, 0], every.numpy()[rows, TASK], atol=1e-5)
    assert len(records) == len(own_records) == len(mixture.gates) == 4
    task = np.repeat(TASK, 5)
    for one, both in zip(own_records, records, strict=True):
        np.testing.assert_array_equal(one.task, task)
        assert not both.has_task
        np.testing.assert_array_equal(one.mask, both.mask)
        for name in ("scores", "probabilities", "weights"):
            of_task = getattr(both, name).numpy()[np.arange(20), task]
            np.testing.assert_allclose(getattr(one, name)[:, 0], of_task, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("dispatch", ["dense", "sparse"])
@pytest.mark.parametrize(("causal", "pooling"), [(False, "mean"), (True, "last")])
def test_padding_changes_nothing(causal, pooling, dispatch):
    x, present = tokens()
    mixture = mod_squad(causal=causal, pooling=pooling, dispatch=dispatch)
    expected = mixture((x, present), task=TASK)
    for more, garbage in ((0, 1.0), (3, 0.0), (2, 1e4)):
        padded = np.where(present[..., None], x, garbage * matrix(*x.shape, seed=1))
        padded = np.concatenate([padded, garbage * matrix(4, more, DIM)], axis=1)
        mask = np.pad(present, [(0, 0), (0, more)])
        np.testing.assert_allclose(mixture((padded, mask), task=TASK), expected, atol=1e-5)


def test_a_row_of_padding_is_finite():
    x, present = tokens()
    outputs = mod_squad()((x, present & False))
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize("causal", [False, True])
def test_the_future_is_seen_unless_causal(causal):
    x, present = tokens(rows=2, count=6)
    layer, task = block(causal=causal), TASK[:2]
    later = x.copy()
    later[:, 3] = matrix(2, DIM, seed=1)
    moved = np.abs(layer(x, present, task) - layer(later, present, task)).max(axis=-1)
    # Of other inputs the last bits may differ: by how its threads cut a matrix product.
    changed = moved > 1e-4
    assert changed[:, 3:5].all()
    assert moved[:, :3].max() < 1e-5 if causal else changed[:, :3].all()


def test_no_row_depends_on_its_batch_mates():
    x, present = tokens()
    mixture = mod_squad()
    whole = mixture((x, present))
    for row in range(4):
        alone = mixture((x[row : row + 1], present[row : row + 1]))
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "jit"), [(False, True), (True, False)])
def test_sparse_compute_is_dense_compute(causal, jit):
    x, present = tokens(12)
    task = np.resize(TASK, 12)
    dense, sparse = (
        mod_squad(num_blocks=1, causal=causal, dispatch=d) for d in ("dense", "sparse")
    )
    assert sparse.computes_sparsely()
    assert not dense.computes_sparsely()
    coefficients = matrix(12, 1, DIM)

    def step(mixture, x, present, task):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = mixture((x, present), task=task, training=True)
            loss = ops.sum(outputs * coefficients)
        weights = [w.value for w in mixture.trainable_weights]
        return [outputs, *map(tf.convert_to_tensor, tape.gradient(loss, [x, *weights]))]

    signature = [
        tf.TensorSpec((None, 5, DIM)),
        tf.TensorSpec((None, 5), tf.bool),
        tf.TensorSpec((None,), tf.int32),
    ]
    compiled = tf.function(
        lambda *inputs: step(sparse, *inputs),
        input_signature=signature,
        jit_compile=jit,
        autograph=False,
    )
    sparse.set_weights(dense.get_weights())
    found = compiled(x, present, task)
    expected = step(dense, tf.constant(x), present, task)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_it_is_sparse_where_that_pays():
    def is_sparse(gate, **options):
        return mod_squad(gate=gate, **options).computes_sparsely(one_task=True)

    assert is_sparse(top_k())
    assert not is_sparse(top_k(), num_experts=3)
    assert not is_sparse(tfmoe.SoftmaxGate())
    assert not is_sparse(tfmoe.DSelectKGate(num_nonzeros=2))
    assert not is_sparse(tfmoe.GumbelGate(num_nonzeros=2))


def test_padding_is_not_computed(monkeypatch):
    x, present = tokens()
    seen, plan = [], dispatch.plan
    monkeypatch.setattr(dispatch, "plan", lambda c, n: seen.append((c, n)) or plan(c, n))
    block(gate=tfmoe.TopKGate(router="static"))(x, present, TASK)
    assert len(seen) == 2
    for chosen, num_experts in seen:
        computed = np.all(chosen < num_experts, axis=1)
        np.testing.assert_array_equal(computed, present.ravel())


def test_experts_never_start_alike():
    keras.utils.set_random_seed(0)
    mixture = tfmoe.ModSquad(TASKS, DIM, num_experts=EXPERTS)
    mixture.build(((None, None, DIM), (None, None)))
    stacks = [
        stack
        for each in mixture.blocks
        for stack in (each.attention.queries, each.attention.outputs, *each.mlp.kernels)
    ]
    members = [member.ravel() for stack in stacks for member in stack.numpy()]
    for i, member in enumerate(members):
        for other in members[:i]:
            assert member.shape != other.shape or abs(np.corrcoef(member, other)[0, 1]) < 0.999
    for stack in stacks:
        limit = np.sqrt(6 / sum(stack.shape[1:]))
        assert 0.8 * limit < np.abs(stack).max() <= limit


def test_gates_do_not_start_alike_from_a_users_seed():
    gate = top_k(noisy=True, seed=7, kernel_initializer=keras.initializers.GlorotUniform(seed=3))
    layer = tfmoe.ModSquad(TASKS, DIM, 2, EXPERTS, gate)
    layer(tokens())
    again = tfmoe.ModSquad.from_config(layer.get_config())
    again(tokens())
    kernels = [np.array(one.head.kernel) for one in layer.gates]
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    assert len({one.seed for one in layer.gates}) == 4
    for kernel, one in zip(kernels, again.gates, strict=True):
        np.testing.assert_array_equal(kernel, one.head.kernel)


def test_a_task_costs_the_same_whatever_k():
    def size_of_chosen(k):
        layer = shaken(tfmoe.ModSquadBlock(1, 8, tfmoe.TopKGate(num_nonzeros=k)), (None, None, 16))
        assert layer.num_chosen == k
        return k * layer.attention.head_dim, k * layer.mlp.hidden_units[0]

    assert [size_of_chosen(k) for k in (1, 2, 4)] == [(16, 64)] * 3


def test_usage_does_not_count_padding():
    x, present = tokens()
    layer = block(gate=top_k(usage_decay=0.9))
    _, records = layer(x, present, TASK, training=True, return_aux=True)
    for gate, record in zip(layer.gates, records, strict=True):
        chosen = np.array(record.weights)[:, 0] > 0
        rows = np.repeat(TASK, 5)
        counted = [chosen[(rows == t) & present.ravel()].mean(axis=0) for t in range(TASKS)]
        np.testing.assert_allclose(gate.usage, counted, atol=1e-6)


def cut(mixture, kept):
    """The mixture with these experts only, its weights slices of the whole one's."""
    config = mixture.get_config() | {"expert_ids": kept}
    smaller = tfmoe.ModSquad.from_config(config)
    smaller.build(((None, None, DIM), (None, None)))
    for old, new in zip(mixture.weights, smaller.weights, strict=True):
        values = old.numpy()
        if old.shape != new.shape:
            assert new.shape[1:] == old.shape[1:], "Only the axis of experts is cut."
            number = mixture.blocks.index(next(b for b in mixture.blocks if owns(b, old)))
            gate = 2 * number + (not owns(mixture.blocks[number].attention, old))
            values = values[kept[gate]]
        new.assign(values)
    return smaller


def owns(layer, weight):
    return any(weight is other for other in layer.weights)


def test_kept_experts_compute_what_they_do_in_the_whole():
    x, present = tokens()
    mixture = mod_squad(num_experts=16)
    expected, records = mixture((x, present), task=TASK, return_aux=True)
    chosen = [np.array(r.weights)[present.ravel(), 0] > 0 for r in records]
    kept = [np.flatnonzero(used.any(axis=0)).tolist() for used in chosen]
    assert all(len(experts) < 16 for experts in kept)
    smaller = cut(mixture, kept)
    outputs, cut_records = smaller((x, present), task=TASK, return_aux=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    # Without an expert that was chosen the others keep their weights.
    for experts, record, before in zip(kept, cut_records, records, strict=True):
        rows = present.ravel()
        np.testing.assert_allclose(
            np.array(record.weights)[rows], np.array(before.weights)[rows][..., experts]
        )
    one = cut(mixture, [experts[:1] for experts in kept])
    record = one((x, present), task=TASK, return_aux=True)[1][0]
    weights = np.array(records[0].weights)[..., kept[0][:1]]
    np.testing.assert_allclose(record.weights, weights, atol=1e-6)
    assert (weights == 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` to be an integer of at least 1. Received dim=0"),
        ({"num_experts": 1}, "`num_experts` to be an integer of at least 2. Received"),
        ({"pooling": "max"}, '`pooling` "mean" or "last". Received pooling=\'max\''),
        ({"gate": "top_k"}, "one of tfmoe's gates.*Received gate='top_k'"),
        ({"gate": tfmoe.HashGate(column="user")}, "tokens, which have no ids.*Received gate="),
        ({"dispatch": "fast"}, "Received dispatch='fast'"),
        (
            {"dispatch": "sparse", "gate": tfmoe.SoftmaxGate()},
            "bound to a number of them. Received dispatch='sparse'.*Use dispatch='auto'",
        ),
        ({"mlp_ratio": 0}, "above 0. Received mlp_ratio=0"),
        ({"dropout": 1.0}, "below 1. Received dropout=1.0"),
        ({"epsilon": 0.0}, "above 0. Received epsilon=0.0"),
        ({"expert_ids": [[0, 1]]}, r"each of its 4 gates. Received expert_ids=\[\[0, 1\]\]"),
        ({"expert_ids": [0, 1, 2, 3]}, r"each of its 4 gates. Received expert_ids=\[0, 1, 2, 3\]"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.ModSquad(**options)


def test_wrong_inputs_are_named():
    for inputs in ((matrix(2, 3, 5), np.ones((2, 3), bool)), matrix(2, 3, DIM)):
        with pytest.raises(ValueError, match=r"tokens, 4\) and a mask. Received shapes .*tokens=4"):
            tfmoe.ModSquad(TASKS, DIM)(inputs)
    with pytest.raises(ValueError, match="must know `num_tasks` before it is built"):
        tfmoe.ModSquad(dim=DIM)(tokens())
