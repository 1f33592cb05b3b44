import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe

COLUMNS = (tfmoe.Numeric("age"), tfmoe.Categorical("city", dim=3))
NAMES = ("de", "fr", "jp")
CITIES = ["Rome", "Oslo", "Bonn"]


def table(num_rows=200, names=(*NAMES, "us")):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "age": rng.normal(size=num_rows),
            "city": rng.choice(CITIES, num_rows),
            "market": rng.choice(names, num_rows),
        }
    )
    rows["click"] = (rng.random(num_rows) < 1 / (1 + np.exp(-rows.age))).astype(int)
    return rows.assign(**dict.fromkeys(names, rows.click))


def tasks(one_task, names=NAMES):
    return [tfmoe.Binary(name, source="click" if one_task else None) for name in names]


def trained(mixture, one_task, **options):
    keras.utils.set_random_seed(0)
    schema = tfmoe.Schema(COLUMNS, tasks(one_task), task_column="market" if one_task else None)
    rows = table(names=NAMES)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(4,), **options)
    fit(model, rows)
    return model


def fit(model, rows, optimizer="adam"):
    # Eagerly, for a step or two are not worth a graph.
    model.compile(optimizer, run_eagerly=True)
    model.fit(rows, epochs=1, batch_size=100, verbose=0)


def predict(model, rows):
    outputs = model(model.preprocessor.arrays(rows, labels=False))
    return {name: np.array(values) for name, values in outputs.items()}


def new_task(one_task, name="us"):
    return tasks(one_task, [name])[0]


def assert_same(before, after):
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def trained_names(model):
    return {(weight.path.split("/", 1)[0], weight.name) for weight in model.trainable_weights}


TOWER = {("tfmoe_towers", name) for name in ("kernel", "bias", "kernel_0", "bias_0")}
SPARSE = {"num_experts": 16, "hidden_units": (4,), "dispatch": "sparse"}
GATES = [
    (tfmoe.TopKGate(usage_decay=0.9), "kernel"),
    (tfmoe.TaskAwareGate(), "embeddings"),
    (tfmoe.TopKGate(router=tfmoe.TaskRouter(dim=4, kind="low_rank")), "embeddings"),
    (tfmoe.BalancedTopKGate(router=tfmoe.MLPRouter((4,))), "kernel"),
    (tfmoe.DSelectKGate(router="static", entropy_reg=0.1), "scores"),
]


@pytest.mark.quick(1)
@pytest.mark.parametrize(("routing", "one_task"), [("own", True), ("own", False), ("mix", True)])
@pytest.mark.parametrize(("gate", "own"), GATES, ids=lambda value: getattr(value, "name", value))
def test_old_tasks_stay_the_same_to_the_bit(gate, own, routing, one_task):
    mixture = tfmoe.MMoE(gate=gate, **SPARSE)
    model = trained(mixture, one_task)
    old, rows = table(names=NAMES), table()
    before, weights = predict(model, old), model.get_weights()
    extended = model.add_task(new_task(one_task), like=["fr", "jp"], routing=routing)
    assert_same(before, predict(extended, old))
    mine = {("tfmoe_mixture", "mix" if routing == "mix" else own)}
    assert trained_names(extended) == TOWER | mine
    # Weight decay and momentum would move whatever is trained at all.
    start = predict(extended, rows)
    fit(extended, rows, keras.optimizers.AdamW(0.01, weight_decay=0.1))
    assert_same(before, predict(extended, old))
    for weight, values in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, values)
    name = "score" if one_task else "us"
    changed = np.flatnonzero(predict(extended, rows)[name] != start[name])
    assert len(changed)
    if one_task:
        assert set(rows.market.iloc[changed]) == {"us"}


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "mixture",
    [
        tfmoe.SharedBottom(hidden_units=(4,)),
        tfmoe.OMoE(num_experts=4, hidden_units=(4,), gate=tfmoe.BalancedTopKGate()),
    ],
    ids=lambda mixture: type(mixture).__name__,
)
def test_without_a_gate_for_each_task_only_the_tower_is_fitted(mixture):
    model = trained(mixture, one_task=True)
    old = table(names=NAMES)
    before = predict(model, old)
    extended = model.add_task(new_task(True))
    assert trained_names(extended) == TOWER
    fit(extended, table())
    assert_same(before, predict(extended, old))


@pytest.mark.slow
@pytest.mark.parametrize("one_task", [True, False])
def test_it_saves_and_takes_another_task(one_task, tmp_path):
    model = trained(tfmoe.MMoE(gate=tfmoe.TaskAwareGate(), **SPARSE), one_task)
    rows = table()
    extended = model.add_task(new_task(one_task), like="de")
    fit(extended, rows)
    extended.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    before = predict(extended, rows)
    assert_same(before, predict(again, rows))
    assert trained_names(again) == trained_names(extended)
    twice = again.add_task(new_task(one_task, "it"), routing="mix")
    assert_same(before, predict(twice, rows))
    assert trained_names(twice) == TOWER | {("tfmoe_mixture", "mix")}
    assert twice.schema.task_names == (*NAMES, "us", "it")


@pytest.mark.slow
def test_a_new_task_starts_from_those_it_is_like():
    """Routed as one of them, and with its tower, it predicts what that one does."""
    model = trained(tfmoe.MMoE(gate=tfmoe.TaskAwareGate(), **SPARSE), one_task=False)
    rows = table()
    for routing in ("own", "mix"):
        extended = model.add_task(new_task(False), like=["fr"], routing=routing)
        predictions = predict(extended, rows)
        np.testing.assert_allclose(predictions["us"], predictions["fr"], rtol=1e-5)
    gate = model.add_task(new_task(False), like=["fr", "jp"]).mixture.gate
    embeddings = gate.base.head.embeddings.numpy()
    np.testing.assert_allclose(
        gate.added[0].head.embeddings, embeddings[1:].mean(axis=0, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize("routing", ["own", "mix"])
@pytest.mark.slow
def test_a_new_task_selects_as_the_one_it_is_like(routing):
    """Also by what a gate keeps beside its scores: a balance's bias, a permutation."""
    for gate in (
        tfmoe.BalancedTopKGate(num_nonzeros=1),
        tfmoe.CometGate(num_nonzeros=2, permutation=tfmoe.LearnedPermutation(2)),
    ):
        model = trained(tfmoe.MMoE(num_experts=8, hidden_units=(4,), gate=gate), True)
        if hasattr(model.mixture.gate, "bias"):
            bias = model.mixture.gate.bias
            bias.assign(np.random.default_rng(0).normal(size=bias.shape))
        extended = model.add_task(new_task(True), like=["fr"], routing=routing)
        rows = table().assign(market="us")
        expected = predict(model, rows.assign(market="fr"))
        np.testing.assert_allclose(predict(extended, rows)["score"], expected["score"], rtol=1e-5)


@pytest.mark.slow
def test_other_tasks_rows_do_not_move_a_new_tasks_balance():
    gate = tfmoe.BalancedTopKGate(num_nonzeros=1)
    model = trained(tfmoe.MMoE(num_experts=4, hidden_units=(4,), gate=gate), True)
    extended = model.add_task(new_task(True), like=["fr"])
    bias = extended.mixture.gate.added[-1].bias
    before = np.array(bias)
    fit(extended, table(names=NAMES))
    np.testing.assert_array_equal(bias, before)
    fit(extended, table(names=["us"]))
    assert np.any(np.array(bias) != before)


@pytest.mark.slow
def test_a_task_of_another_kind_has_a_tower_of_its_own():
    model = trained(tfmoe.SharedBottom(hidden_units=(4,)), one_task=False)
    extended = model.add_task(tfmoe.Multiclass("us", num_classes=3))
    assert extended.predict(table(), verbose=0)["us"].shape == (200, 3)


@pytest.mark.slow
def test_a_task_is_added_to_a_hash_gate(tmp_path):
    gate = tfmoe.HashGate(column="city", per_task=True)
    model = trained(tfmoe.MMoE(num_experts=3, hidden_units=(4,), gate=gate), False)
    extended = model.add_task(tfmoe.Binary("us"))
    rows = table()
    fit(extended, rows)
    # It hashes in a way of its own, as every task does, and so does the next one.
    more = extended.add_task(tfmoe.Binary("more", source="us"))
    found = np.asarray(more.structure.gate(np.ones((40, 1)), ids=np.arange(40)))
    assert len({found[:, task].tobytes() for task in range(found.shape[1])}) == found.shape[1] == 5
    extended.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(again, rows)["us"], predict(extended, rows)["us"])


@pytest.mark.slow
def test_an_added_task_is_exported(tmp_path):
    model = trained(tfmoe.MMoE(gate=tfmoe.TaskAwareGate(), **SPARSE), one_task=True)
    tfmoe.export(model.add_task(new_task(True)), tmp_path)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"like": ["uk"]}, r"like=\['uk'\]. Name the related ones"),
        ({"like": []}, r"Received like=\[\]"),
        ({"like": ["us"]}, r"\['de', 'fr', 'jp'\]. Received like=\['us'\]"),
        ({"routing": "mean"}, '"own" or "mix". Received routing=\'mean\''),
        ({"name": "us"}, "different names"),
    ],
)
def test_arguments_are_checked(options, message):
    model = trained(tfmoe.SharedBottom(hidden_units=(4,)), one_task=False)
    model = model.add_task(new_task(False))
    task = new_task(False, options.pop("name", "it"))
    with pytest.raises(ValueError, match=message):
        model.add_task(task, **options)


def untrained(mixture, names=("x", "z")):
    columns = [tfmoe.Numeric(name, transform="none") for name in "abcd"]
    schema = tfmoe.Schema(columns, [tfmoe.Binary(name) for name in names])
    return tfmoe.MultiTaskModel(schema, mixture, tower_units=(4,))


def inputs(num_rows=200):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=num_rows).astype("float32") for name in "abcd"}


@pytest.mark.parametrize("one_task", [False, True])
def test_an_added_task_says_what_it_used(one_task):
    gate = tfmoe.TopKGate(num_nonzeros=2, noisy=False, usage_decay=0.01)
    model = trained(tfmoe.MMoE(num_experts=9, hidden_units=(4,), gate=gate), one_task)
    before = model.mixture.gate.usage
    more = model.add_task(new_task(one_task))
    np.testing.assert_array_equal(more.mixture.gate.usage[:3], before)
    rows = table(100, names=("us",))
    (record,) = more.forward_pass(more.preprocessor.arrays(rows, labels=False)).aux
    fit(more, rows)
    # One step, which counts a hundred times what was before.
    selected = np.array(record.weights)[:, 0 if one_task else 3] > 0
    usage = more.mixture.gate.usage
    np.testing.assert_allclose(usage[3], selected.mean(axis=0), atol=0.011)
    np.testing.assert_allclose(usage.sum(axis=1), 2, rtol=1e-5)
    without = more.add_task(new_task(one_task, "nl")).mixture.gate
    assert without.usage.shape == (5, 9)
    without.base.usage_decay = None
    assert without.usage is None


def test_a_second_task_does_not_move_the_first_added_one():
    gate = tfmoe.TopKGate(num_nonzeros=2)
    model = untrained(tfmoe.MMoE(num_experts=8, hidden_units=(16,), gate=gate))
    once = model.add_task(tfmoe.Binary("late"))
    twice = once.add_task(tfmoe.Binary("later"))
    before, after = (one.predict(inputs(), verbose=0) for one in (once, twice))
    for name in ("x", "z", "late"):
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_a_task_is_added_where_one_gate_serves_one_task():
    mixture = tfmoe.OMoE(num_experts=4, hidden_units=(8,))
    alone, one_of_two = untrained(mixture, ("x",)), untrained(mixture)
    for model in (alone, tfmoe.extract(one_of_two, ["x"])):
        extended = model.add_task(tfmoe.Binary("late"))
        x = inputs(9)
        np.testing.assert_array_equal(
            extended.predict(x, verbose=0)["x"], model.predict(x, verbose=0)["x"]
        )


@pytest.mark.parametrize("routing", ["own", "mix"])
def test_a_task_is_added_where_one_expert_is_left(routing, tmp_path):
    gate = tfmoe.DSelectKGate(num_nonzeros=1, router="static", gamma=1e-3)
    model = untrained(tfmoe.MMoE(num_experts=4, hidden_units=(8,), gate=gate))
    scores = model.structure.gate.head.scores
    scores.assign(np.ones(scores.shape))  # decided
    small = tfmoe.extract(model, ["x"])
    assert small.extraction.experts == (3,)
    extended, x = small.add_task(tfmoe.Binary("late"), routing=routing), inputs(9)
    expected = model.predict(x, verbose=0)["x"]
    np.testing.assert_allclose(extended.predict(x, verbose=0)["x"], expected, rtol=1e-6)
    extended.save(tmp_path / "model.keras")
    again = tfmoe.load_model(tmp_path / "model.keras").predict(x, verbose=0)
    np.testing.assert_array_equal(again["late"], extended.predict(x, verbose=0)["late"])
