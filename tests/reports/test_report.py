import io

import keras
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import tfmoe
from tests.oracles import tables
from tfmoe.reports.gate_use import gate_use
from tfmoe.reports.pictures import (
    draw_curves,
    draw_gates,
    draw_history,
    draw_weights,
    write_report,
)
from tfmoe.reports.tables import use_table

FEATURES, TASKS, EXPERTS = 3, 2, 4


def inputs(rows=40):
    return np.random.default_rng(0).normal(size=(rows, FEATURES)).astype("float32")


def plain_model(gate, kind=tfmoe.MMoE, tasks=TASKS, experts=EXPERTS):
    """A Functional model of nothing but a mixture."""
    symbol = keras.Input((FEATURES,))
    return keras.Model(symbol, kind(tasks, experts, (8, 2), gate)(symbol))


def mixture_of(model):
    return next(layer for layer in model.layers if isinstance(layer, tfmoe.MMoE))


def numbers_by_hand(weights):
    """What `gate_use` promises, in loops, from weights `(b, t, e)`."""
    rows, tasks, experts = weights.shape
    found = {"entropy": np.zeros(tasks), "num_used": np.zeros(tasks)}
    found["mean_weight"], found["share_used"] = np.zeros((2, tasks, experts))
    for row in weights:
        for t, task in enumerate(row):
            total = sum(task)
            for e, weight in enumerate(task):
                found["mean_weight"][t, e] += weight / rows
                found["share_used"][t, e] += (weight > 1e-6) / rows
                found["num_used"][t] += (weight > 1e-6) / rows
                if weight > 0:
                    found["entropy"][t] -= weight / total * np.log(weight / total) / rows
    found["effective_experts"] = np.zeros(tasks)
    for t, task in enumerate(found["mean_weight"]):
        shares = [weight / sum(task) for weight in task if weight > 0]
        found["effective_experts"][t] = np.exp(-sum(p * np.log(p) for p in shares))
    return found


@pytest.mark.parametrize(
    "gate",
    [
        tfmoe.SoftmaxGate(),
        tfmoe.TopKGate(num_nonzeros=2),
        tfmoe.TopKGate(num_nonzeros=3, router="static"),
        tfmoe.DSelectKGate(gamma=0.02),
        tfmoe.DSelectKGate(reachability="penalty", router="static"),
        tfmoe.ReLUGate(),
    ],
    ids=lambda gate: f"{type(gate).__name__}-{gate.router}",
)
def test_numbers_match_the_loops(gate):
    model = plain_model(gate, experts=5)
    (use,) = gate_use(model, inputs(), batch_size=16)  # the last batch is smaller
    _, (record,) = mixture_of(model)(inputs(), return_aux=True)
    expected = numbers_by_hand(np.asarray(record.weights, "float64"))
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(use, name), values, rtol=1e-5, atol=1e-6, err_msg=name)
    converged = mixture_of(model).gate.converged(record.scores)
    if converged is None:
        assert use.converged is None
    else:
        np.testing.assert_allclose(use.converged, np.mean(converged, axis=0), atol=1e-6)


def test_similarity_is_pearsons_correlation():
    model = plain_model(tfmoe.SoftmaxGate())
    experts = mixture_of(model).experts
    # Far from 0, where sums of squares would cancel.
    experts.biases[-1].assign(1e4 / 3 + experts.biases[-1])
    kernel = experts.kernels[-1].numpy()
    kernel[3] = 0  # an expert that says the same of every row
    experts.kernels[-1].assign(kernel)
    (use,) = gate_use(model, inputs(), batch_size=16)
    outputs = np.asarray(experts(inputs()), "float64")
    flat = (outputs - outputs.mean(axis=0)).swapaxes(0, 1)[:3].reshape(3, -1)
    norms = np.sqrt((flat**2).sum(axis=1))
    expected = flat @ flat.T / np.outer(norms, norms)
    np.testing.assert_allclose(use.similarity[:3, :3], expected, atol=2e-3)
    np.testing.assert_array_equal(use.similarity[3], 0)
    frame = use.frame()
    nearest = (expected - 2 * np.eye(3)).max(axis=1)
    got = frame[frame["task"] == "task 1"]["nearest"][:3]
    np.testing.assert_allclose(got, np.maximum(nearest, 0), atol=2e-3)


def test_one_expert_is_near_none():
    gate = tfmoe.TopKGate(num_nonzeros=1, router="static")
    model = tables.small_model(tables.fitted(), gate=gate)
    one = tfmoe.extract(model, [model.schema.task_names[0]])
    (use,) = gate_use(one, tables.rows())
    assert len(use.experts) == 1
    assert use.frame()["nearest"].isna().all()


def test_a_frame_has_a_row_for_each_task_and_expert():
    prep, df = tables.fitted(), tables.rows()
    model = tables.small_model(prep, gate=tfmoe.DSelectKGate())
    (use,) = gate_use(model, df)
    frame = use.frame()
    assert frame[["task", "expert"]].values.tolist() == [
        [task, expert] for task in tables.SCHEMA.task_names for expert in range(3)
    ]
    row = frame[(frame["task"] == "rating") & (frame["expert"] == 2)].iloc[0]
    assert row["mean_weight"] == use.mean_weight[1, 2]
    assert row["effective_experts"] == use.effective_experts[1]
    assert row["converged"] == use.converged[1]


def test_every_source_gives_the_same():
    prep, df = tables.fitted(), tables.rows()
    model = tables.small_model(prep)
    sources = [df, prep.arrays(df), prep.arrays(df, labels=False), prep.dataset(df, batch_size=64)]
    first, *others = [gate_use(model, source)[0].frame() for source in sources]
    for other in others:
        pd.testing.assert_frame_equal(other, first, rtol=1e-5)


def test_a_gate_for_all_tasks_has_one_row():
    model = plain_model(tfmoe.SoftmaxGate(), tfmoe.OMoE)
    (use,) = gate_use(model, inputs())
    assert use.tasks == ("all tasks",)
    assert use.mean_weight.shape == (1, EXPERTS)


def test_gates_of_several_mixtures_are_told_apart():
    symbol = keras.Input((FEATURES,))
    first = tfmoe.MMoE(2, 3, (4,), name="first")(symbol)
    second = tfmoe.OMoE(2, 5, (4,), name="second")(first[:, 0])
    model = keras.Model(symbol, second)
    uses = gate_use(model, inputs())
    assert [(use.gate, use.mean_weight.shape) for use in uses] == [
        ("first/gate", (2, 3)),
        ("second/gate", (1, 5)),
    ]


def test_a_model_without_a_gate_has_no_use():
    model = tfmoe.MultiTaskModel(tables.fitted(), tfmoe.SharedBottom(hidden_units=(4,)))
    assert gate_use(model, tables.rows()) == []
    symbol = keras.Input((FEATURES,))
    assert gate_use(keras.Model(symbol, keras.layers.Dense(2)(symbol)), inputs()) == []


def test_a_model_that_is_no_graph_is_refused():
    class Subclass(keras.Model):
        def __init__(self):
            super().__init__()
            self.mixture = tfmoe.MMoE(2, 3, (4,))

        def call(self, x):
            return self.mixture(x)

    model = Subclass()
    model(inputs())
    with pytest.raises(ValueError, match=r"calls each mixture once. Received .* type Subclass"):
        gate_use(model, inputs())


def set_scores(model, scores):
    mixture_of(model).gate.head.scores.assign(np.reshape(scores, (1, -1)))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[9.0, 0, 0, 0], [9.0, 0, 0, 0]], "Collapse: every task puts more than 95% .* expert 0"),
        ([[9.0, 0, 0, 0], [0, 9.0, 0, 0]], None),
        ([[2.0, 0, 0, 0], [2.0, 0, 0, 0]], None),
    ],
)
def test_collapse_is_seen(scores, message):
    model = plain_model(tfmoe.SoftmaxGate(router="static"))
    set_scores(model, scores)
    check(gate_use(model, inputs())[0].warnings, message)


def test_one_expert_selected_on_purpose_is_no_collapse():
    model = plain_model(tfmoe.TopKGate(num_nonzeros=1, router="static"))
    set_scores(model, [[1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    (warning,) = gate_use(model, inputs())[0].warnings
    assert warning.startswith("Dead experts: on these rows no task uses 1, 2, 3")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[1.0, 2, 0, 0], [1.0, 0, 0, 2]], "Dead experts: on these rows no task uses 2, so"),
        ([[1.0, 2, 0, 0], [0, 0, 1.0, 2]], None),
    ],
)
def test_dead_experts_are_seen(scores, message):
    model = plain_model(tfmoe.TopKGate(num_nonzeros=2, router="static"))
    set_scores(model, scores)
    check(gate_use(model, inputs())[0].warnings, message)


def test_duplicate_experts_are_seen():
    model = plain_model(tfmoe.SoftmaxGate())
    check(gate_use(model, inputs())[0].warnings, None)
    for weight in mixture_of(model).experts.weights:
        values = weight.numpy()
        values[2] = values[1] * (1.1 if values.ndim == 3 else 1)  # as good as the same
        weight.assign(values)
    message = "Duplicate experts: the outputs of 1 and 2 correlate above 0.99"
    check(gate_use(model, inputs())[0].warnings, message)
    assert gate_use(model, inputs(), similarity=False)[0].warnings == ()


def check(warnings, message):
    if message is None:
        assert warnings == ()
    else:
        with pytest.raises(ValueError, match=message):
            raise ValueError(*warnings)


def test_a_cut_gate_keeps_its_experts_numbers():
    gate = tfmoe.TopKGate(2, 3, expert_ids=[3, 17, 40], num_choices=64)
    (use,) = gate_use(plain_model(gate, experts=3), inputs())
    assert use.experts == (3, 17, 40)
    assert list(use.frame()["expert"]) == [3, 17, 40] * 2


def wide_use(tasks=128, experts=64):
    gate = tfmoe.TopKGate(num_nonzeros=2, router="static")
    (use,) = gate_use(plain_model(gate, tasks=tasks, experts=experts), inputs(4))
    return use


def size_of(path):
    data = path.read_bytes()
    return [int.from_bytes(data[i : i + 4], "big") for i in (16, 20)]


@pytest.mark.slow
def test_pictures_are_bounded_and_not_written_over(tmp_path):
    use = wide_use()
    history = pd.concat([use.frame().assign(epoch=epoch) for epoch in (1, 2)])
    draw_gates({"many": use}, use.tasks, tmp_path / "gates.png")
    draw_curves(use, tmp_path / "curves.png")
    draw_history(history, tmp_path / "history.png")
    for name in ("gates", "curves", "history"):
        assert max(size_of(tmp_path / f"{name}.png")) < 3000
    with pytest.raises(FileExistsError, match="choose another name"):
        draw_gates({"many": use}, use.tasks, tmp_path / "gates.png")


def test_a_table_shows_what_is_used_and_is_bounded():
    console = Console(width=100, file=io.StringIO())
    model = plain_model(tfmoe.TopKGate(num_nonzeros=2, router="static"))
    set_scores(model, [[0, np.log(3), 0, -9.0], [5.0, 0, 5.0, 0]])
    console.print(use_table(gate_use(model, inputs())[0], "gate"))
    console.print(use_table(wide_use(), "gate"))
    text = console.file.getvalue()
    assert "task 0    2.0     1.8     0.56  1:0.75 0:0.25" in text
    assert "and 104 more tasks" in text
    assert "decided" not in text


def test_a_report_is_a_folder(tmp_path):
    prep, df = tables.fitted(), tables.rows()
    model = tables.small_model(prep)
    (use,) = gate_use(model, df)
    history = pd.concat([use.frame().assign(epoch=epoch) for epoch in (1, 2)])
    write_report(model, df, tmp_path / "report", history)
    found = {path.name for path in (tmp_path / "report").iterdir()}
    assert found == {"gate.png", "gate_curves.png", "gate_history.png", "gates.csv"}
    written = pd.read_csv(tmp_path / "report" / "gates.csv")
    pd.testing.assert_frame_equal(written, use.frame(), check_dtype=False, rtol=1e-6)
    with pytest.raises(FileExistsError, match="report', which is there already"):
        write_report(model, df, tmp_path / "report")
    with pytest.raises(ValueError, match=r"GateReport.frame.*Received one with columns \['a'\]"):
        write_report(model, df, tmp_path / "other", pd.DataFrame({"a": [1]}))
    bottom = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)))
    with pytest.raises(ValueError, match="A report shows gates"):
        write_report(bottom, df, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_weights_of_tasks_are_drawn(tmp_path):
    history = {"loss": [3.0, 2.0], "a_loss": [1, 1], "a_weight": [1.0, 0.7], "x_weight": [9.0, 9.0]}
    draw_weights(history, tmp_path / "weights.png")
    assert (tmp_path / "weights.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"Received a history of \['loss'\], without"):
        draw_weights({"loss": [1.0]}, tmp_path / "none.png")
