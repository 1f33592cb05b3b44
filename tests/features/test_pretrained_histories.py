"""Histories of what has vectors already: pooled in every way, as they are, trained or projected."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfmoe
from tests.oracles import interest as oracle
from tests.package import conformance
from tfmoe.serving.export import tensors

TASKS = [tfmoe.Binary("click"), tfmoe.Regression("stars")]
SIZE, LENGTH = 4, 3
VECTORS = {f"i{n}": np.random.default_rng(n).normal(size=SIZE) for n in range(8)}
WAYS = {
    "frozen": {},
    "trained": {"trainable": True},
    "projected": {"projection": 2},
    "both": {"projection": 6, "trainable": True},
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def columns(pooling, way):
    own = pooling if isinstance(pooling, str) else "mean"
    return [
        tfmoe.Pretrained("item", vectors=VECTORS, **way),
        tfmoe.Categorical("kind", dim=2),
        tfmoe.Sequence("seen", share="item", max_length=LENGTH, pooling=pooling),
        tfmoe.Sequence("kinds", share="kind", aligned_with="seen", pooling=own),
        tfmoe.Categorical("next", share="item"),
    ]


def table(num_rows=40, seed=0):
    rng = np.random.default_rng(seed)
    seen = [rng.integers(0, 9, rng.integers(0, 5)) for _ in range(num_rows)]
    item, other = rng.integers(0, 9, (2, num_rows))
    return pd.DataFrame(
        {
            "item": [f"i{n}" for n in item],
            "next": [None if n == 3 else f"i{n}" for n in other],
            "kind": [f"k{n % 3}" for n in item],
            "seen": [[f"i{n}" for n in one] for one in seen],
            "kinds": [[f"k{n % 3}" for n in one] for one in seen],
            "click": [float(n in one) for n, one in zip(item, seen, strict=True)],
            "stars": rng.normal(size=num_rows),
        }
    )


def fitted(pooling, way, num_rows=40):
    schema = tfmoe.Schema(columns(pooling, way), TASKS)
    with pytest.warns(UserWarning, match="without a vector"):
        return tfmoe.Preprocessor(schema).fit(table(num_rows), progress=False)


def encoder_of(prep, **options):
    """An encoder with the vectors, whose other weights are small random numbers."""
    encoder = tfmoe.Encoder(prep.schema, prep.table_sizes, lengths=prep.lengths, **options)
    encoder(prep.arrays(table(2), labels=False))
    rng = np.random.default_rng(1)
    for weight in encoder.weights:
        if "seed_generator" not in weight.path:
            weight.assign(0.5 * rng.normal(size=weight.shape))
    encoder.start_at(prep.fits)
    return encoder


def array(weight):
    return np.asarray(keras.ops.convert_to_numpy(weight), "float64")


def vector_of(encoder, given):
    """The oracle: by id what a value's vector is."""
    layer = encoder.tables["item"]
    special, kernel = array(layer.special.embeddings), layer.projection and array(layer.kernel)
    rows = [*special, *(np.asarray(one, "float32") for one in given.values())]
    return [row if kernel is None else row @ kernel for row in rows]


def looked_up(encoder, features):
    """By sequence the values of each row, with None at padding."""
    by_table = {
        "seen": vector_of(encoder, VECTORS),
        "kinds": list(array(encoder.tables["kind"].embeddings)),
    }
    return {
        name: [[vectors[i] if i else None for i in ids] for ids in features[name]]
        for name, vectors in by_table.items()
    }


@each_way
@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "last"])
def test_vectors_are_pooled_as_embeddings_are(pooling, way):
    prep = fitted(pooling, way)
    features = prep.arrays(table(), labels=False)
    encoder = encoder_of(prep)
    assert encoder.interests == {}
    size = way.get("projection", SIZE)
    assert encoder.sizes == [size, 2, size, 2, size]
    encoded = encoder(features)
    combine = {
        "mean": lambda own: np.mean(own, axis=0),
        "sum": lambda own: np.sum(own, axis=0),
        "max": lambda own: np.max(own, axis=0),
        "last": lambda own: own[-1],
    }
    for name, rows in looked_up(encoder, features).items():
        expected = [
            combine[pooling]([one for one in row if one is not None])
            if any(one is not None for one in row)
            else np.zeros(encoder.part(encoded, [name]).shape[1])
            for row in rows
        ]
        found = encoder.part(encoded, [name])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    single = [vector_of(encoder, VECTORS)[i] for i in features["next"]]
    np.testing.assert_allclose(encoder.part(encoded, ["next"]), single, rtol=1e-4, atol=1e-5)


def history_of(rows, sizes):
    """The aligned columns of one row side by side, and which positions count."""
    present = [any(one is not None for one in place) for place in zip(*rows, strict=True)]
    parts = [
        [np.zeros(size) if one is None else one for one in row]
        for row, size in zip(rows, sizes, strict=True)
    ]
    return np.concatenate([np.array(part) for part in parts], axis=-1), np.array(present)


@each_way
def test_attention_over_vectors_is_that_of_the_oracle(way):
    prep = fitted(tfmoe.TargetAttention(("item", "kind"), (5,), softmax=True), way)
    features = prep.arrays(table(), labels=False)
    encoder = encoder_of(prep)
    encoded = encoder(features)
    layer = encoder.interests["seen"]
    layers = [*zip(map(array, layer.kernels), map(array, layer.biases), strict=True)]
    values, size = looked_up(encoder, features), way.get("projection", SIZE)
    items, kinds = vector_of(encoder, VECTORS), array(encoder.tables["kind"].embeddings)
    found = encoder.part(encoded, ["seen", "kinds"])
    for row in range(40):
        own = [values["seen"][row], values["kinds"][row]]
        history, present = history_of(own, [size, 2])
        candidate = np.concatenate([items[features["item"][row]], kinds[features["kind"][row]]])
        expected = oracle.attention(history, candidate, present, layers, True)
        np.testing.assert_allclose(found[row], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", [WAYS["frozen"], WAYS["projected"]], ids=["frozen", "projected"])
def test_blocks_over_vectors_read_what_attention_reads(way):
    prep = fitted(tfmoe.BST("item", num_heads=2), way)
    features = prep.arrays(table(), labels=False)
    encoder = encoder_of(prep)
    encoded = encoder(features)
    values, size = looked_up(encoder, features), way.get("projection", SIZE)
    pairs = [
        history_of([values["seen"][row], values["kinds"][row]], [size, 2]) for row in range(40)
    ]
    history, present = (np.stack(parts) for parts in zip(*pairs, strict=True))
    candidate = encoder.part(encoded, ["item"])
    expected = encoder.interests["seen"](history.astype("float32"), candidate, present)
    found = encoder.part(encoded, ["seen", "kinds"])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", ["last", tfmoe.TargetAttention("item")], ids=["last", "din"])
def test_copies_have_the_same_vectors_and_tokens_the_same_places(pooling):
    prep = fitted(pooling, WAYS["projected"])
    features = prep.arrays(table(), labels=False)
    copies = encoder_of(prep, copies=2)
    found = np.asarray(copies(features))
    alone = tfmoe.Encoder(prep.schema, prep.table_sizes, lengths=prep.lengths, copies=1)
    alone(features)
    for copy in range(2):
        alone.copy_from(copies, [copy])
        np.testing.assert_allclose(alone(features)[:, 0], found[:, copy], rtol=1e-4, atol=1e-5)
    tokens = encoder_of(prep, tokens=5)
    (several, mask), vectors = tokens(features), vector_of(tokens, VECTORS)
    # Three columns, then the sequences' positions.
    np.testing.assert_array_equal(mask[:, 3 : 3 + LENGTH], features["seen"] != 0)
    own, bias = array(tokens.maps["seen"]), array(tokens.biases["seen"])
    places = array(tokens.positions["seen"])
    expected = [[vectors[i] @ own for i in ids] + bias + places for ids in features["seen"]]
    np.testing.assert_allclose(several[:, 3 : 3 + LENGTH], expected, rtol=1e-4, atol=1e-4)


@each_way
def test_the_layer_keeps_the_promises_of_layers(way, tmp_path):
    prep = fitted(tfmoe.TargetAttention(("item", "kind"), (5,)), way)
    inputs = prep.arrays(table(6), labels=False)
    # The ids of all that is learned, missing and unknown values among them.
    inputs["kind"] = np.arange(6, dtype="int32") % 6

    def make(**options):
        return tfmoe.Encoder(prep.schema, prep.table_sizes, lengths=prep.lengths, **options)

    conformance.check_config(make, inputs)
    conformance.check_gradients(make, inputs, ())
    conformance.check_half_precision(make, inputs, False)
    conformance.check_static_shapes(make, inputs, False)
    if way == WAYS["projected"]:
        conformance.check_saving(make, inputs, tmp_path)


def made(prep, **options):
    keras.utils.set_random_seed(0)
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,))
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(), **options)
    model.compile(keras.optimizers.Adam(0.05), jit_compile=False)
    return model


POOLINGS = {
    "mean": "mean",
    "last": "last",
    "attention": tfmoe.TargetAttention(("item", "kind"), (5,)),
    "blocks": tfmoe.BST("item", num_heads=2),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "way"),
    [("attention", "projected"), ("blocks", "frozen"), ("last", "trained"), ("mean", "both")],
)
def test_a_model_is_saved_served_extracted_and_grown_with_them(pooling, way, tmp_path):
    prep, rows = fitted(POOLINGS[pooling], WAYS[way]), table()
    model = made(prep, wide=pooling == "mean")
    layer = model.encoder.tables["item"]
    vectors = layer.frozen if layer.vectors is None else layer.vectors.embeddings
    before = array(vectors)
    np.testing.assert_allclose(before, np.stack([*VECTORS.values()]), rtol=1e-6)
    model.fit(rows, batch_size=20, epochs=2, verbose=0)
    moved = np.any(array(vectors) != before)
    assert moved == ("trainable" in WAYS[way])

    odd = pd.concat([rows, table(9, 3).assign(item=None, kind="new")], ignore_index=True)
    found = model.predict(odd, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    again = loaded.predict(odd, verbose=0)
    alone = tfmoe.extract(model, ["stars"]).predict(odd, verbose=0)
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values)
    np.testing.assert_allclose(alone["stars"], found["stars"], rtol=1e-4, atol=1e-5)
    path = tfmoe.export(loaded, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures["serving_default"](**tensors(prep, odd))
    for name in found:
        np.testing.assert_allclose(served[name], found[name], rtol=1e-4, atol=1e-5)

    later = {"i8": np.ones(SIZE), "i9": np.zeros(SIZE)}
    grown = prep.grow(rows, vectors={"item": later}, progress=False)
    wider = model.grow(grown)
    known = rows[
        [
            not {"i8"} & {*seen, item, other}
            for seen, item, other in zip(rows["seen"], rows["item"], rows["next"], strict=True)
        ]
    ]
    kept = wider.predict(known, verbose=0)
    for name, values in model.predict(known, verbose=0).items():
        np.testing.assert_allclose(kept[name], values, rtol=1e-5, atol=1e-6)
    table_now = wider.encoder.tables["item"]
    now = table_now.frozen if table_now.vectors is None else table_now.vectors.embeddings
    np.testing.assert_array_equal(array(now)[8:], np.stack([*later.values()]))
    wider.fit(rows, batch_size=20, epochs=1, verbose=0)
