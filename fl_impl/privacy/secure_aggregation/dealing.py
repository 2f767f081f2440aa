"""How a client deals its two secrets to its holders, so that each holder, and the server, can tell a false share.

The secrets are the seed of the self mask and the scalar of the masking key. Each is shared on a polynomial f beside a random
polynomial h of the same degree. A Merkle tree commits to every holder's values and to the box in which they travel; then the
line h + r f is published, with r a hash of that commitment. Every share that fits the line is on a polynomial of that degree,
except with probability 2^-252, and h hides f. At 0 the line of the masking key is an Ed25519 signature, so the server knows
that what was shared is the key that was advertised. Pedersen 1991 and Feldman 1987 commit to each coefficient instead: a
holder would pay an exponentiation for each, here it pays a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_impl.privacy.secure_aggregation.channel import PROTOCOL, agree, derive, number_bytes, seal, unseal
from fl_impl.privacy.secure_aggregation.curve import ORDER, SCALAR_BYTES, challenge, nonce, proven, scalar_of
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError, pack, unpack
from fl_impl.privacy.secure_aggregation.shamir import polynomial, value

POINT_BYTES: Final = 32
PAIR_BYTES: Final = 2 * SCALAR_BYTES
"""A share of one secret: the values of f and of h."""
BOX_BYTES: Final = POINT_BYTES + 2 * PAIR_BYTES + 16
"""An ephemeral key, a share of each secret, and the tag."""
SECRETS: Final = ("seed", "key")

Pair = tuple[int, int]


@dataclass(frozen=True)
class Leaf:
    """What the dealer commits to for one holder."""

    holder: int
    box: bytes
    """The holder's shares, which only it can read; empty for the dealer itself."""
    commitments: tuple[bytes, bytes]
    """Hashes of its share of the seed and of the key."""

    @property
    def digest(self) -> bytes:
        """Of all of it."""
        return _hash(b"leaf", number_bytes(self.holder), _hash(b"box", self.box), *self.commitments)

    def is_well_formed(self, dealer: int) -> bool:
        """Whether box and commitments have the lengths that they must have."""
        expected = 0 if self.holder == dealer else BOX_BYTES
        return len(self.box) == expected and all(len(each) == POINT_BYTES for each in self.commitments)


@dataclass(frozen=True)
class Dealing:
    """The public part of a dealing: the root of the tree and the two lines."""

    session: bytes
    dealer: int
    root: bytes
    nonce: bytes
    seed_line: tuple[int, ...]
    key_line: tuple[int, ...]

    @property
    def statement(self) -> bytes:
        """What the proof of the key signs."""
        return pack(PROTOCOL, b"dealing", self.session, number_bytes(self.dealer), self.root)

    def proves(self, masking: bytes) -> bool:
        """Whether the shared key is that of the masking key."""
        return proven(masking, self.nonce, self.key_line[0], self.statement)

    def fits(self, masking: bytes, holder: int, pair: Pair, which: str, commitment: bytes) -> str:
        """Why a share is none of this dealing; empty where it is one."""
        if committed(pair) != commitment:
            return "commitment"
        line = self.seed_line if which == "seed" else self.key_line
        r = challenge(self.nonce, masking, self.statement)
        return "" if (pair[1] + r * pair[0]) % ORDER == value(line, holder + 1) else "line"

    def to_bytes(self) -> bytes:
        """All fields."""
        lines = (b"".join(map(_scalar, line)) for line in (self.seed_line, self.key_line))
        return pack(self.session, number_bytes(self.dealer), self.root, self.nonce, *lines)

    @classmethod
    def from_bytes(cls, data: bytes, threshold: int) -> Dealing:
        """What `to_bytes` wrote. Raises SecureAggregationError for lines that are not of `threshold` coefficients."""
        session, dealer, root, nonce_point, *lines = unpack(data, 6)
        if len(dealer) != 4 or len(root) != POINT_BYTES or len(nonce_point) != POINT_BYTES:
            raise SecureAggregationError("a dealing is not well formed")
        if any(len(line) != threshold * SCALAR_BYTES for line in lines):
            raise SecureAggregationError(f"the lines of a dealing have not {threshold} coefficients")
        seed_line, key_line = (tuple(read_scalars(line)) for line in lines)
        return cls(session, int.from_bytes(dealer, "little"), root, nonce_point, seed_line, key_line)


@dataclass(frozen=True)
class Dealt:
    """A dealing with what only the dealer knows of it."""

    dealing: Dealing
    leaves: tuple[Leaf, ...]
    own: tuple[Pair, Pair]
    """The dealer's own shares of the seed and of the key."""


def deal(
    session: bytes, dealer: int, seed: bytes, masking: Ed25519PrivateKey, channels: Mapping[int, bytes],
    threshold: int, box_secret: bytes,
) -> Dealt:  # fmt: skip
    """Shares of the seed and of the masking key for the dealer itself and each holder, whose channel key is given."""
    nonce_scalar, nonce_point = nonce()
    shared = polynomial(int.from_bytes(seed, "little"), threshold), polynomial(scalar_of(masking) % ORDER, threshold)
    blinding = polynomial(0, threshold + 1)[1:], polynomial(nonce_scalar, threshold)
    leaves, own = list[Leaf](), ((0, 0), (0, 0))
    for holder in sorted({dealer, *channels}):
        pairs = [(value(f, holder + 1), value(h, holder + 1)) for f, h in zip(shared, blinding, strict=True)]
        if holder == dealer:
            own, box = (pairs[0], pairs[1]), b""
        else:
            body = b"".join(_scalar(part) for pair in pairs for part in pair)
            box = _sealed_box(session, dealer, holder, channels[holder], box_key(box_secret, holder), body)
        leaves.append(Leaf(holder, box, (committed(pairs[0]), committed(pairs[1]))))
    root = _levels([leaf.digest for leaf in leaves])[-1][0]
    public = masking.public_key().public_bytes_raw()
    blank = Dealing(session, dealer, root, nonce_point, (), ())
    r = challenge(nonce_point, public, blank.statement)
    lines = [tuple((b + r * a) % ORDER for a, b in zip(f, h, strict=True)) for f, h in zip(shared, blinding, strict=True)]
    return Dealt(Dealing(session, dealer, root, nonce_point, lines[0], lines[1]), tuple(leaves), own)


def box_key(box_secret: bytes, holder: int) -> bytes:
    """The ephemeral key of the box for a holder. Who has it can check what was sent to that holder, and read no other box."""
    return derive(box_secret, b"box key", number_bytes(holder))


def opened_box(private: X25519PrivateKey, dealing: Dealing, leaf: Leaf, masking: bytes) -> tuple[Pair, Pair]:
    """The shares in a holder's box. Raises SecureAggregationError where it cannot be read, or they are not those dealt."""
    key = agree(private, leaf.box[:POINT_BYTES], *_box_context(dealing, leaf))
    return _checked(dealing, leaf, masking, unseal(key, leaf.box[POINT_BYTES:], _name(dealing, leaf)))


def reopened_box(ephemeral: bytes, channel: bytes, dealing: Dealing, leaf: Leaf, masking: bytes) -> tuple[Pair, Pair]:
    """`opened_box` by the box's ephemeral key, of which its dealer says that it is that. Raises also where it is not."""
    if len(ephemeral) != POINT_BYTES:
        raise SecureAggregationError("the key of a box is not well formed")
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    if private.public_key().public_bytes_raw() != leaf.box[:POINT_BYTES]:
        raise SecureAggregationError(f"{_name(dealing, leaf)} was not made with the key that its dealer gives")
    key = agree(private, channel, *_box_context(dealing, leaf))
    return _checked(dealing, leaf, masking, unseal(key, leaf.box[POINT_BYTES:], _name(dealing, leaf)))


def paths(leaves: Sequence[Leaf]) -> list[bytes]:
    """The path of each leaf."""
    levels = _levels([leaf.digest for leaf in leaves])[:-1]
    places = range(len(leaves))
    return [b"".join(level[(i >> k) ^ 1] for k, level in enumerate(levels) if (i >> k) ^ 1 < len(level)) for i in places]


def belongs(leaf: Leaf, place: int, count: int, hashes: bytes, root: bytes) -> bool:
    """Whether a leaf stands at that place of the `count` under the root."""
    digest, position = leaf.digest, 0
    while count > 1:
        if place ^ 1 < count:
            other, position = hashes[position : position + POINT_BYTES], position + POINT_BYTES
            digest = _hash(b"node", *((other, digest) if place & 1 else (digest, other)))
        place, count = place // 2, (count + 1) // 2
    return digest == root and position == len(hashes)


def rooted(leaves: Sequence[Leaf]) -> bytes:
    """The root of the tree over these leaves."""
    return _levels([leaf.digest for leaf in leaves])[-1][0]


def committed(pair: Pair) -> bytes:
    """The commitment to a share."""
    return _hash(b"share", *map(_scalar, pair))


def pair_bytes(pair: Pair) -> bytes:
    """A share of one secret in 64 bytes."""
    return b"".join(map(_scalar, pair))


def read_pair(data: bytes) -> Pair:
    """What `pair_bytes` wrote. Raises SecureAggregationError."""
    if len(data) != PAIR_BYTES:
        raise SecureAggregationError(f"expected a share of {PAIR_BYTES} bytes, got {len(data)}")
    first, second = read_scalars(data)
    return first, second


def read_scalars(data: bytes) -> list[int]:
    """Integers below the order, 32 bytes each. Raises SecureAggregationError for greater ones."""
    numbers = [int.from_bytes(data[at : at + SCALAR_BYTES], "little") for at in range(0, len(data), SCALAR_BYTES)]
    if len(data) % SCALAR_BYTES or any(number >= ORDER for number in numbers):
        raise SecureAggregationError("a share is no number below the order")
    return numbers


def _checked(dealing: Dealing, leaf: Leaf, masking: bytes, body: bytes) -> tuple[Pair, Pair]:
    if len(body) != 2 * PAIR_BYTES:
        raise SecureAggregationError(f"{_name(dealing, leaf)} holds {len(body)} bytes, and shares take {2 * PAIR_BYTES}")
    pairs = read_pair(body[:PAIR_BYTES]), read_pair(body[PAIR_BYTES:])
    for which, pair, commitment in zip(SECRETS, pairs, leaf.commitments, strict=True):
        if dealing.fits(masking, leaf.holder, pair, which, commitment):
            raise SecureAggregationError(f"{_name(dealing, leaf)} holds a share of the {which} that was not dealt")
    return pairs


def _sealed_box(session: bytes, dealer: int, holder: int, channel: bytes, ephemeral: bytes, body: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    key = agree(private, channel, session, b"box", number_bytes(dealer), number_bytes(holder))
    return private.public_key().public_bytes_raw() + seal(key, body)


def _box_context(dealing: Dealing, leaf: Leaf) -> tuple[bytes, ...]:
    return dealing.session, b"box", number_bytes(dealing.dealer), number_bytes(leaf.holder)


def _name(dealing: Dealing, leaf: Leaf) -> str:
    return f"the box from client {dealing.dealer} to client {leaf.holder}"


def _levels(digests: list[bytes]) -> list[list[bytes]]:
    """A Merkle tree from its leaves to its root; an odd one out goes up as it is."""
    levels = [digests]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = [_hash(b"node", below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        levels.append(pairs + below[len(pairs) * 2 :])
    return levels


def _hash(kind: bytes, *parts: bytes) -> bytes:
    return hashlib.sha256(pack(PROTOCOL, kind, *parts)).digest()


def _scalar(number: int) -> bytes:
    return number.to_bytes(SCALAR_BYTES, "little")
