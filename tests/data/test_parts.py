"""Parts of a table that are fitted apart, saved and merged: what is known, and told, of all."""

import warnings
from functools import reduce

import pandas as pd
import pytest

from tfmoe.data.fit.counts import Counts
from tfmoe.data.fit.fitted import notices
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression

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
