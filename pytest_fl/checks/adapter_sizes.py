"""What a merge of LoRA adapters owes at any number of clients, in any order of modules, and where adapters are zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.parts import Adapter, AdapterAggregation, Updates

Reals = npt.NDArray[np.float64]

SHAPES: Final = {"q": (9, 7), "v": (6, 8), "o": (6, 8)}
"""(m, k) of the modules; two have one shape, so that they can be mixed up unseen."""
RANK: Final = 3
COUNTS: Final = (1, 2, 3, 5, 8, 17, 20)
MOST: Final = 2
"""Byzantine clients: with more, rules that try every subset take minutes, or refuse."""
ROUNDING: Final = 1e-6
"""Relative to the longest product."""


def _clients(part: AdapterAggregation, rng: np.random.Generator, n: int) -> list[Adapter]:
    """n honest clients around a common one, which all have its A where that is shared."""
    common = {name: (rng.standard_normal((m, RANK)), rng.standard_normal((RANK, k))) for name, (m, k) in SHAPES.items()}

    def near(factor: Reals) -> Reals:
        return factor + 0.3 * rng.standard_normal(factor.shape)

    return [{name: (near(b), a if part.shared_a else near(a)) for name, (b, a) in common.items()} for _ in range(n)]


def _change(part: AdapterAggregation, adapters: list[Adapter], f: int) -> dict[str, Reals]:
    copies: list[Adapter] = [{name: (b.copy(), a.copy()) for name, (b, a) in one.items()} for one in adapters]
    merged = part.aggregate(copies, [1.0] * len(adapters), f)
    return {name: np.asarray(merged[name], np.float64) for name in SHAPES}


def _far(one: dict[str, Reals], other: dict[str, Reals]) -> float:
    """The largest difference of a module; infinite where one is not finite."""
    off = max(float(np.linalg.norm(one[name] - other[name])) for name in SHAPES)
    return off if np.isfinite(off) else float("inf")


def _unit(adapters: list[Adapter]) -> float:
    return ROUNDING * max(float(np.linalg.norm(b @ a)) for one in adapters for b, a in one.values()) + 1e-12


def _counts(part: AdapterAggregation) -> Iterator[tuple[int, int]]:
    """(n, f), f the largest up to MOST that is admitted where a rule is named."""
    for n in COUNTS:
        f = max((f for f in range(MOST + 1) if n >= part.min_clients(f)), default=None) if part.reference else 0
        if f is not None and n >= part.min_clients(f):
            yield n, f


@audited(AdapterAggregation)
def order_of_modules_does_not_matter(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """Modules belong together by name: the result is the same in whatever order each client lists its own."""
    for n, f in _counts(part):
        adapters = _clients(part, rng, n)
        shuffled: list[Adapter] = [{name: one[name] for name in rng.permutation(list(SHAPES))} for one in adapters]
        off = _far(_change(part, adapters, f), _change(part, shuffled, f))
        yield Bound(off, _unit(adapters), f"with n = {n} another order of modules moves the result by {off:.3g}")


@audited(AdapterAggregation)
def zero_adapters_are_adapters(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """B = 0, with which every adapter begins, is no change: all zero gives zero, one module or client of zeros is finite."""
    for n, f in _counts(part):
        adapters = _clients(part, rng, n)
        nothing: list[Adapter] = [{name: (0 * b, a) for name, (b, a) in one.items()} for one in adapters]
        zero = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        yield Bound(_far(_change(part, nothing, f), zero), _unit(adapters), f"{n} adapters with B = 0 give a change")
        one_module: list[Adapter] = [{**one, "v": (0 * one["v"][0], one["v"][1])} for one in adapters]
        off = float(np.linalg.norm(_change(part, one_module, f)["v"]))
        yield Bound(off, _unit(adapters), f"with n = {n} a module in which all B are 0 changes by {off:.3g}")
        one_client = [*adapters[:-1], nothing[-1]]
        finite = all(np.isfinite(value).all() for value in _change(part, one_client, f).values())
        yield Bound(float(not finite), 0.0, f"with n = {n} and one client of zeros the result is not finite")


def _referenced(part: AdapterAggregation) -> str:
    return part.biased or ("its result is cut to a rank" if part.rank is not None else "")


@audited(AdapterAggregation, needs=_referenced)
def every_number_of_clients_is_merged_alike(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """For 1 to 20 clients the result is the rule on the products, their mean where none is named: none is left out."""
    for n, f in _counts(part):
        adapters = _clients(part, rng, n)
        rows: Updates = np.array([np.concatenate([(b @ a).ravel() for b, a in one.values()]) for one in adapters])
        expected = rows.mean(axis=0) if part.reference is None else np.asarray(part.reference(rows, f), np.float64)
        found = np.concatenate([value.ravel() for value in _change(part, adapters, f).values()])
        off = float(np.linalg.norm(found - expected))
        yield Bound(off if np.isfinite(off) else float("inf"), 2 * _unit(adapters), f"n = {n}, f = {f}: {off:.3g} off the rule")
