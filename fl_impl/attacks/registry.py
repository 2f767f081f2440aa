"""Attacks by name: the decorator that enters one, and `resolve`, from a spec to the attack it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fl_impl.attacks.base import Attack, Kind, Knowledge
from fl_impl.common.registry import Registry
from fl_impl.common.specs import import_attribute, parse, split

if TYPE_CHECKING:
    from fl_impl.data.labelled import Dataset

ALL: Final[Registry[Attack]] = Registry("an attack", package="fl_impl.attacks", group="pytest_fl.attacks")
"""Every attack by name."""


def attack(
    *,
    kind: Kind = "update",
    knowledge: Knowledge = "omniscient",
    source: str,
    factor: str | None = None,
    goal: Callable[..., Dataset] | None = None,
    before: Attack | None = None,
) -> Callable[[Callable[..., Any]], Attack]:
    """Register a function as an attack under its own name; its keyword-only parameters are its options.

    kind "update": `attack(honest: (n-f, d), f, rng) -> (f, d)`; "data": `attack(data, rng) -> data`; "protocol":
    `attack(update, rng) -> update or None`. The rest is as in Attack. Raises ValueError where the name is taken.
    """

    def register(function: Callable[..., Any]) -> Attack:
        made = Attack(
            function.__name__, kind, function, knowledge, source, factor, goal, before, default_before=before is not None
        )
        ALL.enter(made.name, made, function)
        return made

    return register


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
    if callable(chosen) and not isinstance(chosen, Registry):
        return Attack(getattr(chosen, "__name__", type(chosen).__name__), "update", chosen, source="the user's own")
    raise ValueError(f"expected an attack: a name, an Attack or a function (honest, f, rng); got {chosen!r}")


def _stage(text: str) -> Attack:
    if ":" in text and "(" not in text:
        return resolve(import_attribute(text))
    spec = parse(text)
    chosen = ALL[spec.name]
    options = list(chosen.known_options)
    if len(spec.arguments) > len(options):
        raise ValueError(f"{chosen.name} takes at most {len(options)} options, got {text!r}")
    return chosen.configured(**dict(zip(options, spec.arguments, strict=False)), **spec.options)
