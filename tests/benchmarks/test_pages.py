"""The pages of results: what is committed is what the rows give, and all of it is there."""

import re

import pytest

from benchmarks import claims, pages, results, verdicts
from benchmarks.__main__ import BENCHMARKS

PAGES = pages.paths()
STUDIES = [path for path in PAGES if path.stem != pages.INDEX]
NAMES = {*BENCHMARKS, *results.SUPERSEDED}
RUN = {
    "commit": "abc",
    "dirty": True,
    "versions": {"keras": "3.15"},
    "processor": "a chip",
    "cores": 2,
    "command": "python -m benchmarks fake",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty folders in place of benchmarks/results and docs/results."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "rows")
    monkeypatch.setattr(results, "PAGES", tmp_path / "pages")
    return tmp_path


def name_of(path):
    return path.stem


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_committed_pages_are_those_of_the_saved_rows(path):
    text = path.read_text(encoding="utf-8")
    assert pages.fill(text) == text, "Run `python -m benchmarks tables`."


def test_every_benchmark_has_a_page():
    assert {path.stem for path in STUDIES} == NAMES
    assert PAGES[0].stem == pages.INDEX


def test_superseded_studies_keep_rows_and_page_but_are_no_commands():
    assert not set(results.SUPERSEDED) & set(BENCHMARKS)
    for name, successor in results.SUPERSEDED.items():
        assert successor in BENCHMARKS
        assert results.newest(name)[0]
        assert f"]({successor}.md)" in (results.PAGES / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_a_page_has_the_verdict_first_and_the_rows_last(path):
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"<!-- (\w+):([\w-]+) -->|^(## .+)$", text, re.MULTILINE)
    parts = [heading or f"{kind}:{name}" for kind, name, heading in found]
    claimed = [f"{kind}:{path.stem}" for kind in ("verdict", "cases")]
    rows = f"rows:{path.stem}"
    assert text.startswith("# ")
    assert parts[-1] == rows
    if any(claim.study == path.stem for claim in claims.CLAIMS):
        assert parts[0] == claimed[0]
        assert parts[-3] == claimed[1]
    assert "## How it was done" in parts
    # What was found is followed by what that does not say.
    assert ("## What was found" not in parts) or ("## What it does not say" in parts)


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_sentences_are_of_the_runs_that_are_shown(path):
    text, runs = path.read_text(encoding="utf-8"), results.newest(path.stem)[1]
    expected = results.dates(runs) if "## What was found" in text else None
    assert pages.prose_of(text) == expected, (
        f"{path.name} shows other rows than its sentences were written of: read them again, and "
        "name the runs in its comment `<!-- prose of ... -->`."
    )


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_pictures_are_of_the_saved_rows(path):
    shown = re.findall(r"!\[(.+?)\]\((.+?)\)", path.read_text(encoding="utf-8"))
    picture = results.PICTURES / f"{path.stem}.png"
    assert [source for _, source in shown] == [f"pictures/{path.stem}.png"] * picture.exists()
    if picture.exists():
        runs = results.newest(path.stem)[1]
        assert results.stamped(picture) == results.dates(runs), "Run `python -m benchmarks tables`."


def test_no_picture_is_left_over():
    assert {path.stem for path in results.PICTURES.iterdir()} <= NAMES


def anchors(text):
    """What a link may name on a page, as both GitHub and the site make it."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*PAGES, results.ROOT / "benchmarks" / "README.md"], ids=name_of)
def test_links_resolve(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https://)(.+?)\)", text)
    for link in links:
        target, _, anchor = link.partition("#")
        other = path.parent / target if target else path
        assert other.exists(), link
        if anchor:
            assert anchor in anchors(other.read_text(encoding="utf-8")), link
    if path.stem == pages.INDEX:
        assert {f"{study.name}" for study in STUDIES} <= set(links)


def test_every_claim_has_rows_and_a_table():
    index = PAGES[0].read_text(encoding="utf-8")
    tables = re.findall(r"<!-- claims:([\w-]+) -->", index)
    assert tables == list(claims.PAPERS)
    assert {claim.paper for claim in claims.CLAIMS} == set(tables)
    for claim in claims.CLAIMS:
        rows, _ = results.newest(claim.study)
        assert claim.study in (results.SUPERSEDED if claim.paper == "superseded" else BENCHMARKS)
        assert claim.cases
        if rows:
            found = [_found(claim, case, rows) for case in claim.cases]
            assert len({finding.case for finding in found}) == len(found), claim.text


def _found(claim, case, rows):
    try:
        return case.find(rows)
    except verdicts.NotRun:
        assert claim.study in results.PARTS, claim.text
        return case


def test_every_study_with_tests_has_claims():
    tested = {name for name in NAMES if any("p" in row for row in results.newest(name)[0])}
    assert tested <= {claim.study for claim in claims.CLAIMS}


def test_rows_are_of_the_newest_run_only(folder, monkeypatch):
    results.save("fake", [{"name": "old", "ratio": 1.0}], RUN | {"date": "2026-01-01T00:00:00"})
    rows = [{"name": "é", "rows_per_s": 12345, "points": [1, 2]}, {"name": "b", "ratio": 0.25}]
    rows += [{"name": "a - b", "ratio": 0.5, "ratio_error": 0.012, "ratio_p": 0.0004}]
    rows += [{"name": "b - a", "ratio": 0.25, "ratio_low": 0.2, "ratio_high": 0.3}]
    rows[-1] |= {"ratio_error": 0.03, "ratio_p": 0.01}
    monkeypatch.setattr(results, "RUN_COMMITS", {"fake": {"abc", "abb"}})
    monkeypatch.setattr(results, "RUN_ENVIRONMENTS", {"fake": {"a chip", "another"}})
    results.save("fake", rows, RUN | {"date": "2026-02-02T00:00:00"})
    filled = pages.fill("before\n<!-- rows:fake -->\nstale\n<!-- end -->\nafter <!-- end -->")
    assert filled == (
        "before\n<!-- rows:fake -->\n\n"
        "<details markdown>\n<summary>All 4 rows</summary>\n\n"
        "| name | rows_per_s | ratio |\n| --- | --- | --- |\n| é | 12,345 |  |\n| b |  | 0.25 |\n\n"
        "| name | ratio |\n| --- | --- |\n| a - b | 0.5000 ± 0.012 (p 0.0004) |\n"
        "| b - a | 0.25 ± 0.03, 0.2 to 0.3 (p 0.01) |\n\n"
        "</details>\n\n"
        "`python -m benchmarks fake` on 2026-02-02, commit abc, changed files (its runs: "
        "abb, abc) (its runs on a chip; on another); a chip, 2 cores; "
        "keras 3.15.\n\n<!-- end -->\nafter <!-- end -->"
    )
    assert pages.fill(filled) == filled


def test_a_benchmark_run_in_parts_shows_the_newest_of_each(folder, monkeypatch):
    monkeypatch.setattr(results, "PARTS", {"fake": ("size",)})
    runs = [
        RUN | {"command": f"python -m benchmarks fake {day}", "date": f"2026-01-0{day}T00:00:00"}
        for day in (1, 2, 3)
    ]
    results.save("fake", [{"name": "gone", "size": 4}, {"name": "a", "size": 1}], runs[0])
    results.save("fake", [{"name": "c", "size": 4}, {"name": "d", "size": 4}], runs[1])
    results.save("fake", [{"name": "b", "size": 2}], runs[2])
    sizes = {"a": 1, "b": 2, "c": 4, "d": 4}
    expected = [{"name": name, "size": size} for name, size in sizes.items()]
    assert results.newest("fake") == (expected, runs)
    filled = pages.fill("<!-- rows:fake -->\n<!-- end -->")
    assert re.findall("fake (.)` on 2026-01-0(.)", filled) == [("1", "1"), ("2", "2"), ("3", "3")]
    results.save("fake", [{"name": "e", "size": 1}], runs[2] | {"date": "2026-01-04T00:00:00"})
    rows, newest = results.newest("fake")
    assert [row["name"] for row in rows] == list("ebcd")
    assert [run["date"][9] for run in newest] == ["2", "3", "4"]


def test_a_part_that_was_not_run_says_so(folder, monkeypatch):
    cases = [verdicts.Paired(x, {"name": "a", "set": x}, {"name": "b", "set": x}) for x in "cd"]
    monkeypatch.setattr(claims, "CLAIMS", [claims.Claim("own", "fake", "It is so.", cases)])
    test = {"name": "a", "set": "c", "effect": 0.1, "effect_error": 0.1, "p": 0.01, "holds": "yes"}
    results.save(
        "fake", [test, {"name": "b", "set": "c", "score": 0.3}], RUN | {"date": "2026-01-01"}
    )
    filled = pages.fill("<!-- cases:fake -->\n<!-- end -->")
    assert "| c | holds | 0.3" in filled
    assert "| d | not settled | not\N{NO-BREAK SPACE}run\N{NO-BREAK SPACE}yet |" in filled


def test_a_study_that_was_not_run_says_so(folder, monkeypatch):
    claim = claims.Claim("own", "fake", "It is so.", [])
    monkeypatch.setattr(claims, "CLAIMS", [claim])
    for section in ("verdict:fake", "cases:fake", "rows:fake", "claims:own"):
        assert "Not run yet." in pages.fill(f"<!-- {section} -->\n<!-- end -->")
    results.PAGES.mkdir()
    (results.PAGES / "fake.md").write_text("# A title\n\nText.", encoding="utf-8")
    filled = pages.fill("<!-- studies:all -->\n<!-- end -->")
    assert "| [A title](fake.md) | not run yet |" in filled


def test_the_index_names_what_took_a_studys_place(folder, monkeypatch):
    monkeypatch.setattr(results, "SUPERSEDED", {"old": "new"})
    results.PAGES.mkdir()
    (results.PAGES / "old.md").write_text("# The old\n", encoding="utf-8")
    results.save("old", [{"name": "a"}], RUN | {"date": "2026-01-01T00:00:00"})
    filled = pages.fill("<!-- studies:all -->\n<!-- end -->")
    assert "| [The old](old.md) | 2026-01-01; superseded by [new](new.md) |" in filled
