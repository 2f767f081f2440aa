"""Short runs of scripts/secagg_hostile.py and scripts/secagg_peers.py: what is promised holds, where it does not in SecAgg+."""

from __future__ import annotations

import sys
from collections import Counter
from importlib import util
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
NEVER = (
    "sums of too few", "wrong sums", "liars that were not named", "honest clients that were named", "no sum",
    "sums of fewer than promised", "single updates read",
)  # fmt: skip


def loaded(name):
    spec = util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return loaded("secagg_hostile")


@pytest.mark.parametrize(("sessions", "largest"), [(25, 12), pytest.param(60, 40, marks=pytest.mark.slow)])
def test_hostile_sessions(script, sessions, largest):
    counts = Counter()
    for number in range(sessions):
        counts.update(script.hostile_clients(number, largest=largest, seed=5))
        counts.update(script.hostile_server(number, largest=largest, seed=5))
    assert {name: counts[name] for name in NEVER} == dict.fromkeys(NEVER, 0)
    assert counts["a sum of all that were honest"] > sessions / 3
    assert counts["a sum of as many as promised was read"] > 0


def test_what_secure_strategy_refuses_and_secaggplus_does_not():
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")
    peers = loaded("secagg_peers")
    found = [tuple(outcome() for outcome in outcomes) for outcomes in peers.LIES.values()]
    ours = ["10 of 10 clients refuse", "random words", "named, and the sum of 9 goes on", "where 1 is the greatest", "nothing"]
    flowers = [
        "one client's update is read", "the sum is read", "no sum", "a threshold of 1 is taken",
        "fitres.metrics loss, fitres.num_examples",
    ]  # fmt: skip
    for (mine, theirs), expected, known in zip(found, ours, flowers, strict=True):
        assert expected in mine
        assert known in theirs
    meter = peers.Meter()
    expected = peers.MEAN
    for session in peers.SESSIONS.values():
        assert abs(session(peers.N, peers.D, 0, meter) - expected).max() < 1e-4
