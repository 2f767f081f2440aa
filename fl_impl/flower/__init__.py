"""Federations beyond one machine, on Flower: rules and attacks for any Flower app, and an engine for an `FLConfig`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fl_impl.flower.backend import engine as engine
    from fl_impl.flower.local_noise import local_noise_mod as local_noise_mod
    from fl_impl.flower.mod import byzantine_mod as byzantine_mod
    from fl_impl.flower.runs import run_app as run_app
    from fl_impl.flower.secure_members import make_federation as make_federation
    from fl_impl.flower.secure_mod import secure_mod as secure_mod
    from fl_impl.flower.secure_strategy import SecureStrategy as SecureStrategy
    from fl_impl.flower.strategy import RobustStrategy as RobustStrategy

HOMES: Final = {
    "RobustStrategy": "strategy",
    "SecureStrategy": "secure_strategy",
    "byzantine_mod": "mod",
    "engine": "backend",
    "local_noise_mod": "local_noise",
    "make_federation": "secure_members",
    "run_app": "runs",
    "secure_mod": "secure_mod",
}
__all__ = [
    "RobustStrategy",
    "SecureStrategy",
    "byzantine_mod",
    "engine",
    "local_noise_mod",
    "make_federation",
    "run_app",
    "secure_mod",
]


def __getattr__(name: str) -> Any:
    """Import a public name, and with it flwr, when it is first used (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module 'fl_impl.flower' has no attribute {name!r} (public: {', '.join(__all__)})")
    from fl_impl.flower.quiet import prepare  # noqa: PLC0415  # before flwr is imported

    prepare()
    found = getattr(importlib.import_module(f"fl_impl.flower.{HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
