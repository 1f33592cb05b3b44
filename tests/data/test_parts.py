"""Parts of a table that are fitted apart, saved and merged: what is known, and told, of all."""

import warnings
from functools import reduce

import numpy as np
import pandas as pd
import pytest

from tfmoe.data.fit.counts import Counts
from tfmoe.data.fit.fitted import notices
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression

# Texts for missing numbers and labels, labels that contradict others, a misspelled `where_value`.
SCHEMA = Schema(
    [Numeric("x"), Numeric("again", source="x"), Categorical("c")],
    [
        Binary("y"),
        Binary("buy", given="y"),
        Regression("paid"),
        Binary("z", where="part", where_value="x"),
    ],
)
ROWS = pd.DataFrame(
    {
        "x": ["1", "NA", "3", "NULL", "NA"] * 3,
        "c": list("abcde") * 3,
        "y": [0, 1, 0, 1, 1] * 3,
        "buy": [1, 0, 0, 1, 1] * 3,
        "paid": ["2.5", "n/a", "1", "1", "2"] * 3,
        "z": [0, 1, 1, 0, 1] * 3,
        "part": ["X", "Y", "X"] * 5,
    }
)


def quietly(act):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act()


def fitted(rows, schema=SCHEMA):
    return quietly(lambda: Preprocessor(schema).fit(rows, progress=False))


def told(prep):
    return notices(prep._ready(), prep._counted())


def through_a_file(prep, path):
    prep.save(path)
    return Preprocessor.load(path)


@pytest.mark.parametrize("saved", [False, True])
def test_what_is_told_of_parts_is_what_is_told_of_the_whole(tmp_path, saved):
    whole = told(fitted(ROWS))
    assert len(whole) == 3
    assert "9 of 'x' ('NA', 'NULL'), 3 of 'paid' ('n/a')" in whole[0]
    parts = [fitted(part) for part in (ROWS[:4], ROWS[4:9], ROWS[9:])]
    if saved:
        parts = [through_a_file(part, tmp_path / str(n)) for n, part in enumerate(parts)]
    before = [told(part) for part in parts]
    assert told(reduce(Preprocessor.merge, parts)) == whole
    assert [told(part) for part in parts] == before


def test_what_is_told_follows_columns_and_tasks():
    """Of those that are gone nothing is told, and a column is called as it is now."""
    prep = fitted(ROWS)
    fewer = told(prep.select(["y", "paid"]))
    assert len(fewer) == 1
    assert "3 of 'paid'" in fewer[0]
    wider = Schema([Numeric("n", source="m"), *SCHEMA.columns[1:]], SCHEMA.tasks)
    later = ROWS.assign(m=["7", "-", "8"] * 5)
    grown = quietly(lambda: prep.grow(later, schema=wider, renamed={"x": "n"}, progress=False))
    assert grown._counted().markers["m", "n"] == {"NA": 6, "NULL": 3, "-": 5}
    assert grown._counted().markers["x", "again"] == {"NA": 12, "NULL": 6}
    assert grown._counted().conditional == {"z": 30}
    assert grown._counted().contradictions["buy"] == 6


def test_many_parts_are_summed_up_as_seldom_as_one(monkeypatch):
    """Not anew with each part: that would take as long as their number squared."""
    summed = []

    def counted(self, own=Counts._sum_up):
        if self._buffered:
            summed.append(sum(map(len, self._parts)))
        own(self)

    monkeypatch.setattr("tfmoe.data.fit.counts._BUFFER", 50)
    monkeypatch.setattr(Counts, "_sum_up", counted)
    schema = Schema([Categorical("c")], [Binary("y")])
    # One part has text, of which the others had integers, and all have some values.
    cells = [[number * 20 + n for n in range(20)] + [0, 1] for number in range(40)]
    cells[5] = [f"x{cell}" for cell in cells[5]]
    frames = [pd.DataFrame({"c": own, "y": 0}) for own in cells]
    counts = [fitted(frame, schema)._counted() for frame in frames]
    before = [one.counts["c"].table() for one in counts]
    summed.clear()
    merged = reduce(type(counts[0]).merge, counts)
    assert sum(summed) < 4 * sum(map(len, before))
    assert merged.dtypes == {"c": "string"}
    assert merged.counts["c"].vocabulary().equals(fitted(frames, schema).vocabulary("c"))
    assert [one.counts["c"].table() for one in counts] == before


@pytest.mark.filterwarnings("ignore:.*max_distinct")
def test_merged_counts_keep_to_the_most_distinct_values():
    frames = [pd.DataFrame({"c": list(text), "y": 0}) for text in ("aaabbc", "aaddef", "ghijk")]
    parts = [Preprocessor(Schema([Categorical("c")], [Binary("y")]), 2) for _ in frames]
    fits = [part.fit(frame, progress=False) for part, frame in zip(parts, frames, strict=True)]
    merged = reduce(Preprocessor.merge, fits)
    assert merged.vocabulary("c").to_pylist() == ["a", "b"]


def with_later_tasks(rows, **given):
    """A fit without two tasks, which are added then."""
    first = Schema([Numeric("x")], [Binary("y")])
    prep = fitted(rows, first).add_task(Regression("paid"), rows, **given)
    return prep.add_task(Multiclass("kind", num_classes=3), rows)


@pytest.mark.parametrize("saved", [False, True])
def test_labels_of_added_tasks_are_counted_as_others(tmp_path, saved):
    rows = pd.DataFrame(
        {"x": 0.0, "y": [0, 1] * 5, "paid": np.arange(10.0), "kind": [0, 1, 2, 1, 0] * 2}
    )
    parts = [with_later_tasks(part) for part in (rows[:3], rows[3:])]
    if saved:
        parts = [through_a_file(part, tmp_path / str(n)) for n, part in enumerate(parts)]
    schema = parts[0].schema
    whole = fitted(rows, schema)
    merged = parts[0].merge(parts[1])
    grown = parts[0].grow(rows[3:], moments="update", progress=False)
    for prep in (merged, grown):
        assert prep.label_means["paid"] == pytest.approx(whole.label_means["paid"])
        np.testing.assert_allclose(prep.label_means["kind"], whole.label_means["kind"])
    assert merged.label_moments["paid"] == pytest.approx(whole.label_moments["paid"])
    # The units in which a model has learned stay.
    assert grown.label_moments == parts[0].label_moments
    # Rows without these labels say nothing of them.
    old = rows[3:].drop(columns=["paid", "kind"])
    for moments in ("update", "frozen"):
        grown = parts[0].grow(old, moments=moments, progress=False)
        np.testing.assert_equal(grown.label_means["paid"], parts[0].label_means["paid"])
        np.testing.assert_equal(grown.label_means["kind"], parts[0].label_means["kind"])
        assert grown.label_moments == parts[0].label_moments


def test_moments_that_were_given_stay():
    rows = pd.DataFrame({"x": 0.0, "y": [0, 1], "paid": [3.0, 5.0]})
    given = {"mean": 100.0, "std": 10.0}
    prep = fitted(rows, Schema([Numeric("x")], [Binary("y")]))
    without_rows = prep.add_task(Regression("paid"), **given)
    beside_rows = prep.add_task(Regression("paid"), rows, **given)
    for one, mean in ((without_rows, 100), (beside_rows, 4)):
        later = rows.drop(columns="paid")
        for other in (one.merge(one), one.grow(later, moments="update", progress=False)):
            assert other.label_moments == {"paid": (100, 10)}
            assert other.label_means["paid"] == mean
    # What was counted counts, where parts differ in what was given.
    merged = without_rows.merge(prep.add_task(Regression("paid"), rows))
    assert merged.label_moments == {"paid": (4, 1)}
    assert merged.label_means["paid"] == 4
