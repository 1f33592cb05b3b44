"""Gradients combined at the parameters that tasks share, where no tensor is read by all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tests.model.test_weighting import (
    COLUMNS,
    NAMES,
    ONE_TASK,
    SCHEMA,
    Chosen,
    build,
    each_weighting,
    fit,
    rows,
    weights_of,
)
from tests.oracles import gradients as oracles

SIZES = {"hidden_units": (6,)}
STRUCTURES = {
    "ple": lambda: tfmoe.PLE(num_levels=2, num_task_experts=2, num_shared_experts=1, **SIZES),
    "cgc": lambda: tfmoe.CGC(num_task_experts=1, num_shared_experts=2, **SIZES),
    "stem": lambda: tfmoe.STEM(**SIZES),
    "home": lambda: tfmoe.HoME(groups=[[0, 1], [2]], **SIZES),
    "adatt": lambda: tfmoe.AdaTT(**SIZES),
    "cross_stitch": lambda: tfmoe.CrossStitch(**SIZES),
    "snr": lambda: tfmoe.SNR(**SIZES),
    "mtan": lambda: tfmoe.MTAN(**SIZES),
    "mod_squad": lambda: tfmoe.ModSquad(num_experts=3),
}
WEIGHTINGS = {
    "upgrad": oracles.upgrad,
    "mgda": oracles.mgda,
    "cagrad": lambda jacobian: oracles.cagrad(jacobian, 0.4),
    "alignedmtl": oracles.aligned_mtl,
}


class Caught(keras.optimizers.SGD):
    """Keeps the gradients that it gets."""

    def apply(self, gradients, variables=None):
        self.__dict__["caught"] = [g if g is None else np.array(g) for g in gradients]
        super().apply(gradients, variables)


def own_gradients(model, x, y, weights):
    """Each task's gradient `(t, n)`, of a tape of its own, and that of all other losses `(n,)`."""
    found, state = [], [np.array(variable) for variable in model.non_trainable_variables]
    for place in range(len(model.schema.tasks) + 1):
        with tf.GradientTape() as tape:
            forward = model.forward_pass(x, training=True)
            losses, _ = model._objectives.value.losses(y, weights, forward)
            others = sum(model.losses, start=tf.zeros(()))
            loss = [*tf.unstack(losses), others][place]
        values = [variable.value for variable in model.trainable_weights]
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        found.append(np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradients]))
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)  # so that the next pass draws the same
    return np.stack(found[:-1]).astype("float64"), found[-1]


def flat(gradients, variables):
    pairs = zip(gradients, variables, strict=True)
    return np.concatenate(
        [np.zeros(np.prod(v.shape)) if g is None else g.ravel() for g, v in pairs]
    )


def check(model, data, combine):
    """What one step hands to the optimizer, against the definition."""
    jacobian, others = own_gradients(model, *data)
    model.train_on_batch(*data)
    found = flat(model.optimizer.caught, model.trainable_weights)
    expected = oracles.by_parameter(jacobian, combine) + others
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    return jacobian


@pytest.mark.quick(3)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_optimizer_gets_what_the_definition_says(structure, weighting):
    model = build(weighting, STRUCTURES[structure](), optimizer=Caught(0.01))
    jacobian = check(model, rows(), WEIGHTINGS[weighting])
    num = np.count_nonzero(jacobian, axis=0)
    assert np.sum(num > 1) > 10
    # What is a task's own lies beside that of others in one kernel.
    assert np.sum(num == 1) > 10


def ple():
    return STRUCTURES["ple"]()


def test_pcgrad_goes_by_the_order_that_it_drew():
    model = build("pcgrad", ple(), optimizer=Caught(0.01))

    def combine(jacobian):
        order = np.array(model.weighting_state.state["order"]).astype(int)
        return oracles.pcgrad(jacobian, order)

    for _ in range(2):
        check(model, rows(), combine)


def test_what_is_added_to_the_losses_is_not_combined():
    gate = tfmoe.TopKGate(num_nonzeros=2, balance=tfmoe.ZLoss(0.5))
    structure = tfmoe.CGC(num_task_experts=2, num_shared_experts=2, gate=gate, **SIZES)
    model = tfmoe.MultiTaskModel(SCHEMA, structure, (), kernel_regularizer=0.1)
    metrics = {task: [] for task in NAMES}
    model.compile(Caught(0.01), weighting=Chosen(), metrics=metrics, run_eagerly=True)
    data = rows()
    assert np.any(own_gradients(model, *data)[1] != 0)
    check(model, data, lambda jacobian: np.array([0.5, 2, -1]) @ jacobian)


def chain(link=None):
    link = {} if link is None else {"link": link}
    last = tfmoe.Regression("b", standardize=False)
    return tfmoe.Schema(COLUMNS, [tfmoe.Binary("a"), tfmoe.Binary("c", given="a", **link), last])


def chained_rows():
    x, y, weights = rows(32)
    y["c"] = y["a"] * (x["x1"] > 0)
    y["b"] = np.where(np.arange(32) % 3 == 0, np.nan, y["b"]).astype("float32")
    return x, y, weights


@pytest.mark.parametrize("structure", ["mmoe", "bottom"])
@pytest.mark.parametrize("link", [None, tfmoe.AITM()], ids=str)
def test_tasks_of_a_chain_share_towers_too(link, structure):
    model = build("upgrad", structure, chain(link), optimizer=Caught(0.01))
    jacobian = check(model, chained_rows(), oracles.upgrad)
    start, own = 0, 0
    for variable in model.trainable_weights:
        stop = start + int(np.prod(variable.shape))
        if "towers" in variable.path:
            own += np.sum(np.count_nonzero(jacobian[:, start:stop], axis=0) > 1)
        start = stop
    assert own > 0


def test_a_task_without_labels_changes_nothing_and_one_alone_learns_as_ever():
    x, y, weights = rows(32)
    absent = {**y, "c": np.full(32, np.nan, "float32")}
    check(build("cagrad", ple(), optimizer=Caught()), (x, absent, weights), WEIGHTINGS["cagrad"])
    alone = {**absent, "b": np.full(32, np.nan, "float32")}
    model, plain = (
        build("cagrad", ple(), optimizer=Caught()),
        build(None, ple(), optimizer=Caught()),
    )
    logs = model.train_on_batch(x, alone, weights, return_dict=True)
    plain.train_on_batch(x, alone, weights)
    for found, expected in zip(model.optimizer.caught, plain.optimizer.caught, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert logs["a_weight"] == 1
    assert np.isnan(logs["b_weight"])


@pytest.mark.quick(1)
@each_weighting
def test_every_weighting_trains(name):
    history = fit(build(name, ple(), optimizer=keras.optimizers.Adam(0.02)), epochs=2)
    assert np.all(np.isfinite([history[f"{task}_weight"] for task in NAMES]))
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ["pcgrad", "gradnorm"])
def test_a_compiled_step_does_what_an_eager_one_does(name, jit):
    expected = build(name, ple())
    history = fit(expected, epochs=2)
    model = build(name, ple(), run_eagerly=False, jit_compile=jit)
    for key, values in fit(model, epochs=2).items():
        np.testing.assert_allclose(values, history[key], rtol=5e-3, err_msg=key)
    for weight, other in zip(weights_of(model), weights_of(expected), strict=True):
        np.testing.assert_allclose(weight, other, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nashmtl", "dualbalancing", "gradnorm"])
def test_a_loss_scale_changes_nothing(name):
    def trained(scale):
        sgd = keras.optimizers.SGD(0.05)
        sgd = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=scale) if scale else sgd
        model = build(name, ple(), optimizer=sgd)
        return fit(model), weights_of(model)

    (history, found), (other, expected) = trained(2.0**13), trained(None)
    for key, values in history.items():
        np.testing.assert_allclose(values, other[key], rtol=1e-3, err_msg=key)
    for weight, again in zip(found, expected, strict=True):
        np.testing.assert_allclose(weight, again, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_what_is_reported_is_the_plain_sum_as_ever():
    model = build(Chosen(), ple(), optimizer=keras.optimizers.SGD(0.0))
    history = fit(model)
    expected = fit(build(None, ple(), optimizer=keras.optimizers.SGD(0.0)))
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert history["a_loss"] == pytest.approx(expected["a_loss"], rel=1e-6)
    assert [history[f"{name}_weight"][0] for name in NAMES[:2]] == [0.5, 2.0]


def test_rows_of_one_task_each_meet_in_parameters():
    x, y, weights = rows(32)
    x["kind"] = (np.arange(32) % 2).astype("int32")
    label = np.where(x["kind"] == 0, y["a"], np.nan_to_num(y["b"])).astype("float32")
    model = build("upgrad", ple(), ONE_TASK, optimizer=Caught(0.01))
    model.train_on_batch(x, {"score": label}, weights)
    own = []
    for kind in (0, 1):
        plain = build(None, ple(), ONE_TASK, optimizer=Caught(0.01))
        here = x["kind"] == kind
        part = {name: values[here] for name, values in x.items()}
        plain.train_on_batch(part, {"score": label[here]}, weights[here])
        own.append(flat(plain.optimizer.caught, plain.trainable_weights))
    expected = oracles.by_parameter(np.stack(own).astype("float64"), oracles.upgrad)
    found = flat(model.optimizer.caught, model.trainable_weights)
    # A loss of two tasks weighs each by its rows.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_a_large_table_has_the_same_rows():
    columns = [*COLUMNS, tfmoe.Categorical("user", hash_buckets=20, dim=3)]
    schema = tfmoe.Schema(columns, SCHEMA.tasks)
    x, y, weights = rows(32)
    x["user"] = np.random.default_rng(0).integers(1, 12, 32).astype("int32")
    found = []
    for is_small in (True, False):
        model = build("upgrad", ple(), schema)
        (table,) = model.encoder.tables.values()
        table._is_small, table.may_be_sparse = is_small, True
        kinds = []
        apply = model.optimizer.apply
        model.optimizer.apply = lambda gradients, variables, apply=apply, kinds=kinds: (
            kinds.extend(map(type, gradients)),
            apply(gradients, variables),
        )
        fit(model, data=(x, y, weights))
        assert (tf.IndexedSlices in kinds) is not is_small
        found.append(weights_of(model))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_is_told():
    x, y, weights = rows(32)
    weights[3] = np.inf
    with pytest.raises(FloatingPointError, match="must be finite"):
        fit(build("upgrad", ple(), run_eagerly=False, jit_compile=False), data=(x, y, weights))
