"""Small integers, several to a byte."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

TRITS_A_BYTE: Final = 5  # 3^5 = 243 <= 256
_POWERS: Final = (3 ** np.arange(TRITS_A_BYTE)).astype(np.uint8)
_TRITS: Final = ((np.arange(3**TRITS_A_BYTE)[:, None] // _POWERS) % 3 - 1).astype(np.int8)


def pack_nibbles(codes: Codes) -> Bytes:
    """Codes from -8 to 7, two a byte, the first in the low half."""
    pairs = _padded(codes, 2).view(np.uint8)
    return (pairs[:, 0] & np.uint8(15)) | (pairs[:, 1] << np.uint8(4))


def unpack_nibbles(packed: Bytes, d: int) -> Codes:
    """The d codes that `pack_nibbles` wrote."""
    both = np.empty((packed.size, 2), np.int8)
    both[:, 0] = (packed << 4).view(np.int8) >> 4
    both[:, 1] = packed.view(np.int8) >> 4
    return both.reshape(-1)[:d]


def pack_trits(codes: Codes) -> Bytes:
    """Codes -1, 0 and 1, five a byte."""
    return ((_padded(codes, TRITS_A_BYTE) + 1).view(np.uint8) * _POWERS).sum(axis=1, dtype=np.uint8)


def unpack_trits(packed: Bytes, d: int) -> Codes:
    """The d codes that `pack_trits` wrote. Raises ValueError for a byte above 242: it stands for no five codes."""
    if packed.size and int(packed.max()) >= len(_TRITS):
        raise ValueError(f"expected bytes below {len(_TRITS)}, five ternary codes each; got {packed.max()}")
    return _TRITS[packed].reshape(-1)[:d]


def _padded(codes: Codes, group: int) -> npt.NDArray[Any]:
    missing = -codes.size % group
    whole = np.concatenate([codes, np.zeros(missing, np.int8)]) if missing else codes
    return whole.reshape(-1, group)
