"""Fuzz the checkpoint reader: python scripts/fuzz_checkpoints.py --seconds 600.

Every file is a real checkpoint with a few bytes changed, cut, doubled or replaced. It must be refused by CheckpointError,
or say the same as before; any other exception, and any other content, ends the script with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fl_impl.rounds.checkpoints import CheckpointError, digest, entries, load_state, save_state
from fl_impl.rounds.state import RunState

TOKENS = (b'"F32"', b'"BF16"', b'"U8"', b"[0,20]", b"[]", b"-1", b"1e999", b"null", b'"', b"{", b"}", b"\xff\xfe", b"9" * 30)


class Keeps:
    """A client with state."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four changes: a bit, a cut, a copy, a token of the format, a number of eight bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        header = rng.random() < 0.7  # the header is a small part of the file, and the one that is parsed
        place = rng.randrange(min(len(data), 700) if header else len(data)) if data else 0
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place : place + rng.choice((1, 8, 64, 10**6))]
        elif kind == 2:
            data[place:place] = data[place : place + rng.randint(1, 40)]
        elif kind == 3:
            token = rng.choice(TOKENS)
            data[place : place + rng.choice((0, len(token)))] = token
        elif kind == 4:
            data[:8] = rng.choice((0, 1, 2**63, 2**64 - 1, len(data), rng.getrandbits(64))).to_bytes(8, "little")
        else:
            data[place : place + 1] = bytes(rng.choice(b'0123456789,:[]{}"') for _ in range(1))
    return bytes(data)


def main() -> None:
    """Fuzz for so many seconds, and print how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, row = random.Random(options.seed), np.arange(5, dtype=np.float32)  # noqa: S311  # no secret
    refused = same = 0
    with tempfile.TemporaryDirectory() as folder:
        path, clients = Path(folder, "run.safetensors"), [Keeps(), Keeps()]
        clients[1].state["momentum"] = row
        state = RunState(row, 3, previous=row, mechanism=np.array(0.5), server={"m": row}, history={1: row}, sent={0: row})
        save_state(path, state, clients)
        content, wanted = path.read_bytes(), digest(entries(state, clients), 3)
        deadline = time.monotonic() + options.seconds
        while time.monotonic() < deadline:
            path.write_bytes(mutated(content, rng))
            readers = [Keeps(), Keeps()]
            try:
                read = load_state(path, readers, 5)
            except CheckpointError:
                refused += 1
                continue
            if digest(entries(read, readers), read.round) != wanted:
                sys.exit(f"a changed checkpoint was believed: {path.read_bytes()!r}")
            same += 1
    print(f"{refused + same} files in {options.seconds:g} s: {refused} refused, {same} that say the same, none believed")


if __name__ == "__main__":
    main()
