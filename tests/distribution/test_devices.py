"""On eight devices of JAX a model trains as on one, and each holds its part of it."""

import importlib.util
import json

import keras
import numpy as np
import pytest

import tfmoe
from tests.distribution.processes import ended, found

# What is compiled runs for a moment only.
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `tests.distribution.device_cases` ends with."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed.")
    folder = tmp_path_factory.mktemp("devices")
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    command = ["-m", "tests.distribution.device_cases", folder]
    (result,) = ended([command], folder, [environment], seconds=1500)
    return found(result)


@pytest.mark.slow
def test_devices_train_evaluate_and_predict_as_one_does(results):
    # Rounding, of sums in another order, and Adam's steps by gradients near 0.
    assert {name: apart for name, apart in results["apart"].items() if not apart < 5e-4} == {}
    assert len(results["apart"]) == 5


@pytest.mark.slow
def test_tables_lie_by_row_and_experts_by_expert(results):
    shards = results["shards"]
    parted = {
        "tfmoe_encoder/table_user/embeddings": [51, 8],  # 403 rows, filled up to 408
        "tfmoe_encoder/table_seen/embeddings": [7, 4],
        "tfmoe_wide/wide_user/embeddings": [51, 2],
        "tfmoe_mixture/experts/kernel_0": [1, 13, 6],
        "tfmoe_mixture/experts/bias_0": [1, 6],
        "tfmoe_mixture/experts/scale_0": [1, 6],
        "tfmoe_mixture/experts/kernel_1": [1, 6, 4],
        "tfmoe_mixture/experts/offset_1": [1, 4],
        "tfmoe_mixture/gate/head/kernel": [13, 16],
        "tfmoe_towers/hidden/kernel_0": [2, 4, 4],
    }
    assert {name: shards[name] for name in parted} == {
        name: [shape] * 8 for name, shape in parted.items()
    }
    for name in parted:
        for slot in ("momentum", "velocity"):
            assert shards[f"{name.replace('/', '_')}_{slot}"] == shards[name]


@pytest.mark.slow
def test_a_device_holds_less_the_more_there_are(results):
    # Eight experts and two tables are parted; gate, towers and numbers are on every device.
    one, two, four, eight = results["bytes"]
    shared = (8 * eight - one) / 7
    assert shared < 0.1 * one
    assert [two, four] == pytest.approx([shared + (one - shared) / n for n in (2, 4)])


@pytest.mark.slow
def test_what_cannot_be_parted_is_told(results):
    told = results["refused"]
    assert told.keys() == {"table", "batch", "split", "axis"}
    assert "403 rows" in told["table"]
    assert "rows_multiple=4" in told["table"]
    assert "batch_size=31" in told["batch"]
    assert "validation_data" in told["split"]
    assert "'experts'" in told["axis"]


@pytest.mark.slow
def test_one_device_loads_what_eight_have_saved(results):
    kept = results["kept"]
    # After training, and loaded where there are as many devices.
    assert kept.pop("shards") == [[[102, 8]] * 8] * 2
    assert set(kept) == {"loaded there", "loaded", "extracted"}
    assert max(kept.values()) < 1e-5


def test_other_backends_are_told():
    mesh = keras.distribution.DeviceMesh((1,), ("model",), ["cpu:0"])
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        tfmoe.distribution.ModelParallel(mesh)


def made(rows_multiple, **options):
    keras.utils.set_random_seed(0)
    vectors = {name: [float(i), 1.0] for i, name in enumerate("abcde")}
    schema = tfmoe.Schema(
        [
            tfmoe.Categorical("city", dim=2),
            tfmoe.Pretrained("word", vectors=vectors, **options),
        ],
        [tfmoe.Binary("click")],
    )
    rows = {"city": list("xyzxyz"), "word": list("abcabd"), "click": [0, 1] * 3}
    prep = tfmoe.Preprocessor(schema).fit(rows)
    mixture = tfmoe.SharedBottom(hidden_units=(3,))
    model = tfmoe.MultiTaskModel(
        prep, mixture, tower_units=(), wide=True, rows_multiple=rows_multiple
    )
    model.compile(keras.optimizers.Adam(0.1), jit_compile=False, metrics={"click": []})
    return model, rows


@pytest.mark.parametrize("trainable", [False, True])
def test_rows_that_fill_a_table_up_change_nothing(trainable, tmp_path):
    (plain, rows), (filled, _) = (made(multiple, trainable=trainable) for multiple in (1, 4))
    for model in (plain, filled):
        data = model.training_preprocessor.arrays(rows)
        model.fit(data, batch_size=3, shuffle=False, verbose=0)
    expected = plain.predict(rows, verbose=0)["click"]
    np.testing.assert_allclose(filled.predict(rows, verbose=0)["click"], expected, atol=1e-6)
    word = filled.encoder.tables["word"]
    for table in (filled.encoder.tables["city"], filled.wide.tables["word"]):
        assert table.embeddings.shape[0] == 8
        assert not np.any(np.asarray(table.embeddings)[table.num_rows :])
    assert (word.vectors.embeddings if trainable else word.frozen).shape[0] == 8
    assert filled.encoder.table_sizes == plain.encoder.table_sizes

    filled.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    assert loaded.encoder.rows_multiple == 4
    np.testing.assert_allclose(loaded.predict(rows, verbose=0)["click"], expected, atol=1e-6)
    configs = [json.dumps(model.get_config()) for model in (plain, filled)]
    assert ["rows_multiple" in config for config in configs] == [False, True]


@pytest.mark.parametrize("more", [1, 3])
def test_a_table_that_is_filled_up_grows(more):
    model, rows = made(4)
    model.fit(model.training_preprocessor.arrays(rows), verbose=0)
    cities = [f"new{i}" for i in range(more)]
    later = {"city": cities, "word": ["e"] * more, "click": [1] * more}
    grown = model.grow(model.training_preprocessor.grow(later))
    size = model.encoder.table_sizes["city"] + more
    assert grown.encoder.table_sizes["city"] == size
    assert grown.encoder.tables["city"].embeddings.shape[0] == -(-size // 4) * 4
    expected = model.predict(rows, verbose=0)["click"]
    np.testing.assert_array_equal(grown.predict(rows, verbose=0)["click"], expected)
    grown.fit(grown.training_preprocessor.arrays(later), verbose=0)
