"""Kinds of evidence, on rows of which the answer is known."""

import pytest

from benchmarks import claims, pages, results
from benchmarks.verdicts import (
    Apart,
    Count,
    Difference,
    Finding,
    Largest,
    Less,
    Paired,
    Ratio,
    Shares,
    Single,
    pick,
    summary,
)

A, B = {"name": "a"}, {"name": "b"}


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ([1], "**holds**"),
        ([1, 1], "**holds**, 2 of 2"),
        ([1, 0], "**in part**, 1 of 2"),
        ([1, 0, -1], "**in part**, 1 of 3, worse in 1"),
        ([-1], "**does not hold**"),
        ([-1, 0], "**does not hold**, worse in 1 of 2"),
        ([0], "**not settled**"),
        ([0, 0], "**not settled**"),
    ],
)
def test_the_verdict_over_all_cases(verdicts, words):
    assert summary([Finding("", "", verdict) for verdict in verdicts]) == words


def test_what_is_within_a_margin_is_not_worse():
    rows = [{**A, "score": 0.83}, {**B, "score": 0.831}]
    for lower, upper, verdict in ((-0.0011, -0.0007, 0), (-0.003, -0.0011, -1), (-0.0009, 0.1, 1)):
        row = {"name": "within", "effect": lower, "effect_error": 0.1, "p": 0.001, "margin": 0.001}
        row |= {"lower": lower, "upper": upper, "holds": "yes" if lower > -0.001 else "no"}
        found = Paired("case", {"name": "within"}, A, B).find([*rows, row])
        assert found.verdict == verdict


@pytest.mark.parametrize(
    ("effect", "p", "holds", "verdict"),
    [
        (0.1, 0.01, "yes", 1),
        (0.1, 0.2, "no", 0),
        (-0.1, 0.2, "no", 0),
        (-0.1, 0.04, "no", -1),
        # The mean is right and the median not: neither.
        (0.1, 0.01, "no", 0),
    ],
)
def test_a_paired_test(effect, p, holds, verdict):
    rows = [{**A, "score": 0.0176, "theirs": 0.95}, {**B, "score": 0.0187, "theirs": 0.9}]
    rows += [{"name": "a is less", "effect": effect, "effect_error": 0.012, "p": p, "holds": holds}]
    found = Paired("case", {"name": "a is less"}, A, B, published="theirs").find(rows)
    assert found.verdict == verdict
    assert found.ours == "0.0176 against 0.0187"
    assert found.published == "0.9500 against 0.9000"
    assert found.certainty == f"{effect} ± 0.012, p {p}"
    assert Paired("case", {"name": "a is less"}, A).find(rows).ours == "0.0176"
    with pytest.raises(LookupError, match="A claim needs a row"):
        Paired("case", {"name": "a is less"}, A, B).find(rows[:1])


@pytest.mark.parametrize(
    ("less", "difference", "p", "verdict"),
    [(True, -2, 0.001, 1), (True, 2, 0.001, -1), (False, -2, 0.001, -1), (True, -2, 0.02, 0)],
)
def test_a_difference_of_measures(less, difference, p, verdict):
    rows = [{**A, "x": 1.0}, {**B, "x": 3.0}]
    rows += [{"name": "a - b", "x": difference, "x_error": 0.5, "x_p": p}]
    found = Difference("case", "a", "b", {}, "x", less).find(rows)
    assert found.verdict == verdict
    # The effect is positive where the claim is right.
    assert float(found.effect) == (-difference if less else difference)


def test_shares_are_tested_by_their_counts():
    shares = [({**A, "found": ours}, {**B, "found": 0.5}) for ours in (0.9, 0.55, 0.1)]
    found = [Shares("case", A, B, "found", 100).find(rows) for rows in shares]
    assert [finding.verdict for finding in found] == [1, 0, -1]
    assert Shares("case", A, B, "found", 10).find(shares[0]).verdict == 0


@pytest.mark.parametrize(
    ("low", "ratio", "high", "verdict"),
    [(1.1, 1.2, 1.3, 1), (0.9, 1.2, 1.3, 0), (0.7, 0.8, 0.9, -1)],
)
def test_a_ratio_is_certain_by_its_quartiles(low, ratio, high, verdict):
    rows = [{**A, "ratio": ratio, "q1": low, "q3": high}]
    quartiles = ("q1", "q3")
    assert Ratio("case", A, quartiles=quartiles).find(rows).verdict == verdict
    assert Ratio("case", A, quartiles=quartiles, less=True).find(rows).verdict == -verdict
    assert f"quartiles {low} to {high}" in Ratio("case", A, quartiles=quartiles).find(rows).spread


@pytest.mark.parametrize(("ratio", "verdict"), [(1.1, 1), (1.04, 0), (0.97, 0), (0.9, -1)])
def test_without_quartiles_a_ratio_is_certain_by_five_percent(ratio, verdict):
    assert Ratio("case", A).find([{**A, "ratio": ratio}]).verdict == verdict
    rows = [{**A, "mb": 100 * ratio}, {**B, "mb": 100.0}]
    assert Less("case", A, B, "mb").find(rows).verdict == -verdict


def test_quartiles_lie_apart_or_not():
    rows = [{**A, "ratio": 1.0, "q1": 0.9, "q3": 1.1}, {**B, "ratio": 2.0, "q1": 1.05, "q3": 3.0}]
    assert Apart("case", A, B).find(rows).verdict == 0
    rows[1]["q1"] = 1.5
    assert Apart("case", A, B).find(rows).verdict == 1
    assert Apart("case", B, A).find(rows).verdict == -1


def test_one_run_settles_nothing():
    found = Single("case", A, [B], "loss").find([{**A, "loss": 0.1}, {**B, "loss": 9.0}])
    assert (found.verdict, found.certainty) == (0, "one run each")


def test_bounds_and_counts():
    rows = [{**A, "x": 1.0}, {**A, "x": 3.0}, {**B, "x": 9.0}, {**A, "x": None}]
    assert Largest("case", A, "x", 4.0).find(rows[:3]).verdict == 1
    assert Largest("case", A, "x", 3.0).find(rows[:3]).verdict == -1
    found = Count("case", A, "x", lambda x: x < 2).find(rows)
    assert (found.ours, found.verdict) == ("1 of 2", -1)
    assert Count("case", A, "x", lambda x: x < 4).find(rows).verdict == 1


def test_a_claim_without_its_row_fails():
    with pytest.raises(LookupError, match=r"one row with \{'name': 'a'\}; there are 2"):
        pick([A, A], A)
    with pytest.raises(LookupError, match="there are none"):
        Largest("case", A, "x", 1.0).find([B])
    with pytest.raises(LookupError, match="'x'; there are none"):
        Count("case", A, "x", bool).find([{**A, "x": None}])


def test_a_claim_is_told_on_its_page_and_on_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    rows = [{**A, "ratio": 1.3, "q1": 1.2, "q3": 1.4}, {**B, "ratio": 1.0, "q1": 0.9, "q3": 1.1}]
    results.save("fake", rows, {"date": "2026-01-01"})
    cases = [Ratio(name, {"name": name}, quartiles=("q1", "q3")) for name in "ab"]
    monkeypatch.setattr(claims, "CLAIMS", [claims.Claim("own", "fake", "It is so.", cases)])

    def made(section):
        text = pages.fill(f"<!-- {section} -->\n<!-- end -->").split("\n\n", 1)[1]
        return text.replace("\N{NO-BREAK SPACE}", " ")

    assert made("verdict:fake").startswith("- **in part**, 1 of 2. It is so.\n")
    assert made("cases:fake").startswith(
        "**It is so.**\n\n| case | verdict | ours |\n| --- | --- | --- |\n"
        "| a | holds | 1.3 (quartiles 1.2 to 1.4) |\n"
        "| b | not settled | 1 (quartiles 0.9 to 1.1) |\n"
    )
    line = "| It is so. [fake](fake.md) | **in part**, 1 of 2 | *a:* 1.3 (quartiles 1.2 to 1.4)<br>"
    assert line in made("claims:own")
