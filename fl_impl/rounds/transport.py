"""What stands between the clients' updates and the server's step: privacy, compression and secure sums, where asked for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fl_impl.compression import resolve
from fl_impl.rounds.admission import Admitted

if TYPE_CHECKING:
    from collections.abc import Callable

    from fl_impl.privacy.protection import Protection
    from fl_impl.rounds.stages import Vector64


class Remembers(Protocol):
    """The state of a run, as far as it is touched here."""

    sent: dict[int, Any]
    received: dict[int, Any]
    mechanism: Any


def deliver(guard: Protection | None, state: Remembers, admitted: Admitted, round_number: int) -> tuple[Admitted, int]:
    """The updates as they arrive, and how many bytes they took."""
    if guard is None:
        return admitted, plain_bytes(admitted.deltas.shape[1]) * len(admitted.ids)
    carried = guard.carry(admitted.ids, admitted.deltas, round_number, state.sent, state.received)
    state.sent, state.received = dict(carried.sent), dict(carried.received)
    arrived = admitted.without(carried.refused)
    return Admitted(arrived.ids, carried.rows, arrived.counts, arrived.losses, arrived.rejected), carried.bytes_up


def combine(
    guard: Protection | None,
    state: Remembers,
    rows: Any,
    round_number: int,
    rule: Callable[..., Any],
    f: int,
    counts: Any = None,
) -> tuple[Vector64, int]:
    """The (d,) aggregate of the (n, d) rows of so many samples, and the bytes of a secure sum."""
    if guard is None:
        return np.asarray(rule(rows, f=f), np.float64), 0
    combined = guard.combine(rows, round_number, state.mechanism, rule, f, counts)
    if combined.state is not None:
        state.mechanism = np.asarray(combined.state, np.float64)
    return combined.value, combined.bytes_up


def published(guard: Protection | None, came: int, asked: int, bytes_up: int, d: int) -> tuple[int, int, int]:
    """(clients that came, that were asked, bytes that arrived) as the record of a round says them.

    Under Poisson sampling how many were drawn is private: the record has the expected number, and what it would send.
    """
    if guard is None or guard.mechanism is None or not guard.hides_its_sample:
        return came, asked, bytes_up
    expected = round(guard.mechanism.expected_clients)
    return expected, expected, guard.compression.message_bytes(d) * expected


@lru_cache
def plain_bytes(d: int) -> int:
    """The length of the message with d float32 values, header and all."""
    return resolve("none").message_bytes(d)
