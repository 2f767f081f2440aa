"""In which form a rule takes the updates, and what it gives back: found by trying it, on two small rounds a form."""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters import containers
from pytest_fl.adapters.containers import Form
from pytest_fl.adapters.models import Layout, one_layer, several_layers, with_a_buffer
from pytest_fl.adapters.readings import PLAIN, Reading, find_reading
from pytest_fl.subjects import guard
from pytest_fl.subjects.subject import Subject

Updates = npt.NDArray[np.floating]
Apply = Callable[[Any, int, int, Sequence[int], Any], Any]
"""(updates in the rule's form, n, f, sample counts, the server's own update) -> whatever the rule returns."""
First = tuple[Updates, int, npt.NDArray[np.float64]] | None
"""(updates, f, answer) of the first call."""
Root = Callable[[Updates], Updates] | None
"""(n, d) updates -> what an honest server would have learnt from its own data."""
EXAMPLES: Final = 10
"""The sample count that every client claims where a check does not set it."""
D: Final = 7
"""Coordinates of the trial: unlike the 11 clients, and more than a tuple has items."""
SIZES: Final = (*range(1, 131), 256, 512, 784, 1000, 1024, 2048, 4096, 7850)
"""Where a rule takes no round of 7 coordinates, those that it may be made for."""
VECTORS: Final = frozenset({"numpy array", "torch tensor", "list of arrays", "list of tensors", "list of lists"})
"""Forms whose rows a rule over lists of layers may take for lists of scalars."""


@dataclass(frozen=True)
class Way:
    """How a rule is called: its form, the layers of a client, and where the aggregate stands in what comes back."""

    form: Form
    layout: Layout = one_layer
    reading: Reading = PLAIN
    root: Root = None

    def call(self, apply: Apply, updates: Updates, f: int, counts: Sequence[int]) -> Any:
        """The aggregate, as the rule returned it where it is a vector. A JAX rule runs in the precision of the updates."""
        if self.form.name == "jax array":
            with sys.modules["jax"].enable_x64(updates.dtype == np.float64):
                return self._call(apply, updates, f, counts)
        return self._call(apply, updates, f, counts)

    def _call(self, apply: Apply, updates: Updates, f: int, counts: Sequence[int]) -> Any:
        result = apply(self.form.give(updates, counts, self.layout), len(updates), f, counts, self.own(updates))
        return self.reading(result, updates, self.form, self.layout)

    def own(self, updates: Updates) -> Any:
        """The server's own update, held as a client's is; None where the rule is told none."""
        if self.root is None:
            return None
        given = self.form.give(self.root(updates)[None], [EXAMPLES], self.layout)
        one = next(iter(given.values())) if isinstance(given, dict) else given[0]
        pair = self.form.carries_counts and isinstance(one, tuple)
        return next(part for part in one if not isinstance(part, int)) if pair else one

    def __str__(self) -> str:
        """As the report names it."""
        return self.form.name


@dataclass(frozen=True)
class FormTrial:
    """What was found: the way, if any, and what each attempt raised."""

    way: Way | None
    errors: tuple[tuple[str, BaseException], ...] = ()
    d: int = D
    """The coordinates of the round that was taken."""
    hung: bool = False
    """Whether an attempt did not return: then nothing more is tried."""
    first: First = None
    """(updates, f, answer) of the first call in the way that was found."""


def tried(apply: Apply, n: int, f: int, ways: Iterable[Way]) -> FormTrial:
    """The best way: one that gives an aggregate, is right where all clients agree, and gives it in kind.

    The first that is all three ends the search. So a rule that returns None or hangs still becomes a subject, and the checks
    say so. Where every form raises, rounds of other sizes are tried, for rules that are made for one model.
    """
    ways = list(ways)
    found, errors, first = _best(apply, n, f, ways, D)
    hung = any(isinstance(error, guard.Hung) for _, error in errors)
    if found is not None and not hung and found.form.name in VECTORS:
        of_layers = _of_layers(apply, n, f, ways)
        found, first = (found, first) if of_layers is None else (of_layers, None)
    if found is not None or hung:
        return FormTrial(found, errors, hung=hung, first=first)
    plain = [way for way in ways if way.form.model is None][:5] or ways[:5]
    deadline = time.monotonic() + containers.SECONDS
    for d in _sizes(errors):
        found, _, first = _best(apply, n, f, plain, d)
        if time.monotonic() > deadline:
            break
        if found is not None:
            return FormTrial(found, errors, d, first=first)
    return FormTrial(None, errors)


def _of_layers(apply: Apply, n: int, f: int, ways: Sequence[Way]) -> Way | None:
    """The list of layers, where a rule that took a vector for a list of scalars takes layers of unequal shapes as well."""
    names = {"[[array]]", "[[tensor]]"} if "torch" in sys.modules else {"[[array]]"}  # for one that knows torch, it is loaded
    for way in ways:
        if way.form.name in names and way.layout is one_layer and way.reading.own is None:
            updates = np.random.default_rng(4).normal(size=(n, 2 * D)).astype(np.float32)
            with suppress(guard.Misbehaved):
                score, several, _ = _judged(apply, replace(way, layout=several_layers), updates, f)
                if score == (1, 1, 1) and several.reading.kind == "model":
                    return replace(several, layout=one_layer)
    return None


def _best(
    apply: Apply, n: int, f: int, ways: Sequence[Way], d: int
) -> tuple[Way | None, tuple[tuple[str, BaseException], ...], First]:
    """The best way, what each attempt raised, and the first answer in that way."""
    updates = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    best: tuple[tuple[int, int, int], Way | None] = ((-1, 0, 0), None)
    first: First = None
    errors = list[tuple[str, BaseException]]()
    for way in ways:
        try:
            score, read, answer = _judged(apply, way, updates, f)
        except guard.Hung as error:
            return way, ((str(way), error),), None
        except guard.Misbehaved as error:
            errors.append((str(way), error.__cause__ or error))
            continue
        if score > best[0]:
            best, first = (score, read), None if answer is None else (updates, f, answer)
        # What an array or a list gave in kind is taken, right or wrong: to be right by accident takes a stranger form.
        if score == (1, 1, 1) or (score[0] and score[2] and way.form.model is None and not way.form.carries_counts):
            break
    return best[1], tuple(errors), first


def _judged(
    apply: Apply, way: Way, updates: Updates, f: int
) -> tuple[tuple[int, int, int], Way, npt.NDArray[np.float64] | None]:
    """((gives an aggregate, right where all agree, in kind), the way with its reading, its first answer if it is a vector)."""
    n, d = updates.shape
    counts = [EXAMPLES] * n
    trial = guard.Rule(Subject("trial", lambda x, f: None), containers.SECONDS)  # noqa: ARG005  # only its guard is used
    try:  # outside of the time limit, since torch may be imported here for the first time
        given, own = way.form.give(updates.copy(), counts, way.layout), way.own(updates)
    except ImportError as error:
        raise guard.Misbehaved(f"cannot be tried: {error}") from error
    result = trial.attempt(lambda: apply(given, n, f, counts, own))
    if way.reading.own is None:
        reading = find_reading(result, updates, way.form, way.layout)
        if reading is None:
            return (0, 0, 0), way, None
        way = replace(way, reading=reading)
    vector = trial.attempt(lambda: way.reading(result, updates, way.form, way.layout))
    answer = guard.to_float64(vector)
    if answer is None or np.shape(vector) != (d,):
        return (0, 0, 0), way, None
    answer = answer.copy()  # a later call may write to it
    in_kind = way.reading.kind not in {"vector", "model"} or way.form.native(way.reading.item(result))
    agreed = np.tile(updates[:1], (n, 1))
    try:
        same = guard.to_float64(trial.attempt(lambda: way.call(apply, agreed, f, counts)))
        sane = same is not None and np.allclose(same, agreed[0], rtol=1e-3, atol=1e-3)
    except guard.Misbehaved:
        sane = False
    return (1, int(sane), int(in_kind)), way, answer


def _sizes(errors: Sequence[tuple[str, BaseException]]) -> Iterator[int]:
    """Sizes that the messages name, then the usual ones."""
    said = chain.from_iterable(re.findall(r"\d+", str(error)) for _, error in errors)
    named = dict.fromkeys(int(number) for number in said if len(number) < 7)
    yield from (size for size in named if 0 < size <= 100_000 and size != D)
    yield from (size for size in SIZES if size not in named)


def layered(apply: Apply, way: Way, n: int, f: int) -> tuple[Way | None, str]:
    """The same way with several layers, integer buffers among them if the rule takes those; and how it treats layers."""
    updates = np.random.default_rng(1).normal(size=(n, 2 * D)).astype(np.float32)
    said = ""
    for layout in (with_a_buffer, several_layers):
        several = replace(way, layout=layout)
        try:
            score, several, _ = _judged(apply, replace(several, reading=way.reading), updates, f)
        except guard.Misbehaved as error:
            said = said or f"no integer buffers: {error}"
            continue
        if score[0]:
            return several, "; ".join(filter(None, (_treatment(apply, way, several, n, f), said)))
        said = said or "no integer buffers: what it returns for them is no model"
    return None, "one layer only"


def _treatment(apply: Apply, one: Way, several: Way, n: int, f: int) -> str:
    """Layer by layer, as one vector, or in another way; coordinate by coordinate is both of the first two."""
    layers = [layer.size for layer in several.layout(2 * D) if layer.size]
    bounds = np.cumsum([0, *layers])
    counts = [EXAMPLES] * n
    alike, apart = True, True
    for seed in range(6):
        updates = np.random.default_rng([2, seed]).normal(size=(n, 2 * D))
        try:
            whole = _vector(several, apply, updates, f, counts)
            flat = _vector(one, apply, updates, f, counts)
            pieces = [_vector(one, apply, updates[:, a:b], f, counts) for a, b in pairwise(bounds)]
        except guard.Misbehaved:
            return ""
        alike &= bool(np.allclose(whole, flat, rtol=1e-5, atol=1e-6))
        apart &= bool(np.allclose(whole, np.concatenate(pieces), rtol=1e-5, atol=1e-6))
    if alike and apart:
        return "coordinate by coordinate"
    return "layer by layer" if apart else "all layers as one vector" if alike else "layers weighed in a way of its own"


def _vector(way: Way, apply: Apply, updates: Updates, f: int, counts: Sequence[int]) -> npt.NDArray[np.float64]:
    trial = guard.Rule(Subject("trial", lambda x, f: way.call(apply, x, f, counts)), containers.SECONDS)
    return trial(updates, f)


def refuses_float64(apply: Apply, way: Way, n: int, f: int, d: int) -> bool:
    """Whether the rule raises for float64 and not for float32."""
    updates = np.random.default_rng(3).normal(size=(n, d))
    try:
        _vector(way, apply, updates, f, [EXAMPLES] * n)
    except guard.Hung:
        return False
    except guard.Misbehaved as finding:
        if finding.__cause__ is None:
            return False
        with suppress(guard.Misbehaved):
            _vector(way, apply, updates.astype(np.float32), f, [EXAMPLES] * n)
            return True
    return False


def refused(errors: Sequence[tuple[str, BaseException]]) -> str:
    """What each attempt raised, one sentence for those that raised the same, with the line of the rule's file."""
    groups: dict[str, list[str]] = {}
    for form, error in errors:
        groups.setdefault(f"{type(error).__name__}: {error}{_line(error)}", []).append(form)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"given {', '.join(forms)}: {said}" for said, forms in groups.items())


def _line(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"pytest_fl{'/'}" not in frame.filename]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    return f" ({(own or frames)[-1].filename.rpartition('/')[2]}:{(own or frames)[-1].lineno})" if frames else ""
