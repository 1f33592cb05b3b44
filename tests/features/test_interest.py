"""Histories that are read with regard to a candidate."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

import tfmoe
from tests.oracles import interest as oracle
from tfmoe.serving.export import tensors

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)


def given(compared=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 5, 4)).astype("float32"), rng.normal(size=(4, compared)).astype(
        "float32"
    )


def drawn(layer, seed=1):
    """Sets the weights of a built layer to small random numbers."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:
            weight.assign(0.5 * rng.normal(size=weight.shape))


def array(weight):
    return np.asarray(keras.ops.convert_to_numpy(weight), "float64")


@pytest.mark.parametrize("compared", [4, 2])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("units", [(6, 3), ()])
def test_attention_matches_reference(compared, softmax, units):
    layer = tfmoe.InterestAttention(units, softmax=softmax)
    history, candidate = given(compared)
    layer(history, candidate, MASK)
    drawn(layer)
    layers = [*zip(map(array, layer.kernels), map(array, layer.biases), strict=True)]
    expected = [
        oracle.attention(h.astype("float64"), c, m, layers, softmax)
        for h, c, m in zip(history, candidate, MASK, strict=True)
    ]
    found = layer(history, candidate, MASK)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


WEIGHTS = np.array([[1, 0, -2, 0.5, 3], [0, 0, 9, 9, 9], [9, 2.5, 9, -1, 9], [0.25, 7, 7, 7, 7]])


@pytest.mark.parametrize("softmax", [False, True])
def test_weights_of_the_values_are_those_of_the_oracle(softmax):
    layer = tfmoe.InterestAttention((6, 3), softmax=softmax)
    history, candidate = given(2)
    weights = WEIGHTS.astype("float32")
    layer(history, candidate, MASK, weights=weights)
    drawn(layer)
    layers = [*zip(map(array, layer.kernels), map(array, layer.biases), strict=True)]
    expected = [
        oracle.attention(h.astype("float64"), c, m, layers, softmax, w)
        for h, c, m, w in zip(history, candidate, MASK, WEIGHTS, strict=True)
    ]
    found = layer(history, candidate, MASK, weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # Of weight 0 is what is not there; of weight 1 all are as without.
    np.testing.assert_array_equal(np.asarray(found)[1], 0)
    other = np.where(weights[..., None] == 0, 77.0, history)
    np.testing.assert_allclose(layer(other, candidate, MASK, weights=weights), found, rtol=1e-5)
    nothing = layer(history, candidate, MASK, weights=np.zeros_like(weights))
    np.testing.assert_array_equal(nothing, 0)
    ones = layer(history, candidate, MASK, weights=np.ones_like(weights))
    np.testing.assert_allclose(ones, layer(history, candidate, MASK), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softmax", [False, True])
def test_where_all_values_say_the_same_it_is_the_weighted_sum_or_mean(softmax):
    layer = tfmoe.InterestAttention((), softmax=softmax)
    history, candidate = given()
    layer(history, candidate, MASK)
    layer.kernels[0].assign(np.zeros(layer.kernels[0].shape))
    weights = np.where(MASK, WEIGHTS, 0).astype("float32")
    expected = np.einsum("bl,bld->bd", weights, history)
    if softmax:
        expected = expected / np.maximum(np.abs(weights).sum(axis=1, keepdims=True), 1e-9)
    found = layer(history, candidate, MASK, weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_attention_starts_from_the_sum_of_the_history():
    history, candidate = given(2)
    found = tfmoe.InterestAttention()(1e-3 * history, 1e-3 * candidate, MASK)
    expected = np.where(MASK[..., None], history, 0).sum(axis=1)
    np.testing.assert_allclose(found, 1e-3 * expected, rtol=0.02, atol=1e-5)


def block_of(block):
    attention = {w.path.split("attention/")[1]: array(w) for w in block.attention.weights}
    names = {"query": "query", "key": "key", "value": "value", "attention_output": "output"}
    found = {}
    for name, own in names.items():
        found[own] = attention[f"{name}/kernel"]
        found[f"{own}_bias"] = attention[f"{name}/bias"]
    for i, layer in enumerate(block.norms):
        found[f"norm_{i}"] = array(layer.gamma), array(layer.beta)
    layers = (block.hidden, block.output_layer)
    found["layers"] = [(array(layer.kernel), array(layer.bias)) for layer in layers]
    return found


@pytest.mark.parametrize("compared", [4, 2])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_transformer_matches_reference(compared, num_layers):
    layer = tfmoe.InterestTransformer(num_heads=2, num_layers=num_layers, hidden_units=3)
    history, candidate = given(compared)
    layer(history, candidate, MASK)
    drawn(layer)
    positions, blocks = array(layer.positions.embeddings), [*map(block_of, layer.blocks)]
    expected = [
        oracle.transformer(h.astype("float64"), c, m, positions, blocks)
        for h, c, m in zip(history, candidate, MASK, strict=True)
    ]
    found = layer(history, candidate, MASK)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layer", [tfmoe.InterestAttention(), tfmoe.InterestTransformer()], ids=["attention", "blocks"]
)
def test_padding_has_no_part(layer):
    history, candidate = given()
    found = np.asarray(layer(history, candidate, MASK))
    other = np.where(MASK[..., None], history, 7.0)
    np.testing.assert_allclose(layer(other, candidate, MASK), found, rtol=1e-5, atol=1e-6)
    # The second row's history without the padding behind it, and the whole batch in half.
    short = layer(history[1:2, :2], candidate[1:2], MASK[1:2, :2])
    np.testing.assert_allclose(short, found[1:2], rtol=1e-5, atol=1e-6)
    apart = layer(history[2:], candidate[2:], MASK[2:])
    np.testing.assert_allclose(apart, found[2:], rtol=1e-5, atol=1e-6)


def test_no_history_is_zeros_to_attention_and_finite_to_blocks():
    history, candidate = given()
    nothing = np.zeros_like(MASK)
    for softmax in (False, True):
        found = tfmoe.InterestAttention(softmax=softmax)(history, candidate, nothing)
        np.testing.assert_array_equal(found, 0)
    assert np.isfinite(tfmoe.InterestTransformer()(history, candidate, nothing)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.InterestAttention((0,)), "hidden_units"),
        (lambda: tfmoe.InterestAttention()(given()[0], np.ones((4, 5)), MASK), "c <= d"),
        (lambda: tfmoe.InterestTransformer(3)(*given(), MASK), "num_heads to divide"),
        (
            lambda: tfmoe.InterestTransformer()(
                keras.Input((None, 4)), keras.Input((4,)), keras.Input((None,), dtype="bool")
            ),
            "each position",
        ),
        (lambda: tfmoe.BST("item", dropout_rate=1.0), "dropout_rate"),
        (lambda: tfmoe.TargetAttention(()), "candidate"),
        (lambda: tfmoe.TargetAttention(("a", "a")), "different ones"),
        (lambda: tfmoe.MultiCategorical("tags", pooling="last"), "takes `pooling` from"),
        (lambda: tfmoe.Sequence("seen", pooling="first"), "takes as `pooling` one of"),
        (lambda: tfmoe.Sequence("seen", aligned_with="seen"), "another sequence"),
        (
            lambda: tfmoe.Sequence("kinds", aligned_with="seen", pooling=tfmoe.BST("kind")),
            "Set it on 'seen'",
        ),
        *(
            (
                lambda pooling=pooling: tfmoe.Sequence("seen", pooling=pooling, weights="w"),
                "BST norms its tokens",
            )
            for pooling in ("max", "last", tfmoe.BST("item"))
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


ITEM, KIND = tfmoe.Categorical("item", dim=4), tfmoe.Categorical("kind", dim=2)
SEEN = tfmoe.Sequence("seen", share="item", max_length=4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([tfmoe.Sequence("seen", pooling=tfmoe.BST("item")), ITEM], "such columns are \\[\\]"),
        ([tfmoe.Sequence("seen", share="item", pooling=tfmoe.BST("kind")), ITEM, KIND], "'item'"),
        (
            [
                tfmoe.Sequence("seen", share="item", pooling=tfmoe.BST(("item", "next"))),
                *(ITEM, tfmoe.Categorical("next", share="item")),
            ],
            "one candidate a table",
        ),
        ([ITEM, SEEN, tfmoe.Sequence("kinds", aligned_with="item")], "aligned with a Sequence"),
        (
            [
                *(ITEM, SEEN, tfmoe.Sequence("a", aligned_with="seen")),
                tfmoe.Sequence("b", aligned_with="a"),
            ],
            "not itself aligned",
        ),
        (
            [ITEM, SEEN, tfmoe.Sequence("kinds", aligned_with="seen", max_length=9)],
            "at max_length=4",
        ),
        (
            [
                *(ITEM, tfmoe.Sequence("kinds", aligned_with="seen", weights="w")),
                tfmoe.Sequence("seen", share="item", pooling=tfmoe.TargetAttention("item")),
            ],
            "Set them on 'seen'",
        ),
    ],
)
def test_a_schema_refuses_candidates_and_positions_that_do_not_fit(columns, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.Schema(columns, [tfmoe.Binary("click")])


def columns(pooling, weights=None):
    options = {"pooling": pooling} if isinstance(pooling, str) else {}
    return [
        tfmoe.Numeric("age"),
        *(ITEM, KIND),
        tfmoe.Sequence("seen", share="item", max_length=4, pooling=pooling, weights=weights),
        tfmoe.Sequence("kinds", share="kind", aligned_with="seen", **options),
        tfmoe.Sequence("dwell", dim=2, aligned_with="seen", dtype="string", **options),
    ]


@pytest.mark.parametrize("copies", [None, 2])
@pytest.mark.parametrize("softmax", [False, True])
def test_encoder_weighs_positions_by_the_history_s_own_weights(softmax, copies):
    pooling = tfmoe.TargetAttention(("item", "kind"), (5,), softmax=softmax)
    schema = tfmoe.Schema(
        [
            *(ITEM, KIND),
            tfmoe.Sequence("kinds", share="kind", aligned_with="seen"),
            tfmoe.Sequence("seen", share="item", max_length=4, pooling=pooling, weights="w"),
        ],
        [tfmoe.Binary("click")],
    )
    rows = pd.DataFrame(
        {
            "item": [1, 2, 3, 4],
            "kind": ["a", "b", "a", "c"],
            "seen": [[1, 2, 3], [2, None, 1], None, [5, 1, 2, 3, 4]],
            "kinds": [["a", "b", "a"], ["b", "a", "a"], ["a"], ["a", "a", "b", "a", "c"]],
            "w": [[0.5, 0.0, -2.0], [3.0, 9.0, None], None, [7.0, 1.0, 2.0, 0.0, 4.0]],
            "click": [0, 1, 0, 1],
        }
    )
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    features, *_ = prep.arrays(rows)
    encoder = tfmoe.Encoder(schema, prep.table_sizes, copies=copies)
    encoder(features)
    drawn(encoder)
    found = np.asarray(encoder(features)).reshape(4, copies or 1, -1)
    layer = encoder.interests["seen"]
    layers = [*zip(map(array, layer.kernels), map(array, layer.biases), strict=True)]
    # The weight of a missing value is gone with it, and a missing one is 1.
    weights = [[0.5, 0, -2, 1], [3, 1, 1, 1], [1, 1, 1, 1], [1, 2, 0, 4]]
    ids = {name: features[name] for name in ("item", "kind", "seen", "kinds")}
    mask = (ids["seen"] != 0) | (ids["kinds"] != 0)
    tables = {name: array(encoder.tables[name].embeddings) for name in ("item", "kind")}
    for copy in range(copies or 1):
        vectors = {name: np.split(one, copies or 1, axis=1)[copy] for name, one in tables.items()}
        for row in range(4):
            own = [
                vectors[owner][ids[name][row]] * (ids[name][row] != 0)[:, None]
                for owner, name in (("item", "seen"), ("kind", "kinds"))
            ]
            candidate = [vectors[name][ids[name][row]] for name in ("item", "kind")]
            expected = oracle.attention(
                np.concatenate(own, axis=1),
                np.concatenate(candidate),
                mask[row],
                layers,
                softmax,
                weights[row],
            )
            # The columns stand in the schema's order.
            expected = np.concatenate([*candidate, expected[4:], expected[:4]])
            np.testing.assert_allclose(found[row, copy], expected, rtol=1e-4, atol=1e-5)


def table(num_rows=120, seed=0):
    rng = np.random.default_rng(seed)
    seen = [rng.integers(0, 9, rng.integers(0, 6)).tolist() for _ in range(num_rows)]
    rows = pd.DataFrame({"age": rng.normal(size=num_rows), "item": rng.integers(0, 9, num_rows)})
    rows["kind"] = "k" + (rows["item"] % 3).astype(str)
    rows["seen"], rows["kinds"] = seen, [[f"k{i % 3}" for i in one] for one in seen]
    rows["dwell"] = [rng.choice(["short", "long"], len(one)).tolist() for one in seen]
    rows["click"] = [float(item in one) for item, one in zip(rows["item"], seen, strict=True)]
    rows["stars"] = rng.normal(size=num_rows)
    minutes = [None, 0.0, 0.5, 2.0, -1.0]
    rows["minutes"] = [rng.choice(minutes, len(one)).tolist() for one in seen]
    return rows


POOLINGS = {
    "attention": tfmoe.TargetAttention(("item", "kind"), (5,)),
    "blocks": tfmoe.BST("kind", num_heads=2, dropout_rate=0.1),
    "last": "last",
}


@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
def test_encoder_parts_what_a_history_gives_among_its_columns(pooling):
    rows = table()
    schema = tfmoe.Schema(columns(pooling), [tfmoe.Binary("click")])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    features, *_ = prep.arrays(rows)
    encoder = tfmoe.Encoder(schema, prep.table_sizes)
    encoded = encoder(features)
    assert encoded.shape == (120, 1 + 4 + 2 + 4 + 2 + 2)
    looked_up = {}
    for name in ("seen", "kinds", "dwell"):
        owner = schema.column(name).table
        vectors = array(encoder.tables[owner].embeddings)[features[name]]
        looked_up[name] = vectors * (features[name] != 0)[..., None]
    if pooling == "last":
        for name, vectors in looked_up.items():
            last = [max(np.flatnonzero(ids), default=0) for ids in features[name]]
            expected = vectors[np.arange(120), last]
            np.testing.assert_allclose(encoder.part(encoded, [name]), expected, rtol=1e-6)
        return
    # The history begins with the columns of the candidates' tables.
    both = len(pooling.candidates) == 2
    names = ["seen", "kinds", "dwell"] if both else ["kinds", "seen", "dwell"]
    history = np.concatenate([looked_up[name] for name in names], axis=-1).astype("float32")
    mask = np.any([features[name] != 0 for name in names], axis=0)
    candidate = encoder.part(encoded, pooling.candidates)
    expected = encoder.interests["seen"](history, candidate, mask)
    found = encoder.part(encoded, names)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
def test_copies_are_read_by_one_layer(pooling):
    rows = table(30)
    schema = tfmoe.Schema(columns(pooling), [tfmoe.Binary("click")])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    features, *_ = prep.arrays(rows)
    encoder = tfmoe.Encoder(schema, prep.table_sizes, copies=3)
    found = np.asarray(encoder(features))
    assert found.shape == (30, 3, 15)
    alone = tfmoe.Encoder(schema, prep.table_sizes, copies=1)
    alone(features)
    for copy in range(3):
        alone.copy_from(encoder, [copy])
        np.testing.assert_allclose(alone(features)[:, 0], found[:, copy], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
def test_a_model_keeps_its_interest(pooling, tmp_path):
    rows = table()
    tasks = [tfmoe.Binary("click"), tfmoe.Regression("stars")]
    weights = "minutes" if isinstance(pooling, tfmoe.TargetAttention) else None
    schema = tfmoe.Schema(columns(pooling, weights), tasks)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=2, hidden_units=(4,)))
    model.compile("adam", jit_compile=False)
    model.fit(rows, batch_size=40, verbose=0)
    odd = pd.concat([rows, table(9, seed=3).assign(item=99, kind=None)], ignore_index=True)
    found = model.predict(odd, verbose=0)
    assert all(np.isfinite(values).all() for values in found.values())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(odd, verbose=0)
    alone = tfmoe.extract(model, ["stars"]).predict(odd, verbose=0)
    more = model.add_task(tfmoe.Binary("like")).predict(odd, verbose=0)
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values)
        np.testing.assert_allclose(more[name], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone["stars"], found["stars"], rtol=1e-4, atol=1e-5)
    version = tfmoe.export(model, tmp_path / "served")
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    values = served(**tensors(prep, odd))
    for name in found:
        np.testing.assert_allclose(values[name], found[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_attention_finds_what_a_mean_blurs():
    """Whether the item is one of those that were seen."""
    train, test = table(6000, seed=1), table(1500, seed=2)
    areas = {}
    for name, pooling in {"mean": "mean", **POOLINGS}.items():
        keras.utils.set_random_seed(0)
        schema = tfmoe.Schema(columns(pooling), [tfmoe.Binary("click")])
        prep = tfmoe.Preprocessor(schema).fit(train, progress=False)
        model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(16,)))
        model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
        model.fit(train, batch_size=100, epochs=4, verbose=0)
        scores = model.predict(test, verbose=0)["click"]
        areas[name] = roc_auc_score(test["click"], scores)
    assert areas["attention"] > max(0.97, areas["mean"] + 0.02), areas
    assert areas["attention"] > areas["last"] + 0.1, areas
