"""What gates select where each row has one task, or is a token."""

import io
import re

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops
from rich.console import Console

import tfmoe
from tests.extraction.test_extract_tasks import (
    ALL,
    MIXTURES,
    ONE,
    features,
    mmoe,
    model_of,
    set_usage,
)
from tests.reports.test_callback import events
from tests.reports.test_report import numbers_by_hand
from tfmoe.reports.callback import GateReport
from tfmoe.reports.gate_use import gate_use
from tfmoe.reports.pictures import write_report
from tfmoe.reports.tables import use_table


@pytest.mark.parametrize("name", ["task-aware", "own routers", "static"])
def test_rows_count_for_their_own_task(name):
    model, x = model_of(MIXTURES[name]), features(tasks=(0, 2))
    (use,) = gate_use(model, x, batch_size=16)
    assert use.tasks == ONE.task_names
    (record,) = model.forward_pass(x).aux
    weights = ops.convert_to_numpy(record.weights).astype("float64")
    for t in (0, 2):
        for key, values in numbers_by_hand(weights[x["market"] == t]).items():
            found = getattr(use, key)[t]
            np.testing.assert_allclose(found, values[0], rtol=1e-5, atol=1e-6, err_msg=key)
    for key in ("mean_weight", "share_used", "num_used", "entropy", "effective_experts"):
        assert np.isnan(getattr(use, key)[1]).all()
    assert use.similarity.shape == (6, 6)
    if use.converged is not None:
        share = ops.convert_to_numpy(model.mixture.gate.converged(record.scores))[:, 0]
        expected = [share[x["market"] == t].mean() for t in (0, 2)]
        np.testing.assert_allclose(use.converged[[0, 2]], expected, atol=1e-6)


def test_one_gate_for_all_tasks_counts_all_rows():
    model, x = model_of(MIXTURES["one gate"]), features()
    (use,) = gate_use(model, x)
    weights = ops.convert_to_numpy(model.forward_pass(x).aux[0].weights)
    assert use.tasks == ("all tasks",)
    np.testing.assert_allclose(use.mean_weight, weights.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("schema", [ONE, ALL], ids=["one", "all"])
def test_tokens_count_but_padding_does_not(schema):
    model, x = model_of(MIXTURES["Mod-Squad"], schema), features(schema)
    uses = gate_use(model, x, batch_size=16)
    assert [use.gate for use in uses] == ["block_0/attention_gate", "block_0/mlp_gate"]
    # Three columns, then three places of the history.
    there = np.concatenate([np.ones((50, 3), bool), x["history"] > 0], axis=1).ravel()
    for use, record in zip(uses, model.forward_pass(x).aux, strict=True):
        assert use.similarity is None
        weights = ops.convert_to_numpy(record.weights).astype("float64")
        for t in range(3):
            ours = there & (np.repeat(x["market"], 6) == t) if schema is ONE else there
            own = weights[ours, 0 if schema is ONE else t, None]
            for key, values in numbers_by_hand(own).items():
                found = getattr(use, key)[t]
                np.testing.assert_allclose(found, values[0], rtol=1e-5, atol=1e-6, err_msg=key)


def test_warnings_look_at_the_tasks_that_have_rows():
    model = model_of(mmoe(tfmoe.TopKGate(num_nonzeros=2, router="static")))
    scores = [[9, 0, 0, 0, 0, 0.0], [0, 0, 0, 9, 8, 0], [9, 0, 1, 0, 0, 0]]
    model.mixture.gate.head.scores.assign(np.reshape(scores, (1, -1)))
    found = {
        tasks: gate_use(model, features(tasks=tasks))[0].warnings for tasks in ((0, 2), (0, 1, 2))
    }
    assert found[0, 2][0].startswith("Collapse: every task puts more than 95%")
    assert "no task uses 3, 4, 5," in found[0, 2][1]
    assert len(found[0, 1, 2]) == 1
    assert "no task uses 5," in found[0, 1, 2][0]


def test_usage_is_shown():
    model = model_of(mmoe(tfmoe.TaskAwareGate(usage_decay=0.9)))
    usage = [[0.5, 0.25, 0, 0, 1, 0], None, [0] * 6]
    set_usage(model.mixture.gate, usage)
    (use,) = gate_use(model, features())
    usage[1] = [np.nan] * 6
    np.testing.assert_allclose(use.usage, usage)
    np.testing.assert_allclose(use.frame()["usage"], np.ravel(usage))
    (use,) = gate_use(model_of(MIXTURES["task-aware"]), features())
    assert use.usage is None
    assert use.frame()["usage"].isna().all()


def test_a_users_own_graph_may_tell_tasks_and_ids():
    inputs, task = keras.Input((3,)), keras.Input((), dtype="int32")
    ids = keras.Input((), dtype="int32")
    mixture = tfmoe.MMoE(2, 4, (5,), tfmoe.TopKGate(), name="routed")
    hashed = tfmoe.MMoE(2, 4, (5,), tfmoe.HashGate(), name="hashed")
    outputs = mixture(inputs, task=task)[:, 0] + hashed(inputs, ids=ids)[:, 0]
    model = keras.Model([inputs, task, ids], outputs)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, 3)).astype("float32")
    tasks, numbers = generator.integers(0, 2, (2, 20)).astype("int32")
    routed, random = gate_use(model, [x, tasks, numbers])
    weights = ops.convert_to_numpy(mixture.gate(x, task=tasks))[:, 0]
    expected = [weights[tasks == t].mean(axis=0) for t in (0, 1)]
    np.testing.assert_allclose(routed.mean_weight, expected, rtol=1e-5)
    expected = ops.convert_to_numpy(hashed.gate(x, ids=numbers)).mean(axis=0)
    np.testing.assert_allclose(random.mean_weight, expected, rtol=1e-5)


def test_reports_leave_room_for_tasks_without_rows(tmp_path):
    model, x = model_of(MIXTURES["task-aware"]), features(tasks=(0, 2))
    report = GateReport(x, console=False, log_dir=tmp_path / "events")
    model.compile("sgd", jit_compile=False, run_eagerly=True)
    model.fit(x, {"score": np.ones(50, "float32")}, verbose=0, callbacks=[report])
    history = report.frame
    absent = history["mean_weight"].isna().groupby(history["task"]).all()
    assert absent.to_dict() == {"de": False, "fr": True, "uk": False}
    (use,) = write_report(model, x, tmp_path / "report", history)
    names = {path.name for path in (tmp_path / "report").glob("*.png")}
    assert names == {"gate.png", "gate_curves.png", "gate_history.png"}
    written = pd.read_csv(tmp_path / "report" / "gates.csv")
    assert written["mean_weight"].isna().sum() == 6
    console = Console(width=100, file=io.StringIO())
    console.print(use_table(use, use.gate))
    assert re.search("fr +no rows", console.file.getvalue())
    tags = {tag for tag in events(tmp_path / "events") if "entropy" in tag}
    assert tags == {"gate entropy/de", "gate entropy/uk"}
