"""Compaction in a running fit: the same training, with fewer experts."""

import keras
import numpy as np
import pytest
from keras import ops

import tfmoe
from tests.oracles.other_backend import run_on

SCHEMA = tfmoe.Schema(
    [
        tfmoe.Numeric("age", transform="none"),
        tfmoe.Categorical("user_id", dim=3, hash_buckets=7),
    ],
    [tfmoe.Binary("watch"), tfmoe.Regression("rating", standardize=False)],
)


def data(num_rows=96):
    generator = np.random.default_rng(0)
    age = generator.normal(size=num_rows).astype("float32")
    user = generator.integers(0, 10, num_rows).astype("int32")
    labels = {"watch": (age > 0).astype("float32"), "rating": age + user % 3}
    return {"age": age, "user_id": user}, labels


def model(gate=None, mixture=tfmoe.MMoE, dispatch="dense"):
    keras.utils.set_random_seed(1)
    if gate is None:
        gate = tfmoe.DSelectKGate(num_nonzeros=2, router="static", entropy_reg=3.0)
    mixture = mixture(
        num_experts=9, hidden_units=(4,), gate=gate, layer_norm=True, dispatch=dispatch
    )
    built = tfmoe.MultiTaskModel(SCHEMA, mixture, tower_units=())
    if gate.router == "static":
        # Near decided, so that the entropy decides the rest in an epoch or more.
        scores = built.mixture.gate.head.scores
        scores.assign(np.random.default_rng(3).choice([-0.45, 0.45], scores.shape))
    return built


def trained(optimizer, callbacks, epochs=6, jit_compile="auto", **kwargs):
    built = model(**kwargs)
    built.compile(optimizer, jit_compile=jit_compile)
    x, y = data()
    history = built.fit(
        x,
        y,
        validation_data=(x, y),
        batch_size=32,
        epochs=epochs,
        shuffle=False,
        callbacks=callbacks,
        verbose=0,
    )
    return built, history.history


def check_same_training(tmp_path, make_optimizer, **kwargs):
    """Losses with and without compaction; returns the model that was compacted."""
    compacted, history = trained(make_optimizer(), [tfmoe.CompactExperts()], **kwargs)
    whole, expected = trained(make_optimizer(), [], **kwargs)
    left = history.pop("num_experts")
    assert left[0] == 9
    assert 1 <= left[-1] <= 4
    assert left == sorted(left, reverse=True)
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=2e-4, err_msg=name)
    assert compacted.count_params() < whole.count_params()
    x, _ = data()
    before, after = whole.predict(x, verbose=0), compacted.predict(x, verbose=0)
    for name, values in after.items():
        np.testing.assert_allclose(values, before[name], rtol=1e-3, atol=1e-4)
    compacted.save(tmp_path / "compacted.keras")
    reloaded = keras.saving.load_model(tmp_path / "compacted.keras")
    config = reloaded.mixture.get_config()
    assert config == compacted.mixture.get_config()
    assert config["num_experts"] == reloaded.mixture.gate.num_experts == left[-1]
    for name, values in reloaded.predict(x, verbose=0).items():
        np.testing.assert_allclose(values, after[name], rtol=1e-6, atol=1e-7)
    for old, new in zip(compacted.optimizer.variables, reloaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(old), ops.convert_to_numpy(new))
    return compacted


OPTIMIZERS = {
    "Adam": lambda: tfmoe.optimizers.Adam(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.001, momentum=0.9),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.RMSprop(0.01, gradient_accumulation_steps=2)
    ),
    "by_part": lambda: tfmoe.optimizers.ByPart(
        {
            "experts": keras.optimizers.SGD(0.001, momentum=0.9),
            "rest": tfmoe.optimizers.Adam(0.01),
        }
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("Adam", {"jit_compile": True}, marks=pytest.mark.slow),
        ("momentum", {"jit_compile": False, "mixture": tfmoe.OMoE, "dispatch": "auto"}),
        pytest.param(
            "scaled", {"jit_compile": False, "dispatch": "sparse"}, marks=pytest.mark.slow
        ),
        pytest.param("by_part", {"jit_compile": False}, marks=pytest.mark.slow),
    ],
)
def test_training_goes_on_as_without_compaction(name, arguments, tmp_path):
    compacted = check_same_training(tmp_path, OPTIMIZERS[name], **arguments)
    extracted = tfmoe.extract(compacted, ["rating"])
    assert set(extracted.extraction.experts) <= set(compacted.mixture.gate.expert_ids)


@pytest.mark.slow
def test_variables_left_out_of_weight_decay_stay_so():
    def run(callbacks):
        built, optimizer = model(), keras.optimizers.Adam(0.01, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(
            var_list=[built.mixture.gate.head.scores, *built.mixture.experts.weights]
        )
        built.compile(optimizer, jit_compile=False)
        x, y = data()
        return built.fit(x, y, epochs=5, shuffle=False, callbacks=callbacks, verbose=0).history

    history, expected = run([tfmoe.CompactExperts()]), run([])
    assert history["num_experts"][-1] < 9
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)


@pytest.mark.slow
def test_averages_over_steps_are_compacted_too():
    built, (x, y) = model(), data()
    loss = tfmoe.MutualInformationLoss(momentum=0.9)
    built.compile(tfmoe.optimizers.Adam(0.01), jit_compile=False, aux_losses=loss)
    callbacks = [tfmoe.CompactExperts()]
    history = built.fit(x, y, batch_size=32, epochs=6, callbacks=callbacks, verbose=0).history
    assert history["num_experts"][-1] < 9
    assert np.isfinite(history["mutual_information"]).all()


@pytest.mark.slow
def test_rows_tell_whether_a_routed_gate_has_decided():
    gate = tfmoe.DSelectKGate(num_nonzeros=1)
    built, (x, y) = model(gate), data()
    built.mixture.experts.trainable = False  # what an optimizer does not know goes too
    built.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    kernel, bias = built.mixture.gate.head.weights
    # Four bits a task: the last follows the sign of the first input, the others are decided.
    numbers = np.zeros(kernel.shape)
    numbers[0, [3, 8]] = 1e6
    kernel.assign(numbers)
    bias.assign([-1, -1, 1, 0, 0, -1, 1, -1, 0, 0])
    built.predict(x, verbose=0)  # compiled with the old shapes

    def left(rows):
        before = built.predict(rows, verbose=0)
        callback = tfmoe.CompactExperts(data=rows)
        history = built.fit(x, y, callbacks=[callback], verbose=0).history
        for name, values in built.predict(rows, verbose=0).items():
            np.testing.assert_allclose(values, before[name], rtol=1e-5, atol=1e-6)
        assert built.mixture.num_experts == len(built.mixture.gate.expert_ids or range(9))
        return history["num_experts"]

    assert left({**x, "age": np.append(x["age"][1:], np.float32(0))}) == [9]
    assert left(x) == [4]
    assert built.mixture.gate.expert_ids == (2, 3, 4, 5)
    assert left({**x, "age": -np.abs(x["age"])}) == [2]
    assert built.mixture.gate.expert_ids == (2, 4)
    # What was compiled before reads the weights that there are now.
    for weight in built.mixture.experts.weights:
        weight.assign(ops.ones_like(weight))
    expected = ops.convert_to_numpy(built.forward_pass(x).predictions["rating"])
    np.testing.assert_allclose(built.predict(x, verbose=0)["rating"], expected, rtol=1e-5)


@pytest.mark.slow
def test_an_undecided_gate_is_left_alone():
    built, (x, y) = model(), data()
    built.mixture.gate.head.scores.assign(np.zeros(built.mixture.gate.head.scores.shape))
    built.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    history = built.fit(x, y, callbacks=[tfmoe.CompactExperts()], epochs=2, verbose=0).history
    assert history["num_experts"] == [9, 9]
    assert built.mixture.gate.expert_ids is None


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (tfmoe.SoftmaxGate(router="static"), "Received a SoftmaxGate, which has none"),
        (tfmoe.DSelectKGate(), "only rows can tell. Received data=None"),
    ],
)
def test_gates_that_cannot_tell_are_refused(gate, message):
    with pytest.raises(ValueError, match=message):
        trained("sgd", [tfmoe.CompactExperts()], gate=gate)


def test_mixtures_without_experts_of_their_own_are_refused():
    x, y = data()
    layers = [keras.layers.Dense(4) for _ in range(3)]
    for mixture, message in (
        (
            tfmoe.SharedBottom(hidden_units=(4,)),
            "made itself, as in MMoE and OMoE. Received a SharedBottom",
        ),
        (tfmoe.MMoE(experts=layers), "made them itself. Received an MMoE with experts="),
    ):
        built = tfmoe.MultiTaskModel(SCHEMA, mixture)
        built.compile("sgd", jit_compile=False)
        with pytest.raises(ValueError, match=message):
            built.fit(x, y, callbacks=[tfmoe.CompactExperts()], verbose=0)


@pytest.mark.slow
def test_state_of_another_shape_is_refused_before_anything_changes():
    built, (x, y) = model(), data()
    built.mixture.gate.head.scores.assign(np.ones(built.mixture.gate.head.scores.shape))
    built.mixture.gate.trainable = False  # Adafactor makes NaN of a gradient of zeros
    built.compile(keras.optimizers.Adafactor(0.01), jit_compile=False)
    with pytest.raises(ValueError, match="Received Adafactor, whose"):
        built.fit(x, y, callbacks=[tfmoe.CompactExperts()], verbose=0)
    assert built.mixture.experts.num_experts == 9
    assert all(weight.shape[0] == 9 for weight in built.mixture.experts.weights)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_compact_and_extract(backend, tmp_path):
    code = (
        "import pathlib, sys\n"
        "sys.modules['tensorflow'] = None\n"
        "from tests.extraction import test_compact as t\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "compacted = t.check_same_training(folder, t.OPTIMIZERS['Adam'])\n"
        "x, _ = t.data()\n"
        "extracted = t.tfmoe.extract(compacted, ['rating'], data=x)\n"
        "assert extracted.extraction.largest_change < 1e-6, extracted.extraction\n"
    )
    run_on(backend, "-c", code, tmp_path)
