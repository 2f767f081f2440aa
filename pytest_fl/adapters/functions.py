"""Anybody's function, class or configured object as a subject: how it is called is read from its signature."""

from __future__ import annotations

import asyncio
import copy
import inspect
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from pytest_fl.adapters.containers import Form, form_named, forms
from pytest_fl.adapters.fitting import as_it_is, narrowed, padded, then
from pytest_fl.adapters.handing import in_other_memory, in_other_ways
from pytest_fl.adapters.models import Layout, layout_of, one_layer, several_layers
from pytest_fl.adapters.options import Options
from pytest_fl.adapters.readings import Reading
from pytest_fl.adapters.registry import origin
from pytest_fl.adapters.signatures import Fixed, Telling, fixed_in, makes_objects, telling
from pytest_fl.adapters.trial import EXAMPLES, Apply, D, FormTrial, Root, Way, layered, refused, refuses_float64, tried
from pytest_fl.subjects.subject import Subject, majority

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from pytest_fl.adapters.fitting import Call
    from pytest_fl.subjects.subject import Updates

METHODS: Final = (
    "__call__", "aggregate", "aggregate_vectors", "aggregate_updates", "aggregate_models", "aggregate_weights",
    "aggregate_parameters", "aggregate_gradients", "aggregate_fit", "pre_aggregate", "aggregation",
)  # fmt: skip
"""Methods of an object that may be the rule, in the order in which they are looked for; then any one with aggregat in it."""


@dataclass(frozen=True)
class Stage:
    """A rule, or a step before one."""

    apply: Apply
    how: str
    """How it is told f, in a few words."""
    fixed: Fixed | None = None
    """The f of a configured object."""
    counts: bool = False
    """Whether it is told sample counts beside the updates."""
    root: bool = False
    """Whether it is told the server's own update."""


def subject(
    rule: object, *, form: str | None = None, min_clients: Callable[[int], int] = majority, prefix: str = "",
    conventions: str = "", options: Options | None = None,
) -> Subject:  # fmt: skip
    """The subject of a function, a class built for each f, a configured object, or a tuple of those as a pipe.

    `form` names one of `containers.FORMS` where it is known; otherwise it is found by trying.
    Raises ValueError where the signature leaves open how the rule is called.
    """
    said = options or Options()
    needed = said.get("min_clients") or min_clients
    stage = staged(rule, said)
    fixed = stage.fixed
    f = fixed.f if fixed and fixed.f is not None else 1
    n = max(needed(f) if callable(needed) else 0, 4 * f + 7)
    copied = _copied(rule, said)
    if said.get("stateful"):  # every call below is the first of an object
        stage = copied = _forgetful(stage, rule, said)
    trial = _tried(copied, said, n, f, form)
    way = trial.way or Way(next(forms()), root=_root(stage, said))
    call = _calling(stage.apply, way) if trial.way else _retried(stage, said)
    facts = [stage.how, str(way.reading)]
    changes: dict[str, Any] = {}
    fit: Callable[[Call], Call] = as_it_is
    if trial.way and trial.d != D:
        fit, changes["most_d"] = partial(padded, size=trial.d), trial.d
        facts.append(f"made for {trial.d} coordinates")
    if trial.way and not trial.hung and way.form.layered and "most_d" not in changes:
        several, treatment = layered(copied.apply, way, n, f)
        changes["layered_call"] = several and _calling(stage.apply, several)
        changes["layers"] = treatment
        facts.append(treatment)
    if trial.way and way.form.carries_counts | stage.counts:
        changes["call_with_counts"] = partial(_counted, stage.apply, way)
    if trial.way and not trial.hung and refuses_float64(copied.apply, way, n, f, trial.d):
        fit, changes["float32_only"] = then(fit, narrowed), True
        facts.append("takes float32 only")
    call = fit(call)
    if trial.way and way.form.name == "torch tensor" and not changes:
        changes["tensor_call"] = partial(_differentiably, stage.apply, way)
    if trial.way and (renew := _renewing(rule, said)) is not None:
        changes["renew"] = lambda: fit(_calling(renew().apply, way))
    if said.get("stateful"):
        facts.append("made anew for each history")
    called = ", ".join(filter(None, (f"called as {named(rule)}({way.form.name})", *facts)))
    return Subject(
        name=".".join(filter(None, (prefix, named(rule)))),
        call=call,
        container=way.form.container if trial.way else "numpy",
        min_clients=min_clients,
        fixed_f=fixed.f if fixed else None,
        admits=fixed.admits if fixed and fixed.fraction is not None else None,
        conventions="; ".join(filter(None, (conventions, stage.how, trial.way and f"given a {way.form.name}"))),
        called=called,
        other_ways=in_other_ways(rule, stage.apply, way) if trial.way and trial.d == D else {},
        other_memory=in_other_memory(stage.apply, way) if trial.way and trial.d == D else {},
        first=trial.first,
        details={**origin(rule), "form": way.form.name if trial.way else ""},
        **changes,
    )


def refuse_alone(rule: object, is_step: bool, example: str) -> None:
    """Raise ValueError where what stands last is a pre-aggregator: it gives n vectors, not one."""
    if is_step:
        raise ValueError(f"expected a rule, got the pre-aggregator {named(rule)}: put a rule after it, as in {example}")


def _copied(rule: object, said: Options) -> Stage:
    """A copy for the trial: what that leaves in the object must not reach the checks."""
    with suppress(Exception):  # objects refuse to be copied in many ways; then the trial takes the object itself
        return staged(copy.deepcopy(rule), said)
    return staged(rule, said)


def _renewing(rule: object, said: Options) -> Callable[[], Stage] | None:
    """-> the stage of an object made anew: a class is built again, an object copied as it was handed over."""
    if inspect.isroutine(rule) and not inspect.ismethod(rule) and not (said.get("stateful") and makes_objects(rule)):
        return None
    try:
        pristine = copy.deepcopy(rule)
    except Exception:  # noqa: BLE001  # objects refuse to be copied in many ways
        return None
    return lambda: staged(copy.deepcopy(pristine), said)


def _forgetful(stage: Stage, rule: object, said: Options) -> Stage:
    """The stage with an object of its own for each call. Raises ValueError where none can be made."""
    renew = _renewing(rule, said)
    if renew is None:
        raise ValueError(
            f"expected a class, a factory such as lambda: Rule(), or an object that can be copied, with stateful=True; got "
            f"{named(rule)}, of which no new one can be made for each history"
        )
    return replace(stage, apply=lambda *told: renew().apply(*told))


def _tried(stage: Stage, said: Options, n: int, f: int, form: str | None) -> FormTrial:
    """The form, found by trying."""
    if form:
        return FormTrial(Way(form_named(form), root=_root(stage, said)))  # the library's adapter knows
    return tried(stage.apply, n, f, _ways(stage, said))


def _ways(stage: Stage, said: Options) -> Iterator[Way]:
    """The ways to try: all forms, or the one that the caller says; clients of one layer first, then of several."""
    wanted, result = said.get("form"), said.get("result")
    layouts: tuple[Layout, ...] = (one_layer, several_layers)
    if isinstance(wanted, str):
        chosen = [form_named(wanted)]
    elif wanted is not None:
        layers = layout_of(wanted)
        size = sum(layer.size for layer in layers)
        layouts = (lambda d: layers if d == size else one_layer(d),)
        chosen = [form for form in forms() if form.layered]
    else:
        chosen = list(forms())
    for layout in layouts:
        for form in chosen:
            if layout is one_layer or form.layered:
                yield Way(form, layout, _reading(result), _root(stage, said))


def _reading(result: Any) -> Reading:
    """How the caller says that the result is read."""
    if result is None:
        return Reading()
    if callable(result):
        return Reading("own", own=result)
    if result in {"index", "mask", "indices", "weights", "client"}:
        return Reading(result, own=None, path=())
    return Reading("own", own=lambda value: getattr(value, result) if hasattr(value, str(result)) else value[result])


def _root(stage: Stage, said: Options) -> Root:
    """What the server learnt from data of its own: the caller's function, else the median of the updates that are numbers."""
    if not stage.root:
        return None
    given = said.get("root")
    return given if callable(given) else _median_of_numbers


def _median_of_numbers(updates: Updates) -> Updates:
    finite = updates[np.isfinite(updates).all(axis=1)]
    return np.median(finite if len(finite) else np.zeros_like(updates), axis=0).astype(updates.dtype)


def _calling(apply: Apply, way: Way) -> Callable[[Updates, int], Any]:
    return lambda updates, f: way.call(apply, updates, f, [EXAMPLES] * len(updates))


def _counted(apply: Apply, way: Way, updates: Updates, f: int, counts: list[int]) -> Any:
    return way.call(apply, updates, f, counts)


def _differentiably(apply: Apply, way: Way, updates: Any, f: int) -> Any:
    n = len(updates)
    return apply(updates, n, f, [EXAMPLES] * n, way.root)


def _retried(stage: Stage, said: Options) -> Callable[[Updates, int], Any]:
    """The rule in the first form in which it does not raise, tried anew at each call; then what each attempt raised."""
    ways = list(_ways(stage, said))

    def call(updates: Updates, f: int) -> Any:
        errors = list[tuple[str, BaseException]]()
        for way in ways:
            try:
                given = way.form.give(updates, [EXAMPLES] * len(updates), way.layout)
                return stage.apply(given, len(updates), f, [EXAMPLES] * len(updates), way.own(updates))
            except Exception as error:  # noqa: BLE001  # foreign code raises anything
                errors.append((str(way), error))
        if len({(type(error), str(error)) for _, error in errors}) == 1:  # the same mistake in each form: it is the rule's own
            raise errors[0][1]
        raise ValueError(f"expected a rule that takes (n, d) updates in one of these forms: {refused(errors)}")

    return call


def staged(rule: object, said: Options | None = None) -> Stage:
    """How a function, a class, a configured object, or a tuple of them is called."""
    options = said or Options()
    f = options.get("f")
    stage = _staged(rule, options)
    if isinstance(f, int):
        fixed = Fixed(f"f={f}", f=f)
        return replace(stage, fixed=fixed, how=f"{stage.how}, {fixed}" if stage.fixed is None else str(fixed))
    return stage


def _staged(rule: object, said: Options) -> Stage:
    if isinstance(rule, tuple):
        return _pipe([_staged(step, said) for step in rule])
    if inspect.isclass(rule) or (isinstance(rule, partial) and inspect.isclass(rule.func)):
        return _class(rule, said)
    if said.get("stateful") and makes_objects(rule):
        return _class(cast("Any", rule), said)
    if inspect.isroutine(rule) or isinstance(rule, partial):
        return _function(rule, said)
    return _function(method(rule), said)


def _pipe(stages: list[Stage]) -> Stage:
    """Pre-aggregators and a rule, one after the other, each told f in its own way."""
    fixed = {stage.fixed for stage in stages if stage.fixed}
    if not stages or len(fixed) > 1:
        got = ", ".join(map(str, fixed)) or "an empty one"
        raise ValueError(f"expected a tuple of steps for one f, the rule last; got {got}")

    def apply(updates: Any, _n: int, f: int, counts: Sequence[int], root: Any) -> Any:
        for stage in stages:
            updates = stage.apply(updates, len(updates), f, counts[: len(updates)], root)
        return updates

    return Stage(
        apply, ", then ".join(dict.fromkeys(stage.how for stage in stages)), fixed.pop() if fixed else None,
        any(stage.counts for stage in stages), any(stage.root for stage in stages),
    )  # fmt: skip


def method(instance: object) -> Callable[..., Any]:
    """The method of an object that is its rule. Raises ValueError where it has none, or several that may be it."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(instance, torch.nn.Module):
        return instance.forward  # type: ignore[attr-defined]  # every Module has it; its __call__ hides the signature
    for name in METHODS:
        if callable(known := getattr(instance, name, None)):
            return known
    alike = [name for name in dir(type(instance)) if "aggregat" in name.lower() and not name.startswith("_")]
    if len(alike) == 1:
        return getattr(instance, alike[0])
    public = [name for name in dir(type(instance)) if not name.startswith("_") and callable(getattr(instance, name, None))]
    remedy = f"; pass one of its methods: {', '.join(alike or public[:8])}" if alike or (public and _is_own(instance)) else ""
    raise ValueError(
        "expected an aggregator: a function rule(updates, f), a class or object with __call__ or aggregate, a Flower "
        f'strategy, or a spec such as "krum" or "package.module:attribute"; got {type(instance).__name__}: {instance!r}{remedy}'
    )


def _is_own(instance: object) -> bool:
    return type(instance).__module__ != "builtins"


def _function(function: Callable[..., Any], said: Options) -> Stage:
    named_f = said.get("f")
    told = telling(function, True, named_f if isinstance(named_f, str) else None, _root_of(said))
    fixed = None if told.told else told.fixed or fixed_in(getattr(function, "__self__", None))
    bound = named_f if isinstance(named_f, int) else None

    def apply(updates: Any, n: int, f: int, counts: Sequence[int], root: Any) -> Any:
        positional, keywords = told.arguments(n, f if bound is None else bound)
        if told.counts:
            keywords[told.counts] = list(counts)
        if told.root:
            keywords[told.root] = root
        if told.updates:
            keywords[told.updates] = updates
            return _awaited(function(*positional, **keywords))
        return _awaited(function(updates, *positional, **keywords))

    return Stage(apply, str(fixed or told), fixed, bool(told.counts), bool(told.root))


def _root_of(said: Options) -> str | bool:
    given = said.get("root")
    return given if isinstance(given, str) else given is not None and given is not False


def _awaited(result: Any) -> Any:
    """The result of a coroutine, run on an event loop of its own."""
    if not inspect.iscoroutine(result):
        return result
    return asyncio.run(result)


def _class(kind: Callable[..., Any], said: Options) -> Stage:
    named_f = said.get("f")
    told = telling(kind, False, named_f if isinstance(named_f, str) and named_f in _parameters(kind) else None)
    if told.told or told.fixed or told.n:
        how, fixed = str(told.fixed or f"built for each f, {told}"), told.fixed
        counts = root = False
        with suppress(Exception):  # it may be that no object can be built for (11, 1); the trial says so
            sample = _function(method(kind(**told.arguments(11, 1)[1])), said)
            counts, root = sample.counts, sample.root
    else:
        sample = _function(method(_made(kind)), said)
        how, fixed, counts, root = sample.how, sample.fixed, sample.counts, sample.root
    build = objects(kind, told)

    def apply(updates: Any, n: int, f: int, counts: Sequence[int], root: Any) -> Any:
        bound = _function(method(build(n, f, row_kind(updates))), said)
        return bound.apply(updates, n, f, counts, root)

    return Stage(apply, how, fixed, counts, root)


def _parameters(kind: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    with suppress(TypeError, ValueError):
        return inspect.signature(kind).parameters
    return {}


def _made(kind: Callable[..., Any]) -> Any:
    try:
        return kind()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"expected a class that can be built without arguments; {named(kind)}() raised {said}") from error


def objects(kind: Callable[..., Any], told: Telling) -> Callable[[int, int, Hashable], Any]:
    """One object for each (n, f) and kind of row, kept as a server keeps it, so that state between calls shows."""

    @lru_cache(maxsize=32)
    def build(n: int, f: int, row: Hashable) -> Any:
        del row
        return kind(**told.arguments(n, f)[1])

    return build


def row_kind(updates: Any) -> Hashable:
    """The shape and dtype of a client's vector, or the names of its layers: what a server's model has once and for all."""
    row = next(iter(updates.values())) if isinstance(updates, dict) else updates[0]
    if isinstance(row, tuple):
        row = next((part for part in row if not isinstance(part, int)), row)
    if isinstance(row, dict):
        return tuple((name, np.shape(value)) for name, value in row.items() if hasattr(value, "shape"))
    shape = np.shape(row) if hasattr(row, "shape") else len(row) if hasattr(row, "__len__") else type(row).__name__
    return shape, str(getattr(row, "dtype", ""))


def named(rule: object) -> str:
    """A short name: that of a function or class, or of an object's class with the f it is for."""
    if isinstance(rule, tuple):
        return "|".join(named(step) for step in rule)
    if isinstance(rule, partial):
        bound = [*map(_brief, rule.args), *(f"{key}={_brief(value)}" for key, value in rule.keywords.items())]
        return f"{named(rule.func)}({', '.join(bound)})"
    if inspect.ismethod(rule):
        return f"{named(rule.__self__)}.{rule.__name__}"
    if isinstance(rule, FunctionType) and rule.__name__ == "<lambda>":
        return f"lambda:{rule.__code__.co_firstlineno}"
    if inspect.isroutine(rule) or inspect.isclass(rule):
        return rule.__name__
    fixed = fixed_in(rule)
    return f"{type(rule).__name__}({fixed.text if fixed else ''})"


def _brief(value: object) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


__all__ = ["Form", "Stage", "Subject", "method", "named", "objects", "refuse_alone", "row_kind", "staged", "subject"]
