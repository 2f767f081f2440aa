"""The report as one self-contained page: no script, no font, no picture from elsewhere; it works from a file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from pytest_fl.reporting.failures import describe
from pytest_fl.reporting.plot import CSS as PLOT_CSS
from pytest_fl.reporting.plot import Mark, worst_cases
from pytest_fl.reporting.tables import RUN_COLUMNS, WORDS, coefficients, grouped, number, run_cells, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_fl.reporting.results import Row
    from pytest_fl.reporting.runs import Run

CSS: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #6a737d; --line: #d8dee4; --paper: #fff; --tint: 86%;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #9aa4ae; --line: #363c44; --paper: #14171a; --tint: 24%; --bad: #ff6b60; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 92rem; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p { margin: .3rem 0; color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 2px; font-variant-numeric: tabular-nums; }
th { font-weight: 500; text-align: left; padding: .2rem .6rem .2rem 0; white-space: nowrap; }
.grid thead th { height: 9.5rem; vertical-align: bottom; padding: 0; }
.grid thead span { display: block; width: 2.6rem; transform: rotate(-50deg) translate(.4rem, 1rem);
  transform-origin: left bottom; }
.grid td { min-width: 2.6rem; height: 1.9rem; text-align: center; border-radius: 3px; font-size: .8rem; padding: 0; }
td.passed { background: hsl(calc(155 - 115 * var(--closeness)) 55% var(--tint)); }
td.failed { background: var(--bad); color: var(--paper); font-weight: 600; }
td.expected_failure { border: 1px dashed var(--bad); }
td.not_claimed, td.not_run { color: var(--faint); }
.plain td, .plain th { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); }
.plain .n { text-align: right; }
.plain .bad { color: var(--bad); font-weight: 600; }
.legend span { display: inline-block; padding: .05rem .5rem; margin-right: .6rem; border-radius: 3px; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; margin: .5rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; margin: .6rem 0 .2rem; }
"""
READABLE: Final = 12
"""Counterexamples that are shown at once; more are folded."""
LEGEND: Final = (
    ("background:hsl(155 55% var(--tint))", "far from its limit"),
    ("background:hsl(40 55% var(--tint))", "at its limit"),
    ("background:var(--bad);color:var(--paper)", "broken"),
    ("border:1px dashed var(--bad)", "&times; failed as expected"),
    ("color:var(--faint)", "&middot; not claimed"),
    ("color:var(--faint)", "? not run"),
)


def page(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """The HTML of a report of these rows and federations."""
    failures = [row for row in rows if row.outcome == "failed"]
    title = escape(f"Claims broken: {len(failures)}" if failures else "All claims hold")
    sections = [_grid(rows), _bounds(rows), _federations(runs), _counterexamples(failures)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>pytest-fl: {title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{CSS}{PLOT_CSS}</style></head>\n'
        f"<body><h1>{title}</h1><p>{escape(verdict(rows, runs))}</p>\n{''.join(sections)}</body></html>\n"
    )


def _grid(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    unclaimed = {row.check for row in rows} - {row.check for row in rows if row.outcome != "not_claimed"}
    ordered = sorted(rows, key=lambda row: (row.check in unclaimed, row.check))
    claims = {row.check: row.claim for row in ordered}
    cells = {(row.subject, row.check): row for row in rows}
    head = "".join(f'<th title="{escape(claim)}"><span>{escape(check)}</span></th>' for check, claim in claims.items())
    body = "".join(
        f"<tr><th>{escape(subject)}</th>{''.join(_cell(cells.get((subject, check))) for check in claims)}</tr>\n"
        for subject in grouped(rows)
    )
    legend = "".join(f'<span style="{style}">{text}</span>' for style, text in LEGEND)
    return (
        f'<h2>How close each rule comes to its limits</h2><p class="legend">The number is value / limit. {legend}</p>'
        f'<div class="wide"><table class="grid"><thead><tr><th></th>{head}</tr></thead><tbody>\n{body}</tbody></table>'
        "</div>\n"
    )


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td></td>"
    told = f"{row.check}: {row.claim}\n{row.reason or f'{row.value:.4g} of at most {row.limit:.4g}'}"
    style = f' style="--closeness:{min(max(row.closeness, 0.0), 1.0):.3f}"' if row.outcome == "passed" else ""
    return f'<td class="{row.outcome}" title="{escape(told)}"{style}>{_shown(row)}</td>'


def _shown(row: Row) -> str:
    if row.outcome == "passed":
        return f"{row.closeness:.2f}" if row.closeness >= 0.005 else ""
    if row.outcome == "failed" and row.closeness:
        return number(row.closeness) if row.closeness < 100 else "&gt;100"
    return {"not_claimed": "&middot;", "not_run": "?"}.get(row.outcome, "&times;")


def _bounds(rows: Sequence[Row]) -> str:
    found = [(subject, coefficients(mine)) for subject, mine in grouped(rows).items()]
    marks = [Mark(name, at["coefficient"], at.get("kappa"), at.get("lower_bound")) for name, at in found if at]
    if not marks:
        return ""
    return (
        "<h2>Worst case found, against its bounds</h2><p>The measured coefficient (dot) lies between f/(n-2f), which no "
        "rule can beat, and the kappa that is claimed (bar). Logarithmic.</p>"
        f'<div class="wide">{worst_cases(marks)}</div>\n'
    )


def _federations(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    kinds = ["" if name in WORDS else ' class="n"' for name in RUN_COLUMNS]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, RUN_COLUMNS, strict=True))
    body = "".join(_run(cells, kinds) for cells in run_cells(runs))
    return f'<h2>Federations</h2><div class="wide"><table class="plain"><tr>{head}</tr>\n{body}</table></div>\n'


def _run(cells: Sequence[str], kinds: Sequence[str]) -> str:
    last = ' class="bad"' if cells[-1] == "failed" else ""
    pairs = zip([*kinds[:-1], last], cells, strict=True)
    return f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for kind, cell in pairs)}</tr>\n"


def _counterexamples(failures: Sequence[Row]) -> str:
    if not failures:
        return ""
    shown = " open" if len(failures) <= READABLE else ""
    parts = [
        f"<details{shown}><summary><b>{escape(row.subject)}</b> fails {escape(row.check)}</summary>"
        f"<pre>{escape(describe(row))}</pre></details>\n"
        for row in failures
    ]
    return f"<h2>Counterexamples</h2>{''.join(parts)}"
