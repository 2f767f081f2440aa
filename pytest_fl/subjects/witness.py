"""Where a rule is just now, in memory that two processes share: what is known of a process that did not come back."""

from __future__ import annotations

import mmap
import struct
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_fl.subjects.round import Round

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = struct.Struct("<dqqqqq")
"""When the call began (0 between calls); rounds begun; length of the description; n, d and bytes of the updates kept."""
TEXT: Final = 4096
KEPT: Final = 1 << 20
"""Bytes of updates kept: a round larger than that is described, and not saved."""


class Witness:
    """The last round that was begun, and when the call that is running began (`time.monotonic`, one clock a machine)."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._memory = mmap.mmap(-1, HEAD.size + TEXT + KEPT)
        else:
            with path.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), HEAD.size + TEXT + KEPT)

    def begins(self, round_: Round) -> None:
        """A round is about to be judged."""
        updates = np.ascontiguousarray(round_.updates)
        kept = updates.nbytes if updates.nbytes <= KEPT else 0
        told = f"{updates.dtype.name}\n{round_.f}\n{','.join(map(str, round_.byzantine))}\n{round_.origin}".encode()[:TEXT]
        rounds = self.rounds + 1
        HEAD.pack_into(self._memory, 0, 0.0, rounds, len(told), *updates.shape, kept)
        self._memory[HEAD.size : HEAD.size + len(told)] = told
        if kept:
            start = HEAD.size + TEXT
            self._memory[start : start + kept] = updates.tobytes()

    def clear(self) -> None:
        """Nothing was begun."""
        HEAD.pack_into(self._memory, 0, 0.0, 0, 0, 0, 0, 0)

    def calls(self) -> None:
        """The subject is called now."""
        struct.pack_into("<d", self._memory, 0, time.monotonic())

    def returned(self) -> None:
        """The call came back, one way or another."""
        struct.pack_into("<d", self._memory, 0, 0.0)

    @property
    def rounds(self) -> int:
        """Rounds begun so far."""
        return HEAD.unpack_from(self._memory)[1]

    @property
    def waiting(self) -> float:
        """Seconds since the call began that is running; 0 where none is."""
        began: float = HEAD.unpack_from(self._memory)[0]
        return time.monotonic() - began if began else 0.0

    def last(self) -> tuple[str, Round | None]:
        """The last round begun: in words, and itself where it was small enough to be kept."""
        _, rounds, length, n, d, kept = HEAD.unpack_from(self._memory)
        if not rounds:
            return "", None
        dtype, f, byzantine, origin = self._memory[HEAD.size : HEAD.size + length].decode(errors="replace").split("\n", 3)
        words = f"at n={n}, f={f}, d={d}, {dtype}: {origin}"
        if not kept:
            return words, None
        start = HEAD.size + TEXT
        updates = np.frombuffer(self._memory[start : start + kept], dtype).reshape(n, d)
        return words, Round(updates, int(f), tuple(int(row) for row in byzantine.split(",") if row), origin)
