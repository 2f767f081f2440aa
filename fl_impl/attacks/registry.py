"""Attacks by name: the table of all of them, and `resolve`, from a spec to the attack it stands for."""

from __future__ import annotations

from typing import Any, Final

from fl_impl.attacks.base import Attack
from fl_impl.common.specs import import_attribute, lookup, parse, split

ALL: Final[dict[str, Attack]] = {}
"""Every attack by name."""


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
