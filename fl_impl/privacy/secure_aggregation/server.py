"""The server of a secure sum: it passes sealed messages on, and learns the sum of those who stayed."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_impl.privacy.fixed_point import from_ring
from fl_impl.privacy.secure_aggregation.channel import agree, mailbox, mailbox_key, seal, sign, unseal, verified
from fl_impl.privacy.secure_aggregation.curve import SCALAR_BYTES, montgomery
from fl_impl.privacy.secure_aggregation.dealing import (
    SECRETS,
    Dealing,
    Leaf,
    Pair,
    paths,
    read_pair,
    reopened_box,
    rooted,
)
from fl_impl.privacy.secure_aggregation.frames import (
    SecureAggregationError,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)
from fl_impl.privacy.secure_aggregation.graph import holder_seed, holders
from fl_impl.privacy.secure_aggregation.masks import add_mask, recovered_pair_mask_key, self_mask_key
from fl_impl.privacy.secure_aggregation.messages import Advertisement, complaint_body, delivery, read_advertisement, view_digest
from fl_impl.privacy.secure_aggregation.shamir import SECRET_BYTES, combine
from fl_impl.privacy.secure_aggregation.terms import Terms

Messages = Mapping[int, bytes]
"""What came from each client, or goes to each."""
T = TypeVar("T")
STAGES: Final = ("open", "roster", "inboxes", "sharers", "survivors", "quorum", "total", "nothing more")


@dataclass(frozen=True, eq=False)
class SecureSum:
    """The sum, and of whom."""

    total: npt.NDArray[np.float64]
    survivors: tuple[int, ...]
    refused: Mapping[int, str]
    """Clients that sent what they should not have, with the reason: each has lied, or its message was changed on the way."""
    unsettled: frozenset[tuple[int, int]] = frozenset()
    """(holder, dealer): the holder complained of the dealer's shares, and the dealer left before it could answer.

    One of the two has lied, and nobody can tell which: only the dealer could have opened what it had sent."""
    bytes_up: int = 0
    """Of all messages that clients sent, where the session counted them."""


@dataclass(frozen=True)
class Dealer:
    """What a client dealt, as far as the server can read it."""

    dealing: Dealing
    signed: bytes
    leaves: Mapping[int, Leaf]
    """By holder."""


class Server:
    """The server of one session. Each method takes the messages that arrived and gives those to be sent, once, in order.

    A client whose message is not authentic, not well formed or not true is dropped and named (`refused` says why); it counts
    as one of `terms.dropouts`. Methods raise SecureAggregationError where fewer than `terms.minimum` clients remain:
    nothing is summed then.
    """

    def __init__(
        self, terms: Terms, identity: Ed25519PrivateKey, clients: Mapping[int, Ed25519PublicKey], about: bytes = b""
    ) -> None:
        """`about` is what all clients are told to make their updates from, as in `Client.mask`."""
        self.terms = terms.checked()
        self.refused: dict[int, str] = {}
        self._about = about
        self._identity, self._clients = identity, clients
        self._stage = STAGES[0]
        self._channel, self._coin = X25519PrivateKey.generate(), secrets.token_bytes(32)
        self._keys: dict[int, Advertisement] = {}
        self._mailboxes: dict[int, bytes] = {}
        self._holders: dict[int, frozenset[int]] = {}  # of each client, among those present
        self._dealers: dict[int, Dealer] = {}
        self._complaints: dict[int, dict[int, bytes]] = {}  # of each dealer, by holder
        self._unsettled: set[tuple[int, int]] = set()
        self._sharers: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()
        self._sum = np.zeros(terms.length, np.uint32)

    def open(self) -> bytes:
        """The signed terms, the server's key of the session and a commitment to its coin, the same to all clients."""
        self._turn("open")
        key, coin = self._channel.public_key().public_bytes_raw(), hashlib.sha256(self._coin).digest()
        return sign(self._identity, "opening", pack(self.terms.to_bytes(), key, coin))

    def roster(self, advertisements: Messages) -> dict[int, bytes]:
        """To each client: the coin, who is present, and the keys of those that hold its shares or whose shares it holds."""
        self._turn("roster")
        self._keys = self._accepted(advertisements, self._clients, self._advertisement)
        numbers, registered = sorted(self._keys), tuple(self._clients)
        for i in numbers:
            seed = holder_seed(self.terms.session, self._coin, self._keys[i].contribution)
            self._holders[i] = frozenset(holders(i, registered, self.terms.degree, seed)) & self._keys.keys()
        present = pack_numbers(numbers)
        near = self._near()
        return {
            i: self._sealed(
                "roster", i, pack(self._coin, present, pack_numbers(near[i]), *(self._keys[j].message for j in near[i]))
            )
            for i in numbers
        }

    def inboxes(self, shares: Messages) -> dict[int, bytes]:
        """To each client that shared: the boxes for it, each with what its dealer committed to."""
        self._turn("inboxes")
        self._dealers = self._accepted(shares, self._keys, self._dealer)
        boxes: dict[int, list[bytes]] = {i: [] for i in self._dealers}
        for dealer in self._dealers.values():
            leaves = list(dealer.leaves.values())
            for place, (leaf, hashes) in enumerate(zip(leaves, paths(leaves), strict=True)):
                if leaf.holder != dealer.dealing.dealer and leaf.holder in boxes:
                    boxes[leaf.holder].append(delivery(dealer.signed, leaf, place, len(leaves), hashes))
        return {i: self._sealed("inbox", i, pack(*boxes[i])) for i in self._dealers}

    def sharers(self, confirmations: Messages) -> dict[int, bytes]:
        """To each client whose shares are in good hands: who these clients are, and which holders complain of it.

        A dealer of which more holders complain than can be corrupt is named.
        """
        self._turn("sharers")
        complaints = self._accepted(confirmations, self._dealers, self._complained)
        against: dict[int, dict[int, bytes]] = {i: {} for i in complaints}
        for holder, signed in complaints.items():
            for dealer, message in signed.items():
                against.setdefault(dealer, {})[holder] = message
        if not self.terms.most_complaints and any(against.values()):
            holder, dealer = next((holder, i) for i, signed in against.items() for holder in signed)
            raise SecureAggregationError(
                f"client {holder} cannot use the shares of client {dealer}: one of the two lies, and these terms stand no liar"
            )
        for dealer in [i for i in complaints if len(against[i]) > self.terms.most_complaints]:
            self.refused[dealer] = f"{len(against.pop(dealer))} of its holders cannot use the shares that it dealt"
            del complaints[dealer]
        self._unsettled = {(holder, dealer) for dealer, signed in against.items() for holder in signed}
        self._check_enough(complaints)
        self._sharers = frozenset(complaints)
        self._complaints = {i: against[i] for i in self._sharers}
        present = pack_numbers(sorted(self._sharers))
        return {
            i: self._sealed("sharers", i, pack(present, *(self._complaints[i][j] for j in sorted(self._complaints[i]))))
            for i in self._sharers
        }

    def survivors(self, masked: Messages) -> dict[int, bytes]:
        """To each client whose masked update came: who did, and who did not."""
        self._turn("survivors")
        disputed = {holder for holders_ in self._complaints.values() for holder in holders_}
        disputed |= {dealer for dealer, holders_ in self._complaints.items() if holders_}
        kept = dict[int, npt.NDArray[np.uint32]]()

        def read(number: int, message: bytes) -> None:
            words = self._masked(number, message)
            if number in disputed:
                kept[number] = words
            else:
                self._sum += words

        came = self._accepted(masked, self._sharers, read)
        self._survivors = frozenset(came) - self.refused.keys()
        self._check_enough(self._survivors)
        for number in kept.keys() & self._survivors:
            self._sum += kept[number]
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

        A share that is not the one that was dealt is left out, and whoever gave it named: others do as well.
        """
        self._turn("total")
        shares: dict[int, dict[int, int]] = {i: {} for i in self._sharers}
        self._accepted(reveals, self._survivors, lambda number, message: self._revealed(number, message, shares))
        session, total, near = self.terms.session, self._sum, self._near()
        for i in sorted(self._survivors):
            seed = self._recovered(i, shares[i]).to_bytes(SCALAR_BYTES, "little")[:SECRET_BYTES]
            add_mask(total, self_mask_key(seed, session, i), subtract=True)
        for i in sorted(self._sharers - self._survivors):
            scalar = self._recovered(i, shares[i])
            for j in self._survivors.intersection(near[i]):
                point = montgomery(self._keys[j].masking)
                key = recovered_pair_mask_key(scalar, point, session, i, j, self._about)
                add_mask(total, key, subtract=j < i)
        decoded, survivors = self.terms.encoding.decode(from_ring(total)), tuple(sorted(self._survivors))
        return SecureSum(decoded, survivors, dict(self.refused), frozenset(self._unsettled))

    def _turn(self, stage: str) -> None:
        if stage != self._stage:
            raise SecureAggregationError(f"the server was asked to {stage}; its next step is {self._stage}")
        self._stage = STAGES[STAGES.index(stage) + 1]

    def _accepted(self, messages: Messages, among: Iterable[int], read: Callable[[int, bytes], T]) -> dict[int, T]:
        """What each message says, of those that are authentic and from clients who may speak; enough of them."""
        accepted, allowed = dict[int, T](), set(among)
        for number, message in messages.items():
            if number not in allowed:
                self.refused.setdefault(number, "it has dropped out, or is not of this session")
                continue
            try:
                accepted[number] = read(number, message)
            except SecureAggregationError as error:
                self.refused.setdefault(number, str(error))
        self._check_enough(accepted)
        return accepted

    def _check_enough(self, remaining: Iterable[int]) -> None:
        count = len(set(remaining))
        if count < self.terms.minimum:
            reasons = "".join(f"; client {number}: {reason}" for number, reason in self.refused.items())
            raise SecureAggregationError(
                f"{count} clients remain of {self.terms.clients}, and {self.terms.minimum} must{reasons}"
            )

    def _sealed(self, kind: str, number: int, body: bytes) -> bytes:
        return seal(mailbox_key(self._mailboxes[number], kind), body)

    def _opened(self, kind: str, number: int, message: bytes) -> bytes:
        return unseal(mailbox_key(self._mailboxes[number], kind), message, f"the {kind} message of client {number}")

    def _near(self) -> dict[int, list[int]]:
        """Of each client those who hold shares of it, or of whom it holds some."""
        near = {i: set(found) for i, found in self._holders.items()}
        for i, found in self._holders.items():
            for j in found:
                near[j].add(i)
        return {i: sorted(found) for i, found in near.items()}

    def _advertisement(self, number: int, message: bytes) -> Advertisement:
        found = read_advertisement(self.terms, self._clients[number], number, message)
        agree(self._channel, montgomery(found.masking))  # raises where nobody could agree with it
        self._mailboxes[number] = mailbox(self._channel, found.channel, self.terms.session, number)
        return found

    def _dealer(self, number: int, message: bytes) -> Dealer:
        signed, *rest = unpack(self._opened("shares", number, message), least=1)
        dealing = Dealing.from_bytes(verified(self._clients[number], "dealing", signed), self.terms.threshold)
        if dealing.dealer != number or dealing.session != self.terms.session:
            raise SecureAggregationError(f"the dealing of client {number} is of another session or another client")
        receivers = sorted({number, *self._holders[number]})
        if len(rest) != 3 * len(receivers):
            raise SecureAggregationError(
                f"expected shares for {len(receivers)} holders of client {number}, got {len(rest) / 3:g}"
            )
        leaves = {
            j: Leaf(j, box, (seed, key)) for j, box, seed, key in zip(receivers, rest[::3], rest[1::3], rest[2::3], strict=True)
        }
        if any(not leaf.is_well_formed(number) for leaf in leaves.values()):
            raise SecureAggregationError(f"the shares of client {number} are not well formed")
        if rooted(list(leaves.values())) != dealing.root or not dealing.proves(self._keys[number].masking):
            raise SecureAggregationError(f"what client {number} dealt is not what it committed to, or not its masking key")
        return Dealer(dealing, signed, leaves)

    def _complained(self, number: int, message: bytes) -> dict[int, bytes]:
        """The dealers of which a holder complains."""
        against = dict[int, bytes]()
        for complaint in unpack(self._opened("confirmation", number, message)):
            body = verified(self._clients[number], "complaint", complaint)
            dealer = int.from_bytes(unpack(body, 3)[2], "little")
            known = dealer in self._dealers and number in self._holders[dealer] and dealer not in against
            if not known or body != complaint_body(self.terms, number, dealer):
                raise SecureAggregationError(f"client {number} complains of shares that it was not dealt")
            against[dealer] = complaint
        return against

    def _masked(self, number: int, message: bytes) -> npt.NDArray[np.uint32]:
        """The words of a masked update, after the complaints of its client's shares were settled."""
        keys, words = unpack(self._opened("masked", number, message), 2)
        if len(words) != 4 * self.terms.length:
            raise SecureAggregationError(f"client {number} sent {len(words)} bytes for {self.terms.length} words")
        holders_ = sorted(self._complaints[number])
        opened = unpack(keys, len(holders_))
        for holder, key in zip(holders_, opened, strict=True):
            self._unsettled.discard((holder, number))
            dealer = self._dealers[number]
            reopened_box(key, self._keys[holder].channel, dealer.dealing, dealer.leaves[holder], self._keys[number].masking)
            self.refused.setdefault(holder, f"it complained of the shares of client {number}, which are as they should be")
        return np.frombuffer(words, "<u4")

    def _agreement(self, number: int, message: bytes) -> bytes:
        expected = view_digest(self.terms, self._coin, self._sharers, self._survivors)
        if verified(self._clients[number], "agreement", message) != expected:
            raise SecureAggregationError(f"client {number} signed another list of survivors")
        return message

    def _revealed(self, number: int, message: bytes, shares: Mapping[int, dict[int, int]]) -> None:
        """Enter the shares of one client. Raises SecureAggregationError where one is missing or false: the others count."""
        present, *pairs = unpack(self._opened("reveal", number, message), least=1)
        dealers = unpack_numbers(present)
        if len(dealers) != len(pairs):
            raise SecureAggregationError(f"the shares of client {number} are not well formed")
        false = list[str]()
        for dealer, data in zip(dealers, pairs, strict=True):
            try:
                shares[dealer][number + 1] = self._share(number, dealer, read_pair(data))
            except (SecureAggregationError, KeyError) as error:
                false.append(str(error))
        due = {i for i in self._sharers if number in {i, *self._holders[i]} and number not in self._complaints[i]}
        missing = due - set(dealers)
        if missing:
            false.append(f"it kept back its shares of clients {sorted(missing)}")
        if false:
            raise SecureAggregationError(f"client {number} revealed no true share: {false[0]}")

    def _share(self, holder: int, dealer: int, pair: Pair) -> int:
        dropped = dealer not in self._survivors
        leaf, dealing = self._dealers[dealer].leaves[holder], self._dealers[dealer].dealing
        masking = self._keys[dealer].masking
        reason = dealing.fits(masking, holder, pair, SECRETS[dropped], leaf.commitments[dropped])
        if reason == "line":
            self.refused.setdefault(
                dealer, f"it dealt client {holder} a share that is on no line, and that client did not complain"
            )
        if reason:
            raise SecureAggregationError(f"its share of client {dealer} does not fit the {reason} of what was dealt")
        return pair[0]

    def _recovered(self, dealer: int, shares: Mapping[int, int]) -> int:
        if len(shares) < self.terms.threshold:
            raise SecureAggregationError(
                f"{len(shares)} shares of a secret of client {dealer} came back, and {self.terms.threshold} are needed"
            )
        points = sorted(shares)[: self.terms.threshold]
        return combine({point: shares[point] for point in points})
