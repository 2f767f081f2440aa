"""Attacks by name: on updates, on data, on the protocol; `resolve` reads specs such as "backdoor|model_replacement"."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from fl_impl.attacks import adaptive, data, distances, learnt, mimicry, protocol, updates
from fl_impl.attacks.claims import Attack, attack
from fl_impl.common.specs import import_attribute, lookup, parse, split

__all__ = ["ALL", "Attack", "ByzantineAttack", "attack", "resolve"]


_MODULES = (updates, distances, mimicry, adaptive, data, learnt, protocol)
ALL: Final[dict[str, Attack]] = {
    made.name: made for module in _MODULES for made in vars(module).values() if isinstance(made, Attack)
}
"""Every attack by name."""
ByzantineAttack = StrEnum("ByzantineAttack", {name.upper(): name for name in ALL})
"""The names of ALL as an enum: `ByzantineAttack.SIGN_FLIP`; each is the string that `resolve` reads."""


def resolve(chosen: Any) -> Attack:
    """The attack of a name, an enum member, a spec such as "sign_flip(scale=4)|inflated_count", or "package.module:name".

    An Attack is given back as it is; a plain function (honest, f, rng) becomes an update attack. Raises ValueError for
    anything else, with the nearest name.
    """
    if isinstance(chosen, Attack):
        return chosen
    if isinstance(chosen, str):
        stages = [_stage(part.strip()) for part in split(str(chosen), "|")]
        whole = stages[0]
        for stage in stages[1:]:
            whole |= stage
        return whole
    if callable(chosen):
        return Attack(getattr(chosen, "__name__", type(chosen).__name__), "update", chosen, source="the user's own")
    raise ValueError(f"expected an attack: a name, an Attack or a function (honest, f, rng); got {chosen!r}")


def _stage(text: str) -> Attack:
    if ":" in text and "(" not in text:
        return resolve(import_attribute(text))
    spec = parse(text)
    found = lookup(spec.name, ALL, "an attack")
    options = list(found.known_options)
    if len(spec.arguments) > len(options):
        raise ValueError(f"{found.name} takes at most {len(options)} options, got {text!r}")
    return found.configured(**dict(zip(options, spec.arguments, strict=False)), **spec.options)
