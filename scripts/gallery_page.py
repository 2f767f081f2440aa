"""docs/gallery.md as text, from the rows of each rule and the findings that explain its failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final

from scripts.gallery_findings import FINDINGS, KINDS, Finding
from scripts.gallery_rules import Entry

Rows = list[dict[str, Any]]
Results = Mapping[Entry, Rows]
DISTRIBUTIONS: Final = {
    "ByzFL": "byzfl", "byzpy": "byzpy", "krum": "krum", "Flower legacy": "flwr", "Flower ServerApp": "flwr",
    "Qora-FL": "qora-fl",
}  # fmt: skip
"""Library -> what pip calls it."""
INTRODUCTION: Final = """\
# Published rules under pytest-fl

What `pytest_fl.verify` says of the robust aggregation rules that people can install today, with no claim made for any of
them: each must return one finite vector, be exact where the honest clients agree, stay bounded under colluders, and keep its
hands off its input. Every cause found below was then reproduced with the library alone, and sorted into one of three kinds:

{kinds}

The libraries are good work, and most of what stands here is small: a few lines each, given below. A rule that passes is not
proven right; a rule that fails only in the second or third way is fit for use within what its authors say.

Made by `scripts/gallery.py`, in the environment of `scripts/peers_env.sh`; the snippets by `scripts/gallery.py --evidence`.
"""


def page(results: Results) -> str:
    """The whole page."""
    kinds = "\n".join(f"- **{kind}**: {meaning}." for kind, meaning in KINDS.items())
    parts = [INTRODUCTION.format(kinds=kinds), _summary(results)]
    libraries = dict.fromkeys(entry.library for entry in results)
    parts.extend(_table(one, {entry: rows for entry, rows in results.items() if entry.library == one}) for one in libraries)
    used = {finding.key for entry, rows in results.items() for finding in _explaining(entry, rows)}
    shown = [finding for finding in FINDINGS if finding.key in used]
    for kind in KINDS:
        parts.append(f"## Findings: {kind}\n")
        parts.extend(_finding(finding) for finding in shown if finding.kind == kind)
    return "\n".join(parts)


def unexplained(results: Results) -> list[str]:
    """The failures that no finding explains."""
    return [
        f"{entry.name}: {row['check']}"
        for entry, rows in results.items()
        for row in rows
        if row["outcome"] == "failed" and not any(finding.explains(entry.name, row["check"]) for finding in FINDINGS)
    ]


def _summary(results: Results) -> str:
    worst = [_worst(entry, rows) for entry, rows in results.items()]
    holds, defect, out_of_range, by_design = (worst.count(kind) for kind in ("holds", *KINDS))
    return (
        f"**{len(results)} rules judged: {holds} hold in everything; {defect} have a defect; {out_of_range} only leave their "
        f"range; {by_design} differ only by design.**\n"
    )


def _worst(entry: Entry, rows: Rows) -> str:
    kinds = {finding.kind for finding in _explaining(entry, rows)}
    return next((kind for kind in KINDS if kind in kinds), "holds")


def _table(library: str, results: Results) -> str:
    lines = [
        f"## {library} ({version(DISTRIBUTIONS[library])})\n",
        "| rule | verdict | findings | smallest counterexample (* Byzantine) | reproduce |",
        "|---|---|---|---|---|",
    ]
    for entry, rows in results.items():
        failed = [row for row in rows if row["outcome"] == "failed"]
        passed = sum(row["outcome"] == "passed" for row in rows)
        found = ", ".join(f"[{finding.key}](#{finding.key})" for finding in _explaining(entry, rows))
        verdict = f"fails {len(failed)} of {passed + len(failed)}" if failed else f"holds ({passed})"
        cells = (f"`{entry.rule}`".replace("|", "\\|"), verdict, found, _smallest(entry, failed), f"`{entry.command}`")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") if cell is cells[-1] else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _explaining(entry: Entry, rows: Rows) -> Iterator[Finding]:
    failed = [row["check"] for row in rows if row["outcome"] == "failed"]
    for finding in FINDINGS:
        if any(finding.explains(entry.name, check) for check in failed):
            yield finding


def _smallest(entry: Entry, failed: Rows) -> str:
    """The smallest round among the failures of the gravest kind, in one line."""

    def gravity(row: dict[str, Any]) -> tuple[int, int]:
        kinds = [finding.kind for finding in FINDINGS if finding.explains(entry.name, row["check"])]
        shown = row["counterexample"] or {}
        return min((list(KINDS).index(kind) for kind in kinds), default=0), shown.get("n", 999) * shown.get("d", 999)

    if not failed:
        return ""
    row = min(failed, key=gravity)
    return f"{row['check']}: {'; '.join(filter(None, (_round(row['counterexample'] or {}), row['reason'])))}"


def _round(shown: dict[str, Any]) -> str:
    if not shown:
        return ""
    where = f"n={shown['n']}, f={shown['f']}"
    output = shown.get("output")
    given = f" gives {_vector(output)}" if isinstance(output, list) and len(output) <= 3 else ""
    updates = shown.get("updates")
    if updates and len(updates) * len(updates[0]) <= 12:
        rows = [_vector(row) + ("*" if index in shown["byzantine"] else "") for index, row in enumerate(updates)]
        return f"{where}: {' '.join(rows)}{given}"
    return f"{where}, d={shown['d']}, {shown['dtype']}: {shown['origin']}{given}"


def _vector(row: list[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in row) + "]"


def _finding(finding: Finding) -> str:
    lines = [f'### <a id="{finding.key}"></a>{finding.key}: {finding.title}\n', f"{finding.text}\n"]
    lines.append(f"Seen in: {', '.join(finding.rules)}.\n")
    if finding.fix:
        lines.append(f"Proposed: {finding.fix}\n")
    if finding.snippet:
        lines.append(f"```python\n{finding.snippet.strip()}\n```\n\n```text\n{finding.prints.strip()}\n```\n")
    return "\n".join(lines)
