"""Federations inside a test: its own settings, knobs for the rest, and each run once a session."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_fl.plugin.knobs import KNOBS, value
from pytest_fl.reporting.current import RUN
from pytest_fl.reporting.runs import NO_ATTACK, Run

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from fl_impl import FLMetrics

UNSET: Final[Any] = object()
"""Not given, where None says "no attack"."""
DONE: Final[pytest.StashKey[dict[Hashable, FLMetrics]]] = pytest.StashKey()
"""The federations of this session by their settings."""
RESOLVED: Final[pytest.StashKey[dict[tuple[str, str], Any]]] = pytest.StashKey()
"""Rules and attacks by kind and name: one object a name, so that equal settings are seen to be equal."""


@dataclass(frozen=True, repr=False)
class Federate:
    """The factory that `fl_federation` is: `(aggregator, attack, rounds, clients, byzantine, **config) -> FLMetrics`."""

    node: pytest.Item
    aggregator: Any
    attack: Any

    def __call__(
        self,
        *,
        aggregator: Any = UNSET,
        attack: Any = UNSET,
        rounds: int | None = None,
        clients: int | Sequence[Any] | None = None,
        byzantine: float | None = None,
        **config: Any,
    ) -> FLMetrics:
        """Run a federation and leave its figures with the test; equal settings are run once a session.

        Each argument wins over the command line, the marker `fl` and the ini file. aggregator and attack are spec
        strings or objects, attack=None is a clean run; clients is their number or the clients themselves; byzantine is
        the fraction that the aggregator is to tolerate, and that attacks; other keywords are fields of FLConfig.
        """
        number = clients if clients is None or isinstance(clients, int) else len(clients)
        said = {"num_rounds": rounds, "num_clients": number, "byzantine_fraction": byzantine}
        settings = {
            **knob_settings(self.node),
            **{field: given for field, given in said.items() if given is not None},
            "aggregation": resolved(self.node, "aggregator", self.aggregator if aggregator is UNSET else aggregator),
            "attack": resolved(self.node, "attack", self.attack if attack is UNSET else attack),
            **config,
        }
        start = time.perf_counter()
        metrics = _once(self.node, settings, None if isinstance(clients, int) else clients)
        run = _run(settings, metrics, time.perf_counter() - start)
        self.node.user_properties.append((RUN, run.to_json()))
        return metrics

    def __repr__(self) -> str:
        return f"<fl_federation {name_of(self.aggregator)} {name_of(self.attack)}>"


def knob_settings(node: pytest.Item) -> dict[str, Any]:
    """The fields of FLConfig that knobs turn."""
    return {knob.field: value(knob.name, node.config, node) for knob in KNOBS.values() if knob.field}


def resolved(node: pytest.Item, kind: str, given: Any) -> Any:
    """The rule or attack of that name, the same object each time; objects and None as they are.

    Raises ValueError for a name that is none.
    """
    if not isinstance(given, str):
        return given
    known = node.config.stash.setdefault(RESOLVED, {})
    if (kind, given) not in known:
        known[kind, given] = _resolve(kind, given)
    return known[kind, given]


def _resolve(kind: str, name: str) -> Any:
    from fl_impl import aggregators, attacks  # noqa: PLC0415  # numpy is imported by the tests that ask for a rule

    if kind == "attack" and name == NO_ATTACK:
        return None
    return (aggregators if kind == "aggregator" else attacks).resolve(name)


def _once(node: pytest.Item, settings: dict[str, Any], clients: Sequence[Any] | None) -> FLMetrics:
    """The metrics of these settings, computed anew only where clients are given or a setting cannot be compared."""
    done, key = node.config.stash.setdefault(DONE, {}), tuple(sorted(settings.items()))
    if clients is not None or not _hashable(key):
        return _federate(settings, clients)
    if key not in done:
        done[key] = _federate(settings, None)
    return done[key]


def _hashable(key: object) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _federate(settings: dict[str, Any], clients: Sequence[Any] | None) -> FLMetrics:
    from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients  # noqa: PLC0415  # they import torch

    config = FLConfig(**settings)
    chosen = make_clients(config) if clients is None else clients
    return FederatedLearningCoordinator(config).run(chosen, output=None)


def _run(settings: dict[str, Any], metrics: FLMetrics, seconds: float) -> Run:
    last = metrics.rounds[-1]
    setting = repr(sorted((field, name_of(said)) for field, said in settings.items() if not field.startswith("attack")))
    return Run(
        aggregator=name_of(settings["aggregation"]),
        attack=name_of(settings["attack"]),
        rounds=len(metrics.rounds),
        clients=settings["num_clients"],
        byzantine=last.f,
        accuracy=last.accuracy,
        loss=last.global_loss,
        seconds=seconds,
        setting=hashlib.sha256(setting.encode()).hexdigest()[:12],
    )


def name_of(given: Any) -> str:
    """What a table calls a rule, an attack or any other setting."""
    if given is None:
        return NO_ATTACK
    for attribute in ("spec", "name", "__qualname__"):
        name = getattr(given, attribute, None)
        if isinstance(name, str):
            return name
    return str(given)
