"""One secret scalar of edwards25519, as a key that agrees with others and as one whose knowledge is proven.

A masking key is a public point A = a B. Others agree with it by X25519 on the Montgomery form of A; its owner proves that what
it shared among its holders is a by an ordinary Ed25519 signature, which is Schnorr's proof of knowing a.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of the group that B generates: a prime."""
SCALAR_BYTES: Final = 32
_FIELD: Final = 2**255 - 19
_SIGN: Final = 0x80


def scalar_of(key: Ed25519PrivateKey) -> int:
    """The clamped secret scalar of an Ed25519 key: RFC 8032, section 5.1.5."""
    digest = bytearray(hashlib.sha512(key.private_bytes_raw()).digest()[:32])
    digest[0] &= 0xF8
    digest[31] = (digest[31] & 0x7F) | 0x40
    return int.from_bytes(digest, "little")


def agreeing(key: Ed25519PrivateKey) -> X25519PrivateKey:
    """The same scalar as a key that agrees."""
    return X25519PrivateKey.from_private_bytes(scalar_of(key).to_bytes(SCALAR_BYTES, "little"))


@lru_cache(maxsize=2**16)
def montgomery(point: bytes) -> bytes:
    """The u-coordinate of an Edwards point of 32 bytes, u = (1 + y) / (1 - y): RFC 7748, section 4.1."""
    y = int.from_bytes(point, "little") % 2**255
    return ((1 + y) * pow(1 - y, -1, _FIELD) % _FIELD if (y - 1) % _FIELD else 0).to_bytes(SCALAR_BYTES, "little")


def nonce() -> tuple[int, bytes]:
    """A scalar that is uniform below the order up to 2^-120, and its point.

    A clamped scalar runs over half of all multiples of 8 below 8 * order; its negative over the other half.
    """
    key = Ed25519PrivateKey.generate()
    scalar, point = scalar_of(key), bytearray(key.public_key().public_bytes_raw())
    if secrets.randbits(1):
        scalar, point[31] = -scalar, point[31] ^ _SIGN  # the negative of a point differs in the sign of x
    return scalar % ORDER, bytes(point)


def challenge(nonce_point: bytes, public: bytes, message: bytes) -> int:
    """Ed25519's challenge, SHA-512(R || A || M) modulo the order: a response is nonce + challenge * secret."""
    return int.from_bytes(hashlib.sha512(nonce_point + public + message).digest(), "little") % ORDER


def proven(public: bytes, nonce_point: bytes, response: int, message: bytes) -> bool:
    """Whether response * B = R + challenge * A, that is, whether (R, response) is A's Ed25519 signature of the message."""
    signature = nonce_point + response.to_bytes(SCALAR_BYTES, "little")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def exchange(scalar: int, public: bytes) -> bytes:
    """The u-coordinate of scalar * P, for any scalar modulo the order and the u-coordinate of P.

    X25519 takes scalars of one form alone: a multiple of 8 between 2^254 and 2^255. Of a scalar and its negative, which
    give the same, one has such a form but for a few that only somebody who wants trouble would choose. Raises ValueError
    where the result is 0.
    """
    for candidate in (scalar, -scalar):
        lifted = candidate % ORDER
        lifted += ORDER * (-lifted * pow(ORDER, -1, 8) % 8)
        if 2**254 <= lifted < 2**255:
            private = X25519PrivateKey.from_private_bytes(lifted.to_bytes(SCALAR_BYTES, "little"))
            return private.exchange(X25519PublicKey.from_public_bytes(public))
    return _ladder(scalar % ORDER * 8 * pow(8, -1, ORDER) % (8 * ORDER), public)


def _ladder(scalar: int, public: bytes) -> bytes:
    """Montgomery's ladder: RFC 7748, section 5. Not in constant time: for a secret that the server has recovered."""
    u, p = int.from_bytes(public, "little") % 2**255, _FIELD
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in map(int, f"{scalar:0255b}"):
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        total, less, other, rest = x2 + z2, x2 - z2, (x3 + z3) * (x2 - z2), (x3 - z3) * (x2 + z2)
        x3, z3 = (other + rest) ** 2 % p, u * (other - rest) ** 2 % p
        squared, smaller = total * total % p, less * less % p
        x2, z2 = squared * smaller % p, (squared - smaller) * (squared + 121665 * (squared - smaller)) % p
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
    if z2 == 0:
        raise ValueError("the product is the neutral element")
    return (x2 * pow(z2, -1, p) % p).to_bytes(SCALAR_BYTES, "little")
