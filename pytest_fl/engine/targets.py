"""What a user handed over to be judged, before anything of it is called."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Unpack

from pytest_fl.adapters import as_subject
from pytest_fl.adapters.functions import named
from pytest_fl.adapters.options import Options
from pytest_fl.adapters.parts import as_part
from pytest_fl.checks import Check, all_checks
from pytest_fl.checks.histories import HistoryCheck, history_checks
from pytest_fl.checks.parts import Audit, audits_of
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_fl.subjects.parts import Part


@dataclass(frozen=True, eq=False)
class Target:
    """A rule, or another part, as it was handed over, and what is claimed for it."""

    thing: object
    claims: Mapping[str, Any]
    """Keywords of `as_subject`; None where one is not given."""
    part: Part | None
    label: str = ""
    """The name that tells it from others; empty where its own does."""

    @property
    def name(self) -> str:
        """A short name, found without calling anything."""
        if self.label:
            return self.label
        if self.part is not None:
            return self.part.name
        if isinstance(self.thing, Subject):
            return self.thing.name
        if type(self.thing).__module__.startswith("fl_impl."):  # our own rules, whose spec tells them apart
            return str(getattr(self.thing, "spec", named(self.thing)))
        return self.thing.rpartition(":")[2] if isinstance(self.thing, str) else named(self.thing)

    def subject(self) -> Subject | Part:
        """What the checks are told of. Calls the rule, to find how it is called. Raises ValueError where it is none."""
        if self.part is not None:
            return self.part
        subject = as_subject(self.thing, **self.claims)
        return replace(subject, name=self.label) if self.label else subject

    def checks(self, names: Iterable[str] | None = None, skip: Iterable[str] = ()) -> list[Check | Audit | HistoryCheck]:
        """The checks of this kind of subject, or those of these names, without those to skip.

        Raises ValueError with the nearest name for an unknown one.
        """
        from fl_impl.common.specs import lookup  # noqa: PLC0415  # fl_impl is loaded when a check is chosen

        if self.part is not None:
            all_of_kind = audits_of(self.part)
        else:
            all_of_kind = history_checks().values() if self.claims.get("stateful") else all_checks().values()
        known: dict[str, Check | Audit | HistoryCheck] = {check.name: check for check in all_of_kind}
        wanted = known.values() if names is None else [lookup(name, known, "the name of a check") for name in names]
        left_out = {lookup(name, known, "the name of a check").name for name in skip}
        return [check for check in wanted if check.name not in left_out]


def target(thing: object, **claims: Unpack[Options]) -> Target:
    """The part that `as_part` takes `thing` for, or else the rule that `as_subject` will: of a string, the rule first.

    Raises ValueError for claims that are made for a part that is no rule, and for what can be called in no way.
    """
    part = _part(thing)
    given = [name for name, value in claims.items() if value is not None]
    if part is not None and given:
        raise ValueError(f"expected {', '.join(given)} for an aggregator only; {part.name} is a {type(part).__name__}")
    return Target(thing, claims, part)


KNOWN: Final[dict[str, object]] = {}
"""Name -> the first thing of that name in this test run."""


def distinct(targets: Sequence[Target], ids: Sequence[str] | None = None) -> list[Target]:
    """The targets, each under a name of its own: the one in `ids`, or its module or settings where another has its name.

    Raises ValueError for a number of ids that is not that of the targets, and for one that comes twice.
    """
    if ids is not None:
        if len(ids) != len(targets) or len(set(ids)) < len(ids):
            raise ValueError(f"expected {len(targets)} different ids, one for each thing to judge, got {list(ids)!r}")
        return [replace(one, label=str(name)) for one, name in zip(targets, ids, strict=True)]
    return [_apart(one) for one in targets]


def _apart(one: Target) -> Target:
    for name in _names(one):
        if _same(KNOWN.setdefault(name, one.thing), one.thing):
            return one if name == one.name else replace(one, label=name)
    return one


def _names(one: Target) -> Iterator[str]:
    """Its own name, then longer ones: with its settings, with its module, with a number."""
    thing = one.thing
    yield one.name
    settings = ", ".join(f"{key}={value!r}" for key, value in _settings(thing).items())
    if settings:
        yield f"{one.name.removesuffix('()')}({settings})"[:80]
    module = getattr(thing, "__module__", None) or type(thing).__module__
    yield f"{module}.{one.name}"
    yield from (f"{one.name}#{number}" for number in range(2, 1000))


def _settings(thing: object) -> dict[str, object]:
    values: Mapping[str, object] = getattr(thing, "__dict__", {}) if not inspect.isroutine(thing) else {}
    return {key: value for key, value in values.items() if isinstance(value, int | float | str) and not key.startswith("_")}


def _same(one: object, other: object) -> bool:
    """The same thing, or the same definition read again, as after a reload."""
    if one is other or (isinstance(one, str) and one == other):
        return True
    where = [(getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)) for thing in (one, other)]
    if where[0] == where[1] and where[0][1] is not None and "<" not in str(where[0][1]):
        return True
    return type(one) is type(other) and _alike(one, other)


def _alike(one: object, other: object) -> bool:
    """Objects of one class whose settings are equal are judged alike; functions are not."""
    return not inspect.isroutine(one) and bool(_settings(one)) and _settings(one) == _settings(other)


def _part(thing: object) -> Part | None:
    if isinstance(thing, str) and (":" in thing or not _is_compression(thing)):
        return None
    try:
        return as_part(thing)
    except ValueError:
        return None


def _is_compression(spec: str) -> bool:
    from fl_impl.compression import ALIASES, CODECS  # noqa: PLC0415  # fl_impl is loaded when a check is chosen

    last = spec.rpartition("|")[2].partition("(")[0].strip()
    return last in CODECS or last in ALIASES
