"""The stage of a round between clients and server: every update as a message, and what the server makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_impl.compression.codecs import Vector
from fl_impl.compression.feedback import Compression

Memory = Mapping[int, Vector]
"""What is remembered of each client, by its number."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """The updates that arrived, and the memories for the next round."""

    ids: tuple[int, ...]
    rows: npt.NDArray[np.float32]
    """(n, d), row i of client ids[i]."""
    refused: Mapping[int, str]
    """Clients without a row, and why: their memories, on both sides, stay what they were."""
    bytes_up: int
    """Of the messages, refused ones as well."""
    sent: Memory
    received: Memory


def exchange(
    compression: Compression,
    ids: Sequence[int],
    deltas: npt.NDArray[Any],
    *,
    sent: Memory,
    received: Memory,
    rng_of: Callable[[int], np.random.Generator],
) -> Exchange:
    """Send the (n, d) deltas through a compression: client by client, with the memories of both sides.

    rng_of(client) is the generator for that client's rounding in this round. With mean-preserving or EF21 compression
    the rows may go to any rule; clip them again before a private sum.
    """
    d, refused, size = deltas.shape[1], dict[int, str](), 0
    arrived, sent, received = dict[int, Vector](), dict(sent), dict(received)
    for client, delta in zip(ids, deltas, strict=True):
        try:
            message, remembered = compression.send(delta, sent.get(client), rng_of(client))
            size += len(message)
            arrived[client], kept = compression.receive(message, received.get(client), d)
        except ValueError as error:
            refused[client] = str(error)
            continue
        sent |= {client: remembered} if remembered is not None else {}
        received |= {client: kept} if kept is not None else {}
    rows = np.stack(list(arrived.values())) if arrived else np.empty((0, d), np.float32)
    return Exchange(tuple(arrived), rows, refused, size, sent, received)


def of_round(compression: Compression, mask_seed: int) -> Compression:
    """The same compression with the mask that all clients share in a round, where its codec has one (`rand_k`)."""
    return replace(compression, codec=compression.codec.for_round(mask_seed))
