"""Every kind of column in one table: what was fitted is what is served."""

import random

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tests.oracles import kinds
from tfmoe.data.encode import graph
from tfmoe.serving.export import tensors
from tfmoe.serving.sample_rows import sample_rows, typical_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(st.none(), st.floats(width=64))
WORDS = st.lists(st.one_of(st.none(), st.sampled_from(["w1", "w2", "new", ""])), max_size=5)


@st.composite
def weighed(draw):
    words = draw(WORDS)
    missing = st.none() if words else st.just([])
    some = st.lists(NUMBERS, min_size=len(words), max_size=len(words))
    return words, draw(st.one_of(missing, some))


ROW = st.fixed_dictionaries(
    {
        "user_id": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 12)),
        "movie_id": st.one_of(st.none(), TEXT, st.sampled_from(["m1", "true", "TRUE", "12"])),
        "device": st.one_of(st.none(), TEXT),
        "emb": st.one_of(st.none(), st.lists(NUMBERS, min_size=3, max_size=3)),
        "seen": st.one_of(NUMBERS, st.floats(-2.3e9, 4.2e9), st.integers(-(10**9), 4 * 10**9)),
        "words": weighed(),
        "path": weighed(),
        "visits": weighed(),
        "title": st.one_of(st.none(), TEXT, st.sampled_from(["ÀÉ\u0130 ß-\u1e9e", "a  b_c"])),
    }
)


def frame(rows):
    """Rows as a DataFrame, those of `tables` in the columns that are not drawn."""
    df = kinds.rows(len(rows), seed=1)
    for name in ("user_id", "movie_id", "device", "emb", "title"):
        df[name] = pd.Series([row[name] for row in rows], dtype=object)
    df["user_id"] = df["user_id"].astype("Int64")
    df["seen"] = pd.Series([row["seen"] for row in rows], dtype="float64")
    df["words"], df["scores"] = (pd.Series([r["words"][i] for r in rows]) for i in (0, 1))
    df["visited"], df["stay"] = (pd.Series([r["visits"][i] for r in rows]) for i in (0, 1))
    paths = [row["path"] for row in rows]
    df["path"] = pd.Series([" ".join(word or "" for word in words) for words, _ in paths])
    # A text without a word is a cell of one empty value.
    df["path_scores"] = pd.Series([weights if words else None for words, weights in paths])
    return df


@pytest.fixture(scope="module")
def prep():
    return kinds.fitted()


@pytest.fixture(scope="module")
def look_up(prep):
    return tf.function(graph.GraphEncoder(prep), input_signature=[graph.signature(prep)])


def compare(prep, look_up, rows):
    expected, served = prep.arrays(rows, labels=False), look_up(tensors(prep, rows))
    assert set(served) == set(expected)
    for name, values in expected.items():
        if name == "plays":  # log1p differs in the last digit between NumPy and TensorFlow
            np.testing.assert_allclose(served[name], values, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(served[name], values, err_msg=name)
        assert served[name].dtype.name == values.dtype.name


@given(st.lists(ROW, min_size=1, max_size=8))
def test_served_look_ups_are_the_preprocessors(prep, look_up, rows):
    compare(prep, look_up, frame(rows))


def odd_rows(number, seed):
    """Rows like `ROW`'s, drawn faster."""
    draw = random.Random(seed)
    letters = "ab12 ,|_-.\u0130\u1e9e\u00c0\u4e2d\U0001f600\u0301\0\t\n"
    words = ["w1", "w2", "new", "", None]
    numbers = [None, 0.0, -0.0, 1e-320, 1e300, -1e300, float("nan"), float("inf"), -float("inf")]

    def text():
        return "".join(draw.choices(letters, k=draw.randrange(8)))

    def real():
        return draw.choice(numbers) if draw.random() < 0.3 else draw.gauss(0, 10)

    def weighed():
        own = draw.choices(words, k=draw.randrange(6))
        given = draw.random() < 0.8
        return own, [real() for _ in own] if given else None if own else []

    def one():
        return {
            "user_id": draw.choice([None, draw.randrange(-(2**63), 2**63), draw.randrange(13)]),
            "movie_id": draw.choice([None, text(), "m1", "true", "TRUE", "12"]),
            "device": draw.choice([None, text()]),
            "emb": draw.choice([None, [real() for _ in range(3)]]),
            "seen": draw.choice([real(), draw.uniform(-2.3e9, 4.2e9)]),
            "words": weighed(),
            "path": weighed(),
            "visits": weighed(),
            "title": draw.choice([None, text(), "\u00c0\u00c9\u0130 \u00df-\u1e9e", "a  b_c"]),
        }

    return [one() for _ in range(number)]


@pytest.mark.slow
def test_a_hundred_thousand_odd_rows_are_served_alike(prep, look_up):
    compare(prep, look_up, frame(odd_rows(100_000, seed=0)))


def test_rows_that_are_made_up_are_served_alike(prep, look_up):
    made = sample_rows(prep, 200, seed=3)
    compare(prep, look_up, made)
    typical = typical_rows(prep, 3)
    compare(prep, look_up, typical)
    assert made[["scores", "emb", "seen", "title"]].isna().any().all()
    assert not typical.isna().any(axis=None)


def test_what_a_request_has(prep):
    signature = graph.signature(prep)
    assert not {"where", "three"} & set(signature)
    found = {name: (one.dtype.name, one.shape.rank) for name, one in signature.items()}
    assert found["emb"] == ("float64", 2)
    assert found["seen"] == found["seen_ids"] == ("float64", 1)
    assert found["title"] == found["path"] == ("string", 1)
    assert found["stay"] == ("float64", 2)
    assert found["words_weights"] == found["path_weights"] == ("float64", 2)


def test_a_vector_of_another_size_is_refused(prep, look_up):
    asked = tensors(prep, kinds.rows(2))
    asked["emb"] = asked["emb"][:, :1]
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        look_up(asked)


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["flat", "tokens", "copies"])
def test_a_model_of_every_kind(prep, structure, tmp_path):
    """Fitted, saved, loaded, extracted, exported; the raw columns are permuted one by one."""
    made = {
        "flat": lambda: tfmoe.SharedBottom(hidden_units=(4,)),
        "tokens": lambda: tfmoe.ModSquad(num_experts=4, num_blocks=1, dim=8),
        "copies": lambda: tfmoe.STEM(num_task_experts=1, hidden_units=(4,)),
    }[structure]()
    more = (
        {"wide": True, "interactions": [tfmoe.FM(), tfmoe.Cross()]} if structure == "flat" else {}
    )
    model = tfmoe.MultiTaskModel(prep, made, tower_units=(4,), **more)
    model.compile("adam", jit_compile=False)
    rows = kinds.rows()
    before = [np.array(w) for w in model.trainable_weights]
    model.fit(*prep.arrays(rows), epochs=2, verbose=0)
    moved = [np.any(a != np.array(w)) for a, w in zip(before, model.trainable_weights, strict=True)]
    assert all(moved), [
        w.path for w, m in zip(model.trainable_weights, moved, strict=True) if not m
    ]
    model.save(tmp_path / "model.keras")
    again = tfmoe.load_model(tmp_path / "model.keras")
    expected = model.predict(rows, verbose=0)
    for task, values in again.predict(rows, verbose=0).items():
        np.testing.assert_array_equal(values, expected[task])
    one = rows.iloc[3].drop(["watch", "rating", "mood"]).to_dict()
    np.testing.assert_allclose(again.predict(one, verbose=0)["watch"], expected["watch"][3:4], 1e-5)
    small = tfmoe.extract(again, ["watch"])
    np.testing.assert_allclose(
        small.predict(rows, verbose=0)["watch"], expected["watch"], rtol=1e-5, atol=1e-6
    )
    tfmoe.export(small, tmp_path / "served")  # compares 256 rows with the model
    if structure == "flat":
        found = tfmoe.permutation_importance(small, rows, repeats=1)
        raw = {name for column in kinds.COLUMNS for name in column.raw_names}
        assert set(found["column"]) == raw


@pytest.mark.parametrize("dtype", ["int", "string"])
def test_a_column_of_which_no_value_was_frequent_is_served(dtype):
    cells = pd.array([1, 2, None] if dtype == "int" else ["a", "b", None], dtype=None)
    rows = pd.DataFrame({"c": cells, "l": [[value] for value in ("u", "v", "w")], "y": [0, 1, 0]})
    rare = {"min_count": 2}
    columns = [tfmoe.Categorical("c", dtype=dtype, **rare), tfmoe.MultiCategorical("l", **rare)]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, [tfmoe.Binary("y")]))
    prep.fit(rows, progress=False)
    expected = prep.arrays(rows, labels=False)
    served = graph.GraphEncoder(prep)(tensors(prep, rows))
    assert expected["c"].tolist() == [2, 2, 1]
    for name, values in expected.items():
        np.testing.assert_array_equal(served[name], values)
