"""A tower for the position: trained with, and served without."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tfmoe.heads.position import PositionTower

TASKS = [tfmoe.Binary("click"), tfmoe.Regression("stay", standardize=False)]
SCHEMA = tfmoe.Schema(
    [
        tfmoe.Categorical("item", dim=4, dtype="int"),
        tfmoe.Categorical("place", dtype="int", source="position"),
    ],
    TASKS,
)


def clicks(num_rows=400, seed=0):
    """Items shown the higher the worse they are, and clicked the more the higher they stand."""
    generator = np.random.default_rng(seed)
    item = generator.integers(0, 8, num_rows)
    position = np.clip(item + generator.integers(-4, 5, num_rows), 0, 7)
    logit = (item - 4) / 4 - 0.6 * position + 2
    click = generator.random(num_rows) < 1 / (1 + np.exp(-logit))
    return pd.DataFrame(
        {"item": item, "position": position, "click": click.astype(int), "stay": item / 8.0}
    )


def model(rows, position="place", schema=SCHEMA, **options):
    keras.utils.set_random_seed(0)
    prep = tfmoe.Preprocessor(schema).fit(rows)
    mixture = options.pop("mixture", None) or tfmoe.SharedBottom(hidden_units=(4,))
    built = tfmoe.MultiTaskModel(prep, mixture, tower_units=(), position=position, **options)
    built.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    return prep, built


def test_what_is_added_is_that_of_the_oracle():
    layer = PositionTower(6, [True, False, True])
    ids = np.array([3, 4, 1, 3, 0, 5], "int32")
    layer(ids)
    table = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    layer.table.embeddings.assign(table)
    expected = np.zeros((6, 3))
    places = [0, 1, 3, 5]
    for task in (0, 2):
        mean = sum(table[ids[place], task] for place in places) / len(places)
        for place in places:
            expected[place, task] = table[ids[place], task] - mean
    np.testing.assert_allclose(layer(ids), expected, atol=1e-6)
    task = np.array([0, 0, 0, 2, 1, 2], "int32")
    expected = np.zeros((6, 3))
    for own, places in ((0, [0, 1]), (2, [3, 5])):
        mean = sum(table[ids[place], own] for place in places) / len(places)
        for place in places:
            expected[place, own] = table[ids[place], own] - mean
    np.testing.assert_allclose(layer(ids, task), expected, atol=1e-6)
    again = PositionTower.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_an_added_task_has_a_table_of_its_own_which_alone_is_trained():
    ids = np.array([3, 4, 1, 3, 0, 5], "int32")
    values = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    whole, layer = PositionTower(6, [True, False, True, True]), None
    for num_added in (0, 1, 2):
        other, layer = (
            layer,
            PositionTower(6, [True, False, True, True][: 2 + num_added], num_added),
        )
        layer(ids)
        if other is not None:
            layer.copy_extended(other)
        layer.tables[-1].embeddings.assign(
            values[:, :2] if other is None else values[:, [1 + num_added]]
        )
    whole(ids)
    whole.table.embeddings.assign(values)
    for task in (None, np.array([0, 0, 0, 3, 2, 3], "int32")):
        np.testing.assert_allclose(layer(ids, task), whole(ids, task), atol=1e-6)
    assert [tuple(weight.shape) for weight in layer.trainable_weights] == [(6, 1)]
    part = PositionTower(6, [True, True])
    part(ids)
    part.copy_from(layer, [3, 0])
    np.testing.assert_array_equal(part.table.embeddings, values[:, [3, 0]])
    like = PositionTower(6, [True] * 5, 3)
    like(ids)
    like.copy_extended(layer, 1)
    np.testing.assert_array_equal(like.tables[-1].embeddings, values[:, [1]])
    again = PositionTower.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def trained(seed=0):
    """A model whose numbers of positions are no zeros, and rows."""
    rows = clicks(80)
    _, built = model(rows, mixture=tfmoe.MMoE(num_experts=2, hidden_units=(4,)))
    table = built.position_tower.table.embeddings
    values = np.random.default_rng(seed).normal(size=table.shape).astype("float32")
    table.assign(values)
    return rows, built, values


def features_of(built, rows):
    return built.training_preprocessor.arrays(rows, labels=False)


def logits_of(built, rows, training):
    found = built.forward_pass(features_of(built, rows), training=training).logits
    return {name: keras.ops.convert_to_numpy(values) for name, values in found.items()}


def added(ids, numbers):
    """The oracle: each row's number less their mean over the rows with a position."""
    counted = [number for id_, number in zip(ids, numbers[ids], strict=True) if id_ > 1]
    return np.array([numbers[i] - sum(counted) / len(counted) if i > 1 else 0.0 for i in ids])


def test_what_is_extracted_adds_what_it_had_learned():
    rows, built, values = trained()
    extracted = tfmoe.extract(built, ["click"])
    assert extracted.position == "place"
    assert list(extracted.input) == ["item"]
    np.testing.assert_array_equal(extracted.position_tower.table.embeddings, values[:, :1])
    served = rows.drop(columns="position")
    expected = built.predict(served, verbose=0)["click"]
    np.testing.assert_allclose(extracted.predict(served, verbose=0)["click"], expected, rtol=1e-5)
    # In training it adds what it had learned.
    some = rows.assign(position=rows["position"].where(rows["item"] > 1))
    own = added(features_of(extracted, some)["place"], values[:, 0])
    assert np.any(own)
    assert np.any(own == 0)
    told = logits_of(extracted, some, False)["click"] + own
    np.testing.assert_allclose(
        logits_of(extracted, some, True)["click"], told, rtol=1e-4, atol=1e-5
    )
    # Nothing is added to a regression, and its rows need not have the column.
    regression = tfmoe.extract(built, "stay")
    assert regression.position is None
    assert regression.position_tower is None
    assert "place" not in features_of(regression, served)


@pytest.mark.slow
def test_what_is_extracted_trains_on_with_it(tmp_path):
    rows, built, values = trained()
    served = rows.drop(columns="position")
    extracted = tfmoe.extract(built, ["click"])
    extracted.compile("adam", jit_compile=False)
    extracted.fit(rows, batch_size=40, epochs=1, verbose=0)
    assert np.any(np.asarray(extracted.position_tower.table.embeddings) != values[:, :1])
    extracted.save(tmp_path / "click.keras")
    loaded = tfmoe.load_model(tmp_path / "click.keras")
    again = loaded.predict(served, verbose=0)["click"]
    np.testing.assert_allclose(extracted.predict(served, verbose=0)["click"], again, rtol=1e-6)
    tables = [one.position_tower.table.embeddings for one in (loaded, extracted)]
    np.testing.assert_array_equal(*tables)
    regression = tfmoe.extract(built, "stay")
    regression.compile("adam", jit_compile=False)
    regression.fit(served, batch_size=40, epochs=1, verbose=0)


def test_a_task_that_is_added_starts_as_the_one_that_it_is_like():
    rows, built, values = trained()
    wider = built.add_task(tfmoe.Binary("like"), like="click")
    assert wider.position == "place"
    tower = wider.position_tower
    np.testing.assert_array_equal(tower.table.embeddings, values)
    np.testing.assert_array_equal(tower.added_tables[0].embeddings, values[:, :1])
    served = rows.drop(columns="position")
    before = wider.predict(served, verbose=0)
    for name, expected in built.predict(served, verbose=0).items():
        np.testing.assert_array_equal(before[name], expected)
    own = added(features_of(wider, rows)["place"], values[:, 0])
    told = logits_of(wider, rows, False)["like"] + own
    np.testing.assert_allclose(logits_of(wider, rows, True)["like"], told, rtol=1e-4, atol=1e-5)
    weights = [weight for weight in wider.trainable_weights if "position" in weight.path]
    assert [weight.path for weight in weights] == [tower.added_tables[0].embeddings.path]


@pytest.mark.slow
def test_a_task_that_is_added_learns_its_own(tmp_path):
    rows, built, values = trained()
    rows["like"] = 1 - rows["click"]
    served = rows.drop(columns="position")
    wider = built.add_task(tfmoe.Binary("like"), like="click")
    tower, before = wider.position_tower, wider.predict(served, verbose=0)
    wider.compile(keras.optimizers.Adam(0.05), jit_compile=False)
    wider.fit(rows, batch_size=40, epochs=1, verbose=0)
    np.testing.assert_array_equal(tower.table.embeddings, values)
    assert np.any(np.asarray(tower.added_tables[0].embeddings) != values[:, :1])
    now = wider.predict(served, verbose=0)
    for name in ("click", "stay"):
        np.testing.assert_array_equal(now[name], before[name])
    assert np.any(now["like"] != before["like"])
    wider.save(tmp_path / "wider.keras")
    loaded = tfmoe.load_model(tmp_path / "wider.keras")
    again = loaded.position_tower
    np.testing.assert_array_equal(
        again.added_tables[0].embeddings, tower.added_tables[0].embeddings
    )
    assert [tuple(one.shape) for one in again.trainable_weights] == [(len(values), 1)]
    later = wider.training_preprocessor.grow(rows.assign(position=99), progress=False)
    grown = wider.grow(later).position_tower
    assert [len(np.asarray(one.embeddings)) for one in grown.tables] == [len(values) + 1] * 2
    np.testing.assert_array_equal(
        np.asarray(grown.added_tables[0].embeddings)[:-1], tower.added_tables[0].embeddings
    )
    # One more, of another kind than those that there are.
    more = wider.add_task(tfmoe.Regression("value", standardize=False), like="click")
    assert [np.shape(one.embeddings)[1] for one in more.position_tower.tables] == [2, 1, 1]
    assert not np.any(np.asarray(more.position_tower.tables[-1].embeddings))
    more.compile("adam", jit_compile=False)
    more.fit(rows.assign(value=1.0), batch_size=40, epochs=1, verbose=0)


@pytest.mark.slow
def test_an_added_market_learns_its_own():
    rows = clicks(80).assign(market=lambda df: np.where(df["item"] % 2, "de", "fr"))
    tasks = [tfmoe.Binary("de", source="click"), tfmoe.Binary("fr", source="click")]
    schema = tfmoe.Schema(SCHEMA.columns, tasks, task_column="market")
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,))
    _, built = model(rows, "place", schema, mixture=mixture)
    built.fit(rows, batch_size=40, epochs=1, verbose=0)
    wider = built.add_task(tfmoe.Binary("us", source="click"), like=["de"])
    wider.compile("adam", jit_compile=False)
    wider.fit(rows.assign(market="us"), batch_size=40, epochs=1, verbose=0)
    numbers = [np.asarray(one.embeddings) for one in wider.position_tower.tables]
    np.testing.assert_array_equal(numbers[0], built.position_tower.table.embeddings)
    assert np.any(numbers[1][:, 0] != numbers[0][:, 0])
    old, new = (one.predict(rows, verbose=0)["score"] for one in (built, wider))
    np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_training_reads_it_and_nothing_else_does():
    rows = clicks()
    prep, built = model(rows)
    assert list(built.input) == ["item"]
    assert "place" not in [column.name for column in built.schema.columns]
    table = built.position_tower.table.embeddings
    served = rows.drop(columns="position")
    x, y, weights = prep.arrays(rows)
    told = built.evaluate(served, verbose=0, exact=False)
    lost = built.train_on_batch(x, y, weights, return_dict=True)
    # The table is 0 at first, so that nothing is added.
    np.testing.assert_allclose(lost["click_loss"], told["click_loss"], rtol=1e-5)
    assert np.any(table.numpy()[3:] != 0)
    assert np.all(table.numpy()[:3] == 0)
    assert np.all(table.numpy()[:, 1] == 0)
    now, told = built.predict(served, verbose=0), built.evaluate(rows, verbose=0, exact=False)
    table.assign(keras.ops.add(table, 3 * np.arange(len(table.numpy()))[:, None]))
    for given in (rows, served.assign(position="nonsense")):
        for name, values in built.predict(given, verbose=0).items():
            np.testing.assert_array_equal(values, now[name])
    again = built.evaluate(served, verbose=0, exact=False)
    np.testing.assert_allclose(again["click_loss"], told["click_loss"], rtol=1e-6)
    assert built.train_on_batch(x, y, weights, return_dict=True)["click_loss"] > 1
    with pytest.raises(ValueError, match=r"\['item', 'place'\]. Received \['item'\]"):
        built.train_on_batch({"item": x["item"]}, y)


@pytest.mark.slow
def test_it_is_saved_and_datasets_may_have_it(tmp_path):
    rows = clicks()
    served = rows.drop(columns="position")
    prep, built = model(rows)
    built.fit(prep.dataset(rows, 400), validation_data=prep.dataset(rows, 400), verbose=0)
    now = built.predict(served, verbose=0)["click"]
    predicted = built.predict(prep.dataset(rows, 400, labels=False), verbose=0)
    np.testing.assert_allclose(predicted["click"], now, rtol=1e-6)
    built.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == built.get_config()
    tables = [one.position_tower.table.embeddings.numpy() for one in (loaded, built)]
    np.testing.assert_array_equal(*tables)
    np.testing.assert_allclose(loaded.predict(served, verbose=0)["click"], now, rtol=1e-6)
    loaded.fit(rows, batch_size=400, epochs=1, validation_data=served, verbose=0)
    extracted = tfmoe.extract(loaded, ["click"])
    assert extracted.position == "place"


@pytest.mark.slow
def test_the_model_orders_by_relevance():
    rows, agreement = clicks(6000), {}
    for position in ("place", None):
        schema = SCHEMA if position else SCHEMA.without("place")
        _, built = model(rows, position, schema)
        built.compile(keras.optimizers.Adam(0.05), jit_compile=False)
        built.fit(rows, batch_size=200, epochs=12, verbose=0)
        scores = built.predict(pd.DataFrame({"item": range(8)}), verbose=0)["click"]
        agreement[position] = np.corrcoef(scores, range(8))[0, 1]
    # The best stand lowest, and were clicked least.
    assert agreement["place"] > 0.9
    assert agreement[None] < 0


@pytest.mark.slow
def test_it_is_served_without(tmp_path):
    import tensorflow as tf

    _, built = model(clicks())
    path = tfmoe.export(built, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    assert list(served.structured_input_signature[1]) == ["item"]


@pytest.mark.slow
def test_rows_of_one_task_each_and_all_else():
    rows = clicks().assign(market=lambda df: np.where(df["item"] % 2, "de", "fr"))
    tasks = [tfmoe.Binary("de", source="click"), tfmoe.Binary("fr", source="click")]
    schema = tfmoe.Schema(
        [tfmoe.Categorical("item"), tfmoe.Numeric("position", transform="buckets", num_buckets=4)],
        tasks,
        task_column="market",
    )
    _, built = model(
        rows, "position", schema, mixture=tfmoe.MMoE(num_experts=2, hidden_units=(4,)), wide=True
    )
    built.fit(rows, epochs=2, verbose=0)
    assert np.any(built.position_tower.table.embeddings.numpy() != 0)
    assert np.isfinite(built.predict(rows.drop(columns="position"), verbose=0)["score"]).all()
    _, built = model(clicks())
    built.compile("adam", weighting="gradnorm", jit_compile=False)
    built.fit(clicks(), epochs=1, verbose=0)
    built.compile("adam", weighting="pcgrad", jit_compile=True)
    built.fit(clicks(), epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("plase", r"'level', 'shown', 'both'\]. Received position='plase'"),
        ("history", "Received position='history'"),
        ("age", "Received position='age'"),
        ("item", "Received position='item', with scenario='item'"),
        ("shown", r"Received position='shown', which \['both'\] cross. Leave it out of them"),
    ],
)
def test_errors(position, message):
    columns = [
        tfmoe.Categorical("item"),
        tfmoe.Categorical("place"),
        tfmoe.Numeric("age"),
        tfmoe.Numeric("level", transform="buckets"),
        tfmoe.Sequence("history"),
        tfmoe.Categorical("shown", source="place"),
        tfmoe.Crossed("both", columns=["place", "shown"]),
    ]
    schema = tfmoe.Schema(columns, TASKS, scenario="item")
    rows = pd.DataFrame(
        {
            "item": ["a", "b"],
            "place": ["1", "2"],
            "age": [1.0, 2.0],
            "level": [1.0, 2.0],
            "history": [["a"], ["b"]],
            "click": [0, 1],
            "stay": [0.0, 1.0],
        }
    )
    prep = tfmoe.Preprocessor(schema).fit(rows)
    with pytest.raises(ValueError, match=message):
        tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(2,)), position=position)
