"""Who takes part in a round: the sampling that is accounted is the sampling that runs."""

from __future__ import annotations

from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness, uniform


def poisson_sample(clients: int, probability: float, randomness: Randomness = OPERATING_SYSTEM) -> tuple[int, ...]:
    """The numbers of the clients of a round, each taking part with the given probability by itself; there may be none.

    Amplification by sampling needs the sample to stay secret: that is why it is not drawn from the experiment's seed.
    Raises ValueError for a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the sampling probability must lie in [0, 1]; got {probability}")
    return tuple(int(i) for i in (uniform(randomness, (clients,)) <= probability).nonzero()[0])


def cyclic_sample(clients: int, round_number: int, separation: int) -> tuple[int, ...]:
    """The clients whose turn it is in round `round_number` (from 1): each comes exactly every `separation` rounds."""
    return tuple(range((round_number - 1) % separation, clients, separation))
