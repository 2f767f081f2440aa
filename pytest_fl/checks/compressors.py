"""What a compressor owes over many rounds, at any length, for any coordinate, and against messages made to do harm."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.guard import as_vector
from pytest_fl.subjects.parts import Compressor

Reals = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

LENGTHS: Final = (1, 2, 255, 256, 257, 2_047, 2_049, 65_535, 65_536, 65_537, 70_001)
"""On both sides of blocks, and of indices of 8 and 16 bits."""
ROUNDS: Final = 50
SMALL: Final = 24
"""Coordinates of an update of which every bit is followed."""
SIGMAS: Final = 6.5
ROUNDING: Final = 1e-4
MEMORY: Final = 64 * 2**20
"""Bytes that a decoder may take for a message of a few: allocation comes after checking."""


def _sent(part: Compressor, x: Vector, seed: int) -> Reals:
    message, _ = part.send(x.copy(), None, seed)
    return as_vector(part.receive(message, None, x.size)[0], x.size)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _contracts(part: Compressor) -> str:
    return "" if part.contraction else "no contraction is claimed"


@audited(Compressor, needs=_contracts)
def every_coordinate_counts(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """At lengths on both sides of blocks and index sizes, what lies in the first, last or any part of an update arrives.

    The update is 1 in a part and next to nothing elsewhere, so the error over that part alone is within the claim, in the
    mean of a few tries: a part that is lost has an error of its whole length.
    """
    assert part.contraction is not None
    for d in LENGTHS:
        spans = {(0, max(1, d // 8)), (d - max(1, d // 8), d), (d // 2, d // 2 + max(1, d // 8))}
        if d > 65_536:
            spans.add((65_536, d))
        for start, end in sorted(spans):
            x = np.full(d, 1e-12, np.float32)
            x[start:end] = rng.choice(np.array([-1, 1], np.float32), end - start)
            errors = [float(np.linalg.norm(_sent(part, x, _seed(rng)) - x) ** 2) / (end - start) for _ in range(2)]
            limit = max(0.0, 1 - part.contraction(d))
            limit += 4 * math.sqrt(max(limit, 1e-9) / (end - start)) + ROUNDING
            if limit < 1:  # a claim that all may be lost says nothing of a part
                yield Bound(
                    float(np.mean(errors)), limit, f"of d = {d} the part {start}:{end} arrives {np.mean(errors):.3g} off"
                )


def _is_unbiased(part: Compressor) -> str:
    return "" if part.variance else "it is not claimed to be unbiased"


@audited(Compressor, needs=_is_unbiased)
def no_bias_at_any_length_or_sign(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """E C(x) = x for short and long updates, positive, negative and mixed: the mean over coordinates and tries is not off."""
    for d, tries in ((40, 60), (2_049, 12), (70_001, 3)):
        for sign in (1.0, -1.0):
            x = (sign * (0.2 + 0.6 * rng.random(d))).astype(np.float32)
            x[int(rng.integers(d))] = sign
            found = np.array([float((_sent(part, x, _seed(rng)) - x).sum()) for _ in range(tries)])
            variance = part.variance(d) if part.variance else 0.0
            spread = max(float(found.std()), 1e-6 * d) if tries > 20 else math.sqrt(variance * float(x.astype(np.float64) @ x))
            limit = SIGMAS * spread / math.sqrt(tries) + 1e-6 * d
            yield Bound(
                abs(float(found.mean())), limit, f"{'positive' if sign > 0 else 'negative'} entries in d = {d} arrive off"
            )


@audited(Compressor, needs=_is_unbiased)
def dithers_are_many(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """Twenty tries with other seeds are twenty different messages, and rounding has no pattern from one to the next."""
    x = (0.2 + 0.6 * rng.random(1_024)).astype(np.float32)
    errors = np.array([_sent(part, x, _seed(rng)) - x for _ in range(20)])
    if float(np.abs(errors).max()) < 1e-6:
        yield verdict("")  # nothing is rounded
        return
    scaled = errors - errors.mean(axis=0)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    between = np.abs(scaled @ scaled.T - np.eye(20))
    yield Bound(float(between.max()), 0.75, "two seeds round alike: there are few dithers")


def _remembers(part: Compressor) -> str:
    return "" if part.remembers and part.contraction else "it is not claimed to send later what it keeps back"


@audited(Compressor, needs=_remembers)
def what_is_kept_back_stays_small_over_fifty_rounds(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """Over 50 rounds of changing updates, all that arrived differs from all that was sent by less than 2.5 / alpha updates."""
    assert part.contraction is not None
    d = 300
    drift = rng.standard_normal(d)
    client = server = None
    sent, came, longest = np.zeros(d), np.zeros(d), 0.0
    for number in range(ROUNDS):
        x = (drift + 0.3 * rng.standard_normal(d)).astype(np.float32)
        message, client = part.send(x.copy(), client, number)
        value, server = part.receive(message, server, d)
        sent, came = sent + x, came + as_vector(value, d)
        longest = max(longest, float(np.linalg.norm(x)))
        off = float(np.linalg.norm(sent - came)) / longest
        yield Bound(off, 2.5 / part.contraction(d), f"after {number + 1} rounds {off:.3g} updates are lost")


def _conserves(part: Compressor) -> str:
    return "" if part.conserves and part.contraction else "it is not claimed that sums agree in the end"


@audited(Compressor, needs=_conserves)
def residuals_do_not_decay(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """What one round holds back arrives in full in the rounds after, in which there is nothing else to send."""
    assert part.contraction is not None
    d = SMALL
    x = rng.standard_normal(d).astype(np.float32)
    client = server = None
    total, rounds = np.zeros(d), min(400, math.ceil(40 / part.contraction(d)))
    for number in range(rounds):
        message, client = part.send(x.copy() if number == 0 else np.zeros(d, np.float32), client, number)
        value, server = part.receive(message, server, d)
        total += as_vector(value, d)
    off = float(np.linalg.norm(total - x) / np.linalg.norm(x))
    yield Bound(off, 0.02, f"{off:.3g} of an update never arrives")


@audited(Compressor)
def decoders_allocate_after_checking(part: Compressor, rng: np.random.Generator) -> Iterator[Bound]:
    """A short message that claims to be long is refused, within 64 MiB of memory."""
    message, _ = part.send(rng.standard_normal(300).astype(np.float32), None, 1)
    made = [
        ("cut to half, for an update of 2^31 entries", message[: len(message) // 2], 2**31 - 1),
        ("whole, for an update of 2^31 entries", message, 2**31 - 1),
        ("of 0xff throughout", b"\xff" * len(message), 300),
        ("of 0xff after 8 bytes", message[:8] + b"\xff" * (len(message) - 8), 300),
        ("of 0xff in its first 16 bytes", b"\xff" * 16 + message[16:], 300),
    ]
    for said, hostile, d in made:
        yield _frugal(part, hostile, d, said)


def _frugal(part: Compressor, message: bytes, d: int, said: str) -> Bound:
    tracemalloc.start()
    try:
        part.receive(message, None, d)
    except ValueError:
        pass
    except Exception as error:  # noqa: BLE001  # whatever else it is, it is no refusal
        return verdict(f"a message {said} raised {type(error).__name__}: {error}; expected a ValueError")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return Bound(float(peak), float(MEMORY), f"a message of {len(message)} bytes {said} takes {peak / 2**20:.0f} MiB to read")
