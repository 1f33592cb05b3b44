"""Extraction from structures whose tasks read each other: all streams stay."""

import pytest

import tfmoe
from tests.extraction.test_extract_tasks import ALL, ONE, check_same, features, model_of, rows_of
from tfmoe.reports.gate_use import gate_use

UNITS = (6, 4)
MAKE = {
    "adatt": lambda: tfmoe.AdaTT(None, 2, 1, 1, UNITS, tfmoe.TopKGate(usage_decay=0.9)),
    "cross_stitch": lambda: tfmoe.CrossStitch(None, UNITS),
    "snr": lambda: tfmoe.SNR(None, 2, UNITS),
    "mtan": lambda: tfmoe.MTAN(None, UNITS, 3),
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("schema", [ALL, ONE], ids=["all", "one"])
def test_extracted_predictions_are_the_models(name, schema):
    model, x = model_of(MAKE[name](), schema), features(schema)
    extracted = tfmoe.extract(model, ["de", "uk"], data=x)
    check_same(extracted, model, x, ["de", "uk"])
    # Towers go, the streams stay.
    whole, part = model.structure, extracted.structure
    assert part.num_streams == 3
    assert part.count_params() == whole.count_params()
    again = tfmoe.extract(extracted, ["uk"], data=rows_of(x, ["de", "uk"])[1])
    check_same(again, model, x, ["uk"])
    assert again.structure.task_ids == [2]
    uses = gate_use(extracted, rows_of(x, ["de", "uk"])[1])
    assert len(uses) == len(whole.gates)
    if uses:
        assert uses[0].tasks == ("stream 0", "stream 1", "stream 2")
        assert len(uses[0].frame()) == 3 * 4
        assert uses[1].tasks == ("all tasks",)
        assert extracted.extraction.largest_change < 1e-6
