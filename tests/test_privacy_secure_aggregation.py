"""The protocol end to end: exact sums, drop-outs at every stage, and networks and servers that lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_impl.privacy import seeded
from fl_impl.privacy.secure_aggregation import Client, SecureAggregationError, Server, Terms, secure_sum
from fl_impl.privacy.secure_aggregation.channel import sign
from fl_impl.privacy.secure_aggregation.client import survivors_digest
from fl_impl.privacy.secure_aggregation.frames import pack, pack_numbers, unpack

STAGES = ("advertise", "share", "mask", "agree", "reveal")
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
        public = {i: key.public_key() for i, key in self.secret.items()}
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
        server = dict(zip(STAGES, ("roster", "inboxes", "survivors", "quorum", "total"), strict=True))[stage]
        self.outbox = getattr(self.server, server)(replies)
        return self.outbox

    def step(self, i, stage, message):
        extra = (self.x[i],) if stage == "mask" else ()
        return getattr(self.clients[i], stage)(message, *extra)

    def forged(self, i, kind, *fields):
        """A message to client i such as only the server can seal."""
        return self.server._sealed(kind, i, pack(*fields))


@pytest.mark.parametrize("n", [2, 3, 10, 20])
def test_sum_is_exact_on_the_grid(n):
    x, agreed = updates(n), Terms.agreed(clients=n, length=D, bound=1.0)
    result = secure_sum(x, agreed)
    assert_sum(result, x, agreed, x)
    integers = np.sum([agreed.encoding.encode(row) for row in x.values()], axis=0)
    np.testing.assert_array_equal(result.total, agreed.encoding.decode(integers))


@pytest.mark.parametrize("extreme", [1.0, -1.0])
def test_extremes_do_not_overflow(extreme):
    x = {i: np.full(3, extreme) for i in range(12)}
    assert secure_sum(x, Terms.agreed(clients=12, length=3, bound=1.0)).total == pytest.approx(12 * extreme)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lost", [(0,), (2, 9), (4, 5, 6)])
def test_drop_out_at_every_stage(stage, lost):
    x, agreed = updates(), terms()
    result = secure_sum(x, agreed, network=lambda at, i, m: None if at == stage and i in lost else m)
    came = set(x) - set(lost) if stage in STAGES[:3] else set(x)
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
    assert_sum(result, x, agreed, set(x) - {3} if stage in STAGES[:3] else set(x))


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
    digest = survivors_digest(session.terms, others)
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
        numbers, *agreements = unpack(session.clients[0]._opened("quorum", session.outbox[0]))
        short = session.forged(0, "quorum", numbers[: 4 * 6], *agreements[:6])
        with pytest.raises(SecureAggregationError, match=r"6 clients remain, and 7 must|expected 7 agreements"):
            session.clients[0].reveal(short)

    def test_keys_of_its_own_for_a_client(self):
        session = Session().until("share")
        numbers, *rest = unpack(session.clients[0]._opened("roster", session.outbox[0]))
        forged = sign(session.identity, "advertisement", unpack(rest[0])[0])
        with pytest.raises(SecureAggregationError, match="not signed by who should have sent it"):
            session.clients[0].share(session.forged(0, "roster", numbers, forged, *rest[1:]))

    def test_a_neighbour_left_out(self):
        session = Session().until("share")
        numbers, *rest = unpack(session.clients[0]._opened("roster", session.outbox[0]))
        with pytest.raises(SecureAggregationError, match="keys of 9 neighbours, got 8"):
            session.clients[0].share(session.forged(0, "roster", numbers, *rest[:-1]))

    def test_boxes_kept_back(self):
        session = Session().until("mask")
        present, senders, *boxes = unpack(session.clients[0]._opened("inbox", session.outbox[0]))
        with pytest.raises(SecureAggregationError, match="not those of the neighbours that shared"):
            session.clients[0].mask(session.forged(0, "inbox", present, senders[:-4], *boxes[:-1]), session.x[0])

    def test_a_box_changed(self):
        session = Session().until("mask")
        present, senders, *boxes = unpack(session.clients[0]._opened("inbox", session.outbox[0]))
        changed = session.forged(0, "inbox", present, senders, flipped(boxes[0]), *boxes[1:])
        with pytest.raises(SecureAggregationError, match="the box from client 1 to client 0 is not authentic"):
            session.clients[0].mask(changed, session.x[0])

    @pytest.mark.parametrize(
        "unsafe", [{"dropouts": 5}, {"corrupt": 0}, {"bound": 0.0}, {"length": 0}, {"noise_std": math.nan}]
    )
    def test_unsafe_terms(self, unsafe):
        session, safe = Session(), terms()
        bad = Terms(**{**{name: getattr(safe, name) for name in safe.__dataclass_fields__}, **unsafe})
        opening = sign(session.identity, "opening", pack(bad.to_bytes(), bytes(32)))
        with pytest.raises(SecureAggregationError, match=r"must remain|expected"):
            session.clients[0].advertise(opening)


def test_a_client_that_reveals_false_shares_is_found_out():
    session = Session().until("reveal")
    held = session.clients[2]._held
    session.clients[2]._held = {j: (bytes(66), bytes(66)) for j in held}
    with pytest.raises(SecureAggregationError, match="gave a false one"):
        session.deliver("reveal")


def test_two_sessions_mask_one_update_differently_and_uniformly():
    """What the server opens of the zero update is uniform over bytes, the greatest included, and new in each session."""
    x = {i: np.zeros(50_000) for i in range(3)}
    seen = []
    for _ in range(2):
        session = Session(terms(3, 50_000, dropouts=0), x).until("mask")
        message = session.step(0, "mask", session.outbox[0])
        seen.append(np.frombuffer(session.server._opened("masked", 0, message), np.uint8))
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


@pytest.mark.parametrize("lost", [0, 3])
def test_distributed_noise_has_at_least_the_deviation_that_was_agreed(lost):
    d = 40_000
    agreed = terms(d=d, noise_std=5.0)
    x = {i: np.zeros(d) for i in range(N)}
    result = secure_sum(x, agreed, network=lambda at, i, m: None if at == "mask" and i < lost else m, randomness=seeded(lost))
    expected = 5.0 * math.sqrt((N - lost) / agreed.minimum)
    assert abs(np.mean(result.total**2) / expected**2 - 1) < 6 * math.sqrt(2 / d)
    assert expected >= 5.0


def test_sixty_clients_on_a_graph_of_neighbours():
    x, agreed = updates(60, 25), Terms(60, 25, 1.0, 10, 6)
    assert agreed.degree < 40
    lost = {1, 5, 7, 30, 59}
    result = secure_sum(x, agreed, network=lambda at, i, m: None if at == "mask" and i in lost else m)
    assert_sum(result, x, agreed, set(x) - lost)


def test_the_server_keeps_the_order_of_stages():
    session = Session()
    with pytest.raises(SecureAggregationError, match="its next step is roster"):
        session.server.survivors({})


@pytest.mark.parametrize(("clients", "dropouts"), [(2, 1), (10, 5), (1, 0), (10, -1)])
def test_terms_that_half_the_clients_could_be_split_under(clients, dropouts):
    with pytest.raises(SecureAggregationError, match=r"must remain|expected 2 to"):
        terms(clients, dropouts=dropouts).checked()
