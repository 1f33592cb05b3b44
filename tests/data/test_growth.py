"""Growing a Preprocessor: no id moves, and what it knows is what a fit on all rows knows."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmoe import (
    Binary,
    Categorical,
    Crossed,
    MultiCategorical,
    Numeric,
    Preprocessor,
    Pretrained,
    Regression,
    Schema,
    Sequence,
    Text,
    Timestamp,
    Vector,
)
from tfmoe.data.fit.growth import Growth

_VALUES = st.sampled_from(["a", "b", "c", "d", "e", None])
_PART = st.lists(
    st.tuples(_VALUES, st.lists(_VALUES, max_size=3), _VALUES, st.integers(-3, 9)),
    min_size=1,
    max_size=8,
)


def _frame(cells):
    names = ("item", "seen", "rare", "number")
    columns = zip(names, zip(*cells, strict=True), strict=True)
    frame = pd.DataFrame({name: pd.Series(list(own), dtype=object) for name, own in columns})
    frame["number"] = frame["number"].astype(float)
    return frame.assign(click=frame["number"] % 2)


def _schema(min_count=1, max_size=None):
    return Schema(
        [
            Categorical("item"),
            Sequence("seen", share="item", max_length=3),
            Categorical("rare", min_count=min_count, max_size=max_size),
            Numeric("number"),
            Categorical("hashed", source="rare", hash_buckets=7),
        ],
        [Binary("click")],
    )


def _fit(cells, **options):
    return Preprocessor(_schema(**options)).fit(_frame(cells), progress=False)


def _counts(prep):
    found = {}
    for owner, counts in prep._statistics.counts.items():
        table = counts.table()
        found[owner] = dict(zip(*(table[n].to_pylist() for n in ("value", "count")), strict=True))
    return found


def _same(one, other):
    assert one.table_sizes == other.table_sizes
    assert one.lengths == other.lengths
    assert one.dtypes == other.dtypes
    for name in ("item", "rare"):
        assert one.vocabulary(name).to_pylist() == other.vocabulary(name).to_pylist()
    assert _counts(one) == _counts(other)
    assert one._fitted.ancestors == other._fitted.ancestors
    for name, unseen in one._fitted.unseen.items():
        np.testing.assert_array_equal(unseen, other._fitted.unseen[name])


@given(parts=st.lists(_PART, min_size=2, max_size=4), min_count=st.integers(1, 3))
def test_ids_stay_and_growing_knows_what_a_fit_on_all_rows_knows(parts, min_count):
    prep = first = _fit(parts[0], min_count=min_count)
    for number, cells in enumerate(parts[1:], 1):
        before, prep = prep, prep.grow(_frame(cells), progress=False)
        for name in ("item", "rare"):
            old, new = before.vocabulary(name).to_pylist(), prep.vocabulary(name).to_pylist()
            assert new[: len(old)] == old
        for early in parts[:number]:
            rows = _frame(early)
            known, now = before.arrays(rows, labels=False), prep.arrays(rows, labels=False)
            for name, values in known.items():
                stay = values != 2  # what was unknown may be known now
                np.testing.assert_array_equal(values[stay], now[name][stay])
        assert prep.grown_from(before)
        assert prep.grown_from(first)
    whole = _fit([row for part in parts for row in part], min_count=min_count)
    assert prep.num_rows == whole.num_rows
    assert _counts(prep) == _counts(whole)
    for name in ("item", "rare"):
        assert {*prep.vocabulary(name).to_pylist()} == {*whole.vocabulary(name).to_pylist()}
    updated = first
    for cells in parts[1:]:
        updated = updated.grow(_frame(cells), moments="update", progress=False)
    assert updated.numeric["number"].mean == pytest.approx(whole.numeric["number"].mean)
    assert updated.numeric["number"].scale == pytest.approx(whole.numeric["number"].scale)
    assert updated.label_means["click"] == pytest.approx(whole.label_means["click"])
    assert prep.numeric["number"].mean == first.numeric["number"].mean


@given(cells=_PART, min_count=st.integers(1, 2))
def test_the_same_rows_again_change_nothing_but_counts(cells, min_count):
    prep = _fit(cells)
    again = prep.grow(_frame(cells), progress=False)
    for name in ("item", "rare"):
        assert again.vocabulary(name).equals(prep.vocabulary(name))
    doubled = {o: {v: 2 * c for v, c in own.items()} for o, own in _counts(prep).items()}
    assert _counts(again) == doubled
    assert again.growth["item"] == Growth(0, 0, 0, prep.table_sizes["item"])


@given(
    parts=st.lists(_PART, min_size=2, max_size=5),
    evict_after=st.integers(1, 2),
    max_size=st.sampled_from([None, 2, 3]),
)
def test_evicted_ids_are_free_for_new_values(tmp_path_factory, parts, evict_after, max_size):
    prep = _fit(parts[0], max_size=max_size)
    silent = {value: 0 for value in prep.vocabulary("rare").to_pylist()}
    for cells in parts[1:]:
        frame = _frame(cells)
        before = prep.vocabulary("rare").to_pylist()
        prep = prep.grow(frame, evict_after=evict_after, progress=False)
        # By hand: who was silent for so long loses the id, who is new takes the first free one.
        present = {*frame["rare"].dropna()}
        silent = {value: 0 if value in present else n + 1 for value, n in silent.items()}
        expected = [v if silent.get(v, evict_after) < evict_after else None for v in before]
        silent = {value: n for value, n in silent.items() if n < evict_after}
        now = prep.vocabulary("rare").to_pylist()
        assert [v for v in now if v is not None and v in silent] == [v for v in expected if v]
        for place, value in enumerate(expected):
            assert value is None or now[place] == value
        new = [value for value in now if value is not None and value not in silent]
        assert {*new} <= present
        if max_size is None:
            assert {*new} == present - {*silent}
        else:
            assert len(now) <= max_size
        holes = [place for place, value in enumerate(now) if value is None]
        assert not holes or len(now) == len(before)  # nothing is added while an id is free
        silent |= dict.fromkeys(new, 0)
        ids = prep.arrays(frame.assign(rare=pd.Series(frame["rare"])), labels=False)["rare"]
        for value, number in zip(frame["rare"], ids, strict=True):
            assert number == (1 if value is None else 3 + now.index(value) if value in now else 2)
    folder = tmp_path_factory.mktemp("grown") / "prep"
    prep.save(folder)
    loaded = Preprocessor.load(folder)
    _same(loaded, prep)
    frame = _frame(parts[0])
    _same(loaded.grow(frame, evict_after=1), prep.grow(frame, evict_after=1))


def test_a_value_is_admitted_by_all_its_counts_and_max_size_leaves_no_room():
    column = Categorical("a", min_count=3, max_size=2)
    schema = Schema([column], [Binary("click")])

    def rows(*values):
        return pd.DataFrame({"a": list(values), "click": 0})

    prep = Preprocessor(schema).fit(rows(*"xxxyz"))
    assert prep.vocabulary("a").to_pylist() == ["x"]
    prep = prep.grow(rows(*"yz"))
    assert prep.vocabulary("a").to_pylist() == ["x"]
    prep = prep.grow(rows(*"zzy"))
    assert prep.vocabulary("a").to_pylist() == ["x", "z"]  # z has 4, y has 3, and one id is left
    prep = prep.grow(rows(*"yyyzz"), evict_after=3)
    assert prep.vocabulary("a").to_pylist() == ["y", "z"]
    assert prep.growth["a"] == Growth(1, 1, 1, 5)
    # Who comes again counts from 0 on.
    prep = prep.grow(rows(*"xx"))
    assert prep.vocabulary("a").to_pylist() == ["y", "z"]
    free = Preprocessor(Schema([Categorical("a", min_count=3)], [Binary("click")]))
    free = free.fit(rows(*"xxxy")).grow(rows(*"yy"), evict_after=1)
    assert free.vocabulary("a").to_pylist() == ["y"]
    assert free.grow(rows(*"xx")).vocabulary("a").to_pylist() == ["y"]
    assert free.grow(rows(*"xxx")).vocabulary("a").to_pylist() == ["y", "x"]
    smaller = Schema([Categorical("a", min_count=3, max_size=1)], [Binary("click")])
    with pytest.raises(ValueError, match=r"has 2 ids, which stay.*Received max_size=1"):
        prep.grow(rows("x"), schema=smaller)


def test_integers_become_text_with_the_same_ids():
    schema = Schema([Categorical("a"), MultiCategorical("b", share="a")], [Binary("click")])
    first = pd.DataFrame({"a": [7, 8, 7], "b": [[7], [9], []], "click": 0})
    prep = Preprocessor(schema).fit(first)
    grown = prep.grow(pd.DataFrame({"a": ["x", "8"], "b": [["y"], []], "click": 0}))
    assert prep.dtypes["a"] == "int"
    assert grown.dtypes["a"] == "string"
    assert grown.vocabulary("a").to_pylist() == ["7", "8", "9", "x", "y"]
    for name, values in prep.arrays(first, labels=False).items():
        np.testing.assert_array_equal(values, grown.arrays(first, labels=False)[name])


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("buckets", [None, 9])
def test_a_column_holds_what_it_held_whatever_comes_later(tmp_path, state, buckets):
    """For a served model asks for it: only text in a column of integers makes it one of text."""
    schema = Schema(
        [Categorical("a", hash_buckets=buckets), MultiCategorical("b", share="a", max_length=2)],
        [Binary("click")],
    )

    def rows(*cells):
        return pd.DataFrame({"a": list(cells), "b": [[], []], "click": [0, 1]})

    cells = {"text": ("a1", "b2"), "digits": (5, 7), "nothing": (None, None)}
    for first, later, expected in (
        ("text", "digits", "string"),
        ("text", "nothing", "string"),
        ("digits", "nothing", "int"),
        ("digits", "digits", "int"),
        ("digits", "text", "string"),
    ):
        folder = tmp_path / f"{first} {later}"
        Preprocessor(schema).fit(rows(*cells[first])).save(folder, state=state)
        grown = Preprocessor.load(folder).grow(rows(*cells[later]))
        assert grown.dtypes == {"a": expected, "b": expected}, (first, later)


def test_what_was_never_fitted_holds_what_comes():
    prep = Preprocessor(Schema([Categorical("a", hash_buckets=9)], [Binary("click")]))
    assert prep.grow(pd.DataFrame({"a": [5, 7], "click": 0})).dtypes == {"a": "int"}


def test_values_that_are_too_rare_for_an_id_are_text_all_the_same(tmp_path):
    prep = Preprocessor(Schema([Categorical("a", min_count=2)], [Binary("click")]))
    prep.fit(pd.DataFrame({"a": ["x", "y"], "click": 0})).save(tmp_path / "p", state=False)
    grown = Preprocessor.load(tmp_path / "p").grow(pd.DataFrame({"a": [7, 7], "click": 0}))
    assert grown.dtypes == {"a": "string"}
    assert grown.vocabulary("a").to_pylist() == ["7"]


def test_without_counts_a_source_counts_alone(tmp_path):
    schema = Schema([Categorical("a", min_count=2), Numeric("n")], [Binary("click")])
    first = pd.DataFrame({"a": list("xxy"), "n": [1.0, 2.0, 3.0], "click": 0})
    prep = Preprocessor(schema).fit(first)
    prep.save(tmp_path / "p", state=False)
    loaded = Preprocessor.load(tmp_path / "p")
    later = pd.DataFrame({"a": list("yzz"), "n": 0.0, "click": 0})
    assert prep.grow(later).vocabulary("a").to_pylist() == ["x", "y", "z"]
    grown = loaded.grow(later)
    assert grown.vocabulary("a").to_pylist() == ["x", "z"]
    assert grown.numeric["n"].mean == prep.numeric["n"].mean == 2
    assert grown.grown_from(prep)
    with pytest.raises(ValueError, match='Received moments="update" for a Preprocessor without'):
        loaded.grow(later, moments="update")
    grown.save(tmp_path / "q")
    assert Preprocessor.load(tmp_path / "q").vocabulary("a").equals(grown.vocabulary("a"))


def test_every_kind_of_column_grows_or_says_that_it_stays(tmp_path):
    vectors = {"p": [1.0, 0.0], "q": [0.0, 1.0]}
    schema = Schema(
        [
            Pretrained("made", vectors=vectors),
            Vector("v"),
            Timestamp("t", parts=("hour", "age"), time_zone="Europe/Rome"),
            Text("words", hash_buckets=50),
            Categorical("a"),
            Categorical("b", hash_buckets=9),
            Crossed("ab", columns=("a", "b"), hash_buckets=9),
            Numeric("n", transform="buckets", num_buckets=3),
            MultiCategorical("tags"),
        ],
        [Binary("click"), Regression("rating")],
    )

    def rows(num, shift):
        return pd.DataFrame(
            {
                "made": ["p", "r" if shift < 2 else "q"] * num,
                "v": [[1.0 + shift, 2.0]] * (2 * num),
                "t": np.arange(2 * num) * 1e6 + shift * 1e8,
                "words": ["good film", "bad"] * num,
                "a": [f"a{shift}", "a"] * num,
                "b": [f"b{shift}", "b"] * num,
                "n": np.arange(2.0 * num) + 3 * shift,
                "tags": [["x", f"x{shift}"], ["y"] * (1 + shift)] * num,
                "click": [0, 1] * num,
                "rating": np.arange(2.0 * num) + shift,
            }
        )

    with pytest.warns(UserWarning, match="without a vector"):
        prep = Preprocessor(schema).fit(rows(3, 0))
    grown = prep.grow(rows(3, 1), vectors={"made": {"r": [2.0, 2.0], "p": [9.0, 9.0]}})
    old, now = (one.arrays(rows(3, 0), labels=False) for one in (prep, grown))
    assert now.pop("made").tolist() == [3, 5] * 3
    assert old.pop("made").tolist() == [3, 2] * 3
    for name, values in old.items():
        np.testing.assert_array_equal(values, now[name])
    assert grown.fits["made"].vectors.tolist() == [[1, 0], [0, 1], [2, 2]]
    assert grown.table_sizes["a"] == prep.table_sizes["a"] + 1
    assert grown.table_sizes["made"] == prep.table_sizes["made"] + 1
    assert grown.label_moments == prep.label_moments
    updated = prep.grow(rows(3, 1), moments="update", vectors={"made": {"r": [2.0, 2.0]}})
    assert updated.fits["t"].mean > prep.fits["t"].mean
    assert updated.fits["t"].offsets is prep.fits["t"].offsets
    assert updated.fits["v"].mean.tolist() == [1.5, 2.0]
    assert updated.numeric["n"].boundaries.tolist() != prep.numeric["n"].boundaries.tolist()
    assert updated.label_moments == prep.label_moments
    assert updated.lengths == prep.lengths
    updated.save(tmp_path / "p")
    loaded = Preprocessor.load(tmp_path / "p")
    for name, values in updated.arrays(rows(2, 1), labels=False).items():
        np.testing.assert_array_equal(values, loaded.arrays(rows(2, 1), labels=False)[name])
    again = loaded.grow(rows(1, 2), moments="update")
    assert again.growth["a"].added == 1
    for more, message in (
        ({"made": {"z": [1.0]}}, "Received vectors of 1 numbers by text"),
        ({"a": vectors}, r"of \['made'\]. Received vectors of \['a'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            prep.grow(rows(1, 2), vectors=more)


def test_columns_come_and_change_their_names():
    old = Schema([Categorical("a"), Sequence("s", share="a"), Numeric("n")], [Binary("click")])
    first = pd.DataFrame({"a": list("xyx"), "s": [["x"], [], ["z"]], "n": [0.0, 1, 2], "click": 0})
    prep = Preprocessor(old).fit(first)
    columns = [
        Numeric("new", transform="buckets"),
        Categorical("item", source="a"),
        Sequence("s", share="item"),
        Numeric("n"),
        Categorical("more"),
    ]
    later = first.assign(new=[5.0, 6.0, 7.0], more=list("ppq"), a=list("xxw"))
    wider = Schema(columns, old.tasks)
    grown = prep.grow(later, schema=wider, renamed={"a": "item"})
    assert grown.vocabulary("item").to_pylist() == ["x", "y", "z", "w"]
    assert grown.vocabulary("more").to_pylist() == ["p", "q"]
    rows = later.assign(a=list("xyx"))
    before, now = (one.arrays(rows, labels=False) for one in (prep, grown))
    for name, values in before.items():
        np.testing.assert_array_equal(values, now["item" if name == "a" else name])
    assert "more" not in grown.growth
    assert grown.grow(later).growth["item"].added == 0
    for schema, renamed, message in (
        (wider, None, r"without \['a'\]"),
        (wider, {"b": "item"}, r"there are not: \['b'\]"),
        (Schema([Categorical("a", dim=3), *old.columns[1:]], old.tasks), None, "Received .*dim=3"),
        (Schema(old.columns, [Binary("buy")]), None, "MultiTaskModel.add_task"),
        (Schema(old.columns, old.tasks, scenario="a"), None, "scenario='a' in place of None"),
    ):
        with pytest.raises(ValueError, match=message):
            prep.grow(later, schema=schema, renamed=renamed)


def test_a_task_comes_by_add_task_only():
    schema = Schema(
        [Categorical("a")],
        [Binary("de", source="click"), Binary("fr", source="click")],
        task_column="market",
    )
    rows = pd.DataFrame({"a": list("xyx"), "market": ["de", "fr", "de"], "click": [0, 1, 0]})
    prep = Preprocessor(schema).fit(rows)
    assert prep.grow(rows.assign(a="z")).growth["a"].added == 1
    with pytest.raises(ValueError, match=r"Received market='us'.*add_task"):
        prep.grow(rows.assign(market="us"))


def test_what_is_asked_for_wrongly_is_told():
    prep = Preprocessor(Schema([Categorical("a")], [Binary("click")]))
    rows = pd.DataFrame({"a": ["x"], "click": 0})
    with pytest.raises(ValueError, match="must be fitted before use"):
        prep.grow(rows)
    prep.fit(rows)
    with pytest.raises(ValueError, match="Received moments='other'"):
        prep.grow(rows, moments="other")
    with pytest.raises(ValueError, match="Received evict_after=0"):
        prep.grow(rows, evict_after=0)
    with pytest.raises(ValueError, match="rows"):
        prep.grow(rows[:0])
    assert not prep.grown_from(Preprocessor(prep.schema).fit(rows.assign(a="y")))


def test_only_a_grown_one_is_written_in_another_format(tmp_path):
    prep = Preprocessor(Schema([Categorical("a")], [Binary("click")]))
    prep.fit(pd.DataFrame({"a": ["x"], "click": 0})).save(tmp_path / "fitted")
    prep.grow(pd.DataFrame({"a": ["y"], "click": 0})).save(tmp_path / "grown")
    formats = [
        json.loads((tmp_path / name / "preprocessor.json").read_text())["format"]
        for name in ("fitted", "grown")
    ]
    assert formats == [1, 2]


def test_truth_values_keep_their_ids_when_other_values_come(tmp_path):
    """However they are spelled, then and now, and after it was saved."""
    schema = Schema([Categorical("m")], [Binary("click")])

    def rows(*cells):
        return pd.DataFrame({"m": list(cells), "click": 0.0})

    first, later = rows("true", "true", "true", "false", "false"), rows("true", "maybe", "true")
    prep = Preprocessor(schema).fit(first, progress=False)
    grown = prep.grow(later)
    assert grown.vocabulary("m").to_pylist() == ["True", "False", "maybe"]
    grown.save(tmp_path / "grown")
    spelled = rows("true", "True", "TRUE", "false", "maybe", "no")
    for one in (grown, Preprocessor.load(tmp_path / "grown"), grown.grow(rows("no", "FALSE"))):
        ids = one.arrays(spelled, labels=False)["m"].tolist()
        assert ids[:5] == [3, 3, 3, 4, 5]
    assert grown.growth["m"] == Growth(1, 0, 0, 6)
    # The same is counted however often it is seen, and in whatever order.
    assert prep.grow(rows("FALSE", "true"), evict_after=1).vocabulary("m").null_count == 0


def test_parts_with_truth_values_merge_as_if_they_were_one(tmp_path):
    """That a part has nothing else says nothing of the others."""
    schema = Schema([Categorical("m")], [Binary("click")])
    cells = ["true", "true", "true", "false", "false"], ["true", "true", "maybe"]
    frames = [pd.DataFrame({"m": own, "click": 0.0}) for own in cells]
    whole = Preprocessor(schema).fit(pd.concat(frames), progress=False)
    parts = [Preprocessor(schema).fit(own, progress=False) for own in frames]
    parts[0].save(tmp_path / "part")
    for one in (parts[0], Preprocessor.load(tmp_path / "part")):
        assert one.vocabulary("m").to_pylist() == ["True", "False"]
        merged = one.merge(parts[1])
        assert merged.vocabulary("m").to_pylist() == whole.vocabulary("m").to_pylist()
    assert whole.vocabulary("m").to_pylist() == ["true", "false", "maybe"]


def test_nothing_is_left_of_a_column_that_is_gone(tmp_path):
    """So a saved one is the same fit, and a training goes on with it."""
    cells = [("a", ["b"], "c", 1), ("b", ["a", "c"], "d", 2)]
    prep = _fit(cells).without("rare").grow(_frame(cells).drop(columns="number").assign(number=3.0))
    one = prep.without("number")
    one.save(tmp_path / "one", state=False)
    loaded = Preprocessor.load(tmp_path / "one")
    assert loaded.digest() == one.digest()
    frame = _frame(cells)
    for name, values in one.arrays(frame)[0].items():
        np.testing.assert_array_equal(loaded.arrays(frame)[0][name], values)


def test_without_a_column_the_others_counts_stay(tmp_path):
    """Who was seen before is admitted by all counts, and moments are of all rows."""
    first, later = (
        pd.DataFrame({"a": list(cells), "b": list("xyz"), "n": [start, 1, 2], "click": [0, 1, 0]})
        for cells, start in (("uuv", 0.0), ("vuu", 3.0))
    )
    column, number = Categorical("a", min_count=2), Numeric("n", transform="buckets")
    vectors = Pretrained("made", source="a", vectors={"u": [1.0, 2.0], "v": [3.0, 4.0]})
    schema = Schema([column, Categorical("b"), number, vectors], [Binary("click")])
    prep = Preprocessor(schema).fit(first, progress=False).without("b")
    fewer = Preprocessor(schema.without("b")).fit(first, progress=False)
    prep.save(tmp_path / "p")
    expected = fewer.grow(later, moments="update", progress=False)
    for one in (prep, Preprocessor.load(tmp_path / "p")):
        grown = one.grow(later, moments="update", progress=False)
        assert grown.vocabulary("a").to_pylist() == ["u", "v"]
        assert grown.digest() == expected.digest()
        assert grown.growth == expected.growth
    assert prep.merge(fewer).digest() == fewer.merge(prep).digest()
    assert grown.without("made").growth == {"a": Growth(1, 0, 0, 5)}
