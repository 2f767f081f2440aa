"""Every random number of a federation comes from (seed, what for, round, client) alone, so that any part can be redone."""

from __future__ import annotations

import zlib

import numpy as np

MASK = 0xFFFFFFFFFFFFFFFF


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """A numpy generator for one purpose: `generator(seed, "select", round_number)`."""
    return np.random.default_rng([seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)])


def torch_seed(seed: int, *path: int) -> int:
    """A 64-bit seed for a torch.Generator, well mixed, as torch uses the lower half only: splitmix64, Steele et al. 2014."""
    state = 0
    for part in (seed, *path):
        state = (state + part + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state
