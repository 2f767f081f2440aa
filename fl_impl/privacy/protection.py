"""The protections of a run, chosen together: how clients are sampled, how updates travel, and what becomes of their sum."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.common.randomness import generator
from fl_impl.common.specs import lookup
from fl_impl.compression import Compression, Exchange, exchange, of_round, resolve
from fl_impl.privacy.accounting import Budget
from fl_impl.privacy.clipping import clip
from fl_impl.privacy.combinations import check_combination
from fl_impl.privacy.ledger import Ledger
from fl_impl.privacy.mechanisms import MECHANISMS, Mechanism
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness

LEAST_SUM: Final = 2
"""Clients of a sum that hides something; with fewer a run says so when it comes to sum."""
Rows = npt.NDArray[Any]
Rule = Callable[..., Any]
"""rule(updates (n, d), f=f) -> (d,)."""

SECURE_BOUND: Final = 100.0
"""The length to which an update is clipped for a secure sum where no privacy asks for less: it must not overflow."""


@dataclass(frozen=True, eq=False)
class Combined:
    """The aggregate of a round, and what it took."""

    value: npt.NDArray[np.float64]
    state: Any = None
    """Of the mechanism, for the next round."""
    bytes_up: int = 0
    """Of secure aggregation's messages."""


@dataclass(frozen=True)
class Protection:
    """What a run does between a client's update and the server's step. `protect` makes one and checks it."""

    compression: Compression
    mechanism: Mechanism | None = None
    budget: Budget | None = None
    clip_bound: float = SECURE_BOUND
    secure: bool = False
    group_size: int | None = None
    partners: int = 0
    """Clients that may side with a curious server."""
    most_samples: int | None = None
    """The greatest weight of a client in a secure mean, None of an unweighted one."""
    seed: int = 0
    """Of the run: rounding, shared masks, groups."""
    noise_seed: int | None = None
    """Of noise and sampling, for tests; None is the operating system's randomness."""
    notes: tuple[str, ...] = ()
    """What holds of this combination, in sentences."""
    rounds: int = 0
    """That the noise was calibrated for."""

    @property
    def hidden(self) -> frozenset[str]:
        """What of the rules' context stays with the clients: counts are not clipped, and a secure sum has no rows."""
        counts = {"weights"} if self.secure or self.mechanism else set[str]()
        return frozenset(counts | {"history"} if self.secure else counts)

    @property
    def may_be_empty(self) -> bool:
        """Whether a round without clients is one like any other: Poisson sampling may draw nobody, and noise is released."""
        return not self.secure and self.mechanism is not None and self.mechanism.accounted

    @property
    def hides_its_sample(self) -> bool:
        """Whether privacy rests on nobody knowing who takes part in a round, and so not how many do."""
        poisson = self.budget is not None and self.budget.sampling < 1
        return self.may_be_empty and poisson and self.mechanism is not None and not self.mechanism.correlated

    @property
    def source(self) -> str:
        """Where noise is from: "operating system", or the seed of a test; empty where there is none."""
        return self.randomness("noise", 0).source if self.mechanism else ""

    def about_noise(self, d: int) -> tuple[str, ...]:
        """How long the noise on a round's mean of (d,) updates is beside them, as a sentence, where noise is on the mean."""
        if self.mechanism is None or not self.may_be_empty:
            return ()
        length = self.mechanism.noise_multiplier * self.clip_bound * math.sqrt(d) / self.mechanism.expected_clients
        note = (
            f"The noise on a round's mean is about {length:.3g} long, and each update at most {self.clip_bound:.3g}: more "
            "clients a round, a larger epsilon, fewer rounds or fewer parameters make it less."
        )
        return (note,)

    def authorize(self, number: int, ledger: Ledger | None = None, run: str = "") -> float | None:
        """The epsilon spent with round `number`, by all that the ledger holds; None without privacy.

        Asked before the round. Raises PrivacyBudgetError where the budget does not cover it.
        """
        if self.budget is None or self.mechanism is None:
            return None
        return self.budget.authorize(self.mechanism, number, ledger, rounds=self.rounds, run=run)

    def enter(self, number: int, ledger: Ledger, run: str = "") -> None:
        """Write round `number` into the ledger, before anything of it is shown; nothing without privacy."""
        if self.budget is not None and self.mechanism is not None:
            ledger.enter(self.mechanism.entry(number, self.budget, run))

    def sample(self, clients: int, number: int) -> tuple[int, ...] | None:
        """The clients of a round, as the budget accounts for them; None where any selection will do.

        Local privacy is accounted for clients that take part in every round, so no selection costs more.
        """
        if self.budget is None or self.mechanism is None or self.mechanism.local:
            return None
        return self.mechanism.sample(clients, number, self.budget, self.randomness("sample", number))

    def carry(self, ids: Sequence[int], deltas: Rows, number: int, sent: Any, received: Any) -> Exchange:
        """The (n, d) updates as they arrive: made private by their clients where that is the mechanism, compressed, decoded.

        Under secure aggregation nothing arrives by itself: the rows are what clients put into `combine`, clipped by them.
        """
        prepared = [self._prepared(delta, number, client) for client, delta in zip(ids, deltas, strict=True)]
        rows = np.stack(prepared) if prepared else deltas
        if self.secure:
            return Exchange(tuple(ids), rows, {}, 0, sent, received)
        compression = of_round(self.compression, self._mask_seed(number))
        return exchange(
            compression, ids, rows, sent=sent, received=received,
            rng_of=lambda client: generator(self.seed, "compress", number, client),
        )  # fmt: skip

    def combine(self, rows: Rows, number: int, state: Any, rule: Rule, f: int, counts: Rows | None = None) -> Combined:
        """The (d,) aggregate of (n, d) rows that were carried: by the rule, as a noisy mean, or by secure sums.

        state is the mechanism's, None before the first round; (n,) counts of samples weigh where `most_samples` is given.
        Raises ValueError where too few clients stay for a secure sum, or too few groups for the rule.
        """
        if self.secure:
            return self._secure(rows, number, f, rule, counts)
        if self.mechanism is None or self.mechanism.local:
            return Combined(np.asarray(rule(rows, f=f), np.float64), state)
        released, following = self.mechanism.release(rows, state, self.randomness("noise", number))
        return Combined(released.value, following)

    def randomness(self, purpose: str, number: int, client: int = 0) -> Randomness:
        """What noise and sampling of a round are drawn from."""
        if self.noise_seed is None:
            return OPERATING_SYSTEM
        return Randomness(generator(self.noise_seed, purpose, number, client).bytes, f"seed {self.noise_seed}")

    def _prepared(self, delta: Rows, number: int, client: int) -> Rows:
        """What a client does to its update before it sends it."""
        if self.mechanism is not None and self.mechanism.local:
            return self.mechanism.privatize(delta, self.randomness("noise", number, client))
        return clip(delta, self.clip_bound) if self.secure else delta  # else the server clips, after decoding

    def _mask_seed(self, number: int) -> int:
        return int(generator(self.seed, "mask", number).integers(2**63))

    def _secure(self, rows: Rows, number: int, f: int, rule: Rule, counts: Rows | None) -> Combined:
        """Secure sums of the rows, or of the coordinates that the round's mask keeps."""
        codec, d = of_round(self.compression, self._mask_seed(number)).codec, rows.shape[1]
        kept = codec.kept(d)
        if kept is None:
            return self._summed(rows, number, f, rule, counts)
        found, whole = self._summed(rows[:, kept], number, f, rule, counts), np.zeros(d)
        whole[kept] = found.value * codec.scale(d)
        return replace(found, value=whole)

    def _summed(self, rows: Rows, number: int, f: int, rule: Rule, counts: Rows | None) -> Combined:
        noise = self.mechanism.noise_multiplier * self.clip_bound if self.mechanism else 0.0
        drawn = self.randomness("noise", number)
        if not noise:  # only rounding is drawn, which need not be secret, and a run repeats to the last bit
            drawn = Randomness(generator(self.seed, "rounding", number).bytes, f"seed {self.seed}")
        if not self.group_size:
            return self._in_one_sum(dict(enumerate(rows)), noise, drawn, counts)
        from fl_impl.privacy.groups import grouped_secure_aggregate  # noqa: PLC0415  # cryptography is an extra

        grouped = grouped_secure_aggregate(
            rows, f=f, rule=rule, group_size=self.group_size, bound=self.clip_bound, noise_std=noise, randomness=drawn,
            rng=generator(self.seed, "groups", number), partners=self.partners,
        )  # fmt: skip
        return Combined(grouped.value, None, grouped.bytes_up)

    def _in_one_sum(self, updates: dict[int, Rows], noise: float, drawn: Randomness, counts: Rows | None) -> Combined:
        """The mean of all updates, weighted where that was asked for, by one session; a bound near them by another."""
        from fl_impl.privacy.secure_aggregation import Terms, near_bound, secure_sum  # noqa: PLC0415  # as above
        from fl_impl.privacy.secure_aggregation.options import clipped, weighted_mean, weighted_rows  # noqa: PLC0415  # as above

        n, corrupt = len(updates), max(self.partners, len(updates) // 10)
        length = len(next(iter(updates.values()))) + (self.most_samples is not None)
        bound, asked = self.clip_bound, 0
        if not noise:
            bound, asked = near_bound(updates, self.clip_bound, corrupt=corrupt, randomness=drawn)
        terms = Terms.agreed(clients=n, length=length, bound=bound, noise_std=noise, corrupt=corrupt)
        if noise:
            updates = {number: clipped(update, terms) for number, update in updates.items()}
        if self.most_samples is not None:
            weights = np.ones(n) if counts is None else np.clip(counts, 0, self.most_samples)
            updates = weighted_rows(updates, dict(enumerate(weights.tolist())), terms, self.most_samples)
        summed = secure_sum(updates, terms, randomness=drawn)
        size = summed.bytes_up + asked
        if self.most_samples is not None:
            return Combined(weighted_mean(summed.total, terms), None, size)
        divisor = self.mechanism.expected_clients if self.mechanism else len(summed.survivors)
        return Combined(summed.total / divisor, None, size)


def protect(
    *,
    rounds: int,
    clients: int,
    sampling: float = 1.0,
    rule: str = "mean",
    robust: bool = False,
    epsilon: float | None = None,
    delta: float | None = None,
    mechanism: str = "gaussian",
    clip_bound: float | None = None,
    compression: str | Compression = "none",
    secure: bool = False,
    group_size: int | None = None,
    partners: int = 0,
    most_samples: int | None = None,
    n: int | None = None,
    f: int = 0,
    seed: int = 0,
    noise_seed: int | None = None,
) -> Protection:
    """The protections of a run of `rounds` rounds over `clients` clients; with epsilon and delta it is private.

    sampling: the share of the clients in a round; n: how many that are, all where None, f of them Byzantine.
    clip_bound: 1 where private and not given. Under secure aggregation with privacy all clients take part, as the server
    sees who does.
    Raises ValueError for what does not go together.
    """
    private, codec = epsilon is not None, resolve(compression)
    notes = check_combination(
        rule=rule, robust=robust, mechanism=mechanism if private else None, compression=codec, secure=secure,
        grouped=group_size is not None, weighted=most_samples is not None,
    )  # fmt: skip
    summed = clients if n is None else n
    if secure:
        check_sums(summed, group_size, f, partners)
    if epsilon is None:
        bound = SECURE_BOUND if clip_bound is None else clip_bound
        return Protection(codec, None, None, bound, secure, group_size, partners, most_samples, seed, noise_seed, notes)
    if delta is None:
        raise ValueError(f"epsilon={epsilon} needs a delta, below 1 / (number of clients): e.g. 1e-5")
    if delta * clients >= 1:
        raise ValueError(
            f"delta={delta:g} for {clients} clients allows to publish all that one of them sent: take one below 1 / clients, "
            f"e.g. {min(1e-5, 0.01 / clients):.0e}"
        )
    budget, bound = Budget(epsilon, delta, 1.0 if secure else sampling), 1.0 if clip_bound is None else clip_bound
    kind = lookup(mechanism, MECHANISMS, "a privacy mechanism")
    calibrated = kind.calibrated(budget, rounds=rounds, clip_bound=bound, clients=clients)
    advice = calibrated.advice(budget)
    if advice:
        warnings.warn(advice, stacklevel=2)
        notes = (*notes, f"{advice}.")
    return Protection(codec, calibrated, budget, bound, secure, group_size, partners, None, seed, noise_seed, notes, rounds)


def check_sums(n: int, group_size: int | None, f: int, partners: int) -> None:
    """Raise ValueError where n clients cannot be summed in such groups, or in one, beside so many partners of the server."""
    from fl_impl.privacy.groups import deal  # noqa: PLC0415  # cryptography is an extra
    from fl_impl.privacy.secure_aggregation import Terms  # noqa: PLC0415  # as above

    if group_size is not None:
        deal(n, f=f, group_size=group_size, rng=np.random.default_rng(0), partners=partners)
    elif n >= LEAST_SUM or partners:
        Terms.agreed(clients=n, length=1, bound=1.0, corrupt=max(partners, n // 10))
