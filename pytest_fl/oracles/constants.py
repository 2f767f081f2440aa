"""The robustness coefficients, each worked out here by another way than the code under test takes, in plain float64.

n clients, f Byzantine, h = n - f honest, a = n - 2f. A rule is (f, kappa)-robust (Allouah et al. 2023, arXiv 2302.01772,
Definition 2) when for every set S of h rows, ||F(x) - mean_S||^2 <= kappa * mean_{i in S} ||x_i - mean_S||^2. Theorems and
proofs: docs/theory.md. Where `fl_impl` has a closed form, this module maximises the linear function of the proof
(isotonic regression), minimises its dual, or takes eigenvalues; tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Kappa = Callable[[int, int], float]
Floats = npt.NDArray[np.float64]


def lower_bound(n: int, f: int) -> float:
    """f / (n - 2f): no rule has a smaller kappa.

    Of n - 2f rows at 0 and 2f rows at 1, f of the latter may be the Byzantine ones, or none of them but f of the zeros.
    """
    return f / (n - 2 * f) if n > 2 * f else math.inf


def isotonic(values: Sequence[float]) -> list[float]:
    """The nearest non-decreasing sequence: pool adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (left, i), (right, j) = blocks[-2:]
            blocks[-2:] = [((left * i + right * j) / (i + j), i + j)]
    return [value for value, count in blocks for _ in range(count)]


def most_over_sorted(weights: Sequence[float]) -> float:
    """The square of the greatest <weights, y> over non-decreasing y of mean 0 and mean square 1, for weights of sum 0."""
    return len(weights) * sum(value * value for value in isotonic(weights))


def kappa_of_ranks(weights: Sequence[float], f: int) -> float:
    """The exact kappa of the coordinate-wise L-statistic sum_j w_j x_(j), for w >= 0 with sum 1, in any dimension.

    h ||iso(w_1..w_h)||^2 - 1, the larger of w and its reversal, where iso is the non-decreasing isotonic regression: the
    worst Byzantine values are all +inf or all -inf, and the honest worst case is the projection of the weights left on
    the cone of sorted vectors. Infinite where a weight reaches the f extremes. At f = 0 it gives the no-attack
    constants of Yang & Li (2025), Theorem 3.6; at b < f, for the weights of the rule at f, its constant for b attackers.
    """
    h = len(weights) - f
    worst = 0.0
    for one_side in (list(weights), list(weights)[::-1]):
        if any(one_side[h:]):
            return math.inf
        worst = max(worst, h * sum(value * value for value in isotonic(one_side[:h])) - 1)
    return worst


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


def nearest_to_ranks(centre: Sequence[float], f: int) -> float:
    """The exact kappa of the mean of the n - f values nearest to an L-statistic with those weights on ranks f+1..n-f.

    With all attackers below, the result is least if the t greatest honest values above the centre are left out for
    them: n F - sum is then 2 sum (top t) - 2 t centre, a function of sorted honest values. The greatest over t <= f.
    """
    n = len(centre)
    h = n - f
    shifted = [centre[rank + f] if rank + f < n else 0.0 for rank in range(h)]
    most = 0.0
    for t in range(1, f + 1):
        weights = [2.0 * (rank >= h - t) - 2.0 * t * shifted[rank] for rank in range(h)]
        most = max(most, most_over_sorted(weights) / h**2)
    return most


def _uniform(n: int, low: int, high: int) -> list[float]:
    return [1 / (high - low) if low <= rank < high else 0.0 for rank in range(n)]


@lru_cache(maxsize=4096)
def meamed(n: int, f: int) -> float:
    """The mean of the n - f values nearest to the median: exact. In closed form (4f/h)(1 + f/(floor(n/2) + 1 - f))."""
    return nearest_to_ranks(_uniform(n, (n - 1) // 2, n // 2 + 1), f)


@lru_cache(maxsize=4096)
def phocas(n: int, f: int) -> float:
    """The mean of the n - f values nearest to the trimmed mean: exact. In closed form 4f/(n - 2f)."""
    return nearest_to_ranks(_uniform(n, f, n - f), f)


def krum_unsquared(n: int, f: int) -> float:
    """(sqrt 2 h/a + sqrt(f/a))^2 for scores that sum plain distances: of order (h/a)^2, worse than Krum's."""
    h, a = n - f, n - 2 * f
    return (math.sqrt(2) * h / a + math.sqrt(f / a)) ** 2


def krum_blanchard(n: int, f: int) -> float:
    """Krum with the n-f-2 neighbours of Blanchard et al. 2017 (arXiv 1703.02757); needs n >= 2f + 3.

    The winner's neighbourhood holds A, k = n - 2f - 1 rows of S, and its score is at most g times the sum of squared
    distances from a member i of S to all of S, averaged over i outside A or over i in A: g = (h - 2)/(h - 1), since the
    nearest h - 2 of h - 1 others count. Cauchy-Schwarz, or the sum of both distances. The lesser; not exact.
    """
    h, k = n - f, n - 2 * f - 1
    if k < 2:
        return math.inf
    g, rest = (h - 2) / (h - 1), n - f - (n - 2 * f - 1)
    over_rest = (n + 1) * (g * h / (k * rest) + 1 / k)
    over_members = (math.sqrt(g) * h / k + math.sqrt(rest / k)) ** 2
    return min(over_rest, over_members)


def multi_krum(n: int, f: int, *, m: int | None = None, neighbours: int | None = None) -> float:
    """The mean of the m best scores (n - f where not given): 4f/(n - 2f) for m = n - f, exact for n >= 3f.

    `neighbours`: how many others a score sums, n - f - 1 where not given, or n - f - 2; then one honest neighbour less.
    For m < n - f: with b outsiders chosen and c = h - m + b of S left out, m (F - mu) is b (outsiders - left out) and
    (h - m)(mu - left out); the first as for m = n - f where 2c <= h for all b. Otherwise Jensen over the scores.
    """
    h = n - f
    missing = 0 if neighbours in (None, h - 1) else 1
    a = n - 2 * f - missing
    if a < 1:
        return math.inf
    m = h if m is None else m
    if m == h:
        return 4 * f / a
    counted = (h - 1 - missing) / (h - 1)
    jensen = (math.sqrt(2 * h * counted / a) + math.sqrt((f + missing) / a)) ** 2
    if 2 * (h - m + f) > h:
        return jensen
    steps: list[float] = []
    for b in range(min(f, m) + 1):
        left_out = h - m + b
        outsiders = b * 2 * h / math.sqrt(a * left_out)
        shift = (h - m) * math.sqrt((h - left_out) / left_out)
        steps.append((outsiders + shift) ** 2 / m**2)
    return min(jensen, max(steps))


def multi_krum_blanchard(n: int, f: int) -> float:
    """Multi-Krum with n-f-2 neighbours and m = n - f: 4f/(n - 2f - 1)."""
    return multi_krum(n, f, neighbours=n - f - 2)


def minimum_diameter(n: int, f: int) -> float:
    """Exact: the greatest sum of squared coefficients of the linear function that bounds h ||F - mu||, over h.

    b <= f rows of S are left out (C), J are kept. p, q realise the diameter of S: h ||F - mu|| <= b |p - q| + b |the mean
    of C - that of some of J|, with unit vectors u, v for the two. Which of p, q are in C, and whether q counts in that
    mean, is free; the bound takes the better mean for each.
    """
    h = n - f
    worst = 0.0
    for b in range(1, f + 1):
        kept = h - b
        # p in C: -b u - v there; -v at the rest of C; q in J: b u, not in the mean, or, if it is all of J, in it.
        others = b**2 / (kept - 1) if kept > 1 else 0.0
        at_q = b**2 if kept > 1 else (2 * b) ** 2
        split = at_q + (b + 1) ** 2 + (b - 1) + others
        both_left_out = 2 * b**2 + 2 + (b - 2) + b**2 / kept if b > 1 else 0.0
        both_kept = 2 * b**2 + b + b**2 / kept if kept > 1 else 0.0
        worst = max(worst, split, both_left_out, both_kept)
    return worst / h


def minimum_variance(n: int, f: int) -> float:
    """4f / (n - 2f), exact; for SMEA the same in the operator norm, hence in the trace too.

    K and S, of variance s each at most, have h - b rows in common, b <= f: the mean of these is within sqrt(b/(h - b) s)
    of both.
    """
    return max(4 * b / (n - f - b) for b in range(f + 1))


@lru_cache(maxsize=4096)
def bulyan(n: int, f: int) -> float:
    """The greatest deviation of one coordinate, whatever rule made the n - 2f picks; n >= 4f + 3.

    b attackers are among the low picks. Of the 2f picks left out, f + t are above the window: then its t lowest values
    are no further below the median than the lowest value left out is above it. The result is so bounded by a linear
    function of sorted honest values; the greatest of its maxima over t and b.
    """
    h, picks, kept = n - f, n - 2 * f, n - 4 * f
    worst = 0.0
    for t in range(min(f, (picks - 1) // 2 - f) + 1):
        for b in range(f + 1):
            weights = [1 / h] * (h + 1)  # by rank, from 1
            for rank in range(f + 1, picks - f - t + 1):
                weights[rank - b] -= 1 / kept
            if t:
                for middle in ((picks + 1) // 2, picks // 2 + 1):
                    weights[middle - b] -= t / kept
                weights[h - t + 1 - b] += t / kept
            worst = max(worst, most_over_sorted(weights[1:]))
    return worst


def caf(n: int, f: int) -> float:
    """(f/a)(1 + (2 + sqrt 2) sqrt(h/a))^2, or where a > f the lesser of that and (2f/(a - f))(1 + sqrt(h/a))^2.

    In the operator norm, hence in the trace too. `caf_unrounded` is the proof with nothing rounded up, and less.
    """
    h, a = n - f, n - 2 * f
    ratio = math.sqrt(h / a)
    after = math.sqrt(f / a) + 2 * math.sqrt(f / a) * ratio + math.sqrt(2 * f / a) * ratio
    if a <= f:
        return after**2
    direct = math.sqrt(2 * f / (a - f)) + math.sqrt(2 * f / (a - f)) * ratio
    return min(after, direct) ** 2


def caf_unrounded(n: int, f: int, *, grid: int = 400) -> float:
    """The maximum over r, the honest weight gone at the first step at which the honest carry half of the top variance."""
    h, a = n - f, n - 2 * f
    worst = 0.0
    for r in np.linspace(0, f, grid + 1):
        eigenvalue = 2 * h * (h - r) / (a * (n - 2 * r))
        lost = math.sqrt(r / (h - r))
        after = lost + (math.sqrt((f - r) / (h - r)) + math.sqrt(2 * (f - r) / a)) * math.sqrt(eigenvalue)
        gone = np.linspace(r, f, 60)  # of the attackers' weight
        left = a - f + gone
        direct = np.inf
        if left[0] > 0:
            direct = float((np.sqrt((2 * f - gone) / left) + np.sqrt((f - gone) / left * eigenvalue)).max())
        before = lost + math.sqrt((f - r) / (h - r) * 2 * h / a)
        worst = max(worst, min(after, direct), before)
    return worst**2


def after_nnm(inner: Kappa) -> Kappa:
    """(4f/h)(1 + kappa): nearest-neighbour mixing before a rule, half of what Allouah et al. 2023 publish.

    Exact, 4f/(n - 2f), where the rule after it has the least kappa there is. docs/theory.md, Theorem 4.
    """
    return lambda n, f: (1 + inner(n, f)) * 4 * f / (n - f)


def after_arc(inner: Kappa) -> Kappa:
    """kappa + k/(h - k): adaptive clipping of the k = floor(2fh/n) longest before a rule (Allouah et al. 2025: 2f/a)."""

    def kappa(n: int, f: int) -> float:
        clipped = (2 * f * (n - f)) // n
        return inner(n, f) + clipped / (n - f - clipped)

    return kappa


def after_bucketing(inner: Kappa, size: int = 2) -> Kappa:
    """The means of buckets of `size` rows before a rule, for the worst permutation, the last bucket short or not.

    With S's rows at x, the clean buckets' means at b_j of s_j rows: h variance >= sum s_j |b_j|^2 + |sum s_j b_j|^2 over
    the number of rows of S in no clean bucket, around mu = 0. And (sqrt(k V) + E)^2 <= (k + t)(V + E^2/t) for the spread V
    and the offset E of the b_j: for every t > 0 a quotient of two quadratic forms, of which the greatest eigenvalue is
    a bound. The least over t, the worse of: the short bucket is clean, or bad.
    """

    @lru_cache(maxsize=4096)
    def kappa(n: int, f: int) -> float:
        buckets = -(-n // size)
        if buckets <= 2 * f:
            return math.inf
        k, clean = inner(buckets, f), buckets - f
        full = [float(size)] * clean
        choices = [full] if n % size == 0 else [[*full[:-1], float(n % size)], *([full] if f else [])]
        return max(_least_split(k, np.array(sizes), n - f) for sizes in choices)

    return kappa


def _least_split(k: float, sizes: Floats, h: int) -> float:
    """The least, over t, of (k + t) times the greatest eigenvalue: convex in log t."""
    clean, rest = len(sizes), h - sizes.sum()
    basis = np.eye(clean)
    if rest == 0:  # all of S is in clean buckets: the sizes' weighted sum is 0
        basis = np.linalg.svd(sizes[None, :])[2][1:].T
        if not basis.size:
            return 0.0
    cost = np.diag(sizes) + (np.outer(sizes, sizes) / rest if rest else 0.0)
    root = np.linalg.inv(np.linalg.cholesky(basis.T @ cost @ basis / h))

    def value(logarithm: float) -> float:
        t = math.exp(logarithm)
        wanted = np.eye(clean) / clean + (1 / t - 1) * np.ones((clean, clean)) / clean**2
        return (k + t) * float(np.linalg.eigvalsh(root @ basis.T @ wanted @ basis @ root.T)[-1])

    low, high = -20.0, 20.0
    for _ in range(70):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if value(left) < value(right) else (left, high)
    return value((low + high) / 2)


def fewer_attackers(kappa: float, n: int, f: int, b: int) -> float:
    """Of any rule with kappa at f, for every set H of n - b rows, b <= f attackers.

    Of a random subset of n - f of H: the expected square of F - mean is that for H plus e times H's variance, the
    expected variance 1 - e times H's; e = (f - b)/((n - f)(n - b - 1)).
    """
    if f == b:
        return kappa
    lost = (f - b) / ((n - f) * (n - b - 1))
    return kappa * (1 - lost) - lost


def most_of_any_rule(n: int, f: int) -> float:
    """A coefficient that no sensible rule exceeds: four times the worst here, plus 8. What an unclaimed rule is held to.

    It is far above every proven constant of this module, so that no sound rule meets it, and far below what a single
    colluding outlier at some hundreds of radii does to a rule that lets it in.
    """
    return 4 * krum_unsquared(n, f) + 8
