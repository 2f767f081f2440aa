"""How many clients a fraction is, and how many attackers a sample of the clients may hold: f, for every engine."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any


def floor_of(fraction: float | Fraction, n: int) -> int:
    """floor(fraction n) of the number that was written: 0.3 of 10 is 3, 0.29 of 100 is 29, 1/3 of 3 is 1.

    A float is read as every k/n whose nearest float it is, so that no p/q and no decimal loses a client to rounding,
    whatever n is: the result is the greatest k with float(k/n) <= fraction. A Fraction is exact.
    Raises ValueError for a negative number of clients.
    """
    if n < 0:
        raise ValueError(f"expected a number of clients, got {n}")
    below = math.floor(Fraction(fraction) * n)
    return below + 1 if n and (below + 1) / n == fraction else below


def read_fraction(value: Any) -> Any:
    """The float of a text such as "1/3" or "0.3"; what is no text is given back as it is.

    Raises ValueError for text that is neither a number nor a quotient of two.
    """
    if not isinstance(value, str):
        return float(value) if isinstance(value, Fraction) else value
    try:
        return float(Fraction(value) if "/" in value else value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"expected a number such as 0.3, or 1/3; got {value!r}") from None


@lru_cache(maxsize=256)
def excess_probabilities(population: int, attackers: int, sample: int) -> tuple[float, ...]:
    """P(a sample holds more than f attackers) for f = 0, 1, ..., min(attackers, sample): the last one is 0.

    The sample is drawn without replacement from a population with so many attackers: the hypergeometric law. Summed from
    its far tail, so that small probabilities are right to about 1e-9 of themselves.
    Raises ValueError unless 0 <= attackers, sample <= population.
    """
    if not (0 <= attackers <= population and 0 <= sample <= population):
        raise ValueError(f"expected attackers and sample from 0 to population={population}, got {attackers} and {sample}")
    most = min(attackers, sample)
    tail, tails = 0.0, [0.0]
    for held in range(most, 0, -1):
        tail += _probability(population, attackers, sample, held)
        tails.append(min(tail, 1.0))
    return tuple(reversed(tails))


def excess_probability(population: int, attackers: int, sample: int, f: int) -> float:
    """P(a sample without replacement holds more than f of the attackers): see `excess_probabilities`."""
    tails = excess_probabilities(population, attackers, sample)
    return tails[f] if 0 <= f < len(tails) else float(f < 0)


def tolerated(fraction: float | Fraction, asked: int, population: int | None = None, tolerance: float | None = None) -> int:
    """f, the attackers that a rule is to stand in a round: floor(fraction asked), whoever answers.

    asked: clients of the round; population: those that they were drawn from, all of them where None. With a tolerance,
    the least f, and no less than that, such that a sample of the population holds more than f of its
    floor(fraction population) attackers with at most that probability; 0 is never.
    """
    promised = floor_of(fraction, asked)
    if tolerance is None or population is None or population <= asked:
        return promised
    tails = excess_probabilities(population, floor_of(fraction, population), asked)
    return max(promised, next(f for f, tail in enumerate(tails) if tail <= tolerance))


def _probability(population: int, attackers: int, sample: int, held: int) -> float:
    """P(exactly `held` of the attackers are in the sample)."""
    if sample - held > population - attackers:
        return 0.0
    ways = _log_choose(attackers, held) + _log_choose(population - attackers, sample - held)
    return math.exp(ways - _log_choose(population, sample))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
