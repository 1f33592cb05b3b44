"""Files that an earlier version wrote load today, and give what they gave then."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tests.golden import write

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INDEX = json.loads((HERE / "files" / "index.json").read_text("utf-8"))
# Relative and absolute.
TOLERANCES = {"float32": (1e-5, 1e-6), "mixed_bfloat16": (2e-2, 2e-2)}
# After a step, which divides small gradients by their own size.
AFTER_STEP = (1e-3, 1e-4)


def cases(kind):
    """Fills in the argument `name`, one case of the kind after the other."""
    names = [case["case"].split("/") for case in INDEX["cases"]]
    return pytest.mark.parametrize("name", [name for of, name in names if of == kind])


class Golden:
    """A folder of golden files.

    Args:
        folder: what `write.write` wrote.
    """

    def __init__(self, folder):
        self.folder = folder
        index = json.loads((folder / "index.json").read_text("utf-8"))
        self.facts = {case.pop("case"): case for case in index["cases"]}
        self.raw = write.read_rows(folder)
        with np.load(folder / "expected.npz", allow_pickle=False) as file:
            self.arrays = dict(file)

    def names(self, kind):
        return [case.split("/")[1] for case in self.facts if case.startswith(f"{kind}/")]

    def expected(self, path):
        """Dict of the arrays directly below a path such as `models/softmax/predictions`."""
        found = {name.rpartition("/"): values for name, values in self.arrays.items()}
        return {name: values for (above, _, name), values in found.items() if above == path}

    def check(self, found, path, tolerance=TOLERANCES["float32"]):
        """Raises AssertionError unless a dict of arrays is the one expected."""
        rtol, atol = tolerance
        expected = self.expected(path)
        assert expected, path
        assert set(found) == set(expected), path
        for name, values in expected.items():
            assert found[name].shape == values.shape, f"{path}/{name}"
            assert found[name].dtype == values.dtype, f"{path}/{name}"
            if values.dtype.kind == "f":
                np.testing.assert_allclose(
                    found[name], values, rtol=rtol, atol=atol, err_msg=f"{path}/{name}"
                )
            else:
                np.testing.assert_array_equal(found[name], values, err_msg=f"{path}/{name}")


def older(versions, name):
    """Whether the library is of an older version than a folder of files was written by."""
    module = {"keras": keras, "tensorflow": tf}[name]
    own, theirs = (
        tuple(map(int, re.findall(r"\d+", version)[:2]))
        for version in (module.__version__, versions[name])
    )
    return own < theirs


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = HERE / "files"
    if any(older(INDEX["versions"], name) for name in ("keras", "tensorflow")):
        # No library reads what a newer one wrote.
        folder = tmp_path_factory.mktemp("golden") / "files"
        write.write(folder)
    return Golden(folder)


# --- checks, in this process and in fresh ones ------------------------------------------


def load(golden, kind, name):
    """What `.keras` file holds the case."""
    return keras.saving.load_model(golden.folder / kind / f"{name}.keras")


def batches(golden, model):
    """Features of all rows, and the triple that the model was trained on."""
    rows = write.rows_of(model, golden.raw)
    prep = model.preprocessor
    return prep.arrays(rows, labels=False), prep.arrays(rows[: write.NUM_FITTED])


def check_model(golden, name, model):
    features, _ = batches(golden, model)
    tolerance = TOLERANCES[golden.facts[f"models/{name}"]["dtype"]]
    golden.check(write.predictions(model, features), f"models/{name}/predictions", tolerance)


def check_layers(golden, name, model):
    inputs = golden.expected(f"layers/{name}/inputs")
    golden.check(write.predictions(model, inputs), f"layers/{name}/predictions")


def check_preprocessor(golden, prep, path):
    for part, arrays in write.encoded(prep, golden.raw).items():
        golden.check(arrays, f"{path}/{part}")


def load_schema(golden, name):
    schema = tfmoe.Schema.load(golden.folder / "schemas" / name)
    check_fields(write.described(schema), golden.facts[f"schemas/{name}"]["schema"])
    return schema


def check_fields(found, expected):
    """Raises AssertionError unless all that is expected is there; there may be more."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            check_fields(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, value in zip(found, expected, strict=True):
            check_fields(one, value)
    else:
        assert found == expected


def check_pickled(folder, values):
    """Raises AssertionError unless what was unpickled, by name, is what it should be."""
    golden = Golden(folder)
    assert set(values) == set(golden.names("pickles"))
    for name, value in values.items():
        if name == "mixer":
            assert value == tfmoe.TaskMixer("temperature", temperature=2.0)
        elif name in ("schemas", "columns", "tasks"):
            for key, one in value.items():
                schema = load_schema(golden, f"{key}.yaml")
                assert one == (schema if name == "schemas" else list(getattr(schema, name)))
        else:
            assert type(value) is tfmoe.Preprocessor
            check_preprocessor(golden, value, f"pickles/{name}")


def check_loaded(folder, models):
    """Raises AssertionError unless models of `.keras` files, by path, are what they should be."""
    golden = Golden(folder)
    checks = {"models": check_model, "layers": check_layers}
    found = {(path.parent.name, path.stem): model for path, model in models.items()}
    # It is of a class that is the user's, and known only now.
    found["models", "own_mixture"] = load(golden, "models", "own_mixture")
    assert set(found) == {(kind, name) for kind in checks for name in golden.names(kind)}
    for (kind, name), model in found.items():
        checks[kind](golden, name, model)


# --- tests ----------------------------------------------------------------------------


@pytest.mark.quick(5)
@pytest.mark.whole
@cases("models")
def test_a_model_predicts_and_trains_on(golden, name):
    facts, path = golden.facts[f"models/{name}"], f"models/{name}"
    model = load(golden, "models", name)
    check_model(golden, name, model)
    features, batch = batches(golden, model)
    assert model.count_params() == facts["num_parameters"]
    assert write.num_trained(model) == facts["num_trained"]
    assert model.compiled == facts["compiled"]
    tolerance = TOLERANCES[facts["dtype"]]
    check_config(golden, model, features, f"{path}/predictions", tolerance)
    if not facts["compiled"]:
        return
    rtol, atol = tolerance
    expected = pytest.approx(facts["logs"], rel=10 * rtol, abs=10 * atol)
    assert write.logs(model, batch) == expected
    write.next_step(model, batch)
    if facts["steady"]:
        after = max(AFTER_STEP, tolerance)
        golden.check(write.predictions(model, features), f"{path}/next_step", after)
    else:
        before = golden.expected(f"{path}/predictions")
        for output, values in write.predictions(model, features).items():
            assert np.isfinite(values).all()
            assert np.any(values != before[output])


def check_config(golden, model, features, path, tolerance=TOLERANCES["float32"]):
    """Raises AssertionError unless a model's config makes that model, up to its weights."""
    config = json.dumps(model.get_config(), sort_keys=True)
    again = type(model).from_config(json.loads(config))
    assert json.dumps(again.get_config(), sort_keys=True) == config
    again.set_weights(model.get_weights())
    golden.check(write.predictions(again, features), path, tolerance)


@pytest.mark.quick(1)
@cases("layers")
def test_layers_in_a_plain_model(golden, name):
    model = load(golden, "layers", name)
    check_layers(golden, name, model)
    assert model.compiled == golden.facts[f"layers/{name}"]["compiled"]
    inputs = golden.expected(f"layers/{name}/inputs")
    check_config(golden, model, inputs, f"layers/{name}/predictions")


@pytest.mark.slow
def test_a_model_is_fitted_and_saved_again(golden, tmp_path):
    model = load(golden, "models", "gumbel")
    features, _ = batches(golden, model)
    rows = write.rows_of(model, golden.raw)
    history = model.fit(rows, epochs=2, validation_data=rows, verbose=0).history
    assert np.isfinite([*history["loss"], *history["val_loss"]]).all()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = write.predictions(model, features)
    for name, values in write.predictions(again, features).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.quick(1)
@cases("served")
def test_a_served_model_answers(golden, name, tmp_path):
    shutil.unpack_archive(golden.folder / "served" / f"{name}.zip", tmp_path)
    served = tf.saved_model.load(str(tmp_path))
    asked = write.request(golden.raw, **golden.facts[f"served/{name}"])
    for signature in served.signatures:
        found = write.answers(served, signature, asked)
        golden.check(found, f"served/{name}/{signature}")
    # It is the model that is saved beside it.
    answers = golden.expected(f"served/{name}/serving_default")
    golden.check(answers, f"models/{name}/predictions")


@cases("preprocessors")
def test_a_preprocessor_encodes_and_merges(golden, name):
    facts = golden.facts[f"preprocessors/{name}"]
    prep = tfmoe.Preprocessor.load(golden.folder / "preprocessors" / name)
    check_preprocessor(golden, prep, f"preprocessors/{name}")
    for field in ("num_rows", "table_sizes", "lengths"):
        assert getattr(prep, field) == facts[field]
    if facts["merges"]:
        assert prep.merge(prep).num_rows == 2 * facts["num_rows"]
        assert prep.merge(prep).lengths == facts["lengths"]


@cases("schemas")
def test_a_schema_says_what_it_said(golden, name):
    schema = load_schema(golden, name)
    text = (golden.folder / "schemas" / name).read_text("utf-8")
    if name.endswith(".json"):
        # Nothing is lost of what was written.
        assert schema.to_dict() == json.loads(text)
    assert tfmoe.Schema.from_json(schema.to_json()) == schema


# Nothing of tfmoe may be touched before the files are loaded, not even by importing this.
_MODELS = """
import {modules}
import sys
from pathlib import Path
folder = Path(sys.argv[1])
files = [file for file in folder.glob("*/*.keras") if file.stem != "own_mixture"]
models = {{file: keras.saving.load_model(file) for file in files}}
from tests.golden import test_golden
test_golden.check_loaded(folder, models)
"""

# What is pickled must bring its modules along, by the names that they had.
_PICKLES = """
import pickle
import sys
from pathlib import Path
folder = Path(sys.argv[1])
files = sorted(folder.glob("pickles/*.pickle"))
values = {file.stem: pickle.loads(file.read_bytes()) for file in files}
from tests.golden import test_golden
test_golden.check_pickled(folder, values)
"""


@pytest.mark.slow
def test_fresh_processes_load_models_and_pickles(golden):
    codes = [
        _MODELS.format(modules="tfmoe, keras"),
        _MODELS.format(modules="keras, tfmoe"),
        _PICKLES,
    ]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # At the same time, for much of it is the start of TensorFlow.
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(golden.folder)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for code in codes
    ]
    errors = [process.communicate()[1] for process in processes]
    for process, text in zip(processes, errors, strict=True):
        assert process.returncode == 0, text[-3000:]


def test_every_file_is_of_a_case(golden):
    for kind, suffix in {"models": ".keras", "layers": ".keras", "served": ".zip"}.items():
        files = {file.name for file in (golden.folder / kind).iterdir()}
        assert files == {name + suffix for name in golden.names(kind)}
    for kind in ("preprocessors", "schemas", "pickles"):
        files = {file.name.removesuffix(".pickle") for file in (golden.folder / kind).iterdir()}
        assert files == set(golden.names(kind))
