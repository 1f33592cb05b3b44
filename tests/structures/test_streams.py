"""Structures whose tasks read each other: against oracles, and what they have in common."""

import functools

import keras
import numpy as np
import pytest

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.oracles import reference, structures
from tests.structures.test_ple import inputs, softmax_gates

FEATURES, TASKS = 5, 3
MAKE = {
    "adatt": lambda **k: tfmoe.AdaTT(TASKS, 2, 2, 1, (6, 4), **k),
    "adatt_sparse": lambda **k: tfmoe.AdaTT(TASKS, 2, 2, 0, (6, 4), tfmoe.TopKGate(), **k),
    "cross_stitch": lambda **k: tfmoe.CrossStitch(TASKS, (6, 4), layer_norm=True, **k),
    "snr": lambda **k: tfmoe.SNR(TASKS, 2, (6, 4), **k),
    "mtan": lambda **k: tfmoe.MTAN(TASKS, (6, 4), 3, **k),
}


def built(structure):
    structure.build((None, FEATURES))
    shake(structure)
    return structure


def functions(experts, **options):
    return [
        functools.partial(reference.network, layers=layers, **options)
        for layers in networks(experts)
    ]


@pytest.mark.parametrize("num_shared", [0, 2])
@pytest.mark.parametrize(("num_levels", "num_own"), [(1, 1), (2, 2), (3, 1)])
def test_adatt_matches_reference(num_levels, num_own, num_shared):
    structure = built(tfmoe.AdaTT(TASKS, num_levels, num_own, num_shared, (6, 4)))
    levels = []
    for level in structure.levels:
        experts = functions(level.experts)
        shared_gate = level.shared_gate and softmax_gates(level.shared_gate, 1)[0]
        levels.append(
            {
                "own": [experts[t * num_own : (t + 1) * num_own] for t in range(TASKS)],
                "shared": experts[TASKS * num_own :],
                "gates": softmax_gates(level.gate, TASKS),
                "residuals": level.own_weights.numpy(),
                "shared_gate": shared_gate,
                "shared_residual": level.shared_weights.numpy()[0] if shared_gate else None,
            }
        )
    expected = structures.adatt(inputs(), levels)
    np.testing.assert_allclose(structure(inputs()), expected, rtol=1e-4, atol=1e-5)


def test_adatts_residual_starts_as_in_the_paper():
    one, four = tfmoe.AdaTT(TASKS, 1, 1), tfmoe.AdaTT(TASKS, 1, 4)
    for structure in (one, four):
        structure.build((None, FEATURES))
    np.testing.assert_array_equal(one.levels[0].own_weights, np.ones((TASKS, 1)))
    start = four.levels[0].own_weights.numpy()
    assert abs(start).max() <= 0.5
    assert len(np.unique(start)) == start.size


def test_cross_stitch_matches_reference():
    structure = built(tfmoe.CrossStitch(TASKS, (6, 4)))
    layers = [functions(layer) for layer in structure.layers]
    stitches = [stitch.numpy() for stitch in structure.stitches]
    expected = structures.cross_stitch(inputs(), layers, stitches)
    np.testing.assert_allclose(structure(inputs()), expected, rtol=1e-4, atol=1e-5)


def test_cross_stitches_start_as_told():
    structure = tfmoe.CrossStitch(TASKS, (4,), self_weight=0.8)
    structure.build((None, FEATURES))
    np.testing.assert_allclose(structure.stitches[0], np.full((3, 3), 0.1) + 0.7 * np.eye(3))
    alone = tfmoe.CrossStitch(1, (4,))
    alone.build((None, FEATURES))
    np.testing.assert_allclose(alone.stitches[0], [[0.9]])


@pytest.mark.parametrize("kind", ["transform", "average"])
def test_snr_matches_reference(kind):
    structure = built(tfmoe.SNR(TASKS, 4, (6, 4) if kind == "transform" else (4, 4), kind))
    for log_alpha in structure.log_alphas:  # some closed, some open, some between
        log_alpha.assign(np.random.default_rng(0).normal(scale=3, size=log_alpha.shape))
    shares, matrices = [], []
    for i, log_alpha in enumerate(structure.log_alphas):
        rows, columns = log_alpha.shape
        shares.append(np.vectorize(structures.hard_concrete)(log_alpha.numpy()))
        if kind == "transform":
            kernels = structure.transforms[i].numpy()
            matrices.append([list(kernels[r * columns : (r + 1) * columns]) for r in range(rows)])
        else:
            matrices.append([[np.eye(4)] * columns] * rows)
    assert min(s.min() for s in shares) == 0
    assert max(s.max() for s in shares) == 1
    layers = [functions(layer) for layer in structure.layers]
    expected = structures.snr(inputs(), layers, shares, matrices)
    np.testing.assert_allclose(structure(inputs()), expected, rtol=1e-4, atol=1e-5)


def test_snr_draws_in_training_alone_and_its_penalty_counts_open_connections():
    structure = built(tfmoe.SNR(TASKS, 2, (4,), penalty=0.5))
    structure.log_alphas[0].assign([[0.0, 1.0, -4.0], [2.0, 30.0, -30.0]])
    first, second = structure(inputs(), training=True), structure(inputs(), training=True)
    assert np.abs(first.numpy() - second.numpy()).max() > 1e-3
    # P(z > 0) of each: the share of draws that the stretched sigmoid leaves above 0.
    uniform = np.random.default_rng(0).uniform(size=200_000)
    expected = 0.0
    for log_alpha in structure.log_alphas[0].numpy().ravel():
        logit = (np.log(uniform) - np.log(1 - uniform) + log_alpha) / (2 / 3)
        expected += 0.5 * np.mean(1.2 / (1 + np.exp(-logit)) - 0.1 > 0)
    assert float(sum(structure.losses)) == pytest.approx(expected, rel=0.01)
    np.testing.assert_array_equal(structure(inputs()), structure(inputs()))
    structure.trainable = False
    np.testing.assert_array_equal(structure(inputs(), training=True), structure(inputs()))
    assert structure.losses == []


def test_mtan_matches_reference():
    structure = built(tfmoe.MTAN(TASKS, (6, 4, 2), 3))

    def sigmoid(h):
        return 1 / (1 + np.exp(-h))

    masks = []
    for mask in structure.masks:
        masks.append(
            [
                lambda x, layers=layers: reference.network(
                    reference.network(x, layers[:1]), layers[1:], sigmoid
                )
                for layers in networks(mask)
            ]
        )
    trunk = [functions(layer)[0] for layer in structure.trunk]
    expected = structures.mtan(inputs(), trunk, masks)
    np.testing.assert_allclose(structure(inputs()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_a_row_gets_what_its_task_gets_and_no_row_depends_on_another(name):
    structure = built(MAKE[name]())
    task = np.array([0, 2, 1, 1, 0, 2], "int32")
    whole, records = structure(inputs(), return_aux=True)
    own, of_rows = structure(inputs(), task=task, return_aux=True)
    picked = whole.numpy()[np.arange(6), task]
    np.testing.assert_allclose(own[:, 0], picked, rtol=1e-5, atol=1e-6)
    assert all(record.has_task and record.weights.shape[1] == 1 for record in of_rows)
    assert len(of_rows) == len(records) == len(structure.gates)
    for row in (0, 4):
        alone = structure(inputs()[row : row + 1])
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MAKE)
def test_it_stands_alone_with_the_streams_of_some_tasks(name):
    structure = built(MAKE[name]())
    experts = structure.kept([[0]] * len(structure.gates), [2, 0])
    assert [len(own) for own in experts] == [gate.num_experts for gate in structure.gates]
    config = structure.select(experts, [2, 0])
    config["config"]["num_tasks"] = 2
    part = keras.saving.deserialize_keras_object(config)
    part.build((None, FEATURES))
    part.copy_from(structure, [2, 0])
    whole = structure(inputs()).numpy()
    np.testing.assert_array_equal(part(inputs()), whole[:, [2, 0]])
    last = part.select(experts, [1])
    last["config"]["num_tasks"] = 1
    alone = keras.saving.deserialize_keras_object(last)
    alone.build((None, FEATURES))
    alone.copy_from(part, [1])
    np.testing.assert_array_equal(alone(inputs()), whole[:, [0]])
    task = np.array([1, 0, 1, 1, 0, 0], "int32")
    own = part(inputs(), task=task).numpy()[:, 0]
    np.testing.assert_allclose(own, whole[np.arange(6), np.array([2, 0])[task]], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.AdaTT(2, 0), "AdaTT needs `num_levels`"),
        (lambda: tfmoe.AdaTT(2, num_shared_experts=-1), "AdaTT needs `num_shared_experts`"),
        (lambda: tfmoe.AdaTT(2, gate="softmax"), "Received gate='softmax'"),
        (lambda: tfmoe.SNR(2, kind="sum"), "Received kind='sum'"),
        (lambda: tfmoe.SNR(2, hidden_units=(8, 4), kind="average"), "so all layers need one size"),
        (lambda: tfmoe.SNR(2, penalty=-1), "Received penalty=-1"),
        (lambda: tfmoe.MTAN(2)(np.ones((2, 3, 4))), "MTAN takes inputs of shape"),
    ],
)
def test_bad_arguments_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("num", [2, 8])
def test_snr_starts_at_one_scale_however_many_sub_networks(num):
    """What comes after them adds up their outputs."""
    x = np.random.default_rng(0).normal(size=(500, 64)).astype("float32")

    def spread(num):
        keras.utils.set_random_seed(0)
        return float(np.std(tfmoe.SNR(3, num, (64, 64, 64))(x)))

    assert spread(num) == pytest.approx(spread(1), rel=0.5)
