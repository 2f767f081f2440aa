"""A client of a secure sum: six messages come, six go, each once; after an error it says nothing more."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_impl.privacy.fixed_point import to_ring
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness, discrete_gaussian
from fl_impl.privacy.secure_aggregation.channel import mailbox, mailbox_key, number_bytes, seal, sign, unseal, verified
from fl_impl.privacy.secure_aggregation.curve import agreeing, montgomery
from fl_impl.privacy.secure_aggregation.dealing import (
    POINT_BYTES,
    Dealt,
    Pair,
    box_key,
    deal,
    opened_box,
    pair_bytes,
    read_pair,
)
from fl_impl.privacy.secure_aggregation.frames import (
    SecureAggregationError,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)
from fl_impl.privacy.secure_aggregation.graph import holder_seed, holders
from fl_impl.privacy.secure_aggregation.masks import add_mask, pair_mask_key, self_mask_key
from fl_impl.privacy.secure_aggregation.messages import (
    Advertisement,
    Delivery,
    complaint_body,
    read_advertisement,
    read_delivery,
    view_digest,
)
from fl_impl.privacy.secure_aggregation.shamir import SECRET_BYTES
from fl_impl.privacy.secure_aggregation.terms import Least, Terms

STAGES: Final = ("advertise", "share", "confirm", "mask", "agree", "reveal", "nothing more")


class Client:
    """One client in one session, which knows the identities of the server and of all clients beforehand.

    Who may lie: the server in anything, and `terms.corrupt` clients with it, chosen before the session; all else that
    fails counts as one of `terms.dropouts`. What is then guaranteed: up to 2^-40 the server and its partners learn the sum of
    the updates of `terms.honest` or more honest clients, once, with the noise of the terms from these alone, or nothing; the
    terms are no worse than `least`. With an honest server, clients that send anything are named and the sum goes on without
    them. Not guaranteed: that a sum comes out where the server lies, nor that a client's own update is honest or in bounds.

    Bonawitz et al. 2017 (ePrint 2017/281), Figure 4, and Bell et al. 2020 (ePrint 2020/704), Algorithm 3: each client draws
    its holders itself, here from a seed to which server and client contribute. Every method raises SecureAggregationError
    for a message that is not what it should be.
    """

    def __init__(
        self, number: int, identity: Ed25519PrivateKey, server: Ed25519PublicKey, clients: Mapping[int, Ed25519PublicKey],
        *, least: Least | None = None, seen: set[bytes] | None = None, randomness: Randomness = OPERATING_SYSTEM,
    ) -> None:  # fmt: skip
        """`seen` holds the sessions that this identity took part in: no other may be a second time, and this one is added.

        What clients signed in an earlier session could be passed off for what they sign in one of the same name.
        """
        self.number = number
        self.least = Least() if least is None else least
        self._identity, self._server, self._clients, self._randomness = identity, server, clients, randomness
        self._seen = set[bytes]() if seen is None else seen
        self._stage = STAGES[0]
        self._channel, self._masking = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self._agreeing = agreeing(self._masking)
        self._self_seed, self._contribution = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(16)
        self._box_secret = secrets.token_bytes(32)
        self._coin_commitment = self._coin = self._mailbox = b""
        self._peers: dict[int, Advertisement] = {}  # those who hold shares of this client, or of whom it is to hold them
        self._holders: frozenset[int] = frozenset()
        self._dealt: Dealt | None = None
        self._held: dict[int, tuple[Pair, Pair]] = {}  # its shares of the self seed and of the mask key of each dealer
        self._sharers: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()

    def advertise(self, opening: bytes) -> bytes:
        """Signed public keys, and what this client contributes to the draw of its holders, for the session that opens."""
        with self._turn("advertise"):
            body, channel, self._coin_commitment = unpack(verified(self._server, "opening", opening), 3)
            self.terms = Terms.from_bytes(body)
            if self.terms.clients != len(self._clients):
                raise SecureAggregationError(
                    f"the terms are for {self.terms.clients} clients, and {len(self._clients)} are known"
                )
            if self.terms.session in self._seen:
                raise SecureAggregationError("this client has taken part in this session before: the server is replaying it")
            self.least.check(self.terms)
            self._seen.add(self.terms.session)
            self._mailbox = mailbox(self._channel, channel, self.terms.session, self.number)
            keys = self._channel.public_key().public_bytes_raw(), self._masking.public_key().public_bytes_raw()
            body = pack(self.terms.session, number_bytes(self.number), *keys, self._contribution)
            return sign(self._identity, "advertisement", body)

    def share(self, roster: bytes) -> bytes:
        """Shares of both secrets for each holder, which only that holder can read, with a commitment to them."""
        with self._turn("share"):
            self._coin, present, near, *advertisements = unpack(self._opened("roster", roster), least=3)
            if hashlib.sha256(self._coin).digest() != self._coin_commitment:
                raise SecureAggregationError("the server's coin is not the one that it committed to")
            numbers = unpack_numbers(present)
            self._check_present(numbers, self._clients.keys())
            self._meet(unpack_numbers(near), advertisements, frozenset(numbers))
            channels = {other: self._peers[other].channel for other in self._holders}
            self._dealt = deal(
                self.terms.session, self.number, self._self_seed, self._masking, channels, self.terms.threshold,
                self._box_secret,
            )  # fmt: skip
            self._held = {self.number: self._dealt.own}
            signed = sign(self._identity, "dealing", self._dealt.dealing.to_bytes())
            leaves = (field for leaf in self._dealt.leaves for field in (leaf.box, *leaf.commitments))
            return self._sealed("shares", pack(signed, *leaves))

    def confirm(self, inbox: bytes) -> bytes:
        """Signed complaints of dealers whose shares cannot be read, or are not what they committed to: usually none."""
        with self._turn("confirm"):
            complaints = list[bytes]()
            for message in unpack(self._opened("inbox", inbox)):
                delivery = self._received(message)
                dealer = delivery.dealing.dealer
                try:
                    masking = self._peers[dealer].masking
                    self._held[dealer] = opened_box(self._channel, delivery.dealing, delivery.leaf, masking)
                except SecureAggregationError:
                    complaints.append(sign(self._identity, "complaint", complaint_body(self.terms, self.number, dealer)))
            return self._sealed("confirmation", pack(*complaints))

    def mask(self, outbox: bytes, update: Any, about: bytes = b"") -> bytes:
        """The (length,) update in fixed point, with its noise, under the self mask and one mask for each client near.

        `about` is a digest of what the update was made from, such as the model: the masks of clients that were told other
        things do not cancel, so that no server learns the update of one by giving the others a model on which theirs
        are 0 (Pasquini et al. 2022, arXiv 2111.07380).
        Also the keys of the boxes of which their holders complained: what was in them is known to the server then, as it
        is to the holder. Raises ValueError where an entry of the update is not finite or is beyond the bound of the terms.
        """
        with self._turn("mask"):
            present, *complaints = unpack(self._opened("sharers", outbox), least=1)
            self._sharers = frozenset(unpack_numbers(present))
            self._check_present(self._sharers, self._clients.keys())
            if len(self._holders & self._sharers) + 1 < self.terms.threshold:
                raise SecureAggregationError(
                    f"{len(self._holders & self._sharers)} holders remain; {self.terms.threshold} shares must be found"
                )
            keys = pack(*(self._box_key(complaint) for complaint in complaints))
            words = self._encoded(update)
            session = self.terms.session
            add_mask(words, self_mask_key(self._self_seed, session, self.number))
            for other in self._peers.keys() & self._sharers:
                point = montgomery(self._peers[other].masking)
                key = pair_mask_key(self._agreeing, point, session, self.number, other, about)
                add_mask(words, key, subtract=self.number > other)
            return self._sealed("masked", pack(keys, words.astype("<u4", copy=False).tobytes()))

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
            return sign(self._identity, "agreement", self._digest())

    def reveal(self, quorum: bytes) -> bytes:
        """For each dealer its share of one secret: of the self mask if it survived, of the pair masks if it dropped.

        Only when `terms.minimum` clients have signed the same list of survivors, and once.
        """
        with self._turn("reveal"):
            present, *agreements = unpack(self._opened("quorum", quorum), least=1)
            signers = unpack_numbers(present)
            self._check_present(signers, self._survivors)
            expected = self._digest()
            if len(agreements) != len(signers):
                raise SecureAggregationError(f"expected {len(signers)} agreements, got {len(agreements)}")
            for signer, agreement in zip(signers, agreements, strict=True):
                if verified(self._clients[signer], "agreement", agreement) != expected:
                    raise SecureAggregationError(f"client {signer} was told of other survivors: the server is lying")
            dealers = sorted(self._held.keys() & self._sharers)
            shares = (pair_bytes(self._held[dealer][dealer not in self._survivors]) for dealer in dealers)
            return self._sealed("reveal", pack(pack_numbers(dealers), *shares))

    def saved(self) -> bytes:
        """What this client must remember until its next message, its secrets too: for a node that ends between messages.

        To be kept where nobody else reads it. A client that is `resumed` twice from the same bytes could be asked twice: who
        keeps them must see to it that each is used once.
        """
        keys = self._channel.private_bytes_raw(), self._masking.private_bytes_raw(), self._self_seed, self._box_secret
        lists = (pack_numbers(sorted(each)) for each in (self._peers, self._holders, self._sharers, self._survivors))
        held = sorted(self._held)
        shares = (pair_bytes(pair) for dealer in held for pair in self._held[dealer])
        return pack(
            self._stage.encode(), self.terms.to_bytes(), pack(*keys),
            pack(self._contribution, self._coin_commitment, self._coin, self._mailbox), pack(*lists),
            pack(*(self._peers[number].message for number in sorted(self._peers))), pack(pack_numbers(held), *shares),
        )  # fmt: skip

    @classmethod
    def resumed(
        cls, saved: bytes, number: int, identity: Ed25519PrivateKey, server: Ed25519PublicKey,
        clients: Mapping[int, Ed25519PublicKey], *, randomness: Randomness = OPERATING_SYSTEM,
    ) -> Self:  # fmt: skip
        """The client that `saved` wrote. Raises SecureAggregationError for other bytes."""
        client = cls(number, identity, server, clients, randomness=randomness)
        stage, terms, keys, words, lists, peers, shares = unpack(saved, 7)
        client._stage, client.terms = stage.decode(), Terms.from_bytes(terms)
        channel, masking, client._self_seed, client._box_secret = unpack(keys, 4)
        client._channel = X25519PrivateKey.from_private_bytes(channel)
        client._masking = Ed25519PrivateKey.from_private_bytes(masking)
        client._agreeing = agreeing(client._masking)
        client._contribution, client._coin_commitment, client._coin, client._mailbox = unpack(words, 4)
        near, *others = map(unpack_numbers, unpack(lists, 4))
        client._holders, client._sharers, client._survivors = map(frozenset, others)
        client._peers = {
            other: read_advertisement(client.terms, clients[other], other, message)
            for other, message in zip(near, unpack(peers, len(near)), strict=True)
        }
        held, *pairs = unpack(shares, least=1)
        read = list(map(read_pair, pairs))
        client._held = dict(zip(unpack_numbers(held), zip(read[::2], read[1::2], strict=True), strict=True))
        return client

    @contextmanager
    def _turn(self, stage: str) -> Generator[None]:
        if stage != self._stage:
            raise SecureAggregationError(f"client {self.number} was asked to {stage}; it is to {self._stage} next")
        self._stage = STAGES[-1]  # where an error leaves it
        yield
        self._stage = STAGES[STAGES.index(stage) + 1]

    def _opened(self, kind: str, message: bytes) -> bytes:
        return unseal(mailbox_key(self._mailbox, kind), message, f"the {kind} message to client {self.number}")

    def _sealed(self, kind: str, body: bytes) -> bytes:
        return seal(mailbox_key(self._mailbox, kind), body)

    def _digest(self) -> bytes:
        return view_digest(self.terms, self._coin, self._sharers, self._survivors)

    def _check_present(self, numbers: Collection[int], among: Collection[int]) -> None:
        if self.number not in numbers or not set(numbers) <= set(among):
            raise SecureAggregationError(f"a list of clients lacks client {self.number}, or has one that cannot be there")
        if len(numbers) < self.terms.minimum:
            raise SecureAggregationError(f"{len(numbers)} clients remain, and {self.terms.minimum} must")

    def _meet(self, near: tuple[int, ...], advertisements: list[bytes], present: frozenset[int]) -> None:
        """Take the keys of the holders that this client drew, and of those who drew it."""
        if len(near) != len(advertisements) or self.number in near or not present.issuperset(near):
            raise SecureAggregationError("the keys in the roster are not those of other clients that are present")
        drawn = self._drawn(self.number, self._contribution)
        self._holders = frozenset(drawn) & present
        if not self._holders.issubset(near):
            raise SecureAggregationError(f"expected the keys of {len(self._holders)} holders, got those of {sorted(near)}")
        for other, message in zip(near, advertisements, strict=True):
            found = read_advertisement(self.terms, self._clients[other], other, message)
            if other not in self._holders and self.number not in self._drawn(other, found.contribution):
                raise SecureAggregationError(f"client {other} has not drawn client {self.number}, nor the other way round")
            self._peers[other] = found

    def _drawn(self, number: int, contribution: bytes) -> tuple[int, ...]:
        seed = holder_seed(self.terms.session, self._coin, contribution)
        return holders(number, tuple(self._clients), self.terms.degree, seed)

    def _received(self, message: bytes) -> Delivery:
        """A box with its dealer's commitment. Raises where the dealer did not sign it: the server is lying, not the dealer."""
        delivery = read_delivery(self.terms, self._clients, message, self.number)
        dealer = delivery.dealing.dealer
        if dealer not in self._peers or dealer in self._held:
            raise SecureAggregationError(f"client {dealer} has no shares for client {self.number}")
        return delivery

    def _box_key(self, complaint: bytes) -> bytes:
        """The key of the box of a holder that signed a complaint of it."""
        holder_number = unpack(unpack(complaint, 2)[0], 3)[1]
        holder = int.from_bytes(holder_number, "little")
        if len(holder_number) != POINT_BYTES // 8 or holder not in self._holders:
            raise SecureAggregationError("a complaint is of a client that holds no share")
        if verified(self._clients[holder], "complaint", complaint) != complaint_body(self.terms, holder, self.number):
            raise SecureAggregationError(f"the complaint of client {holder} is of another session or another client")
        return box_key(self._box_secret, holder)

    def _encoded(self, update: Any) -> npt.NDArray[np.uint32]:
        encoding = self.terms.encoding
        integers = encoding.rounded(update, self._randomness)
        if integers.shape != (self.terms.length,):
            raise ValueError(f"the terms are for updates of length {self.terms.length}; got shape {integers.shape}")
        if self.terms.noise_std:
            integers += self._encoded_noise(self.terms)
        return to_ring(integers)

    def _encoded_noise(self, terms: Terms) -> npt.NDArray[np.int64]:
        """What it adds of the noise, in steps."""
        return discrete_gaussian(self._randomness, (terms.length,), terms.client_noise_std / terms.encoding.step)
