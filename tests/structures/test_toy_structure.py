"""A structure of one's own: a module of a user's, and no module of tfmoe's edited."""

import importlib.util
import sys

import keras
import numpy as np
import pytest

import tfmoe

MODULE = '''
import keras
from keras import ops

import tfmoe


@keras.saving.register_keras_serializable("toys")
class Halves(tfmoe.Structure):
    """A gate's mix of single units, beside what all tasks share."""

    def __init__(self, num_tasks=None, num_experts=3, **kwargs):
        super().__init__(num_tasks, **kwargs)
        self.num_experts = num_experts
        self.gate = None

    @property
    def gates(self):
        return [self.gate]

    def build(self, input_shape):
        self.gate = tfmoe.TopKGate(self.num_tasks, self.num_experts, name="gate")
        self.units = tfmoe.Experts(self.num_experts, (4,), name="units")
        self.gate.build(input_shape)
        self.units.build(input_shape)

    def call(self, inputs, task=None, context=None, training=False, return_aux=False):
        weights, record = self.gate(inputs, task=task, training=training, return_aux=True)
        outputs = ops.matmul(weights, self.units(inputs, training=training))
        return (outputs, [record]) if return_aux else outputs

    def compute_output_spec(self, inputs, task=None, return_aux=False, **options):
        num = self.num_tasks if task is None else 1
        outputs = keras.KerasTensor((inputs.shape[0], num, 4), dtype=self.compute_dtype)
        _, record = self.gate.compute_output_spec(inputs, task=task, return_aux=True)
        return (outputs, [record]) if return_aux else outputs

    def expert_outputs(self, inputs):
        return self.units(inputs)

    def get_config(self):
        own = {"num_tasks": self.num_tasks, "num_experts": self.num_experts}
        return {**super().get_config(), **own}
'''
SCHEMA = tfmoe.Schema(
    [tfmoe.Numeric("age", transform="none"), tfmoe.Categorical("city", hash_buckets=7)],
    [tfmoe.Binary("click"), tfmoe.Regression("spend", standardize=False)],
)


@pytest.fixture
def toys(tmp_path, monkeypatch):
    path = tmp_path / "toys.py"
    path.write_text(MODULE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("toys", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toys", module)
    spec.loader.exec_module(module)
    return module


def test_a_structure_of_ones_own_goes_all_the_way(toys, tmp_path):
    import pandas as pd

    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"age": rng.normal(size=64), "city": rng.choice(["a", "b", "c"], 64)})
    rows["click"] = (rows.age > 0).astype(int)
    rows["spend"] = rows.age + 1.0
    model = tfmoe.MultiTaskModel(SCHEMA, toys.Halves())
    model.compile("adam", run_eagerly=True)
    report = tfmoe.GateReport(rows, console=False)
    model.fit(rows, epochs=1, batch_size=32, verbose=0, callbacks=[report])
    assert set(report.frame.task) == {"click", "spend"}
    features = model.preprocessor.arrays(rows, labels=False)
    expected = {name: np.array(values) for name, values in model(features).items()}

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name, values in loaded(features).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-6)

    alone = tfmoe.extract(model, ["spend"])
    np.testing.assert_allclose(alone(features)["spend"], expected["spend"], atol=1e-6)
    assert alone.count_params() < model.count_params()
    most = report.frame.query("task == 'spend'").mean_weight.max()
    with pytest.raises(ValueError, match="Received a Halves, which does not"):
        tfmoe.extract(model, ["spend"], threshold=0.99 * most, data=rows, tolerance=1.0)

    (use,) = tfmoe.write_report(model, rows, tmp_path / "report")
    assert use.similarity.shape == (3, 3)
    version = tfmoe.export(model, tmp_path / "served")
    assert (version / "saved_model.pb").exists()
    with pytest.raises(ValueError, match=r"add_task takes models on .* Received one on Halves"):
        model.add_task(tfmoe.Binary("buy"))
