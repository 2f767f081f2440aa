"""Clients of `fl_impl.privacy.secure_aggregation` that send anything, and terms that a client should refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from fl_impl.privacy.secure_aggregation import Client, Least, Server, Terms, secure_sum
from fl_impl.privacy.secure_aggregation import dealing as dealings
from fl_impl.privacy.secure_aggregation.channel import sign
from fl_impl.privacy.secure_aggregation.dealing import BOX_BYTES, PAIR_BYTES, Dealt, Leaf
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError, pack, pack_numbers, unpack
from fl_impl.privacy.secure_aggregation.messages import complaint_body
from pytest_fl.subjects.parts import Tally, Updates

Spoil = Callable[[Any, bytes], bytes]
"""(client, its honest message) -> what it sends."""


def _sealed(kind: str, made: Callable[[Any], bytes]) -> Spoil:
    return lambda client, _: client._sealed(kind, made(client))  # noqa: SLF001  # a client spoils its own message


def _zero_key(place: int) -> Spoil:
    """An advertisement with a key of zero bytes."""

    def spoil(client: Any, message: bytes) -> bytes:
        body = unpack(unpack(message, 2)[0])
        body[place] = bytes(32)
        return sign(client._identity, "advertisement", pack(*body))  # noqa: SLF001  # its own

    return spoil


def _dealt_anew(change: Callable[[Any, Leaf], Leaf], *, key: bool = False) -> Spoil:
    """Shares that are committed to and proven as they should be, over leaves that are not."""

    def spoil(client: Any, _: bytes) -> bytes:
        honest: Dealt = client._dealt  # noqa: SLF001  # its own
        masking = dealings.Ed25519PrivateKey.generate() if key else client._masking  # noqa: SLF001  # its own
        leaves = [change(client, leaf) for leaf in honest.leaves]
        root = dealings.rooted(leaves)
        remade = _reproven(client, masking, root)
        signed = sign(client._identity, "dealing", remade.to_bytes())  # noqa: SLF001  # its own
        fields = (field for leaf in leaves for field in (leaf.box, *leaf.commitments))
        return client._sealed("shares", pack(signed, *fields))  # noqa: SLF001  # its own

    return spoil


def _reproven(client: Any, masking: Any, root: bytes) -> dealings.Dealing:
    """A dealing with that root and random lines, of which the proof at 0 holds."""
    terms, blank = client.terms, client._dealt.dealing  # noqa: SLF001  # its own
    scalar, point = dealings.nonce()
    made = dealings.Dealing(blank.session, blank.dealer, root, point, (), ())
    public = masking.public_key().public_bytes_raw()
    response = scalar + dealings.challenge(point, public, made.statement) * dealings.scalar_of(masking)
    line = tuple(int(x) for x in np.random.default_rng().integers(1, 2**60, terms.threshold))
    return dealings.Dealing(blank.session, blank.dealer, root, point, line, (response % dealings.ORDER, *line[1:]))


def _false_shares(client: Any, message: bytes) -> bytes:
    del message
    held = sorted(client._held.keys() & client._sharers)  # noqa: SLF001  # its own
    return client._sealed("reveal", pack(pack_numbers(held), *(bytes(PAIR_BYTES) for _ in held)))  # noqa: SLF001  # its own


def _short_boxes(client: Any, leaf: Leaf) -> Leaf:
    """Shares one byte short, sealed as they should be."""
    if leaf.holder == client.number:
        return leaf
    peer = client._peers[leaf.holder]  # noqa: SLF001  # its own
    key = dealings.box_key(client._box_secret, leaf.holder)  # noqa: SLF001  # its own
    body = bytes(2 * PAIR_BYTES - 1)
    box = dealings._sealed_box(client.terms.session, client.number, leaf.holder, peer.channel, key, body)  # noqa: SLF001  # its own  # pyright: ignore[reportPrivateUsage]
    return Leaf(leaf.holder, box, leaf.commitments)


def _empty(client: Any) -> bytes:
    del client
    return b""


def _nothing(client: Any, message: bytes) -> bytes:
    del client, message
    return b""


def _as_it_was(client: Any, leaf: Leaf) -> Leaf:
    del client
    return leaf


def _garbage_boxes(client: Any, leaf: Leaf) -> Leaf:
    return leaf if leaf.holder == client.number else Leaf(leaf.holder, bytes(BOX_BYTES), leaf.commitments)


def _one_garbage_box(client: Any, message: bytes) -> bytes:
    """One holder gets garbage, all others what they should: not to be taken for a holder that complains falsely."""
    del message
    channels = {i: client._peers[i].channel for i in client._holders}  # noqa: SLF001  # its own
    channels[min(channels)] = dealings.X25519PrivateKey.generate().public_key().public_bytes_raw()
    dealt = dealings.deal(
        client.terms.session, client.number, client._self_seed, client._masking, channels,  # noqa: SLF001  # its own
        client.terms.threshold, client._box_secret,  # noqa: SLF001  # its own
    )  # fmt: skip
    client._dealt, client._held = dealt, {client.number: dealt.own}  # noqa: SLF001  # its own
    signed = sign(client._identity, "dealing", dealt.dealing.to_bytes())  # noqa: SLF001  # its own
    fields = (field for leaf in dealt.leaves for field in (leaf.box, *leaf.commitments))
    return client._sealed("shares", pack(signed, *fields))  # noqa: SLF001  # its own


def _false_complaint(client: Any, message: bytes) -> bytes:
    del message
    dealer = min(client._held.keys() - {client.number})  # noqa: SLF001  # its own
    body = complaint_body(client.terms, client.number, dealer)
    return client._sealed("confirmation", pack(sign(client._identity, "complaint", body)))  # noqa: SLF001  # its own


def _other_list(client: Any, message: bytes) -> bytes:
    del message
    return sign(client._identity, "agreement", bytes(32))  # noqa: SLF001  # its own


SABOTAGE: Final[Mapping[str, tuple[str, Spoil]]] = {
    "a masking key of zero bytes": ("advertise", _zero_key(3)),
    "a channel key of zero bytes": ("advertise", _zero_key(2)),
    "no advertisement": ("advertise", _nothing),
    "shares of nothing": ("share", _sealed("shares", _empty)),
    "shares that are cut": ("share", lambda _, message: message[:-1]),
    "shares one byte short": ("share", _dealt_anew(_short_boxes)),
    "garbage boxes": ("share", _dealt_anew(_garbage_boxes)),
    "one garbage box": ("share", _one_garbage_box),
    "shares on no line": ("share", _dealt_anew(_as_it_was)),
    "shares of another key": ("share", _dealt_anew(_as_it_was, key=True)),
    "a false complaint": ("confirm", _false_complaint),
    "a complaint of nobody": ("confirm", _sealed("confirmation", lambda _: pack(b"x"))),
    "words one short": ("mask", _sealed("masked", lambda client: pack(b"", bytes(4 * client.terms.length - 4)))),
    "nothing masked": ("mask", _sealed("masked", _empty)),
    "another list signed": ("agree", _other_list),
    "an empty reveal": ("reveal", _sealed("reveal", _empty)),
    "false shares revealed": ("reveal", _false_shares),
    "shares kept back": ("reveal", _sealed("reveal", lambda _: pack(b""))),
    "a reveal of other bytes": ("reveal", lambda _, message: bytes(len(message))),
}
"""What a hostile client does: at which stage, and what it sends there."""


def sabotaged(
    updates: Updates, liars: Mapping[int, str], rng: np.random.Generator, *, terms: Terms, server_class: type[Server] = Server
) -> Tally:
    """A session in which some clients lie. Raises where it aborts."""
    del rng

    class Liar(Client):
        """A client that is honest but for one message."""

    for stage in {SABOTAGE[kind][0] for kind in liars.values()}:
        setattr(Liar, stage, _lying(stage, liars))
    summed = secure_sum(dict(enumerate(updates)), terms, client_class=Liar, server_class=server_class)
    moot = frozenset(holder for holder, _ in summed.unsettled)
    return Tally(summed.total, frozenset(summed.survivors), frozenset(summed.refused), moot)


def _lying(stage: str, liars: Mapping[int, str]) -> Callable[..., bytes]:
    def method(client: Any, *arguments: Any) -> bytes:
        message = getattr(Client, stage)(client, *arguments)
        kind = liars.get(client.number)
        return message if kind is None or SABOTAGE[kind][0] != stage else SABOTAGE[kind][1](client, message)

    return method


def dishonest_terms(client_class: type[Client] = Client) -> dict[str, Callable[[int], object]]:
    """Offers that a client must refuse which wants noise 1, a bound of 1, and what `Terms.agreed` gives else."""
    return {
        "no noise": _offered(client_class, noise_std=0.0),
        "half the noise": _offered(client_class, noise_std=0.5),
        "a bound of 1e9": _offered(client_class, bound=1e9),
        "no bound": _offered(client_class, bound=np.inf),
        "one more that may leave": _more_may_leave(client_class, 1),
        "nearly all that may leave": _more_may_leave(client_class, 10**9),
        "a session of before": _again(client_class),
    }


def _offered(client_class: type[Client], **changes: Any) -> Callable[[int], object]:
    def made(n: int) -> object:
        honest = _wanted(n)
        return _asked(client_class, honest, n).advertise(_opening(replace(honest, **changes)))

    return made


def _more_may_leave(client_class: type[Client], more: int) -> Callable[[int], object]:
    def made(n: int) -> object:
        honest = _wanted(n)
        offered = replace(honest, dropouts=min(honest.dropouts + more, n - 2))
        if offered == honest:
            raise SecureAggregationError("these terms are no worse")
        return _asked(client_class, honest, n).advertise(_opening(offered))

    return made


def _wanted(n: int) -> Terms:
    return Terms.agreed(clients=n, length=2, bound=1.0, noise_std=1.0)


def _again(client_class: type[Client]) -> Callable[[int], object]:
    def made(n: int) -> object:
        honest = _wanted(n)
        client = _asked(client_class, honest, n)
        client._seen.add(honest.session)  # noqa: SLF001  # it took part in it
        return client.advertise(_opening(honest))

    return made


_SERVER: Final = dealings.Ed25519PrivateKey.generate()


def _opening(terms: Terms) -> bytes:
    channel = dealings.X25519PrivateKey.generate().public_key().public_bytes_raw()
    return sign(_SERVER, "opening", pack(terms.to_bytes(), channel, bytes(32)))


def _asked(client_class: type[Client], honest: Terms, n: int) -> Any:
    identities = {i: dealings.Ed25519PrivateKey.generate() for i in range(n)}
    public = {i: key.public_key() for i, key in identities.items()}
    return client_class(0, identities[0], _SERVER.public_key(), public, least=Least.of(honest))
