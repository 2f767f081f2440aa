"""The server of a secure sum: it passes sealed messages on, and learns the sum of those who stayed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_impl.privacy.fixed_point import from_ring
from fl_impl.privacy.secure_aggregation.channel import mailbox_key, number_bytes, seal, sign, unseal, verified
from fl_impl.privacy.secure_aggregation.client import survivors_digest
from fl_impl.privacy.secure_aggregation.frames import (
    SecureAggregationError,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)
from fl_impl.privacy.secure_aggregation.graph import neighbours
from fl_impl.privacy.secure_aggregation.masks import add_mask, pair_mask_key, self_mask_key
from fl_impl.privacy.secure_aggregation.shamir import SHARE_BYTES, combine
from fl_impl.privacy.secure_aggregation.terms import Terms

Messages = Mapping[int, bytes]
"""What came from each client, or goes to each."""
T = TypeVar("T")
STAGES: Final = ("open", "roster", "inboxes", "survivors", "quorum", "total", "nothing more")


@dataclass(frozen=True, eq=False)
class SecureSum:
    """The sum, and of whom."""

    total: npt.NDArray[np.float64]
    survivors: tuple[int, ...]
    refused: Mapping[int, str]
    """Clients whose message was not authentic, with the reason; they count as dropped."""
    bytes_up: int = 0
    """Of all messages that clients sent, where the session counted them."""


@dataclass(frozen=True)
class Advertisement:
    """A client's public keys, its commitment, and the signed message that they came in."""

    channel: bytes
    masking: bytes
    commitment: bytes
    message: bytes


class Server:
    """The server of one session. Each method takes the messages that arrived and gives those to be sent, once, in order.

    A message that is not authentic or not well formed counts its sender as dropped (`refused` says why). Methods raise
    SecureAggregationError where fewer than `terms.minimum` clients remain: nothing is summed then.
    """

    def __init__(self, terms: Terms, identity: Ed25519PrivateKey, clients: Mapping[int, Ed25519PublicKey]) -> None:
        self.terms = terms.checked()
        self.refused: dict[int, str] = {}
        self._identity, self._clients = identity, clients
        self._stage = STAGES[0]
        self._channel = X25519PrivateKey.generate()
        self._keys: dict[int, Advertisement] = {}
        self._near: dict[int, tuple[int, ...]] = {}
        self._sharers: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()
        self._sum = np.zeros(terms.length, np.uint32)

    def open(self) -> bytes:
        """The signed terms and the server's key of the session, the same to all clients."""
        self._turn("open")
        return sign(self._identity, "opening", pack(self.terms.to_bytes(), self._channel.public_key().public_bytes_raw()))

    def roster(self, advertisements: Messages) -> dict[int, bytes]:
        """To each client: who is present, and the keys of its neighbours."""
        self._turn("roster")
        self._keys = self._accepted(advertisements, self._clients, self._advertisement)
        numbers = sorted(self._keys)
        self._near = {i: neighbours(i, numbers, self.terms.degree, self.terms.session) for i in numbers}
        present = pack_numbers(numbers)
        return {i: self._sealed("roster", i, pack(present, *(self._keys[j].message for j in self._near[i]))) for i in numbers}

    def inboxes(self, shares: Messages) -> dict[int, bytes]:
        """To each client: who shared, and the boxes that its neighbours sent it."""
        self._turn("inboxes")
        boxes = self._accepted(shares, self._keys, self._boxes)
        self._sharers = frozenset(boxes)
        present = pack_numbers(sorted(self._sharers))
        senders = {i: [j for j in self._near[i] if j in self._sharers] for i in self._sharers}
        return {
            i: self._sealed("inbox", i, pack(present, pack_numbers(senders[i]), *(boxes[j][i] for j in senders[i])))
            for i in self._sharers
        }

    def survivors(self, masked: Messages) -> dict[int, bytes]:
        """To each client whose masked update came: who did, and who did not."""
        self._turn("survivors")
        self._survivors = frozenset(self._accepted(masked, self._sharers, self._add))
        lists = pack(pack_numbers(sorted(self._survivors)), pack_numbers(sorted(self._sharers - self._survivors)))
        return {i: self._sealed("survivors", i, lists) for i in self._survivors}

    def quorum(self, agreements: Messages) -> dict[int, bytes]:
        """To each client that agreed: the signatures of all that did."""
        self._turn("quorum")
        agreed = self._accepted(agreements, self._survivors, self._agreement)
        body = pack(pack_numbers(sorted(agreed)), *(agreed[i] for i in sorted(agreed)))
        return {i: self._sealed("quorum", i, body) for i in agreed}

    def total(self, reveals: Messages) -> SecureSum:
        """The sum of the survivors' updates: their self masks removed, and the pair masks with those who dropped.

        Raises SecureAggregationError where the shares do not open a secret that was committed to.
        """
        self._turn("total")
        shares = self._accepted(reveals, self._survivors, self._shares)
        session, total = self.terms.session, self._sum
        for i in sorted(self._survivors):
            seed = self._recovered(i, shares)
            if hashlib.sha256(seed).digest() != self._keys[i].commitment:
                raise self._false_shares(i)
            add_mask(total, self_mask_key(seed, session, i), subtract=True)
        for i in sorted(self._sharers - self._survivors):
            private = X25519PrivateKey.from_private_bytes(self._recovered(i, shares))
            if private.public_key().public_bytes_raw() != self._keys[i].masking:
                raise self._false_shares(i)
            for j in self._survivors.intersection(self._near[i]):
                add_mask(total, pair_mask_key(private, self._keys[j].masking, session, i, j), subtract=j < i)
        return SecureSum(self.terms.encoding.decode(from_ring(total)), tuple(sorted(self._survivors)), dict(self.refused))

    def _turn(self, stage: str) -> None:
        if stage != self._stage:
            raise SecureAggregationError(f"the server was asked to {stage}; its next step is {self._stage}")
        self._stage = STAGES[STAGES.index(stage) + 1]

    def _accepted(self, messages: Messages, among: Iterable[int], read: Callable[[int, bytes], T]) -> dict[int, T]:
        """What each message says, of those that are authentic and from clients who may speak; enough of them."""
        accepted, allowed = dict[int, T](), set(among)
        for number, message in messages.items():
            if number not in allowed:
                self.refused[number] = "it has dropped out, or is not of this session"
                continue
            try:
                accepted[number] = read(number, message)
            except SecureAggregationError as error:
                self.refused[number] = str(error)
        if len(accepted) < self.terms.minimum:
            reasons = "".join(f"; client {number}: {reason}" for number, reason in self.refused.items())
            raise SecureAggregationError(
                f"{len(accepted)} clients remain of {self.terms.clients}, and {self.terms.minimum} must{reasons}"
            )
        return accepted

    def _sealed(self, kind: str, number: int, body: bytes) -> bytes:
        return seal(self._mailbox(kind, number), body)

    def _opened(self, kind: str, number: int, message: bytes) -> bytes:
        return unseal(self._mailbox(kind, number), message, f"the {kind} message of client {number}")

    def _mailbox(self, kind: str, number: int) -> bytes:
        return mailbox_key(self._channel, self._keys[number].channel, self.terms.session, kind, number)

    def _advertisement(self, number: int, message: bytes) -> Advertisement:
        body = verified(self._clients[number], "advertisement", message)
        session, sender, channel, masking, commitment = unpack(body, 5)
        if session != self.terms.session or sender != number_bytes(number):
            raise SecureAggregationError(f"the keys of client {number} are of another session or another client")
        return Advertisement(channel, masking, commitment, message)

    def _boxes(self, number: int, message: bytes) -> dict[int, bytes]:
        boxes = unpack(self._opened("shares", number, message), len(self._near[number]))
        return dict(zip(self._near[number], boxes, strict=True))

    def _add(self, number: int, message: bytes) -> None:
        words = self._opened("masked", number, message)
        if len(words) != 4 * self.terms.length:
            raise SecureAggregationError(f"client {number} sent {len(words)} bytes for {self.terms.length} words")
        self._sum += np.frombuffer(words, "<u4")

    def _agreement(self, number: int, message: bytes) -> bytes:
        if verified(self._clients[number], "agreement", message) != survivors_digest(self.terms, self._survivors):
            raise SecureAggregationError(f"client {number} signed another list of survivors")
        return message

    def _shares(self, number: int, message: bytes) -> dict[int, bytes]:
        present, *shares = unpack(self._opened("reveal", number, message))
        owners = unpack_numbers(present)
        if len(owners) != len(shares) or any(len(share) != SHARE_BYTES for share in shares):
            raise SecureAggregationError(f"the shares of client {number} are not well formed")
        return dict(zip(owners, shares, strict=True))

    def _recovered(self, owner: int, shares: Mapping[int, Mapping[int, bytes]]) -> bytes:
        holders = [i for i in sorted({owner, *self._near[owner]}) if owner in shares.get(i, {})]
        if len(holders) < self.terms.threshold:
            raise SecureAggregationError(
                f"{len(holders)} shares of a secret of client {owner} came back, and {self.terms.threshold} are needed"
            )
        secret = combine({i + 1: shares[i][owner] for i in holders[: self.terms.threshold]})
        if secret is None:
            raise self._false_shares(owner)
        return secret

    def _false_shares(self, owner: int) -> SecureAggregationError:
        return SecureAggregationError(
            f"the shares of client {owner} do not give what it committed to: a neighbour, or itself, gave a false one"
        )
