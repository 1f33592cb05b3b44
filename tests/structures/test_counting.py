"""What gates of structures with streams count: every row once, for the tasks that it has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfmoe

TASKS, FEATURES = 4, 5


@keras.saving.register_keras_serializable("tests")
class Squared(tfmoe.SoftmaxGate):
    """Adds, as a loss, the sum over its tasks of the mean of their squared scores."""

    def select(self, scores, rows, training):
        if training:
            self.add_loss(ops.sum(rows.mean(ops.mean(ops.square(scores), axis=-1))))
        return super().select(scores, rows, training)


def structures(gate):
    units = {"hidden_units": (4,)}
    return {
        "mmoe": tfmoe.MMoE(TASKS, 8, (4,), gate),
        "cgc": tfmoe.CGC(TASKS, 1, 2, (4,), gate=gate),
        "ple": tfmoe.PLE(TASKS, 3, 1, 2, (4,), gate=gate),
        "adatt": tfmoe.AdaTT(TASKS, 2, 1, 2, (4,), gate=gate),
        "home": tfmoe.HoME(TASKS, groups=[[0, 1], [2, 3]], gate=gate, **units),
        "stem": tfmoe.STEM(TASKS, gate=gate, **units),
        "squad": tfmoe.ModSquad(TASKS, dim=FEATURES, num_experts=4, gate=gate),
    }


def rows_of(name, num=6, seed=0):
    rng = np.random.default_rng(seed)
    if name == "stem":
        return rng.normal(size=(num, TASKS + 1, FEATURES)).astype("float32")
    if name == "squad":
        tokens = rng.normal(size=(num, 3, FEATURES)).astype("float32")
        return tokens, np.arange(3) < rng.integers(1, 4, (num, 1))
    return rng.normal(size=(num, FEATURES)).astype("float32")


@pytest.mark.parametrize("name", structures(None))
@pytest.mark.parametrize("router", ["linear", "static"])
def test_a_gates_losses_are_those_of_all_its_tasks(name, router):
    """A gate's own loss is a sum over tasks, and tasks are pooled, whatever they read."""
    balance = tfmoe.ImportanceLoss(1.0)
    structure = structures(Squared(router=router, balance=balance))[name]
    _, records = structure(rows_of(name), training=True, return_aux=True)
    for gate, record in zip(structure.gates, records, strict=True):
        scores, weights = np.asarray(record.scores), np.asarray(record.weights)
        counts = np.asarray(record.mask) if record.has_mask else np.ones(len(scores))
        mean = np.einsum("b,bt->t", counts, (scores**2).mean(axis=-1)) / counts.sum()
        # As many tasks as the gate has, in one row or in all.
        assert scores.shape[1] == gate.num_tasks
        importance = np.einsum("b,bte->e", counts, weights)
        own, balanced = gate.losses
        np.testing.assert_allclose(own, mean.sum(), rtol=1e-5)
        expected = importance.var() / importance.mean() ** 2
        np.testing.assert_allclose(balanced, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["mmoe", "cgc", "ple", "adatt", "home", "stem", "squad"])
@pytest.mark.parametrize("router", ["linear", "static"])
def test_a_row_counts_for_its_own_task(name, router):
    """Where rows have one task each tasks without rows have no usage yet, and keep their bias."""
    gate = tfmoe.BalancedTopKGate(num_nonzeros=1, router=router, usage_decay=0.9)
    structure = structures(gate)[name]
    task = np.array([0, 1, 0, 0, 1, 0])
    _, records = structure(rows_of(name), task=task, training=True, return_aux=True)
    groups = {2: [True, False], 1: [True], TASKS: [True, True, False, False]}
    for gate, record in zip(structure.gates, records, strict=True):
        present = groups[gate.num_tasks]
        assert (~np.isnan(gate.usage).any(axis=1)).tolist() == present
        moved = np.asarray(gate.bias).reshape(gate.num_tasks, -1).any(axis=1)
        assert not moved[~np.array(present)].any()
        used = np.asarray(record.weights)[:, 0] > 0
        owners = np.asarray(record.task)
        for one in np.flatnonzero(present):
            counts = np.asarray(record.mask) if record.has_mask else np.ones(len(used))
            mine = counts * (owners == one)
            shares = np.einsum("b,be->e", mine, np.asarray(record.weights)[:, 0]) / mine.sum()
            np.testing.assert_allclose(gate.usage[one], shares, rtol=1e-4, atol=1e-6)
        assert used.any()


def gradients(structure, inputs, task):
    with tf.GradientTape() as tape:
        outputs = structure(inputs, task=task, training=True)
        loss = ops.sum(ops.square(outputs)) + sum(structure.losses)
    found = tape.gradient(loss, [weight.value for weight in structure.trainable_weights])
    return [np.asarray(tf.convert_to_tensor(one)) for one in found if one is not None]


GATES = {
    "gumbel": tfmoe.GumbelGate(num_nonzeros=1, seed=3),
    "top_k": tfmoe.TopKGate(num_nonzeros=1),
    "dselect_k": tfmoe.DSelectKGate(num_nonzeros=1, gamma=0.5),
    "sparsemax": tfmoe.SparsemaxGate(),
}


@pytest.mark.parametrize("one_task", [True, False])
@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("levels", [1, 2])
def test_sparse_compute_has_the_gradients_of_all_experts(name, levels, one_task):
    """Also where an expert without weight is to give the gate a gradient."""
    inputs = rows_of("ple", 32)
    task = np.arange(32) % TASKS if one_task else None
    found = {}
    for dispatch in ("dense", "auto" if name == "gumbel" else "sparse"):
        keras.utils.set_random_seed(0)
        structure = tfmoe.PLE(TASKS, levels, 3, 2, (64, 32), gate=GATES[name], dispatch=dispatch)
        found[dispatch] = gradients(structure, inputs, task)
    for dense, sparse in zip(*found.values(), strict=True):
        np.testing.assert_allclose(sparse, dense, rtol=1e-3, atol=1e-4 * np.abs(dense).max() + 1e-6)
