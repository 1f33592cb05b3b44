"""The pages of `docs/results`: what stands between their markers is made of the saved rows.

A section is `<!-- KIND:NAME -->`, anything, `<!-- end -->`:

- `verdict:STUDY`: the claims that this study decides, a line each;
- `cases:STUDY`: the same, a table each with a line for each case;
- `rows:STUDY`: all rows, folded, and the runs that they are from;
- `claims:PAPER`: the claims of a paper, a line for each claim (on the index);
- `studies:all`: all pages and their runs (on the index).

Of a study that was superseded the index says so; its claims are of the paper "superseded".

`<!-- prose of DATES -->` names the runs that a page's sentences were written of.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import claims, results, verdicts

INDEX = "index"
_SECTION = re.compile(r"(<!-- (\w+):([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PROSE = re.compile(r"<!-- prose of (.+?) -->")
_NOT_RUN = "Not run yet."


def paths() -> list[Path]:
    """The pages, the index first."""
    found = sorted(results.PAGES.glob("*.md"))
    return sorted(found, key=lambda path: path.stem != INDEX)


def fill(text: str) -> str:
    """A page's text with its sections made anew."""
    kinds = {
        "verdict": _verdict,
        "cases": _cases,
        "rows": _rows,
        "claims": _claims,
        "studies": lambda name: _studies(),
    }
    return _SECTION.sub(lambda found: f"{found[1]}\n{kinds[found[2]](found[3])}\n{found[4]}", text)


def prose_of(text: str) -> str | None:
    """The dates of the runs that a page's sentences say they are of."""
    found = _PROSE.search(text)
    return found[1] if found else None


def _verdict(study: str) -> str:
    rows, _ = results.newest(study)
    if not rows:
        return _NOT_RUN + "\n"
    lines = []
    for claim in _of("study", study):
        findings = [_found(case, rows) for case in claim.cases]
        lines.append(f"- {verdicts.summary(findings)}. {claim.text}\n")
    return "".join(lines)


def _cases(study: str) -> str:
    rows, _ = results.newest(study)
    if not rows:
        return _NOT_RUN + "\n"
    parts = []
    for claim in _of("study", study):
        findings, lines = [_found(case, rows) for case in claim.cases], []
        for found in findings:
            word = verdicts.WORDS[found.verdict]
            lines.append([found.case, word, _figures(found, found.certainty)])
        tested = any(found.effect for found in findings)
        header = ["case", "verdict", "ours" + " (effect ± its error, p)" * tested]
        parts.append(f"**{claim.text}**\n\n{table((header, lines))}")
    return "\n".join(parts)


def _claims(paper: str) -> str:
    lines = []
    for claim in _of("paper", paper):
        sentence = f"{claim.text} [{claim.study}]({claim.study}.md)"
        rows, _ = results.newest(claim.study)
        if not rows:
            lines.append([sentence, "", _NOT_RUN])
            continue
        findings = [_found(case, rows) for case in claim.cases]
        ours = "<br>".join(map(_line, findings))
        lines.append([sentence, verdicts.summary(findings), ours])
    return table((["claim", "verdict", "ours (effect, p)"], lines))


def _found(case: Any, rows: Sequence[Mapping[str, Any]]) -> verdicts.Finding:
    """What rows say of a case, of which a part of the study may not have been run."""
    try:
        return case.find(rows)
    except verdicts.NotRun:
        return verdicts.Finding(case.case, "not run yet", 0)


def _of(whose: str, name: str) -> list[claims.Claim]:
    return [claim for claim in claims.CLAIMS if getattr(claim, whose) == name]


def _line(found: verdicts.Finding) -> str:
    """A case as a line of a cell, without the effect's error."""
    certainty = ", ".join(filter(None, (found.effect, found.p, found.spread)))
    return f"*{found.case}:* {_figures(found, certainty)}"


def _figures(found: verdicts.Finding, certainty: str) -> str:
    """What was found, which a narrow cell breaks between its parts only."""
    published = f"published: {found.published}"
    parts = [found.ours, certainty and f"({certainty})", found.published and published]
    return " ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts if part)


def _studies() -> str:
    lines = []
    for path in paths():
        if path.stem != INDEX:
            title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            days = sorted({run["date"][:10] for run in results.newest(path.stem)[1]})
            said = " and ".join(days) or "not run yet"
            if successor := results.SUPERSEDED.get(path.stem):
                said += f"; superseded by [{successor}]({successor}.md)"
            lines.append([f"[{title}]({path.name})", said])
    return table((["study", "run"], lines))


def _rows(study: str) -> str:
    rows, runs = results.newest(study)
    if not rows:
        return _NOT_RUN + "\n"
    # Scores and tests have other columns.
    tests = [row for row in rows if "p" in row or any(key.endswith("_p") for key in row)]
    parts = [[row for row in rows if row not in tests], tests]
    tables = [table(_without_empty(*results.cells(part))) for part in parts if part]
    # GitHub shows HTML's own folding, and so does the site (md_in_html).
    return "\n".join(
        [
            "<details markdown>",
            f"<summary>All {len(rows)} rows</summary>",
            "",
            *tables,
            "</details>",
            "",
            *map(_origin, runs),
        ]
    )


def _origin(run: Mapping[str, Any]) -> str:
    """A paragraph that says where rows are from."""
    commit = f"commit {run['commit']}{', changed files' if run['dirty'] else ''}"
    if run.get("run_commits", [run["commit"]]) != [run["commit"]]:
        commit += f" (its runs: {', '.join(run['run_commits'])})"
    if len(found := run.get("run_environments", ())) > 1:
        commit += f" (its runs on {'; on '.join(found)})"
    versions = ", ".join(f"{key} {value}" for key, value in run["versions"].items())
    return (
        f"`{run['command']}` on {run['date'][:10]}, {commit}; {run['processor']}, "
        f"{run['cores']} cores; {versions}.\n"
    )


def _without_empty(header: Sequence[str], lines: Sequence[Sequence[str]]):
    """A header and its lines, without the columns in which no line has anything."""
    kept = [column for column in range(len(header)) if any(line[column] for line in lines)]
    return [header[i] for i in kept], [[line[i] for i in kept] for line in lines]


def table(content: tuple[Sequence[str], Sequence[Sequence[str]]]) -> str:
    """A table in Markdown."""
    header, lines = content
    rows = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)
