"""What stands between the clients' updates and the server's step: privacy, compression and secure sums, where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.admission import Admitted, Reasons
from fl_impl.compression import resolve
from fl_impl.stages import Vector64, select

if TYPE_CHECKING:
    from fl_impl.checkpoints import RunState
    from fl_impl.config import FLConfig
    from fl_impl.context import Server


def choose(config: FLConfig, population: int, number: int) -> tuple[int, ...]:
    """The clients of a round, in order: as the privacy budget accounts for them, else `select`."""
    drawn = config.protection.sample(population, number) if config.protection else None
    return select(config, population, number) if drawn is None else drawn


def deliver(
    config: FLConfig, state: RunState, admitted: Admitted, number: int, rejected: Reasons
) -> tuple[Admitted, int]:
    """The updates as they arrive, and how many bytes they took; why one does not arrive is written to `rejected`."""
    guard = config.protection
    if guard is None:
        return admitted, plain_bytes(admitted.deltas.shape[1]) * len(admitted.ids)
    memories = _by_client(state.sent), _by_client(state.received)
    carried = guard.carry(admitted.ids, admitted.deltas, number, *memories)
    state.sent, state.received = _by_name(carried.sent), _by_name(carried.received)
    rejected |= carried.refused
    arrived = admitted.at(np.flatnonzero(np.isin(admitted.ids, carried.ids)))
    return Admitted(arrived.ids, carried.rows, arrived.counts, arrived.losses), carried.bytes_up


def combine(
    config: FLConfig, state: RunState, server: Server, arrived: Admitted, f: int
) -> tuple[Vector64, int, str]:
    """(the (d,) aggregate, the bytes of a secure sum, where noise is from)."""
    guard = config.protection

    def rule(rows: Any, f: int) -> Any:
        return config.rule(rows, f=f, **server.context(config.rule, arrived))

    if guard is None:
        return np.asarray(rule(arrived.deltas, f), np.float64), 0, ""
    combined = guard.combine(arrived.deltas, server.round, state.single.get("mechanism"), rule, f)
    if combined.state is not None:
        state.single["mechanism"] = np.asarray(combined.state, np.float64)
    return combined.value, combined.bytes_up, combined.randomness


@lru_cache
def plain_bytes(d: int) -> int:
    """The length of the message with d float32 values, header and all."""
    return resolve("none").message_bytes(d)


def _by_client(memory: Mapping[str, Any]) -> dict[int, Any]:
    return {int(name): value for name, value in memory.items()}


def _by_name(memory: Mapping[int, Any]) -> dict[str, Any]:
    return {str(client): value for client, value in memory.items()}
