"""Masks: AES-256-CTR key streams of secrets that pairs of clients share, as uniform words modulo 2^32."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fl_impl.privacy.secure_aggregation.channel import agree, derive, number_bytes
from fl_impl.privacy.secure_aggregation.curve import exchange

Words = npt.NDArray[np.uint32]

BLOCK_WORDS: Final = 2**15
"""128 KiB of key stream at a time, so that it is added while still in the cache."""
_ZEROS: Final = bytes(4 * BLOCK_WORDS)
_COUNTER: Final = bytes(16)  # each key makes one stream, so it may always start at 0


def add_mask(words: Words, key: bytes, *, subtract: bool = False) -> None:
    """words += PRG(key) modulo 2^32, or -=, in place: d words drawn uniformly from the whole ring by a 32-byte key."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(_COUNTER)).encryptor()
    room = bytearray(4 * BLOCK_WORDS)
    buffer = np.frombuffer(room, "<u4")
    combine = np.subtract if subtract else np.add
    for start in range(0, words.size, BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS]
        stream.update_into(_ZEROS, room)
        combine(block, buffer[: block.size], out=block)


def self_mask_key(seed: bytes, session: bytes, number: int) -> bytes:
    """The key of the mask that a client adds for itself."""
    return derive(seed, session, b"self mask", number_bytes(number))


def pair_mask_key(
    private: X25519PrivateKey, public: bytes, session: bytes, number: int, other: int, about: bytes = b""
) -> bytes:
    """The key of the mask that the lower-numbered of two clients adds and the higher-numbered subtracts.

    `about` is what both were told to make their updates from: their masks cancel only where that is the same.
    """
    return agree(private, public, *_pair_context(session, number, other, about))


def recovered_pair_mask_key(scalar: int, public: bytes, session: bytes, number: int, other: int, about: bytes = b"") -> bytes:
    """The same key, by the secret scalar of a client whose shares were put together."""
    return derive(exchange(scalar, public), *_pair_context(session, number, other, about))


def _pair_context(session: bytes, number: int, other: int, about: bytes) -> tuple[bytes, ...]:
    low, high = sorted((number, other))
    return session, b"pair mask", number_bytes(low), number_bytes(high), about
