"""How text files are written: quotes, delimiters, encodings, and samples of long files."""

import gzip
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.csv import CsvFragment
from tfmoe.data.read.options import TextOptions, split_options
from tfmoe.data.read.source import open_source
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary


def _texts(source, *names):
    """Columns of a source as lists of text."""
    fragments = open_source(source).fragments()
    chunks = [c for f in fragments for c in f.read(dict.fromkeys(names, "text"))]
    found = [[cell for chunk in chunks for cell in chunk[name].to_pylist()] for name in names]
    return found if len(names) > 1 else found[0]


def _rows_with_quotes(delimiter, at=(10, 60), quote='"'):
    titles = [f"{quote}Hit" if i in at else "song" for i in range(100)]
    lines = [f"{i}{delimiter}{title}{delimiter}{i % 2}" for i, title in enumerate(titles)]
    return "\n".join([delimiter.join(["item", "title", "click"]), *lines, ""])


@pytest.mark.parametrize("zipped", [False, True])
def test_quotes_in_tsv_files_are_characters_unless_they_enclose_cells(tmp_path, zipped):
    text = _rows_with_quotes("\t")
    path = tmp_path / ("t.tsv.gz" if zipped else "t.tsv")
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    items, titles = _texts(path, "item", "title")
    assert items == [str(i) for i in range(100)]
    assert titles.count('"Hit') == 2


@pytest.mark.parametrize("quoting", [0, 1, 2])
def test_tsv_files_of_pandas_are_read_as_they_were(tmp_path, quoting):
    cells = [
        "a",
        'say "hi"',
        '"',
        "tab\there",
        "two\nlines",
        "",
        '""',
        "é",
        '"enclosed"',
        "x" * 300,
    ]
    df = pd.DataFrame({"n": range(10), 'the "name"': cells})
    for part in (df, df.drop(index=[3, 4])):
        part.to_csv(tmp_path / "t.tsv", sep="\t", index=False, quoting=quoting)
        got = _texts(tmp_path / "t.tsv", 'the "name"')
        assert [cell or "" for cell in got] == part['the "name"'].tolist()


@settings(max_examples=2 * settings.default.max_examples)
@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from('ab" \n'), max_size=8),
            st.text(st.sampled_from('x"\t'), max_size=3),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_quoted_tsv_round_trip(tmp_path_factory, rows):
    df = pd.DataFrame(rows, columns=["a", "b"])
    path = tmp_path_factory.mktemp("t") / "t.tsv"
    df.to_csv(path, sep="\t", index=False, quoting=1)
    assert [[cell or "" for cell in column] for column in _texts(path, "a", "b")] == [
        df["a"].tolist(),
        df["b"].tolist(),
    ]


def test_swallowed_rows_of_a_csv_file_are_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(_rows_with_quotes(","))
    schema = Schema([Categorical("item")], [Binary("click")])
    with pytest.warns(
        UserWarning,
        match=r"1 cells of .*t.csv run over lines.*51 lines.*'title'.*'.*t.csv\?quoting=no'",
    ):
        prep = Preprocessor(schema).fit(path, progress=False)
    assert prep.num_rows < 100
    assert Preprocessor(schema).fit(f"{path}?quoting=no", progress=False).num_rows == 100
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Schema.infer(path, "click")
    assert any("run over lines that look like rows" in str(one.message) for one in told)
    # What lies in quotes for good is no matter.
    notes = pd.DataFrame({"item": range(30), "title": ["dear,\nall\nof you,"] * 30, "click": 1})
    notes.to_csv(path, index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Preprocessor(schema).fit(path, progress=False).num_rows == 30


def test_an_open_quote_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(_rows_with_quotes(",", at=(10,)))
    schema = Schema([Categorical("item")], [Binary("click")])
    with pytest.raises(ValueError, match=r"(?s)t.csv.*'.*t.csv\?quoting=no'"):
        Preprocessor(schema).fit(path, progress=False)


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "utf-8-sig", "shift_jis"]
)
def test_encodings_may_be_named(tmp_path, encoding):
    city = "\u6771\u4eac" if encoding == "shift_jis" else "Zürich"
    df = pd.DataFrame({"a": [city, "Bern"] * 20, "n": range(40), "y": [0, 1] * 20})
    df.to_csv(tmp_path / "t.csv", index=False, encoding=encoding)
    source = f"{tmp_path / 't.csv'}?encoding={encoding}"
    assert _texts(source, "a") == df["a"].tolist()
    prep = Preprocessor(Schema([Categorical("a"), Numeric("n")], [Binary("y")])).fit(source)
    assert sorted(prep.vocabulary("a").to_pylist()) == sorted({city, "Bern"})


@pytest.mark.parametrize("column", [Categorical("a"), Categorical("n")])
def test_another_encoding_is_an_error_that_says_what_to_do(tmp_path, column):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,n,y\nBern,1,1\n" + "Zürich,7,0\n".encode("latin-1") * 20)
    schema = Schema([column], [Binary("y")])
    if column.name == "n":  # what is not read is not looked at
        assert Preprocessor(schema).fit(path, progress=False).num_rows == 21
        return
    with pytest.raises(
        ValueError, match=r"row 1 \(from 0\), column 'a', b'Z\\xfcrich'.*t.csv\?encoding=latin-1'"
    ):
        Preprocessor(schema).fit(path, progress=False)
    with pytest.raises(ValueError, match=r"t.csv\?encoding=latin-1'"):
        Schema.infer(path, "y")
    assert Preprocessor(schema).fit(f"{path}?encoding=latin-1", progress=False).num_rows == 21
    path.write_text("ä,y\n1,0\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"t.csv.*encoding=latin-1'"):
        open_source(path).fragments()[0].names  # noqa: B018
    path.write_text("ä,y\n1,0\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"encoding=utf-16'"):
        Preprocessor(schema).fit(path, progress=False)


def test_options_of_text_files(tmp_path):
    assert split_options("a/b?.csv") == ("a/b?.csv", TextOptions())
    found = split_options("x.csv?delimiter=tab&quoting=no&encoding=latin-1")
    assert found == ("x.csv", TextOptions("\t", False, "iso8859-1"))
    assert split_options("x.csv?delimiter=%26")[1].delimiter == "&"
    for number in range(2):
        (tmp_path / f"p{number}.csv").write_text(f"a;y\n{number};1\n5,5;0\n")
    assert _texts(f"{tmp_path}/p?.csv?delimiter=;", "a") == ["0", "5,5", "1", "5,5"]
    assert _texts(f"{tmp_path}?delimiter=semicolon", "y") == ["1", "0"] * 2
    (tmp_path / "q.csv?delimiter=;.csv").write_text("a,y\n1,0\n")
    assert _texts(tmp_path / "q.csv?delimiter=;.csv", "a") == ["1"]
    for wrong, message in {
        "x.csv?delimeter=;": r"Received delimeter=';'.*Did you mean 'delimiter'",
        "x.csv?delimiter=::": r"one character.*Received delimiter='::'",
        "x.csv?quoting=maybe": r"yes or no. Received quoting='maybe'",
        "x.csv?encoding=latin1000": r"Received encoding='latin1000'",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_source(wrong)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"those of text files. Received .*t.parquet'"):
        open_source(f"{tmp_path / 't.parquet'}?delimiter=;")


@pytest.mark.parametrize("text", ["a;y\n1,5;0\n2;1\n", "a;y\n1;0\n2;1\n", "a\ty\n1\t0\n"])
def test_another_delimiter_is_an_error_that_says_what_to_do(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=r"t.csv\?delimiter=(;|tab)'"):
        Preprocessor(Schema([Categorical("a")], [Binary("y")])).fit(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"t.csv\?delimiter=(;|tab)'"):
        Schema.infer(tmp_path / "t.csv", "y")


def test_a_look_sees_all_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tfmoe.data.read.csv._BLOCK_BYTES", 2000)
    monkeypatch.setattr("tfmoe.data.read.samples._BYTES", 1000)
    rows = [f"{i},{'text, with commas' if i % 7 else 'two'},1" for i in range(20_000)]
    quoted = [row.replace("text, with commas", '"text,\nwith commas"') for row in rows]
    (tmp_path / "t.csv").write_text("\n".join(["n,t,y", *quoted, ""]))
    chunk = CsvFragment(str(tmp_path / "t.csv"), 0).look(5000)
    seen = [int(n) for n in chunk["n"].to_pylist()]
    assert len(seen) < 5000
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == 19_999
    assert max(np.diff(seen)) < 2500
    assert set(chunk["t"].to_pylist()) == {"two", "text,\nwith commas"}


def test_a_header_that_names_a_column_twice(tmp_path):
    (tmp_path / "t.csv").write_text("a,a,y\n" + "1,2,0\n3,4,1\n" * 9)
    with pytest.raises(ValueError, match=r"Received \['a'\] twice in .*t.csv"):
        Schema.infer(tmp_path / "t.csv", "y")
    with pytest.raises(ValueError, match=r"Received \['a'\] twice"):
        Schema.infer(pd.DataFrame([[1, 2, 0]], columns=["a", "a", "y"]), "y")
