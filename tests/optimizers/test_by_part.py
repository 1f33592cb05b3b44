"""An optimizer for each part: the same steps as one, or each part's own."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.oracles.other_backend import run_on
from tfmoe.optimizers import ByPart, LazyAdam

SCHEMA = tfmoe.Schema(
    [
        tfmoe.Numeric("age", transform="none"),
        tfmoe.Categorical("user", dim=3, hash_buckets=9),
        tfmoe.Categorical("city", dim=2, hash_buckets=5),
    ],
    [tfmoe.Binary("watch"), tfmoe.Regression("rating", standardize=False)],
)
PARTS = ("embeddings", "gates", "experts", "towers", "rest")


def test_a_table_of_given_vectors_is_of_its_part():
    vectors = {n: np.arange(2.0) + n for n in range(3, 8)}
    for options in (
        {},
        {"trainable": True},
        {"projection": 4},
        {"trainable": True, "projection": 4},
    ):
        column = tfmoe.Pretrained("city", vectors=vectors, **options)
        schema = tfmoe.Schema([SCHEMA.columns[1], column], SCHEMA.tasks)
        x, y = data()
        table = pd.DataFrame(x | y)
        prep = tfmoe.Preprocessor(schema).fit(table, progress=False)
        built = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=2, hidden_units=(4,)))
        built.compile({"embeddings": keras.optimizers.SGD(0.5), "rest": "adam"}, jit_compile=False)
        before = [np.array(weight) for weight in built.encoder.trainable_weights]
        built.fit(*prep.arrays(table)[:2], batch_size=32, verbose=0)
        after = built.encoder.trainable_weights
        changed = [(new != old).numpy().any() for old, new in zip(before, after, strict=True)]
        # Nothing is missing or unknown here, of whose vectors a table has its first rows.
        assert changed.count(False) == 1


def data(num_rows=64):
    generator = np.random.default_rng(0)
    x = {
        "age": generator.normal(size=num_rows).astype("float32"),
        "user": generator.integers(3, 12, num_rows).astype("int32"),
        "city": generator.integers(3, 8, num_rows).astype("int32"),
    }
    labels = {"watch": (x["age"] > 0).astype("float32"), "rating": x["age"] + x["user"] % 3}
    return x, labels


def model(optimizer=None, wide=False, **compiled):
    keras.utils.set_random_seed(1)
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,))
    built = tfmoe.MultiTaskModel(SCHEMA, mixture, tower_units=(3,), wide=wide)
    if optimizer is not None:
        built.compile(optimizer, jit_compile=compiled.pop("jit_compile", False), **compiled)
    return built


def fitted(built, epochs=2, **kwargs):
    x, y = data()
    built.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **kwargs)
    return built


def check_same(ours, expected, **tolerances):
    for weight, other in zip(ours.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, **{"rtol": 2e-5, "atol": 1e-6, **tolerances})


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.02),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.5),
    "lazy": lambda: LazyAdam(0.02, weight_decay=0.01),
    "averages": lambda: keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.5),
    "accumulated": lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=2),
    "scheduled": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.5)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_for_all_parts_is_that_one(name, monkeypatch):
    monkeypatch.setenv("TFMOE_THRESHOLDS", "dense_rows=6")  # one table has slices
    make = OPTIMIZERS[name]
    ours = fitted(model({part: make() for part in PARTS}))
    expected = fitted(model(make()))
    check_same(ours, expected)
    assert int(ours.optimizer.iterations) == 8


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_part_moves_by_its_own_rate(jit_compile):
    rates = {"embeddings": 0.5, "embeddings/city": 0.25, "gates": 0.125, "rest": 1.0}
    sgd = keras.optimizers.SGD
    built = model({part: sgd(rate) for part, rate in rates.items()}, jit_compile=jit_compile)
    one = model(sgd(1.0), jit_compile=jit_compile)
    before = [weight.numpy() for weight in built.trainable_variables]
    x, y = data()
    for each in (built, one):
        each.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    rate_of = {id(one): rate for part, rate in rates.items() for one in variables_of(built, part)}
    assert set(rate_of.values()) == {0.5, 0.25, 0.125, 1.0}
    for variable, start, moved in zip(
        built.trainable_variables, before, one.trainable_variables, strict=True
    ):
        expected = start + rate_of[id(variable)] * (moved.numpy() - start)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-6)


def variables_of(built, part):
    """What a part means, from the layers themselves; the more special part comes later."""
    if part == "rest":
        return [
            one
            for one in built.trainable_variables
            if "table_" not in one.path and not any(one is w for w in built.mixture.gate.weights)
        ]
    tables = built.encoder.tables
    if part == "embeddings":
        return [tables["user"].embeddings]
    return [tables["city"].embeddings] if "/" in part else built.mixture.gate.weights


@pytest.mark.slow
def test_the_global_norm_is_of_all_gradients(monkeypatch):
    monkeypatch.setenv("TFMOE_THRESHOLDS", "dense_rows=6")
    sgd = keras.optimizers.SGD
    parts = {"embeddings": LazyAdam(0.02), "rest": sgd(0.1)}
    ours = fitted(model(ByPart(parts, global_clipnorm=0.01)))
    # Small steps of one Keras optimizer, whose clipping is known, for the dense part.
    dense = {part: sgd(0.1) for part in ("embeddings", "rest")}
    check_same(
        fitted(model(ByPart(dense, global_clipnorm=0.01))),
        fitted(model(sgd(0.1, global_clipnorm=0.01))),
    )
    assert all(np.isfinite(weight).all() for weight in ours.get_weights())


@pytest.mark.slow
def test_the_learning_rate_multiplies_all():
    parts = {"gates": keras.optimizers.SGD(0.1), "rest": keras.optimizers.Adam(0.02)}
    ours = model(parts)
    seen = []
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: seen.append(rate) or 0.5)
    fitted(ours, callbacks=[halve])
    halved = {"gates": keras.optimizers.SGD(0.05), "rest": keras.optimizers.Adam(0.01)}
    check_same(ours, fitted(model(halved)))
    assert seen == [1.0, 0.5]
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=0, min_delta=1e9)
    fitted(ours, callbacks=[plateau], epochs=3)
    assert float(ours.optimizer.learning_rate) == pytest.approx(0.005)


def check_saved(folder):
    """A training that is stopped, saved and loaded goes on as if nothing had been."""

    def parts():
        return {
            "gates": keras.optimizers.SGD(0.1, momentum=0.9),
            "embeddings/user": LazyAdam(0.05),
            "rest": "adam",
        }

    stopped = fitted(model(parts()))
    stopped.optimizer.learning_rate = 0.5
    stopped.save(folder / "model.keras")
    loaded = tfmoe.load_model(folder / "model.keras")
    assert float(loaded.optimizer.learning_rate) == 0.5
    assert loaded.optimizer.get_config() == stopped.optimizer.get_config()
    check_same_state(loaded, stopped)
    check_same(fitted(loaded), fitted(stopped))
    check_same_state(loaded, stopped, rtol=1e-5, atol=1e-7)


def check_same_state(ours, expected, **tolerances):
    pairs = zip(ours.optimizer.variables, expected.optimizer.variables, strict=True)
    for state, other in pairs:
        assert state.path == other.path
        values = (keras.ops.convert_to_numpy(one) for one in (state, other))
        np.testing.assert_allclose(*values, **{"rtol": 0, "atol": 0, **tolerances})


def test_saved_it_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMOE_THRESHOLDS", "dense_rows=6")
    check_saved(tmp_path)


@pytest.fixture
def half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.slow
def test_half_precision_scales_the_loss_around_it(half_precision):
    built = fitted(model({"gates": "sgd", "rest": "adam"}))
    assert isinstance(built.optimizer, keras.optimizers.LossScaleOptimizer)
    assert built.optimizer.inner_optimizer.parts["gates"].built
    assert int(built.optimizer.iterations) > 0
    assert all(np.isfinite(weight).all() for weight in built.get_weights())


@pytest.mark.slow
def test_half_precision_is_saved_with_it(tmp_path, half_precision):
    built = fitted(model({"gates": "sgd", "rest": "adam"}))
    built.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    check_same_state(loaded, built)


@pytest.mark.slow
def test_what_is_frozen_or_not_there_has_no_steps():
    built = model()
    built.encoder.trainable = False
    before = built.encoder.get_weights()
    built.compile({"embeddings": "adam", "wide": "adam", "rest": "adam"}, jit_compile=False)
    fitted(built)
    for weight, other in zip(built.encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert not built.optimizer.parts["embeddings"].built
    # All but towers and gates is frozen, so that nothing is left for "rest".
    added = built.add_task(tfmoe.Binary("like"))
    added.compile({"towers": "adam", "gates": "adam"}, jit_compile=False)
    x, y = data()
    added.fit(x, {"like": y["watch"]}, verbose=0)


@pytest.mark.slow
def test_the_first_order_term_and_combined_gradients():
    parts = {"wide": keras.optimizers.Ftrl(0.1), "rest": "adam"}
    built = fitted(model(parts, wide=True, weighting="pcgrad"))
    own = [table.embeddings for table in built.wide.tables.values()] + [built.wide.kernel]
    assert {id(one) for one in own} == {
        id(one) for one in built.optimizer.grouped(built.trainable_variables)["wide"]
    }
    extracted = tfmoe.extract(built, ["watch"])
    extracted.compile({"embeddings": LazyAdam(), "gates": "sgd", "rest": "adam"}, jit_compile=False)
    x, y = data()
    extracted.fit(x, {"watch": y["watch"]}, verbose=0)


def test_tables_are_sparse_where_their_own_optimizer_gains():
    built = model({"embeddings/user": LazyAdam(), "rest": keras.optimizers.Adam()})
    assert built.encoder.tables["user"].may_be_sparse
    assert not built.encoder.tables["city"].may_be_sparse


def test_errors():
    with pytest.raises(ValueError, match=r"'gate'. Did you mean 'gates'\?"):
        model({"gate": "adam", "rest": "adam"})
    with pytest.raises(ValueError, match="'embeddings/city', 'gates', 'experts'"):
        model({"embeddings/age": "adam", "rest": "adam"})
    with pytest.raises(ValueError, match=r'has .*expert.* Add one for "rest"'):
        model({"embeddings": "adam", "gates": "adam", "towers": "adam"})
    with pytest.raises(ValueError, match=r"Received parts=\{\}"):
        ByPart({})
    one = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="with one for two parts"):
        ByPart({"gates": one, "rest": one})
    with pytest.raises(ValueError, match="LossScaleOptimizer goes around"):
        ByPart({"rest": keras.optimizers.LossScaleOptimizer(one)})
    with pytest.raises(ValueError, match="learning_rate=-1"):
        ByPart({"rest": "adam"}, learning_rate=-1)
    with pytest.raises(ValueError, match="ByPart is for a MultiTaskModel"):
        ByPart({"rest": "adam"}).build([keras.Variable([1.0])])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_train_by_part(backend, tmp_path):
    code = (
        "import pathlib, sys\n"
        "sys.modules['tensorflow'] = None\n"
        "from tests.optimizers import test_by_part as t\n"
        "for make in (t.OPTIMIZERS['lazy'], t.OPTIMIZERS['averages']):\n"
        "    ours = t.fitted(t.model({part: make() for part in t.PARTS}))\n"
        "    t.check_same(ours, t.fitted(t.model(make())), rtol=1e-4, atol=1e-5)\n"
        "t.check_saved(pathlib.Path(sys.argv[1]))\n"
    )
    run_on(backend, "-c", code, tmp_path)
