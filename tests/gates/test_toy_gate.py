"""A gate of one's own, in a module of one's own, goes through everything that a gate can do."""

import importlib
import sys

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import tfmoe

# As a user would write it. It has a weight beside the scores' and an argument called `column`,
# which says nothing about a column of the table.
MODULE = '''
import keras
from keras import ops

import tfmoe


@keras.saving.register_keras_serializable("toy")
class CutGate(tfmoe.Gate):
    """Softmax whose weights below a share of the largest are 0."""

    def __init__(self, num_tasks=None, num_experts=None, column=0.5, **kwargs):
        super().__init__(num_tasks, num_experts, **kwargs)
        self.column = column

    def score_parts(self):
        return [tfmoe.ScoreSpec(self.num_choices)]

    def build(self, input_shape):
        super().build(input_shape)
        self.offset = self.add_weight(
            name="offset", shape=(self.num_tasks, self.num_choices), initializer="zeros"
        )

    def select(self, scores, rows, training):
        offset = self.offset if rows.task is None else ops.take(self.offset, rows.task, axis=0)
        probabilities = ops.softmax(scores + offset, axis=-1)
        least = self.column * ops.max(probabilities, axis=-1, keepdims=True)
        return probabilities, ops.where(probabilities < least, 0.0, probabilities)

    def logits(self, scores):
        return scores

    def get_config(self):
        return {**super().get_config(), "column": self.column}
'''


def rows_of(num_rows, seed=0):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"age": rng.normal(size=num_rows)})
    return rows.assign(click=(rows.age > 0) * 1, buy=(rows.age > 1) * 1, like=(rows.age < 0) * 1)


def predict(model, rows):
    outputs = model(model.preprocessor.arrays(rows, labels=False))
    return {name: np.array(values) for name, values in outputs.items()}


def assert_close(got, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-6)


def test_a_gate_of_ones_own_needs_no_change_to_tfmoe(tmp_path, monkeypatch):
    (tmp_path / "toy_gate.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    toy = importlib.import_module("toy_gate")
    try:
        check_everything(toy.CutGate, tmp_path)
    finally:
        del sys.modules["toy_gate"]


def check_everything(kind, folder):
    keras.utils.set_random_seed(0)
    rows = rows_of(64)
    schema = tfmoe.Schema([tfmoe.Numeric("age")], [tfmoe.Binary("click"), tfmoe.Binary("buy")])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    gate = kind(router="static", column=0.25, balance=tfmoe.ZLoss(1e-3), usage_decay=0.9)
    model = tfmoe.MultiTaskModel(
        prep, tfmoe.MMoE(num_experts=4, hidden_units=(3,), gate=gate), tower_units=()
    )
    model.compile("adam", run_eagerly=True)
    model.fit(rows, epochs=1, batch_size=32, verbose=0)
    trained = model.mixture.gate
    assert type(trained) is kind
    assert trained.column == 0.25
    assert np.all(trained.offset != 0), "A weight of the gate's own was not trained."
    # The first task uses experts 1 and 3, the second 0 and 1.
    trained.head.scores.assign([[-9.0, 1, -9, 0.5, 0, 1, -9, -9]])
    expected = predict(model, rows)

    model.save(folder / "toy.keras")
    loaded = keras.saving.load_model(folder / "toy.keras")
    assert_close(predict(loaded, rows), expected)

    extracted = tfmoe.extract(loaded, ["click"])
    assert extracted.extraction.experts == (1, 3)
    assert extracted.mixture.gate.num_choices == 4
    assert_close(predict(extracted, rows), {"click": expected["click"]})

    (use,) = tfmoe.gate_use(extracted, rows)
    np.testing.assert_array_equal(use.share_used, [[1, 1]])
    np.testing.assert_allclose(use.usage, [[1, 1]], atol=1e-5)
    (whole,) = tfmoe.gate_use(model, rows)
    np.testing.assert_array_equal(whole.share_used, [[0, 1, 0, 1], [1, 1, 0, 0]])

    for routing in ("own", "mix"):
        wider = model.add_task(tfmoe.Binary("like"), like=["buy"], routing=routing)
        wider.compile("adam", run_eagerly=True)
        wider.fit(rows, epochs=1, batch_size=32, verbose=0)
        found = predict(wider, rows)
        assert set(found) == {"click", "buy", "like"}
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)

    served = tf.saved_model.load(tfmoe.export(extracted, folder / "served"))
    raw = tf.constant(rows.age.to_numpy("float64"))
    found = served.signatures["serving_default"](age=raw)
    np.testing.assert_allclose(found["click"], expected["click"], rtol=1e-4, atol=1e-5)
