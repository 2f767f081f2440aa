"""What a caller relies on: one finite vector, in kind; nothing written to, nothing remembered, nothing said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from pytest_fl.checks import Bound, check, verdict
from pytest_fl.inputs.clouds import gaussian, two_clusters
from pytest_fl.inputs.colluders import identical_far
from pytest_fl.inputs.corpus import assemble
from pytest_fl.inputs.precision import narrows
from pytest_fl.subjects import traces
from pytest_fl.subjects.grid import Grid, grid
from pytest_fl.subjects.guard import Misbehaved, Rule, as_vector, to_float64
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round, Updates
from pytest_fl.subjects.subject import Subject


def ordinary(rule: Rule, profile: Profile) -> Iterator[Round]:
    """A few rounds that any rule takes: normal clouds and tied ones, identical outliers, few and many coordinates."""
    found = grid(rule)
    pairs = (*found.small[:2], *found.small[-2:], *found.large[:1], *found.small[-1:])
    even = [(n, f) for n, f in found.small if (n - f) % 2 == 0][:3]
    if not pairs:
        raise Misbehaved(_refusal(found))
    for index, (n, f) in enumerate((*pairs, *even, *found.broken[:2])):
        rng = np.random.default_rng([profile.seed, 10, index])
        tied = len(pairs) <= index < len(pairs) + len(even)
        honest = (two_clusters if tied else gaussian)(n - f, (5, 1, 3, 64, 2, 1000)[index % 6], rng)
        honest = honest[:, : rule.subject.most_d]
        dtype = np.float32 if index % 2 else np.float64
        byzantine = identical_far(honest, f, 20.0, rng)
        origin = f"{'two equal clusters' if tied else 'normal cloud'}, ordinary outliers"
        yield assemble(honest.astype(dtype), byzantine, ("last", "first")[index % 2], rng, origin)


def _refusal(found: Grid) -> str:
    """What a rule says that takes no ordinary updates at all."""
    if not found.refused:
        return "takes no number of clients from 3 to 40 with f >= 1, by what is claimed for it"
    (n, f), said = list(found.refused.items())[-1]
    return f"takes no ordinary updates, at none of {len(found.refused)} pairs (n, f) tried: at n={n}, f={f}, d=2 it {said}"


@check(rounds=ordinary, gate=True)
def returns_a_vector(rule: Rule, round_: Round) -> Bound:
    """For ordinary updates the rule returns one finite vector of length d, as an array or a tensor."""
    result = rule.raw(round_.updates, round_.f)
    as_vector(result, round_.d)
    in_kind = isinstance(result, list | tuple) and rule.subject.details.get("form") == "list of lists"
    if not (in_kind or (hasattr(result, "shape") and hasattr(result, "dtype"))):
        return verdict(f"returned a {type(result).__name__}; expected an array or tensor as the updates are")
    return verdict("")


def _takes_float64(subject: Subject) -> str:
    return "it takes float32 only" if subject.float32_only else ""


@check(rounds=ordinary, needs=_takes_float64)
def keeps_dtype(rule: Rule, round_: Round) -> Bound:
    """The result is not narrower than the updates: float64 stays float64, and is not computed in float32."""
    returned = _dtype_name(rule.raw(round_.updates, round_.f))
    given = round_.updates.dtype.name
    wide = {"float64", "longdouble", "float128"} | {given}
    wrong = returned != given if rule.subject.strict_dtype else returned not in wide
    if wrong:
        return verdict(f"returned {returned} for {given} updates")
    return verdict(narrows(rule) if round_.updates.dtype == np.float64 else "")


@check(rounds=ordinary)
def leaves_input_alone(rule: Rule, round_: Round) -> Bound:
    """The caller's updates are never written to."""
    given = round_.updates.copy()
    rule.attempt(lambda: rule.subject.call(given, round_.f))
    return verdict("wrote to the updates that it was given" if _differ(given, round_.updates) else "")


@check(rounds=ordinary)
def same_answer_twice(rule: Rule, round_: Round) -> Bound:
    """The same updates give the same result, to the bit, however often one asks."""
    results = [rule(round_.updates, round_.f) for _ in range(6)]
    spread = max(float(np.abs(result - results[0]).max()) for result in results)
    return Bound(spread, 0.0, f"six identical calls differ by up to {spread:.3g}" if spread else "")


@check(rounds=ordinary)
def keeps_no_state(rule: Rule, round_: Round) -> Bound:
    """A result does not depend on the calls before it, nor on what the same buffer held then, nor do later calls change it."""
    contents = {"first": round_.updates, "second": 100.0 - 3.0 * round_.updates}
    handed_out = {name: rule.raw(updates, round_.f) for name, updates in contents.items()}
    fresh = {name: as_vector(result, round_.d).copy() for name, result in handed_out.items()}
    buffer = np.empty_like(round_.updates)
    for name in ("second", "first", "second"):
        buffer[:] = contents[name]
        again = as_vector(rule.attempt(lambda: rule.subject.call(buffer, round_.f)), round_.d).copy()
        change = float(np.abs(again - fresh[name]).max())
        if change:
            return Bound(change, 0.0, f"after calls with other updates the same updates give a result {change:.3g} away")
    first = as_vector(handed_out["first"], round_.d)
    selected = (round_.updates == first).all(1).any()  # a row of the caller's own copy: nobody else writes to it
    if not selected and not np.array_equal(first, rule(contents["first"], round_.f)):
        return verdict("a result that it gave was overwritten by a later call")
    return verdict("")


@check(rounds=ordinary)
def leaves_no_trace(rule: Rule, round_: Round) -> Bound:
    """A library prints nothing and leaves the process as it found it: generators, settings, signals, folder, descriptors."""
    traces.restore(rule.cache.get("state", {}))  # as it was before this rule was called at all
    observed = rule.attempt(lambda: traces.observe(lambda: rule.subject.call(round_.updates.copy(), round_.f)))
    return verdict(observed)


@check(rounds=ordinary)
def any_memory_layout(rule: Rule, round_: Round) -> Bound | None:
    """Rows that are not contiguous, run backwards or may not be written to are the same updates."""
    if rule.subject.container != "numpy":
        return None
    expected = rule(round_.updates, round_.f)
    calls = rule.subject.other_memory or {"in Fortran order": lambda x, f: rule.subject.call(np.asfortranarray(x), f)}
    size = float(np.abs(round_.updates).max())
    again = max(float(np.abs(rule(round_.updates, round_.f) - expected).max()) for _ in range(3))  # another check's business
    worst, where = Bound(0.0, 8 * round_.n * float(np.finfo(round_.updates.dtype).eps) * size + 8 * again), ""
    for name, call in calls.items():
        if name in rule.cache.setdefault("memory refused", set[str]()):
            continue
        try:
            result = as_vector(rule.attempt(lambda call=call: call(round_.updates.copy(), round_.f)), round_.d)
        except Misbehaved as finding:
            if name not in MAY_REFUSE or finding.__cause__ is None:
                raise
            rule.cache["memory refused"].add(name)
            continue
        error = float(np.abs(result - expected).max())
        if error > worst.value:
            worst, where = replace(worst, value=error), name
    return worst if worst.holds else replace(worst, reason=f"given an array {where} it answers {worst.value:.3g} away")


MAY_REFUSE: Final = frozenset({"in the other byte order", "in read-only memory"})
"""Memory that torch does not take, and that a rule may say it needs to write to."""


def _is_strict(subject: Subject) -> str:
    return "" if subject.strict_dtype else "refusal of bad input is asked of fl_impl's own aggregators only"


@check(rounds=ordinary, needs=_is_strict)
def refuses_bad_input(rule: Rule, round_: Round) -> Bound:
    """Too few clients, f < 0, nothing, ragged rows: one ValueError each."""
    subject, x, f = rule.subject, round_.updates, round_.f
    too_few = subject.min_clients(f) - 1
    bad: dict[str, tuple[Any, int]] = {
        f"n = {too_few} with f = {f}": (np.resize(x, (too_few, x.shape[1])), f),
        "f = -1": (x, -1),
        "no clients": (x[:0], f),
        "no coordinates": (x[:, :0], f),
        "one axis": (x[0], 0),
    }
    for what, (updates, count) in bad.items():
        try:
            rule.attempt(lambda updates=updates, count=count: subject.call(updates, count))
        except Misbehaved as finding:
            if not isinstance(finding.__cause__, ValueError):
                return verdict(f"for {what} it {finding}; expected a ValueError")
        else:
            return verdict(f"accepted {what}; expected a ValueError")
    return verdict("")


def _has_counts(subject: Subject) -> str:
    return "" if subject.call_with_counts else "it is told no sample counts"


@check(rounds=ordinary, needs=_has_counts)
def ignores_claimed_counts(rule: Rule, round_: Round) -> Bound:
    """The sample counts that clients claim do not move the result: a Byzantine client lies about them."""
    call = rule.subject.call_with_counts
    assert call is not None
    honest = as_vector(rule.attempt(lambda: call(round_.updates, round_.f, [10] * round_.n)), round_.d)
    worst = 0.0
    for lie in (10**9, 1, 0):
        counts = [lie if row in round_.byzantine else 10 for row in range(round_.n)]
        told = as_vector(rule.attempt(lambda counts=counts: call(round_.updates, round_.f, counts)), round_.d)
        worst = max(worst, float(np.abs(told - honest).max()))
    size = float(np.abs(round_.updates).max())
    return Bound(worst, 8 * round_.n * float(np.finfo(round_.updates.dtype).eps) * size)


def _dtype_name(result: Any) -> str:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(result, torch.Tensor):
        return str(result.dtype).removeprefix("torch.")
    if isinstance(result, list | tuple):
        return "float64"  # Python's own numbers
    return str(getattr(result, "dtype", type(result).__name__))


def _differ(a: Updates, b: Updates) -> bool:
    left, right = to_float64(a), to_float64(b)
    return left is None or right is None or not np.array_equal(left, right, equal_nan=True)
