"""What a user handed over to be judged, before anything of it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from pytest_fl.adapters import as_subject
from pytest_fl.adapters.functions import named
from pytest_fl.adapters.options import Options
from pytest_fl.adapters.parts import as_part
from pytest_fl.checks import Check, all_checks
from pytest_fl.checks.histories import HistoryCheck, history_checks
from pytest_fl.checks.parts import Audit, audits_of
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_fl.subjects.parts import Part


@dataclass(frozen=True, eq=False)
class Target:
    """A rule, or another part, as it was handed over, and what is claimed for it."""

    thing: object
    claims: Mapping[str, Any]
    """Keywords of `as_subject`; None where one is not given."""
    part: Part | None

    @property
    def name(self) -> str:
        """A short name, found without calling anything."""
        if self.part is not None:
            return self.part.name
        if isinstance(self.thing, Subject):
            return self.thing.name
        if type(self.thing).__module__.startswith("fl_impl."):  # our own rules, whose spec tells them apart
            return str(getattr(self.thing, "spec", named(self.thing)))
        return self.thing.rpartition(":")[2] if isinstance(self.thing, str) else named(self.thing)

    def subject(self) -> Subject | Part:
        """What the checks are told of. Calls the rule, to find how it is called. Raises ValueError where it is none."""
        return as_subject(self.thing, **self.claims) if self.part is None else self.part

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
