"""What is proven of each rule, derived anew and apart from the code under test: the harness's own constants.

n clients, f Byzantine, h = n - f honest, a = n - 2f. A rule is (f, kappa)-robust (Allouah et al. 2023, arXiv 2302.01772,
Definition 2) when for every set S of h rows, ||F(x) - mean_S||^2 <= kappa * mean_{i in S} ||x_i - mean_S||^2.
No rule has kappa < f / (n - 2f), and an exact constant here is attained by a stored input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fl_impl.common.specs import lookup

Kappa = Callable[[int, int], float]
Floats = npt.NDArray[np.float64]


def lower_bound(n: int, f: int) -> float:
    """f / (n - 2f): no rule has a smaller kappa.

    Of n - 2f rows at 0 and 2f rows at 1, f of the latter may be the Byzantine ones, or none of them but f of the zeros.
    """
    return f / (n - 2 * f) if n > 2 * f else math.inf


def kappa_of_ranks(weights: Sequence[float], f: int) -> float:
    """The exact kappa of the coordinate-wise L-statistic sum_j w_j x_(j), for w >= 0 with sum 1, in any dimension.

    h ||iso(w_1..w_h)||^2 - 1, the larger of w and its reversal, where iso is the non-decreasing isotonic regression: the
    worst Byzantine values are all +inf or all -inf, and the honest worst case is the projection of the weights left on
    the cone of sorted vectors. Infinite where a weight reaches the f extremes. At f = 0 it gives the no-attack
    constants of Yang & Li (2025), Theorem 3.6.
    """
    h = len(weights) - f
    worst = 0.0
    for one_side in (list(weights), list(weights)[::-1]):
        if any(one_side[h:]):
            return math.inf
        worst = max(worst, h * sum(value * value for value in isotonic(one_side[:h])) - 1)
    return worst


def isotonic(values: Sequence[float]) -> list[float]:
    """The nearest non-decreasing sequence: pool adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (left, i), (right, j) = blocks[-2:]
            blocks[-2:] = [((left * i + right * j) / (i + j), i + j)]
    return [value for value, count in blocks for _ in range(count)]


def mean(n: int, f: int) -> float:
    """0 at f = 0, and no constant for f >= 1: one client moves it anywhere."""
    del n
    return math.inf if f else 0.0


def trimmed_mean(n: int, f: int) -> float:
    """f / (n - 2f), exact: the lower bound itself. kappa_of_ranks of the uniform weights on ranks f+1..n-f."""
    return lower_bound(n, f)


def coordinate_median(n: int, f: int) -> float:
    """(n-1)/(n+1-2f) for n odd, (n-2)/(n+2-2f) for n even, exact: kappa_of_ranks of the midpoint median."""
    return (n - 1) / (n + 1 - 2 * f) if n % 2 else (n - 2) / (n + 2 - 2 * f)


def coordinate_median_lower(n: int, f: int) -> float:
    """(n-1)/(n+1-2f) for n odd, n/(n-2f) for n even, exact: torch.median's lower median."""
    return (n - 1) / (n + 1 - 2 * f) if n % 2 else n / (n - 2 * f)


def geometric_median(n: int, f: int) -> float:
    """m / (h - m), m = floor(n/2), exact for the worst minimiser.

    With the median at 0 the honest cosines c_i to the honest mean obey sum (c_i^+)^2 <= m by optimality; Cauchy-Schwarz
    then gives ||mean||^2 <= (m/h) mean r_i^2.
    """
    half = n // 2
    return half / (n - f - half)


def krum(n: int, f: int) -> float:
    """(sqrt(2h) + sqrt f)^2 / a for n-f-1 neighbours and squared distances; attained at n = 3f.

    The winner's score is at most the mean honest score 2 h sigma^2, and a of its neighbours are honest.
    Allouah et al. 2023, Proposition: 6 (1 + f/a), which is larger.
    """
    return (math.sqrt(2 * (n - f)) + math.sqrt(f)) ** 2 / (n - 2 * f)


def krum_blanchard(n: int, f: int) -> float:
    """As krum, for the n-f-2 neighbours of Blanchard et al. 2017 (arXiv 1703.02757); needs n >= 2f + 3."""
    h, a = n - f, n - 2 * f - 2
    if a < 1:
        return math.inf
    return (math.sqrt(2 * h * (h - 2) / (h - 1) / a) + math.sqrt((f + 2) / a)) ** 2


def krum_unsquared(n: int, f: int) -> float:
    """(sqrt 2 h/a + sqrt(f/a))^2 for scores that sum plain distances: of order (h/a)^2, worse than Krum's."""
    h, a = n - f, n - 2 * f
    return (math.sqrt(2) * h / a + math.sqrt(f / a)) ** 2


def multi_krum(n: int, f: int) -> float:
    """(f/a) ((sqrt(n h) + f + sqrt(h a)) / h)^2 for m = n - f, and never more than krum's."""
    h, a = n - f, n - 2 * f
    return min(krum(n, f), f / a * ((math.sqrt(n * h) + f + math.sqrt(h * a)) / h) ** 2)


def nearest_to(centre: Kappa) -> Kappa:
    """(4f/h)(1 + kappa of the centre): the mean of the n - f inputs nearest to a robust centre."""
    return lambda n, f: 4 * f / (n - f) * (1 + centre(n, f))


def minimum_diameter(n: int, f: int) -> float:
    """8 f^2 / h: the chosen set shares a member with S, so the means differ by (2f/h) diam(S), and diam^2 <= 2 h sigma^2."""
    return 8 * f * f / (n - f)


def minimum_variance(n: int, f: int) -> float:
    """4f / (n - 2f), exact; for SMEA the same in the operator norm, hence in the trace too."""
    return 4 * f / (n - 2 * f)


def bulyan(n: int, f: int) -> float:
    """(sqrt k + sqrt(h (1 + k) / (n - 4f)))^2, k = (h - q)/q, q the picks at or beyond the median that must be honest."""
    picked, kept, h = n - 2 * f, n - 4 * f, n - f
    honest = (picked + 1) // 2 - f if picked % 2 else picked // 2 + 1 - f
    spread = (h - honest) / honest
    return (math.sqrt(spread) + math.sqrt(h / kept * (1 + spread))) ** 2


def after_nnm(inner: Kappa) -> Kappa:
    """(8f/h)(1 + kappa): nearest-neighbour mixing before a rule (Allouah et al. 2023, Lemma 5; proof by pairing)."""
    return lambda n, f: 8 * f / (n - f) * (1 + inner(n, f))


def after_arc(inner: Kappa) -> Kappa:
    """kappa + 2f/(n - 2f): adaptive clipping before a rule (Allouah et al. 2024, Theorem 3.2)."""
    return lambda n, f: inner(n, f) + 2 * lower_bound(n, f)


def most_of_any_rule(n: int, f: int) -> float:
    """A coefficient that no sensible rule exceeds: four times the worst here, plus 8. What an unclaimed rule is held to.

    It is far above every proven constant of this module, so that no sound rule meets it, and far below what a single
    colluding outlier at some hundreds of radii does to a rule that lets it in.
    """
    return 4 * krum_unsquared(n, f) + 8


@dataclass(frozen=True)
class RuleTheory:
    """What is proven of a rule under one convention: what `claims="krum"` holds an aggregator to."""

    name: str
    kappa: Kappa
    exact: bool
    symmetries: frozenset[str]
    min_clients: Callable[[int], int] = lambda f: 2 * f + 1
    stored: str = ""
    """The key of its worst inputs in data/worst_inputs.npz."""


_GEOMETRIC = frozenset({"permutation", "translation", "scale", "sign", "rotation", "box", "hull"})
_SORTED = frozenset({"permutation", "translation", "scale", "sign", "monotone", "box", "honest_box"})
_NEAREST = frozenset({"permutation", "translation", "scale", "sign", "box"})
_MEAN = frozenset({"mean"})

RULES: dict[str, RuleTheory] = {
    theory.name: theory
    for theory in (
        RuleTheory("mean", mean, True, _GEOMETRIC | _MEAN | {"monotone"}),
        RuleTheory("trimmed_mean", trimmed_mean, True, _SORTED | _MEAN, stored="cwtm"),
        RuleTheory("coordinate_median", coordinate_median, True, _SORTED, stored="cwmed"),
        RuleTheory("coordinate_median_lower", coordinate_median_lower, True, _SORTED - {"sign"}, stored="cwmed_low"),
        RuleTheory("meamed", nearest_to(coordinate_median), False, _NEAREST | _MEAN, stored="meamed"),
        RuleTheory("phocas", nearest_to(trimmed_mean), True, _NEAREST | _MEAN, stored="phocas"),
        RuleTheory("krum", krum, False, _GEOMETRIC | {"selects"}, stored="krum"),
        RuleTheory("krum_blanchard", krum_blanchard, False, _GEOMETRIC | {"selects"}, lambda f: 2 * f + 3, stored="krum_orig"),
        RuleTheory("krum_unsquared", krum_unsquared, False, _GEOMETRIC | {"selects"}, stored="krum_l1"),
        RuleTheory("multi_krum", multi_krum, False, _GEOMETRIC | _MEAN, stored="multikrum"),
        RuleTheory("geometric_median", geometric_median, True, _GEOMETRIC, stored="gm"),
        RuleTheory("minimum_diameter", minimum_diameter, False, _GEOMETRIC | _MEAN, stored="mda"),
        RuleTheory("minimum_variance", minimum_variance, True, _GEOMETRIC | _MEAN, stored="mva"),
        RuleTheory("smea", minimum_variance, False, _GEOMETRIC | _MEAN, stored="smea_op"),
        RuleTheory("bulyan", bulyan, False, _NEAREST - {"permutation"}, lambda f: 4 * f + 3, stored="bulyan"),
        RuleTheory("nnm|trimmed_mean", after_nnm(trimmed_mean), False, _NEAREST | _MEAN, stored="nnm.cwtm"),
        RuleTheory("nnm|coordinate_median", after_nnm(coordinate_median), False, _NEAREST, stored="nnm.cwmed"),
        RuleTheory("nnm|krum", after_nnm(krum), False, _NEAREST - {"permutation"}, stored="nnm.krum"),
        RuleTheory("arc|trimmed_mean", after_arc(trimmed_mean), False, frozenset({"scale", "sign"}), stored="arc.cwtm"),
        RuleTheory(
            "arc|coordinate_median", after_arc(coordinate_median), False, frozenset({"scale", "sign"}), stored="arc.cwmed"
        ),
        RuleTheory("arc|krum", after_arc(krum), False, frozenset({"scale", "sign", "rotation"}), stored="arc.krum"),
    )
}
ALIASES = {
    "median": "coordinate_median", "cwmed": "coordinate_median", "lower_median": "coordinate_median_lower",
    "cwtm": "trimmed_mean", "mda": "minimum_diameter", "mva": "minimum_variance", "byzantine_robust": "nnm|trimmed_mean",
    "fedavg": "mean",
}  # fmt: skip


def rule_theory(name: str) -> RuleTheory:
    """What is proven of the rule of that name; ValueError with the nearest name where nothing is."""
    return lookup(ALIASES.get(name, name), RULES, "the name of a rule in pytest_fl.oracles.theory.RULES")


class WorstInput(NamedTuple):
    """The worst input that a search found for a rule: rows 0..f-1 are Byzantine; ratio is the coefficient reached."""

    updates: Floats
    f: int
    ratio: float


@lru_cache(maxsize=1)
def _stored() -> dict[str, list[WorstInput]]:
    with np.load(Path(__file__).parent / "data" / "worst_inputs.npz", allow_pickle=False) as data:
        rules, rule, shape, ratio, values = (data[key] for key in ("rules", "rule", "shape", "ratio", "values"))
    found: dict[str, list[WorstInput]] = {str(name): [] for name in rules}
    ends = np.cumsum(shape[:, 0].astype(int) * shape[:, 2])
    for index, (n, f, d) in enumerate(shape.astype(int)):
        updates = values[ends[index] - n * d : ends[index]].reshape(n, d)
        found[str(rules[rule[index]])].append(WorstInput(updates, int(f), float(ratio[index])))
    return found


def worst_inputs(stored: str) -> list[WorstInput]:
    """The stored worst inputs under a key of data/worst_inputs.npz (`RuleTheory.stored`); empty for an unknown key."""
    return _stored().get(stored, [])


def all_worst_inputs() -> list[WorstInput]:
    """All of them: what breaks one rule is a hard round for the next."""
    return [found for inputs in _stored().values() for found in inputs]
