"""One check on a part that is no rule: a mechanism, an accountant, a compressor, a secure sum, a LoRA merge."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_fl.checks import Bound
from pytest_fl.engine.rows import Finding, closeness
from pytest_fl.subjects.guard import Misbehaved, within

if TYPE_CHECKING:
    from pytest_fl.checks.parts import Audit
    from pytest_fl.subjects.parts import Part

SECONDS: Final = 60.0
"""After which one check of a part counts as hung."""


def search(part: Part, check: Audit, seed: int) -> Finding:
    """The worst bound of the check; one that nothing meets where the part raises, or does not come back."""
    rng = np.random.default_rng([seed, zlib.crc32(check.name.encode())])
    try:
        with np.errstate(all="ignore"):
            bounds = within(SECONDS, lambda: list(check.judge(part, rng)))
    except Misbehaved as finding:
        bounds = [Bound(math.inf, 0.0, str(finding))]
    except Exception as error:  # noqa: BLE001  # whatever foreign code raises is what was found
        bounds = [Bound(math.inf, 0.0, f"raised {type(error).__name__}: {error}"[:400])]
    worst = max(bounds, key=closeness)
    if not worst.holds:
        worst = replace(worst, reason=f"{worst.reason or 'beyond the limit'} (seed {seed})")
    return Finding(worst, tried=len(bounds))
