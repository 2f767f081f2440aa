"""Every rule once more, by its definition in plain float64 numpy: slow, obvious, and apart from the code under test.

Where scores tie, a definition admits several results; then an oracle gives all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product

import numpy as np

Vector = np.ndarray
Outcomes = Iterator[Vector]
TIED = 1e-9
"""Scores closer than this share of them are tied: in float64 on inputs rounded to float32, rounding stays far below it."""


def squared_distances(x):
    return np.array([[((a - b) ** 2).sum() for b in x] for a in x])


def coordinate_median(x, f, convention="midpoint"):
    ordered, n = np.sort(x, axis=0), len(x)
    lower, upper = ordered[(n - 1) // 2], ordered[n // 2]
    yield lower if convention == "lower" else lower / 2 + upper / 2


def trimmed_mean(x, f):
    yield np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def nearest_to(x, centre, count, tie=TIED):
    """Per coordinate the means of the `count` values nearest to the centre: for each, all that ties admit."""
    columns = []
    for values, c in zip(x.T, centre, strict=True):
        away = np.abs(values - c)
        last = np.sort(away)[count - 1]
        slack = tie * (last + abs(c))
        sure = values[away < last - slack]
        maybe = values[np.abs(away - last) <= slack]
        columns.append({float(np.mean([*sure, *more])) for more in set(combinations(sorted(maybe), count - len(sure)))})
    return columns


def meamed(x, f, tie=TIED):
    (centre,) = coordinate_median(x, f)
    yield nearest_to(x, centre, len(x) - f, tie)


def phocas(x, f, tie=TIED):
    (centre,) = trimmed_mean(x, f)
    yield nearest_to(x, centre, len(x) - f, tie)


def krum_scores(x, count):
    d = squared_distances(x)
    return np.array([np.sort(np.delete(d[i], i))[:count].sum() for i in range(len(x))])


def smallest(scores, m, tie=TIED):
    """All sets of the m smallest scores that ties admit."""
    last = np.sort(scores)[m - 1]
    sure = [i for i, s in enumerate(scores) if s < last * (1 - tie)]
    maybe = [i for i, s in enumerate(scores) if last * (1 - tie) <= s <= last * (1 + tie)]
    for more in combinations(maybe, m - len(sure)):
        yield [*sure, *more]


def krum(x, f, neighbours="n-f-1", tie=TIED):
    yield from multi_krum(x, f, 1, neighbours, tie)


def multi_krum(x, f, m=None, neighbours="n-f-1", tie=TIED):
    scores = krum_scores(x, len(x) - f - (1 if neighbours == "n-f-1" else 2))
    for chosen in smallest(scores, len(x) - f if m is None else m, tie):
        yield x[chosen].mean(axis=0)


def bulyan_picks(x, f, left, picked=(), tie=TIED):
    if len(left) == 2 * f:
        yield list(picked)
        return
    scores = krum_scores(x[left], len(left) - f - 1)
    for (winner,) in smallest(scores, 1, tie):
        rest = left[:winner] + left[winner + 1 :]
        yield from bulyan_picks(x, f, rest, (*picked, left[winner]), tie)


def bulyan(x, f, tie=TIED):
    """Per coordinate sets of results for each way to pick."""
    for picks in {tuple(sorted(p)) for p in bulyan_picks(x, f, list(range(len(x))), tie=tie)}:
        chosen = x[list(picks)]
        (centre,) = coordinate_median(chosen, f)
        yield nearest_to(chosen, centre, len(chosen) - 2 * f, tie)


def best_subsets(x, f, measure: Callable[[Vector], float], tie=TIED):
    sets = list(combinations(range(len(x)), len(x) - f))
    values = np.array([measure(x[list(s)]) for s in sets])
    for chosen, value in zip(sets, values, strict=True):
        if value <= values.min() * (1 + tie):
            yield x[list(chosen)].mean(axis=0)


def minimum_diameter(x, f, tie=TIED):
    yield from best_subsets(x, f, lambda s: squared_distances(s).max(), tie)


def minimum_variance(x, f, tie=TIED):
    yield from best_subsets(x, f, lambda s: ((s - s.mean(axis=0)) ** 2).sum(), tie)


def smea(x, f, tie=TIED):
    yield from best_subsets(x, f, lambda s: np.linalg.eigvalsh(np.cov(s.T, bias=True).reshape(x.shape[1], -1))[-1], tie)


def monna(x, f, pivot=0, tie=TIED):
    away = ((x - x[pivot]) ** 2).sum(axis=1)
    for chosen in smallest(away, len(x) - f, tie):
        yield x[chosen].mean(axis=0)


def caf(x, f):
    c, best, least = np.ones(len(x)), x.mean(axis=0), np.inf
    while c.sum() > len(x) - 2 * f or np.isinf(least):
        mu = (c[:, None] * x).sum(axis=0) / c.sum()
        covariance = ((x - mu).T * c) @ (x - mu) / c.sum()
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < least:
            best, least = mu, values[-1]
        tau = ((x - mu) @ vectors[:, -1]) ** 2
        if tau[c > 0].max() == 0:
            break
        c = c * np.maximum(1 - tau / tau[c > 0].max(), 0)
    yield best


def dnc(x, f, c=1.0, tie=TIED):
    centred = x - x.mean(axis=0)
    _, _, directions = np.linalg.svd(centred)
    scores = (centred @ directions[0]) ** 2
    for removed in smallest(scores.max() - scores, int(np.ceil(c * f)), tie) if f else [[]]:
        yield np.delete(x, removed, axis=0).mean(axis=0)


def centered_clipping(x, f, tau, iterations=1, previous=None):
    v = np.zeros(x.shape[1]) if previous is None else previous
    for _ in range(iterations):
        shifts = [(row - v) * min(1.0, tau / max(np.linalg.norm(row - v), 1e-300)) for row in x]
        v = v + np.mean(shifts, axis=0)
    yield v


def clip(x, radius):
    return np.array([row * min(1.0, radius / max(np.linalg.norm(row), 1e-300)) for row in x])


def arc(x, f):
    lengths = sorted((np.linalg.norm(row) for row in x), reverse=True)
    return clip(x, lengths[int(np.floor(2 * f / len(x) * (len(x) - f) + 1e-9))])


def nnm(x, f, tie=TIED):
    """The rows after mixing: for each, all means that ties admit."""
    d = squared_distances(x)
    return [[x[chosen].mean(axis=0) for chosen in smallest(d[i], len(x) - f, tie)] for i in range(len(x))]


def fltrust(x, f, root):
    trust = [max(0.0, row @ root / (np.linalg.norm(row) * np.linalg.norm(root))) for row in x]
    scaled = [row * np.linalg.norm(root) / np.linalg.norm(row) for row in x]
    yield sum(t * row for t, row in zip(trust, scaled, strict=True)) / sum(trust)


def foolsgold(x, f, history=None):
    past, n = x if history is None else history, len(x)
    alike = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) if i != j else 0 for j, b in enumerate(past)]
                      for i, a in enumerate(past)])  # fmt: skip
    most = alike.max(axis=1)
    for i, j in product(range(n), repeat=2):
        if i != j and most[j] > most[i]:
            alike[i, j] *= most[i] / most[j]
    weights = np.clip(1 - alike.max(axis=1), 0, 1)
    weights = weights / weights.max()
    weights[weights == 1] = 0.99
    weights = np.clip(np.log(weights / (1 - weights)) + 0.5, 0, 1)
    yield (weights[:, None] * x).sum(axis=0) / weights.sum()


def pull(x, z):
    """||sum_i (x_i - z) / ||x_i - z|| || over the rows that are not z, and how many are."""
    away = x - z
    lengths = np.linalg.norm(away, axis=1)
    at = lengths <= 1e-12 * np.abs(x).max()
    return float(np.linalg.norm((away[~at] / lengths[~at, None]).sum(axis=0))), int(at.sum())


# What the oracles are tried on ------------------------------------------------------------------------------------------


def generic(rng, n, f, d):
    """Honest around one point, the first f further out."""
    x = rng.normal(size=(n, d)) + rng.normal(size=d)
    x[:f] = 3 * x[:f] + 4
    return x


def tied(rng, n, f, d):
    """Small integers: equal values, equal distances."""
    return rng.integers(-1, 2, size=(n, d)).astype(float)


def duplicated(rng, n, f, d):
    """Each row occurs about twice."""
    return generic(rng, n, f, d)[rng.integers(0, n, size=n) // 2]


def line(rng, n, f, d):
    """All on one line."""
    return np.outer(rng.normal(size=n), rng.normal(size=d))


CLOUDS = {
    "generic": generic,
    "tied": tied,
    "duplicated": duplicated,
    "line": line,
    "offset_1e4": lambda rng, n, f, d: generic(rng, n, f, d) + 1e4,
    "offset_1e6": lambda rng, n, f, d: generic(rng, n, f, d) + 1e6,
    "tiny": lambda rng, n, f, d: generic(rng, n, f, d) * 1e-30,
    "huge": lambda rng, n, f, d: generic(rng, n, f, d) * 1e30,
    "far": lambda rng, n, f, d: generic(rng, n, f, d) * np.where(np.arange(n) < f, 1e12, 1)[:, None],
}
