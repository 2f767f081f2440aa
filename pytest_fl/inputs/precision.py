"""A rule that answers float64 in float32 is told so once, by `keeps_dtype`; everything else is tried on it in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved, Rule

if TYPE_CHECKING:
    from pytest_fl.subjects.round import Round
    from pytest_fl.subjects.subject import Updates

PROBES = 3
NO_LINE = "fails where d = 1 alone"
"""Of a rule's cache: it is tried in two coordinates and more, once that is told."""


def in_its_precision(rule: Rule, round_: Round) -> Round:
    """The round as the rule can take it: as float32 where it computes in that, and no more coordinates than it is made for.

    Infinities and NaN stay as they are; what float32 cannot hold becomes its largest number.
    """
    if rule.cache.get(NO_LINE):
        round_ = off_the_line(round_)
    most = rule.subject.most_d
    if most is not None and round_.d > most:
        round_ = round_.with_updates(np.ascontiguousarray(round_.updates[:, :most]))
    if round_.updates.dtype != np.float64 or not narrows(rule):
        return round_
    limit = float(np.finfo(np.float32).max)
    x = round_.updates
    return round_.with_updates(np.where(np.isfinite(x), np.clip(x, -limit, limit), x).astype(np.float32))


def off_the_line(round_: Round) -> Round:
    """The round in two coordinates where it has one: both are the same."""
    return round_.with_updates(np.repeat(round_.updates, 2, axis=1)) if round_.d == 1 else round_


def narrows(rule: Rule) -> str:
    """How the rule is seen to compute in float32 when it is given float64; empty where it is not. Found once for each rule."""
    if "narrows" not in rule.cache:
        try:
            rule.cache["narrows"] = _seen(rule)
        except Misbehaved:
            rule.cache["narrows"] = ""
    return rule.cache["narrows"]


def _seen(rule: Rule) -> str:
    n, f = (*grid(rule).small, *grid(rule).large)[0]
    probes = [np.random.default_rng([12, index]).standard_normal((n, 3)) for index in range(PROBES)]
    if str(getattr(rule.raw(probes[0], f), "dtype", "")).endswith("float32"):
        return "it returns float32 for float64 updates"
    results = [rule(x, f) for x in probes]
    if any((result == np.rint(result)).all() for result in results):
        return ""  # whole numbers are the same in every precision
    if all((_rounded(result) == result).all() for result in results):
        return "it computes in float32: what it returns as float64 holds no more digits"
    same = all((rule(_rounded(x), f) == result).all() for x, result in zip(probes, results, strict=True))
    return "it computes in float32: updates rounded to that give the same result to the bit" if same else ""


def _rounded(x: Updates) -> Updates:
    return x.astype(np.float32).astype(np.float64)


__all__ = ["in_its_precision", "narrows"]
