"""Attacks by name: on updates, on data, on the protocol; `resolve` reads specs such as "backdoor|model_replacement"."""

from __future__ import annotations

from enum import StrEnum

from fl_impl.attacks import adaptive, data, learnt, mimicry, min_max, protocol, updates
from fl_impl.attacks.base import Attack, attack
from fl_impl.attacks.registry import ALL, resolve

__all__ = ["ALL", "Attack", "ByzantineAttack", "attack", "resolve"]

for _module in (updates, min_max, mimicry, adaptive, data, learnt, protocol):
    ALL.update({made.name: made for made in vars(_module).values() if isinstance(made, Attack)})
ByzantineAttack = StrEnum("ByzantineAttack", {name.upper(): name for name in ALL})
"""The names of ALL as an enum: `ByzantineAttack.SIGN_FLIP`; each is the string that `resolve` reads."""
