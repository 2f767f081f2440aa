"""Rules as they are found in code: every published convention and the usual mistakes, each by its definition in float64.

What a rule is can be seen from its answers alone: `identify` compares them with these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_fl.oracles import definitions as known

Floats = npt.NDArray[np.float64]
Definition = Callable[[Floats, int], Floats]
Count = Callable[[int, int], int]
"""(n, f) -> how many."""
SUBSETS: Final = 3000
"""Beyond so many subsets of n - f rows a rule that searches them all is not compared."""
TIES: Final = 64
"""Answers that are made of tied scores, at most."""


@dataclass(frozen=True)
class Variant:
    """A rule under one convention, or with one mistake."""

    name: str
    answers: Definition
    """((n, d), f) -> (k, d): all answers that it may give; none where the definition says nothing of this round."""


NEIGHBOURS: Final[dict[str, Count]] = {
    "n-f-1": lambda n, f: n - f - 1,
    "n-f-2": lambda n, f: n - f - 2,
    "n-f-3": lambda n, f: n - f - 3,
    "n-f": lambda n, f: n - f,
    "n-2f": lambda n, f: n - 2 * f,
    "n-2f-1": lambda n, f: n - 2 * f - 1,
    "n-2f-2": lambda n, f: n - 2 * f - 2,
    "f": lambda _, f: f,
    "f+1": lambda _, f: f + 1,
    "all": lambda n, _: n - 1,
}
"""How many others a score sums over. A row that counts itself counts one other less: n-f-1 with itself is n-f-2."""
PICKS: Final[dict[str, Count]] = {
    "n-f": lambda n, f: n - f,
    "n-f-1": lambda n, f: n - f - 1,
    "n-f-2": lambda n, f: n - f - 2,
    "n-f+1": lambda n, f: n - f + 1,
    "n-2f": lambda n, f: n - 2 * f,
    "n-2f-1": lambda n, f: n - 2 * f - 1,
    "n-2f-2": lambda n, f: n - 2 * f - 2,
    "n-2f-3": lambda n, f: n - 2 * f - 3,
    "2": lambda _n, _f: 2,
    "3": lambda _n, _f: 3,
    "5": lambda _n, _f: 5,
}
POWERS: Final = {2: "", 1: ", plain distances instead of squared ones", 4: ", fourth powers of distances"}
NONE: Final = np.empty((0, 1))


def distances(x: Floats) -> Floats:
    """All distances, by differences."""
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))


def scores(x: Floats, count: int, power: int = 2) -> Floats:
    """Of each row the sum of distances, to that power, to its nearest others."""
    others = distances(x) ** power + np.diag(np.full(len(x), np.inf))
    return np.sort(others, axis=1)[:, :count].sum(1)


def of_the_best(x: Floats, values: Floats, m: int, total: bool = False) -> Floats:
    """The mean (or the sum) of the m rows of least value, for each choice among ties at the m-th."""
    if not 1 <= m <= len(x):
        return NONE
    last = np.sort(values)[m - 1]
    near = known.NEAR * max(abs(last), 1e-300)
    inside, tied = np.flatnonzero(values < last - near), np.flatnonzero(np.abs(values - last) <= near)
    chosen = [[*inside, *more] for _, more in zip(range(TIES), combinations(tied, m - len(inside)), strict=False)]
    return np.stack([x[rows].sum(0) if total else x[rows].mean(0) for rows in chosen])


def krum_like(neighbours: Count, picks: Count | None = None, power: int = 2, total: bool = False) -> Definition:
    """Krum, or Multi-Krum where `picks` says how many rows are averaged."""

    def answers(x: Floats, f: int) -> Floats:
        count, m = neighbours(len(x), f), 1 if picks is None else picks(len(x), f)
        return of_the_best(x, scores(x, count, power), m, total) if 1 <= count < len(x) else NONE

    return answers


def _krums() -> Iterator[Variant]:
    for power, said in POWERS.items():
        for label, count in NEIGHBOURS.items():
            if label == "all":
                name = {1: "medoid: the input with the least sum of plain distances", 2: "the input nearest to the mean"}
                yield Variant(name.get(power, "the input with the least sum of fourth powers"), krum_like(count, power=power))
            else:
                yield Variant(f"Krum with {label} neighbours{said}", krum_like(count, power=power))
    for power, said in POWERS.items():
        for label, count in NEIGHBOURS.items():
            for m, picks in PICKS.items():
                name = f"Multi-Krum with {label} neighbours and m = {m}{said}"
                yield Variant(name, krum_like(count, picks, power))
                if power == 2 and label in {"n-f-1", "n-f-2"}:
                    yield Variant(f"{name}, their sum instead of the mean", krum_like(count, picks, power, total=True))


def _iterated(x: Floats, f: int, picks: int, neighbours: Callable[[int, int], int]) -> Floats:
    """Rows picked by Krum one after the other, scores anew each time."""
    left, chosen = list(range(len(x))), list[int]()
    for _ in range(picks):
        count = min(max(neighbours(len(left), f), 1), max(len(left) - 1, 1))
        values = scores(x[left], count) if len(left) > 1 else np.zeros(1)
        chosen.append(left.pop(int(np.argmin(values))))
    return x[chosen]


def median_lower(x: Floats) -> Floats:
    """The lower median of each coordinate."""
    return np.sort(x, axis=0)[(len(x) - 1) // 2]


def median_upper(x: Floats) -> Floats:
    """The upper median of each coordinate."""
    return np.sort(x, axis=0)[len(x) // 2]


def median(x: Floats) -> Floats:
    """The midpoint median of each coordinate."""
    return np.median(x, axis=0)


MEDIANS: Final[dict[str, Callable[[Floats], Floats]]] = {
    "midpoint": median,
    "lower": median_lower,
    "upper": median_upper,
}


def around(x: Floats, centre: Floats, keep: int) -> Floats:
    """Per coordinate the mean of the values nearest to the centre."""
    if not 1 <= keep <= len(x):
        return np.full(x.shape[1], np.nan)
    nearest = np.argsort(np.abs(x - centre), axis=0, kind="stable")[:keep]
    return np.take_along_axis(x, nearest, axis=0).mean(0)


def bulyan_like(
    neighbours: Callable[[int, int], int],
    inner: Callable[[Floats], Floats],
    keep: Count,
    once: bool = False,
    trims: bool = False,
) -> Definition:
    """n - 2f rows by Krum, then per coordinate a mean around their median, or their trimmed mean."""

    def answers(x: Floats, f: int) -> Floats:
        n = len(x)
        if n - 4 * f < 1:
            return NONE
        if once:
            picked = x[np.argsort(scores(x, max(neighbours(n, f), 1)), kind="stable")[: n - 2 * f]]
        else:
            picked = _iterated(x, f, n - 2 * f, neighbours)
        if trims:
            return np.sort(picked, axis=0)[f : len(picked) - f].mean(0)[None]
        return around(picked, inner(picked), keep(n, f))[None]

    return answers


SHRINKING: Final[dict[str, Callable[[int, int], int]]] = {
    "n-f-2 neighbours of those left": lambda left, f: left - f - 2,
    "n-f-1 neighbours of those left": lambda left, f: left - f - 1,
}


def _bulyans() -> Iterator[Variant]:
    for said, neighbours in SHRINKING.items():
        picks_only = bulyan_like(neighbours, median, lambda n, f: n - 2 * f)
        yield Variant(f"Bulyan without its second phase, {said}", picks_only)
        for label, inner in MEDIANS.items():
            mid = "" if label == "midpoint" else f" around the {label} median"
            yield Variant(f"Bulyan, {said}{mid}", bulyan_like(neighbours, inner, lambda n, f: n - 4 * f))

        yield Variant(f"Bulyan that selects by one round of scores, {said}",
                      bulyan_like(neighbours, median, lambda n, f: n - 4 * f, once=True))  # fmt: skip
        yield Variant(f"Bulyan with a trimmed mean at the end, {said}",
                      bulyan_like(neighbours, median, lambda n, f: n - 4 * f, trims=True))  # fmt: skip
        yield Variant(f"Bulyan, one round of scores and a trimmed mean, {said}",
                      bulyan_like(neighbours, median, lambda n, f: n - 4 * f, once=True, trims=True))  # fmt: skip


def trimming(low: Count, high: Count, divisor: Count | None = None) -> Definition:
    """Per coordinate the sum without the `low` smallest and `high` greatest, over their number or another."""

    def answers(x: Floats, f: int) -> Floats:
        n = len(x)
        a, b = low(n, f), n - high(n, f)
        if not 0 <= a < b <= n:
            return NONE
        kept = np.sort(x, axis=0)[a:b]
        return (kept.sum(0) / (divisor(n, f) if divisor else len(kept)))[None]

    return answers


def _zero(_n: int, _f: int) -> int:
    return 0


def _told(_n: int, f: int) -> int:
    return f


def _trims() -> Iterator[Variant]:
    each: dict[str, Count] = {
        "trimmed mean": _told,
        "trimmed mean that trims f - 1 a side": lambda _, f: f - 1,
        "trimmed mean that trims f + 1 a side": lambda _, f: f + 1,
        "trimmed mean that trims 2f a side": lambda _, f: 2 * f,
        "trimmed mean that trims half of f a side": lambda _, f: f // 2,
        "trimmed mean that trims half of f a side, rounded up": lambda _, f: (f + 1) // 2,
        "trimmed mean whose f is truncated: int(f / n * n)": lambda n, f: int(f / n * n),
        "trimmed mean that trims 10 % a side": lambda n, _: int(0.1 * n),
        "trimmed mean that trims 20 % a side": lambda n, _: int(0.2 * n),
        "trimmed mean that trims a quarter a side": lambda n, _: n // 4,
        "trimmed mean that trims one a side, whatever f": lambda _n, _f: 1,
    }
    for name, count in each.items():
        yield Variant(name, trimming(count, count))
    yield Variant("trimmed mean, the sum instead of the mean", trimming(_told, _told, lambda _n, _f: 1))
    yield Variant("trimmed mean divided by n instead of n - 2f", trimming(_told, _told, lambda n, _: n))
    yield Variant("trimmed mean divided by n - f instead of n - 2f", trimming(_told, _told, lambda n, f: n - f))
    yield Variant("trimmed mean that trims the greatest only", trimming(_zero, _told))
    yield Variant("trimmed mean that trims the smallest only", trimming(_told, _zero))
    yield Variant("trimmed mean whose slice ends one too late", trimming(_told, lambda _, f: f - 1))
    yield Variant("trimmed mean whose slice begins one too early", trimming(lambda _, f: f - 1, _told))


def _one(rule: Callable[[Floats, int], Floats]) -> Definition:
    return lambda x, f: rule(x, f)[None]


def _arounds() -> Iterator[Variant]:
    def centre_of(name: str) -> Callable[[Floats, int], Floats]:
        if name == "trimmed mean":
            return lambda x, f: known.trimmed_mean(x, f)[0]
        return lambda x, _: x.mean(0) if name == "mean" else MEDIANS[name](x)

    keeps: dict[str, Count] = {
        "": lambda n, f: n - f,
        ", keeping n - f + 1": lambda n, f: n - f + 1,
        ", keeping n - f - 1": lambda n, f: n - f - 1,
        ", keeping n - 2f": lambda n, f: n - 2 * f,
    }
    names = {
        "midpoint": "MeaMed", "lower": "MeaMed around the lower median", "upper": "MeaMed around the upper median",
        "trimmed mean": "Phocas", "mean": "the mean of the values nearest to the mean",
    }  # fmt: skip
    for centre, name in names.items():
        place = centre_of(centre)
        for said, keep in keeps.items():
            yield Variant(name + said, _one(lambda x, f, place=place, keep=keep: around(x, place(x, f), keep(len(x), f))))


def mixed(x: Floats, count: int, itself: bool = True) -> Floats:
    """Each row replaced by the mean of its nearest, itself among them or not."""
    away = distances(x) + (0 if itself else np.diag(np.full(len(x), np.inf)))
    return x[np.argsort(away, axis=1, kind="stable")[:, :count]].mean(1)


def clipped_by_rank(x: Floats, f: int) -> Floats:
    """ARC: the floor(2 f (n - f) / n) longest rows shortened to the next norm (Allouah et al. 2024)."""
    norms = np.linalg.norm(x, axis=1)
    count = 2 * f * (len(x) - f) // len(x)
    limit = np.sort(norms)[len(x) - count - 1]
    return x * np.minimum(1, limit / np.maximum(norms, 1e-300))[:, None]


def _inner() -> dict[str, Definition]:
    return {
        "trimmed mean": known.trimmed_mean,
        "median": _one(lambda x, _: median(x)),
        "lower median": _one(lambda x, _: median_lower(x)),
        "Krum with n-f-1 neighbours": krum_like(NEIGHBOURS["n-f-1"]),
        "Krum with n-f-2 neighbours": krum_like(NEIGHBOURS["n-f-2"]),
        "Multi-Krum with n-f-1 neighbours and m = n-f": krum_like(NEIGHBOURS["n-f-1"], PICKS["n-f"]),
        "geometric median": known.geometric_median,
        "the mean": known.mean,
    }


def _pipes() -> Iterator[Variant]:
    before: dict[str, Callable[[Floats, int], Floats]] = {
        "NNM": lambda x, f: mixed(x, len(x) - f),
        "NNM without the row itself": lambda x, f: mixed(x, len(x) - f, itself=False),
        "NNM over n-f-1 rows": lambda x, f: mixed(x, len(x) - f - 1),
        "NNM over n-f+1 rows": lambda x, f: mixed(x, len(x) - f + 1),
        "ARC": clipped_by_rank,
    }
    for step, move in before.items():
        for name, inner in _inner().items():
            yield Variant(f"{step}, then {name}", lambda x, f, move=move, inner=inner: inner(move(x, f), f))


def _norms(x: Floats) -> Floats:
    return np.linalg.norm(x, axis=1)


def _clipped(x: Floats, limit: float) -> Floats:
    return (x * np.minimum(1, limit / np.maximum(_norms(x), 1e-300))[:, None]).mean(0)


def _subsets(rule: Definition) -> Definition:
    return lambda x, f: rule(x, f) if math.comb(len(x), f) <= SUBSETS else NONE


def _nearest_to(centre: Callable[[Floats, int], Floats]) -> Definition:
    return lambda x, f: x[[int(np.argmin(_norms(x - centre(x, f))))]]


def _weiszfeld(x: Floats, steps: int, smoothing: float, start: Floats) -> Floats:
    z = start
    for _ in range(steps):
        weights = 1 / np.maximum(_norms(x - z), smoothing)
        z = weights @ x / weights.sum()
    return z


def _others() -> Iterator[Variant]:
    yield Variant("the mean", known.mean)
    yield Variant("the sum instead of the mean", _one(lambda x, _: x.sum(0)))
    yield Variant("coordinate-wise median, midpoint", _one(lambda x, _: median(x)))
    yield Variant("coordinate-wise median, lower", _one(lambda x, _: median_lower(x)))
    yield Variant("coordinate-wise median, upper", _one(lambda x, _: median_upper(x)))
    yield Variant("the median of all entries", _one(lambda x, _: np.full(x.shape[1], np.median(x))))
    yield Variant("geometric median", known.geometric_median)
    for steps in (3, 1, 10):
        said = f"{steps} step{'s' * (steps > 1)} of Weiszfeld"
        yield Variant(f"{said} from zero, smoothed by 0.1",
                      _one(lambda x, _, k=steps: _weiszfeld(x, k, 0.1, np.zeros(x.shape[1]))))  # fmt: skip
        yield Variant(f"{said} from the mean", _one(lambda x, _, k=steps: _weiszfeld(x, k, 1e-6, x.mean(0))))
    yield Variant("minimum diameter averaging (MDA)", _subsets(known.minimum_diameter))
    yield Variant("minimum variance averaging (MVA)", _subsets(known.minimum_variance))
    yield Variant("SMEA", _subsets(known.smea))
    yield Variant("the input nearest to the median", _nearest_to(lambda x, _: median(x)))
    yield Variant("the input nearest to the trimmed mean", _nearest_to(lambda x, f: known.trimmed_mean(x, f)[0]))
    yield Variant("the mean of the n - f smallest norms (CGE)",
                  lambda x, f: of_the_best(x, _norms(x), len(x) - f))  # fmt: skip
    yield Variant("the sum of the n - f smallest norms (CGE)",
                  lambda x, f: of_the_best(x, _norms(x), len(x) - f, total=True))  # fmt: skip
    yield Variant("the mean of rows clipped to the median norm", _one(lambda x, _: _clipped(x, float(np.median(_norms(x))))))
    yield Variant("the mean of rows clipped to norm 1", _one(lambda x, _: _clipped(x, 1.0)))
    yield Variant("the mean of rows clipped to norm 10", _one(lambda x, _: _clipped(x, 10.0)))
    yield Variant("the mean of the n - f rows nearest to the mean",
                  lambda x, f: of_the_best(x, _norms(x - x.mean(0)), len(x) - f))  # fmt: skip
    yield Variant("the mean of the n - f rows nearest to the median",
                  lambda x, f: of_the_best(x, _norms(x - median(x)), len(x) - f))  # fmt: skip
    yield Variant("the mean of the n - f rows nearest to the first (MoNNA)",
                  lambda x, f: of_the_best(x, _norms(x - x[0]), len(x) - f))  # fmt: skip
    yield Variant("the majority of signs", _one(lambda x, _: np.sign(np.sign(x).sum(0))))
    yield Variant("the first row", lambda x, _: x[:1])


def variants() -> Iterator[Variant]:
    """All of them, the plainest first: of two that agree everywhere the first is named."""
    yield from _others()
    yield from _trims()
    yield from _arounds()
    yield from _krums()
    yield from _bulyans()
    yield from _pipes()
