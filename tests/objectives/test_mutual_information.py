import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tests.oracles import reference
from tfmoe.objectives.mutual_information import (
    InformationTracker,
    joint_of,
    mutual_information,
    tracker_of,
)

TASKS, EXPERTS, ROWS = 3, 5, 8


def disjoint(num_tasks, num_experts):
    """Joint of tasks that use blocks of experts of their own."""
    return np.kron(np.eye(num_tasks), np.ones((1, num_experts // num_tasks)))


@pytest.mark.parametrize(
    ("joint", "expected"),
    [
        (np.ones((4, 8)), 0.0),
        (np.eye(8)[[2] * 4], 0.0),  # all tasks on one expert
        (disjoint(4, 8), np.log(4)),
        (disjoint(4, 8) * 1e-20, np.log(4)),
        (disjoint(3, 3) * [[1000], [100], [100]], 0.566),  # the entropy of the tasks
        (np.zeros((2, 2)), 0.0),  # no labels at all
    ],
)
def test_anchors(joint, expected):
    value = float(mutual_information(keras.ops.array(joint, "float32")))
    assert value == pytest.approx(expected, abs=1e-3)


def test_a_uniform_prior_hears_a_rare_task():
    joint = keras.ops.array(disjoint(3, 3) * [[1000], [100], [100]], "float32")
    loss = tfmoe.MutualInformationLoss(task_prior="uniform")
    assert float(loss.information(joint)) == pytest.approx(np.log(3), rel=1e-5)
    absent = keras.ops.array(disjoint(3, 3) * [[1000], [100], [0]], "float32")
    assert float(loss.information(absent)) == pytest.approx(np.log(2), rel=1e-5)


@given(st.integers(0, 10_000), st.sampled_from(["counts", "uniform"]))
def test_gradient_agrees_with_finite_differences(seed, prior):
    rng = np.random.default_rng(seed)
    joint = rng.uniform(0.1, 2, (TASKS, EXPERTS))
    if seed % 3 == 0:
        joint[0, :2] = 0
    loss = tfmoe.MutualInformationLoss(task_prior=prior)
    x = tf.constant(joint, "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss.information(x)
    gradient = tape.gradient(value, x).numpy()
    assert np.isfinite(gradient).all()
    if np.any(joint == 0):
        return  # there is no slope in all directions
    direction = rng.normal(size=joint.shape)
    steps = [
        reference.mutual_information(joint + sign * 1e-5 * direction, prior) for sign in (1, -1)
    ]
    slope = (steps[0] - steps[1]) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def record_of(tokens=1, own=False, static=False, masked=False, seed=0):
    """A gate's record, and the labels of its rows."""
    rng = np.random.default_rng(seed)
    rows = 1 if static else ROWS * tokens
    scores = rng.normal(size=(rows, 1 if own else TASKS, EXPERTS))
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    record = tfmoe.GateOutput(probabilities=keras.ops.array(shares, "float32"))
    task = rng.integers(TASKS, size=ROWS)
    if own:
        record = record._replace(task=keras.ops.array(np.repeat(task, tokens), "int32"))
    if masked:
        record = record._replace(mask=keras.ops.array(rng.integers(0, 2, rows), "float32"))
    labels = rng.integers(0, 2, ROWS if own else (ROWS, TASKS)).astype("float32")
    return record, labels


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"static": True},
        {"own": True},
        {"tokens": 3, "masked": True},
        {"tokens": 3, "own": True, "masked": True},
    ],
)
def test_joint_matches_loops(options):
    record, labels = record_of(**options)
    expected = reference.task_expert_sums(
        np.array(record.probabilities),
        labels,
        TASKS,
        np.array(record.task) if record.has_task else None,
        np.array(record.mask) if record.has_mask else None,
    )
    joint = joint_of(record, keras.ops.array(labels), TASKS)
    np.testing.assert_allclose(joint, expected, rtol=1e-5)


def test_a_batch_of_one_row_with_a_task_of_its_own():
    shares = keras.ops.array([[[0.1, 0.2, 0.7]]])
    record = tfmoe.GateOutput(probabilities=shares, task=keras.ops.array([2], "int32"))
    joint = np.array(joint_of(record, keras.ops.ones(1), 4))
    np.testing.assert_allclose(joint, [[0] * 3, [0] * 3, [0.1, 0.2, 0.7], [0] * 3])


def test_tiny_shares_have_finite_gradients():
    joint = tf.constant([[1.0, 1e-25], [1e-25, 1e-30]])
    with tf.GradientTape() as tape:
        tape.watch(joint)
        information = mutual_information(joint)
    assert np.isfinite(tape.gradient(information, joint)).all()
    assert float(information) == pytest.approx(0, abs=1e-6)


def test_momentum_averages_over_steps():
    gate = tfmoe.SoftmaxGate(TASKS, EXPERTS)
    tracker = InformationTracker(tfmoe.MutualInformationLoss(2.0, momentum=0.9), {0: gate})
    average = 0.0
    for seed in range(3):
        record, labels = record_of(seed=seed)
        loss = tracker.add([record], keras.ops.array(labels), training=True)
        joint = np.array(joint_of(record, keras.ops.array(labels), TASKS))
        average = 0.9 * average + 0.1 * joint
        expected = -2.0 * reference.mutual_information(average)
        assert float(loss) == pytest.approx(expected, rel=1e-4)
    alone = tracker.add([record], keras.ops.array(labels), training=False)
    assert float(alone) == pytest.approx(-2.0 * reference.mutual_information(joint), rel=1e-4)
    tracker.reset_state()
    assert float(tracker.result()) == 0
    np.testing.assert_allclose(tracker.joints[0], average, rtol=1e-5)


def rows_of(num_rows=120):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(1.0, size=num_rows).astype("float32")}
    return x, {name: rng.integers(0, 2, num_rows).astype("float32") for name in ("t0", "t1")}


def compiled(aux_losses, gate=None):
    keras.utils.set_random_seed(0)
    schema = tfmoe.Schema(
        [tfmoe.Numeric("a", transform="none")], [tfmoe.Binary("t0"), tfmoe.Binary("t1")]
    )
    gate = gate or tfmoe.TopKGate(kernel_initializer=keras.initializers.RandomNormal(seed=1))
    model = tfmoe.MultiTaskModel(schema, tfmoe.MMoE(num_experts=4, hidden_units=(4,), gate=gate))
    optimizer = keras.optimizers.Adam(0.05)
    model.compile(optimizer, jit_compile=False, aux_losses=aux_losses)
    return model


@pytest.mark.slow
def test_training_raises_it_and_the_history_tells(tmp_path):
    x, y = rows_of()
    y["t1"][::2] = np.nan
    loss = tfmoe.MutualInformationLoss(weight=5.0)
    with_loss, without = (
        compiled(aux).fit(x, y, validation_data=(x, y), epochs=6, verbose=0).history
        for aux in (loss, None)
    )
    information = with_loss["val_mutual_information"]
    assert information[-1] > max(2 * information[0], 0.1)
    assert "mutual_information" not in without
    # Only in training is it part of the loss.
    labels = sum(with_loss[f"val_{name}_loss"][-1] for name in ("t0", "t1"))
    assert with_loss["val_loss"][-1] == pytest.approx(labels, rel=1e-5)
    labels = sum(with_loss[f"{name}_loss"][-1] for name in ("t0", "t1"))
    assert with_loss["loss"][-1] < labels - 1e-3
    model = compiled([loss])
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_compile_config() == model.get_compile_config()
    assert "mutual_information" in again.fit(x, y, verbose=0).history


@pytest.mark.slow
def test_a_missing_label_has_no_part_in_it():
    x, y = rows_of()
    losses = []
    for other in (0.0, 5.0):
        y["t1"][60:] = np.nan
        x = {"a": np.where(np.arange(120) < 60, x["a"], other).astype("float32")}
        y["t0"][60:] = np.nan
        model = compiled(tfmoe.MutualInformationLoss())
        losses.append(model.evaluate(x, y, verbose=0, exact=False)["mutual_information"])
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.MutualInformationLoss(-1), "finite `weight` of at least 0. Received"),
        (lambda: tfmoe.MutualInformationLoss(task_prior="flat"), "Received task_prior=\"?'?flat"),
        (lambda: tfmoe.MutualInformationLoss(momentum=1.0), "below 1. Received momentum=1.0"),
        (lambda: compiled("mse"), "MutualInformationLoss or a list with one. Received 'mse'"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mixture_without_tasks_to_tell_apart_is_refused():
    schema = tfmoe.Schema([tfmoe.Numeric("a", transform="none")], [tfmoe.Binary("t0")])
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)))
    with pytest.raises(ValueError, match="Received a mixture SharedBottom without one"):
        model.compile(aux_losses=tfmoe.MutualInformationLoss())


@pytest.mark.parametrize(
    ("make", "places"),
    [
        (lambda: tfmoe.PLE(3, 2, hidden_units=(4,)), (0, 2)),
        (lambda: tfmoe.HoME(3, [[1], [0, 2]], hidden_units=(4,)), (2,)),
        (lambda: tfmoe.HoME(3, [[1], [0], [2]], hidden_units=(4,)), (2,)),
    ],
    ids=["ple", "home", "home-of-singles"],
)
def test_gates_of_all_tasks_or_of_groups_are_left_out(make, places):
    structure = make()
    structure.build((None, 5))
    assert tracker_of(tfmoe.MutualInformationLoss(), structure).places == places


def test_experts_of_tasks_of_their_own_are_not_one():
    """Each task's gate counts its own experts from 0; tasks on theirs alone share nothing."""
    schema = tfmoe.Schema(
        [tfmoe.Numeric("a", transform="none")], [tfmoe.Binary("x"), tfmoe.Binary("z")]
    )
    structure = tfmoe.CGC(num_task_experts=1, num_shared_experts=1, hidden_units=(4,))
    model = tfmoe.MultiTaskModel(schema, structure)
    for momentum in (0.0, 0.5):
        loss = tfmoe.MutualInformationLoss(momentum=momentum)
        model.compile("sgd", aux_losses=loss, jit_compile=False)
        rows, labels = {"a": np.ones(8, "float32")}, dict.fromkeys("xz", np.tile([0.0, 1.0], 4))
        kernel = model.structure.gates[0].head.kernel
        for own, expected in ((30.0, np.log(2)), (-30.0, 0.0)):  # own experts, and the shared one
            kernel.assign(np.reshape([own, 0.0] * 2, kernel.shape))
            found = model.evaluate(rows, labels, verbose=0)["mutual_information"]
            assert found == pytest.approx(expected, abs=1e-5)
        model.fit(rows, labels, verbose=0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: tfmoe.PLE(2, 2, 2, 1, hidden_units=(4,)),
            [[[0, 1, 4], [2, 3, 4]], None, [[0, 1, 4], [2, 3, 4]]],
        ),
        (
            lambda: tfmoe.HoME(
                3,
                [[1], [0, 2]],
                num_task_experts=1,
                num_group_experts=2,
                num_shared_experts=1,
                hidden_units=(4,),
            ),
            [
                [[0, 1, 4], [2, 3, 4]],
                None,
                [[0, 5, 6, 7], [1, 3, 4, 7], [2, 5, 6, 7]],
            ],
        ),
        (lambda: tfmoe.MMoE(2, 3, hidden_units=(4,)), [None]),
    ],
    ids=["ple", "home", "mmoe"],
)
def test_experts_have_numbers_among_those_of_all_tasks(make, expected):
    structure = make()
    structure.build((None, 5))
    assert [structure.expert_numbers(gate) for gate in structure.gates] == expected
