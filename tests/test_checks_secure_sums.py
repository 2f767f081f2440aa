"""Secure sums against a server that lies and clients that send anything: each broken protocol is caught, ours passes."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_impl.privacy.fixed_point import FixedPoint
from fl_impl.privacy.secure_aggregation import Client, Least, Server, Terms, dealing, messages, terms
from fl_impl.privacy.secure_aggregation.channel import mailbox_key, seal
from fl_impl.privacy.secure_aggregation.curve import agreeing, montgomery
from fl_impl.privacy.secure_aggregation.dealing import box_key, pair_bytes
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError, pack, pack_numbers, unpack, unpack_numbers
from fl_impl.privacy.secure_aggregation.masks import add_mask, pair_mask_key, self_mask_key
from pytest_fl.adapters.hostile_clients import SABOTAGE
from pytest_fl.adapters.secure_plots import PLOTS
from pytest_fl.adapters.secure_protocol import protocol
from pytest_fl.checks import secure_aggregation
from pytest_fl.checks.parts import audits_of

READS, NAMES, REFUSES = (
    "a_lying_server_reads_no_smaller_sum",
    "hostile_clients_are_named_and_the_sum_goes_on",
    "clients_refuse_less_than_they_insist_on",
)


class ConstantSeed(Client):
    """The same self mask seed in every session."""

    def __init__(self, number, *rest, **options):
        super().__init__(number, *rest, **options)
        self._self_seed = hashlib.sha256(b"%d" % number).digest()[:31]


class PredictableKeys(ConstantSeed):
    """The same masking key as well."""

    def __init__(self, number, *rest, **options):
        super().__init__(number, *rest, **options)
        self._masking = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key %d" % number).digest())
        self._agreeing = agreeing(self._masking)


class AnswersTwice(Client):
    """Every question is answered, however often it is asked."""

    @contextlib.contextmanager
    def _turn(self, stage):
        del stage
        yield


class RevealsUnasked(Client):
    """No quorum of agreements is looked for."""

    def reveal(self, quorum):
        del quorum
        dealers = sorted(self._held.keys() & self._sharers)
        shares = (pair_bytes(self._held[dealer][dealer not in self._survivors]) for dealer in dealers)
        return self._sealed("reveal", pack(pack_numbers(dealers), *shares))


class BelievesTheQuorum(Client):
    """Agreements are counted, and nobody's signature is verified."""

    def reveal(self, quorum):
        signers = unpack_numbers(unpack(self._opened("quorum", quorum))[0])
        if len(signers) < self.terms.minimum // 2:
            raise SecureAggregationError("too few")
        return RevealsUnasked.reveal(self, quorum)


class RevealsTheKeyToo(Client):
    """The share of the masking key is given for everybody."""

    def reveal(self, quorum):
        body = unpack(self._read_own("reveal", super().reveal(quorum)), least=1)
        dealers = unpack_numbers(body[0])
        return self._sealed("reveal", pack(body[0], *(pair_bytes(self._held[i][1]) for i in dealers)))

    def _read_own(self, kind, message):
        return dealing.unseal(mailbox_key(self._mailbox, kind), message, "its own")


class NeverTooFew(Client):
    """Any number of clients is enough."""

    def _check_present(self, numbers, among):
        pass


class InsistsOnNothing(Client):
    """The server's terms, whatever they are."""

    def __init__(self, *rest, **options):
        super().__init__(*rest, **options)
        self.least = Least()


class Forgets(Client):
    """It does not know which sessions it took part in."""

    def __init__(self, *rest, **options):
        super().__init__(*rest, **{**options, "seen": None})
        self._seen = Forgetful()


class Forgetful(set):
    def add(self, session):
        pass

    def __contains__(self, session):
        return False


class OpensAnyBox(Client):
    """A complaint need not be signed by who complains."""

    def _box_key(self, complaint):
        return box_key(self._box_secret, int.from_bytes(unpack(unpack(complaint, 2)[0], 3)[1], "little"))


class AnyCoin(Client):
    """The coin need not be the one that was committed to."""

    def share(self, roster):
        numbers = unpack(self._opened("roster", roster), least=3)
        self._coin_commitment = hashlib.sha256(numbers[0]).digest()
        return super().share(roster)


class Unmasked(Client):
    """It forgets some masks."""

    def mask(self, outbox, update):
        sealed = super().mask(outbox, update)
        keys, data = unpack(RevealsTheKeyToo._read_own(self, "masked", sealed), 2)
        words = np.frombuffer(data, "<u4").copy()
        self._take_off(words)
        return seal(mailbox_key(self._mailbox, "masked"), pack(keys, words.tobytes()))


class NoSelfMask(Unmasked):
    def _take_off(self, words):
        add_mask(words, self_mask_key(self._self_seed, self.terms.session, self.number), subtract=True)


class NoPairMasks(Unmasked):
    def _take_off(self, words):
        for other in self._peers.keys() & self._sharers:
            point = montgomery(self._peers[other].masking)
            key = pair_mask_key(self._agreeing, point, self.terms.session, self.number, other)
            add_mask(words, key, subtract=self.number < other)


class BelievesShares(Server):
    """A share is what a client says it is."""

    def _share(self, holder, dealer, pair):
        return pair[0]


class BlamesDealers(Server):
    """Whoever is complained of has lied."""

    def _complained(self, number, message):
        against = super()._complained(number, message)
        self.refused |= dict.fromkeys(against, "somebody complained")
        return against


class BlamesHolders(Server):
    """Whoever complains has lied."""

    def _complained(self, number, message):
        against = super()._complained(number, message)
        if against:
            raise SecureAggregationError("it complains")
        return against


class BelievesKeys(Server):
    """Any 32 bytes are a key."""

    def _advertisement(self, number, message):
        found = messages.read_advertisement(self.terms, self._clients[number], number, message)
        with contextlib.suppress(SecureAggregationError):
            self._mailboxes[number] = bytes(32)
            self._mailboxes[number] = mailbox_of(self, found, number)
        return found


def mailbox_of(server, found, number):
    return dealing.agree(server._channel, found.channel, server.terms.session, b"mailbox", number.to_bytes(4, "little"))


class Stops(Server):
    """The first message that is wrong ends the session."""

    def _accepted(self, messages_, among, read):
        accepted = super()._accepted(messages_, among, read)
        if self.refused:
            raise SecureAggregationError("somebody lied")
        return accepted


class LeavesOutTheLast(Server):
    """Who was refused for anything is left out of the sum, after its update was added."""

    def total(self, reveals):
        summed = super().total(reveals)
        return replace(summed, survivors=tuple(i for i in summed.survivors if i not in summed.refused))


def constant(constant_term, threshold):
    return (constant_term, *(0 for _ in range(threshold - 1)))


def old_circle(n, degree, rng):
    """Neighbours on a shuffled circle, which is how few drop-outs cut it."""
    order = rng.permutation(n).tolist()
    return {order[i]: frozenset(order[(i + s) % n] for s in range(-(degree // 2), degree // 2 + 1) if s) for i in range(n)}


def named_by_the_server(n, degree, rng):
    """The server says who holds whose shares: its partners first."""
    partners = copy.deepcopy(rng).permutation(n).tolist()
    return {i: frozenset([j for j in partners if j != i][:degree]) for i in range(n)}


def patched(part, *patches):
    """The part with something replaced while it runs."""

    def within(function):
        def run(*arguments, **options):
            with contextlib.ExitStack() as stack:
                for target, name, value in patches:
                    stack.enter_context(mock.patch.object(target, name, value))
                return function(*arguments, **options)

        return run

    changed = {name: within(getattr(part, name)) for name in ("run", "masked_words", "sabotaged", "noise")}
    return replace(part, **changed, plots={name: within(plot) for name, plot in part.plots.items()})


def two_thirds_may_leave(n, d=1):
    return Terms(n, d, 1.0, (n - 1) // 2, n // 10)


def four_clients_fit(updates, network):
    step, total = 2.0**-20, np.zeros(updates.shape[1], np.int64)
    for i, row in enumerate(updates):
        total += np.frombuffer(network("masked", i, np.rint(row / step).astype(np.int64).tobytes()), np.int64)
    ring = 2**23
    return ((total + ring // 2) % ring - ring // 2) * step


def in_the_open(updates, network):
    del network
    return updates.sum(axis=0)


def reads_rows(updates, rng):
    del rng
    return list(updates)


UNCHECKED = (Terms, "checked", lambda self: self), (terms, "plan", lambda n, dropouts, corrupt: (n - 1, n - dropouts))
OURS = protocol()
BROKEN = {
    "seeds are constant": (protocol(client=ConstantSeed), READS),
    "seeds and keys are constant": (protocol(client=PredictableKeys), READS),
    "shares are the secret": (patched(OURS, (dealing, "polynomial", constant)), READS),
    "answers twice": (protocol(client=AnswersTwice), READS),
    "reveals without a quorum": (protocol(client=RevealsUnasked), READS),
    "believes the quorum": (protocol(client=BelievesTheQuorum), READS),
    "reveals the masking key": (protocol(client=RevealsTheKeyToo), "sum_is_exact"),
    "any number is enough": (protocol(client=NeverTooFew), READS),
    "half of the clients are enough": (
        patched(protocol(terms=lambda n, d=1: two_thirds_may_leave(n, d)), *UNCHECKED), READS),
    "insists on nothing": (protocol(client=InsistsOnNothing), REFUSES),
    "forgets its sessions": (protocol(client=Forgets), REFUSES),
    "opens any box": (protocol(client=OpensAnyBox), READS),
    "does not look at the dealer's signature": (patched(OURS, (messages, "belongs", lambda *_: True)), READS),
    "does not look at the coin": (protocol(client=AnyCoin), READS),
    "no self mask": (protocol(client=NoSelfMask), READS),
    "no pair masks": (protocol(client=NoPairMasks), READS),
    "a circle of neighbours": (protocol(graph=lambda n, degree, rng: old_circle(n, min(degree, 40), rng)), "chosen_drop_outs_sever_nothing"),
    "the server names the holders": (protocol(graph=named_by_the_server), "partners_hold_too_few_shares"),
    "noise for partners too": (
        patched(OURS, (Terms, "client_noise_std", property(lambda self: self.noise_std / self.minimum**0.5))),
        "noise_is_enough_without_the_partners"),
    "overflows with more clients than four": (replace(OURS, run=four_clients_fit, step=lambda n: 2.0**-20), "sum_is_exact"),
    "rounds toward zero": (patched(OURS, (FixedPoint, "rounded", lambda self, x, _: self.encode(x))), "sum_is_unbiased"),
    "believes shares": (protocol(server=BelievesShares), NAMES),
    "blames dealers": (protocol(server=BlamesDealers), NAMES),
    "blames holders": (protocol(server=BlamesHolders), NAMES),
    "believes keys": (protocol(server=BelievesKeys), NAMES),
    "stops at the first lie": (protocol(server=Stops), NAMES),
    "misstates who is in the sum": (protocol(server=LeavesOutTheLast), NAMES),
    "updates in the open": (replace(OURS, run=in_the_open, plots={"looking": reads_rows}), READS),
}  # fmt: skip


@functools.cache
def check_named(name):
    return next(check for check in audits_of(OURS) if check.name == name)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_secure_sum_is_caught(name):
    part, check = BROKEN[name]
    sizes = (2, 5) if check == NAMES else (5, 17)
    with mock.patch.object(secure_aggregation, "SIZES", sizes), mock.patch.object(secure_aggregation, "_some", all_of):
        assert first_finding(check_named(check).judge(part, np.random.default_rng(0)))


def first_finding(bounds):
    """Why a check fails; empty where it does not."""
    try:
        return next((bound.reason for bound in bounds if not bound.holds), "")
    except SecureAggregationError as error:
        return f"it aborts: {error}"


def all_of(kinds, *_):
    return list(kinds.items())


def test_ours_keeps_every_claim():
    with mock.patch.object(secure_aggregation, "SIZES", (2, 5, 17)):
        findings = {check.name: first_finding(check.judge(OURS, np.random.default_rng(1))) for check in audits_of(OURS)}
    assert {name: finding for name, finding in findings.items() if finding} == {}
    assert len(findings) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ours_keeps_every_claim_with_other_seeds(seed):
    assert {first_finding(check.judge(OURS, np.random.default_rng(seed))) for check in audits_of(OURS)} == {""}


def test_what_is_tried():
    assert len(PLOTS) >= 10
    assert len(SABOTAGE) >= 15
