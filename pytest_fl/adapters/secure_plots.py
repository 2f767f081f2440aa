"""What a lying server can try: each plot is a session, and what the server reads in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from fl_impl.privacy.secure_aggregation import Client, SecureAggregationError, Terms
from fl_impl.privacy.secure_aggregation.channel import sign
from fl_impl.privacy.secure_aggregation.dealing import reopened_box
from fl_impl.privacy.secure_aggregation.frames import pack, pack_numbers, unpack
from fl_impl.privacy.secure_aggregation.messages import complaint_body, view_digest
from pytest_fl.adapters.secure_sums import Plotted
from pytest_fl.subjects.parts import Plot, Updates


@dataclass(frozen=True)
class Offer:
    """What a lying server plays with: the terms that it offers, and the clients that it meets."""

    terms: Callable[[int, int], Terms]
    """(n, d) -> terms."""
    client: type[Client] = Client

    def start(self, updates: Updates, **options: Any) -> Plotted:
        """A session."""
        return Plotted(self.terms(*updates.shape), updates, self.client, **options)


def plots(offer: Offer) -> dict[str, Plot]:
    """All that the server tries, by name."""
    return {name: partial(_tried, offer, plot) for name, plot in PLOTS.items()}


def _tried(offer: Offer, plot: Callable[..., Iterator[Any]], updates: Updates, rng: np.random.Generator) -> list[Any]:
    try:
        return list(plot(offer, updates, rng))
    except SecureAggregationError:
        return []  # it is over, and nothing was read


def _victim(session: Plotted, rng: np.random.Generator) -> int:
    return int(rng.integers(len(session.updates) - len(session.partners)))


def _split_view(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """Half of the clients hear that the victim is alive, the others that it dropped: both of its secrets come out."""
    session = offer.start(updates)
    session.take_words(session.send("mask", session.until_masks()))
    session.take_partners()
    victim, everyone = _victim(session, rng), set(session.words)
    honest = [i for i in everyone if i != victim and i not in session.partners]
    half = (len(honest) + 1) // 2
    alive = dict.fromkeys([victim, *honest[: half - 1]], everyone) | {i: everyone - {victim} for i in honest[half - 1 :]}
    session.told(dict.fromkeys(everyone, everyone), alive)
    yield from session.read({victim})


def _split_sharers(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """Each of two groups hears that as many of the other as may never shared; both then reveal under one list."""
    session = offer.start(updates)
    outbox = session.until_masks()
    n, left = len(updates), session.terms.dropouts
    order = rng.permutation([i for i in range(n) if i not in session.partners]).tolist()
    groups = set(order[: len(order) // 2]), set(order[len(order) // 2 :])
    sharers = {
        i: set(range(n)) - set(order[-left:] if i in groups[0] else order[:left]) | {i} if left else set(range(n))
        for i in outbox
    }
    told = {i: session.server.to("sharers", i, pack_numbers(sorted(sharers[i]))) for i in outbox}
    session.take_words(session.send("mask", told))
    session.take_partners()
    session.told(sharers, sharers)
    for group in groups:
        yield from session.read(group)


def _late_drop(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """The victim's masked update comes, and all hear that it did not."""
    session = offer.start(updates)
    session.take_words(session.send("mask", session.until_masks()))
    session.take_partners()
    victim, everyone = _victim(session, rng), set(session.words)
    session.told(dict.fromkeys(everyone, everyone), dict.fromkeys(everyone - {victim}, everyone - {victim}))
    yield from session.read({victim})
    yield from session.read(everyone - {victim})


def _asked_twice(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """After the victim's self mask is revealed, all are asked again, for its masking key."""
    session = offer.start(updates)
    session.take_words(session.send("mask", session.until_masks()))
    session.take_partners()
    victim, everyone = _victim(session, rng), set(session.words)
    same = dict.fromkeys(everyone, everyone)
    session.told(same, same)
    session.told(same, dict.fromkeys(everyone - {victim}, everyone - {victim}))
    yield from session.read({victim})
    yield from session.read(everyone)


def _too_few(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """All but two of the clients are said to have dropped."""
    session = offer.start(updates)
    session.take_words(session.send("mask", session.until_masks()))
    session.take_partners()
    everyone = set(session.words)
    few = {_victim(session, rng), *session.partners, *sorted(everyone)[:1]}
    session.told(dict.fromkeys(everyone, everyone), {i: few for i in few})  # noqa: C420  # one set, which nobody changes
    yield from session.read(few)


def _chosen_drop_outs(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """As many as may leave are said to, chosen at each stage; then one more."""
    for extra in (0, 1):
        session = offer.start(updates)
        session.take_words(session.send("mask", session.until_masks()))
        session.take_partners()
        honest = rng.permutation(len(updates) - len(session.partners))
        alive = frozenset(session.words) - set(honest[: session.terms.dropouts + extra].tolist())
        everyone = frozenset(session.words)
        session.told(dict.fromkeys(everyone, everyone), dict.fromkeys(alive, alive))
        yield from session.read(alive)


def _replay(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """Agreements that clients signed in earlier sessions of the same name stand for those that they will not sign."""
    first = offer.start(updates)
    seen = {i: client._seen for i, client in first.clients.items()}  # noqa: SLF001  # what this identity remembers
    first.take_words(first.send("mask", first.until_masks()))
    again = Plotted(first.terms, updates, offer.client, first.identities, seen)
    again.take_words(again.send("mask", again.until_masks()))
    everyone = set(again.words)
    again.told(dict.fromkeys(everyone, everyone), dict.fromkeys(everyone, everyone))
    victim = _victim(first, rng)
    replayed = Plotted(first.terms, updates, offer.client, first.identities, seen)
    replayed.take_words(replayed.send("mask", replayed.until_masks()))
    replayed.take_partners()
    half = sorted(everyone - {victim})[: len(everyone) // 2]
    for alive, members in ((everyone, {victim, *half}), (everyone - {victim}, everyone - {victim, *half})):
        gone = pack_numbers(sorted(everyone - alive))
        lists = {i: replayed.server.to("survivors", i, pack_numbers(sorted(alive)), gone) for i in members if i in alive}
        replayed.send("agree", lists)
        digest = view_digest(first.terms, replayed.server.coin, everyone, alive)
        signed = {i: sign(first.identities[i], "agreement", digest) for i in alive}  # as earlier sessions gave them
        replayed.ask(lists, signed, alive)
    yield from replayed.read({victim})


def _seeds_of_before(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """The seeds of a session that went well are tried on the next, in which the victim is said to have dropped."""
    first = offer.start(updates)
    first.take_words(first.send("mask", first.until_masks()))
    everyone = set(first.words)
    first.told(dict.fromkeys(everyone, everyone), dict.fromkeys(everyone, everyone))
    session = offer.start(updates)
    session.take_words(session.send("mask", session.until_masks()))
    victim = _victim(session, rng)
    rest = everyone - {victim}
    session.told(dict.fromkeys(everyone, everyone), dict.fromkeys(rest, rest))
    session.shares |= {key: shares for key, shares in first.shares.items() if key == (victim, False)}
    yield from session.read({victim})


def _made_up_complaints(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """The victim hears that its holders complain, and is to open the boxes that it sent them."""
    session = offer.start(updates)
    outbox, present = session.until_masks(), pack_numbers(range(len(updates)))
    victim = _victim(session, rng)
    complaints = [
        sign(session.identity, "complaint", complaint_body(session.terms, holder, victim))
        for holder in session.server.near(victim)
    ]
    messages = outbox | {victim: session.server.to("sharers", victim, present, *complaints)}
    yield from _opened(session, victim, messages)


def _tampered_boxes(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """The boxes of the victim are spoilt on the way, so that its holders complain and it opens the true ones."""
    session = offer.start(updates)
    inboxes, victim = session.until_boxes(), _victim(session, rng)
    spoilt = dict[int, bytes]()
    for i, message in inboxes.items():
        fields = [unpack(delivery, 7) for delivery in session.server.sent("inbox", i, message)]
        for each in fields:
            if unpack(unpack(each[0], 2)[0])[1] == victim.to_bytes(4, "little"):
                each[1] = each[1][:-1] + bytes([each[1][-1] ^ 1])
        spoilt[i] = session.server.to("inbox", i, *(pack(*each) for each in fields))
    complaints = list[bytes]()
    confirmed = session.send("confirm", spoilt)
    for i, message in confirmed.items():
        complaints += unpack(session.server.read("confirmation", i, message))
    present = pack_numbers(sorted({*confirmed, victim}))
    yield from _opened(session, victim, {i: session.server.to("sharers", i, present, *complaints) for i in [victim]})


def _opened(session: Plotted, victim: int, outbox: Mapping[int, bytes]) -> Iterator[Any]:
    """Read the victim by the shares that it opened and those of the partners."""
    masked = session.send("mask", outbox)
    session.take_words(masked)
    session.take_partners()
    session.clients[victim]._sharers = frozenset(range(len(session.updates)))  # noqa: SLF001  # what it was told
    keys = unpack(unpack(session.server.read("masked", victim, masked[victim]), 2)[0]) if victim in masked else []
    holders = sorted(session.clients[victim]._holders)  # noqa: SLF001  # the server drew them as well
    dealer, masking = session.server.dealers[victim], session.server.keys[victim].masking
    for holder, key in zip(holders, keys, strict=False):
        channel = session.server.keys[holder].channel
        pairs = reopened_box(key, channel, dealer.dealing, dealer.leaves[holder], masking)
        for of_key, pair in zip((False, True), pairs, strict=True):
            session.shares.setdefault((victim, of_key), {})[holder + 1] = pair[0]
    yield from session.read({victim})


def _another_coin(offer: Offer, updates: Updates, rng: np.random.Generator) -> Iterator[Any]:
    """The server changes its coin after it has seen what clients contribute: whoever shares has not looked."""
    session = offer.start(updates)
    opened = session.send("advertise", dict.fromkeys(session.clients, session.server.open()))
    session.server.coin = rng.bytes(32)
    if session.send("share", session.server.roster(opened)):
        yield from updates  # it could have chosen the victim's holders


PLOTS: Final[Mapping[str, Callable[..., Iterator[Any]]]] = {
    "a split view": _split_view,
    "two lists of sharers": _split_sharers,
    "a drop-out after the fact": _late_drop,
    "asking twice": _asked_twice,
    "too few survivors": _too_few,
    "chosen drop-outs": _chosen_drop_outs,
    "replayed agreements": _replay,
    "seeds of an earlier session": _seeds_of_before,
    "complaints that nobody made": _made_up_complaints,
    "boxes spoilt on the way": _tampered_boxes,
    "another coin": _another_coin,
}
