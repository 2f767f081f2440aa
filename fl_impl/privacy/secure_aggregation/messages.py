"""What clients and server send that is more than a list: keys, and a box with the commitment that it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fl_impl.privacy.secure_aggregation.channel import number_bytes, verified
from fl_impl.privacy.secure_aggregation.dealing import POINT_BYTES, Dealing, Leaf, belongs
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError, pack, pack_numbers, unpack
from fl_impl.privacy.secure_aggregation.terms import Terms


@dataclass(frozen=True)
class Advertisement:
    """A client's public keys, its contribution to the draw of its holders, and the signed message that they came in."""

    channel: bytes
    """X25519."""
    masking: bytes
    """A point of edwards25519."""
    contribution: bytes
    message: bytes


@dataclass(frozen=True)
class Delivery:
    """A box for a holder, and the dealing that it is of."""

    dealing: Dealing
    leaf: Leaf


def read_advertisement(terms: Terms, identity: Ed25519PublicKey, number: int, message: bytes) -> Advertisement:
    """A client's advertisement. Raises SecureAggregationError where it is not its own, or of another session."""
    session, sender, channel, masking, contribution = unpack(verified(identity, "advertisement", message), 5)
    if session != terms.session or sender != number_bytes(number):
        raise SecureAggregationError(f"the keys of client {number} are of another session or another client")
    if len(channel) != POINT_BYTES or len(masking) != POINT_BYTES or len(contribution) != 16:
        raise SecureAggregationError(f"the keys of client {number} are not well formed")
    return Advertisement(channel, masking, contribution, message)


def delivery(signed: bytes, leaf: Leaf, place: int, count: int, hashes: bytes) -> bytes:
    """One holder's part of a signed dealing: the leaf, its place among the `count`, and its path to the root."""
    return pack(signed, leaf.box, *leaf.commitments, number_bytes(place), number_bytes(count), hashes)


def read_delivery(terms: Terms, identities: Mapping[int, Ed25519PublicKey], message: bytes, holder: int) -> Delivery:
    """What `delivery` wrote. Raises SecureAggregationError where the dealer did not sign it."""
    signed, box, seed, key, place, count, hashes = unpack(message, 7)
    claimed = Dealing.from_bytes(unpack(signed, 2)[0], terms.threshold)
    if claimed.dealer not in identities or claimed.session != terms.session:
        raise SecureAggregationError("a dealing is of another session, or of nobody who is known")
    verified(identities[claimed.dealer], "dealing", signed)
    leaf = Leaf(holder, box, (seed, key))
    where = int.from_bytes(place, "little"), int.from_bytes(count, "little")
    if not 0 <= where[0] < where[1] <= terms.clients or not belongs(leaf, *where, hashes, claimed.root):
        raise SecureAggregationError(f"the box from client {claimed.dealer} to client {holder} is not the one that it signed")
    return Delivery(claimed, leaf)


def view_digest(terms: Terms, coin: bytes, sharers: Collection[int], survivors: Collection[int]) -> bytes:
    """What clients sign: all that must be the same for all of them."""
    lists = pack_numbers(sorted(sharers)), pack_numbers(sorted(survivors))
    return hashlib.sha256(pack(terms.to_bytes(), coin, *lists)).digest()


def complaint_body(terms: Terms, holder: int, dealer: int) -> bytes:
    """What a holder signs that cannot use the shares of a dealer."""
    return pack(terms.session, number_bytes(holder), number_bytes(dealer))
