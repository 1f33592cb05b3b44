"""Extracted models predict what the whole model predicts."""

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tests.oracles import tables
from tfmoe.gates.base import Gate
from tfmoe.gates.routers import ScoreSpec
from tfmoe.serving.sample_rows import sample_rows

SMALL = tfmoe.Schema(
    [
        tfmoe.Numeric("age", transform="none"),
        tfmoe.Numeric("plays", transform="none"),
        tfmoe.Categorical("user_id", dim=3, hash_buckets=7),
    ],
    [
        tfmoe.Binary("watch"),
        tfmoe.Regression("rating", standardize=False),
        tfmoe.Multiclass("mood", classes=("bad", "good", "so-so")),
    ],
)
TASKS = SMALL.task_names


def small_model(gate=None, num_experts=4, mixture=tfmoe.MMoE, dtype=None):
    mixture = mixture(num_experts=num_experts, hidden_units=(6, 4), gate=gate, dtype=dtype)
    return tfmoe.MultiTaskModel(SMALL, mixture, tower_units=(3,), dtype=dtype)


def features(num_rows=40, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "age": generator.normal(size=num_rows).astype("float32"),
        "plays": generator.normal(size=num_rows).astype("float32"),
        "user_id": generator.integers(0, 10, num_rows).astype("int32"),
    }


def predictions(model, x):
    return {name: ops.convert_to_numpy(v) for name, v in model.forward_pass(x).predictions.items()}


def gate_weights(model, x):
    return ops.convert_to_numpy(model.forward_pass(x).aux[0].weights)


def check_same(extracted, whole, x, names, atol=1e-6):
    before, after = predictions(whole, x), predictions(extracted, x)
    assert list(after) == [name for name in TASKS if name in names]
    for name, values in after.items():
        np.testing.assert_allclose(values, before[name], rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.filterwarnings("ignore:extract keeps more experts")
@settings(max_examples=settings.default.max_examples * 2 // 3)
@given(
    num_experts=st.integers(2, 9),
    num_nonzeros=st.integers(1, 3),
    spread=st.sampled_from([0.2, 0.6, 2.0]),
    reachability=st.sampled_from(["fold", "penalty"]),
    mixture=st.sampled_from([tfmoe.MMoE, tfmoe.OMoE]),
    names=st.sets(st.sampled_from(TASKS), min_size=1),
    seed=st.integers(0, 999),
)
def test_static_dselect_k_is_exact(
    num_experts, num_nonzeros, spread, reachability, mixture, names, seed
):
    keras.utils.set_random_seed(seed)
    gate = tfmoe.DSelectKGate(num_nonzeros=num_nonzeros, router="static", reachability=reachability)
    model, x = small_model(gate, num_experts, mixture), features(seed=seed)
    scores = model.mixture.gate.head.scores
    # Some bits decided, some not.
    scores.assign(np.random.default_rng(seed).normal(scale=spread, size=scores.shape))
    rows = [0] if mixture is tfmoe.OMoE else [TASKS.index(name) for name in names]
    used = np.flatnonzero(gate_weights(model, x)[0, rows].max(axis=0) > 0)
    if not len(used):
        with pytest.raises(ValueError, match="At least one expert's weight must be above"):
            tfmoe.extract(model, names)
        return
    before = [ops.convert_to_numpy(weight).copy() for weight in model.weights]
    extracted = tfmoe.extract(model, names)
    assert extracted.extraction.experts == tuple(used)
    assert extracted.extraction.num_parameters_before == model.count_params()
    assert extracted.extraction.num_parameters == extracted.count_params()
    assert extracted.extraction.largest_change is None
    check_same(extracted, model, x, names)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)


GATES = {
    "softmax": tfmoe.SoftmaxGate(router=tfmoe.MLPRouter((5,))),
    "top-k": tfmoe.TopKGate(num_nonzeros=2, noisy=True),
    "DSelect-k": tfmoe.DSelectKGate(num_nonzeros=3, router=tfmoe.MLPRouter((5,))),
    "scheduled": tfmoe.DSelectKGate(
        entropy_reg=keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    ),
    "Gumbel": tfmoe.GumbelGate(),
    "sparsemax": tfmoe.SparsemaxGate(),
    "entmax": tfmoe.EntmaxGate(),
    "ReLU": tfmoe.ReLUGate(),
    "balanced": tfmoe.BalancedTopKGate(),
    "hash": tfmoe.HashGate(column="user_id"),
    "COMET": tfmoe.CometGate(permutation=tfmoe.LearnedPermutation(num_steps=3)),
}


@pytest.mark.parametrize("name", GATES)
def test_state_of_every_gate_goes_along(name):
    model, x = small_model(GATES[name], num_experts=5), features()
    for seed, weight in enumerate(model.mixture.gate.weights):
        numbers = np.random.default_rng(seed).normal(size=weight.shape)
        whole = "int" in str(weight.dtype)
        weight.assign(np.abs(numbers) if whole else numbers)
    extracted = tfmoe.extract(model, ["rating", "mood"])
    assert extracted.extraction.experts == tuple(range(5))
    check_same(extracted, model, x, ["rating", "mood"])
    for old, new in zip(model.mixture.gate.weights, extracted.mixture.gate.weights, strict=True):
        if "head" not in old.path:
            values = ops.convert_to_numpy(old)
            values = values if values.shape == new.shape else values[1:]
            np.testing.assert_array_equal(values, new)


def test_rows_tell_what_a_routed_gate_uses():
    model, x = small_model(tfmoe.TopKGate(num_nonzeros=1), num_experts=12), features()
    used = np.flatnonzero(gate_weights(model, x)[:, 0].max(axis=0))
    assert 1 < len(used) < 12
    extracted = tfmoe.extract(model, ["watch"], data=x)
    assert extracted.extraction.experts == tuple(used)
    assert extracted.extraction.largest_change < 1e-6
    check_same(extracted, model, x, ["watch"])
    # Rows that select a dropped expert lose its weight; nobody else's grows.
    other = features(400, seed=1)
    whole, cut = gate_weights(model, other)[:, :1], gate_weights(extracted, other)
    np.testing.assert_allclose(cut, whole[:, :, used], atol=1e-6)
    # Extracting again goes on from the old numbers.
    few = {name: values[:5] for name, values in x.items()}
    again = tfmoe.extract(extracted, ["watch"], data=few)
    used = np.flatnonzero(gate_weights(model, few)[:, 0].max(axis=0))
    assert again.extraction.experts == tuple(used)
    assert again.mixture.gate.num_choices == 12
    check_same(again, model, few, ["watch"])


def test_a_threshold_drops_small_weights_and_reports_the_change():
    model, x = small_model(tfmoe.SoftmaxGate(router="static")), features()
    shares = np.array([[0.7, 0.2, 0.09, 0.01], [0.4, 0.4, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    model.mixture.gate.head.scores.assign(np.log(shares).reshape(1, -1))
    with pytest.raises(ValueError, match=r"drops weights up to 0.09, and data=None. Pass `data`"):
        tfmoe.extract(model, ["watch"], threshold=0.15)
    with pytest.raises(ValueError, match=r"threshold=0.15, which changes one by .*tolerance=1e-06"):
        tfmoe.extract(model, ["watch"], threshold=0.15, data=x)
    extracted = tfmoe.extract(model, ["watch", "rating"], threshold=0.15, data=x, tolerance=9)
    assert extracted.extraction.experts == (0, 1)
    change = 0
    for name, values in predictions(extracted, x).items():
        whole = predictions(model, x)[name]
        change = max(change, np.abs(values - whole).max() / max(1, np.abs(whole).max()))
    assert extracted.extraction.largest_change == pytest.approx(change, rel=1e-3)
    assert change > 1e-4


def test_ready_layers_go_along():
    layers = [keras.layers.Dense(4, activation=name) for name in ("relu", "tanh", "gelu")]
    gate = tfmoe.TopKGate(num_nonzeros=1, router="static")
    model = tfmoe.MultiTaskModel(SMALL, tfmoe.MMoE(experts=layers, gate=gate))
    model.mixture.gate.head.scores.assign([[9, 0, 0, 0, 9, 0, 0, 0, 9]])
    extracted = tfmoe.extract(model, ["rating", "mood"])
    assert extracted.extraction.experts == (1, 2)
    check_same(extracted, model, features(), ["rating", "mood"])


def test_shared_bottom_stays_whole():
    mixture = tfmoe.SharedBottom(hidden_units=(6, 4))
    model = tfmoe.MultiTaskModel(SMALL, mixture, tower_units=())
    extracted = tfmoe.extract(model, ["mood", "watch"], data=features())
    assert extracted.extraction.experts == ()
    assert extracted.extraction.largest_change < 1e-6
    check_same(extracted, model, features(), ["mood", "watch"])


def test_half_precision_is_extracted_in_kind():
    gate = tfmoe.TopKGate(router="static")
    model = small_model(gate, num_experts=6, dtype="mixed_float16")
    extracted = tfmoe.extract(model, ["rating"])
    assert extracted.encoder.compute_dtype == extracted.towers.compute_dtype == "float16"
    assert len(extracted.extraction.experts) == 2
    check_same(extracted, model, features(), ["rating"], atol=1e-2)


@pytest.mark.slow
def test_extracted_model_is_a_model(tmp_path):
    df = tables.rows()
    prep = tables.fitted(df)
    gate = tfmoe.DSelectKGate(num_nonzeros=1, router="static")
    mixture = tfmoe.MMoE(num_experts=16, hidden_units=(8, 4), gate=gate)
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(4,))
    signs = np.random.default_rng(2).choice([-1, 1], model.mixture.gate.head.scores.shape)
    model.mixture.gate.head.scores.assign(signs)
    raw = sample_rows(prep, 200)  # unknown and missing values among them
    extracted = tfmoe.extract(model, ["rating", "mood"], data=raw)
    assert extracted.count_params() < model.count_params() / 2
    assert extracted.extraction.largest_change < 1e-6
    # `watch` is no task any more, but still says which rows have a rating.
    names, whole_labels = ("rating", "mood"), prep.arrays(df)[1]
    assert extracted.schema.task_names == names
    labels = extracted.preprocessor.arrays(df)[1]
    assert set(labels) == set(names)
    for name in names:
        np.testing.assert_array_equal(labels[name], whole_labels[name])
    extracted.save(tmp_path / "extracted.keras")
    reloaded = keras.saving.load_model(tmp_path / "extracted.keras")
    tfmoe.export(reloaded, tmp_path / "served")  # compares the graph with the model
    before = model.predict(raw, verbose=0)
    for name, values in reloaded.predict(raw, verbose=0).items():
        np.testing.assert_allclose(values, before[name], rtol=1e-5, atol=1e-6)
    reloaded.compile("adam", jit_compile=False)
    history = reloaded.fit(df, epochs=2, verbose=0, batch_size=64).history
    assert history["loss"][1] < history["loss"][0]


def test_a_preprocessor_with_some_tasks_still_merges():
    df = tables.rows()
    parts = [tables.fitted(df[:100]), tables.fitted(df[100:])]
    merged = parts[0].select(["rating"]).merge(parts[1].select(["rating"]))
    whole = tables.fitted(df)
    assert merged.schema.tasks == (tfmoe.Regression("rating", where="watch", weight=0.5),)
    assert merged.label_means == pytest.approx({"rating": whole.label_means["rating"]})
    assert merged.num_rows == 300


def schema_of(*tasks):
    return tfmoe.Schema([tfmoe.Numeric("age")], tasks)


def test_a_label_space_survives_the_task_that_named_it():
    watch = tfmoe.Binary("watch", source="watched")
    schema = schema_of(
        watch, tfmoe.Regression("rating", where="watch", standardize=False), tfmoe.Binary("buy")
    )
    selected = schema.select(["buy", "rating"])
    assert selected.task_names == ("rating", "buy")
    assert selected.tasks[0] == tfmoe.Regression("rating", where="watched", standardize=False)
    assert schema.select(["watch", "rating"]).tasks == schema.tasks[:2]
    # The raw column must not be taken for another task's.
    other = tfmoe.Binary("watched", source="seen")
    schema = schema_of(watch, tfmoe.Regression("rating", where="watch", standardize=False), other)
    with pytest.raises(ValueError, match=r"raw column 'watched'.*Keep 'watch' too"):
        schema.select(["rating", "watched"])
    for wrong in ([], ["sleep"], "sleep"):
        with pytest.raises(ValueError, match=r"at least one of \['watch', 'rating', 'watched'\]"):
            schema.select(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["sleep"]}, r"Received tasks=\['sleep'\]"),
        ({"threshold": -0.1}, "`threshold` as a number of at least 0. Received threshold=-0.1"),
        ({"tolerance": float("nan")}, "`tolerance` as a number of at least 0"),
        ({"threshold": 0.1}, "only rows can tell. Received threshold=0.1 and data=None"),
        ({"threshold": 1.0, "data": features()}, "the largest mean weight is 0.*Lower it"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.extract(small_model(), **{"tasks": ["watch"], **arguments})


def test_only_known_mixtures_are_extracted_from():
    with pytest.raises(ValueError, match=r"SharedBottom, ModSquad or another Structure. Received"):
        tfmoe.extract(keras.Sequential([keras.layers.Dense(1)]), ["watch"])


@keras.saving.register_keras_serializable("tests")
class OddGate(Gate):
    """Has weights whose axes do not say what belongs to a task."""

    def score_parts(self):
        return [ScoreSpec(self.num_choices, "zeros", None, "zeros")]

    def build(self, input_shape):
        super().build(input_shape)
        self.odd = self.add_weight(name="odd", shape=(2 * self.num_tasks,))

    def select(self, scores, training):
        return ops.softmax(scores), ops.softmax(scores)


def test_gates_that_it_does_not_understand_are_refused():
    with pytest.raises(ValueError, match=r"OddGate's 'odd' of shape \(6,\)"):
        tfmoe.extract(small_model(OddGate()), ["rating"])
    # It has no weights at all: what it does hangs on a task's place, which it keeps.
    model = small_model(tfmoe.HashGate(column="user_id", per_task=True))
    for name in ("rating", "watch"):
        one = tfmoe.extract(model, [name])
        check_same(one, model, features(), [name])
        check_same(tfmoe.extract(one, [name]), model, features(), [name])


def test_a_gate_that_has_not_decided_is_told():
    model = small_model(tfmoe.DSelectKGate(num_nonzeros=1), 4)
    message = "more experts than it might. Undecided: of a task's selectors only 0%"
    with pytest.warns(UserWarning, match=message):
        tfmoe.extract(model, ["watch"], data=features())


def test_what_is_frozen_stays_frozen(tmp_path):
    model = small_model()
    model.mixture.experts.trainable = False
    model.encoder.tables["user_id"].trainable = False
    extracted = tfmoe.extract(model, TASKS[:1])
    assert not extracted.mixture.experts.trainable_variables
    assert not extracted.encoder.tables["user_id"].trainable_variables
    assert extracted.structure.gate.trainable_variables
    assert extracted.towers.trainable_variables
    extracted.save(tmp_path / "model.keras")
    again = tfmoe.load_model(tmp_path / "model.keras")
    assert len(again.trainable_variables) == len(extracted.trainable_variables)


def small_rows(columns, tasks):
    """A table of such columns, and a preprocessor of it."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"item": rng.integers(0, 6, 40), "user": rng.integers(0, 5, 40)})
    rows["seen"] = [rng.integers(0, 6, rng.integers(0, 4)).tolist() for _ in range(40)]
    click = rng.integers(0, 2, 40)
    for task in tasks:
        rows[task.name] = click
    return rows, tfmoe.Preprocessor(tfmoe.Schema(columns, tasks)).fit(rows, progress=False)


@pytest.mark.parametrize(
    "mixture", [tfmoe.SharedBottom(hidden_units=(3,)), tfmoe.ModSquad(num_blocks=1, dim=4)]
)
def test_an_encoder_stays_frozen_with_all_that_it_holds(mixture):
    pooling = tfmoe.TargetAttention("item") if isinstance(mixture, tfmoe.SharedBottom) else "mean"
    columns = [
        tfmoe.Categorical("item", dim=2),
        tfmoe.Categorical("user", dim=2, unknown_rate=0.5),
        tfmoe.Sequence("seen", share="item", max_length=3, pooling=pooling),
    ]
    tasks = [tfmoe.Binary("click"), tfmoe.Binary("buy")]
    rows, prep = small_rows(columns, tasks)
    model = tfmoe.MultiTaskModel(prep, mixture)
    model.encoder.trainable = False
    extracted = tfmoe.extract(model, ["buy"])
    assert not extracted.encoder.trainable_variables
    assert not extracted.encoder.unknown["user"].trainable
    if not extracted.encoder.interests:
        return  # tokens, to which no columns come
    # A column that is new is there to learn; the others stay as they were.
    grown = prep.grow(
        rows.assign(new="a"), schema=tfmoe.Schema([*columns, tfmoe.Categorical("new")], tasks)
    )
    encoder = model.grow(grown).encoder
    assert encoder.tables["new"].trainable
    assert not any(encoder.tables[name].trainable for name in ("item", "user"))
    assert not any(
        layer.trainable for layer in (*encoder.interests.values(), *encoder.unknown.values())
    )


def test_towers_stay_frozen_without_their_links():
    tasks = [
        tfmoe.Binary("click"),
        tfmoe.Binary("buy", given="click", link="aitm"),
        tfmoe.Binary("like"),
    ]
    _, prep = small_rows([tfmoe.Categorical("item", dim=2)], tasks)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(3,)))
    model.towers.hidden.trainable = False
    extracted = tfmoe.extract(model, ["like"])
    assert extracted.towers.links is None
    assert not extracted.towers.hidden.trainable
    assert extracted.towers.trainable


def test_a_hash_gate_for_all_tasks_stays_as_it_is():
    model = small_model(tfmoe.HashGate(column="user_id", per_task=True), mixture=tfmoe.OMoE)
    check_same(tfmoe.extract(model, TASKS[1:]), model, features(), TASKS[1:])
