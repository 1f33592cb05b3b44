import functools

import keras
import numpy as np
import pytest

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.oracles import reference, structures
from tests.structures.test_ple import GATES, inputs, softmax_gates
from tfmoe.experts.feature_gated import FeatureGatedExperts

FEATURES, TASKS = 5, 3
GROUPS = [[1], [0, 2]]
SIZES = {"num_group_experts": 3, "hidden_units": (6, 4), "rank": 2}


def built(groups=GROUPS, num_tasks=TASKS, **options):
    structure = tfmoe.HoME(num_tasks, groups, **{**SIZES, **options})
    structure.build((None, FEATURES))
    shake(structure)
    return structure


def swish(x):
    return x / (1 + np.exp(-x))


def functions(experts):
    """Each expert as a function of one row's vector."""
    return [
        functools.partial(
            structures.feature_gated,
            down=down,
            up=up,
            network=functools.partial(reference.network, layers=layers, activation=swish),
        )
        for layers, down, up in zip(
            networks(experts), experts.downs.numpy(), experts.ups.numpy(), strict=True
        )
    ]


def self_gates(kernel):
    def weights(x, matrix):
        scores = x @ matrix
        return 1 / (1 + np.exp(-scores)) if len(scores) == 1 else reference.softmax(scores)

    return [functools.partial(weights, matrix=matrix) for matrix in kernel.numpy()]


def split(experts, num, each):
    return [experts[i * each : (i + 1) * each] for i in range(num)], experts[num * each :]


def by_hand(structure):
    """Its levels as functions, with softmax gates."""
    num, m, n = structure.num_groups, structure.num_task_experts, structure.num_group_experts
    of_groups, shared = split(functions(structure.meta_experts), num, n)
    meta = {
        "own": of_groups,
        "shared": shared,
        "gates": softmax_gates(structure.group_gate, num),
        "shared_gate": softmax_gates(structure.shared_gate, 1)[0],
        "self_gates": self_gates(structure.group_self_gate),
        "shared_self_gate": self_gates(structure.shared_self_gate)[0],
    }
    own, others = split(functions(structure.task_experts), TASKS, m)
    of_groups, shared = split(others, num, n)
    tasks = {
        "own": own,
        "of_groups": of_groups,
        "shared": shared,
        "gates": softmax_gates(structure.task_gate, TASKS),
        "self_gates": self_gates(structure.task_self_gate),
    }
    return meta, tasks


@pytest.mark.parametrize("kind", ["softmax", "static"])
@pytest.mark.parametrize("num_own", [1, 2])
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["one-group", "groups"])
def test_home_matches_reference(groups, num_own, kind):
    structure = built(
        groups, num_task_experts=num_own, num_shared_experts=num_own, gate=GATES[kind]
    )
    group_of = [0, 0, 0] if groups is None else [1, 0, 1]
    expected = structures.home(inputs(), group_of, *by_hand(structure))
    got, records = structure(inputs(), return_aux=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    num = len(set(group_of))
    assert [record.weights.shape[1:] for record in records] == [
        (num, 3 + num_own),
        (1, 3 * num + num_own),
        (TASKS, 2 * num_own + 3),
    ]
    assert structure.shared_point() == "inputs"


@pytest.mark.parametrize("own_inputs", [False, True])
def test_feature_gated_experts_match_reference(own_inputs):
    experts = FeatureGatedExperts(3, (6, 4), rank=2, activation="swish", layer_norm=True)
    x = np.random.default_rng(0).normal(size=(4, 3, FEATURES) if own_inputs else (4, FEATURES))
    experts.build(x.shape)
    shake(experts)
    expected = [
        [one(row[e] if own_inputs else row) for e, one in enumerate(functions(experts))]
        for row in x
    ]
    np.testing.assert_allclose(experts(x), expected, rtol=1e-4, atol=1e-5)
    again = FeatureGatedExperts.from_config(experts.get_config())
    assert again.get_config() == experts.get_config()
    with pytest.raises(ValueError, match="compute all experts of a row"):
        experts(x, chosen=np.array([[0]] * 4))


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", GATES)
def test_a_row_gets_what_its_task_gets_and_no_row_depends_on_another(kind):
    structure = built(gate=GATES[kind])
    task = np.array([0, 2, 1, 1, 0, 2], "int32")
    context = {"ids": np.array([5, 9, 2, 4, 7, 1], "int32")} if kind == "hash" else None
    whole, records = structure(inputs(), context=context, return_aux=True)
    own, of_rows = structure(inputs(), task=task, context=context, return_aux=True)
    np.testing.assert_allclose(own[:, 0], whole.numpy()[np.arange(6), task], rtol=1e-5, atol=1e-6)
    group = np.array([1, 0, 1])[task]
    for record, row, place in zip(records, of_rows, (group, 0 * task, task), strict=True):
        weights = np.broadcast_to(record.weights, (6, *record.weights.shape[1:]))
        np.testing.assert_allclose(row.weights[:, 0], weights[np.arange(6), place], rtol=1e-5)
        np.testing.assert_array_equal(row.task, place)
    if context is None:
        for i in (0, 4):
            alone = structure(inputs()[i : i + 1])
            np.testing.assert_allclose(alone[0], whole[i], rtol=1e-5, atol=1e-6)


def test_an_own_experts_gradient_comes_from_its_task_and_a_groups_from_its_group():
    structure = built(gate=tfmoe.SoftmaxGate())
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(structure(inputs())[:, 1])
    kernels = [structure.task_experts.kernels[0], structure.meta_experts.kernels[0]]
    of_tasks, of_groups = tape.gradient(loss, [kernel.value for kernel in kernels])
    used = [bool(np.any(part)) for part in of_tasks.numpy()]
    # Own ones of three tasks, then of two groups, then shared ones.
    own = [False, False, True, True, False, False]
    assert used == [*own, True, True, True, False, False, False, True, True]
    # The shared stream is made of all.
    assert all(np.any(part) for part in of_groups.numpy())


def test_self_gates_pass_gradients_to_experts_that_the_gate_does_not_select():
    structure = built(gate=tfmoe.TopKGate(num_nonzeros=1, router="static"), num_task_experts=3)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(structure(inputs()) ** 2)
    gradient = tape.gradient(loss, structure.task_experts.kernels[0].value).numpy()
    assert all(np.any(part) for part in gradient[: 3 * TASKS])


@pytest.mark.parametrize(
    ("groups", "tasks", "left"),
    [
        (None, [2, 0], None),
        (GROUPS, [2, 0], [[], [1, 0]]),
        (GROUPS, [1, 2], [[0], [1]]),
        ([[2], [0], [1]], [1], [[], [], [0]]),
    ],
)
def test_it_stands_alone_for_some_tasks(groups, tasks, left):
    structure = built(groups)
    experts = structure.kept([[0], [0], [0, 2, 3, 6]], tasks)
    assert experts == [list(range(5)), list(range(structure.num_groups * 3 + 2)), [0, 1, 2, 3, 6]]
    part = part_of(structure, tasks)
    assert part.get_config()["groups"] == left
    whole = structure(inputs()).numpy()
    np.testing.assert_allclose(part(inputs()), whole[:, tasks], rtol=1e-5, atol=1e-6)
    present = len({structure.group_of[t] for t in tasks})
    assert part.task_experts.num_experts == 2 * len(tasks) + 3 * present + 2
    alone = part_of(part, [0])
    np.testing.assert_allclose(alone(inputs()), whole[:, tasks[:1]], rtol=1e-5, atol=1e-6)


def part_of(structure, tasks):
    experts = [list(range(gate.num_experts)) for gate in structure.gates]
    config = structure.select(experts, tasks)
    config["config"]["num_tasks"] = len(tasks)
    part = keras.saving.deserialize_keras_object(config)
    part.build((None, FEATURES))
    part.copy_from(structure, tasks, experts)
    return part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_task_experts": 0}, r"HoME needs `num_task_experts`.*at least 1"),
        ({"num_group_experts": 0}, "`num_group_experts`"),
        ({"num_shared_experts": 0}, "`num_shared_experts`"),
        ({"rank": 0}, "HoME needs `rank`"),
        ({"gate": "softmax"}, r"tfmoe's gates.*Received gate='softmax'"),
        ({"groups": [0, 1]}, r"sequences of tasks' numbers. Received groups=\[0, 1\]"),
        (
            {"groups": [[0]]},
            r"each task, 0 to 1, in one of its `groups`. Received groups=\[\[0\]\]",
        ),
        ({"groups": [[0, 1], [1]]}, "in one of its `groups`"),
    ],
)
def test_bad_arguments_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.HoME(2, **options)


def test_what_only_the_model_knows_is_told_when_it_is_built():
    with pytest.raises(ValueError, match="each task, 0 to 2"):
        tfmoe.MultiTaskModel(
            tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [tfmoe.Binary(n) for n in "abc"]),
            tfmoe.HoME(groups=[[0, 1]]),
        )
    with pytest.raises(ValueError, match=r"HoME takes inputs of shape \(batch, features\)"):
        tfmoe.HoME(2)(np.ones((2, 3, 4)))


@pytest.mark.slow
def test_it_trains_and_saves_in_a_functional_model(tmp_path):
    x = inputs(64)
    y = np.stack([x[:, 0], -x[:, 0], x[:, 1]], axis=1)[..., None]
    symbol = keras.Input((FEATURES,))
    mixed = tfmoe.HoME(TASKS, GROUPS, 1, 1, 1, (8,), 2, tfmoe.SoftmaxGate())(symbol)
    outputs = keras.ops.stack(tfmoe.Towers((1, 1, 1), (4,))(mixed), axis=1)
    model = keras.Model(symbol, outputs)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    losses = model.fit(x, y, epochs=25, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)
