"""What secure aggregation owes: the exact sum of those who stay, masks that are uniform, no sum of forged messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.parts import Network, SecureAggregation, Updates

Forgery = Callable[[bytes], bytes]

CLIENTS, LENGTH = 4, 12
SIGMAS: Final = 6.5


def _honest(stage: str, client: int, message: bytes) -> bytes:
    del stage, client
    return message


def _runs(part: SecureAggregation) -> str:
    return "" if part.run else "only its masks are offered"


def _updates(rng: np.random.Generator) -> Updates:
    return rng.uniform(-1, 1, (CLIENTS, LENGTH))


def _total(part: SecureAggregation, updates: Updates, network: Network) -> Any:
    assert part.run is not None
    return np.asarray(part.run(updates.copy(), network), np.float64)


def _off(part: SecureAggregation, found: Any, expected: Any, what: str) -> Bound:
    off = float(np.abs(found - expected).max())
    return Bound(off, 2 * CLIENTS * part.step(CLIENTS), f"{what}: the sum is off by {off:.3g}")


@audited(SecureAggregation, needs=_runs)
def sum_is_exact(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """The sum is that of the updates, to the precision of their encoding, at the extremes as well."""
    updates = _updates(rng)
    yield _off(part, _total(part, updates, _honest), updates.sum(axis=0), "uniform updates")
    for extreme in (1.0, -1.0, 0.0):
        updates[:] = extreme
        yield _off(part, _total(part, updates, _honest), updates.sum(axis=0), f"updates of {extreme:g}")


@audited(SecureAggregation, needs=_runs)
def survives_drop_out(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """As many clients as may leave do, at any stage: the sum is of those whose masked update came."""
    updates, leaving = _updates(rng), CLIENTS - part.minimum(CLIENTS)
    lost = rng.permutation(CLIENTS)[:leaving].tolist()
    for stage in part.stages:
        came = np.ones(CLIENTS, bool)
        if part.stages.index(stage) <= part.stages.index(part.masked):
            came[lost] = False
        network = _losing(stage, lost)
        yield _off(part, _total(part, updates, network), updates[came].sum(axis=0), f"clients {lost} lost at {stage}")


@audited(SecureAggregation, needs=_runs)
def aborts_below_the_minimum(part: SecureAggregation, rng: np.random.Generator) -> Iterator[Bound]:
    """One more that leaves, at any stage, ends the session: nothing is summed."""
    updates, leaving = _updates(rng), CLIENTS - part.minimum(CLIENTS) + 1
    lost = rng.permutation(CLIENTS)[:leaving].tolist()
    for stage in part.stages:
        yield verdict(_summed(part, updates, _losing(stage, lost), f"{leaving} of {CLIENTS} clients lost at {stage}"))


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
        for what, forgery in forgeries.items():
            try:
                found = _total(part, updates, _forging(stage, victim, forgery))
            except Exception:  # noqa: BLE001  # it ended, in whatever way: nothing was summed
                yield verdict("")
            else:
                yield _off(part, found, everyone if late else rest, f"a message {what} at {stage}")


def _forging(stage: str, victim: int, forgery: Forgery) -> Network:
    return lambda at, client, message: forgery(message) if (at, client) == (stage, victim) else message


def _changed(message: bytes, position: int) -> bytes:
    return message[:position] + bytes([message[position] ^ 0x10]) + message[position + 1 :]


def _losing(stage: str, lost: list[int]) -> Network:
    return lambda at, client, message: None if at == stage and client in lost else message


def _summed(part: SecureAggregation, updates: Updates, network: Network, what: str) -> str:
    try:
        _total(part, updates, network)
    except Exception:  # noqa: BLE001  # it ended, in whatever way
        return ""
    return f"gave a sum with {what}"


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
    for what, other in (
        ("one bit differs", flipped),
        ("the same bit of two words differs", double),
        ("words are in another order", np.roll(seed, 1)),
        ("words are reversed", seed[::-1]),
    ):
        same = float(np.mean(np.asarray(part.mask(other.tobytes(), 200, modulus)) == base))
        chance = 1 / modulus + SIGMAS * math.sqrt(1 / modulus / 200)
        yield Bound(same, chance, f"{what}, and {same:.0%} of the mask is the same")


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
