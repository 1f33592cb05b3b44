"""Sequences that share their positions: equal places of a row belong together."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmoe
from tfmoe.data.encode import graph
from tfmoe.serving.export import tensors

VALUES = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "new"]))
LENGTH = 3


@st.composite
def rows_of_cells(draw):
    """Rows of three cells: equally long lists, of which each may be missing as a whole."""
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(0, 6))
        cells = [draw(st.lists(VALUES, min_size=length, max_size=length)) for _ in range(3)]
        rows.append([None if draw(st.integers(0, 5)) == 0 else cell for cell in cells])
    return rows


def schema():
    return tfmoe.Schema(
        [
            tfmoe.Sequence("kinds", aligned_with="seen", share="seen"),
            tfmoe.Sequence("seen", max_length=LENGTH, dtype="string"),
            tfmoe.Sequence("words", aligned_with="seen", separator=" ", hash_buckets=50),
        ],
        [tfmoe.Binary("click")],
    )


def frame(rows):
    df = pd.DataFrame(index=range(len(rows)))
    for place, name in enumerate(("seen", "kinds")):
        df[name] = pd.Series([row[place] for row in rows], dtype=object)
    words = [None if row[2] is None else " ".join(w or "" for w in row[2]) for row in rows]
    df["words"] = pd.Series(words, dtype=object)
    return df


@pytest.fixture(scope="module")
def prep():
    rows = [[["a", "b"], ["b", "c"], ["a", "b"]]]
    return tfmoe.Preprocessor(schema()).fit(frame(rows).assign(click=1.0), progress=False)


@pytest.fixture(scope="module")
def look_up(prep):
    return tf.function(graph.GraphEncoder(prep), input_signature=[graph.signature(prep)])


def cut(cells):
    """By a loop: for each of a row's cells, which elements stand where."""
    present = [
        place for cell in cells for place, value in enumerate(cell or []) if value not in (None, "")
    ]
    end = 1 + max(present, default=-1)
    first = max(end - LENGTH, 0)
    kept = []
    for cell in cells:
        values = [*(cell or []), *[None] * LENGTH][first:end]
        kept.append([*values, *[None] * LENGTH][:LENGTH])
    return kept


@pytest.mark.slow
@settings(max_examples=3 * settings.default.max_examples)
@given(rows_of_cells())
def test_places_stay_together_in_training_and_served(prep, look_up, rows):
    df = frame(rows)
    found = prep.arrays(df, labels=False)
    served = look_up(tensors(prep, df))
    vocabulary = prep.vocabulary("seen").to_pylist()
    for index, row in enumerate(rows):
        cells = [row[0], row[1], row[2] and [word or "" for word in row[2]]]
        kept = cut(cells)
        nothing = all(value in (None, "") for cell in kept for value in cell)
        for name, values in zip(("seen", "kinds"), kept, strict=False):
            ids = [
                0 if value is None else 3 + vocabulary.index(value) if value in vocabulary else 2
                for value in values
            ]
            assert found[name][index].tolist() == ([1, 0, 0] if nothing else ids)
        hashed = [value not in (None, "") for value in kept[2]]
        present = (found["words"][index] > 1).tolist()
        assert present == hashed
    for name, ids in found.items():
        np.testing.assert_array_equal(served[name], ids, err_msg=name)


def test_cells_of_unlike_length_are_told_with_their_row(prep):
    rows = [[["a"], ["b"], None], [["a", "b"], ["b"], None]]
    with pytest.raises(ValueError, match=r"2 values of 'seen' and 1 of 'kinds'.*row 1"):
        prep.arrays(frame(rows), labels=False)


def test_a_length_that_is_not_told_is_that_of_the_first():
    columns = [
        tfmoe.Sequence("seen", max_length=None),
        tfmoe.Sequence("kinds", aligned_with="seen"),
    ]
    df = pd.DataFrame({"seen": [["a", "b", "c"], ["a"]], "kinds": [None, ["k"]], "click": [1, 0]})
    schema = tfmoe.Schema(columns, [tfmoe.Binary("click")])
    assert schema.column("kinds").max_length is None
    prep = tfmoe.Preprocessor(schema).fit(df, progress=False)
    assert prep.lengths == {"seen": 3, "kinds": 3}
    assert tfmoe.Schema.from_json(schema.to_json()) == schema
