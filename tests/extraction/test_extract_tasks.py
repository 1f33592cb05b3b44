"""Extraction where each row has one task, by usage, and from several gates."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfmoe
from tfmoe.gates.rows import Rows
from tfmoe.reports.gate_use import gate_use

COLUMNS = [
    tfmoe.Numeric("age", transform="none"),
    tfmoe.Numeric("plays", transform="none"),
    tfmoe.Categorical("user_id", dim=3, hash_buckets=7),
    tfmoe.Sequence("history", hash_buckets=5, max_length=3, dim=4),
]
TASKS = [tfmoe.Binary("de"), tfmoe.Regression("fr", standardize=False), tfmoe.Binary("uk")]
ONE = tfmoe.Schema(COLUMNS, TASKS, task_column="market")
ALL = tfmoe.Schema(COLUMNS, TASKS)


def features(schema=ONE, num_rows=50, seed=0, tasks=(0, 1, 2)):
    generator = np.random.default_rng(seed)
    x = {
        "age": generator.normal(size=num_rows).astype("float32"),
        "plays": generator.normal(size=num_rows).astype("float32"),
        "user_id": generator.integers(1, 10, num_rows).astype("int32"),
        "history": generator.integers(0, 8, (num_rows, 3)).astype("int32"),
    }
    if schema.task_column:
        x["market"] = generator.choice(tasks, num_rows).astype("int32")
    return x


def model_of(mixture, schema=ONE, seed=0):
    keras.utils.set_random_seed(seed)
    return tfmoe.MultiTaskModel(schema, mixture, tower_units=(3,))


def mmoe(gate, num_experts=6):
    return tfmoe.MMoE(num_experts=num_experts, hidden_units=(6, 4), gate=gate)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def rows_of(x, names, num_rows=None):
    """Rows of some tasks, as the whole model and as its extract take them."""
    if "market" not in x:
        return x, x
    indices = [ONE.task_names.index(name) for name in names]
    kept = np.flatnonzero(np.isin(x["market"], indices))[:num_rows]
    whole = {name: values[kept] for name, values in x.items()}
    places = np.searchsorted(indices, whole["market"]).astype("int32")
    return whole, {**whole, "market": places}


def check_same(extracted, model, x, names):
    whole, own = rows_of(x, names)
    before, after = model.forward_pass(whole).predictions, extracted.forward_pass(own).predictions
    assert set(after) == ({"score"} if "market" in x else set(names))
    for name, values in after.items():
        np.testing.assert_allclose(
            numpy(values), numpy(before[name]), rtol=1e-5, atol=1e-6, err_msg=name
        )


def train(model, x, **options):
    """An epoch on labels that follow from the age."""
    labels = (x["age"] > 0).astype("float32")
    model.compile("adam", **options)
    y = dict.fromkeys(model.schema.output_names, labels)
    model.fit(x, y, epochs=1, batch_size=25, verbose=0)


def check_saved_and_exported(model, x, folder):
    model.save(folder / "model.keras")
    again = keras.saving.load_model(folder / "model.keras").predict(x, verbose=0)
    for name, values in model.predict(x, verbose=0).items():
        np.testing.assert_allclose(again[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    version = tfmoe.export(model, folder / "served")
    assert "serving_default" in tf.saved_model.load(str(version)).signatures


MIXTURES = {
    "task-aware": mmoe(tfmoe.TaskAwareGate(num_nonzeros=2)),
    "low rank": mmoe(tfmoe.TopKGate(router=tfmoe.TaskRouter(dim=3, kind="low_rank"))),
    "own routers": mmoe(tfmoe.DSelectKGate(num_nonzeros=2)),
    "static": mmoe(tfmoe.TopKGate(num_nonzeros=1, router="static")),
    "one gate": tfmoe.OMoE(num_experts=6, hidden_units=(6, 4), gate=tfmoe.TopKGate()),
    "no gate": tfmoe.SharedBottom(hidden_units=(6, 4)),
    "Mod-Squad": tfmoe.ModSquad(
        dim=6, num_blocks=1, num_experts=9, gate=tfmoe.TopKGate(num_nonzeros=1)
    ),
}


@pytest.mark.quick(3)
@pytest.mark.filterwarnings("ignore:extract keeps more experts")
@pytest.mark.parametrize("name", MIXTURES)
def test_rows_of_one_task_each(name):
    names = ["uk"] if name in ("low rank", "static", "no gate") else ["de", "uk"]
    model, x = model_of(MIXTURES[name]), features()
    extracted = tfmoe.extract(model, names, data=x)
    assert extracted.schema.task_column == "market"
    assert extracted.schema.task_names == tuple(names)
    assert extracted.extraction.largest_change < 1e-6
    assert extracted.count_params() < model.count_params()
    check_same(extracted, model, x, names)


def test_classes_of_tasks_that_go_are_padding():
    tasks = [tfmoe.Multiclass(f"m{n}", classes=tuple("abcd"[:n])) for n in (2, 4, 3)]
    schema = tfmoe.Schema(COLUMNS[:3], tasks, task_column="market")
    model, x = model_of(MIXTURES["one gate"], schema), features()
    extracted = tfmoe.extract(model, ["m2", "m3"], data=x)
    assert extracted.extraction.largest_change < 1e-6
    own = {**x, "market": np.ones(50, "int32")}
    after = numpy(extracted.forward_pass(own).predictions["score"])
    before = numpy(model.forward_pass({**x, "market": own["market"] + 1}).predictions["score"])
    assert after.shape == (50, 3)
    np.testing.assert_allclose(after, before[:, :3], rtol=1e-5, atol=1e-6)


def test_a_static_gate_of_each_task_needs_no_rows():
    model = model_of(MIXTURES["static"])
    model.mixture.gate.head.scores.assign(np.eye(6)[[3, 0, 5]].reshape(1, -1))
    extracted = tfmoe.extract(model, ["de", "uk"])
    assert extracted.extraction.experts == (3, 5)
    check_same(extracted, model, features(), ["de", "uk"])


def test_static_gates_of_tokens_need_no_rows():
    schema = tfmoe.Schema(COLUMNS[3:], TASKS, task_column="market")
    gate = tfmoe.TopKGate(num_nonzeros=1, router="static")
    model = model_of(tfmoe.ModSquad(dim=4, num_blocks=1, num_experts=5, gate=gate), schema)
    extracted = tfmoe.extract(model, ["fr"])
    chosen = [numpy(gate.head.scores).reshape(3, 5)[1].argmax() for gate in model.mixture.gates]
    assert list(extracted.extraction.experts.values()) == [(expert,) for expert in chosen]
    check_same(extracted, model, features(), ["fr"])


@pytest.mark.slow
@pytest.mark.parametrize("schema", [ONE, ALL], ids=["one", "all"])
def test_each_gate_of_mod_squad_is_cut_alone(schema, tmp_path):
    gate = tfmoe.TopKGate(num_nonzeros=1)
    model = model_of(tfmoe.ModSquad(dim=6, num_blocks=2, num_experts=9, gate=gate), schema)
    x = features(schema)
    few, _ = rows_of(x, ["uk"], num_rows=4)
    few = {name: values[:4] for name, values in few.items()}
    extracted = tfmoe.extract(model, ["uk"], data=few)
    assert extracted.extraction.largest_change < 1e-6
    used = [use.mean_weight[2] > 0 for use in gate_use(model, few)]
    kept = extracted.extraction.experts
    assert list(kept) == [f"block_{i}/{part}_gate" for i in (0, 1) for part in ("attention", "mlp")]
    assert list(kept.values()) == [tuple(np.flatnonzero(marks)) for marks in used]
    assert min(map(len, kept.values())) < 9
    check_same(extracted, model, few, ["uk"])
    # An extract is a model: it is saved, and extracted from again, by the old numbers.
    extracted.save(tmp_path / "uk.keras")
    again = tfmoe.extract(keras.saving.load_model(tmp_path / "uk.keras"), ["uk"])
    assert again.extraction.experts == kept
    check_same(again, model, few, ["uk"])


def test_rows_of_every_task_that_stays_are_needed():
    model, x = model_of(MIXTURES["task-aware"]), features(tasks=(0, 1))
    with pytest.raises(ValueError, match=r"`data` without rows of \['uk'\]. Add some"):
        tfmoe.extract(model, ["de", "uk"], data=x)
    # Nothing of tasks that go is asked.
    assert tfmoe.extract(model, ["de"], data=x).extraction.largest_change < 1e-6


def set_usage(gate, usage):
    """Makes a gate believe that training used its experts so; None for tasks it never saw."""
    seen = np.array([[0.0 if row is None else 0.5] for row in usage])
    empty = [0.0] * gate.num_choices
    shares = np.array([empty if row is None else row for row in usage])
    gate.usage_sums.assign(shares * seen)
    gate.usage_total.assign(seen)


USAGE = [[0.9, 0.1, 0, 0.001, 0, 0.999], [1, 1, 0, 0, 0, 0], [0.3, 0, 0.65, 0.03, 1, 0.02]]


@pytest.mark.parametrize(
    ("names", "threshold", "kept"),
    [
        (["uk"], 0.02, (0, 2, 3, 4)),
        (["de"], 0.0, (0, 1, 3, 5)),
        (["de"], 0.5, (0, 5)),
        (["fr", "uk"], 0.5, (0, 1, 2, 4)),
        (["fr", "uk"], 2.0, (0, 1, 2, 4)),  # at least the two most used of each
    ],
)
def test_usage_says_what_stays(names, threshold, kept):
    gate = tfmoe.TaskAwareGate(num_nonzeros=2, usage_decay=0.9)
    model = model_of(mmoe(gate), ALL if threshold else ONE)
    set_usage(model.mixture.gate, USAGE)
    extracted = tfmoe.extract(model, names, threshold, by="usage")
    assert extracted.extraction.experts == kept
    assert extracted.extraction.largest_change is None
    rows = [ONE.task_names.index(name) for name in names]
    expected = np.array(USAGE)[rows][:, list(kept)]
    np.testing.assert_allclose(extracted.mixture.gate.usage, expected, rtol=1e-6)


def test_change_by_usage_is_measured_where_there_are_rows():
    gate = tfmoe.TopKGate(num_nonzeros=2, usage_decay=0.9)
    model, x = model_of(mmoe(gate)), features()
    set_usage(model.mixture.gate, USAGE)
    with pytest.raises(ValueError, match=r"threshold=0.5, which changes one by .*tolerance=1e-06"):
        tfmoe.extract(model, ["de", "uk"], 0.5, data=x, by="usage")
    extracted = tfmoe.extract(model, ["de", "uk"], 0.5, data=x, tolerance=9, by="usage")
    change = 0
    for name in ("de", "uk"):
        whole, own = rows_of(x, [name])
        own["market"] += int(name == "uk")
        before = numpy(model.forward_pass(whole).predictions["score"])
        after = numpy(extracted.forward_pass(own).predictions["score"])
        change = max(change, np.abs(after - before).max() / max(1, np.abs(before).max()))
    assert extracted.extraction.largest_change == pytest.approx(change, rel=1e-3)
    assert change > 1e-4
    # Nothing is dropped, so nothing has to be tolerated.
    assert tfmoe.extract(model, ["de", "uk", "fr"], 0.0, data=x, tolerance=0, by="usage")


def test_training_says_what_a_task_uses():
    """Mod-Squad as its paper has it: what training did not select goes."""
    gate = tfmoe.TopKGate(num_nonzeros=1, usage_decay=0.5)
    model = model_of(tfmoe.ModSquad(dim=6, num_blocks=1, num_experts=9, gate=gate))
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False, run_eagerly=True)
    x = features()
    model.fit(x, {"score": np.ones(50, "float32")}, batch_size=50, verbose=0)
    extracted = tfmoe.extract(model, ["de"], by="usage")
    for gate, kept in zip(model.mixture.gates, extracted.extraction.experts.values(), strict=True):
        assert kept == tuple(np.flatnonzero(gate.usage[0]))
    assert sum(map(len, extracted.extraction.experts.values())) < 18
    check_same(extracted, model, x, ["de"])


@pytest.mark.parametrize(
    "gate",
    [
        tfmoe.TopKGate(num_nonzeros=2, usage_decay=0.9),
        tfmoe.TaskAwareGate(num_nonzeros=2, usage_decay=0.9, renormalize=True),
        tfmoe.TaskAwareGate(num_nonzeros=2, usage_decay=0.9),
    ],
    ids=["top-k", "task-aware, renormalized", "task-aware"],
)
def test_weights_of_what_stays_are_never_inflated(gate):
    """A softmax over the survivors alone would give them the weight of those that went."""
    model, x = model_of(mmoe(gate), seed=1), features(num_rows=400)
    whole, own = rows_of(x, ["uk"])
    before = model.forward_pass(whole)
    weights = numpy(before.aux[0].weights)[:, 0]
    kept = np.sort(np.argsort(-(weights > 0).mean(axis=0))[:3])
    set_usage(model.mixture.gate, [[0] * 6, [0] * 6, [int(e in kept) for e in range(6)]])
    extracted = tfmoe.extract(model, ["uk"], by="usage")
    assert extracted.extraction.experts == tuple(kept)
    after = extracted.forward_pass(own)
    cut = numpy(after.aux[0].weights)[:, 0]
    np.testing.assert_allclose(cut, weights[:, kept], atol=1e-6)
    lost = np.delete(weights, kept, axis=1).max(axis=1) > 0
    assert 0.1 < lost.mean() < 0.95
    # Where nothing that was selected went, the prediction is the same.
    old, new = (numpy(f.predictions["score"]) for f in (before, after))
    np.testing.assert_allclose(new[~lost], old[~lost], rtol=1e-5, atol=1e-6)
    # The trap is there: a gate of the survivors alone gives them more, for the same scores.
    alone = type(gate).from_config({**gate.get_config(), "num_tasks": 1, "num_experts": 3})
    scores = ops.take(before.aux[0].scores, kept, axis=-1)
    _, inflated = alone.select(scores, Rows(1), training=False)
    more = numpy(inflated)[:, 0].sum(axis=1) / np.maximum(cut.sum(axis=1), 1e-9)
    assert np.median(more[lost]) > 1.08


def test_usage_that_is_not_known_is_named():
    model = model_of(MIXTURES["task-aware"])
    with pytest.raises(ValueError, match=r"a TaskAwareGate with usage_decay=None"):
        tfmoe.extract(model, ["de"], by="usage")
    model = model_of(mmoe(tfmoe.TopKGate(usage_decay=0.9)))
    set_usage(model.mixture.gate, [[1] * 6, None, None])
    with pytest.raises(ValueError, match=r"Received tasks without rows in it: \['fr', 'uk'\]"):
        tfmoe.extract(model, ["fr", "uk", "de"], by="usage")
    with pytest.raises(ValueError, match=r'`by` "weight" or "usage". Received'):
        tfmoe.extract(model, ["de"], by="size")


def test_tasks_that_were_added_are_not_extracted():
    model = model_of(MIXTURES["task-aware"]).add_task(tfmoe.Binary("es"))
    with pytest.raises(ValueError, match=r"add_task has added \['es'\]. Extract from the model"):
        tfmoe.extract(model, ["de"])
