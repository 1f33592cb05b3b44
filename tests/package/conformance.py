"""What every layer of the package promises, whatever it computes."""

import inspect
import json
import re

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree


def check_layer(make, inputs, exempt=(), keeps_float32=False, aux=False, defaults=()):
    """Raises AssertionError unless the layer keeps its promises.

    Args:
        make: makes the layer, with no argument of its constructor at the default, and
            takes `dtype` and `name`.
        inputs: array, or dict or tuple of arrays, whose first axis is the batch; at least
            four rows. See `called`.
        exempt: names of weights that need no gradient.
        keeps_float32: bool; the layer's outputs are float32 under half precision too.
        aux: bool; the layer can be called with `return_aux`.
        defaults: names of arguments that another case sets.
    """
    check_case_leaves_no_default(make, defaults)
    check_config(make, inputs)
    check_gradients(make, inputs, exempt)
    check_half_precision(make, inputs, keeps_float32)
    check_static_shapes(make, inputs, aux)


def called(layer, inputs, **options):
    """Calls it; a dict of the call's own arguments is passed as these."""
    names = set(inspect.signature(layer.call).parameters)
    if isinstance(inputs, dict) and set(inputs) <= names:
        return layer(**inputs, **options)
    return layer(inputs, **options)


def arguments(layer):
    """Name to default of the constructor's arguments, without those of every layer."""
    parameters = inspect.signature(type(layer).__init__).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p.default for p in parameters if p.name != "self" and p.kind not in kinds}


def as_json(layer):
    saved = keras.saving.serialize_keras_object(layer)
    saved.pop("build_config", None)  # Keras notes the input's shape beside the config
    return json.dumps(saved, sort_keys=True)


def check_case_leaves_no_default(make, defaults):
    """A key dropped from a config is only missed if its value is not the default."""
    layer = make()
    config = json.loads(json.dumps(layer.get_config()))
    given = arguments(layer)
    for name in given:
        assert name in config, f"{type(layer).__name__}.get_config() lacks {name!r}."
    required = {n: config[n] for n, d in given.items() if d is inspect.Parameter.empty}
    default = type(layer).from_config(required).get_config()
    for name in set(given) - set(required) - set(defaults):
        assert config[name] != json.loads(json.dumps(default[name])), (
            f"The case of {type(layer).__name__} leaves {name!r} at its default."
        )


def check_config(make, inputs):
    layer = make()
    before = as_json(layer)
    called(layer, inputs)
    assert as_json(layer) == before, "Building changed the config."
    rebuilt = keras.saving.deserialize_keras_object(json.loads(before))
    assert type(rebuilt) is type(layer)
    assert as_json(rebuilt) == before, "A layer from the config has another config."
    called(rebuilt, inputs)
    assert _shapes(rebuilt) == _shapes(layer)


def _shapes(layer):
    """Paths and shapes of weights; keras_rs leaves names of layers inside to Keras's counter."""
    return [(re.sub(r"/dense(_\d+)?/", "/dense/", w.path), tuple(w.shape)) for w in layer.weights]


def floats(outputs):
    return [o for o in tree.flatten(outputs) if keras.backend.is_float_dtype(o.dtype)]


def check_gradients(make, inputs, exempt):
    layer = make()
    called(layer, inputs)
    rng = np.random.default_rng(0)
    with tf.GradientTape() as tape:
        outputs = floats(called(layer, inputs, **training(layer)))
        # Random coefficients: where rows sum to 1 a plain sum has no gradient.
        loss = sum(ops.sum(o * rng.normal(size=o.shape).astype("float32")) for o in outputs)
    weights = [w for w in layer.trainable_weights if w.name not in exempt]
    gradients = tape.gradient(loss, [w.value for w in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient is not None, f"{weight.path} gets no gradient."
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(gradient).all(), f"{weight.path} gets {gradient}."
        assert np.any(gradient != 0), f"{weight.path} gets a gradient of 0."


def training(layer):
    return {"training": True} if "training" in inspect.signature(layer.call).parameters else {}


def check_half_precision(make, inputs, keeps_float32):
    for policy in ("mixed_float16", "mixed_bfloat16"):
        layer = make(dtype=policy)
        compute = "float32" if keeps_float32 else layer.compute_dtype
        for outputs in (called(layer, inputs), called(layer, inputs, **training(layer))):
            for output in floats(outputs):
                assert keras.backend.standardize_dtype(output.dtype) == compute
                assert np.isfinite(ops.convert_to_numpy(ops.cast(output, "float32"))).all()


def shapes(outputs):
    return tree.map_structure(
        lambda o: (tuple(o.shape), keras.backend.standardize_dtype(o.dtype)), outputs
    )


def check_static_shapes(make, inputs, aux):
    for policy in ("float32", "mixed_bfloat16"):
        for options in [{}, {"return_aux": True}] if aux else [{}]:
            layer = make(dtype=policy)
            real = called(layer, inputs, **options)
            symbols = tree.map_structure(
                lambda x: keras.KerasTensor(x.shape, dtype=x.dtype.name), inputs
            )
            symbolic = called(layer, symbols, **options)
            assert shapes(symbolic) == shapes(real), (shapes(symbolic), shapes(real))
            tree.assert_same_structure(symbolic, real)


def functional(layer, inputs):
    """A model of this one layer, of any batch size."""

    def symbols_of(x, name=None):
        if isinstance(x, tuple):
            return tuple(symbols_of(part) for part in x)
        if isinstance(x, dict):
            return {name: symbols_of(part, name) for name, part in x.items()}
        return keras.Input(x.shape[1:], dtype=x.dtype.name, name=name)

    symbols = symbols_of(inputs)
    return keras.Model(symbols, called(layer, symbols))


def check_saving(make, inputs, folder):
    """`.keras` brings the weights to the bit; with it and SavedModel predictions are the same.

    These at two batch sizes, and but for rounding: threads may cut a matrix product otherwise.
    """
    model = functional(make(), inputs)
    # From the initial values alone a reload that forgot the weights could pass.
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    model.save(folder / "model.keras")
    reloaded = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    for again, weight in zip(reloaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(again, weight, err_msg=weight.path)
    model.export(folder / "served", format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(folder / "served")
    for size in (1, 4):
        batch = tree.map_structure(lambda x, size=size: x[:size], inputs)
        expected = model(batch)
        # Keras reloads a tuple of outputs as a list.
        for got in (reloaded(batch), served.serve(tree.map_structure(tf.constant, batch))):
            tree.map_structure(
                lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6),
                tree.flatten(got),
                tree.flatten(expected),
            )
