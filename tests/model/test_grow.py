"""A model that grows: what it knew it knows to the bit, and new rows are trained."""

import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.oracles.other_backend import run_on
from tfmoe import Binary, Categorical, MultiCategorical, Numeric, Preprocessor, Schema, Sequence
from tfmoe.compute import thresholds
from tfmoe.schema.columns import UNKNOWN_ID

_COLUMNS = (
    Categorical("user", dim=3),
    Categorical("item", dim=4),
    Sequence("seen", share="item", max_length=3),
    Numeric("age"),
    Categorical("device", dim=2),
)
_TASKS = (Binary("click"), tfmoe.Regression("rating"))


def _rows(users, seed=0, num=48):
    rng = np.random.default_rng(seed)
    ids = rng.choice(users, num)
    return pd.DataFrame(
        {
            "user": ids,
            "item": [f"i{one}" for one in rng.choice(users, num)],
            "seen": [[f"i{one}" for one in rng.choice(users, 3)] for _ in range(num)],
            "age": rng.normal(size=num),
            "device": rng.choice(["a", "b"], num),
            "click": rng.integers(0, 2, num),
            "rating": rng.normal(size=num) + ids,
        }
    )


EARLY, LATER = _rows(range(8)), _rows(range(4, 14), seed=1)
LATER.loc[::5, "device"] = "c"


def _prep(columns=_COLUMNS, **options):
    return Preprocessor(Schema(list(columns), list(_TASKS), **options)).fit(EARLY, progress=False)


def _step(model, rows):
    model.train_on_batch(*model.training_preprocessor.arrays(rows))


def _trained(prep, mixture=None, optimizer="adam", weighting=None, **options):
    keras.utils.set_random_seed(0)
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,)) if mixture is None else mixture
    model = tfmoe.MultiTaskModel(prep, mixture, (4,), **options)
    # No other backend runs eagerly, nor takes long to begin.
    eagerly = keras.backend.backend() == "tensorflow"
    model.compile(optimizer, jit_compile=False, run_eagerly=eagerly, weighting=weighting)
    for _ in range(2):
        _step(model, EARLY)
    return model


def _same_predictions(old, new, rows, exact=True):
    one, other = (
        {
            name: keras.ops.convert_to_numpy(values)
            for name, values in model(
                model.preprocessor.arrays(rows, labels=False), training=False
            ).items()
        }
        for model in (old, new)
    )
    assert set(one) == set(other)
    for name, values in one.items():
        if exact:
            np.testing.assert_array_equal(other[name], values)
        else:
            np.testing.assert_allclose(other[name], values, rtol=1e-5, atol=1e-6)


CASES = {
    "mmoe": {},
    "wide": {"wide": True, "interactions": [tfmoe.FM()], "kernel_regularizer": 0.01},
    "pepnet": {"input_gate": tfmoe.EPNet((4,)), "tower_gate": tfmoe.PPNet(["user"], (4,))},
    "position": {"position": "device", "embeddings_regularizer": 0.01, "column_dropout": 0.1},
    "hash gate": {
        "mixture": tfmoe.MMoE(num_experts=2, hidden_units=(4,), gate=tfmoe.HashGate(column="user"))
    },
    "tokens": {"mixture": tfmoe.ModSquad(num_experts=4, dim=4)},
    "stem": {"mixture": tfmoe.STEM(hidden_units=(4,))},
    "star": {"mixture": tfmoe.STAR(hidden_units=(4,)), "scenario_towers": True},
}


@pytest.mark.parametrize("new_rows", ["initializer", "unknown"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.quick(2)
def test_old_predictions_stay_to_the_bit_and_new_rows_start_as_asked(case, new_rows):
    options = {} if case == "position" else {"scenario": "device"}
    prep = _prep(**options)
    model = _trained(prep, **CASES[case])
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    grown = prep.grow(LATER, progress=False)
    wider = model.grow(grown, new_rows=new_rows)
    # Blocks of pairs are cut by how many scenarios there are.
    exact = case != "star"
    _same_predictions(model, wider, EARLY, exact)
    if new_rows == "unknown" and case != "hash gate":
        _same_predictions(model, wider, LATER, exact)
    for values, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(values, variable)
    table, old = wider.encoder.tables["user"].embeddings, model.encoder.tables["user"].embeddings
    table, old = map(keras.ops.convert_to_numpy, (table, old))
    assert table.shape == (grown.table_sizes["user"], old.shape[1])
    np.testing.assert_array_equal(table[: len(old)], old)
    alike = (table[len(old) :] == table[UNKNOWN_ID]).all(axis=1)
    assert alike.all() == (new_rows == "unknown")
    _step(wider, LATER)
    after = keras.ops.convert_to_numpy(wider.encoder.tables["user"].embeddings)
    ids = np.unique(grown.arrays(LATER, labels=False)["user"])
    assert (after[ids] != table[ids]).any(axis=1).all()


OPTIMIZERS = {
    "adam": lambda: "adam",
    "lazy": lambda: tfmoe.optimizers.LazyAdam(0.01),
    "adagrad": lambda: tfmoe.optimizers.Adagrad(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "averages": lambda: keras.optimizers.Adam(0.01, use_ema=True, amsgrad=True),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    "by part": lambda: {
        "embeddings/user": tfmoe.optimizers.LazyAdam(0.01),
        "embeddings": keras.optimizers.RMSprop(0.01),
        "gates": keras.optimizers.Adam(0.02),
        "rest": "adam",
    },
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.quick(1)
def test_a_step_on_old_rows_is_that_of_the_old_model(optimizer, monkeypatch):
    if optimizer in ("lazy", "adagrad"):
        # Tables as large as that have gradients of single rows.
        few = dataclasses.replace(thresholds.current(), dense_rows=5)
        monkeypatch.setattr(thresholds, "current", lambda: few)
    prep = _prep()
    model = _trained(prep, optimizer=OPTIMIZERS[optimizer](), wide=True, weighting="uncertainty")
    if optimizer == "averages":
        model.optimizer.learning_rate = 0.03
    wider = model.grow(prep.grow(LATER, progress=False))
    assert int(wider.optimizer.iterations) == int(model.optimizer.iterations) == 2
    for _ in range(2):
        for one in (model, wider):
            _step(one, EARLY)
    for owner, table in model.encoder.tables.items():
        values = keras.ops.convert_to_numpy(table.embeddings)
        found = keras.ops.convert_to_numpy(wider.encoder.tables[owner].embeddings)
        # Updates of tables of other sizes may round otherwise.
        np.testing.assert_allclose(found[: len(values)], values, rtol=1e-5, atol=1e-7)
    for one, other in zip(model.mixture.weights, wider.mixture.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    for name, values in model.weighting_state.state.items():
        np.testing.assert_allclose(values, wider.weighting_state.state[name], rtol=1e-5)
    _same_predictions(model, wider, EARLY, exact=False)


@pytest.mark.slow
def test_states_of_new_rows_start_as_the_optimizer_starts_them():
    prep = _prep()
    start = 0.25
    optimizer = keras.optimizers.Adagrad(0.1, initial_accumulator_value=start)
    model = _trained(prep, optimizer=optimizer)
    wider = model.grow(prep.grow(LATER, progress=False))
    num = prep.table_sizes["user"]
    slot = next(
        slot for slot in wider.optimizer.variables if "table_user" in slot.name and slot.ndim == 2
    )
    values = keras.ops.convert_to_numpy(slot)
    assert (values[num:] == start).all()
    assert (values[3:num] != start).any()
    averages = _trained(prep, optimizer=keras.optimizers.Adam(0.01, use_ema=True))
    wider = averages.grow(prep.grow(LATER, progress=False))
    slot = next(s for s in wider.optimizer.variables if s.name.endswith("user_embeddings_average"))
    table = keras.ops.convert_to_numpy(wider.encoder.tables["user"].embeddings)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(slot)[num:], table[num:])


@pytest.mark.parametrize("new_rows", ["initializer", "unknown"])
@pytest.mark.quick(1)
def test_rows_of_evicted_values_start_anew(new_rows):
    prep = _prep()
    model = _trained(prep, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    grown = prep.grow(LATER, evict_after=1, progress=False)
    assert grown.growth["user"].reused == 4
    wider = model.grow(grown, new_rows=new_rows)
    stay = EARLY[EARLY["user"] >= 4]
    known = stay["seen"].map(lambda cell: all(int(one[1:]) >= 4 for one in cell))
    known &= stay["item"].map(lambda one: int(one[1:]) >= 4)
    _same_predictions(model, wider, stay[known])
    old, new = prep.vocabulary("user").to_pylist(), grown.vocabulary("user").to_pylist()
    before, after = (
        keras.ops.convert_to_numpy(one.encoder.tables["user"].embeddings) for one in (model, wider)
    )
    slots = next(
        keras.ops.convert_to_numpy(slot)
        for slot in wider.optimizer.variables
        if "table_user" in slot.name
    )
    for place, value in enumerate(old):
        row = 3 + place
        same = new[place] == value
        assert (before[row] == after[row]).all() == same
        assert slots[row].any() == same
        if new_rows == "unknown" and not same:
            np.testing.assert_array_equal(after[row], before[UNKNOWN_ID])
    # An id that is free keeps its row until somebody gets it.
    gone = prep.grow(EARLY[EARLY["user"] != 7], evict_after=1, progress=False)
    assert gone.vocabulary("user").null_count == 1
    _step(model.grow(gone), LATER)


@pytest.mark.slow
def test_what_is_frozen_stays_so():
    prep = _prep()
    model = _trained(prep)
    model.encoder.tables["user"].trainable = False
    model.towers.trainable = False
    schema = Schema([*_COLUMNS, Numeric("new")], list(_TASKS))
    grown = prep.grow(LATER, progress=False)
    for wider, rows in (
        (model.grow(grown), LATER),
        (model.grow(grown.grow(LATER.assign(new=1.0), schema=schema)), LATER.assign(new=2.0)),
    ):
        frozen = [wider.encoder.tables["user"].embeddings, *wider.towers.weights]
        before = [keras.ops.convert_to_numpy(one) for one in frozen]
        free = keras.ops.convert_to_numpy(wider.encoder.tables["item"].embeddings)
        _step(wider, rows)
        for one, values in zip(frozen, before, strict=True):
            np.testing.assert_array_equal(one, values)
        assert (keras.ops.convert_to_numpy(wider.encoder.tables["item"].embeddings) != free).any()


def test_two_growths_at_once_are_those_one_by_one():
    prep = _prep()
    model = _trained(prep)
    first = prep.grow(LATER[:24], progress=False)
    second = first.grow(LATER[24:], evict_after=1, progress=False)
    at_once = model.grow(second, new_rows="unknown")
    step_by_step = model.grow(first, new_rows="unknown").grow(second, new_rows="unknown")
    for one, other in zip(at_once.weights, step_by_step.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_saved_and_loaded_it_grows_on(tmp_path):
    prep = _prep()
    model = _trained(prep)
    model.save(tmp_path / "m.keras")
    loaded = tfmoe.load_model(tmp_path / "m.keras")
    grown = loaded.training_preprocessor.grow(LATER, evict_after=2, moments="update")
    wider = loaded.grow(grown)
    wider.save(tmp_path / "w.keras")
    again = tfmoe.load_model(tmp_path / "w.keras")
    _same_predictions(wider, again, LATER)
    known = again.training_preprocessor
    assert known.vocabulary("item").equals(grown.vocabulary("item"))
    assert again.grow(known.grow(EARLY)).count_params() == again.count_params()
    assert known.grown_from(prep)


@pytest.mark.parametrize(
    "mixture",
    [
        tfmoe.MMoE(num_experts=2, hidden_units=(4,)),
        tfmoe.STEM(hidden_units=(4,)),
        tfmoe.PLE(hidden_units=(4,)),
    ],
)
@pytest.mark.quick(1)
def test_further_columns_are_rows_of_zeros(mixture):
    prep = _prep()
    columns = [
        Numeric("new"),
        *(Categorical("person", source="user", dim=3), *_COLUMNS[1:]),
        MultiCategorical("tags", dim=2),
    ]
    later = LATER.assign(new=np.arange(48.0), tags=[["x", "y"]] * 48)
    grown = prep.grow(
        later, schema=Schema(columns, list(_TASKS)), renamed={"user": "person"}, progress=False
    )
    early = EARLY.assign(new=1.0, tags=[["y"]] * 48)
    model = _trained(prep, mixture, wide=True)
    with pytest.raises(ValueError, match=r"renamed=\{old name: new name\}"):
        model.grow(grown)
    wider = model.grow(grown, renamed={"user": "person"})
    _same_predictions(model, wider, early, exact=False)
    table = wider.encoder.tables["tags"].embeddings
    for _ in range(2):
        before = keras.ops.convert_to_numpy(table)
        _step(wider, later)
    # The kernel's zeros had to move first.
    assert (keras.ops.convert_to_numpy(table) != before).any()
    for owner, slot in (("person", "user"), ("item", "item")):
        old = model.encoder.tables[slot].embeddings
        assert wider.encoder.tables[owner].embeddings.shape[0] > old.shape[0]


@pytest.mark.slow
def test_what_cannot_have_further_columns_says_so():
    prep = _prep()
    later = LATER.assign(new=1.0)
    schema = Schema([*_COLUMNS, Numeric("new")], list(_TASKS))
    grown = prep.grow(later, schema=schema, progress=False)
    for options, message in (
        ({"mixture": CASES["tokens"]["mixture"]}, "a structure that reads tokens"),
        ({"interactions": [tfmoe.FM()]}, "with interactions. Train it anew"),
    ):
        model = _trained(prep, **options)
        with pytest.raises(ValueError, match=message):
            model.grow(grown)
    model = _trained(prep).add_task(Binary("buy"))
    wider = model.preprocessor.grow(later, progress=False)
    _same_predictions(model, model.grow(wider), EARLY)
    assert model.grow(wider).added_tasks == ("buy",)
    assert not model.grow(wider).encoder.trainable


def test_only_what_grew_out_of_its_own_preprocessor_fits():
    model = _trained(_prep())
    other = Preprocessor(model.schema).fit(LATER, progress=False)
    for given in (other, model.schema, None):
        with pytest.raises(ValueError, match=r"Make it by `model\.training_preprocessor"):
            model.grow(given)
    grown = model.preprocessor.grow(LATER, progress=False)
    with pytest.raises(ValueError, match="Received new_rows='zeros'"):
        model.grow(grown, new_rows="zeros")
    strange = _trained(_prep(), optimizer=keras.optimizers.Adafactor(0.01))
    with pytest.raises(ValueError, match="Received Adafactor, whose"):
        strange.grow(grown)
    plain = tfmoe.MultiTaskModel(_prep(), tfmoe.SharedBottom(hidden_units=(4,)))
    assert not plain.grow(grown).compiled


@pytest.mark.parametrize("trainable", [False, True])
def test_vectors_that_came_are_those_of_the_new_rows(trainable):
    vectors = {n: [float(n), 1.0] for n in range(8)}
    column = tfmoe.Pretrained("user", vectors=vectors, trainable=trainable, projection=3)
    prep = _prep((column, Numeric("age")))
    model = _trained(prep)
    more = {n: [float(n), 2.0] for n in range(4, 14)}
    grown = prep.grow(LATER, vectors={"user": more}, progress=False)
    wider = model.grow(grown, new_rows="unknown")
    _same_predictions(model, wider, EARLY)
    table = wider.encoder.tables["user"]
    values = table.frozen if table.vectors is None else table.vectors.embeddings
    np.testing.assert_array_equal(values[8:], [more[n] for n in range(8, 14)])
    _step(wider, LATER)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_grow_alike(backend):
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = None\n"
        "from tests.model import test_grow as t\n"
        "t.test_old_predictions_stay_to_the_bit_and_new_rows_start_as_asked('mmoe', 'unknown')\n"
        "t.test_rows_of_evicted_values_start_anew('initializer')\n"
    )
    run_on(backend, "-c", code)


@pytest.mark.slow
def test_a_served_model_that_has_grown_knows_who_came_and_who_went(tmp_path):
    tf = pytest.importorskip("tensorflow")
    prep = _prep()
    model = _trained(prep)
    grown = prep.grow(LATER, evict_after=1, progress=False)
    grown = grown.grow(LATER[LATER["user"] < 9], evict_after=1, progress=False)
    assert grown.vocabulary("user").null_count
    wider = model.grow(grown)
    folder = tfmoe.export(wider, tmp_path / "served")
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    from tfmoe.data.encode import graph

    rows = pd.concat([EARLY, LATER], ignore_index=True)
    found = served(**{n: tf.constant(v) for n, v in graph.request(grown, rows).items()})
    for name, values in wider.predict(rows, verbose=0).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
    ids = grown.arrays(rows, labels=False)["user"]
    assert {UNKNOWN_ID} < {*ids.tolist()}
