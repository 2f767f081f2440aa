"""Rows and runs as tables: the one sentence, a line a subject, a line a federation; pure functions."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Sized

    from pytest_fl.reporting.results import Row
    from pytest_fl.reporting.runs import Run

OUTCOMES: Final = {
    "passed": "passed",
    "failed": "failed",
    "expected_failure": "failed as expected",
    "not_claimed": "not claimed",
}
"""What is always counted; checks that were not run are counted where there are any."""
CHECK_COLUMNS: Final = (
    "aggregator", "passed", "failed", "xfailed", "unclaimed", "closest", "check", "measured", "kappa", "f/(n-2f)", "seconds",
)  # fmt: skip
RUN_COLUMNS: Final = ("aggregator", "attack", "rounds", "clients", "f", "clean", "attacked", "test")
FAR: Final = 1e-3
"""A share of its limit too small to be worth telling."""
WORDS: Final = ("aggregator", "check", "attack", "test")
"""Columns of text; all others are numbers and stand to the right."""


def verdict(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """The one sentence: how many rules, and all outcomes counted."""
    count = Counter(row.outcome for row in rows)
    counted = {**OUTCOMES, "not_run": "not run"} if count["not_run"] else OUTCOMES
    outcomes = ", ".join(f"{count[outcome]} {words}{kinds(rows) * (outcome == 'failed')}" for outcome, words in counted.items())
    checks = f"{_many('aggregator', {row.subject for row in rows})}: {outcomes}" if rows else ""
    federations = _many("federation", runs) if runs else ""
    return "; ".join(part for part in (checks, federations) if part) or "no checks ran"


def kinds(rows: Iterable[Row]) -> str:
    """In brackets, the failures counted by kind; empty where no kind is known."""
    count = Counter(row.kind for row in rows if row.outcome == "failed" and row.kind)
    words = {
        "defect": _many("defect", range(count["defect"])),
        "range": _many("range fault", range(count["range"])),
        "by contract": f"{count['by contract']} by contract",
    }
    known = [text for kind, text in words.items() if count[kind]]
    return f" ({', '.join(known)})" if known else ""


def check_cells(rows: Sequence[Row]) -> list[list[str]]:
    """One line a subject: outcomes, the check closest to its limit, the coefficient between its bounds, time."""
    return [_summary(subject, mine) for subject, mine in grouped(rows).items()]


def run_cells(runs: Sequence[Run]) -> list[list[str]]:
    """One line an attacked federation, beside the clean one of its setting; a clean one alone where nobody attacked."""
    clean = {run.setting: run for run in runs if run.clean}
    attacked = {run.setting for run in runs if not run.clean}
    shown = [run for run in runs if not run.clean or run.setting not in attacked]
    once = {(run.aggregator, run.attack, run.setting, run.test): run for run in shown}
    return [_run(once[key], clean.get(once[key].setting)) for key in sorted(once)]


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each subject, in the order of names: the same whoever finished first."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.subject, row.check)):
        groups.setdefault(row.subject, []).append(row)
    return groups


def lines(rows: Sequence[Row], runs: Sequence[Run]) -> list[tuple[str, bool]]:
    """The tables for a terminal, line by line, and whether a line tells of a failure."""
    found = list[tuple[str, bool]]()
    for title, header, cells, bad in (
        ("", CHECK_COLUMNS, check_cells(rows), lambda cell: cell[2] != "0"),
        ("federations", RUN_COLUMNS, run_cells(runs), lambda cell: cell[-1] == "failed"),
    ):
        if cells:
            texts = aligned([header, *cells], [name in WORDS for name in header])
            found += [("", False), (title, False)] if title and found else []
            found += [(texts[0], False), *((text, bad(cell)) for text, cell in zip(texts[1:], cells, strict=True))]
    return [*found, (verdict(rows, runs), any(row.outcome == "failed" for row in rows))]


def aligned(table: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    """The table's lines, each column as wide as its widest cell, words to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    pad = [str.ljust if words else str.rjust for words in left]
    padded = [[fit(cell, width) for fit, cell, width in zip(pad, line, widths, strict=True)] for line in table]
    return ["  ".join(line).rstrip() for line in padded]


def number(value: float | None) -> str:
    """Three digits are enough to compare by; nothing where there is no number."""
    return "" if value is None else f"{value:.3g}"


def coefficients(rows: Iterable[Row]) -> Mapping[str, float]:
    """The measured coefficient of a subject with `kappa` and `lower_bound` beside it: the largest that was measured."""
    found = (row.measured for row in rows if "coefficient" in row.measured)
    return max(found, key=lambda measured: measured["coefficient"], default={})


def closest(rows: Iterable[Row]) -> Row | None:
    """The row nearest to its limit or furthest above it, among those that count; None where all are far from theirs."""
    counted = (row for row in rows if row.outcome == "failed" or (row.outcome == "passed" and row.closeness > FAR))
    return max(counted, key=lambda row: (row.outcome == "failed", row.closeness), default=None)


def _many(noun: str, things: Sized) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _summary(subject: str, rows: Sequence[Row]) -> list[str]:
    count = Counter(row.outcome for row in rows)
    worst, measured = closest(rows), coefficients(rows)
    return [
        subject,
        *(str(count[outcome]) for outcome in OUTCOMES),
        number(worst.closeness) if worst else "",
        worst.check if worst else "",
        *(number(measured.get(key)) for key in ("coefficient", "kappa", "lower_bound")),
        f"{sum(row.seconds for row in rows):.1f}",
    ]


def _run(run: Run, clean: Run | None) -> list[str]:
    figures = (clean.accuracy if clean else math.nan, math.nan if run.clean else run.accuracy)
    shown = ["" if math.isnan(accuracy) else f"{accuracy:.1%}" for accuracy in figures]
    return [run.aggregator, run.attack, str(run.rounds), str(run.clients), str(run.byzantine), *shown, run.outcome]


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    rule = ["---" if name in WORDS else "--:" for name in header]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *escaped))
