import keras
import numpy as np
import pytest

import tfmoe
from tests import tables
from tfmoe.report import draw_gates, gate_use


@pytest.mark.parametrize("router", ["linear", "static"])
def test_gate_use_is_the_mean_over_rows(router):
    prep, df = tables.fitted(), tables.rows()
    model = tables.small_model(prep, gate=tfmoe.TopKGate(num_nonzeros=2, router=router))
    (use,) = gate_use(model, df, batch_size=64)
    _, (record,) = model.mixture(model.encoder(prep.arrays(df, labels=False)), return_aux=True)
    weights = keras.ops.convert_to_numpy(record["weights"])
    np.testing.assert_allclose(use.mean_weight, weights.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(use.share_used, (weights > 0).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(use.num_used, [2, 2, 2])


def test_a_shared_bottom_has_no_gate():
    model = tfmoe.MultiTaskModel(tables.fitted(), tfmoe.SharedBottom(hidden_units=(4,)))
    assert gate_use(model, tables.rows()) == []


def test_pictures_are_not_written_over(tmp_path):
    model = tables.small_model(tables.fitted())
    uses = {"MMoE": gate_use(model, tables.rows())[0]}
    draw_gates(uses, tables.SCHEMA.task_names, tmp_path / "gates.png")
    with pytest.raises(FileExistsError, match="choose another name"):
        draw_gates(uses, tables.SCHEMA.task_names, tmp_path / "gates.png")
