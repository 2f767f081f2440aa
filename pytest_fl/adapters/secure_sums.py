"""`fl_impl.privacy.secure_aggregation` as a subject: with a server that lies and clients that send anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_impl.privacy.fixed_point import from_ring
from fl_impl.privacy.secure_aggregation import Client, Server, Terms, secure_sum
from fl_impl.privacy.secure_aggregation.channel import sign
from fl_impl.privacy.secure_aggregation.client import survivors_digest
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError, pack, pack_numbers, unpack
from fl_impl.privacy.secure_aggregation.graph import neighbours
from fl_impl.privacy.secure_aggregation.masks import add_mask, pair_mask_key, self_mask_key
from fl_impl.privacy.secure_aggregation.shamir import combine
from pytest_fl.subjects.parts import Plot, Tally, Updates

Generator = np.random.Generator
STAGES = ("advertise", "share", "mask", "agree", "reveal")


class Session:
    """A server and clients stepped by hand."""

    def __init__(self, terms: Terms, updates: Updates, client: Callable[..., Any] = Client) -> None:
        self.terms, self.updates = terms, updates
        self.secret = {i: Ed25519PrivateKey.generate() for i in range(len(updates))}
        public = {i: key.public_key() for i, key in self.secret.items()}
        self.identity = Ed25519PrivateKey.generate()
        self.server = Server(terms, self.identity, public)
        self.clients = {i: client(i, self.secret[i], self.identity.public_key(), public) for i in self.secret}
        self.opening = self.server.open()

    def stage(self, name: str, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """What the clients answer to these messages."""
        extra = {i: (self.updates[i],) if name == "mask" else () for i in messages}
        return {i: getattr(self.clients[i], name)(message, *extra[i]) for i, message in messages.items()}

    def to(self, kind: str, number: int, *fields: bytes) -> bytes:
        """A message such as only the server can seal."""
        return self.server._sealed(kind, number, pack(*fields))

    def masked(self) -> tuple[dict[int, bytes], dict[int, npt.NDArray[np.uint32]]]:
        """Up to the masked updates: the messages, and what the server opens of them."""
        inbox = self.server.inboxes(self.stage("share", self.server.roster(self.stage("advertise", self.everyone()))))
        messages = self.stage("mask", inbox)
        words = {i: np.frombuffer(self.server._opened("masked", i, m), "<u4").copy() for i, m in messages.items()}
        return messages, words

    def everyone(self) -> dict[int, bytes]:
        """The opening to each client."""
        return dict.fromkeys(self.clients, self.opening)


def split_view(terms: Callable[[int, int], Terms]) -> Plot:
    """Half of the clients hear that the victim is alive, the others that it dropped: both of its secrets come out."""

    def plot(updates: Updates, rng: Generator) -> Iterable[Any]:
        n = len(updates)
        session = Session(terms(n, updates.shape[1]), updates)
        agreed, victim = session.terms, int(rng.integers(n - max(session.terms.corrupt, 1)))
        try:
            _, words = session.masked()
            partners = set(range(n - agreed.corrupt, n))
            honest = [i for i in range(n) if i != victim and i not in partners]
            half = (len(honest) + 1) // 2
            alive = frozenset(range(n))
            lists = {i: alive for i in [victim, *honest[: half - 1]]}
            lists |= {i: alive - {victim} for i in honest[half - 1 :]}
            for i, living in lists.items():
                gone = alive - living
                session.clients[i].agree(session.to("survivors", i, pack_numbers(sorted(living)), pack_numbers(sorted(gone))))
            shares = dict[int, dict[int, bytes]]()
            for living in (alive, alive - {victim}):
                members = sorted([i for i, told in lists.items() if told == living] + [i for i in partners if i in living])
                digest = survivors_digest(agreed, living)
                signed = [sign(session.secret[i], "agreement", digest) for i in members]
                for i in members:
                    if i not in partners:
                        answer = session.clients[i].reveal(session.to("quorum", i, pack_numbers(members), *signed))
                        shares.setdefault(victim not in living, {})[i] = session.server._shares(i, answer)[victim]
        except (SecureAggregationError, ValueError):
            return []
        for i in partners:
            for secret in (0, 1):
                shares[secret][i] = session.clients[i]._held[victim][secret]
        return [unmasked(session, victim, words[victim], shares)]

    return plot


def unmasked(session: Session, victim: int, words: Any, shares: Mapping[int, Mapping[int, bytes]]) -> Any:
    """The victim's update, from enough shares of both of its secrets; what they give, where they are not enough."""
    terms = session.terms
    seed, key = (combine({i + 1: s for i, s in sorted(shares[k].items())[: terms.threshold]}) for k in (0, 1))
    private = X25519PrivateKey.from_private_bytes(key or bytes(32))
    add_mask(words, self_mask_key(seed or bytes(32), terms.session, victim), subtract=True)
    for j in session.server._near[victim]:
        key = pair_mask_key(private, session.server._keys[j].masking, terms.session, victim, j)
        add_mask(words, key, subtract=j > victim)
    return terms.encoding.decode(from_ring(words))


def cut(n: int, dropouts: int, d: int, rng: Generator) -> tuple[int, int]:
    """(clients in the smallest part into which chosen drop-outs cut the graph, clients promised)."""
    terms = Terms(n, d, 1.0, dropouts, n // 10)
    circle = {i: neighbours(i, range(n), terms.degree, terms.session) for i in range(n)}
    start = int(rng.integers(n))
    near = set(circle[start])
    group = {start}
    while True:  # grow a group whose boundary can be dropped
        boundary = set().union(*(circle[i] for i in group)) - group
        if len(boundary) > dropouts or len(group) > n // 2:
            break
        best, group_was = min(boundary, key=lambda i: len(set(circle[i]) - group - boundary)), set(group)
        group.add(best)
    del near
    return len(group_was), n - dropouts


def exposure(n: int, rng: Generator) -> tuple[int, int]:
    """(shares of a victim that partners hold, threshold) where the server says who advertised."""
    terms = Terms.agreed(clients=n, length=1, bound=1.0)
    partners = set(rng.permutation(n)[: terms.corrupt].tolist())
    circle, worst = neighbours_order(n, terms), 0
    if terms.degree >= n - 1:
        return min(terms.corrupt, terms.degree), terms.threshold
    for place in range(n):
        if circle[place] in partners:
            continue
        right, left = ([circle[(place + s * k) % n] for k in range(1, n // 2)] for s in (1, -1))
        for split in (terms.dropouts // 2,):
            held = sum(nearest(side, partners, split, terms.degree // 2) for side in (right, left))
            worst = max(worst, held)
    return worst, terms.threshold


def nearest(side: list[int], partners: set[int], drops: int, places: int) -> int:
    """Partners among the nearest `places` of a side after the first `drops` honest ones are said not to have advertised."""
    kept = list[int]()
    for i in side:
        if i not in partners and drops:
            drops -= 1
        else:
            kept.append(i)
    return sum(i in partners for i in kept[:places])


def neighbours_order(n: int, terms: Terms) -> list[int]:
    """The circle of the session."""
    import hashlib

    return sorted(range(n), key=lambda i: hashlib.sha256(terms.session + i.to_bytes(4, "little")).digest())


def dishonest_terms() -> dict[str, Callable[[int], object]]:
    """Offers that a client which wants noise 1 and a bound of 1 must refuse."""

    def offer(**changes: float) -> Callable[[int], object]:
        def made(n: int) -> object:
            honest = {"noise_std": 1.0, "bound": 1.0}
            terms = Terms.agreed(clients=n, length=2, **{**honest, **changes})
            session = Session(terms, np.zeros((n, 2)))
            return session.clients[0].advertise(session.opening)

        return made

    return {"no noise": offer(noise_std=0.0), "a bound of 1e9": offer(bound=1e9)}


SABOTAGE = ("zero key", "short shares", "garbage boxes", "empty reveal", "false shares")


def sabotaged(updates: Updates, liars: Mapping[int, str], rng: Generator) -> Tally:
    """A session in which some clients lie."""
    n = len(updates)

    class Liar(Client):
        def __init__(self, number: int, *rest: Any, **options: Any) -> None:
            super().__init__(number, *rest, **options)
            self.does = liars.get(number)

        def advertise(self, opening: bytes) -> bytes:
            message = super().advertise(opening)
            if self.does != "zero key":
                return message
            body = unpack(unpack(message, 2)[0])
            return sign(self._identity, "advertisement", pack(*body[:2], bytes(32), *body[3:]))

        def _boxes(self):
            if self.does == "garbage boxes":
                list(super()._boxes())
                yield from (bytes(170) for _ in self._peers)
            elif self.does == "short shares":
                from fl_impl.privacy.secure_aggregation.channel import seal

                list(super()._boxes())
                yield from (seal(self._box_key(self.number, j), pack(bytes(65), bytes(65))) for j in sorted(self._peers))
            else:
                yield from super()._boxes()

        def reveal(self, quorum: bytes) -> bytes:
            if self.does == "empty reveal":
                super().reveal(quorum)
                return self._sealed("reveal", b"")
            if self.does == "false shares":
                self._held = {j: (rng.bytes(66), rng.bytes(66)) for j in self._held}
            return super().reveal(quorum)

    session = Session(Terms.agreed(clients=n, length=updates.shape[1], bound=1.0), updates, Liar)
    server, outbox = session.server, session.everyone()
    for stage, step in zip(STAGES, (server.roster, server.inboxes, server.survivors, server.quorum, server.total), strict=True):
        replies = dict[int, bytes]()
        for i, message in outbox.items():
            try:
                replies |= session.stage(stage, {i: message})
            except SecureAggregationError:
                continue
        outbox = step(replies)
    return Tally(outbox.total, frozenset(outbox.survivors), frozenset(outbox.refused))
