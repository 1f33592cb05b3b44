import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.oracles import reference
from tfmoe.heads.extended import ExtendedTowers

OUTPUTS, UNITS = (1, 3, 2), 5


def inputs(num_tasks=3):
    return np.random.default_rng(0).normal(size=(4, num_tasks, UNITS)).astype("float32")


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden_units", [(), (6,), (6, 4)])
@pytest.mark.parametrize("num_outputs", [OUTPUTS, 6 * OUTPUTS], ids=len)
def test_towers_match_reference(num_outputs, hidden_units, layer_norm):
    layer = tfmoe.Towers(num_outputs, hidden_units, layer_norm=layer_norm)
    layer.build((None, len(num_outputs), UNITS))
    shake(layer)
    heads = [
        (layer.kernel.numpy()[t, :, :size], layer.bias.numpy()[t, :size])
        for t, size in enumerate(num_outputs)
    ]
    x = inputs(num_tasks=len(num_outputs))
    expected = reference.towers(x, networks(layer.hidden), heads)
    outputs = layer(x)
    assert [tuple(o.shape) for o in outputs] == [(4, size) for size in num_outputs]
    for got, want in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden_units", [(), (6,), (6, 4)])
@pytest.mark.parametrize("num_outputs", [OUTPUTS, 6 * OUTPUTS], ids=len)
def test_a_row_of_one_task_gets_its_own_tower(num_outputs, hidden_units, layer_norm, jit_compile):
    layer = tfmoe.Towers(num_outputs, hidden_units, layer_norm=layer_norm)
    layer.build((None, 1, UNITS))
    shake(layer)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 1, UNITS)).astype("float32")
    task = rng.integers(len(num_outputs) - 1, size=40)  # the last one has no rows
    upstream = rng.normal(size=(40, 3)).astype("float32")
    upstream *= np.arange(3) < np.array(num_outputs)[task][:, None]

    @tf.function(jit_compile=jit_compile)
    def run(own):
        with tf.GradientTape() as tape:
            tape.watch(x_tensor := tf.constant(x))
            if own:
                outputs = layer(x_tensor, task=tf.constant(task))
            else:
                logits = layer(tf.repeat(x_tensor, len(num_outputs), axis=1))
                padded = [tf.pad(one, [[0, 0], [0, 3 - one.shape[1]]]) for one in logits]
                outputs = tf.gather(tf.stack(padded, axis=1), task, axis=1, batch_dims=1)
            loss = tf.reduce_sum(tf.where(upstream != 0, outputs * upstream, 0.0))
        weights = [weight.value for weight in layer.trainable_weights]
        return tf.where(upstream != 0, outputs, 0.0), tape.gradient(loss, [x_tensor, *weights])

    got, expected = run(True), run(False)
    for one, other in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("hidden_units", [(), (6,), (6, 4)])
@pytest.mark.parametrize("num_outputs", [OUTPUTS, 6 * OUTPUTS], ids=len)
def test_one_input_for_all_is_read_as_its_copies(num_outputs, hidden_units, linked):
    links = {"1": ("dbmtl", 0)} if linked else None
    layer = tfmoe.Towers(num_outputs, hidden_units, layer_norm=True, links=links)
    layer.build((None, len(num_outputs), UNITS))
    shake(layer)
    found = []
    for repeats in (1, len(num_outputs)):
        x = tf.constant(inputs(num_tasks=1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(tf.repeat(x, repeats, axis=1))
            loss = tf.add_n([tf.reduce_sum(tf.sin(one)) for one in outputs])
        weights = [weight.value for weight in layer.trainable_weights]
        found.append([*outputs, *tape.gradient(loss, [x, *weights])])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_tasks_never_start_alike():
    initializer = keras.initializers.GlorotUniform(seed=4)
    layer = tfmoe.Towers((1, 1), (UNITS, 1), kernel_initializer=initializer)
    layer.build((None, 2, UNITS))
    for kernel in (*layer.hidden.kernels, layer.kernel):
        assert np.all(kernel.numpy()[0] != kernel.numpy()[1])


def test_a_tower_reads_its_own_task_only():
    layer = tfmoe.Towers(OUTPUTS, (4,))
    before = layer(inputs())
    changed = inputs()
    changed[:, 1] += 1
    after = layer(changed)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after[2], before[2], rtol=1e-5, atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-2


@pytest.mark.parametrize("task", [-1, 3])
def test_tasks_out_of_range_are_told(task):
    rows = np.ones((2, 1, UNITS), "float32")
    with pytest.raises(ValueError, match=f"from 0 to 2. Received {task}"):
        tfmoe.Towers(OUTPUTS)(rows, task=np.array([0, task]))
    with pytest.raises(ValueError, match=f"from 0 to 2. Received {task}"):
        tfmoe.TopKGate(3, 4)(rows[:, 0], task=np.array([0, task]))


def test_logits_keep_their_digits_in_half_precision():
    layer = tfmoe.Towers((1,), (), dtype="mixed_bfloat16")
    layer.build((None, 1, 1))
    layer.kernel.assign([[[1.0]]])
    layer.bias.assign([[1000.0]])
    np.testing.assert_array_equal(layer(np.full((1, 1, 1), 0.5)), [[[1000.5]]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.Towers(()), r"at least one task. Received num_outputs=\(\)"),
        (lambda: tfmoe.Towers((1, 0)), "at least 1. Received num_outputs=0"),
        (lambda: tfmoe.Towers(2), r"sequence of integers. Received num_outputs=2.*\(2,\)"),
        (lambda: tfmoe.Towers((1,), (0,)), "Received hidden_units=0"),
        (lambda: tfmoe.Towers((1,))(inputs()), r"of each row. Received shape \(4, 3, 5\)"),
        (lambda: tfmoe.Towers((1,))(inputs()[:, 0]), r"Received shape \(4, 5\)"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_towers_take_over_weights_of_some_tasks():
    wide, narrow = tfmoe.Towers((1, 3, 2), (4,)), tfmoe.Towers((2, 1), (4,))
    for towers in (wide, narrow):
        towers.build((None, len(towers.num_outputs), 5))
    narrow.copy_from(wide, [2, 0])
    x = np.random.default_rng(0).normal(size=(6, 3, 5)).astype("float32")
    expected = wide(x)
    for found, right in zip(narrow(x[:, [2, 0]]), [expected[2], expected[0]], strict=True):
        np.testing.assert_allclose(found, right, atol=1e-6)


@pytest.mark.parametrize("like", [None, 1])
def test_extended_towers_take_over_the_trained_ones(like):
    trained = tfmoe.Towers((1, 1), (4,))
    trained.build((None, 2, 5))
    first, second = ExtendedTowers((1, 1, 1), 1, (4,)), ExtendedTowers((1, 1, 1, 1), 2, (4,))
    for towers in (first, second):
        towers.build((None, len(towers.num_outputs), 5))
    first.copy_extended(trained, like)
    second.copy_extended(first, like)
    x = np.random.default_rng(0).normal(size=(6, 1, 5)).astype("float32").repeat(4, axis=1)
    expected, found = trained(x[:, :2]), second(x)
    for right, logits in zip(expected, found, strict=False):
        np.testing.assert_array_equal(logits, right)
    same = np.allclose(found[3], expected[1], atol=1e-6)
    assert same == (like is not None)
