"""Attacks by name: on updates, on data, on the protocol; `resolve` reads specs such as "backdoor|model_replacement"."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from fl_impl.attacks.base import Attack
from fl_impl.attacks.registry import ALL, attack, resolve

if TYPE_CHECKING:
    ByzantineAttack: Any
    """The names of ALL as an enum, made at first use: `ByzantineAttack.SIGN_FLIP` is the string that `resolve` reads."""

__all__ = ["ALL", "Attack", "ByzantineAttack", "attack", "resolve"]


def __getattr__(name: str) -> Any:
    if name != "ByzantineAttack":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = StrEnum(name, {attack.upper(): attack for attack in ALL}, module=__name__)
    return globals()[name]
