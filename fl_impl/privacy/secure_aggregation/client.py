"""A client of a secure sum: five messages come, five go, each once; after an error it says nothing more."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_impl.privacy.fixed_point import to_ring
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness, discrete_gaussian
from fl_impl.privacy.secure_aggregation.channel import agree, mailbox_key, number_bytes, seal, sign, unseal, verified
from fl_impl.privacy.secure_aggregation.frames import (
    SecureAggregationError,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)
from fl_impl.privacy.secure_aggregation.graph import neighbours
from fl_impl.privacy.secure_aggregation.masks import add_mask, pair_mask_key, self_mask_key
from fl_impl.privacy.secure_aggregation.shamir import split
from fl_impl.privacy.secure_aggregation.terms import Terms

STAGES: Final = ("advertise", "share", "mask", "agree", "reveal", "nothing more")


class Client:
    """One client in one session, which knows the identities of the server and of all clients beforehand.

    Bonawitz et al. 2017 (ePrint 2017/281), Figure 4, with its signatures and its consistency check, on the neighbour
    graph of Bell et al. 2020 (ePrint 2020/704). What the server learns is the sum of at least `terms.minimum` updates,
    also if it lies and up to `terms.corrupt` clients side with it. Every method raises SecureAggregationError for a
    message that is not what it should be.
    """

    def __init__(
        self, number: int, identity: Ed25519PrivateKey, server: Ed25519PublicKey, clients: Mapping[int, Ed25519PublicKey],
        *, randomness: Randomness = OPERATING_SYSTEM,
    ) -> None:  # fmt: skip
        self.number = number
        self._identity, self._server, self._clients, self._randomness = identity, server, clients, randomness
        self._stage = STAGES[0]
        self._channel, self._masking = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._self_seed = secrets.token_bytes(32)
        self._server_channel = b""
        self._peers: dict[int, tuple[bytes, bytes]] = {}  # the channel and mask keys of each neighbour
        self._held: dict[int, tuple[bytes, bytes]] = {}  # its shares of the self seed and of the mask key of each
        self._sharers: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()

    def advertise(self, opening: bytes) -> bytes:
        """Signed public keys, and a commitment to the seed of the self mask, for the session that the server opens."""
        with self._turn("advertise"):
            body, self._server_channel = unpack(verified(self._server, "opening", opening), 2)
            self.terms = Terms.from_bytes(body)
            if self.terms.clients != len(self._clients):
                raise SecureAggregationError(
                    f"the terms are for {self.terms.clients} clients, and {len(self._clients)} are known"
                )
            commitment = hashlib.sha256(self._self_seed).digest()
            keys = (self._channel.public_key().public_bytes_raw(), self._masking.public_key().public_bytes_raw())
            body = pack(self.terms.session, number_bytes(self.number), *keys, commitment)
            return sign(self._identity, "advertisement", body)

    def share(self, roster: bytes) -> bytes:
        """Shares of both secrets for each neighbour, which only that neighbour can read."""
        with self._turn("share"):
            present, *advertisements = unpack(self._opened("roster", roster))
            numbers = unpack_numbers(present)
            self._check_present(numbers, self._clients.keys())
            near = neighbours(self.number, numbers, self.terms.degree, self.terms.session)
            if len(advertisements) != len(near):
                raise SecureAggregationError(f"expected the keys of {len(near)} neighbours, got {len(advertisements)}")
            self._peers = dict(map(self._peer, near, advertisements))
            return self._sealed("shares", pack(*self._boxes()))

    def mask(self, inbox: bytes, update: Any) -> bytes:
        """The (length,) update in fixed point, with its noise, under the self mask and one mask a neighbour.

        Raises ValueError where an entry of the update is not finite or is beyond the bound of the terms.
        """
        with self._turn("mask"):
            present, senders, *boxes = unpack(self._opened("inbox", inbox))
            self._sharers = frozenset(unpack_numbers(present))
            self._check_present(self._sharers, self._clients.keys())
            self._keep(unpack_numbers(senders), boxes)
            words = self._encoded(update)
            session = self.terms.session
            add_mask(words, self_mask_key(self._self_seed, session, self.number))
            for other in self._held.keys() - {self.number}:
                key = pair_mask_key(self._masking, self._peers[other][1], session, self.number, other)
                add_mask(words, key, subtract=self.number > other)
            return self._sealed("masked", words.astype("<u4", copy=False).tobytes())

    def agree(self, survivors: bytes) -> bytes:
        """A signature of the list of clients whose update arrived: the one list under which this client will reveal."""
        with self._turn("agree"):
            lists = unpack(self._opened("survivors", survivors), 2)
            alive, dropped = frozenset(unpack_numbers(lists[0])), frozenset(unpack_numbers(lists[1]))
            if alive & dropped:
                raise SecureAggregationError(f"clients {sorted(alive & dropped)} are said to be both alive and dropped")
            if alive | dropped != self._sharers:
                raise SecureAggregationError("the survivors and the dropped are not together those who shared keys")
            self._check_present(alive, self._sharers)
            self._survivors = alive
            return sign(self._identity, "agreement", survivors_digest(self.terms, alive))

    def reveal(self, quorum: bytes) -> bytes:
        """For each neighbour its share of one secret: of the self mask if it survived, of the pair masks if it dropped.

        Only when `terms.minimum` clients have signed the same list of survivors, and once.
        """
        with self._turn("reveal"):
            present, *agreements = unpack(self._opened("quorum", quorum))
            signers = unpack_numbers(present)
            self._check_present({*signers, self.number}, self._survivors)
            expected = survivors_digest(self.terms, self._survivors)
            if len(agreements) != len(signers) or len(signers) < self.terms.minimum:
                raise SecureAggregationError(f"expected {self.terms.minimum} agreements, got {len(agreements)}")
            for signer, agreement in zip(signers, agreements, strict=True):
                if verified(self._clients[signer], "agreement", agreement) != expected:
                    raise SecureAggregationError(f"client {signer} was told of other survivors: the server is lying")
            held = sorted(self._held)
            shares = (self._held[other][other not in self._survivors] for other in held)
            return self._sealed("reveal", pack(pack_numbers(held), *shares))

    @contextmanager
    def _turn(self, stage: str) -> Generator[None]:
        if stage != self._stage:
            raise SecureAggregationError(f"client {self.number} was asked to {stage}; it is to {self._stage} next")
        self._stage = STAGES[-1]  # where an error leaves it
        yield
        self._stage = STAGES[STAGES.index(stage) + 1]

    def _opened(self, kind: str, message: bytes) -> bytes:
        return unseal(self._mailbox(kind), message, f"the {kind} message to client {self.number}")

    def _sealed(self, kind: str, body: bytes) -> bytes:
        return seal(self._mailbox(kind), body)

    def _mailbox(self, kind: str) -> bytes:
        return mailbox_key(self._channel, self._server_channel, self.terms.session, kind, self.number)

    def _check_present(self, numbers: Collection[int], among: Collection[int]) -> None:
        if self.number not in numbers or not set(numbers) <= set(among):
            raise SecureAggregationError(f"a list of clients lacks client {self.number}, or has one that cannot be there")
        if len(numbers) < self.terms.minimum:
            raise SecureAggregationError(f"{len(numbers)} clients remain, and {self.terms.minimum} must")

    def _peer(self, number: int, advertisement: bytes) -> tuple[int, tuple[bytes, bytes]]:
        body = verified(self._clients[number], "advertisement", advertisement)
        session, sender, channel, masking, _ = unpack(body, 5)
        if session != self.terms.session or sender != number_bytes(number):
            raise SecureAggregationError(f"the keys of client {number} are of another session or another client")
        return number, (channel, masking)

    def _boxes(self) -> Iterator[bytes]:
        holders = sorted({self.number, *self._peers})
        points = [holder + 1 for holder in holders]
        seeds = split(self._self_seed, points, self.terms.threshold)
        keys = split(self._masking.private_bytes_raw(), points, self.terms.threshold)
        self._held = {self.number: (seeds[self.number + 1], keys[self.number + 1])}
        for other in sorted(self._peers):
            yield seal(self._box_key(self.number, other), pack(seeds[other + 1], keys[other + 1]))

    def _keep(self, senders: tuple[int, ...], boxes: list[bytes]) -> None:
        """Take the shares of the neighbours that shared; their absence would hide a client from its own recovery."""
        if set(senders) != self._peers.keys() & self._sharers or len(boxes) != len(senders):
            raise SecureAggregationError("the boxes are not those of the neighbours that shared keys")
        if len(senders) + 1 < self.terms.threshold:
            raise SecureAggregationError(f"{len(senders)} neighbours remain; {self.terms.threshold} shares must be found")
        for other, box in zip(senders, boxes, strict=True):
            body = unseal(self._box_key(other, self.number), box, f"the box from client {other} to client {self.number}")
            seed, key = unpack(body, 2)
            self._held[other] = (seed, key)

    def _box_key(self, sender: int, receiver: int) -> bytes:
        other = receiver if sender == self.number else sender
        context = (self.terms.session, b"box", number_bytes(sender), number_bytes(receiver))
        return agree(self._channel, self._peers[other][0], *context)

    def _encoded(self, update: Any) -> npt.NDArray[np.uint32]:
        encoding = self.terms.encoding
        integers = encoding.encode(update)
        if integers.shape != (self.terms.length,):
            raise ValueError(f"the terms are for updates of length {self.terms.length}; got shape {integers.shape}")
        if self.terms.noise_std:
            sigma = self.terms.client_noise_std / encoding.step
            integers += discrete_gaussian(self._randomness, integers.shape, sigma)
        return to_ring(integers)


def survivors_digest(terms: Terms, survivors: frozenset[int]) -> bytes:
    """What clients sign: the session and who survived."""
    return hashlib.sha256(pack(terms.session, pack_numbers(sorted(survivors)))).digest()
