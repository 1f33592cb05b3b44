"""Models whose losses are weighed, or their gradients combined, in every step."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import ops

import tfmoe
from tfmoe.objectives.weighting.by_name import WEIGHTINGS

COLUMNS = [tfmoe.Numeric(f"x{i}", transform="none") for i in range(4)]
TASKS = [
    tfmoe.Binary("a"),
    tfmoe.Regression("b", weight=0.5, standardize=False),
    tfmoe.Binary("c"),
]
NAMES = ["a", "b", "c"]
SCHEMA = tfmoe.Schema(COLUMNS, TASKS)
each_weighting = pytest.mark.parametrize("name", WEIGHTINGS)


def rows(num=64, seed=0):
    """Features, labels of which some are missing, and row weights; the last 32 rows have no `c`."""
    rng = np.random.default_rng(seed)
    x = {f"x{i}": rng.normal(size=num).astype("float32") for i in range(4)}
    y = {
        "a": (x["x0"] + x["x3"] > 0).astype("float32"),
        "b": 2 * x["x0"] - 2 * x["x1"],
        "c": (x["x1"] > 0).astype("float32"),
    }
    y["b"][::3] = y["c"][-32:] = np.nan
    return x, y, rng.uniform(0.5, 2, num).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Own(tfmoe.Structure):
    """A structure of a user's own: its last shared tensor is scaled by each task."""

    def build(self, input_shape):
        self.shared = keras.layers.Dense(6, name="shared")
        self.shared.build(input_shape)
        self.scales = self.add_weight((self.num_tasks, 6), "ones", name="scales")

    def call(self, inputs, task=None, context=None, training=False, return_aux=False):
        outputs = self.fan_out(self.shared(inputs), task) * self.scales
        return (outputs, []) if return_aux else outputs

    def shared_point(self):
        return "inside"

    def get_config(self):
        return {**super().get_config(), "num_tasks": self.num_tasks}


STRUCTURES = {
    "mmoe": lambda: tfmoe.MMoE(num_experts=3, hidden_units=(8,)),
    "omoe": lambda: tfmoe.OMoE(num_experts=3, hidden_units=(8,)),
    "bottom": lambda: tfmoe.SharedBottom(hidden_units=(8,)),
    "own": Own,
}


def build(weighting=None, structure="mmoe", schema=SCHEMA, **options):
    keras.utils.set_random_seed(0)
    made = STRUCTURES[structure]() if isinstance(structure, str) else structure
    model = tfmoe.MultiTaskModel(schema, made, tower_units=())
    # Eagerly, and without metrics, for a step or two are not worth a graph.
    metrics = {task: [] for task in schema.task_names}
    options = {"optimizer": keras.optimizers.SGD(0.1), "metrics": metrics, **options}
    model.compile(weighting=weighting, **{"run_eagerly": True, **options})
    return model


def fit(model, epochs=1, data=None, **options):
    x, y, weights = data or rows()
    options = {"batch_size": 32, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, sample_weight=weights, epochs=epochs, **options).history


def weights_of(model):
    return [ops.convert_to_numpy(weight) for weight in model.trainable_weights]


@pytest.mark.quick(3)
@each_weighting
def test_every_weighting_trains_with_missing_labels(name):
    model = build(name, optimizer=keras.optimizers.Adam(0.02))
    history = fit(model, epochs=2)
    for task in NAMES:
        assert np.all(np.isfinite(history[f"{task}_weight"]))
    assert all(np.all(np.isfinite(weight)) for weight in weights_of(model))
    assert history["loss"][1] < history["loss"][0]


def test_an_evaluation_weighs_nothing():
    model = build("pcgrad")
    history = fit(model, validation_data=rows(seed=1))
    assert {"a_weight", "val_a_loss"} <= set(history)
    assert "val_a_weight" not in history
    logs = model.evaluate(*rows()[:2], verbose=0)
    assert "a_weight" not in logs
    losses = [logs[f"{name}_loss"] for name in NAMES]
    assert logs["loss"] == pytest.approx(losses[0] + 0.5 * losses[1] + losses[2], rel=0.2)


@pytest.mark.quick(1)
@pytest.mark.parametrize("jit", [False, True])
@each_weighting
def test_a_compiled_step_does_what_an_eager_one_does(name, jit):
    expected = build(name)
    history = fit(expected, epochs=2)
    model = build(name, run_eagerly=False, jit_compile=jit)
    for key, values in fit(model, epochs=2).items():
        np.testing.assert_allclose(values, history[key], rtol=5e-3, err_msg=key)
    for weight, other in zip(weights_of(model), weights_of(expected), strict=True):
        np.testing.assert_allclose(weight, other, rtol=2e-3, atol=2e-4)


def test_fixed_weights_are_what_there_was_before():
    expected = build()
    history = fit(expected)
    for weighting in ("fixed", None):
        model = build(weighting)
        assert fit(model) == history
        assert model.weighting_state is None
    assert not [name for name in history if name.endswith("_weight")]


@keras.saving.register_keras_serializable("tests")
class Chosen(tfmoe.Weighting):
    """Weights of gradients that are given."""

    combines = True

    def __init__(self, weights=(0.5, 2.0, -1.0)):
        self.weights = tuple(weights)

    def combine(self, gram, received):
        return ops.convert_to_tensor(np.array(self.weights, "float32"))

    def get_config(self):
        return {"weights": list(self.weights)}


def steps(model, x, y, weights):
    """How one step changed each weight, and by which layer."""
    before = weights_of(model)
    model.train_on_batch(x, y, weights)
    change = [new - old for new, old in zip(weights_of(model), before, strict=True)]
    return {w.path: d for w, d in zip(model.trainable_weights, change, strict=True)}


@pytest.mark.quick(1)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_is_shared_learns_from_the_combination_and_the_rest_as_ever(structure):
    x, y, weights = rows(64)
    found = steps(build(Chosen(), structure), x, y, weights)
    plain = steps(build(None, structure), x, y, weights)
    own = []
    for task in NAMES:
        alone = {name: y[name] if name == task else np.full(64, np.nan) for name in NAMES}
        own.append(steps(build(None, structure), x, alone, weights))
    shared = {"mmoe": "experts", "bottom": "bottom", "own": "mixture/shared", "omoe": "mixture"}
    num = 0
    for path, change in found.items():
        if shared[structure] in path:
            expected = 0.5 * own[0][path] + 2 * own[1][path] - own[2][path]
            num += 1
        else:
            expected = plain[path]
        np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-5, err_msg=path)
    assert 0 < num < len(found)


def test_weights_and_the_plain_sum_are_reported():
    history = fit(build(Chosen(), optimizer=keras.optimizers.SGD(0.0)))
    assert [history[f"{name}_weight"][0] for name in NAMES] == [0.5, 2.0, -1.0]
    for name in ("uncertainty", "gls", "pcgrad"):
        model = build(name, optimizer=keras.optimizers.SGD(0.0))
        expected = build(optimizer=keras.optimizers.SGD(0.0))
        assert fit(model)["loss"] == pytest.approx(fit(expected)["loss"], rel=1e-5)


def test_weights_are_means_over_the_batches_with_a_label():
    history = fit(build("gls", optimizer=keras.optimizers.SGD(0.0)))
    x, y, weights = rows()
    sums, counts = np.zeros(3), np.zeros(3)
    model = build(optimizer=keras.optimizers.SGD(0.0))
    for start in (0, 32):
        part = slice(start, start + 32)
        batch = {name: values[part] for name, values in x.items()}
        labels = {name: values[part] for name, values in y.items()}
        logs = model.evaluate(batch, labels, sample_weight=weights[part], verbose=0)
        losses = np.array([logs[f"{name}_loss"] for name in NAMES]) * [1, 0.5, 1]
        some = np.isfinite(losses)
        mean = np.exp(np.mean(np.log(losses[some])))
        sums[some] += mean / np.sum(some) / losses[some]
        counts += some
    assert counts.tolist() == [2, 2, 1]
    found = [history[f"{name}_weight"][0] for name in NAMES]
    np.testing.assert_allclose(found, sums / counts, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["uncertainty", "dwa", "rlw", "stch", "famo", "gradnorm", "pcgrad", "dualbalancing"]
)
def test_a_training_goes_on_from_a_file(name, tmp_path):
    weighting = tfmoe.STCH(warm_up=2) if name == "stch" else name
    expected = build(weighting, optimizer=keras.optimizers.Adam(0.01))
    history = fit(expected, epochs=4)
    model = build(weighting, optimizer=keras.optimizers.Adam(0.01))
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    assert type(loaded.weighting_state.weighting) is WEIGHTINGS[name]
    again = fit(loaded, epochs=2)
    for key, values in again.items():
        np.testing.assert_allclose(values, history[key][2:], rtol=1e-4, err_msg=key)
    for weight, other in zip(weights_of(loaded), weights_of(expected), strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_what_is_learned_is_no_part_of_the_model(tmp_path):
    model, plain = build("gradnorm"), build()
    fit(model)
    assert [w.path for w in model.weights] == [w.path for w in plain.weights]
    config = model.get_config()
    assert config.keys() == plain.get_config().keys()
    model.save_weights(tmp_path / "model.weights.h5")
    plain.load_weights(tmp_path / "model.weights.h5")
    x = rows()[0]
    for name, values in model.predict(x, verbose=0).items():
        np.testing.assert_array_equal(values, plain.predict(x, verbose=0)[name])
    plain.save_weights(tmp_path / "plain.weights.h5")
    model.load_weights(tmp_path / "plain.weights.h5")  # and keeps what it has learned
    small = tfmoe.extract(model, ["a"])
    assert small.weighting_state is None
    plain.save(tmp_path / "plain.keras")
    assert tfmoe.load_model(tmp_path / "plain.keras").weighting_state is None


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
def test_sparse_compute_gives_what_dense_gives(name):
    def trained(dispatch):
        gate = tfmoe.TopKGate(num_nonzeros=2)
        mixture = tfmoe.MMoE(num_experts=8, hidden_units=(4,), gate=gate, dispatch=dispatch)
        model = build(name, mixture)
        return fit(model), weights_of(model)

    (history, found), (other, expected) = trained("sparse"), trained("dense")
    np.testing.assert_allclose(history["a_weight"], other["a_weight"], rtol=1e-3)
    for weight, again in zip(found, expected, strict=True):
        np.testing.assert_allclose(weight, again, rtol=1e-3, atol=1e-5)


def test_a_gate_that_has_not_decided_is_computed_densely():
    gate = tfmoe.DSelectKGate(num_nonzeros=2)
    mixture = tfmoe.MMoE(num_experts=8, hidden_units=(4,), gate=gate, dispatch="sparse")
    assert np.all(np.isfinite(fit(build("mgda", mixture))["a_weight"]))


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["nashmtl", "dualbalancing", "gradnorm", "uncertainty"])
def test_a_loss_scale_changes_nothing(name):
    def trained(scale):
        adam = keras.optimizers.SGD(0.05)
        adam = keras.optimizers.LossScaleOptimizer(adam, initial_scale=scale) if scale else adam
        model = build(name, optimizer=adam)
        return fit(model), weights_of(model)

    (history, found), (other, expected) = trained(2.0**13), trained(None)
    for task in NAMES:
        key = f"{task}_weight"
        np.testing.assert_allclose(history[key], other[key], rtol=1e-3, err_msg=key)
    for weight, again in zip(found, expected, strict=True):
        np.testing.assert_allclose(weight, again, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["upgrad", "dualbalancing"])
def test_half_precision_combines_in_single(name):
    mixture = tfmoe.MMoE(num_experts=3, hidden_units=(8,), dtype="mixed_float16")
    model = tfmoe.MultiTaskModel(SCHEMA, mixture, (), dtype="mixed_float16")
    # So large that gradients overflow at first, and steps are left out.
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), 2.0**24)
    metrics = {task: [] for task in NAMES}
    model.compile(scaled, weighting=name, metrics=metrics, run_eagerly=True)
    before = weights_of(model)
    fit(model, check_finite=False)
    assert all(np.array_equal(*pair) for pair in zip(weights_of(model), before, strict=True))
    for values, start in zip(
        model.weighting_state.state.values(),
        model.weighting_state.weighting.start(3).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(values, start)
    history = fit(model, epochs=9, check_finite=False)
    assert float(scaled.dynamic_scale) < 2.0**24
    assert np.isfinite([history[f"{name}_weight"][-1] for name in NAMES]).all()
    assert history["loss"][-1] < history["loss"][0]


ONE_TASK = tfmoe.Schema(
    COLUMNS,
    [tfmoe.Binary("a", source="label"), tfmoe.Regression("b", source="label", standardize=False)],
    task_column="kind",
)


@pytest.mark.slow
@each_weighting
def test_rows_of_one_task_each_are_weighed_too(name):
    x, y, weights = rows()
    x["kind"] = (np.arange(64) % 2).astype("int32")
    x["kind"][-32:] = 0  # a batch without the second task
    label = np.where(x["kind"] == 0, y["a"], np.nan_to_num(y["b"])).astype("float32")
    for structure in ("mmoe", "bottom"):
        model = build(name, structure, ONE_TASK)
        history = fit(model, data=(x, {"score": label}, weights))
        assert np.all(np.isfinite([history["a_weight"], history["b_weight"]]))


def test_a_task_that_rows_have_alone_has_the_mean_over_its_own():
    x, y, weights = rows(16)
    x["kind"] = np.array([0] * 12 + [1] * 4, "int32")
    label = np.where(x["kind"] == 0, y["a"], 2.0).astype("float32")
    model = build("gls", schema=ONE_TASK)
    forward = model.forward_pass(x, training=True)
    losses, counts = model._objectives.value.losses({"score": label}, weights, forward, x["kind"])
    logs = model.evaluate(x, {"score": label}, sample_weight=weights, verbose=0)
    np.testing.assert_allclose(losses, [logs["a_loss"], logs["b_loss"]], rtol=1e-5)
    np.testing.assert_allclose(counts, [weights[:12].sum(), weights[12:].sum()], rtol=1e-6)


def test_famo_compares_no_half_of_a_step():
    schema = tfmoe.Schema(
        [tfmoe.Numeric("x", transform="none")], [tfmoe.Binary("a"), tfmoe.Binary("b")]
    )
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)))
    accumulating = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    with pytest.raises(ValueError, match=r"FAMO compares .* Take batches 4 times as large"):
        model.compile(accumulating, weighting="famo")
    model.compile(accumulating, weighting="uncertainty")


@pytest.mark.slow
def test_famo_looks_again_with_the_same_dropout_and_leaves_no_trace():
    mixture = tfmoe.MMoE(
        num_experts=3, hidden_units=(8,), gate=tfmoe.DSelectKGate(entropy_reg=0.1), dropout=0.5
    )
    found = []
    for weighting in ("gls", "famo"):
        model = build(weighting, mixture, optimizer=keras.optimizers.SGD(0.0))
        history = fit(model)
        found.append((history["a_loss"], [np.asarray(v) for v in model.non_trainable_variables]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(one, other)
    # Nothing was learned, so that no loss has fallen: under other masks it would have changed.
    decayed = model.weighting_state.state["logits"]
    np.testing.assert_allclose(decayed, 0, atol=1e-3)


def test_what_cannot_be_had_is_told_at_compile():
    with pytest.raises(ValueError, match="Received weighting='nonsense'"):
        build("nonsense")


@pytest.mark.parametrize("loss", ["poisson", "lognormal"])
def test_losses_that_may_be_below_0_are_not_compared(loss):
    schema = tfmoe.Schema(COLUMNS, [tfmoe.Binary("a"), tfmoe.Regression("b", loss=loss)])
    told = [name for name, kind in WEIGHTINGS.items() if kind().compares]
    assert sorted(told) == sorted(
        ["uncertainty", "dwa", "gls", "stch", "famo", "gradnorm", "dualbalancing"]
    )
    with pytest.warns(UserWarning, match="not standardised"):
        model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)))
    for name in told:
        with pytest.raises(ValueError, match="all must be above 0"):
            model.compile(weighting=name)
    model.compile(weighting="rlw")
    model.compile(weighting="gls", loss={"b": "mse"})  # of its own


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["gls", "famo"])
def test_a_task_of_weight_0_does_not_count(name):
    with_c = SCHEMA.select(["a", "c"])
    x, y, weights = rows()
    y = {"a": y["a"], "c": (y["a"] + 1) % 2}
    model = tfmoe.MultiTaskModel(with_c, tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile("sgd", weighting=name, loss_weights={"c": 0.0}, metrics={"a": [], "c": []})
    history = model.fit(x, y, sample_weight=weights, batch_size=32, epochs=2, verbose=0).history
    np.testing.assert_allclose(history["a_weight"], 1, rtol=1e-4)


@pytest.mark.slow
def test_what_is_reported_is_what_evaluation_reports_where_rows_have_one_task():
    x, y, weights = rows()
    x["kind"] = (np.arange(64) % 4 == 0).astype("int32")
    label = np.where(x["kind"] == 0, y["a"], 1.0).astype("float32")
    model = build("rlw", schema=ONE_TASK, optimizer=keras.optimizers.SGD(0.0))
    data = (x, {"score": label}, weights)
    history = fit(model, data=data)
    logs = model.evaluate(*data[:2], sample_weight=weights, batch_size=32, verbose=0)
    assert history["loss"][0] == pytest.approx(logs["loss"], rel=1e-4)


def test_losses_are_weighed_on_any_structure():
    history = fit(build("uncertainty", tfmoe.PLE(num_levels=1, hidden_units=(4,))))
    assert np.isfinite(history["b_weight"]).all()


def test_an_added_task_has_nothing_to_combine():
    grown = build().add_task(tfmoe.Binary("d"), like="a")
    with pytest.raises(ValueError, match=r"added tasks \['d'\], of which all that is shared is"):
        grown.compile(weighting="pcgrad")
    grown.compile(weighting="gls")


def test_a_structure_that_forgets_to_fan_out_is_told(monkeypatch):
    def forgets(self, shared, task=None):
        return ops.repeat(shared[:, None], self.num_tasks, axis=1)

    monkeypatch.setattr(Own, "fan_out", forgets)
    with pytest.raises(ValueError, match="Received a step in which it did not"):
        fit(build("pcgrad", "own"))


def test_a_step_of_ones_own_cannot_combine():
    model = build("pcgrad")
    x, y, _ = rows(16)
    forward = model.forward_pass(x, training=True)
    with pytest.raises(ValueError, match=r"Received weighting=PCGrad\(seed=0\)"):
        model.compute_loss(x, y, forward)


def test_a_metric_called_as_a_weight_is_refused():
    metric = keras.metrics.MeanSquaredError("weight")
    with pytest.raises(ValueError, match=r"Received \['a_weight'\] twice"):
        build("rlw", metrics={"a": [metric]})
    build(metrics={"a": [metric]})


@pytest.mark.slow
def test_replicas_are_weighed_together():
    code = """
        import keras, numpy as np, tensorflow as tf, tfmoe
        from tests.model.test_weighting import SCHEMA, STRUCTURES, NAMES, rows
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        x, y, weights = rows()
        y["c"][:32:3] = np.nan
        y["c"][16:32] = np.nan  # a replica without the label

        def trained(strategy, name, structure):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = tfmoe.MultiTaskModel(SCHEMA, STRUCTURES[structure](), ())
                model.compile(keras.optimizers.SGD(0.1), jit_compile=False, weighting=name)
            data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(32)
            options = tf.data.Options()
            policy = tf.data.experimental.AutoShardPolicy.DATA
            options.experimental_distribute.auto_shard_policy = policy
            history = model.fit(data.with_options(options), epochs=2, verbose=0).history
            return history, [np.array(weight) for weight in model.trainable_weights]

        cases = {"famo": "bottom", "upgrad": "mmoe", "dualbalancing": "bottom", "pcgrad": "own"}
        # One for all: a second one would take the first one's numbers of collective operations.
        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        for name, structure in cases.items():
            one, expected = trained(tf.distribute.get_strategy(), name, structure)
            two, weights_ = trained(mirrored, name, structure)
            for key in ["loss", *(f"{task}_weight" for task in NAMES)]:
                np.testing.assert_allclose(two[key], one[key], rtol=1e-3, err_msg=name + key)
            for weight, other in zip(weights_, expected, strict=True):
                np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-5, err_msg=name)
    """
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_loss_that_may_be_below_0_is_not_compared():
    tasks = [tfmoe.Binary("click"), tfmoe.Binary("buy", given="click", link="escm2-dr")]
    schema = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], tasks)
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(2,)))
    with pytest.raises(ValueError, match=r"Received the tasks \['buy'\].*\"escm2-dr\""):
        model.compile("adam", weighting="dualbalancing")
    model.compile("adam", weighting="rlw")
