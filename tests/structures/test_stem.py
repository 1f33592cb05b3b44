import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tests.experts.test_experts import shake
from tests.oracles import structures
from tests.structures.test_ple import GATES, softmax_gates
from tests.structures.test_streams import functions

FEATURES, TASKS, OWN = 5, 3, 2
SIZES = {"num_task_experts": OWN, "num_shared_experts": 3, "hidden_units": (6, 4)}


def encodings(rows=6, num=TASKS + 1):
    return np.random.default_rng(0).normal(size=(rows, num, FEATURES)).astype("float32")


def built(gate=None, **options):
    structure = tfmoe.STEM(TASKS, gate=gate, **{**SIZES, **options})
    structure.build((None, TASKS + 1, FEATURES))
    shake(structure)
    return structure


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("kind", ["softmax", "static"])
def test_stem_matches_reference(kind, layer_norm):
    structure = built(GATES[kind], layer_norm=layer_norm)
    experts = functions(structure.experts)
    own = [experts[t * OWN : (t + 1) * OWN] for t in range(TASKS)]
    gates = softmax_gates(structure.gate, TASKS)
    expected = structures.stem(encodings(), own, experts[TASKS * OWN :], gates)
    got, (record,) = structure(encodings(), return_aux=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert record.weights.shape[1:] == (TASKS, 9)
    assert structure.input_kind == "copies"
    assert structure.encodings == [0, 1, 2, 3]
    assert structure.shared_point() == "inputs"


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", GATES)
def test_a_row_gets_what_its_task_gets_and_no_row_depends_on_another(kind):
    structure = built(GATES[kind])
    task = np.array([0, 2, 1, 1, 0, 2], "int32")
    context = {"ids": np.array([5, 9, 2, 4, 7, 1], "int32")} if kind == "hash" else None
    whole, (record,) = structure(encodings(), context=context, return_aux=True)
    own, (of_rows,) = structure(encodings(), task=task, context=context, return_aux=True)
    np.testing.assert_allclose(own[:, 0], whole.numpy()[np.arange(6), task], rtol=1e-5, atol=1e-6)
    weights = np.broadcast_to(record.weights, (6, *record.weights.shape[1:]))
    place = task if weights.shape[1] > 1 else 0
    np.testing.assert_allclose(of_rows.weights[:, 0], weights[np.arange(6), place], rtol=1e-5)
    assert of_rows.has_task
    if context is None:
        for i in (0, 4):
            alone = structure(encodings()[i : i + 1])
            np.testing.assert_allclose(alone[0], whole[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("one_task", [False, True])
def test_no_gradient_goes_from_a_task_into_what_is_anothers(one_task):
    structure = built()
    x, kernel = tf.constant(encodings()), structure.experts.kernels[0].value
    with tf.GradientTape() as tape:
        tape.watch(x)
        task = np.full(6, 1, "int32") if one_task else None
        outputs = structure(x, task=task)
        loss = tf.reduce_sum(outputs[:, 0] if one_task else outputs[:, 1])
    of_experts, of_encodings, of_gate = tape.gradient(
        loss, [kernel, x, structure.gate.head.kernel.value]
    )
    used = [bool(np.any(part)) for part in of_experts.numpy()]
    assert used == [False, False, True, True, False, False, True, True, True]
    assert [bool(np.any(of_encodings[:, i])) for i in range(4)] == [False, True, False, True]
    # The gate learns what the other tasks' experts are worth.
    by_expert = of_gate.numpy().reshape(FEATURES, TASKS, 9)
    assert np.all(np.any(by_expert[:, 1] != 0, axis=0))
    assert not np.any(by_expert[:, [0, 2]])


def part_of(structure, tasks, experts):
    (kept,) = structure.kept([experts], tasks)
    config = structure.select([kept], tasks)
    config["config"]["num_tasks"] = len(tasks)
    part = keras.saving.deserialize_keras_object(config)
    part.build((None, len(part.encodings), FEATURES))
    part.copy_from(structure, tasks, [kept])
    return part


def test_it_stands_alone_with_the_experts_that_are_used():
    gate = tfmoe.SoftmaxGate(router="static")
    structure = built(gate)
    # Task 2 uses its own second expert, one of task 0 and one that is shared; task 0 none of its
    # own, but its gate reads its encoding.
    scores = np.full((TASKS, 9), -1e9, "float32")
    scores[2, [1, 5, 8]] = [0.5, 1.0, 0.2]
    scores[0, [5, 8]] = 1.0
    structure.gate.head.scores.assign(scores.reshape(structure.gate.head.scores.shape))
    whole = structure(encodings()).numpy()
    part = part_of(structure, [2, 0], [1, 5, 8])
    assert part.encodings == [0, 2, 3]
    np.testing.assert_allclose(part(encodings()[:, [0, 2, 3]]), whole[:, [2, 0]], atol=1e-6)
    task = np.array([1, 0, 1, 1, 0, 0], "int32")
    own = part(encodings()[:, [0, 2, 3]], task=task).numpy()[:, 0]
    np.testing.assert_allclose(own, whole[np.arange(6), np.array([2, 0])[task]], atol=1e-6)
    last = part_of(part, [1], [1, 2])
    assert (last.encodings, last.expert_ids) == ([0, 2, 3], [5, 8])
    np.testing.assert_allclose(last(encodings()[:, [0, 2, 3]]), whole[:, [0]], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.STEM(2, 0), r"STEM needs `num_task_experts`.*at least 1"),
        (lambda: tfmoe.STEM(2, 1, 0), "STEM needs `num_shared_experts`"),
        (lambda: tfmoe.STEM(2, gate="softmax"), "Received gate='softmax'"),
        (lambda: tfmoe.STEM(2)(np.ones((4, 5))), r"\(batch, 3, features\).*copies=3\) makes them"),
        (lambda: tfmoe.STEM(2)(np.ones((4, 2, 5))), r"Received shape \(4, 2, 5\)"),
    ],
)
def test_bad_arguments_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_it_trains_and_saves_in_a_functional_model(tmp_path):
    x = encodings(64)
    y = np.stack([x[:, 0, 0], -x[:, 1, 0], x[:, 3, 1]], axis=1)[..., None]
    symbol = keras.Input((TASKS + 1, FEATURES))
    mixed = tfmoe.STEM(TASKS, 1, 1, (8,))(symbol)
    outputs = keras.ops.stack(tfmoe.Towers((1, 1, 1), (4,))(mixed), axis=1)
    model = keras.Model(symbol, outputs)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    losses = model.fit(x, y, epochs=30, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)
