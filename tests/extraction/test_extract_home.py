"""Extraction from a hierarchy of experts: the groups' level stays, other tasks' experts go."""

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
    "static": tfmoe.TopKGate(num_nonzeros=2, router="static"),
    "top_k": tfmoe.TopKGate(num_nonzeros=1, usage_decay=0.9),
}
GROUPS = [[1], [0, 2]]


def home(gate, groups=GROUPS):
    return tfmoe.HoME(None, groups, 2, 2, 3, (6, 4), 2, GATES[gate])


@pytest.mark.quick(3)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["one-group", "groups"])
@pytest.mark.parametrize("schema", [ALL, ONE], ids=["all", "one"])
@pytest.mark.parametrize("names", [["fr"], ["de", "uk"]], ids=["one-left", "two-left"])
def test_extracted_predictions_are_the_models(gate, groups, schema, names):
    model, x = model_of(home(gate, groups), schema), features(schema)
    extracted = tfmoe.extract(model, names, data=x)
    own = rows_of(x, names)[1]
    check_same(extracted, model, x, names)
    assert extracted.extraction.largest_change < 1e-6
    before, after = model.structure, extracted.structure
    assert after.meta_experts.count_params() == before.meta_experts.count_params()
    assert after.task_experts.count_params() < before.task_experts.count_params()
    assert list(extracted.extraction.experts) == ["group_gate", "shared_gate", "task_gate"]
    # Own experts stay, for the self gate weighs them.
    assert extracted.extraction.experts["task_gate"][:2] == (0, 1)
    again = tfmoe.extract(extracted, names[:1], data=own)
    check_same(again, model, x, names[:1])


def test_a_sparse_gate_leaves_experts_behind():
    model, x = model_of(home("top_k"), ALL), features(ALL)
    kept = [
        len(tfmoe.extract(model, [n], data=x).structure.expert_ids or ()) for n in ALL.task_names
    ]
    assert min(kept) < 7


def test_gates_are_told_apart_and_have_the_streams_that_they_weigh_for():
    for schema in (ALL, ONE):
        uses = gate_use(model_of(home("top_k"), schema), features(schema))
        assert [use.gate for use in uses] == ["group_gate", "shared_gate", "task_gate"]
        assert [use.mean_weight.shape for use in uses] == [(2, 5), (1, 7), (3, 7)]
        assert uses[0].tasks == ("stream 0", "stream 1")
        assert uses[1].tasks == ("all tasks",)
        assert uses[2].tasks == ("de", "fr", "uk")
    # As many groups as tasks, but not in their order.
    uses = gate_use(model_of(home("top_k", [[1], [0], [2]]), ALL), features(ALL))
    assert uses[0].tasks == ("stream 0", "stream 1", "stream 2")


@pytest.mark.slow
def test_usage_is_that_of_a_tasks_group():
    model, x = model_of(home("top_k"), ALL), features(ALL)
    train(model, x)
    extracted = tfmoe.extract(model, ["uk"], by="usage")
    assert extracted.count_params() < model.count_params()
    assert extracted.structure.groups == [[], [0]]


def test_add_task_and_compaction_are_refused():
    model = model_of(home("static"), ALL)
    with pytest.raises(ValueError, match=r"Received one on HoME\. Train it anew"):
        model.add_task(tfmoe.Binary("jp"))
    with pytest.raises(ValueError, match="Received a HoME"):
        model.structure.expert_variables()


@pytest.mark.slow
@pytest.mark.parametrize("schema", [ALL, ONE], ids=["all", "one"])
def test_fitted_saved_and_exported(schema, tmp_path):
    model, x = model_of(home("top_k"), schema), features(schema)
    # Of the tasks' gate alone: those of groups and of the shared stream tell no tasks apart.
    loss = tfmoe.MutualInformationLoss(momentum=0.9)
    train(model, x, aux_losses=loss)
    # Its seven experts a task are thirteen, of three tasks in two groups.
    assert [joint.shape for joint in model._trackers.value[0].joints] == [(3, 13)]
    check_saved_and_exported(model, x, tmp_path)
