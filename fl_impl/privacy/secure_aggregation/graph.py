"""Who holds whose shares and masks with whom: each client with all others, or, for many clients, with some drawn at random."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import special

Reals = npt.NDArray[np.float64]

COMPLETE_UP_TO: Final = 48
"""With so few clients everyone holds shares of everyone."""
SECURITY_BITS: Final = 40
"""A session in which a lying server and corrupt clients read a smaller sum than was promised has probability 2^-40."""
CORRECTNESS_BITS: Final = 20
"""A session that drop-outs and hostile clients make fail has probability at most 2^-20."""


def holders(number: int, registered: Sequence[int], degree: int, seed: bytes) -> tuple[int, ...]:
    """The `degree` clients that hold shares of a client's secrets: drawn from all that are registered, by a seed.

    All others where there are no more than `degree`. Two clients mask with each other where either holds shares of the
    other. Drawing from those who are registered, not from those who are said to be there, leaves the server no say in it.
    """
    others = sorted(set(registered) - {number})
    if len(others) <= degree:
        return tuple(others)
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor().update(bytes(8 * len(others)))
    drawn = np.argsort(np.frombuffer(stream, "<u8"), kind="stable")[:degree]
    return tuple(sorted(others[place] for place in drawn))


def holder_seed(session: bytes, coin: bytes, contribution: bytes) -> bytes:
    """The seed of one client's draw. Neither side can choose it.

    The server commits to its coin before a client contributes, and a client contributes before it sees the coin.
    """
    return hashlib.sha256(b"holders" + session + coin + contribution).digest()


@lru_cache(maxsize=64)
def plan(clients: int, dropouts: int, corrupt: int) -> tuple[int, int]:
    """(degree, threshold): the fewest holders of a client's shares, and how many shares, with the client's own, open them.

    Three events must hold (Bell et al. 2020, ePrint 2020/704, Definition 3.2). E1: no honest client has `threshold` - 1
    corrupt holders. E2: the honest clients that are left hang together, *whichever* `dropouts` clients the server makes
    leave after it has seen the graph: no set S of them with all shares that it needs within S and the corrupt is cut off
    from the others. Both fail with probability at most 2^-40 (`log_failure`); how many clients may be cut off and left out of
    the sum, unread, is `largest_cut`. E3: of the holders of any client `threshold`
    - 1 stay and are honest, where any `dropouts` clients leave or lie and its dealer has given `most_complaints` of them
    false shares: up to 2^-20.
    Raises ValueError where that many drop-outs and corrupt clients cannot be had together.
    """
    if clients > COMPLETE_UP_TO:
        degrees = range(2, clients - 1)
        place = bisect_left(degrees, 1, key=lambda degree: _holds(clients, dropouts, corrupt, degree))
        if place < len(degrees):
            degree = degrees[place]
            return degree, _threshold(clients, degree, corrupt) or degree
    threshold = clients - 2 * dropouts
    if threshold <= max(corrupt, 1):
        raise ValueError(
            f"{clients} clients of which {corrupt} are corrupt and {dropouts} may leave: the {corrupt} could open a mask "
            f"themselves, as {threshold} shares must do. Allow fewer drop-outs"
        )
    return clients - 1, threshold


@lru_cache(maxsize=64)
def most_complaints(clients: int, dropouts: int, corrupt: int, degree: int) -> int:
    """How many of the holders of a client can be lying, up to 2^-20: if more complain of its shares, they are not lying.

    Of few clients all `dropouts` may lie; of many as many as may be corrupt, and the others leave.
    """
    if degree >= clients - 1:
        return dropouts
    limit = 2.0**-CORRECTNESS_BITS / clients
    return next(t for t in range(degree + 1) if _tail(clients - 1, corrupt, degree, t + 1) <= limit)


@lru_cache(maxsize=1024)
def log_failure(clients: int, dropouts: int, corrupt: int, degree: int, threshold: int) -> float:
    """Logarithm of a bound on the probability that E1 or E2 fails: a union bound over the sets S of s honest clients.

    S is cut off where at most `dropouts` honest clients outside chose a holder in S, and readable where each of its members
    has threshold - 1 holders in S or among the corrupt. The draws of all clients are independent, so that for s >= 2 it is
    C(h, s) P(Bin(h - s, q_s) <= dropouts) P(Hyp(s - 1 + corrupt) >= threshold - 1)^s with q_s = P(Hyp(s) >= 1); a single
    client is taken to be cut off in any case.
    """
    honest, terms = clients - corrupt, list[float]()
    for size in range(1, max(2, honest // 2 + 1)):
        readable = size * _log_tail(clients - 1, size - 1 + corrupt, degree, threshold - 1)
        if readable == -math.inf:
            continue
        cut = 0.0
        if size > 1:
            missed = float(_log_ways(clients - 1 - size, degree) - _log_ways(clients - 1, degree))
            cut = _log_at_most(honest - size, missed, dropouts)
        terms.append(float(_log_ways(honest, size)) + cut + readable)
    return _log_sum(np.array(terms))


@lru_cache(maxsize=64)
def largest_cut(clients: int, dropouts: int, corrupt: int, degree: int) -> int:
    """The most honest clients that a lying server can leave out of a sum that it reads by making others leave, up to 2^-40.

    If the only neighbours that a set S of s honest clients has outside are made to leave, the masks of all the others cancel
    without S. A union bound over the sets of each size, C(h, s) P(Bin(h - s, q_s) <= dropouts) with q_s as in `log_failure`
    and Chernoff's bound for the binomial, summed from s = h // 2 down until it exceeds 2^-40: larger sets, and several small
    ones together, are cut off no more often.
    """
    if degree >= clients - 1:
        return 0
    honest = clients - corrupt
    sizes = np.arange(1, honest // 2 + 1)
    outside, missed = honest - sizes, _log_ways(clients - 1 - sizes, degree) - _log_ways(clients - 1, degree)
    with np.errstate(divide="ignore", invalid="ignore"):
        share, log_hit = np.minimum(1.0, dropouts / outside), np.log(-np.expm1(missed))
        distance = special.xlogy(share, share) - share * log_hit + special.xlogy(1 - share, 1 - share) - (1 - share) * missed
        few = np.where(np.log(share) < log_hit, -outside * distance, 0.0)
    likely = np.logaddexp.accumulate((_log_ways(honest, sizes) + few)[::-1])[::-1]
    return int(np.count_nonzero(likely > -SECURITY_BITS * math.log(2)))


def _holds(clients: int, dropouts: int, corrupt: int, degree: int) -> bool:
    """All three events, for that many holders and the least threshold."""
    threshold = _threshold(clients, degree, corrupt)
    if threshold is None or not _completes(clients, dropouts, corrupt, degree, threshold):
        return False
    return log_failure(clients, dropouts, corrupt, degree, threshold) <= -SECURITY_BITS * math.log(2)


def _completes(clients: int, dropouts: int, corrupt: int, degree: int, threshold: int) -> bool:
    """E3."""
    least = degree + 2 - threshold - most_complaints(clients, dropouts, corrupt, degree)
    return least >= 1 and clients * _tail(clients - 1, dropouts, degree, least) <= 2.0**-CORRECTNESS_BITS


def _threshold(clients: int, degree: int, corrupt: int) -> int | None:
    """The least number of shares, with the client's own, that is out of reach of its corrupt holders up to 2^-41."""
    limit = 2.0 ** -(SECURITY_BITS + 1) / clients
    return next((t + 1 for t in range(1, degree + 1) if _tail(clients - 1, corrupt, degree, t) <= limit), None)


@lru_cache(maxsize=4096)
def _tail(population: int, marked: int, drawn: int, least: int) -> float:
    """P(at least `least` of `drawn` are marked), drawn without replacement from a population with `marked` of them."""
    ways = sum(
        math.comb(marked, hits) * math.comb(population - marked, drawn - hits)
        for hits in range(max(least, 0), min(marked, drawn) + 1)
    )
    return ways / math.comb(population, drawn)


def _log_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """The logarithm of `_tail`, where that is too small for a float."""
    hits = np.arange(max(least, drawn - population + marked, 0), min(marked, drawn) + 1)
    if not hits.size:
        return -math.inf
    ways = _log_ways(marked, hits) + _log_ways(population - marked, drawn - hits)
    return min(0.0, _log_sum(ways) - float(_log_ways(population, drawn)))


def _log_at_most(trials: int, log_miss: float, most: int) -> float:
    """The logarithm of P(Bin(trials, 1 - exp(log_miss)) <= most)."""
    if log_miss == -math.inf:
        return 0.0 if trials <= most else -math.inf
    hits = np.arange(0, min(trials, most) + 1)
    hit = math.log(-math.expm1(log_miss))
    return min(0.0, _log_sum(_log_ways(trials, hits) + hits * hit + (trials - hits) * log_miss))


def _log_ways(total: npt.ArrayLike, chosen: npt.ArrayLike) -> Reals:
    """The logarithms of binomial coefficients; those of 0 where more are chosen than there are."""
    of, picked = np.asarray(total, np.float64), np.asarray(chosen, np.float64)
    rest = np.maximum(of - picked, 0)
    ways = special.gammaln(of + 1) - special.gammaln(picked + 1) - special.gammaln(rest + 1)
    return np.where(picked > of, -np.inf, ways)


def _log_sum(logarithms: Reals) -> float:
    """The logarithm of the sum of these exponentials."""
    peak = float(logarithms.max(initial=-math.inf))
    return peak if peak == -math.inf else peak + math.log(float(np.exp(logarithms - peak).sum()))
