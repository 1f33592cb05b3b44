"""Layers in which the columns of a row meet."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.oracles import interactions as oracle

SIZES = [1, 4, 3, 4]


def columns(num=3, size=4, seed=0):
    return np.random.default_rng(seed).normal(size=(5, num, size)).astype("float32")


def drawn(layer, seed=1):
    """Sets the weights of a built layer to small random numbers, as float64."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(0.5 * rng.normal(size=weight.shape))


def array(weight):
    return np.asarray(keras.ops.convert_to_numpy(weight), "float64")


@pytest.mark.parametrize("vector", [False, True])
def test_fm_matches_reference(vector):
    expected = [oracle.fm(row, vector) for row in columns()]
    np.testing.assert_allclose(tfmoe.FM(vector)(columns()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_fibinet_matches_reference(kind):
    layer = tfmoe.FiBiNET(reduction=2, kind=kind)
    layer(columns())
    drawn(layer)
    weights = [array(one) for one in (layer.squeeze, layer.excite)]
    kernels = [array(kernel) for kernel in layer.kernels]
    expected = [oracle.fibinet(row, *weights, kernels, kind) for row in columns()]
    np.testing.assert_allclose(layer(columns()), expected, rtol=1e-4, atol=1e-5)


def test_auto_int_matches_reference():
    layer = tfmoe.AutoInt(num_layers=2, num_heads=3, head_dim=2)
    layer(columns())
    drawn(layer)
    layers = [{name: array(weight) for name, weight in own.items()} for own in layer.kernels]
    expected = [oracle.auto_int(row.astype("float64"), layers, 3) for row in columns()]
    np.testing.assert_allclose(layer(columns()), expected, rtol=1e-4, atol=1e-5)


def test_mask_net_matches_reference():
    layer = tfmoe.MaskNet((6, 5), mask_units=3, sizes=SIZES)
    rows = columns(1, sum(SIZES))[:, 0]
    layer(rows)
    drawn(layer)
    for _, norm in layer.blocks:
        norm.gamma.assign(keras.ops.ones_like(norm.gamma))
        norm.beta.assign(keras.ops.zeros_like(norm.beta))
    masks = [[array(weight) for weight in mask] for mask in layer.masks]
    kernels = [array(kernel) for kernel, _ in layer.blocks]
    expected = [oracle.mask_net(row.astype("float64"), SIZES, masks, kernels) for row in rows]
    np.testing.assert_allclose(layer(rows), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_is_a_stack_of_cross_layers(rank):
    layer = tfmoe.Cross(num_layers=2, projection_dim=rank)
    rows = columns(1, 6)[:, 0]
    layer(rows)
    drawn(layer)
    crossed = first = rows.astype("float64")
    for cross in layer.crosses:
        inner = crossed if rank is None else crossed @ array(cross.down_proj_dense.kernel)
        crossed = first * (inner @ array(cross.dense.kernel) + array(cross.dense.bias)) + crossed
    np.testing.assert_allclose(layer(rows), crossed, rtol=1e-4, atol=1e-5)


def test_columns_of_other_sizes_are_projected_and_outputs_stand_side_by_side():
    both = tfmoe.Interactions([tfmoe.FM(vector=True), keras.layers.Dense(2)], sizes=SIZES)
    rows = columns(1, sum(SIZES))[:, 0]
    found = np.asarray(both(rows))
    assert found.shape == (5, sum(SIZES) + 4 + 2)
    assert sorted(both.maps) == ["0", "2"]
    parts = np.split(rows, np.cumsum(SIZES)[:-1], axis=1)
    for index, kernel in both.maps.items():
        parts[int(index)] = parts[int(index)] @ array(kernel)
    expected = [oracle.fm(np.stack([part[i] for part in parts]), True) for i in range(5)]
    np.testing.assert_allclose(found[:, : sum(SIZES)], rows)
    np.testing.assert_allclose(found[:, sum(SIZES) : -2], expected, rtol=1e-4, atol=1e-5)


def test_a_stack_reads_what_the_one_before_has_made():
    stack = tfmoe.Interactions(
        [tfmoe.FM(vector=True), keras.layers.Dense(3)],
        stacked=True,
        keep_input=False,
        sizes=[4, 4],
    )
    rows = columns(1, 8)[:, 0]
    first, second = stack.parts if stack.built else (stack(rows), stack.parts)[1]
    np.testing.assert_allclose(stack(rows), second(first(rows.reshape(5, 2, 4))), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.Interactions([]), "take Keras layers"),
        (lambda: tfmoe.Interactions([3]), "take Keras layers"),
        (
            lambda: tfmoe.Interactions([tfmoe.Cross(), tfmoe.FM()], stacked=True),
            "layer by column first",
        ),
        (
            lambda: tfmoe.Interactions([tfmoe.FM()], sizes=[2])(np.ones((2, 3))),
            "a row of 3 numbers",
        ),
        (
            lambda: tfmoe.Interactions([keras.layers.Conv1D(2, 1)], sizes=[2])(np.ones((2, 2))),
            r"reads a row as one vector, \(2, 2\), unless it is a tfmoe.ByColumns.*a Conv1D",
        ),
        (lambda: tfmoe.FM()(np.ones((2, 3))), "columns of one size"),
        (lambda: tfmoe.FiBiNET()(np.ones((2, 1, 3))), "multiplies pairs"),
        (lambda: tfmoe.FiBiNET(kind="none"), "kind"),
        (lambda: tfmoe.MaskNet(()), "at least one block"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_kind_of_dot_interaction_gets_the_columns():
    import keras_rs

    @keras.saving.register_keras_serializable("tests")
    class Scaled(keras_rs.layers.DotInteraction):
        def call(self, inputs):
            return 2 * super().call(inputs)

    rows = columns(1, 8)[:, 0]
    plain, scaled = (
        tfmoe.Interactions([kind()], keep_input=False, sizes=[4, 4])(rows)
        for kind in (keras_rs.layers.DotInteraction, Scaled)
    )
    np.testing.assert_allclose(scaled, 2 * plain)


def test_a_model_keeps_its_interactions(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=120), "city": rng.choice(list("abcd"), 120)})
    rows["item"] = rng.integers(0, 9, 120)
    rows["click"], rows["stars"] = rng.integers(0, 2, 120), rng.normal(size=120)
    sizes = [tfmoe.Numeric("x"), tfmoe.Categorical("city", dim=4), tfmoe.Categorical("item", dim=3)]
    schema = tfmoe.Schema(sizes, [tfmoe.Binary("click"), tfmoe.Regression("stars")])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    import keras_rs

    layers = [tfmoe.FM(), tfmoe.Cross(1), keras_rs.layers.DotInteraction(), keras.layers.Dense(2)]
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,))
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(3,), interactions=layers)
    model.compile("adam", jit_compile=False)
    model.fit(*prep.arrays(rows), batch_size=40, verbose=0)
    found = model.predict(rows, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(rows, verbose=0)
    alone = tfmoe.extract(model, ["stars"]).predict(rows, verbose=0)
    more = model.add_task(tfmoe.Binary("like")).predict(rows, verbose=0)
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values)
        np.testing.assert_array_equal(more[name], values)
    np.testing.assert_allclose(alone["stars"], found["stars"], rtol=1e-5)
    with pytest.raises(ValueError, match="make one vector a row of one"):
        tfmoe.MultiTaskModel(prep, tfmoe.STEM(hidden_units=(4,)), interactions=layers)
    with pytest.raises(ValueError, match="as a list of layers"):
        tfmoe.MultiTaskModel(prep, mixture, interactions=tfmoe.FM())
    alone = tfmoe.Preprocessor(tfmoe.Schema(sizes[:1], schema.tasks)).fit(rows, progress=False)
    with pytest.raises(ValueError, match=r"pairs of columns\. Received 1\. Add a column"):
        tfmoe.MultiTaskModel(alone, mixture, interactions=layers[2:3])
