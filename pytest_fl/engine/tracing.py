"""Who follows this process line by line: a debugger keeps subjects in it, coverage goes along into their children."""

from __future__ import annotations

import contextlib
import sys
from typing import Any


def debugged() -> bool:
    """Whether something other than coverage.py traces this process: a debugger would not see a child."""
    trace: Any = sys.gettrace()
    if trace is not None and not type(getattr(trace, "__self__", trace)).__module__.startswith("coverage"):
        return True
    monitoring: Any = getattr(sys, "monitoring", None)
    return monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None


def measured() -> Any:
    """The `coverage.Coverage` that measures this process; None where none does."""
    kind = getattr(sys.modules.get("coverage"), "Coverage", None)
    return kind and kind.current()


def save() -> None:
    """In a child: stop measuring, and add the lines that it ran to the data file of the run."""
    with contextlib.suppress(Exception):  # figures, no verdict
        coverage = measured()
        coverage.stop()
        coverage.save()
