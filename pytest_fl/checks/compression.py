"""What a compressor owes: the bytes it states, an error within its claims, nothing lost for good, no trust in bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.guard import Misbehaved, as_vector
from pytest_fl.subjects.parts import Compressor

Reals = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

SIGMAS: Final = 6.5
REPEATS: Final = 20
SMALL: Final = 24
"""Coordinates of an update that is sent again and again."""


def _inputs(rng: np.random.Generator) -> Iterator[tuple[str, Vector]]:
    """Updates at which codecs are at their worst, and ordinary ones."""
    d = int(rng.integers(600, 700))
    yield "heavy-tailed", rng.standard_t(3, d).astype(np.float32)
    yield "normal", rng.standard_normal(d).astype(np.float32)
    yield "all entries equal", np.full(d, 0.3, np.float32)
    yield "one entry", np.eye(1, d, int(rng.integers(d)), dtype=np.float32)[0]
    shadow = np.full(d, 0.042, np.float32)
    shadow[:: min(512, d)] = 1
    yield "one entry, the others in its shadow", shadow
    yield "1e-30 times as large", 1e-30 * rng.standard_normal(d).astype(np.float32)
    yield "1e30 times as large", 1e30 * rng.standard_normal(d).astype(np.float32)
    yield "one coordinate", rng.standard_normal(1).astype(np.float32)


def _sent(part: Compressor, x: Vector, rng: np.random.Generator) -> Reals:
    """What arrives of the first message."""
    message, _ = part.send(x.copy(), None, int(rng.integers(2**31)))
    return as_vector(part.receive(message, None, x.size)[0], x.size)


def _errors(part: Compressor, x: Vector, rng: np.random.Generator) -> Reals:
    """||x - C(x)||^2 / ||x||^2, as often as it is tried."""
    wide = x.astype(np.float64)
    size = np.linalg.norm(wide)
    return np.array([float(np.linalg.norm((_sent(part, x, rng) - wide) / size)) ** 2 for _ in range(REPEATS)], np.float64)


def _within(errors: Reals, limit: float, origin: str) -> Bound:
    spread = SIGMAS * float(errors.std()) / math.sqrt(len(errors))
    return Bound(float(errors.mean()), limit * (1 + 1e-5) + 1e-6 + spread, f"{origin}: mean error {errors.mean():.4g} |x|^2")


@audited(Compressor)
def comes_back_in_shape(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """What arrives is one finite vector of length d, the same for the same message, and zero for zero."""
    for origin, x in _inputs(rng):
        message, _ = part.send(x.copy(), None, 1)
        first, second = (as_vector(part.receive(message, None, x.size)[0], x.size) for _ in range(2))
        yield Bound(float(np.abs(first - second).max()), 0.0, f"{origin}: one message arrives as two different updates")
    yield Bound(float(np.abs(_sent(part, np.zeros(50, np.float32), rng)).max()), 0.0, "zero does not arrive as zero")


@audited(Compressor)
def update_is_left_alone(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """The caller's update is never written to."""
    for origin, x in _inputs(rng):
        given = x.copy()
        part.send(given, None, 1)
        yield verdict("" if np.array_equal(given, x) else f"{origin}: wrote to the update that it was given")


def _states_bytes(part: Compressor) -> str:
    return "" if part.message_bytes else "it states no length of its messages"


@audited(Compressor, needs=_states_bytes)
def messages_have_the_stated_length(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """A message is exactly as long as stated, whatever the update."""
    assert part.message_bytes is not None
    for origin, x in _inputs(rng):
        message, _ = part.send(x.copy(), None, 1)
        stated = part.message_bytes(x.size)
        yield Bound(abs(len(message) - stated), 0.0, f"{origin}: {len(message)} bytes for d = {x.size}, stated {stated}")


def _contracts(part: Compressor) -> str:
    return "" if part.contraction else "no contraction is claimed"


@audited(Compressor, needs=_contracts)
def error_contracts(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """E ||x - C(x)||^2 <= (1 - alpha) ||x||^2."""
    assert part.contraction is not None
    for origin, x in _inputs(rng):
        yield _within(_errors(part, x, rng), 1 - part.contraction(x.size), origin)


def _is_unbiased(part: Compressor) -> str:
    return "" if part.variance else "it is not claimed to be unbiased"


@audited(Compressor, needs=_is_unbiased)
def variance_is_as_stated(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """E ||x - C(x)||^2 <= omega ||x||^2."""
    assert part.variance is not None
    for origin, x in _inputs(rng):
        if origin != "one entry":  # which a sparse codec may never meet in so few trials
            yield _within(_errors(part, x, rng), part.variance(x.size), origin)


@audited(Compressor, needs=_is_unbiased)
def error_has_no_mean(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """E C(x) = x: summed over entries that are all rounded from the same place, nothing is left over."""
    d, trials = 257, 100
    for value in (0.123, 0.31, -0.43):
        x = np.full(d, value, np.float32)
        x[int(rng.integers(d))] = 1
        found = np.array([(_sent(part, x, rng) - x).sum() / math.sqrt(d) for _ in range(trials)])
        limit = SIGMAS * float(found.std()) / math.sqrt(trials) + 1e-5 * math.sqrt(d)
        reason = f"entries of {value} arrive {found.mean() / math.sqrt(d):+.2g} off, in the mean"
        yield Bound(abs(float(found.mean())), limit, reason)


def _remembers(part: Compressor) -> str:
    return "" if part.remembers and part.contraction else "it is not claimed to send later what it keeps back"


@audited(Compressor, needs=_remembers)
def nothing_is_lost_for_good(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """The mean of what arrives of a constant update tends to it: the sum is off by at most 2 / alpha updates, ever."""
    assert part.contraction is not None
    alpha = part.contraction(SMALL)
    rounds = math.ceil(16 / alpha)
    x = rng.standard_normal(SMALL).astype(np.float32)
    state = server = None
    total = np.zeros(SMALL)
    for number in range(rounds):
        message, state = part.send(x.copy(), state, number)
        value, server = part.receive(message, server, SMALL)
        total += as_vector(value, SMALL)
    off = float(np.linalg.norm(total / rounds - x) / np.linalg.norm(x))
    # Deterministic codecs stay within 2 sqrt(1 - alpha) / alpha (Karimireddy et al. 2019, Lemma 3); twice that for others.
    yield Bound(off, 4 / (alpha * rounds), f"after {rounds} rounds the mean of what arrived is {off:.3g} |x| off")


@audited(Compressor)
def refuses_non_finite(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """An update with NaN or infinity raises a ValueError: compressed, it would be something else."""
    for value in (math.nan, math.inf, -math.inf):
        x = rng.standard_normal(50).astype(np.float32)
        x[int(rng.integers(50))] = value
        yield verdict(_refusal(lambda x=x: part.send(x, None, 1), f"an update with {value}"))


@audited(Compressor)
def refuses_damaged_messages(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """A truncated, lengthened or empty message raises a ValueError; a changed one does, or is another finite update."""
    message, _ = part.send(rng.standard_normal(60).astype(np.float32), None, 1)
    for what, damaged in (
        ("a truncated message", message[:-1]),
        ("half a message", message[: len(message) // 2]),
        ("a lengthened message", message + b"\0"),
        ("an empty message", b""),
    ):
        yield verdict(_refusal(lambda damaged=damaged: part.receive(damaged, None, 60), what))
    yield verdict(_survives(part, bytes(len(message)), "a message of zeros"))
    for position in rng.integers(len(message), size=30):
        changed = bytearray(message)
        changed[position] ^= 1 << int(rng.integers(8))
        yield verdict(_survives(part, bytes(changed), f"a message with byte {position} changed"))


def _refusal(call: Any, what: str) -> str:
    try:
        call()
    except ValueError:
        return ""
    except Exception as error:  # noqa: BLE001  # anything else is no refusal
        return f"{what} raised {type(error).__name__}: {error}; expected a ValueError"
    return f"{what} was accepted; expected a ValueError"


def _survives(part: Compressor, message: bytes, what: str) -> str:
    try:
        as_vector(part.receive(message, None, 60)[0], 60)
    except ValueError:
        return ""
    except Misbehaved as finding:
        return f"{what} {finding}; expected a ValueError"
    except Exception as error:  # noqa: BLE001  # anything else is no refusal
        return f"{what} raised {type(error).__name__}: {error}; expected a ValueError"
    return ""
