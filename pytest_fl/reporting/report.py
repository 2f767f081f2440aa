"""The report: everything that was found, as a terminal table, Markdown, JSON or a page; pure functions of the rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytest_fl.reporting import tables

if TYPE_CHECKING:
    from pytest_fl.reporting.results import Row
    from pytest_fl.reporting.runs import Run


@dataclass(frozen=True)
class Report:
    """All rows of one or more subjects, and the federations that were run beside them."""

    rows: tuple[Row, ...] = ()
    runs: tuple[Run, ...] = ()
    notes: tuple[str, ...] = ()
    """What is said before the tables: how the rule was called."""
    strict: str = "defects"
    """Which failures count against it: "defects", "range" (those and range faults) or "all"."""

    @property
    def passed(self) -> bool:
        """Whether no check failed that counts, and not all that was asked for was left undone.

        Expected failures and claims that nobody makes do not count against it.
        """
        outcomes = {row.outcome for row in self.rows}
        failed = any(row.fails(self.strict) for row in self.rows)
        return not failed and not ("not_run" in outcomes and not outcomes & {"passed", "expected_failure", "failed"})

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows whose check failed where nobody expected it."""
        return tuple(row for row in self.rows if row.outcome == "failed")

    def __str__(self) -> str:
        """How it was called and what failed, the tables, then each cause with its first failure in full."""
        from pytest_fl.reporting.failures import explained  # noqa: PLC0415  # failures are rare

        shown = [line for line, _ in tables.lines(self.rows, self.runs)]
        return "\n".join(
            [*self._headline(), *self.notes[1:], *shown, *([f"\n{explained(self.failures)}"] * bool(self.failures))]
        )

    def _headline(self) -> list[str]:
        """The first line: how the rule was called, and how many checks fail, by kind."""
        if not self.notes:
            return []
        count = len(self.failures)
        said = (
            f"{count} check{'s' * (count != 1)} fail{'s' * (count == 1)}{tables.kinds(self.rows)}"
            if count
            else "no check fails"
        )
        return [f"{self.notes[0]}: {said}"]

    def to_json(self) -> str:
        """Strict JSON: numbers that JSON lacks are written as the strings "inf", "-inf" and "nan"."""
        rows = [{**asdict(row), "closeness": row.closeness} for row in self.rows]
        content = {
            "passed": self.passed,
            "strict": self.strict,
            "notes": list(self.notes),
            "rows": rows,
            "federations": [asdict(run) for run in self.runs],
        }
        return json.dumps(_strict(content), indent=1, allow_nan=False)

    def to_markdown(self) -> str:
        """The tables and the failures, for a job summary or a pull request."""
        from pytest_fl.reporting.failures import describe  # noqa: PLC0415  # failures are rare

        parts = [f"## {tables.verdict(self.rows, self.runs)}"]
        if self.rows:
            parts.append(tables.markdown(tables.CHECK_COLUMNS, tables.check_cells(self.rows)))
        if self.runs:
            parts += ["### Federations", tables.markdown(tables.RUN_COLUMNS, tables.run_cells(self.runs))]
        for row in self.failures:
            summary = f"<details><summary>{row.subject}: {row.check}</summary>"
            parts.append(f"{summary}\n\n```\n{describe(row)}\n```\n\n</details>")
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """One self-contained page: the grid of subjects and checks, worst case against bound, counterexamples."""
        from pytest_fl.reporting.page import page  # noqa: PLC0415  # only who asks for the page pays for it

        return page(self.rows, self.runs)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
