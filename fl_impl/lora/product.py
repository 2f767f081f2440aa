"""Robust aggregation of the products B_i A_i from their factors: the products are never formed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.kernels import Geometry
from fl_impl.aggregators.kernels.geometry import symmetric
from fl_impl.aggregators.registry import ALL
from fl_impl.lora.factors import Factors, Module

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator

Reals = npt.NDArray[np.float64]
NEGLIGIBLE: Final = 1e-10
"""Of the greatest singular value: what is below is rounding."""
COLUMNS: Final = 256
"""Converted to float64 together."""


def gram(factors: Factors) -> Reals:
    """(n, n) inner products sum over modules of <B_i A_i, B_j A_j> = sum (B_i'B_j o A_i A_j'), in float64.

    Two Gram matrices of the n r rows, multiplied entry by entry and summed by blocks: n^2 r^2 (m + k) operations and
    no (m, k) matrix.
    """
    n, total = len(factors), np.zeros((len(factors), len(factors)))
    for up, down in factors.modules:
        between = _row_gram(up) * _row_gram(down)
        total += between.reshape(n, factors.rank, n, factors.rank).sum(axis=(1, 3))
    return total


def _row_gram(rows: npt.NDArray[Any]) -> Reals:
    """(n r, n r) inner products of all rows of an (n, r, m) array, a block of columns at a time in float64."""
    flat = rows.reshape(-1, rows.shape[2])
    total = np.zeros((len(flat), len(flat)))
    for start in range(0, flat.shape[1], COLUMNS):
        block = np.asarray(flat[:, start : start + COLUMNS], np.float64)
        total += block @ block.T
    return total


def geometry(gram: Reals) -> Geometry:
    """The squared distances of the products."""
    own = np.diag(gram)
    return Geometry(symmetric(own[:, None] + own[None, :] - 2 * gram))


def weigh(rule: Aggregator, gram: Reals, f: int, counts: npt.ArrayLike | None = None) -> Reals:
    """(n,) weights w of products 1 to n-1 in the aggregate of n - 1 clients, the last row being where they started from.

    Exactly the rule on the (n - 1, sum m k) matrix of products minus the start. Rules by distances give their weights;
    others that commute with rotations run on coordinates of the Gram matrix. counts: claimed numbers of samples, which
    the mean goes by. Raises ValueError for a rule that depends on coordinates.
    """
    n = len(gram) - 1
    if rule.name == "mean":
        return np.append(shares(counts, n), 0.0)
    if rule.weighing is not None:
        return np.append(rule.weigh(geometry(gram[:n, :n]), f), 0.0)
    if "rotation" in rule.symmetries and not rule.keywords.required:
        return on_coordinates(rule, gram, f)
    raise ValueError(
        f"{rule.spec} looks at single coordinates, which products do not share with their factors; in product space use "
        f'one of {", ".join(product_rules())}, alone or after "nnm|". With space="factors" it runs on the factors '
        "themselves, where the same products written otherwise give another result"
    )


def check_start(rule: Aggregator, *, known: bool) -> None:
    """Raise ValueError for a rule that depends on where clients began, where that is not known."""
    if not known and rule.name != "mean" and "translation" not in rule.symmetries:
        raise ValueError(
            f"{rule.spec} clips what clients changed, and of modules_to_save, magnitudes and biases adapters hold the "
            "whole: give start=, the adapter that clients began with"
        )


def shares(counts: npt.ArrayLike | None, n: int) -> Reals:
    """(n,): each client's share of all samples, equal where nobody counts. Raises ValueError for counts that are none."""
    if counts is None:
        return np.full(n, 1 / n)
    try:
        claimed = np.asarray(counts, np.float64)
    except (TypeError, ValueError):
        claimed = np.full(0, np.nan)
    if claimed.shape != (n,) or not np.isfinite(claimed).all() or (claimed < 0).any() or not claimed.any():
        raise ValueError(f"expected {n} finite, non-negative sample counts, one for each adapter and not all 0; got {counts!r}")
    scaled = claimed / claimed.max()  # first, so that no sum overflows
    return scaled / scaled.sum()


def product_rules() -> list[str]:
    """The names of the rules that work on products."""
    chosen = (rule for rule in ALL.values() if rule.weighing is not None or "rotation" in rule.symmetries)
    return sorted(rule.name for rule in chosen if not rule.keywords.required)


def on_coordinates(rule: Aggregator, gram: Reals, f: int) -> Reals:
    """As `weigh`, by running the rule on vectors that have the Gram matrix of the products minus the start.

    They are made at length one and then stretched, so that a long one costs the others no digits.
    """
    n = len(gram) - 1
    to_start = gram[:n, n]
    centred = gram[:n, :n] - to_start[:, None] - to_start[None, :] + gram[n, n]
    lengths = np.sqrt(np.maximum(np.diag(centred), 0.0))
    unit = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(centred / unit[:, None] / unit[None, :])
    directions = vectors * np.sqrt(np.maximum(values, 0.0))
    result: Any = rule(directions * lengths[:, None], f)
    stretched, *_ = np.linalg.lstsq(directions.T, result, rcond=NEGLIGIBLE)
    weights = stretched / unit
    return np.append(weights, 1.0 - weights.sum())


def stack(factors: Factors, weights: npt.ArrayLike) -> Factors:
    """sum_i w_i B_i A_i as one adapter: [w_1 B_1 ... w_n B_n] [A_1; ...; A_n], of rank n r; weight 0 is left out."""
    w = np.asarray(weights, np.float64)
    used = np.flatnonzero(w)

    def one(module: Module) -> Module:
        up = np.asarray(module.up[used], np.float64) * w[used, None, None]
        down = np.asarray(module.down[used], np.float64)
        return Module(up.reshape(1, -1, up.shape[2]), down.reshape(1, -1, down.shape[2]))

    return Factors(tuple(map(one, factors.modules)))


def refactored(adapter: Factors, rank: int | None = None) -> Factors:
    """One adapter with the best approximation of its products of that rank: two QR and an SVD of the small core.

    B = U sqrt(S), A = sqrt(S) V', greatest singular values first, so that its first rows are the best of lower rank.
    Without a rank, as many as differ from rounding in any module, and at least one.
    """
    cores = [_core(module) for module in adapter.modules]
    if rank is None:
        rank = max(1, *(int((s > NEGLIGIBLE * s[0]).sum()) for _, s, _ in cores))
    return Factors(tuple(_balanced(u[:, :rank], s[:rank], vt[:rank], rank) for u, s, vt in cores))


def _core(module: Module) -> tuple[Reals, Reals, Reals]:
    """The SVD of up[0].T @ down[0]."""
    q_up, r_up = np.linalg.qr(np.asarray(module.up[0], np.float64).T)
    q_down, r_down = np.linalg.qr(np.asarray(module.down[0], np.float64).T)
    u, s, vt = np.linalg.svd(r_up @ r_down.T)
    count = len(s)
    return q_up @ u[:, :count], s, vt[:count] @ q_down.T


def _balanced(u: Reals, s: Reals, vt: Reals, rank: int) -> Module:
    root = np.sqrt(s)
    up, down = (u * root).T[None], (root[:, None] * vt)[None]
    widths = ((0, 0), (0, rank - len(s)), (0, 0))
    return Module(np.pad(up, widths), np.pad(down, widths))
