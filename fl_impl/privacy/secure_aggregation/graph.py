"""Who masks with whom: each client with all others, or, for many clients, with logarithmically many neighbours."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

COMPLETE_UP_TO: Final = 48
"""With so few clients everyone masks with everyone."""
SECURITY_BITS: Final = 40
"""A session in which corrupt clients could open some honest client's mask has probability at most 2^-40."""
CORRECTNESS_BITS: Final = 20
"""A session that the expected drop-out makes fail has probability at most 2^-20."""


def neighbours(number: int, numbers: Sequence[int], degree: int, session: bytes) -> tuple[int, ...]:
    """The neighbours of a client: `degree` of them (an even number), on a circle in an order that the session shuffles.

    All others where there are no more than `degree`. A is B's neighbour where B is A's. Bell, Bonawitz, Gascon, Lepoint &
    Raykova 2020 (ePrint 2020/704), Definition 3.1 with a Harary graph.
    """
    if len(numbers) - 1 <= degree:
        return tuple(sorted(set(numbers) - {number}))
    circle = sorted(numbers, key=lambda i: hashlib.sha256(session + i.to_bytes(4, "little")).digest())
    place, half = circle.index(number), degree // 2
    return tuple(sorted(circle[(place + step) % len(circle)] for step in range(-half, half + 1) if step))


@lru_cache(maxsize=64)
def plan(clients: int, dropouts: int, corrupt: int) -> tuple[int, int]:
    """(degree, threshold): the fewest neighbours, and of these and the client itself how many must give their shares.

    Such that for no honest client `threshold` holders of its shares are corrupt, up to 2^-40, nor too few survive, up to
    2^-20, where any `dropouts` clients leave: union bounds over clients on exact hypergeometric tails (Bell et al. 2020,
    Lemmas 3.2 and 3.3). Raises ValueError where that many drop-outs and corrupt clients cannot be had together.
    """
    if clients <= COMPLETE_UP_TO:
        return clients - 1, clients - dropouts
    for degree in range(2, clients - 1, 2):
        threshold = _threshold(clients, degree, corrupt)
        if threshold and clients * _tail(clients - 1, dropouts, degree, degree - threshold + 1) <= 2.0**-CORRECTNESS_BITS:
            return degree, threshold
    threshold = clients - dropouts
    if threshold <= corrupt:
        raise ValueError(
            f"{clients} clients of which {corrupt} are corrupt and {dropouts} may leave: the {corrupt} could open a mask "
            f"themselves, as {threshold} shares must do. Allow fewer drop-outs"
        )
    return clients - 1, threshold


def _threshold(clients: int, degree: int, corrupt: int) -> int | None:
    """The least number of shares that corrupt neighbours reach with probability at most 2^-40 for any client."""
    limit = 2.0**-SECURITY_BITS / clients
    return next((t for t in range(1, degree + 1) if _tail(clients - 1, corrupt, degree, t) <= limit), None)


@lru_cache(maxsize=4096)
def _tail(population: int, marked: int, drawn: int, least: int) -> float:
    """P(at least `least` of `drawn` are marked), drawn without replacement from a population with `marked` of them."""
    ways = sum(
        math.comb(marked, hits) * math.comb(population - marked, drawn - hits)
        for hits in range(max(least, 0), min(marked, drawn) + 1)
    )
    return ways / math.comb(population, drawn)
