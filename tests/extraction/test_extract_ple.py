"""Extraction from structures with experts of tasks' own."""

import pytest

import tfmoe
from tests.extraction.test_extract_tasks import (
    ALL,
    ONE,
    check_same,
    check_saved_and_exported,
    features,
    model_of,
    rows_of,
    train,
)
from tfmoe.reports.gate_use import gate_use

GATES = {
    "softmax": tfmoe.SoftmaxGate(),
    "static": tfmoe.DSelectKGate(num_nonzeros=1, router="static"),
    "top_k": tfmoe.TopKGate(num_nonzeros=1, usage_decay=0.9),
}


def ple(gate, num_levels=2):
    return tfmoe.PLE(None, num_levels, 2, 3, (6, 4), GATES[gate])


@pytest.mark.quick(3)
@pytest.mark.filterwarnings("ignore:extract keeps more experts")
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("num_levels", [1, 2])
@pytest.mark.parametrize("schema", [ALL, ONE], ids=["all", "one"])
@pytest.mark.parametrize("names", [["fr"], ["de", "uk"]], ids=["one-left", "two-left"])
def test_extracted_predictions_are_the_models(gate, num_levels, schema, names):
    model, x = model_of(ple(gate, num_levels), schema), features(schema)
    extracted = tfmoe.extract(model, names, data=x)
    own = rows_of(x, names)[1]
    check_same(extracted, model, x, names)
    assert extracted.count_params() < model.count_params()
    # A task does without the own experts of others, but for those that the shared stream has.
    last = extracted.structure.levels[-1]
    assert last.own_experts.num_experts == len(names) * len(last.own)
    again = tfmoe.extract(extracted, names[:1], data=own)
    check_same(again, model, x, names[:1])
    assert (again.count_params() < extracted.count_params()) == (len(names) > 1)


def test_without_rows_only_other_tasks_own_experts_go():
    model = model_of(ple("softmax", 1), ALL)
    extracted = tfmoe.extract(model, ["fr"])
    assert extracted.extraction.experts == (0, 1, 2, 3, 4)
    level = extracted.structure.levels[0]
    assert (level.own_experts.num_experts, level.shared_experts.num_experts) == (2, 3)


def test_gates_are_told_apart_by_their_level():
    model = model_of(ple("top_k"), ALL)
    extracted = tfmoe.extract(model, ["fr"], data=features(ALL))
    names = ["level_0/gate", "level_0/shared_gate", "level_1/gate"]
    assert list(extracted.extraction.experts) == names
    uses = gate_use(model, features(ALL))
    assert [use.gate for use in uses] == names
    assert [use.mean_weight.shape for use in uses] == [(3, 5), (1, 9), (3, 5)]
    assert uses[1].tasks == ("all tasks",)


def test_three_levels_are_told():
    model, x = model_of(ple("softmax", 3), ALL), features(ALL)
    with pytest.raises(ValueError, match=r"that of level 1 does\. Extract all tasks"):
        tfmoe.extract(model, ["fr"], data=x)
    extracted = tfmoe.extract(model, ALL.task_names, data=x)
    check_same(extracted, model, x, ALL.task_names)


def test_add_task_and_compaction_are_refused():
    model = model_of(ple("static"), ALL)
    with pytest.raises(ValueError, match=r"Received one on PLE\. Train it anew"):
        model.add_task(tfmoe.Binary("jp"))
    with pytest.raises(ValueError, match="Received a PLE"):
        model.structure.expert_variables()


@pytest.mark.slow
@pytest.mark.parametrize("schema", [ALL, ONE], ids=["all", "one"])
def test_fitted_saved_and_exported(schema, tmp_path):
    model, x = model_of(ple("top_k"), schema), features(schema)
    train(model, x)
    assert tfmoe.extract(model, ["fr"], by="usage").count_params() < model.count_params()
    check_saved_and_exported(model, x, tmp_path)
