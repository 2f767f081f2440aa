"""A rule that answers float64 in float32 is told so once, by `keeps_dtype`; everything else is tried on it in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved, Rule

if TYPE_CHECKING:
    from pytest_fl.subjects.round import Round


def in_its_precision(rule: Rule, round_: Round) -> Round:
    """The round as float32 for a rule that narrows float64 to it, infinities and NaN as they are; else the round itself."""
    if round_.updates.dtype != np.float64 or not _narrows(rule):
        return round_
    limit = float(np.finfo(np.float32).max)
    x = round_.updates
    return round_.with_updates(np.where(np.isfinite(x), np.clip(x, -limit, limit), x).astype(np.float32))


def _narrows(rule: Rule) -> bool:
    """Whether the rule gives float32 for float64; found once for each rule."""
    if "narrows" not in rule.cache:
        n, f = (*grid(rule).small, *grid(rule).large)[0]
        try:
            result = rule.raw(np.random.default_rng(0).standard_normal((n, 3)), f)
        except Misbehaved:
            result = None
        rule.cache["narrows"] = str(getattr(result, "dtype", "")).endswith("float32")
    return rule.cache["narrows"]
