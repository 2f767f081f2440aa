"""A short run of scripts/secagg_hostile.py: no sum of fewer than promised, no wrong sum, the liars named."""

from __future__ import annotations

from collections import Counter
from importlib import util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "secagg_hostile.py"
NEVER = (
    "sums of too few", "wrong sums", "liars that were not named", "honest clients that were named", "no sum",
    "sums of fewer than promised", "single updates read",
)  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = util.spec_from_file_location("secagg_hostile", SCRIPT)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("sessions", "largest"), [(25, 12), pytest.param(60, 40, marks=pytest.mark.slow)])
def test_hostile_sessions(script, sessions, largest):
    counts = Counter()
    for number in range(sessions):
        counts.update(script.hostile_clients(number, largest=largest, seed=5))
        counts.update(script.hostile_server(number, largest=largest, seed=5))
    assert {name: counts[name] for name in NEVER} == dict.fromkeys(NEVER, 0)
    assert counts["a sum of all that were honest"] > sessions / 3
    assert counts["a sum of as many as promised was read"] > 0
