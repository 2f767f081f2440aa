"""What secure aggregation owes: the exact sum of those who stay, masks that are uniform, no sum of forged messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.parts import Network, SecureAggregation, Updates

Forgery = Callable[[bytes], bytes]

CLIENTS, LENGTH = 4, 12
SIZES: Final = (2, 5, 17, 40)
"""Numbers of clients."""
SIGMAS: Final = 6.5


def _honest(stage: str, client: int, message: bytes) -> bytes:
    del stage, client
    return message


def _runs(part: SecureAggregation) -> str:
    return "" if part.run else "only its masks are offered"


def _updates(rng: np.random.Generator, n: int = CLIENTS) -> Updates:
    return rng.uniform(-1, 1, (n, LENGTH))


def _total(part: SecureAggregation, updates: Updates, network: Network) -> Any:
    assert part.run is not None
    return np.asarray(part.run(updates.copy(), network), np.float64)


def _off(part: SecureAggregation, updates: Updates, total: Any, expected: Any, case: str) -> Bound:
    off = float(np.abs(total - expected).max())
    n = len(updates)
    return Bound(off, 2 * n * part.step(n), f"n={n}, {case}: the sum is off by {off:.3g}")


@audited(SecureAggregation, needs=_runs)
def sum_is_exact(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """The sum is that of the updates, to the precision of their encoding, at the extremes as well."""
    for n in SIZES:
        updates = _updates(rng, n)
        updates[:, 1:4] = [1.0, -1.0, 0.0]
        yield _off(part, updates, _total(part, updates, _honest), updates.sum(axis=0), "all stay")


@audited(SecureAggregation, needs=_runs)
def survives_drop_out(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """As many clients as may leave do, at any stage: the sum is of those whose masked update came."""
    for n in (CLIENTS, *SIZES[:-1]):
        updates, leaving = _updates(rng, n), n - part.minimum(n)
        lost = rng.permutation(n)[:leaving].tolist()
        for stage in part.stages:
            came = np.ones(n, bool)
            if part.stages.index(stage) <= part.stages.index(part.masked):
                came[lost] = False
            total = _total(part, updates, _losing(stage, lost))
            yield _off(part, updates, total, updates[came].sum(axis=0), f"clients {lost} lost at {stage}")


@audited(SecureAggregation, needs=_runs)
def aborts_below_the_minimum(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """One more that leaves, at any stage, ends the session: nothing is summed."""
    for n in (CLIENTS, *SIZES[:-1]):
        updates, leaving = _updates(rng, n), n - part.minimum(n) + 1
        lost = rng.permutation(n)[:leaving].tolist()
        for stage in part.stages:
            yield verdict(_summed(part, updates, _losing(stage, lost), f"{leaving} of {n} clients lost at {stage}"))


@audited(SecureAggregation, needs=_runs)
def sums_nothing_forged(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """A changed, truncated or replayed message is refused: the session ends, or goes on without its sender."""
    updates, victim = _updates(rng), int(rng.integers(CLIENTS))
    earlier = dict[tuple[str, int], bytes]()
    _total(part, updates, lambda stage, client, message: earlier.setdefault((stage, client), message))
    everyone, rest = updates.sum(axis=0), np.delete(updates, victim, axis=0).sum(axis=0)
    for stage in part.stages:
        forgeries: dict[str, Forgery] = {
            "changed": lambda message: _changed(message, int(rng.integers(len(message)))),
            "truncated": lambda message: message[: int(rng.integers(len(message)))],
            "replayed": lambda _, stage=stage: earlier[stage, victim],
            "taken from another": lambda _, stage=stage: earlier[stage, (victim + 1) % CLIENTS],
        }
        late = part.stages.index(stage) > part.stages.index(part.masked)
        for name, forgery in forgeries.items():
            try:
                total = _total(part, updates, _forging(stage, victim, forgery))
            except Exception:  # noqa: BLE001  # it ended, in whatever way: nothing was summed
                yield verdict("")
            else:
                yield _off(part, updates, total, everyone if late else rest, f"a message {name} at {stage}")


def _forging(stage: str, victim: int, forgery: Forgery) -> Network:
    return lambda at, client, message: forgery(message) if (at, client) == (stage, victim) else message


def _changed(message: bytes, position: int) -> bytes:
    return message[:position] + bytes([message[position] ^ 0x10]) + message[position + 1 :]


def _losing(stage: str, lost: list[int]) -> Network:
    return lambda at, client, message: None if at == stage and client in lost else message


def _summed(part: SecureAggregation, updates: Updates, network: Network, case: str) -> str:
    try:
        _total(part, updates, network)
    except Exception:  # noqa: BLE001  # it ended, in whatever way
        return ""
    return f"gave a sum with {case}"


@audited(SecureAggregation, needs=_runs)
def refuses_what_it_cannot_encode(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """NaN, infinity and entries that would wrap around are refused, not summed."""
    for value in (math.nan, math.inf, 1e12):
        updates = _updates(rng)
        updates[1, 2] = value
        yield verdict(_summed(part, updates, _honest, f"an entry of {value}"))


def _has_masks(part: SecureAggregation) -> str:
    return "" if part.mask else "its masks are not offered"


def _chi(counts: npt.NDArray[Any]) -> float:
    """Deviations by which counts of equally likely outcomes exceed chance: chi-squared, by Wilson and Hilferty."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    square = float(((counts - expected) ** 2).sum() / expected)
    spread = 2 / (9 * freedom)
    return ((square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


@audited(SecureAggregation, needs=_has_masks)
def masks_are_uniform(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """All words below the modulus are equally likely, the greatest included."""
    assert part.mask is not None
    for modulus in part.moduli:
        words = np.asarray(part.mask(rng.bytes(32), 40_000, modulus)).astype(np.uint64)
        if modulus <= 256:
            yield Bound(_chi(np.bincount(words, minlength=modulus)), SIGMAS, f"words below {modulus} are not equally likely")
            continue
        for byte in range(4):
            counts = np.bincount((words >> np.uint64(8 * byte)) & np.uint64(255), minlength=256)
            yield Bound(_chi(counts), SIGMAS, f"values of byte {byte} are not equally likely")


@audited(SecureAggregation, needs=_has_masks)
def masks_use_the_whole_seed(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """Seeds that differ in one bit, or in the order of their words, give masks with nothing in common."""
    assert part.mask is not None
    modulus = part.moduli[-1]
    seed = np.frombuffer(rng.bytes(32), np.uint32)
    flipped = (seed ^ (np.arange(8) == rng.integers(8)).astype(np.uint32)).astype(np.uint32)
    double = seed.copy()
    double[:2] ^= np.uint32(1)
    base = np.asarray(part.mask(seed.tobytes(), 200, modulus))
    for change, other in (
        ("one bit differs", flipped),
        ("the same bit of two words differs", double),
        ("words are in another order", np.roll(seed, 1)),
        ("words are reversed", seed[::-1]),
    ):
        same = float(np.mean(np.asarray(part.mask(other.tobytes(), 200, modulus)) == base))
        chance = 1 / modulus + SIGMAS * math.sqrt(1 / modulus / 200)
        yield Bound(same, chance, f"{change}, and {same:.0%} of the mask is the same")


def _shows_words(part: SecureAggregation) -> str:
    return "" if part.masked_words else "what the server sees of one client is not offered"


@audited(SecureAggregation, needs=_shows_words)
def masked_updates_say_nothing(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """What the server sees of one client is uniform whatever the update is, and new in each session."""
    assert part.masked_words is not None
    updates = np.zeros((3, 6000))
    updates[1] = 1.0
    first, second = part.masked_words(updates), part.masked_words(updates)
    for name, words in (("in one session", first), ("between two sessions", first - second)):
        for client, row in enumerate(words):
            counts = np.bincount(np.ascontiguousarray(row).view(np.uint8), minlength=256)
            yield Bound(_chi(counts), SIGMAS, f"the words of client {client} {name} are not uniform")
    del rng


def _plots(part: SecureAggregation) -> str:
    return "" if part.plots else "what a lying server could try is not offered"


@audited(SecureAggregation, needs=_plots)
def a_lying_server_reads_no_smaller_sum(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """Whatever a server and its partners try, all that they read is of as many honest clients as was promised."""
    for n in SIZES:
        updates, partners = rng.uniform(-1, 1, (n, 3 * n)), part.partners(n)
        promised = part.minimum(n) - partners
        for name, plot in _some(part.plots, n, rng):
            for vector in plot(updates, rng):
                read = honest_in(np.asarray(vector, np.float64), updates, n - partners, part.step(n))
                if read:
                    yield Bound(
                        promised - read, 0, f"{name}, n={n}: a sum of {read} honest clients, and {promised} were promised"
                    )
            yield verdict("")


def _some(kinds: Mapping[str, Any], n: int, rng: np.random.Generator) -> list[tuple[str, Any]]:
    """All of them, and three drawn ones for the most clients, where each costs a second."""
    chosen = list(kinds.items())
    return chosen if n < SIZES[-1] else [chosen[i] for i in sorted(rng.permutation(len(chosen))[:3])]


def honest_in(vector: npt.NDArray[np.float64], updates: Updates, honest: int, step: float) -> int:
    """How many of the first `honest` of n clients a (d,) vector is a combination of, d > n; 0 where it is none."""
    weights, _, _, _ = np.linalg.lstsq(updates.T, vector, rcond=None)
    rest = float(np.abs(updates.T @ weights - vector).max())
    return int(np.sum(np.abs(weights[:honest]) > 1e-3)) if rest <= 2 * len(updates) * step + 1e-6 else 0


def _exposes(part: SecureAggregation) -> str:
    return "" if part.exposure else "who holds whose shares is not offered"


@audited(SecureAggregation, needs=_exposes)
def partners_hold_too_few_shares(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """However the server chooses who advertised, its partners hold fewer shares of a secret than open it."""
    assert part.exposure is not None
    for n in (*SIZES, 200, 1000):
        held, needed = part.exposure(n, rng)
        yield Bound(held, needed - 1, f"n={n}: partners hold {held} shares of one secret, and {needed} open it")


def _severs(part: SecureAggregation) -> str:
    return "" if part.severed else "who masks with whom is not offered"


@audited(SecureAggregation, needs=_severs)
def chosen_drop_outs_sever_nothing(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """Whichever clients a server makes drop out, it cuts off no group of honest ones whose sum it can read."""
    assert part.severed is not None
    for n in (*SIZES, 200):
        read, promised = part.severed(n, rng)
        yield Bound(promised - read, 0, f"n={n}: a sum of {read} honest clients can be read, and {promised} were promised")


def _adds_noise(part: SecureAggregation) -> str:
    return "" if part.noise else "its clients' shares of the noise are not offered"


@audited(SecureAggregation, needs=_adds_noise)
def noise_is_enough_without_the_partners(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """The fewest that may stay add the noise that the terms promise, also after partners took theirs off."""
    assert part.noise is not None
    del rng
    d, deviation = 60_000, 3.0
    for n in SIZES:
        shares = np.asarray(part.noise(n, d, deviation), np.float64)
        left = shares[: len(shares) - part.partners(n)].sum(axis=0)
        least = 1 - SIGMAS * math.sqrt(1 / (2 * d))
        yield Bound(
            least - float(left.std()) / deviation, 0, f"n={n}: {left.std() / deviation:.1%} of the promised deviation is left"
        )


def _has_terms(part: SecureAggregation) -> str:
    return "" if part.dishonest_terms else "terms that a client should refuse are not offered"


@audited(SecureAggregation, needs=_has_terms)
def clients_refuse_less_than_they_insist_on(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """A client takes no part in a session whose terms give it less than it insists on, whatever the server says."""
    del rng
    for n in SIZES:
        for name, offer in part.dishonest_terms.items():
            try:
                offer(n)
            except Exception:  # noqa: BLE001  # it refused, in whatever way
                yield verdict("")
            else:
                yield verdict(f"n={n}: a client took part with {name}")


def _can_be_sabotaged(part: SecureAggregation) -> str:
    return "" if part.sabotaged and part.sabotage else "hostile clients are not offered"


@audited(SecureAggregation, needs=_can_be_sabotaged)
def hostile_clients_are_named_and_the_sum_goes_on(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """Clients that send anything are named, nobody else is, and the sum of the others comes out."""
    assert part.sabotaged is not None
    for n in SIZES[1:]:
        updates = rng.uniform(-1, 1, (n, LENGTH))
        for kind, _ in _some(dict.fromkeys(part.sabotage), n, rng):
            liars = rng.permutation(n)[: max(1, part.partners(n))].tolist()
            where = f"n={n}, clients {liars}: {kind}"
            try:
                tally = part.sabotaged(updates, dict.fromkeys(liars, kind), rng)
            except Exception as error:  # noqa: BLE001  # it aborted, in whatever way
                yield verdict(f"{where}: it ended with {type(error).__name__}: {error}")
                continue
            if tally.named != frozenset(liars):
                yield verdict(f"{where}: {sorted(tally.named)} were named")
            if not frozenset(range(n)) - frozenset(liars) <= tally.counted:
                yield verdict(f"{where}: honest clients were dropped; {sorted(tally.counted)} are in the sum")
            off = float(np.abs(tally.total - updates[sorted(tally.counted)].sum(axis=0)).max())
            yield Bound(off, 2 * n * part.step(n), f"{where}: the sum is off by {off:.3g}")


@audited(SecureAggregation, needs=_runs)
def sum_is_unbiased(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """The mean of a sum is that of the updates to 1 %, for entries from 1e-7 of the bound up to it."""
    n, repeats, sizes = SIZES[-1], 4000, np.repeat(10.0 ** np.arange(-7, 1), 2)
    signed = sizes * np.tile([1, -1], sizes.size // 2)
    entries = np.repeat(signed, repeats) * rng.uniform(0.9, 1.0, (n, repeats * sizes.size))
    total = _total(part, entries, _honest).reshape(sizes.size, -1).mean(axis=1)
    ratio = total / entries.sum(axis=0).reshape(sizes.size, -1).mean(axis=1)
    for size, off in zip(signed, np.abs(ratio - 1), strict=True):
        yield Bound(float(off), 0.01, f"entries of {size:g}: the sum is off by {off:.2%}")
