"""Proven robustness coefficients kappa(n, f), and where they are attained. The proofs are in docs/theory.md.

Throughout, S is any set of n - f updates with mean mu and variance s = mean over S of ||x_i - mu||^2, and F(x) is the
result: ||F(x) - mu||^2 <= kappa s. h = n - f and a = n - 2f. No rule has kappa < f / (n - 2f) (`least`). The
definition is that of Allouah et al. 2023 (arXiv:2302.01772).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

Neighbours = Literal["n-f-1", "n-f-2"]
Convention = Literal["midpoint", "lower"]
Kappa = Callable[[int, int], float]

GOLDEN: Final = (math.sqrt(5) - 1) / 2


def least(n: int, f: int) -> float:
    """f / (n - 2f), below which no rule can be.

    n - f updates equal to 0 and f equal to 1: a finite kappa forces F = 0 (S = the zeros, s = 0). For S' with the f
    ones and n - 2f zeros, ||F - mu||^2 / s is then f / (n - 2f).
    """
    return f / (n - 2 * f)


def trimmed_mean(n: int, f: int) -> float:
    """f / (n - 2f), exactly: no rule has less.

    F is monotone in every entry, so the worst Byzantine values are all +infinity or all -infinity; F is then a
    weighted sum of the ordered honest values, and its greatest deviation from their mean at variance 1 is the
    projection on the cone of ordered vectors (isotonic regression) of the difference of weights. Coordinates add up,
    so the value is the same for every d.
    """
    return least(n, f)


def principal_trimmed_mean(n: int, f: int) -> float:
    """f / (n - 2f), exactly: along each axis of any orthonormal basis it is `trimmed_mean`, and squares add up."""
    return least(n, f)


def coordinate_median(n: int, f: int, *, convention: Convention = "midpoint") -> float:
    """(n - 1) / (n + 1 - 2f) for n odd, (n - 2) / (n + 2 - 2f) for n even; lower median, n even: n / (n - 2f). Exact.

    Proof as for `trimmed_mean`.
    """
    if n % 2:
        return (n - 1) / (n + 1 - 2 * f)
    return n / (n - 2 * f) if convention == "lower" else (n - 2) / (n + 2 - 2 * f)


def geometric_median(n: int, f: int) -> float:
    """floor(n/2) / (n - f - floor(n/2)), exactly, for every minimiser.

    With z = 0 the minimiser, k = #{i in S: x_i = 0} and c_i the cosine of x_i and mu, optimality says that the sum of
    c_i over S is at most f + k; so the sum of the squared positive c_i is at most floor(n/2), and Cauchy-Schwarz
    bounds ||mu||. In one dimension, where it is the median, the bound is attained.
    """
    half = n // 2
    return half / (n - f - half)


def nearest_to_centre(centre: float, n: int, f: int) -> float:
    """(4f / h^2) (sqrt(a) + sqrt(f kappa_c))^2: the mean of the h updates (or values) nearest to a centre c.

    Pair the kept outsiders with the members of S left out, each nearer to c than its partner:
    ||F - mu|| <= (2/h) sum over S minus kept of ||x_i - c||, which is greatest where those coincide.
    """
    h, a = n - f, n - 2 * f
    return 4 * f / h**2 * (math.sqrt(a) + math.sqrt(f * centre)) ** 2


def meamed(n: int, f: int) -> float:
    """(4f/h) (1 + f/p) with p = floor(n/2) + 1 - f, exactly. The same pairing, and isotonic regression of the sum."""
    return 4 * f / (n - f) * (1 + f / (n // 2 + 1 - f))


def phocas(n: int, f: int) -> float:
    """4f / (n - 2f), exactly: `nearest_to_centre` of the trimmed mean."""
    return 4 * least(n, f)


def krum(n: int, f: int, *, neighbours: Neighbours = "n-f-1") -> float:
    """n^2 / (f a) for n <= 3f; for more clients the greater of two closed forms. Exact with n - f - 1 neighbours.

    The two are the chosen update's greatest deviation where it is outside of S and where it is inside. For n > 3f one
    step of the proof, that the first is the greater where the second's formula does not apply, is a numerical
    comparison, made for all n <= 160 and up to 20 000 clients at samples; ((h + sqrt(f a)) / a)^2 is proven there.
    With n - f - 2 neighbours the lesser of two bounds, not exact.
    """
    if neighbours == "n-f-2":
        return _krum_blanchard(n, f)
    h, a = n - f, n - 2 * f
    if f == 0:
        return 1.0
    return n * n / (f * a) if n <= 3 * f else max(_chosen_outside(h, f), _chosen_inside(h, f))


def _chosen_outside(h: int, f: int) -> float:
    """The winner is an outsider: the bound on distance to the honest neighbourhood and on that one's to mu, together."""
    a, n = h - f, h + f
    if a * f <= n:
        return (n / a) ** 2
    if 2 * (f - 1) * (a * f - n) <= f * (n - 1) * (a - f):
        return f * (n * n - 2 * n + a * f) / (a * (a * f - 1))
    return (2 * h * (f - 1) / (h - 2) + f) ** 2 / (a * f)


def _chosen_inside(h: int, f: int) -> float:
    """The winner is in S; 1, its bound with no outsider in its neighbourhood, where the formula does not apply."""
    a, n = h - f, h + f
    if n * (a - 2) < f * (n + 2 * (a - 3)):
        return 1.0
    b = a - 1
    return (a * (n - 1) ** 2 - 4 * f * (n - 1) + f * b * b + 4 * f * f) / (b * (a * b + 4 * f))


def _krum_blanchard(n: int, f: int) -> float:
    h, a, outside = n - f, n - 2 * f - 1, f + 1
    if a < 2:
        return math.inf
    share = (h - 2) / (h - 1)  # of the sum of squared distances to all of S, what the nearest h - 2 can be
    averaged_outside = (n + 1) * (share * h + outside) / (a * outside)
    averaged_inside = ((math.sqrt(share) * h + math.sqrt(outside * a)) / a) ** 2
    return min(averaged_outside, averaged_inside)


def multi_krum(n: int, f: int, *, m: int | None = None, neighbours: Neighbours = "n-f-1") -> float:
    """4f / (n - 2f) for m = n - f; exact for n >= 3f. With n - f - 2 neighbours 4f / (n - 2f - 1).

    With K the chosen and S differing in b <= f pairs, each chosen outsider scores no more than a member left out.
    For m < n - f the same where 2(h - m + f) <= h; else, and if that is less, (sqrt(2h) + sqrt(f))^2 / a: the mean
    score of the chosen is at most that of S (Jensen). `krum`'s own constant says nothing of a mean of several.
    """
    h, a = n - f, n - 2 * f - (neighbours == "n-f-2")
    m = h if m is None else m
    if a < 1:
        return math.inf
    if m == h:
        return 4 * f / a
    share = (h - 2) / (h - 1) if neighbours == "n-f-2" else 1.0
    by_scores = (math.sqrt(2 * h * share) + math.sqrt(h - a)) ** 2 / a
    if 2 * (h - m + f) > h:
        return by_scores
    most = max(
        2 * b * h / math.sqrt(a * (h - m + b)) + (h - m) * math.sqrt((m - b) / (h - m + b)) for b in range(min(f, m) + 1)
    )
    return min(by_scores, (most / m) ** 2)


def multi_krum_attained(n: int, f: int, *, m: int | None = None, neighbours: Neighbours = "n-f-1") -> bool:
    """n >= 3f, where `multi_krum` is exact, with n - f - 1 neighbours and m = n - f."""
    return m in (None, n - f) and neighbours == "n-f-1" and n >= 3 * f


def krum_attained(n: int, f: int, *, neighbours: Neighbours = "n-f-1") -> bool:
    """With n - f - 1 neighbours everywhere but at (3, 1), where the two nearest always tie; with one less nowhere."""
    return neighbours == "n-f-1" and (n, f) != (3, 1)


def bulyan(n: int, f: int) -> float:
    """(h/b^2) (b + 3t + 4t^2/p + t^2/(t + f)) - 1 with b = n - 4f, p = floor(n/2) + 1 - 2f, t = min(f, (n-1)//2 - 2f).

    It holds whatever rule picks the n - 2f, and no less does for the worst picks.
    """
    if f == 0:
        return 0.0
    h, kept = n - f, n - 4 * f
    t, p = min(f, (n - 1) // 2 - 2 * f), n // 2 + 1 - 2 * f
    return h / kept**2 * (kept + 3 * t + 4 * t * t / p + t * t / (t + f)) - 1


def minimum_diameter(n: int, f: int) -> float:
    """(2f^2 + 3f + f^2/(a - 1)) / h, for a = 1 (5f^2 + 3f) / h; exactly. It grows with n at a fixed f/n.

    h ||F - mu|| <= f diam(S) + f ||the mean of what is left out - that of what is kept||: a linear function of S.
    """
    h, a = n - f, n - 2 * f
    return (2 * f * f + 3 * f + (f * f / (a - 1) if a > 1 else 3 * f * f)) / h


def minimum_variance(n: int, f: int) -> float:
    """4f / (n - 2f), exactly; for the least operator norm of the covariance the same, in that norm and so in this.

    The chosen K varies no more than S. With b of S outside K, the mean of K and S in common is within (b / (h - b))
    times the variance of both means.
    """
    return 4 * least(n, f)


def caf(n: int, f: int) -> float:
    """(f/a) (1 + (2 + sqrt 2) sqrt(h/a))^2, and where a > f also (2f/(a - f)) (1 + sqrt(h/a))^2: the lesser.

    Of the steps there is a first one at which the honest updates carry at least as much of the variance along the top
    direction as the others: its top eigenvalue is at most 2h/a times that of S, and the least one is no greater. Both
    bounds hold in the operator norm too.
    """
    h, a = n - f, n - 2 * f
    always = f / a * (1 + (2 + math.sqrt(2)) * math.sqrt(h / a)) ** 2
    return min(always, 2 * f / (a - f) * (1 + math.sqrt(h / a)) ** 2) if a > f else always


def nnm(inner: Kappa, n: int, f: int) -> float:
    """(4f / (n - f)) (1 + kappa of the rule after it): half of what Allouah et al. 2023 publish.

    (1/h) sum_S ||y_i - mu||^2 <= (4f/h) s, by pairs (i, k) of S of which one is not a neighbour of the other: the f
    outsiders are shared by both ends of a pair.
    """
    return 4 * f / (n - f) * (1 + inner(n, f))


def nnm_attained(inner: Kappa, n: int, f: int) -> bool:
    """Where the rule after it has the least possible kappa: then 4f / (n - 2f), which no rule after NNM can go below."""
    return math.isclose(inner(n, f), least(n, f))


def arc(inner: Kappa, n: int, f: int) -> float:
    """kappa of the rule after it + k / (h - k), where k = floor(2fh/n) updates are clipped.

    Clipping takes at least (h - k)/k times the square of what it moves the mean from the variance. At most the
    published kappa + 2f / (n - 2f) (Allouah et al. 2025, Theorem 3.2, arXiv:2405.14432).
    """
    clipped = 2 * f * (n - f) // n
    return inner(n, f) + clipped / (n - f - clipped)


def bucketing(inner: Kappa, n: int, f: int, *, size: int = 2) -> float:
    """(h k + (size - 1) f) / (n - size f) with k = kappa(n / size, f), where size divides n, for the worst permutation.

    Up to f buckets are bad; the clean ones leave out at most (size - 1) f of S. Where the last bucket is short, the
    worse of two: it is bad, or clean, which weighs its rows more than the others (`_short_bucket`).
    """
    buckets = -(-n // size)
    if 2 * f >= buckets:
        return math.inf
    k, clean = inner(buckets, f), (buckets - f) * size
    whole = (k * (n - f) + n - f - clean) / clean
    if n % size == 0 or f == 0:
        return whole if n % size == 0 else _short_bucket(k, n, f, size)
    return max(whole, _short_bucket(k, n, f, size))


def bucketing_attained(inner: Kappa, n: int, f: int, *, size: int = 2) -> bool:
    """Where size divides n and the rule after it has the least possible kappa at n / size."""
    buckets = n // size
    return n % size == 0 and buckets > 2 * f and math.isclose(inner(buckets, f), least(buckets, f))


def _short_bucket(k: float, n: int, f: int, size: int) -> float:
    """The bound where all clean buckets hold `size` rows but one, which holds n mod size.

    With V the variance of the clean means and E the distance of their mean from mu, (sqrt(k V) + E)^2 is at most
    (k + t)(V + E^2/t) for every t > 0; and s bounds a quadratic form of those means. So kappa is the least, over t, of
    (k + t) times the greatest eigenvalue of one form in terms of the other; it is convex in log t.
    """
    low, high = -30.0, 30.0
    for _ in range(120):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if _split(k, n, f, size, math.exp(left)) < _split(k, n, f, size, math.exp(right)):
            high = right
        else:
            low = left
    return _split(k, n, f, size, math.exp((low + high) / 2))


def _split(k: float, n: int, f: int, size: int, t: float) -> float:
    """(k + t) times that eigenvalue. By symmetry the full buckets are one unknown; their spread is another, alone."""
    h, clean, short = n - f, -(-n // size) - f, n % size
    full = clean - 1
    rest = h - full * size - short
    spread = h / (clean * size) if full > 1 else 0.0
    if full == 0:
        return 0.0  # one bucket, f = 0: the mean
    # Unknowns: the common value of the full buckets and that of the short one, each less mu.
    b = (1 / t - 1) / clean**2
    wanted = (full / clean + b * full * full, b * full, 1 / clean + b)
    if rest == 0:  # then every honest row is in a clean bucket, and the means weighed by size cancel
        short_value = -full * size / short  # where the common value of the others is 1
        cost = (full * size + short * short_value**2) / h
        gain = wanted[0] + 2 * wanted[1] * short_value + wanted[2] * short_value**2
        return (k + t) * max(spread, gain / cost)
    cost = (
        (full * size + (full * size) ** 2 / rest) / h,
        full * size * short / rest / h,
        (short + short**2 / rest) / h,
    )
    return (k + t) * max(spread, _greatest_eigenvalue(wanted, cost))


def _greatest_eigenvalue(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """The greatest x with det(A - x B) = 0, for 2 x 2 matrices (a11, a12, a22), B positive definite."""
    quadratic = b[0] * b[2] - b[1] ** 2
    linear = a[0] * b[2] + a[2] * b[0] - 2 * a[1] * b[1]
    constant = a[0] * a[2] - a[1] ** 2
    return (linear + math.sqrt(max(linear**2 - 4 * quadratic * constant, 0.0))) / (2 * quadratic)


def fewer_attackers(kappa: float, n: int, f: int, b: int) -> float:
    """What kappa at the declared f says where only b <= f attack, for every set of n - b: no more than kappa.

    kappa - (1 + kappa)(f - b) / ((n - f)(n - b - 1)): the average over the sets of n - f within that set.
    """
    if f == b:
        return kappa
    return kappa - (1 + kappa) * (f - b) / ((n - f) * (n - b - 1))
