"""Broken iterations: Weiszfeld and centered clipping."""

from __future__ import annotations

import numpy as np

from broken.registry import broken


def weiszfeld(x, steps, eps=1e-12, start=None):
    x = x.astype(np.float64)
    z = x.mean(0) if start is None else start
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(x - z, axis=1), eps)
        z = weights @ x / weights.sum()
    return z


@broken("exactness")
def one_weiszfeld_step(updates, f):
    return weiszfeld(updates, 1).astype(updates.dtype)


@broken("exactness")
def three_smoothed_weiszfeld_steps_from_zero(updates, f):
    return weiszfeld(updates, 3, eps=0.1, start=np.zeros(updates.shape[1])).astype(updates.dtype)


@broken("exactness", "huge_outliers")
def weiszfeld_from_the_contaminated_mean(updates, f):
    """Fifty steps do when the outliers are near."""
    return weiszfeld(updates, 50).astype(updates.dtype)


@broken("every_scale")
def weiszfeld_with_an_absolute_epsilon(updates, f):
    start = np.sort(updates, axis=0)[(len(updates) - 1) // 2].astype(np.float64)
    return weiszfeld(np.clip(updates, -1e60, 1e60), 500, eps=1e-9, start=start).astype(updates.dtype)


@broken("exactness", "every_scale")
def stops_when_the_step_is_small(updates, f):
    x, z = updates.astype(np.float64), updates.mean(0, dtype=np.float64)
    for _ in range(1000):
        weights = 1 / np.maximum(np.linalg.norm(x - z, axis=1), 1e-12)
        new = weights @ x / weights.sum()
        if np.linalg.norm(new - z) < 1e-3:
            break
        z = new
    return z.astype(updates.dtype)


@broken("exactness")
def centered_clipping_from_zero(updates, f):
    x, v = updates.astype(np.float64), np.zeros(updates.shape[1])
    for _ in range(5):
        away = x - v
        v = v + (away * np.minimum(1, 1 / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-300))).mean(0)
    return v.astype(updates.dtype)
