"""Tasks with embedding tables of their own, in a model and taken out of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def stem(gate):
    return tfmoe.STEM(None, 2, 3, (6, 4), GATES[gate])


def test_the_model_makes_an_encoding_a_task_and_one_that_all_share():
    model, x = model_of(stem("softmax"), ALL), features(ALL)
    assert model.encode(x).shape == (50, 4, 1 + 1 + 3 + 4)
    assert {name: tuple(t.embeddings.shape)[1] for name, t in model.encoder.tables.items()} == {
        "user_id": 12,
        "history": 16,
    }


@pytest.mark.quick(3)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("schema", [ALL, ONE], ids=["all", "one"])
@pytest.mark.parametrize("names", [["fr"], ["de", "uk"]], ids=["one-left", "two-left"])
def test_extracted_predictions_are_the_models(gate, schema, names):
    model, x = model_of(stem(gate), schema), features(schema)
    extracted = tfmoe.extract(model, names, data=x)
    own = rows_of(x, names)[1]
    check_same(extracted, model, x, names)
    assert extracted.extraction.largest_change < 1e-6
    again = tfmoe.extract(extracted, names[:1], data=own)
    check_same(again, model, x, names[:1])
    assert again.structure.task_ids == [ALL.task_names.index(names[0])]
    # A softmax weighs all experts, so that all encodings are read.
    copies = len(extracted.structure.encodings)
    assert extracted.encoder.copies == copies
    assert (copies == 4) if gate == "softmax" else (copies <= 4)


def test_tables_that_nothing_reads_stay_behind(tmp_path):
    model, x = model_of(stem("static"), ALL), features(ALL)
    scores = np.zeros((3, 9))
    scores[[0, 0, 1, 1, 2, 2], [0, 6, 3, 7, 4, 1]] = 1
    model.mixture.gate.head.scores.assign(scores.reshape(1, -1))
    # The task itself, of which the gate reads its encoding, and the shared one.
    alone = tfmoe.extract(model, ["fr"])
    assert alone.structure.encodings == [1, 3]
    check_same(alone, model, x, ["fr"])
    # Another task's expert, and what that reads.
    other = tfmoe.extract(model, ["uk"])
    assert other.structure.encodings == [0, 2, 3]
    check_same(other, model, x, ["uk"])
    sizes = [m.encoder.tables["user_id"].embeddings.shape[1] for m in (model, alone, other)]
    assert sizes == [12, 6, 9]
    alone.save(tmp_path / "alone.keras")
    again = keras.saving.load_model(tmp_path / "alone.keras")
    check_same(again, model, x, ["fr"])


def test_a_task_trains_its_own_tables_and_the_shared_ones():
    model, x = model_of(stem("softmax"), ALL), features(ALL)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.forward_pass(x).logits["fr"])
    gradient = tape.gradient(loss, model.encoder.tables["history"].embeddings.value)
    by_copy = tf.convert_to_tensor(gradient).numpy().reshape(-1, 4, 4)
    used = [bool(np.any(by_copy[:, copy])) for copy in range(4)]
    assert used == [False, True, False, True]


def test_gates_are_reported():
    for schema in (ALL, ONE):
        (use,) = gate_use(model_of(stem("top_k"), schema), features(schema))
        assert (use.tasks, use.mean_weight.shape) == (("de", "fr", "uk"), (3, 9))


def test_what_goes_not_with_it_is_told():
    model = model_of(stem("static"), ALL)
    with pytest.raises(ValueError, match=r"Received one on STEM\. Train it anew"):
        model.add_task(tfmoe.Binary("jp"))
    with pytest.raises(ValueError, match="Received a STEM"):
        model.structure.expert_variables()
    with pytest.raises(ValueError, match="Received a STEM, which reads copies"):
        tfmoe.MultiTaskModel(ALL, stem("static"), tower_gate=tfmoe.PPNet(["user_id"]))


@pytest.mark.slow
@pytest.mark.parametrize("schema", [ALL, ONE], ids=["all", "one"])
def test_fitted_saved_and_exported(schema, tmp_path):
    model, x = model_of(stem("top_k"), schema), features(schema)
    train(model, x)
    assert tfmoe.extract(model, ["fr"], by="usage").count_params() < model.count_params()
    check_saved_and_exported(model, x, tmp_path)
