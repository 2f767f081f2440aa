"""A failing round as a file, and the facts that a report shows of it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_fl.reporting import current
from pytest_fl.reporting.failures import facts

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_fl.subjects.round import Round


def counterexample(subject: str, check: str, round_: Round, output: object) -> dict[str, Any]:
    """What a row keeps of the round, which is saved; `output` is what the rule returned, or what it did instead."""
    try:
        file = save(subject, check, round_)
    except OSError as error:  # a folder that is gone or full: the failure is told all the same
        return {**facts(round_, output), "file": f"not saved: {error}"}
    return {**facts(round_, output), "file": str(file)}


def save(subject: str, check: str, round_: Round) -> Path:
    """Write the round to .pytest_fl/SUBJECT-CHECK-DIGEST.npz, the same round to the same file."""
    digest = hashlib.sha256(np.ascontiguousarray(round_.updates).tobytes() + bytes(str((round_.f, round_.byzantine)), "utf8"))
    name = re.sub(r"[^\w.|()=-]+", "_", subject).replace("|", "-")[:60]
    path = current.storage() / f"{name}-{check}-{digest.hexdigest()[:8]}.npz"
    round_.save(path, check=check, subject=subject)
    return path
