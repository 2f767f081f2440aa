"""A server that lies to clients of `fl_impl.privacy.secure_aggregation`, and reads all that it then can."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_impl.privacy.fixed_point import from_ring
from fl_impl.privacy.secure_aggregation import Client, Least, SecureAggregationError, Server, Terms
from fl_impl.privacy.secure_aggregation.channel import mailbox_key, sign, unseal
from fl_impl.privacy.secure_aggregation.curve import montgomery, scalar_of
from fl_impl.privacy.secure_aggregation.dealing import read_pair
from fl_impl.privacy.secure_aggregation.frames import pack, pack_numbers, unpack, unpack_numbers
from fl_impl.privacy.secure_aggregation.masks import add_mask, recovered_pair_mask_key, self_mask_key
from fl_impl.privacy.secure_aggregation.shamir import SECRET_BYTES, combine
from pytest_fl.subjects.parts import Updates

Words = npt.NDArray[np.uint32]
STAGES: Final = ("advertise", "share", "confirm", "mask", "agree", "reveal")


class LyingServer(Server):
    """A server that can be made to send anything, and tells what it received."""

    def to(self, kind: str, number: int, *fields: bytes) -> bytes:
        """A message such as only the server can seal."""
        return self._sealed(kind, number, pack(*fields))

    def read(self, kind: str, number: int, message: bytes) -> bytes:
        """What a client's message says."""
        return self._opened(kind, number, message)

    @property
    def keys(self) -> Any:
        """What each client advertised."""
        return self._keys

    @property
    def coin(self) -> bytes:
        """The server's part of the seeds of all draws."""
        return self._coin

    @coin.setter
    def coin(self, other: bytes) -> None:
        self._coin = other

    def sent(self, kind: str, number: int, message: bytes) -> list[bytes]:
        """The fields of what it sealed for a client."""
        return unpack(unseal(mailbox_key(self._mailboxes[number], kind), message, kind))

    @property
    def dealers(self) -> Any:
        """What each client dealt."""
        return self._dealers

    def near(self, number: int) -> list[int]:
        """With whom a client masks."""
        return self._near()[number]


@dataclass(eq=False)
class Plotted:
    """A session in which the server lies, and what it and its partners know."""

    terms: Terms
    updates: Updates
    client_class: type[Client] = Client
    secrets_of: Mapping[int, Ed25519PrivateKey] | None = None
    """Identities, where these clients took part in a session before."""
    seen: dict[int, set[bytes]] | None = None
    words: dict[int, Words] = field(default_factory=dict[int, "Words"])
    shares: dict[tuple[int, bool], dict[int, int]] = field(default_factory=dict[tuple[int, bool], dict[int, int]])
    """(dealer, whether it is of the masking key) -> point -> share."""

    def __post_init__(self) -> None:
        """Make identities, the server and the clients, and take what the partners know."""
        n = len(self.updates)
        self.partners = tuple(range(n - self.terms.corrupt, n))
        self.identities = dict(self.secrets_of or {i: Ed25519PrivateKey.generate() for i in range(n)})
        public = {i: key.public_key() for i, key in self.identities.items()}
        self.identity = Ed25519PrivateKey.generate()
        self.server = LyingServer(self.terms, self.identity, public)
        memory = self.seen or {i: set[bytes]() for i in range(n)}
        self.clients: dict[int, Any] = {
            i: self.client_class(
                i, self.identities[i], self.identity.public_key(), public, least=Least.of(self.terms), seen=memory[i]
            )
            for i in range(n)
        }

    def send(self, stage: str, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """What the clients answer; those that refuse do not."""
        replies = dict[int, bytes]()
        for i, message in messages.items():
            try:
                extra = (self.updates[i],) if stage == "mask" else ()
                replies[i] = getattr(self.clients[i], stage)(message, *extra)
            except SecureAggregationError:
                continue
        return replies

    def until_boxes(self) -> dict[int, bytes]:
        """Up to the inboxes."""
        opened = self.send("advertise", dict.fromkeys(self.clients, self.server.open()))
        return self.server.inboxes(self.send("share", self.server.roster(opened)))

    def until_masks(self) -> dict[int, bytes]:
        """Up to what clients are sent before they mask."""
        return self.server.sharers(self.send("confirm", self.until_boxes()))

    def take_words(self, masked: Mapping[int, bytes]) -> None:
        """Read masked updates."""
        for i, message in masked.items():
            self.words[i] = np.frombuffer(unpack(self.server.read("masked", i, message), 2)[1], "<u4")

    def take_shares(self, reveals: Mapping[int, bytes], alive: Collection[int]) -> None:
        """Read what clients revealed under a list of survivors."""
        for i, message in reveals.items():
            dealers, *pairs = unpack(self.server.read("reveal", i, message), least=1)
            for dealer, pair in zip(unpack_numbers(dealers), pairs, strict=True):
                self.shares.setdefault((dealer, dealer not in alive), {})[i + 1] = read_pair(pair)[0]

    def take_partners(self) -> None:
        """All shares that the partners hold."""
        for i in self.partners:
            for dealer, pairs in self.clients[i]._held.items():  # noqa: SLF001  # partners tell all that they know
                for of_key, pair in zip((False, True), pairs, strict=True):
                    self.shares.setdefault((dealer, of_key), {})[i + 1] = pair[0]

    def told(self, sharers: Mapping[int, Collection[int]], alive: Mapping[int, Collection[int]]) -> None:
        """Tell each client its own list of survivors, and ask for the shares of all that hear the same.

        Partners sign whatever helps.
        """
        signed = dict[int, bytes]()
        for i, living in alive.items():
            gone = set(sharers[i]) - set(living)
            message = self.server.to("survivors", i, pack_numbers(sorted(living)), pack_numbers(sorted(gone)))
            signed |= self.send("agree", {i: message})
        for living in {tuple(sorted(each)) for each in alive.values()}:
            members = [i for i, each in alive.items() if set(each) == set(living)]
            helpers = [i for i in self.partners if i in living]
            heard = sharers[members[0]]
            agreements = {i: signed[i] for i in members if i in signed} | {i: self.signed(i, heard, living) for i in helpers}
            self.ask(members, agreements, living)

    def signed(self, partner: int, sharers: Collection[int], alive: Collection[int]) -> bytes:
        """What a partner signs to help."""
        client = self.clients[partner]
        client._sharers, client._survivors, client._coin = frozenset(sharers), frozenset(alive), self.server.coin  # noqa: SLF001  # it sides with the server
        return sign(self.identities[partner], "agreement", client._digest())  # noqa: SLF001  # likewise

    def ask(self, members: Collection[int], agreements: Mapping[int, bytes], alive: Collection[int]) -> None:
        """Ask for shares with these agreements, and read what comes."""
        quorum = pack_numbers(sorted(agreements)), *(agreements[i] for i in sorted(agreements))
        self.take_shares(self.send("reveal", {i: self.server.to("quorum", i, *quorum) for i in members}), alive)

    def secret(self, dealer: int, *, of_key: bool) -> int | None:
        """A client's secret, where it is the server's, or enough shares are known."""
        if dealer in self.partners and of_key:
            return scalar_of(self.clients[dealer]._masking)  # noqa: SLF001  # partners tell all that they know
        shares = self.shares.get((dealer, of_key), {})
        if len(shares) < self.terms.threshold:
            return next(iter(shares.values())) if len(set(shares.values())) == 1 else None  # a share may be the secret
        return combine({point: shares[point] for point in sorted(shares)[: self.terms.threshold]})

    def read(self, group: Collection[int]) -> Iterator[Any]:
        """The sum of a group's updates, if what is known opens it; and what is left where clients forgot a mask."""
        if not set(group) <= self.words.keys():
            return
        words = np.zeros(self.terms.length, np.uint32)
        for i in group:
            words += self.words[i]
        yield self.decoded(words)
        for unmask in (self.without_self, self.without_pairs):
            cleared = unmask(words.copy(), group)
            if cleared is not None:
                yield self.decoded(cleared)
        cleared = self.without_self(words.copy(), group)
        both = None if cleared is None else self.without_pairs(cleared, group)
        if both is not None:
            yield self.decoded(both)

    def decoded(self, words: Words) -> Any:
        """As reals."""
        return self.terms.encoding.decode(from_ring(words))

    def without_self(self, words: Words, group: Collection[int]) -> Words | None:
        """Words without the self masks of the group; None where one is not known."""
        for i in group:
            seed = self.secret(i, of_key=False)
            if seed is None:
                return None
            key = seed.to_bytes(32, "little")[:SECRET_BYTES]
            add_mask(words, self_mask_key(key, self.terms.session, i), subtract=True)
        return words

    def without_pairs(self, words: Words, group: Collection[int]) -> Words | None:
        """Words without the masks between the group and others; None where one is not known."""
        for i in group:
            for j in set(self.server.near(i)) & self.clients[i]._sharers - set(group):  # noqa: SLF001  # the server said so
                for one, other in ((i, j), (j, i)):
                    scalar = self.secret(one, of_key=True)
                    if scalar is not None:
                        point = montgomery(self.server.keys[other].masking)
                        key = recovered_pair_mask_key(scalar, point, self.terms.session, i, j)
                        add_mask(words, key, subtract=i < j)
                        break
                else:
                    return None
        return words
