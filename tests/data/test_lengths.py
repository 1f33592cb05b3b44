"""List columns of which the schema says no length: bounded, and told."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmoe.data.fit.lengths import Lengths
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import MultiCategorical, Sequence
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary


def _bound(lengths):
    seen = Lengths()
    seen.add(np.array(lengths))
    return seen.bound()


@pytest.mark.parametrize(
    ("lengths", "bound"),
    [
        ([], 0),
        ([3, 0, 64], 64),
        ([100], 100),
        ([2] * 9_999 + [50_000], 64),  # one in 10,000
        ([100] * 9_999 + [50_000], 100),
        ([1] * 99 + [128], 128),  # less than half would be saved
        ([2] * 499 + [2_000_000], 64_032),  # 16 times the mean
        ([300] * 999 + [301], 301),
        (list(range(1000)), 999),
    ],
)
def test_bounds(lengths, bound):
    assert _bound(lengths) == bound


_cells = st.lists(
    st.one_of(st.integers(0, 5), st.integers(0, 500), st.integers(0, 10**7)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=2 * settings.default.max_examples)
@given(_cells, st.data())
def test_bounds_save_room_and_merge(lengths, data):
    bound, longest = _bound(lengths), max(lengths)
    assert bound <= longest
    assert bound >= min(longest, 64)
    # Padded rows take a bounded multiple of what the values take.
    assert bound * len(lengths) <= max(128 * len(lengths), 32 * sum(lengths) + 2 * len(lengths))
    cut = data.draw(st.integers(0, len(lengths)))
    parts = [Lengths(), Lengths()]
    for part, some in zip(parts, (lengths[:cut], lengths[cut:]), strict=True):
        part.add(np.array(some, np.int64))
    assert parts[0].merge(parts[1]).bound() == parts[1].merge(parts[0]).bound() == bound


@pytest.mark.parametrize(
    ("column", "kept"),
    [(MultiCategorical("a"), [0, 63]), (Sequence("a", max_length=None), [4936, 4999])],
)
def test_long_cells_are_cut_and_told(tmp_path, column, kept):
    rows = pd.DataFrame({"a": [[i for i in range(5000)]] + [[1, 2]] * 2999, "y": [0, 1] * 1500})
    schema = Schema([column], [Binary("y")])
    told = r"1 of 3,000 cells of list column 'a' are longer than 64 values.*max_length=5000 keeps"
    with pytest.warns(UserWarning, match=told):
        prep = Preprocessor(schema).fit(rows, progress=False)
    ids = prep.arrays(rows)[0]["a"]
    assert ids.shape == (3000, 64)
    values = prep.vocabulary("a").take(ids[0, [0, -1]] - 3).to_pylist()
    assert values == kept
    whole = Schema([MultiCategorical("a", max_length=5000)], [Binary("y")])
    assert Preprocessor(whole).fit(rows, progress=False).lengths == {"a": 5000}
    # In parts, one of them saved and loaded, it is the same.
    with pytest.warns(UserWarning, match="1 of 1,000"):
        first = Preprocessor(schema).fit(rows[:1000], progress=False)
    first.save(tmp_path / "p")
    other = Preprocessor(schema).fit(rows[1000:], progress=False)
    assert Preprocessor.load(tmp_path / "p").merge(other).lengths == prep.lengths


def test_what_was_saved_before_keeps_its_length(tmp_path):
    """Older files say how long the longest cell was, and nothing else."""
    import json

    rows = pd.DataFrame({"a": [["x"] * 900] + [["x"]] * 1999, "y": [0, 1] * 1000})
    schema = Schema([MultiCategorical("a")], [Binary("y")])
    with pytest.warns(UserWarning, match="cells of list column"):
        prep = Preprocessor(schema).fit(rows, progress=False)
    prep.save(tmp_path / "p")
    file = tmp_path / "p" / "preprocessor.json"
    document = json.loads(file.read_text())
    del document["statistics"]["cell_lengths"]
    document["lengths"]["a"] = 900
    file.write_text(json.dumps(document))
    old = Preprocessor.load(tmp_path / "p")
    assert old.lengths == old.merge(old).lengths == {"a": 900}
    assert old.merge(prep).lengths == {"a": 900}
