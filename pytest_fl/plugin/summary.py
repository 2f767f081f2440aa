"""From what the tests left behind to the report: rows out of pytest's reports, files, the job summary."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_fl.plugin import knobs
from pytest_fl.reporting.current import ROW, RUN
from pytest_fl.reporting.report import Report
from pytest_fl.reporting.results import Row
from pytest_fl.reporting.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterator


def gathered(reporter: pytest.TerminalReporter) -> Report:
    """The report of everything that ran, here or in workers. Of tests that were run again the last run counts."""
    found = list(_recorded(reporter))
    rows = [Row.from_json(text) for key, text, _ in found if key == ROW]
    runs = [replace(Run.from_json(text), test=at.nodeid, outcome=at.outcome) for key, text, at in found if key == RUN]
    return Report(tuple(rows), tuple(runs), strict=knobs.value("strict", reporter.config))


def _recorded(reporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, pytest.TestReport]]:
    for category, reports in reporter.stats.items():
        for report in reports if category != "rerun" else ():
            if isinstance(report, pytest.TestReport) and report.when == "call":
                yield from ((key, str(text), report) for key, text in report.user_properties)


def write(report: Report, path: Path) -> str:
    """Write the report in the format of the path's suffix; the line that says where, or why it could not be."""
    render = {".json": report.to_json, ".md": report.to_markdown, ".html": report.to_html}[path.suffix]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")
    except OSError as error:
        return f"--fl-report: cannot write {path}: {error}"
    return f"wrote {path}"


def append_to_job(report: Report) -> str:
    """Append the tables to GitHub's job summary, where there is one; the line that says so."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path or not (report.rows or report.runs):
        return ""
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(report.to_markdown())
    except OSError as error:
        return f"GITHUB_STEP_SUMMARY: cannot append to {path}: {error}"
    return "appended the tables to the job summary"
