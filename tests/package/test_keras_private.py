"""Private names of Keras and TensorFlow: they stand in one file, do what it says, are guarded."""

import ast
import importlib
import inspect
import re
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tests.oracles import tables
from tests.package.test_package import FILES, module_of, trees
from tfmoe import keras_private

# What a named tuple has is public, for all its underscores.
PUBLIC = {"_asdict", "_fields", "_make", "_replace"}


class Gone(types.SimpleNamespace):
    """An object of a Keras that has none of the names."""


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def guarded(function, *arguments):
    """The message of the error that a gone name gives."""
    with pytest.raises(RuntimeError, match="Install an older Keras or TensorFlow") as error:
        function(*arguments)
    return str(error.value)


# Each name: here, and gone.


def nested():
    inner = keras.layers.Dense(2)
    middle = keras.Sequential([keras.Input((3,)), inner])
    return keras.Sequential([middle, keras.layers.Dense(1)]), middle, inner


def test_flatten_layers_finds_all_at_any_depth():
    model, middle, inner = nested()
    found = keras_private.flatten_layers(model)
    assert found[0] is model
    assert found.index(middle) < found.index(inner)
    assert isinstance(found, list)


def test_sublayers_are_those_a_layer_holds_itself():
    model, middle, inner = nested()
    found = keras_private.sublayers(model)
    assert middle in found
    assert inner not in found


def test_calls_of_a_layer():
    class Scaled(keras.layers.Layer):
        def call(self, inputs, scale=1):
            return inputs * scale

    layer, x, y = Scaled(), keras.Input((3,)), keras.Input((3,))
    layer(x)
    layer(y, scale=2)
    (first, second) = keras_private.calls_of(layer)
    assert first[0] == [x]
    assert second == ([y], {"scale": 2})


def test_metrics_in_order():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(loss="mse", metrics=["mae"])
    logs = model.evaluate(np.ones((4, 3)), np.ones((4, 1)), return_dict=True, verbose=0)
    backwards = dict(reversed(logs.items()))
    assert keras_private.metrics_in_order(model, backwards) == [logs["loss"], logs["mae"]]


@pytest.mark.parametrize(("direction", "best"), [("up", max), ("down", min)])
def test_callbacks_read_which_way_of_a_metric_is_better(direction, best):
    class Step(keras.metrics.Metric):
        value = 0.0

        def update_state(self, *arguments, **weights):
            pass

        def result(self):
            return keras.ops.convert_to_tensor(self.value)

        def reset_state(self):
            self.value += 1.0

    metric = Step(name="step")
    assert keras_private.better(metric) is None
    keras_private.say_better(metric, direction)
    assert keras_private.better(metric) == direction
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", metrics=[metric], run_eagerly=True)
    stop = keras.callbacks.EarlyStopping("step")
    ones = np.ones((2, 1), "float32")
    history = model.fit(ones, ones, epochs=2, callbacks=[stop], verbose=0).history["step"]
    assert stop.best == best(history)
    assert history[0] != history[1]


def test_a_direction_that_metrics_do_not_say_says_what_to_do(monkeypatch):
    monkeypatch.setattr(keras_private, "_metric_of_keras", Gone)
    assert "'_direction'" in guarded(keras_private.say_better, Gone(), "up")


def test_a_resized_variable_stays_the_same_object():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    kernel, values = layer.kernel, np.arange(4, dtype="float32").reshape(2, 2)
    keras_private.resize(kernel, values)
    assert layer.trainable_weights[0] is kernel
    assert tuple(kernel.shape) == (2, 2)
    np.testing.assert_array_equal(kernel, values)
    kernel.assign_add(values)
    np.testing.assert_array_equal(kernel, 2 * values)


def test_track_again_lists_the_values_anew():
    # Only torch lists them: see `tests/package/backend_numbers.py`.
    calls = []
    keras_private.track_again(Gone(_track_variables=lambda: calls.append(1)))
    assert calls == [1]


def test_recompile_makes_functions_that_see_a_resized_variable():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")
    model.fit(x, y, verbose=0)
    model.predict(x, verbose=0)
    before = model.train_function
    keras_private.recompile(model)
    assert model.train_function is not before
    assert model.test_function is model.predict_function is None
    model.fit(x, y, verbose=0)


def built(optimizer, names=("kept",)):
    variables = [keras.Variable(np.ones((2, 3), "float32"), name=name) for name in names]
    optimizer.build(variables)
    return optimizer, variables


def test_an_optimizer_knows_a_variable_by_its_renamed_key():
    optimizer, (kept, other) = built(keras.optimizers.AdamW(), ("kept", "other"))
    optimizer.exclude_from_weight_decay(var_list=[kept])
    old = keras_private.optimizer_key(optimizer, kept)
    keras_private.resize(kept, np.ones((1, 3), "float32"))
    new = keras_private.optimizer_key(optimizer, kept)
    keras_private.rename_key(optimizer, old, new)
    for name in ("momentums", "velocities"):
        keras_private.resize(getattr(optimizer, f"_{name}")[0], np.ones((1, 3), "float32"))
    gradients = [tf.ones((1, 3)), tf.ones((2, 3))]
    optimizer.apply(gradients)
    assert float(kept.numpy().max()) < 1
    assert float(other.numpy().max()) < 1
    keras_private.rename_key(optimizer, object(), object())  # of a frozen variable


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [("Adam", "momentums"), ("Adam", "velocities"), ("Adagrad", "accumulators")],
)
def test_slot_is_the_state_of_a_variable(optimizer, name):
    optimizer, (_, other) = built(getattr(keras.optimizers, optimizer)(), ("kept", "other"))
    found = keras_private.slot(optimizer, name, other)
    assert found.shape == (2, 3)
    (own,) = (v for v in optimizer.variables if "other" in v.path and name[:-3] in v.path)
    assert found is own.value


def test_clip_decides_how_gradients_are_clipped():
    class Halved(keras_private.ClipsGradients, keras.optimizers.SGD):
        def clip(self, gradients, usual):
            return [one / 2 for one in usual(gradients)]

    optimizer, (variable,) = built(Halved(1.0, clipvalue=1.0))
    optimizer.apply([4 * tf.ones((2, 3))])
    np.testing.assert_allclose(variable, np.full((2, 3), 0.5))
    assert [float(one) for one in optimizer.clipped([tf.constant(3.0)])] == [0.5]


def test_an_optimizer_clips_otherwise():
    optimizer, (variable,) = built(keras.optimizers.SGD(1.0, clipvalue=1.0))
    for factor in (3, 2):  # the last one counts
        keras_private.clip_otherwise(
            optimizer, lambda grads, usual, factor=factor: [one / factor for one in usual(grads)]
        )
    optimizer.apply([4 * tf.ones((2, 3))])
    np.testing.assert_allclose(variable, np.full((2, 3), 0.5))


def test_the_steps_of_an_optimizer_are_multiplied():
    optimizer, (variable,) = built(keras.optimizers.SGD(0.5, weight_decay=0.5))
    for factor in (3.0, 0.5):  # the last one counts
        keras_private.multiply_learning_rate(optimizer, lambda factor=factor: factor)
    optimizer.apply([tf.ones((2, 3))])
    np.testing.assert_allclose(variable, np.full((2, 3), 1 - 0.25 * 0.5 - 0.25))
    optimizer.learning_rate = 2.0
    assert float(optimizer.learning_rate) == 1.0
    assert optimizer.get_config()["learning_rate"] == 2.0


def test_xla_is_seen_from_inside():
    seen = []

    def step(x):
        seen.append(keras_private.is_compiled_by_xla())
        return x + 1

    for jit_compile in (False, True):
        tf.function(step, jit_compile=jit_compile)(tf.constant(1.0))
    assert seen == [False, True]
    assert not keras_private.is_compiled_by_xla()


@pytest.mark.slow
def test_fit_reads_the_validation_data_once_an_epoch():
    # By the exact AUC, `evaluate` reads them twice; within `fit` it must not.
    df = tables.rows()
    prep = tables.fitted(df)
    model = tables.small_model(prep)
    model.compile("adam", jit_compile=False, run_eagerly=True)
    batches = list(prep.dataset(df, batch_size=len(df)))
    passes = []

    def read():
        yield from batches
        passes.append(1)

    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), batches[0]
    )
    valid = tf.data.Dataset.from_generator(read, output_signature=signature)
    history = model.fit(valid, validation_data=valid, epochs=3, verbose=0).history
    assert len(history["val_watch_auc"]) == 3
    assert len(passes) == 2 * 3
    passes.clear()
    model.evaluate(valid, verbose=0)
    assert len(passes) == 2


def test_validates_in_fit_tells_it_by_the_argument():
    assert keras_private.validates_in_fit({"_use_cached_eval_dataset": True, "verbose": 0})
    assert not keras_private.validates_in_fit({"_use_cached_eval_dataset": False})
    assert not keras_private.validates_in_fit({"verbose": 0})
    message = guarded(keras_private.validates_in_fit, {"_cached": True, "verbose": 0})
    assert "_cached" in message
    assert "'_use_cached_eval_dataset'" in message


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        ("flatten_layers", [Gone()], "_flatten_layers"),
        ("sublayers", [Gone()], "_layers"),
        ("calls_of", [Gone()], "_inbound_nodes"),
        ("calls_of", [Gone(_inbound_nodes=[Gone()])], "arguments"),
        ("calls_of", [Gone(_inbound_nodes=[Gone(arguments=Gone())])], "args"),
        ("metrics_in_order", [Gone(), {}], "_flatten_metrics_in_order"),
        ("resize", [Gone(), np.ones(2)], "_shape"),
        ("resize", [Gone(_shape=(1,)), np.ones(2)], "_initialize"),
        ("track_again", [Gone()], "_track_variables"),
        ("optimizer_key", [Gone(), None], "_var_key"),
        ("multiply_learning_rate", [Gone(), float], "_get_current_learning_rate"),
        ("clip_otherwise", [Gone(), None], "_clip_gradients"),
        ("track_layers", [Gone(), [None]], "_layers"),
        ("rename_key", [Gone(), None, None], "_trainable_variables_indices"),
        ("slot", [Gone(), "momentums", None], "_get_variable_index"),
        ("datasets_of", [Gone()], "_inputs"),
        ("slot", [Gone(_get_variable_index=id), "momentums", None], "_momentums"),
    ],
)
def test_a_name_that_is_gone_says_what_to_do(function, arguments, name):
    message = guarded(getattr(keras_private, function), *arguments)
    assert repr(name) in message
    assert f"Keras {keras.__version__}" in message


def test_an_optimizer_without_its_clipping_says_what_to_do():
    class Optimizer:
        def apply_gradients(self, pairs):
            pass

    def define():
        class Clipped(keras_private.ClipsGradients, Optimizer):
            pass

    assert "'_clip_gradients'" in guarded(define)


def test_xla_without_its_mark_says_what_to_do(monkeypatch):
    from tensorflow.python.ops import control_flow_util

    monkeypatch.delattr(control_flow_util, "GraphOrParentsInXlaContext")
    assert "'GraphOrParentsInXlaContext'" in guarded(keras_private.is_compiled_by_xla)
    ops = sys.modules["tensorflow.python.ops"]
    monkeypatch.delattr(ops, "control_flow_util")
    monkeypatch.setitem(sys.modules, "tensorflow.python.ops.control_flow_util", None)
    assert "'control_flow_util'" in guarded(keras_private.is_compiled_by_xla)


def test_metrics_are_reported_at_the_end():
    class Sparing(keras_private.ReportsAtTheEnd, keras.Sequential):
        metrics_at_the_end = True

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            super().compute_metrics(x, y, y_pred, sample_weight)
            return {"loss": self.metrics[0].result()}

    model = Sparing([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"], jit_compile=False)
    x, seen = np.ones((4, 1), "float32"), []
    batches = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: seen.append(logs))
    history = model.fit(x, x, verbose=0, callbacks=[batches]).history
    assert [set(logs) for logs in seen] == [{"loss"}]
    assert set(history) == {"loss", "mae"}
    assert {"loss", "mae"} == set(model.evaluate(x, x, verbose=0, return_dict=True))

    class Gone:
        def train_step(self):
            pass

    with pytest.raises(RuntimeError, match="without '_get_metrics_result_or_logs'"):

        class Broken(keras_private.ReportsAtTheEnd, Gone):
            pass


def test_a_metric_of_ones_own_reports_the_loss():
    class Largest(keras.metrics.Mean):
        def update_state(self, values, sample_weight=None):
            self.total.assign(keras.ops.maximum(self.total, values))

        def result(self):
            return self.total + 0.0

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "relu")])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    keras_private.report_loss_by(model, Largest(name="loss"))
    x, y = np.zeros((4, 1), "float32"), np.array([[1.0], [1], [2], [2]], "float32")
    logs = model.fit(x, y, batch_size=2, shuffle=False, verbose=0, validation_data=(x, y)).history
    assert logs["loss"] == [4.0]
    assert logs["val_loss"] == [4.0]
    assert model.metrics[0].name == "loss"
    assert "'_loss_tracker'" in guarded(keras_private.report_loss_by, object(), None)


def test_nothing_is_built_of_a_first_batch():
    class Ready(keras_private.BuiltBefore, keras.Sequential):
        pass

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        for kind, ready in ((Ready, True), (keras.Sequential, False)):
            model = kind([keras.Input((1,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
            model._maybe_symbolic_build(data_batch=(np.ones((2, 1)), np.ones((2, 1)), None))
            assert model.optimizer.built != ready

    class Gone:
        distribute_strategy = None

        def train_step(self):
            pass

    with pytest.raises(RuntimeError, match="without '_maybe_symbolic_build'"):

        class Broken(keras_private.BuiltBefore, Gone):
            pass


def test_every_function_is_tried_here():
    tested = ast.unparse(ast.parse(inspect.getsource(sys.modules[__name__])))
    public = [
        name
        for name, value in vars(keras_private).items()
        if inspect.getmodule(value) is keras_private and not name.startswith("_")
    ]
    assert [name for name in public if not re.search(rf"keras_private\.{name}\b", tested)] == []


# And nowhere else.


def names_by_text(tree):
    """Names that `getattr`, `setattr` and their like are given as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) > 1:
            called = ast.unparse(node.func).split(".")[-1]
            given = getattr(node.args[1], "value", None)
            if called.lstrip("_") in {"getattr", "setattr", "hasattr", "private", "delattr"}:
                yield from [(node, given)] if isinstance(given, str) else []


def test_private_names_of_others_stand_in_one_file_alone():
    everything = {module_of(path): tree for path, tree in trees().items()}
    ours, theirs, used = set(), set(), []
    for module, tree in everything.items():
        for node in ast.walk(tree):
            if module == "keras_private":
                continue
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                ours.add(getattr(node, "id", None) or node.attr)
            elif isinstance(node, ast.Attribute) and is_private(node.attr):
                used.append((module, node, node.attr))
        for node, name in names_by_text(tree):
            if module == "keras_private":
                theirs.add(name)
            elif is_private(name):
                used.append((module, node, name))
    assert {"_flatten_layers", "_var_key", "_initialize"} <= theirs
    wrong = [
        f"{module}:{node.lineno} touches {name}"
        for module, node, name in used
        if name not in PUBLIC and (name not in ours or name in theirs)
    ]
    assert wrong == []


def test_nothing_is_imported_from_where_others_keep_private_things():
    wrong = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                hidden = re.match(r"(tensorflow\.python|keras\.src|keras\._)", name)
                foreign = not name.startswith("tfmoe.") and re.search(r"\._[a-z]", name)
                if (hidden or foreign) and module_of(path) != "keras_private":
                    wrong.append(f"{module_of(path)}:{node.lineno} imports {name}")
    assert wrong == []


def test_no_class_of_ours_overrides_a_private_method_of_keras():
    wrong, seen = [], 0
    for path in FILES:
        if path.stem == "tfrs":  # imports only where Keras 2 is chosen
            continue
        module = importlib.import_module(".".join(filter(None, ["tfmoe", module_of(path)])))
        for kind in vars(module).values():
            if not inspect.isclass(kind) or kind.__module__ != module.__name__:
                continue
            seen += 1
            keras_bases = [one for one in kind.__mro__ if one.__module__.startswith("keras.")]
            for name in filter(is_private, vars(kind)):
                # Marks of Keras's own decorators, which it puts on every class.
                mark = not callable(getattr(kind, name)) or name.startswith("_auto")
                if not mark and any(name in vars(one) for one in keras_bases):
                    wrong.append(f"{kind.__qualname__}.{name}")
    assert wrong == []
    assert seen > 50


def test_layers_behind_a_graph_count_among_a_models():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    more = keras.layers.Dense(3)
    more.build((None, 2))
    model.more = more
    for _ in range(2):
        keras_private.track_layers(model, [more, None])
    paths = [weight.path for weight in model.trainable_weights]
    assert len(paths) == len(set(paths)) == 4


class Batches(keras.callbacks.Callback):
    """Notes each batch that is trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.steps.start()

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((self.epoch, batch, self.steps.taken))


def trained(before, first, **arguments):
    """The steps of a fit of which some are passed over, as `Batches` notes them, and the rows."""
    begun, rows, passed = [], [], []

    class Noted(keras.Model):
        def call(self, inputs):
            tf.py_function(lambda x: rows.append(float(x[0, 0])), [inputs], [])
            return inputs * self.scale

        def build(self, shape):
            self.scale = self.add_weight(name="scale")

    model = Noted()
    model.compile("sgd", loss="mse", run_eagerly=True)
    data = tf.data.Dataset.from_tensor_slices((np.arange(6.0)[:, None], np.ones((6, 1)))).batch(1)
    data = data.apply(arguments.pop("derived", lambda dataset: dataset))
    batches = Batches()
    batches.steps = keras_private.CountedSteps(lambda: begun.append(len(batches.seen)))
    batches.steps.before, batches.steps.first = before, first
    batches.steps.passed = lambda: passed.append(batches.steps.taken)
    with keras_private.counting(batches.steps):
        model.fit(data, epochs=2, verbose=0, callbacks=[batches], shuffle=False, **arguments)
    assert passed == [before + first]
    return batches.seen, begun, rows[-len(batches.seen) :]


def test_steps_are_counted_and_those_done_passed_over():
    seen, begun, rows = trained(0, 4)
    # The first epoch goes on with its fifth batch, the second one is whole.
    assert seen == [(0, 4, 5), (0, 5, 6), *((1, place, place + 1) for place in range(6))]
    assert begun == [0, 2]
    assert rows == [4, 5, 0, 1, 2, 3, 4, 5]


def test_epochs_may_share_a_pass_over_the_data():
    seen, begun, rows = trained(2, 1, steps_per_epoch=2, derived=lambda data: data.repeat())
    assert seen == [(0, 1, 4), (1, 0, 5), (1, 1, 6)]
    assert begun == [0]
    assert rows == [3, 4, 5]


def test_data_that_end_before_the_place_to_go_on_from_are_told():
    with pytest.raises(ValueError, match="end after 6 batches, of which 9 were trained on"):
        trained(0, 9, derived=lambda data: data.ignore_errors())


def test_on_jax_a_step_of_the_epoch_must_be_left(monkeypatch):
    seen, _, _ = trained(0, 6)
    assert [epoch for epoch, _, _ in seen] == [1] * 6
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"of step 6, the epoch's last\. Remove that file"):
        trained(0, 6)


def test_what_a_dataset_was_made_of():
    dataset = tf.data.Dataset.range(3)
    derived = tf.data.Dataset.zip(dataset.map(lambda x: x), dataset).repeat()
    found = keras_private.datasets_of(derived)
    assert found[0] is derived
    assert dataset in found


def test_counting_says_what_to_do_where_its_names_are_gone(monkeypatch):
    from keras.src.trainers import epoch_iterator

    steps = keras_private.CountedSteps(lambda: None)
    monkeypatch.setattr(epoch_iterator, "EpochIterator", Gone)
    assert "'_enumerate_iterator'" in guarded(keras_private.counting(steps).__enter__)
    monkeypatch.delattr(epoch_iterator, "EpochIterator")
    assert "'EpochIterator'" in guarded(keras_private.counting(steps).__enter__)


def test_gradients_of_steps_are_not_kept_in_a_registry():
    from tensorflow.python.framework import ops

    schema = tfmoe.Schema([tfmoe.Categorical("a", hash_buckets=5)], [tfmoe.Binary("y")])
    features, labels = {"a": np.arange(3, 7, dtype="int32")}, {"y": np.arange(4) % 2}

    def registered():
        names = ops.gradient_registry.list()
        return sum(name.startswith("CustomGradient") for name in names)

    before = registered()
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(2,)))
    model.compile("adam", jit_compile=False)
    model.fit(features, labels, validation_data=(features, labels), verbose=0)
    assert registered() == before


def test_the_registry_of_gradients_gone_says_what_to_do(monkeypatch):
    from tensorflow.python.framework import ops

    monkeypatch.setattr(ops, "gradient_registry", Gone())

    def trace():
        with tf.Graph().as_default(), keras_private.forgetting_gradients():
            pass

    assert "'_registry'" in guarded(trace)
