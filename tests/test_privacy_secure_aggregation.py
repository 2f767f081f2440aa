"""The protocol end to end: exact sums, drop-outs at every stage, and networks and servers that lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_impl.privacy.secure_aggregation import (
    Client,
    Least,
    SecureAggregationError,
    Server,
    Terms,
    secure_sum,
)
from fl_impl.privacy.secure_aggregation.channel import mailbox_key, sign, unseal
from fl_impl.privacy.secure_aggregation.frames import pack, pack_numbers, unpack, unpack_numbers
from fl_impl.privacy.secure_aggregation.messages import complaint_body, view_digest

STAGES = ("advertise", "share", "confirm", "mask", "agree", "reveal")
STEPS = ("roster", "inboxes", "sharers", "survivors", "quorum", "total")
BEFORE_MASKED = STAGES[:4]
N, D = 10, 40


def updates(n=N, d=D, seed=0):
    return dict(enumerate(np.random.default_rng(seed).uniform(-1, 1, (n, d))))


def terms(n=N, d=D, dropouts=3, **options):
    return Terms(n, d, 1.0, dropouts, n // 10, **options)


def total(x, numbers):
    return np.sum([x[i] for i in numbers], axis=0)


def assert_sum(result, x, agreed, numbers):
    assert result.survivors == tuple(sorted(numbers))
    np.testing.assert_allclose(result.total, total(x, numbers), rtol=0, atol=len(x) * agreed.encoding.step)


class Session:
    """Server and clients stepped by hand, so that a test can change either, or what goes between them."""

    def __init__(self, agreed=None, x=None):
        self.terms, self.x = agreed or terms(), x or updates()
        self.secret = {i: Ed25519PrivateKey.generate() for i in self.x}
        self.public = public = {i: key.public_key() for i, key in self.secret.items()}
        self.identity = Ed25519PrivateKey.generate()
        self.server = Server(self.terms, self.identity, public)
        self.clients = {i: Client(i, self.secret[i], self.identity.public_key(), public) for i in self.x}
        self.outbox = dict.fromkeys(self.clients, self.server.open())

    def until(self, stage):
        for name in STAGES[: STAGES.index(stage)]:
            self.deliver(name)
        return self

    def deliver(self, stage):
        replies = {i: self.step(i, stage, message) for i, message in self.outbox.items()}
        server = dict(zip(STAGES, STEPS, strict=True))[stage]
        self.outbox = getattr(self.server, server)(replies)
        return self.outbox

    def step(self, i, stage, message):
        extra = (self.x[i],) if stage == "mask" else ()
        return getattr(self.clients[i], stage)(message, *extra)

    def sent_to(self, i, kind):
        """The fields of what the server has for client i."""
        return unpack(unseal(mailbox_key(self.server._mailboxes[i], kind), self.outbox[i], kind))

    def forged(self, i, kind, *fields):
        """A message to client i such as only the server can seal."""
        return self.server._sealed(kind, i, pack(*fields))


@pytest.mark.parametrize("n", [2, 3, 10, 20])
def test_sum_is_exact_on_the_grid(n):
    x, agreed = updates(n), Terms.agreed(clients=n, length=D, bound=1.0)
    result = secure_sum(x, agreed)
    assert_sum(result, x, agreed, x)
    steps = result.total / agreed.encoding.step
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)


@pytest.mark.parametrize("extreme", [1.0, -1.0])
def test_extremes_do_not_overflow(extreme):
    x = {i: np.full(3, extreme) for i in range(12)}
    assert secure_sum(x, Terms.agreed(clients=12, length=3, bound=1.0)).total == pytest.approx(12 * extreme)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lost", [(0,), (2, 9), (4, 5, 6)])
def test_drop_out_at_every_stage(stage, lost):
    x, agreed = updates(), terms()
    result = secure_sum(x, agreed, network=lambda at, i, m: None if at == stage and i in lost else m)
    came = set(x) - set(lost) if stage in BEFORE_MASKED else set(x)
    assert_sum(result, x, agreed, came)


def test_one_drops_out_at_each_of_three_stages():
    x, agreed = updates(), terms()
    leaves = {0: "advertise", 1: "share", 2: "mask"}
    result = secure_sum(x, agreed, network=lambda at, i, m: None if leaves.get(i) == at else m)
    assert_sum(result, x, agreed, range(3, N))


@pytest.mark.parametrize("stage", STAGES)
def test_aborts_below_the_minimum(stage):
    def network(at, i, message):
        return None if at == stage and i < 4 else message

    with pytest.raises(SecureAggregationError, match="6 clients remain of 10, and 7 must"):
        secure_sum(updates(), terms(), network=network)


def flipped(message):
    return message[:-9] + bytes([message[-9] ^ 1]) + message[-8:]


DAMAGE = {
    "flipped": flipped,
    "first bit": lambda m: bytes([m[0] ^ 1]) + m[1:],
    "truncated": lambda m: m[:-5],
    "lengthened": lambda m: m + b"\0",
    "empty": lambda m: m[:0],
    "other bytes": lambda m: bytes(len(m)),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_tampered_message_is_refused_and_counts_as_lost(stage, damage):
    x, agreed = updates(), terms()
    result = secure_sum(x, agreed, network=lambda at, i, m: DAMAGE[damage](m) if at == stage and i == 3 else m)
    assert set(result.refused) == {3}
    assert_sum(result, x, agreed, set(x) - {3} if stage in BEFORE_MASKED else set(x))


@pytest.mark.parametrize("stage", STAGES)
def test_a_message_in_the_name_of_another_is_refused(stage):
    x, agreed, seen = updates(), terms(), {}

    def network(at, i, message):
        seen[at, i] = message
        return seen[at, 2] if at == stage and i == 3 else message

    result = secure_sum(x, agreed, network=network)
    assert set(result.refused) == {3}


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_message_of_an_earlier_stage_or_session_is_refused(stage):
    recorded = {}
    agreed = terms()
    secure_sum(updates(), agreed, network=lambda at, i, m: recorded.setdefault((at, i), m))
    for replayed in ((stage, 3), (STAGES[STAGES.index(stage) - 1], 3)):
        again = terms(session=agreed.session)
        old = recorded[replayed]
        result = secure_sum(updates(), again, network=lambda at, i, m, old=old: old if (at, i) == (stage, 3) else m)
        assert set(result.refused) == {3}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_client_refuses_a_tampered_message_and_says_nothing_more(stage, damage):
    session = Session().until(stage)
    with pytest.raises(SecureAggregationError):
        session.step(3, stage, DAMAGE[damage](session.outbox[3]))
    with pytest.raises(SecureAggregationError, match="it is to nothing more next"):
        session.step(3, stage, session.outbox[3])


@pytest.mark.parametrize("stage", STAGES)
def test_each_step_is_taken_once(stage):
    session = Session().until(stage)
    message = session.outbox[3]
    session.deliver(stage)
    with pytest.raises(SecureAggregationError, match=f"client 3 was asked to {stage}; it is to"):
        session.step(3, stage, message)


def test_a_second_unmasking_is_refused():
    session = Session().until("reveal")
    others = frozenset(range(8))
    digest = view_digest(session.terms, session.server._coin, range(N), others)
    lie = [sign(session.secret[i], "agreement", digest) for i in sorted(others)]
    session.clients[0].reveal(session.outbox[0])
    with pytest.raises(SecureAggregationError, match="asked to reveal; it is to nothing more"):
        session.clients[0].reveal(session.forged(0, "quorum", pack_numbers(sorted(others)), *lie))


class TestServerThatLies:
    def test_overlapping_lists(self):
        session = Session().until("agree")
        message = session.forged(0, "survivors", pack_numbers(range(N)), pack_numbers([9]))
        with pytest.raises(SecureAggregationError, match=r"clients \[9\] are said to be both alive and dropped"):
            session.clients[0].agree(message)

    @pytest.mark.parametrize(
        ("alive", "dropped", "message"),
        [
            (range(8), [8], "not together those who shared"),
            (range(N), [10], "not together those who shared"),
            (range(6), range(6, N), "6 clients remain, and 7 must"),
            (range(1, N), [0], "lacks client 0"),
            ([0, 0, *range(2, N)], [1], "names one of them twice"),
        ],
    )
    def test_impossible_lists(self, alive, dropped, message):
        session = Session().until("agree")
        with pytest.raises(SecureAggregationError, match=message):
            session.clients[0].agree(session.forged(0, "survivors", pack_numbers(alive), pack_numbers(dropped)))

    def test_different_survivors_to_different_clients(self):
        """Told that 9 dropped, half of the clients would give its mask key, the others its self mask: all of it."""
        session = Session().until("agree")
        told = {i: session.forged(i, "survivors", pack_numbers(range(9)), pack_numbers([9])) for i in range(5)}
        agreed = {i: session.clients[i].agree(told.get(i, session.outbox[i])) for i in session.clients}
        quorum = pack_numbers(sorted(agreed)), *(agreed[i] for i in sorted(agreed))
        for i in (0, 7):
            with pytest.raises(SecureAggregationError, match=r"cannot be there|was told of other survivors"):
                session.clients[i].reveal(session.forged(i, "quorum", *quorum))

    def test_too_few_agreements(self):
        session = Session().until("reveal")
        numbers, *agreements = session.sent_to(0, "quorum")
        short = session.forged(0, "quorum", numbers[: 4 * 6], *agreements[:6])
        with pytest.raises(SecureAggregationError, match=r"6 clients remain, and 7 must|expected 7 agreements"):
            session.clients[0].reveal(short)

    def test_keys_of_its_own_for_a_client(self):
        session = Session().until("share")
        coin, numbers, near, *rest = session.sent_to(0, "roster")
        forged = sign(session.identity, "advertisement", unpack(rest[0])[0])
        with pytest.raises(SecureAggregationError, match="not signed by who should have sent it"):
            session.clients[0].share(session.forged(0, "roster", coin, numbers, near, forged, *rest[1:]))

    def test_a_holder_left_out(self):
        session = Session().until("share")
        coin, numbers, near, *rest = session.sent_to(0, "roster")
        with pytest.raises(SecureAggregationError, match="keys of 9 holders"):
            session.clients[0].share(session.forged(0, "roster", coin, numbers, near[:-4], *rest[:-1]))

    def test_a_client_that_did_not_draw_this_one(self):
        session = Session(Terms(60, 4, 1.0, 10, 6), updates(60, 4)).until("share")
        coin, numbers, near, *rest = session.sent_to(0, "roster")
        other = next(i for i in range(1, 60) if i not in unpack_numbers(near))
        more = session.server._keys[other].message
        with pytest.raises(SecureAggregationError, match=f"client {other} has not drawn client 0"):
            session.clients[0].share(session.forged(0, "roster", coin, numbers, near + pack_numbers([other]), *rest, more))

    def test_another_coin_than_it_committed_to(self):
        session = Session().until("share")
        _, *rest = session.sent_to(0, "roster")
        with pytest.raises(SecureAggregationError, match="not the one that it committed to"):
            session.clients[0].share(session.forged(0, "roster", bytes(32), *rest))

    def test_a_box_changed(self):
        """No complaint of the dealer, which would then open the true box: the server is at fault."""
        session = Session().until("confirm")
        first, *rest = session.sent_to(0, "inbox")
        fields = unpack(first)
        changed = pack(fields[0], flipped(fields[1]), *fields[2:])
        with pytest.raises(SecureAggregationError, match="from client 1 to client 0 is not the one that it signed"):
            session.clients[0].confirm(session.forged(0, "inbox", changed, *rest))

    def test_a_complaint_that_nobody_signed(self):
        session = Session().until("mask")
        complaint = sign(session.identity, "complaint", complaint_body(session.terms, 1, 0))
        with pytest.raises(SecureAggregationError, match="not signed by who should have sent it"):
            session.clients[0].mask(session.forged(0, "sharers", pack_numbers(range(N)), complaint), session.x[0])

    def test_two_lists_of_sharers_are_signed_differently(self):
        session = Session().until("mask")
        for i, sharers in ((0, range(N)), (1, range(N - 1))):
            session.clients[i].mask(session.forged(i, "sharers", pack_numbers(sharers)), session.x[i])
        alive = pack_numbers(range(N - 1))
        signed = [session.clients[i].agree(session.forged(i, "survivors", alive, gone))
                  for i, gone in ((0, pack_numbers([N - 1])), (1, b""))]  # fmt: skip
        assert unpack(signed[0])[0] != unpack(signed[1])[0]

    def test_a_session_of_before(self):
        session = Session()
        again = Client(0, session.secret[0], session.identity.public_key(), session.public, seen={session.terms.session})
        with pytest.raises(SecureAggregationError, match="the server is replaying it"):
            again.advertise(session.outbox[0])

    @pytest.mark.parametrize(
        ("least", "words"),
        [
            (Least(noise_std=1.0), "noise of 0, where 1 is the least"),
            (Least(bound=0.5), "a bound of 1, where 0.5 is the greatest"),
            (Least(honest=8), "a sum of 6, where 8 is the least"),
            (Least(corrupt=2), "a number of corrupt clients of 1, where 2 is the least"),
        ],
    )
    def test_terms_below_what_a_client_insists_on(self, least, words):
        session = Session()
        client = Client(0, session.secret[0], session.identity.public_key(), session.public, least=least)
        with pytest.raises(SecureAggregationError, match=words):
            client.advertise(session.outbox[0])

    @pytest.mark.parametrize(
        "unsafe", [{"dropouts": 5}, {"corrupt": 0}, {"bound": 0.0}, {"length": 0}, {"noise_std": math.nan}]
    )
    def test_unsafe_terms(self, unsafe):
        session, safe = Session(), terms()
        bad = Terms(**{**{name: getattr(safe, name) for name in safe.__dataclass_fields__}, **unsafe})
        key = session.server._channel.public_key().public_bytes_raw()
        opening = sign(session.identity, "opening", pack(bad.to_bytes(), key, bytes(32)))
        with pytest.raises(SecureAggregationError, match=r"must remain|expected"):
            session.clients[0].advertise(opening)


def test_a_client_that_reveals_false_shares_is_named_and_the_others_are_enough():
    session = Session().until("reveal")
    held = session.clients[2]._held
    session.clients[2]._held = dict.fromkeys(held, ((1, 2), (3, 4)))
    result = session.deliver("reveal")
    assert set(result.refused) == {2}
    assert_sum(result, session.x, session.terms, session.x)


def test_two_sessions_mask_one_update_differently_and_uniformly():
    """What the server opens of the zero update is uniform over bytes, the greatest included, and new in each session."""
    x = {i: np.zeros(50_000) for i in range(3)}
    seen = []
    for _ in range(2):
        session = Session(terms(3, 50_000, dropouts=0), x).until("mask")
        message = session.step(0, "mask", session.outbox[0])
        seen.append(np.frombuffer(unpack(session.server._opened("masked", 0, message))[1], np.uint8))
    for bytes_ in (*seen, seen[0] - seen[1]):
        counts = np.bincount(bytes_, minlength=256)
        excess = ((counts - bytes_.size / 256) ** 2).sum() / (bytes_.size / 256)
        assert abs(excess - 255) < 6 * math.sqrt(2 * 255)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.01])
def test_a_client_refuses_what_it_cannot_encode(bad):
    session = Session().until("mask")
    update = session.x[0].copy()
    update[1] = bad
    with pytest.raises(ValueError, match=r"must be finite|beyond the bound"):
        session.clients[0].mask(session.outbox[0], update)


def test_length_is_checked():
    session = Session().until("mask")
    with pytest.raises(ValueError, match=r"of length 40; got shape \(3,\)"):
        session.clients[0].mask(session.outbox[0], np.zeros(3))
