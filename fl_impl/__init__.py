"""Federated learning under attack: aggregators with claims, attacks, federations."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_impl.attacks import ByzantineAttack as ByzantineAttack
    from fl_impl.clients import ClientUpdate as ClientUpdate
    from fl_impl.clients import make_clients as make_clients
    from fl_impl.config import FLConfig as FLConfig
    from fl_impl.coordinator import FederatedLearningCoordinator as FederatedLearningCoordinator
    from fl_impl.metrics import FLMetrics as FLMetrics
    from fl_impl.metrics import RoundResult as RoundResult
    from fl_impl.training.models import Evaluation as Evaluation

_HOMES = {
    "ByzantineAttack": "attacks",
    "ClientUpdate": "clients",
    "Evaluation": "training.models",
    "FLConfig": "config",
    "FLMetrics": "metrics",
    "FederatedLearningCoordinator": "coordinator",
    "RoundResult": "metrics",
    "make_clients": "clients",
}
__all__ = [
    "ByzantineAttack",
    "ClientUpdate",
    "Evaluation",
    "FLConfig",
    "FLMetrics",
    "FederatedLearningCoordinator",
    "RoundResult",
    "make_clients",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fl_impl' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"fl_impl.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *_HOMES})
