"""The test that is running now, for cases that want to leave their rows with it; nothing where there is none."""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

DESCRIPTORS: Final[dict[int, tuple[int, int]]] = {}
"""Descriptors that were open when the plugin was loaded, by device and inode: terminal, pytest's capture, xdist's channel."""
FOLDER: Final = ".pytest_fl"
ROW: Final = "fl_row"
"""The user property of an item that carries a `Row` as JSON: public, survives xdist, printed in JUnit."""
RUN: Final = "fl_run"
"""The same for a `Run`."""


@dataclass(frozen=True)
class Current:
    """What a case needs to know of the pytest item that runs it."""

    profile: str
    seed: int
    rootdir: Path
    record: Callable[[str], None]
    """Leaves one row, as JSON, with the item."""
    nodeid: str = ""
    """What selects it on pytest's command line, from the folder where that was called."""
    strict: str = "defects"
    """Which kinds of failure fail a test: a word of `results.STRICT`."""
    isolation: Literal["process", "none"] = "process"
    """Whether a subject is called in a child process."""


def own_descriptors() -> None:
    """Remember what is open now: it is the test run's, not a subject's."""
    with contextlib.suppress(OSError):  # no /proc
        for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208  # numbers, no files
            with contextlib.suppress(OSError):
                found = os.fstat(number)
                DESCRIPTORS[number] = found.st_dev, found.st_ino


item: Final[ContextVar[Current | None]] = ContextVar("pytest_fl.reporting.current.item", default=None)


def storage(rootdir: Path | None = None) -> Path:
    """The folder for counterexamples, `.pytest_fl` under rootdir (or the running test's, or here); git ignores it.

    Relative to the working directory where it lies below it: short enough to be read and typed.
    """
    running, here = item.get(), Path.cwd()
    folder = (rootdir or (running.rootdir if running else here)) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("# written by pytest-fl\n*\n")
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
