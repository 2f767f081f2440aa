"""What an aggregation of LoRA adapters owes: only the products s B A count, and they are aggregated as the rule says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.parts import Adapter, AdapterAggregation, Updates

Reals = npt.NDArray[np.float64]

SHAPES: Final = {"q": (9, 7), "v": (6, 8)}
"""(m, k) of two modules, so small that products may be formed."""
RANK: Final = 3
ROUNDING: Final = 1e-6
"""Relative to the longest product: coordinates out of a Gram matrix have half the digits."""
MAGNITUDES: Final = (1.0, 1e2, 1e4)
"""Of colluding products, in lengths of an honest one."""


def _adapters(part: AdapterAggregation, rng: np.random.Generator, n: int, spread: float = 0.5) -> list[Adapter]:
    """n honest clients around a common one, which all have its A where that is shared."""
    common = {name: (rng.standard_normal((m, RANK)), rng.standard_normal((RANK, k))) for name, (m, k) in SHAPES.items()}

    def near(factor: Reals) -> Reals:
        return factor + spread * rng.standard_normal(factor.shape)

    return [{name: (near(b), a if part.shared_a else near(a)) for name, (b, a) in common.items()} for _ in range(n)]


def _scales(rng: np.random.Generator, n: int) -> list[float]:
    return [float(scale) for scale in rng.uniform(0.5, 2.0, n)]


def _products(adapters: list[Adapter], scales: list[float]) -> Reals:
    """(n, d): the products of all modules, one client a row."""
    rows = [[s * (b @ a).ravel() for b, a in one.values()] for one, s in zip(adapters, scales, strict=True)]
    return np.array([np.concatenate(row) for row in rows])


def _vector(change: Mapping[str, Any]) -> Reals:
    """The change of all modules as one vector. Raises ValueError where it has not the shapes of the weights."""
    pieces: list[Reals] = []
    for name, shape in SHAPES.items():
        piece = np.asarray(change[name], np.float64)
        if piece.shape != shape:
            raise ValueError(f"the change of {name} must have shape {shape}; got {piece.shape}")
        pieces.append(piece.ravel())
    return np.concatenate(pieces)


def _result(part: AdapterAggregation, adapters: list[Adapter], scales: list[float], f: int) -> Reals:
    copies: list[Adapter] = [{name: (b.copy(), a.copy()) for name, (b, a) in one.items()} for one in adapters]
    return _vector(part.aggregate(copies, list(scales), f))


def _cut(part: AdapterAggregation, vector: Reals) -> Reals:
    """The best approximation of the claimed rank, module by module."""
    if part.rank is None:
        return vector
    pieces, at = list[Reals](), 0
    for m, k in SHAPES.values():
        u, s, vt = np.linalg.svd(vector[at : at + m * k].reshape(m, k), full_matrices=False)
        pieces.append((u[:, : part.rank] * s[: part.rank] @ vt[: part.rank]).ravel())
        at += m * k
    return np.concatenate(pieces)


def _sizes(part: AdapterAggregation) -> Iterator[tuple[int, int]]:
    """Small (n, f) at which it is defined; the mean at f = 0 only."""
    for n, f in ((5, 0), (5, 1), (7, 2)) if part.reference is not None else ((5, 0),):
        if n >= part.min_clients(f):
            yield n, f


def _attacked(part: AdapterAggregation) -> list[tuple[int, int]]:
    return [(n, f) for n, f in _sizes(part) if f]


def _gauged(one: Adapter, rng: np.random.Generator, stretch: float) -> Adapter:
    """The same products in other factors: (B Q, Q^-1 A) with a random Q."""
    turned: dict[str, tuple[Updates, Updates]] = {}
    for name, (b, a) in one.items():
        r = len(a)
        q = np.linalg.qr(rng.standard_normal((r, r)))[0] @ np.diag(stretch ** rng.uniform(-1, 1, r))
        turned[name] = (b @ q, np.linalg.inv(q) @ a)
    return turned


def _has_a_gauge(part: AdapterAggregation) -> str:
    return part.biased or ("A is everybody's, so there is one way to write a product" if part.shared_a else "")


@audited(AdapterAggregation, needs=_has_a_gauge)
def gauge_changes_nothing(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """(B Q, Q^-1 A) are the same products as (B, A): each client may choose its own Q, and the result is the same."""
    for n, f in _sizes(part):
        adapters, scales = _adapters(part, rng, n), _scales(rng, n)
        expected, unit = _result(part, adapters, scales, f), _longest(adapters, scales)
        for stretch in (1.0, 10.0):
            turned = [_gauged(one, rng, stretch) for one in adapters]
            moved = float(np.linalg.norm(_result(part, turned, scales, f) - expected))
            yield Bound(moved, ROUNDING * unit, "the same products written as other factors give another result")


def _longest(adapters: list[Adapter], scales: list[float]) -> float:
    return float(np.linalg.norm(_products(adapters, scales), axis=1).max())


def _unbiased(part: AdapterAggregation) -> str:
    return part.biased


@audited(AdapterAggregation, needs=_unbiased)
def agrees_with_the_dense_rule(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """The result is the rule on the products themselves (their mean where no rule is named), cut to the claimed rank."""
    for n, f in _sizes(part):
        for spread in (0.01, 0.5):
            adapters, scales = _adapters(part, rng, n, spread), _scales(rng, n)
            rows = _products(adapters, scales)
            dense = rows.mean(axis=0) if part.reference is None else np.asarray(part.reference(rows, f), np.float64)
            off = float(np.linalg.norm(_result(part, adapters, scales, f) - _cut(part, dense)))
            yield Bound(off, ROUNDING * _longest(adapters, scales), "it is not what the rule makes of the products")


def _unanimous(part: AdapterAggregation) -> str:
    return "" if part.unanimous else "it may shorten what all clients agree on"


@audited(AdapterAggregation, needs=_unanimous)
def equal_products_give_that_product(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """Clients that all send one adapter at one scale get it back."""
    for n, f in _sizes(part):
        one, scale = _adapters(part, rng, 1), 1.5
        off = float(np.linalg.norm(_result(part, one * n, [scale] * n, f) - _products(one, [scale])[0]))
        yield Bound(off, ROUNDING * _longest(one, [scale]), "n equal adapters do not give that adapter")


def _robust(part: AdapterAggregation) -> str:
    if part.rank is not None:
        return "its result is cut to a rank, which the coefficient says nothing of"
    if part.kappa is None or not any(math.isfinite(part.kappa(n, f)) for n, f in _attacked(part)):
        return "it claims no coefficient"
    return part.biased


@audited(AdapterAggregation, needs=_robust)
def coefficient_holds_for_products(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """||F - mu||^2 <= kappa(n, f) s over the products, for every S of n - f clients with mean mu and variance s."""
    assert part.kappa is not None
    for n, f in _attacked(part):
        kappa = part.kappa(n, f)
        for magnitude in MAGNITUDES:
            adapters, scales = _adapters(part, rng, n), _scales(rng, n)
            adapters[:f] = [_scaled(one, -magnitude) for one in adapters[:f]]
            yield _worst_subset(_products(adapters, scales), _result(part, adapters, scales, f), f, kappa)


def _worst_subset(rows: Reals, result: Reals, f: int, kappa: float) -> Bound:
    """The largest coefficient over all subsets; a variance below rounding counts as rounding."""
    worst, floor = 0.0, (ROUNDING * float(np.linalg.norm(rows, axis=1).min())) ** 2
    for members in combinations(range(len(rows)), len(rows) - f):
        chosen = rows[list(members)]
        mu = chosen.mean(axis=0)
        variance = float(((chosen - mu) ** 2).sum(axis=1).mean())
        worst = max(worst, float(((result - mu) ** 2).sum()) / max(variance, floor))
    return Bound(worst, kappa * (1 + 1e-6) + 1e-9, f"the coefficient of the products is {worst:.4g}, not {kappa:.4g}")


@audited(AdapterAggregation)
def scale_is_part_of_the_product(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """A client with scale s and factor B is the same as one with scale 1 and s B."""
    for n, f in _sizes(part):
        adapters, scales = _adapters(part, rng, n), _scales(rng, n)
        moved = [_scaled(one, scale) for one, scale in zip(adapters, scales, strict=True)]
        off = float(np.linalg.norm(_result(part, adapters, scales, f) - _result(part, moved, [1.0] * n, f)))
        yield Bound(off, ROUNDING * _longest(adapters, scales), "scales of clients are not taken into account")


def _scaled(one: Adapter, scale: float) -> Adapter:
    return {name: (b * scale, a) for name, (b, a) in one.items()}


def _mixes(part: AdapterAggregation) -> str:
    return "" if part.mixed_ranks else "all clients have one rank"


@audited(AdapterAggregation, needs=_mixes)
def zeros_add_no_rank(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """A client of lower rank is the same as one whose factors are padded with zeros."""
    for n, f in _sizes(part):
        adapters, scales = _adapters(part, rng, n), _scales(rng, n)
        low = [_of_rank(one, 1 + i % RANK) for i, one in enumerate(adapters)]
        padded = [_of_rank(one, RANK) for one in low]
        off = float(np.linalg.norm(_result(part, low, scales, f) - _result(part, padded, scales, f)))
        yield Bound(off, ROUNDING * _longest(padded, scales), "mixed ranks give another result than padded ones")


def _of_rank(one: Adapter, rank: int) -> Adapter:
    """The first `rank` columns of B and rows of A, or as many more of zeros."""
    more = [max(0, rank - len(a)) for _, a in one.values()]
    return {
        name: (np.pad(b[:, :rank], ((0, 0), (0, extra))), np.pad(a[:rank], ((0, extra), (0, 0))))
        for (name, (b, a)), extra in zip(one.items(), more, strict=True)
    }


@audited(AdapterAggregation)
def broken_adapters_are_refused(part: AdapterAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """NaN, infinity, a missing or a foreign module, and factors that do not fit raise a ValueError, whichever client."""
    for client in (0, 3):
        for what, broken in _broken(_adapters(part, rng, 1)[0]):
            adapters = _adapters(part, rng, 5)
            adapters[client] = broken
            yield verdict(_accepted(part, adapters, f"{what} of client {client}"))


def _broken(one: Adapter) -> Iterator[tuple[str, Adapter]]:
    b, a = one["v"]
    for value in (math.nan, math.inf):
        for letter in (0, 1):
            spoilt = [b.copy(), a.copy()]
            spoilt[letter][1, 2] = value
            yield f"{value} in {'BA'[letter]}", {**one, "v": (spoilt[0], spoilt[1])}
    yield "a missing module", {"q": one["q"]}
    yield "a foreign module", {**one, "k": one["v"]}
    yield "a B with another rank than A", {**one, "v": (b[:, :2], a)}
    yield "a module with another shape", {**one, "v": (b[:-1], a)}


def _accepted(part: AdapterAggregation, adapters: list[Adapter], what: str) -> str:
    """Nothing where a ValueError was raised, else what came back instead."""
    try:
        part.aggregate(adapters, [1.0] * len(adapters), 0)
    except ValueError:
        return ""
    except Exception as error:  # noqa: BLE001 - whatever else it is, it is no refusal
        return f"{what} raised {type(error).__name__}: {error}; expected a ValueError"
    return f"{what} was taken without a word"
