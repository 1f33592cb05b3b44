import functools

import keras
import numpy as np
import pytest

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.oracles import reference, structures

FEATURES, TASKS = 5, 3
SIZES = {"num_task_experts": 2, "num_shared_experts": 3, "hidden_units": (6, 4)}
GATES = {
    "softmax": tfmoe.SoftmaxGate(),
    "static": tfmoe.SoftmaxGate(router="static"),
    "top_k": tfmoe.TopKGate(num_nonzeros=2),
    "dselect_k": tfmoe.DSelectKGate(num_nonzeros=2, gamma=0.5),
    "hash": tfmoe.HashGate(column="user"),
}


def inputs(rows=6):
    return np.random.default_rng(0).normal(size=(rows, FEATURES)).astype("float32")


def built(num_levels=2, gate=None, **options):
    structure = tfmoe.PLE(TASKS, num_levels, gate=gate, **{**SIZES, **options})
    structure.build((None, FEATURES))
    shake(structure)
    return structure


def by_hand(structure):
    """The structure's levels as functions, with softmax gates."""
    levels = []
    for level in structure.levels:
        own, shared = (
            [functools.partial(reference.network, layers=layers) for layers in networks(experts)]
            for experts in (level.own_experts, level.shared_experts)
        )
        m = structure.num_task_experts
        levels.append(
            {
                "own": [own[t * m : t * m + m] for t in range(TASKS)],
                "shared": shared,
                "gates": softmax_gates(level.gate, TASKS),
                "shared_gate": level.shared_gate and softmax_gates(level.shared_gate, 1)[0],
            }
        )
    return levels


def softmax_gates(gate, num_tasks):
    if gate.router == "static":
        rows = gate.head.scores.numpy().reshape(num_tasks, -1)
        return [lambda x, row=row: reference.softmax(row) for row in rows]
    kernels = np.split(gate.head.kernel.numpy(), num_tasks, axis=1)
    return [lambda x, kernel=kernel: reference.softmax(x @ kernel) for kernel in kernels]


@pytest.mark.quick(4)
@pytest.mark.parametrize("kind", ["softmax", "static"])
@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_ple_matches_reference(num_levels, kind):
    structure = built(num_levels, GATES[kind])
    expected = structures.ple(inputs(), by_hand(structure))
    got, records = structure(inputs(), return_aux=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert [record.weights.shape[1:] for record in records] == [
        *[(TASKS, 5), (1, 9)] * (num_levels - 1),
        (TASKS, 5),
    ]
    assert structure.shared_point() == "inputs"


def test_cgc_is_ple_of_one_level():
    ple, cgc = built(1), tfmoe.CGC(TASKS, **SIZES)
    cgc.build((None, FEATURES))
    for own, weight in zip(cgc.weights, ple.weights, strict=True):
        own.assign(weight)
    np.testing.assert_array_equal(cgc(inputs()), ple(inputs()))
    assert "num_levels" not in cgc.get_config()


@pytest.mark.quick(5)
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("num_levels", [1, 2, 3])
@pytest.mark.parametrize("dispatch", ["dense", "sparse"])
def test_a_row_gets_what_its_task_gets(num_levels, kind, dispatch):
    structure = built(num_levels, GATES[kind], dispatch=dispatch)
    task = np.array([0, 2, 1, 1, 0, 2], "int32")
    context = {"ids": np.array([5, 9, 2, 4, 7, 1], "int32")} if kind == "hash" else None
    whole, records = structure(inputs(), context=context, return_aux=True)
    own, of_rows = structure(inputs(), task=task, context=context, return_aux=True)
    np.testing.assert_allclose(own[:, 0], whole.numpy()[np.arange(6), task], rtol=1e-5, atol=1e-6)
    for record, row in zip(records, of_rows, strict=True):
        weights = np.broadcast_to(record.weights, (6, *record.weights.shape[1:]))
        place = task if weights.shape[1] > 1 else 0
        np.testing.assert_allclose(
            row.weights[:, 0], weights[np.arange(6), place], rtol=1e-5, atol=1e-6
        )
        assert row.has_task


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", [kind for kind in GATES if kind != "softmax"])
@pytest.mark.parametrize("one_task", [False, True])
def test_sparse_compute_is_dense_compute(kind, one_task):
    task = np.array([0, 2, 1, 1, 0, 2], "int32") if one_task else None
    context = {"ids": np.array([5, 9, 2, 4, 7, 1], "int32")} if kind == "hash" else None
    dense, sparse = (built(2, GATES[kind], dispatch=way) for way in ("dense", "sparse"))
    for own, weight in zip(sparse.weights, dense.weights, strict=True):
        own.assign(weight)
    np.testing.assert_allclose(
        sparse(inputs(), task=task, context=context),
        dense(inputs(), task=task, context=context),
        rtol=1e-5,
        atol=1e-6,
    )


def test_one_task_a_row_is_sparse_whatever_the_gate():
    structure = tfmoe.CGC(20, 1, 1, (8,), dispatch="sparse")
    structure.build((None, FEATURES))
    assert structure.computes_sparsely(one_task=True)
    assert not structure.computes_sparsely()


def test_no_row_depends_on_its_batch_mates():
    structure = built(2, GATES["top_k"], dispatch="sparse")
    whole = structure(inputs())
    for row in range(6):
        alone = structure(inputs()[row : row + 1])
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-5, atol=1e-6)


def test_an_experts_gradient_comes_from_its_tasks_alone():
    structure = tfmoe.CGC(TASKS, **SIZES)
    structure.build((None, FEATURES))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(structure(inputs())[:, 1])
    kernel = structure.levels[0].own_experts.kernels[0]
    gradient = tape.gradient(loss, kernel.value).numpy()
    used = [bool(np.any(part)) for part in gradient]
    assert used == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_levels": 0}, r"PLE needs `num_levels`.*at least 1"),
        ({"num_task_experts": 0}, "`num_task_experts`"),
        ({"num_shared_experts": 0}, "`num_shared_experts`"),
        ({"gate": "softmax"}, r"tfmoe's gates.*Received gate='softmax'"),
        ({"dispatch": "fast"}, "Received dispatch='fast'"),
    ],
)
def test_bad_arguments_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.PLE(2, **options)


def test_inputs_of_another_rank_are_told():
    with pytest.raises(ValueError, match=r"PLE takes inputs of shape \(batch, features\)"):
        tfmoe.PLE(2)(np.ones((2, 3, 4)))


@pytest.mark.slow
def test_it_trains_and_saves_in_a_functional_model(tmp_path):
    x = inputs(64)
    y = np.stack([x[:, 0], -x[:, 0], x[:, 1]], axis=1)[..., None]
    symbol = keras.Input((FEATURES,))
    mixed = tfmoe.PLE(TASKS, 2, 1, 1, (8,), tfmoe.SoftmaxGate())(symbol)
    outputs = keras.ops.stack(tfmoe.Towers((1, 1, 1), (4,))(mixed), axis=1)
    model = keras.Model(symbol, outputs)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    losses = model.fit(x, y, epochs=25, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)
