"""What stands between the clients' updates and the server's step: privacy, compression and secure sums, where asked for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fl_impl.compression import resolve
from fl_impl.rounds.admission import Admitted, Reasons
from fl_impl.rounds.stages import Vector64, select

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fl_impl.config import FLConfig
    from fl_impl.privacy.protection import Protection


class Remembers(Protocol):
    """The state of a run, as far as it is touched here: arrays by name."""

    sent: dict[str, Any]
    received: dict[str, Any]
    single: dict[str, Any]


def choose(config: FLConfig, population: int, number: int) -> tuple[int, ...]:
    """The clients of a round, in order: as the privacy budget accounts for them, else `select`."""
    drawn = config.protection.sample(population, number) if config.protection else None
    return select(config, population, number) if drawn is None else drawn


def deliver(
    guard: Protection | None, state: Remembers, admitted: Admitted, number: int, rejected: Reasons
) -> tuple[Admitted, int]:
    """The updates as they arrive, and how many bytes they took; why one does not arrive is written to `rejected`."""
    if guard is None:
        return admitted, plain_bytes(admitted.deltas.shape[1]) * len(admitted.ids)
    memories = _by_client(state.sent), _by_client(state.received)
    carried = guard.carry(admitted.ids, admitted.deltas, number, *memories)
    state.sent, state.received = _by_name(carried.sent), _by_name(carried.received)
    rejected |= carried.refused
    arrived = admitted.at(np.flatnonzero(np.isin(admitted.ids, carried.ids)))
    return Admitted(arrived.ids, carried.rows, arrived.counts, arrived.losses), carried.bytes_up


def combine(
    guard: Protection | None, state: Remembers, rows: Any, number: int, rule: Callable[..., Any], f: int
) -> tuple[Vector64, int]:
    """The (d,) aggregate of the (n, d) rows, and the bytes of a secure sum."""
    if guard is None:
        return np.asarray(rule(rows, f=f), np.float64), 0
    combined = guard.combine(rows, number, state.single.get("mechanism"), rule, f)
    if combined.state is not None:
        state.single["mechanism"] = np.asarray(combined.state, np.float64)
    return combined.value, combined.bytes_up


@lru_cache
def plain_bytes(d: int) -> int:
    """The length of the message with d float32 values, header and all."""
    return resolve("none").message_bytes(d)


def _by_client(memory: Mapping[str, Any]) -> dict[int, Any]:
    return {int(name): value for name, value in memory.items()}


def _by_name(memory: Mapping[int, Any]) -> dict[str, Any]:
    return {str(client): value for client, value in memory.items()}
