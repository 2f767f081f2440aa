"""The fixtures `fl_*`: knobs, simulated clients, an attacked round, and federations that fit inside a unit test."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_fl.plugin.federations import Federate, knob_settings, resolved
from pytest_fl.plugin.knobs import KNOBS, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from fl_impl.aggregators import Aggregator
    from fl_impl.attacks import Attack
    from fl_impl.clients import SimulatedClient
    from pytest_fl.subjects.round import Round

DIMENSION: Final = 64
"""Of `fl_round`: enough for directions to matter, little enough to print."""


def _knob(name: str) -> Callable[..., Any]:
    def fixture(request: pytest.FixtureRequest) -> Any:
        return value(name, request.config, request.node)

    fixture.__doc__ = f"{KNOBS[name].help.capitalize()}: --fl-{name}, fl({name}=...), ini fl_{name}."
    return pytest.fixture(name=f"fl_{name}")(fixture)


@pytest.fixture
def fl_aggregator(request: pytest.FixtureRequest) -> Aggregator:
    """The rule of --fl-aggregator, called as `rule(updates, f)`; several names run the test once for each."""
    return _named(request, "aggregator")


@pytest.fixture
def fl_attack(request: pytest.FixtureRequest) -> Attack | None:
    """The attack of --fl-attack, None for "none"; several names run the test once for each."""
    return _named(request, "attack")


def _named(request: pytest.FixtureRequest, kind: str) -> Any:
    given = getattr(request, "param", None) or value(kind, request.config, request.node)[0]
    try:
        return resolved(request.node, kind, given)
    except ValueError as error:
        pytest.fail(f"fl_{kind}: {error}", pytrace=False)


@pytest.fixture
def fl_clients(request: pytest.FixtureRequest) -> list[SimulatedClient]:
    """Simulated clients on real data: --fl-clients of them, as `make_clients` makes them for these knobs."""
    from fl_impl import FLConfig, make_clients  # noqa: PLC0415  # they import torch

    return make_clients(FLConfig(**knob_settings(request.node)))


@pytest.fixture
def fl_federation(request: pytest.FixtureRequest, fl_aggregator: Aggregator, fl_attack: Attack | None) -> Federate:
    """`fl_federation(aggregator=..., attack=..., rounds=..., clients=..., byzantine=..., **config) -> FLMetrics`.

    Runs a federation on real data; what is not given comes from the knobs. Equal settings are run once a session.
    """
    return Federate(request.node, fl_aggregator, fl_attack)


@pytest.fixture
def fl_round(request: pytest.FixtureRequest, fl_attack: Attack | None) -> Round:
    """One round: --fl-clients updates around a common drift, floor(--fl-byzantine n) of them made by the attack.

    `fl_round.updates` (n, 64), `.f`, `.byzantine` (their rows), `.honest`; the same for the same seed and test.
    """
    import numpy as np  # noqa: PLC0415  # only who asks for a round pays for it

    from fl_impl.common.counts import floor_of  # noqa: PLC0415  # the same
    from pytest_fl.subjects.round import Round  # noqa: PLC0415  # the same

    n = value("clients", request.config, request.node)
    f = floor_of(value("byzantine", request.config, request.node), n)
    seed = value("seed", request.config, request.node)
    rng = np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])
    updates = rng.normal(size=DIMENSION) + rng.normal(size=(n, DIMENSION))
    rows = sorted(rng.choice(n, f, replace=False).tolist())
    if fl_attack is None:
        return Round(updates, f, (), "no attack")
    if fl_attack.kind != "update":
        pytest.fail(f"fl_round: {fl_attack.name} acts on {fl_attack.kind}, not on updates: use fl_federation", pytrace=False)
    updates[rows] = fl_attack(np.delete(updates, rows, axis=0), f, rng, own=updates[rows])
    return Round(updates, f, tuple(rows), fl_attack.spec)


for _name in KNOBS:  # the fixture of every knob that has none of its own above is the knob's value
    globals().setdefault(f"fl_{_name}", _knob(_name))
