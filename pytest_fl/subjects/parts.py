"""Parts of a federation beside its aggregator that can be held to their claims: what each must offer to be tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Updates = npt.NDArray[np.float64]
"""(m, d), one row a client."""
Network = Callable[[str, int, bytes], bytes | None]
"""(stage, client, message from it) -> the message that arrives, or None where it is lost."""


@dataclass(frozen=True, eq=False)
class Mechanism:
    """A private mean of updates: (sum_i clip(x_i, clip_bound) + noise) / divisor(m)."""

    name: str
    release: Callable[[Updates, int], Any]
    """((m, d) updates, seed) -> (d,). The same seed gives the same noise, another seed other noise."""
    clip_bound: float
    noise_std: Callable[[int], float]
    """m -> the standard deviation of each released coordinate."""
    divisor: Callable[[int], float]
    """m -> what the sum is divided by: constant where adding or removing a client is what is hidden."""
    removes: bool = True
    """Whether the presence of a client is hidden; otherwise only whether its update was zero."""
    release_with_counts: Callable[[Updates, int, list[int]], Any] | None = None
    """As `release`, with the sample count that each client claims."""
    run: Callable[[list[Updates], int], list[tuple[Any, float, float]]] | None = None
    """([(m, d) updates of each round], seed) -> [(the (d,) release, its deviation, its clip bound)], state carried along."""
    correlated: bool = False
    """Whether rounds share noise on purpose, as matrix mechanisms do: then `noise_std` is that of the first round."""
    sample: Callable[[int, int, int], Sequence[int]] | None = None
    """(clients, round from 1, seed) -> the numbers of those who take part."""
    sampling: float | None = None
    """The probability with which each client takes part by itself; None where `sample` keeps a schedule."""
    spent: Callable[[int, float], float] | None = None
    """(rounds, delta) -> the epsilon that is claimed of them, with `sample`, or with all in every round where not given."""


@dataclass(frozen=True, eq=False)
class Accountant:
    """What rounds cost, in epsilon."""

    name: str
    epsilon: Callable[[float, float, float, int], float]
    """(noise multiplier, delta, sampling probability, rounds) -> epsilon, adding or removing a client, Poisson sampling."""
    calibrate: Callable[[float, float, float, int], float] | None = None
    """(epsilon, delta, sampling probability, rounds) -> noise multiplier."""
    precision: float | None = None
    """How far above the exact cost it may be, relative; None where no more is claimed than an upper bound."""


@dataclass(frozen=True, eq=False)
class Compressor:
    """A (d,) float32 update as bytes and back, with what is claimed of the error."""

    name: str
    send: Callable[[npt.NDArray[np.float32], Any, int], tuple[bytes, Any]]
    """(update, state or None, seed) -> (message, next state)."""
    receive: Callable[[bytes, Any, int], tuple[Any, Any]]
    """(message, state or None, d) -> (the (d,) update, next state)."""
    contraction: Callable[[int], float] | None = None
    """d -> alpha with E ||x - C(x)||^2 <= (1 - alpha) ||x||^2."""
    variance: Callable[[int], float] | None = None
    """d -> omega with E C(x) = x and E ||x - C(x)||^2 <= omega ||x||^2."""
    message_bytes: Callable[[int], int] | None = None
    """d -> the exact length of a message."""
    remembers: bool = False
    """Whether what is not sent in a round is sent later (error feedback, EF21)."""
    conserves: bool = False
    """Whether the sum of all that arrives tends to the sum of all that was given (error feedback; not EF21)."""


Plot = Callable[[Updates, np.random.Generator], Iterable[Any]]
"""((n, d) updates, generator) -> every (d,) vector that a lying server and its partners compute; none where it is refused."""


@dataclass(frozen=True, eq=False)
class Tally:
    """What a session with hostile clients came to."""

    total: Any
    """(d,), the sum."""
    counted: frozenset[int]
    """The clients whose updates are in it."""
    named: frozenset[int]
    """The clients that the server says have lied."""
    moot: frozenset[int] = frozenset()
    """Those that accused a client which left before it could answer: one of the two has lied."""


@dataclass(frozen=True, eq=False)
class SecureAggregation:
    """A protocol after which a server knows the sum of the updates of those who stayed, and no more."""

    name: str
    run: Callable[[Updates, Network], Any] | None = None
    """((n, d) updates in [-1, 1], network) -> (d,) sum. Raises where it aborts."""
    stages: tuple[str, ...] = ()
    """Names of the messages of a client, in order."""
    masked: str = ""
    """The stage whose message carries the update: who is lost later is in the sum all the same."""
    minimum: Callable[[int], int] = lambda n: n
    """n -> how many must stay."""
    step: Callable[[int], float] = lambda n: 0.0  # noqa: ARG005  # a function of n by contract
    """n -> the precision of the encoding of one update."""
    mask: Callable[[bytes, int, int], npt.NDArray[Any]] | None = None
    """(seed of 32 bytes, d, modulus) -> (d,) words below the modulus."""
    moduli: tuple[int, ...] = (2**32,)
    """The moduli that `mask` takes."""
    masked_words: Callable[[Updates], npt.NDArray[np.uint32]] | None = None
    """(n, d) updates -> the (n, d) words that the server sees, all masks on."""
    partners: Callable[[int], int] = lambda n: 0  # noqa: ARG005  # a function of n by contract
    """n -> how many clients may tell the server all that they know. In a plot these are the last ones."""
    plots: Mapping[str, Plot] = field(default_factory=dict[str, Plot])
    """What a lying server tries, by name. No vector that it computes may be of fewer than minimum(n) - partners(n) honest
    clients."""
    exposure: Callable[[int, np.random.Generator], tuple[int, int]] | None = None
    """(n, generator) -> (the most shares of one honest client's secret that a server which chooses who advertised can bring
    into the hands of its partners, how many open the secret)."""
    severed: Callable[[int, np.random.Generator], tuple[int, int]] | None = None
    """(n, generator) -> (honest clients in the smallest sum that chosen drop-outs leave readable by itself, how many were
    promised)."""
    noise: Callable[[int, int, float], Updates] | None = None
    """(n, d, standard deviation of the noise that the terms promise) -> (minimum(n), d), what each of the fewest clients that
    may stay adds."""
    dishonest_terms: Mapping[str, Callable[[int], object]] = field(default_factory=dict[str, Callable[[int], object]])
    """Terms worse than a client insists on, by name: n -> anything, where a client takes part; raises where it refuses."""
    sabotaged: Callable[[Updates, Mapping[int, str], np.random.Generator], Tally] | None = None
    """((n, d) updates, hostile client -> what it does, generator) -> what becomes of it. Raises where it aborts."""
    sabotage: tuple[str, ...] = ()
    """What hostile clients can be made to do."""


Adapter = Mapping[str, tuple[Updates, Updates]]
"""Module -> (B (m, r), A (r, k)) of one client."""


@dataclass(frozen=True, eq=False)
class AdapterAggregation:
    """What becomes of n LoRA adapters: client i stands for the change s_i B_i A_i of the weight of each module."""

    name: str
    aggregate: Callable[[list[Adapter], list[float], int], Mapping[str, Any]]
    """(adapters, their scales s_i, f) -> module -> the (m, k) change of its weight."""
    reference: Callable[[Updates, int], Any] | None = None
    """((n, d) products as rows, f) -> (d,): the rule on what the factors stand for; their mean where not given."""
    kappa: Callable[[int, int], float] | None = None
    """(n, f) -> its coefficient on the products."""
    min_clients: Callable[[int], int] = lambda f: 2 * f + 1
    rank: int | None = None
    """The result is cut to the best approximation of this rank; None where it is not cut."""
    unanimous: bool = True
    """Whether n equal adapters give that adapter; a rule that clips may not."""
    biased: str = ""
    """Why the result is known not to be what the rule makes of the products, if it is not."""
    shared_a: bool = False
    """Whether A is everybody's, and clients differ in B alone."""
    mixed_ranks: bool = False
    """Whether clients may have different ranks."""


Part = Mechanism | Accountant | Compressor | SecureAggregation | AdapterAggregation
