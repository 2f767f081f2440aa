"""Anybody's aggregator as a subject: `as_subject`, and one small module a library.

An adapter is one function, `@adapter("package")`, in a module of this folder, or of another distribution that names it
as an entry point in the group `pytest_fl.adapters`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

from pytest_fl.adapters import functions, ours
from pytest_fl.adapters.options import Options
from pytest_fl.adapters.process import command
from pytest_fl.adapters.registry import adapted, adapter
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    from pytest_fl.subjects.memory import Memory

__all__ = ["adapter", "as_subject", "command"]

CALLING: Final = frozenset({"form", "result", "root", "f"})
"""Options that say how a rule is called."""
OVER_ROUNDS: Final = ("warm_up", "within", "influence", "step", "recovers")
"""Options that say what holds of a rule with memory: the fields of `Memory`."""


def as_subject(aggregator: object, **options: Unpack[Options]) -> Subject:
    """The subject of an aggregator of any kind, with what its library documents and what the caller claims for it.

    `aggregator`: a function `rule(updates)` or `rule(updates, f)` over numpy, torch, JAX, lists, state dicts or any other
    form of `adapters.containers.FORMS`; a class built for each f; a configured object; a tuple of pre-aggregators and a
    rule; a strategy or function of Flower, a rule of ByzFL, byzpy or krum; an `Aggregator` of fl_impl; a spec
    (`"nnm|trimmed_mean"`, `"package.module:attribute"`); a `command`. `options`: see `adapters.options.Options`;
    `claims="krum"` holds it to the definition and constants of the convention of Krum that it follows, and what is given
    beside it goes before. Raises ValueError for what is none of these, and for options of the wrong kind.
    """
    known = Options(**{name: value for name, value in options.items() if value is not None})  # type: ignore[typeddict-item]
    subject = _subject_of(aggregator, known)
    claims, min_clients, kappa, symmetries = (
        known.get("claims"), known.get("min_clients"), known.get("kappa"), known.get("symmetries"),
    )  # fmt: skip
    if claims is not None:
        from pytest_fl.adapters.claiming import claiming  # noqa: PLC0415  # the bounds are loaded when somebody claims one

        subject = claiming(subject, claims)
    changes: dict[str, Any] = {}
    if min_clients is not None:
        changes["min_clients"] = _function_of("min_clients", min_clients, "f", 1)
    if kappa is not None:
        changes["kappa"] = _function_of("kappa", kappa, "n, f", 5, 1)
        changes["exact"] = False
    if known.get("stateful"):
        changes["memory"] = _memory(known)
    elif said := sorted(known.keys() & set(OVER_ROUNDS)):
        raise ValueError(f"expected stateful=True beside {', '.join(said)}: it is claimed of a rule with memory")
    if symmetries is not None:
        changes["symmetries"] = _known(symmetries)
    return replace(subject, **changes)


def _subject_of(aggregator: object, options: Options) -> Subject:
    if isinstance(aggregator, Subject):
        return aggregator
    if isinstance(aggregator, str):
        return _spec(aggregator, options)
    if options.get("stateful"):
        return ours.remembering(aggregator) or functions.subject(aggregator, options=options)
    by_library = adapted(aggregator)
    if by_library is None:
        return functions.subject(aggregator, options=options)
    if said := sorted(CALLING & options.keys()):
        raise ValueError(f"expected {', '.join(said)} for a rule of your own only; {by_library.name} is called by its adapter")
    return by_library


def _spec(text: str, options: Options) -> Subject:
    """A rule of fl_impl by name, or what stands at `module:name`, `module:name(option=1)`, `module:step|module:rule`."""
    from fl_impl.common.specs import split  # noqa: PLC0415  # fl_impl is loaded when a rule is needed, not when the plugin is

    parts = split(text, "|")
    if not all(":" in part.partition("(")[0] for part in parts):
        found = ours.of_spec(text)
        return ours.remembering(ours.rule_of(text)) or found if options.get("stateful") else found
    steps = tuple(_imported(part.strip()) for part in parts)
    return _subject_of(steps if len(steps) > 1 else next(iter(steps)), options)


def _imported(text: str) -> object:
    """What stands at `module:name`; with arguments, a `functools.partial` that binds them."""
    from fl_impl.common import specs  # noqa: PLC0415  # see above

    if "(" not in text:
        return specs.import_attribute(text)
    module, _, call = text.partition(":")
    spec = specs.parse(call)
    made: Any = specs.import_attribute(f"{module}:{spec.name}")
    return partial(made, *spec.arguments, **spec.options) if spec.arguments or spec.options else made


def _memory(options: Options) -> Memory:
    """What is claimed over rounds. Raises ValueError for what is no number of rounds, no length and no function."""
    from pytest_fl.subjects.memory import Memory  # noqa: PLC0415  # it needs the guard, which few subjects do here

    said: dict[str, Any] = {name: options.get(name) for name in OVER_ROUNDS if options.get(name) is not None}
    for name in ("warm_up", "recovers"):
        if name in said and not (isinstance(said[name], int) and said[name] >= 0):
            raise ValueError(f"expected {name} to be a number of rounds from 0, got {said[name]!r}")
    for name in ("within", "step"):
        if name in said and not (isinstance(said[name], int | float) and said[name] >= 0):
            raise ValueError(f"expected {name} to be a number from 0, got {said[name]!r}")
    if "influence" in said:
        _function_of("influence", said["influence"], "n, f", 5, 1)
    return Memory(**said)


def _function_of(name: str, function: Any, arguments: str, *example: int) -> Any:
    try:
        float(function(*example))
    except (TypeError, ValueError) as error:
        given = f"{function!r}, which raised {error}" if callable(function) else f"{function!r}"
        raise ValueError(f"expected {name} to be a function of {arguments} that gives a number, got {given}") from error
    return function


def _known(symmetries: Iterable[str]) -> frozenset[str]:
    from fl_impl.aggregators.base import SYMMETRIES  # noqa: PLC0415  # see above
    from fl_impl.common.specs import nearest  # noqa: PLC0415  # see above

    names = frozenset([symmetries] if isinstance(symmetries, str) else symmetries)
    for name in sorted(names - SYMMETRIES):
        raise ValueError(f"expected symmetries out of those known, got {name!r}{nearest(name, SYMMETRIES)}")
    return names
