"""The parts of secure aggregation: shares, masks, frames, channels, the graph."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import binom, hypergeom

from fl_impl.privacy.secure_aggregation import Client, Terms, secure_sum
from fl_impl.privacy.secure_aggregation.channel import agree, seal, sign, unseal
from fl_impl.privacy.secure_aggregation.client import STAGES
from fl_impl.privacy.secure_aggregation.curve import (
    ORDER,
    _ladder,
    agreeing,
    challenge,
    exchange,
    montgomery,
    nonce,
    proven,
    scalar_of,
)
from fl_impl.privacy.secure_aggregation.dealing import (
    Dealing,
    belongs,
    box_key,
    committed,
    deal,
    opened_box,
    paths,
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
from fl_impl.privacy.secure_aggregation.graph import (
    _holds,
    _log_tail,
    _tail,
    holder_seed,
    holders,
    most_complaints,
    plan,
)
from fl_impl.privacy.secure_aggregation.masks import BLOCK_WORDS, add_mask, pair_mask_key
from fl_impl.privacy.secure_aggregation.messages import complaint_body
from fl_impl.privacy.secure_aggregation.shamir import combine, polynomial, value


class TestShamir:
    @pytest.mark.parametrize(("n", "threshold"), [(1, 1), (3, 2), (5, 5), (20, 14)])
    def test_any_threshold_shares_give_the_secret(self, n, threshold):
        secret = int.from_bytes(os.urandom(31), "little")
        line = polynomial(secret, threshold)
        shares = {point: value(line, point) for point in range(1, n + 1)}
        for points in itertools.islice(itertools.combinations(shares, threshold), 50):
            assert combine({point: shares[point] for point in points}) == secret

    def test_fewer_shares_fit_every_secret(self):
        """Through two points and any value at 0 goes one polynomial of degree 2: two shares of three exclude nothing."""
        first, other = polynomial(5, 3), polynomial(5, 3)
        shares = {point: value(first, point) for point in (1, 2, 3)}
        assert value(other, 1) != shares[1]
        assert combine({**shares, 3: value(other, 3)}) != 5
        assert combine({1: shares[1], 2: shares[2]}) != 5

    @pytest.mark.parametrize(("secret", "threshold"), [(0, 0), (ORDER, 1), (-1, 2)])
    def test_arguments_are_checked(self, secret, threshold):
        with pytest.raises(ValueError, match="expected a threshold of 1 or more and a secret below the order"):
            polynomial(secret, threshold)


class TestCurve:
    def test_one_scalar_agrees_and_signs(self):
        mine, other = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        point = montgomery(mine.public_key().public_bytes_raw())
        assert agreeing(mine).public_key().public_bytes_raw() == point
        shared = agreeing(mine).exchange(other.public_key())
        public = other.public_key().public_bytes_raw()
        assert exchange(scalar_of(mine) % ORDER, public) == exchange(-scalar_of(mine) % ORDER, public) == shared
        assert _ladder(scalar_of(mine), public) == shared

    def test_scalars_that_x25519_cannot_take_go_up_the_ladder(self):
        public = X25519PrivateKey.generate().public_key().public_bytes_raw()
        assert exchange(8, public) == _ladder(8, public)
        with pytest.raises(ValueError, match="neutral element"):
            exchange(8, bytes(32))

    def test_a_response_is_a_signature_of_who_knows_the_secret(self):
        mine = Ed25519PrivateKey.generate()
        public = mine.public_key().public_bytes_raw()
        for _ in range(20):
            scalar, point = nonce()
            response = (scalar + challenge(point, public, b"m") * scalar_of(mine)) % ORDER
            assert proven(public, point, response, b"m")
            assert not proven(public, point, response, b"n")
            assert not proven(public, point, (response + 1) % ORDER, b"m")


class TestDealing:
    @pytest.fixture
    def dealt(self):
        self.masking = Ed25519PrivateKey.generate()
        self.public = self.masking.public_key().public_bytes_raw()
        self.private = {i: X25519PrivateKey.generate() for i in (0, 2, 3, 9)}
        channels = {i: key.public_key().public_bytes_raw() for i, key in self.private.items()}
        self.channels = channels
        return deal(b"session", 5, b"s" * 31, self.masking, channels, 3, b"b" * 32)

    def test_every_holder_reads_its_own_and_three_open_both_secrets(self, dealt):
        pairs = {leaf.holder: opened_box(self.private[leaf.holder], dealt.dealing, leaf, self.public)
                 for leaf in dealt.leaves if leaf.holder != 5}  # fmt: skip
        pairs[5] = dealt.own
        for secret, expected in ((0, int.from_bytes(b"s" * 31, "little")), (1, scalar_of(self.masking) % ORDER)):
            for holders_ in itertools.combinations(pairs, 3):
                assert combine({i + 1: pairs[i][secret][0] for i in holders_}) == expected
        assert dealt.dealing.proves(self.public)
        assert Dealing.from_bytes(dealt.dealing.to_bytes(), 3) == dealt.dealing

    def test_each_leaf_belongs_at_its_place_alone(self, dealt):
        for place, (leaf, hashes) in enumerate(zip(dealt.leaves, paths(dealt.leaves), strict=True)):
            assert belongs(leaf, place, 5, hashes, dealt.dealing.root)
            assert not belongs(leaf, (place + 1) % 5, 5, hashes, dealt.dealing.root)
            assert not belongs(replace(leaf, box=leaf.box + b"x"), place, 5, hashes, dealt.dealing.root)
        assert rooted(dealt.leaves) == dealt.dealing.root

    def test_a_share_off_the_line_or_the_commitment_is_told(self, dealt):
        own, leaf = dealt.own[0], next(leaf for leaf in dealt.leaves if leaf.holder == 5)
        assert dealt.dealing.fits(self.public, 5, own, "seed", leaf.commitments[0]) == ""
        assert dealt.dealing.fits(self.public, 5, (own[0] + 1, own[1]), "seed", leaf.commitments[0]) == "commitment"
        false = own[0] + 1, own[1]
        assert dealt.dealing.fits(self.public, 5, false, "seed", committed(false)) == "line"
        assert not replace(dealt.dealing, key_line=dealt.dealing.seed_line).proves(self.public)

    def test_the_key_of_a_box_opens_that_box_to_anybody(self, dealt):
        leaf = dealt.leaves[0]
        expected = opened_box(self.private[0], dealt.dealing, leaf, self.public)
        key = box_key(b"b" * 32, 0)
        assert reopened_box(key, self.channels[0], dealt.dealing, leaf, self.public) == expected
        with pytest.raises(SecureAggregationError, match="was not made with the key"):
            reopened_box(box_key(b"b" * 32, 2), self.channels[0], dealt.dealing, leaf, self.public)


class TestMasks:
    def test_added_and_subtracted_is_nothing(self):
        words = np.arange(BLOCK_WORDS * 2 + 17, dtype=np.uint32)
        before, key = words.copy(), os.urandom(32)
        add_mask(words, key)
        assert np.mean(words == before) < 0.01
        add_mask(words, key, subtract=True)
        np.testing.assert_array_equal(words, before)

    def test_blocks_do_not_repeat(self):
        words = np.zeros(3 * BLOCK_WORDS, np.uint32)
        add_mask(words, bytes(32))
        assert np.unique(words).size > 0.99 * words.size

    def test_a_longer_mask_begins_with_the_shorter(self):
        short, long = np.zeros(100, np.uint32), np.zeros(BLOCK_WORDS + 5, np.uint32)
        add_mask(short, b"k" * 32)
        add_mask(long, b"k" * 32)
        np.testing.assert_array_equal(long[:100], short)

    def test_the_whole_key_counts(self):
        """Every bit of the key, and their order: a fold of it to 32 bits would give equal masks."""
        key = np.frombuffer(os.urandom(32), np.uint32)
        variants = {key[np.r_[1, 0, 2:8]].tobytes(), key[::-1].tobytes(), key.tobytes()}
        variants |= {(key ^ np.uint32(1) * (np.arange(8) == i)).astype(np.uint32).tobytes() for i in range(8)}
        masks = set()
        for variant in variants:
            words = np.zeros(16, np.uint32)
            add_mask(words, variant)
            masks.add(words.tobytes())
        assert len(masks) == len(variants)

    def test_both_of_a_pair_have_the_key_and_no_other_pair_or_session_has(self):
        a, b, c = (X25519PrivateKey.generate() for _ in range(3))
        keys = [key.public_key().public_bytes_raw() for key in (a, b, c)]
        assert pair_mask_key(a, keys[1], b"s", 0, 1) == pair_mask_key(b, keys[0], b"s", 1, 0)
        others = {pair_mask_key(a, keys[1], b"t", 0, 1), pair_mask_key(a, keys[1], b"s", 0, 2)}
        assert len({pair_mask_key(a, keys[1], b"s", 0, 1), pair_mask_key(a, keys[2], b"s", 0, 2), *others}) == 4


class TestFrames:
    @settings(max_examples=100)
    @given(st.lists(st.binary(max_size=40), max_size=5))
    def test_what_was_packed(self, fields):
        assert unpack(pack(*fields)) == fields

    @settings(max_examples=200)
    @given(st.lists(st.binary(max_size=9), min_size=1, max_size=3), st.data())
    def test_what_is_cut_is_refused(self, fields, data):
        whole = pack(*fields)
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(SecureAggregationError):
            unpack(whole[:cut], len(fields))

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, data):
        with contextlib.suppress(SecureAggregationError):
            assert pack(*unpack(data)) == data

    def test_numbers(self):
        assert unpack_numbers(pack_numbers([3, 1, 2**32 - 1])) == (3, 1, 2**32 - 1)
        for bad in (b"\0\0\0", pack_numbers([1, 1])):
            with pytest.raises(SecureAggregationError):
                unpack_numbers(bad)


class TestChannel:
    def test_context_separates_keys(self):
        a, b = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        public = b.public_key().public_bytes_raw()
        assert agree(a, public, b"x", b"y") != agree(a, public, b"xy")
        assert agree(a, public, b"x") == agree(b, a.public_key().public_bytes_raw(), b"x")

    @pytest.mark.parametrize("public", [bytes(32), b"short"])
    def test_a_key_that_is_none(self, public):
        with pytest.raises(SecureAggregationError, match="public key is not usable"):
            agree(X25519PrivateKey.generate(), public, b"x")

    def test_a_box_is_opened_with_its_key_alone(self):
        box = seal(b"k" * 32, b"body")
        assert unseal(b"k" * 32, box, "it") == b"body"
        with pytest.raises(SecureAggregationError, match="it is not authentic"):
            unseal(b"j" * 32, box, "it")


class TestGraph:
    @pytest.mark.parametrize(("n", "degree"), [(5, 4), (5, 9), (20, 6), (101, 11)])
    def test_holders_are_drawn_evenly_from_those_registered(self, n, degree):
        registered, counts = range(3, 3 + n), np.zeros(n)
        for seed in range(400):
            drawn = holders(3, registered, degree, seed.to_bytes(32, "little"))
            assert len(drawn) == len(set(drawn)) == min(degree, n - 1)
            assert 3 not in drawn
            counts[np.array(drawn) - 3] += 1
        share = min(degree, n - 1) / (n - 1)
        assert np.abs(counts[1:] / 400 - share).max() <= 6 * math.sqrt(share * (1 - share) / 400)

    def test_both_sides_of_the_seed_count(self):
        assert len({holder_seed(b"s", a, b) for a in (b"c", b"d") for b in (b"e", b"f")}) == 4

    @pytest.mark.parametrize(("population", "marked", "drawn", "least"), [(99, 10, 22, 8), (50, 25, 10, 0), (20, 3, 5, 4)])
    def test_tails_are_hypergeometric(self, population, marked, drawn, least):
        expected = hypergeom(population, marked, drawn).sf(least - 1)
        assert _tail(population, marked, drawn, least) == pytest.approx(expected, abs=1e-15)
        assert _log_tail(population, marked, drawn, least) == pytest.approx(math.log(expected) if expected else -math.inf)

    @pytest.mark.parametrize(("n", "dropouts", "corrupt"), [(49, 12, 4), (100, 25, 10), (500, 125, 50), (1000, 100, 100)])
    def test_plan_holds_its_three_events(self, n, dropouts, corrupt):
        """Recomputed with scipy: E1 and E2 up to 2^-40, E3 up to 2^-20, where liars complain and drop-outs leave."""
        degree, threshold = plan(n, dropouts, corrupt)
        lied = most_complaints(n, dropouts, corrupt, degree)
        assert n * hypergeom(n - 1, corrupt, degree).sf(lied) <= 2.0**-20
        assert n * hypergeom(n - 1, dropouts, degree).sf(degree + 1 - threshold - lied) <= 2.0**-20
        honest, failure = n - corrupt, honest_readable(n, corrupt, degree, threshold, 1) + math.log(n - corrupt)
        sizes = np.arange(2, honest // 2 + 1)
        missed = hypergeom(n - 1, sizes, degree).logpmf(0)
        cut = [
            binom(honest - s, -math.expm1(m) if m > -math.inf else 1.0).logcdf(dropouts)
            for s, m in zip(sizes, missed, strict=True)
        ]
        ways = [math.log(math.comb(honest, s)) for s in sizes]
        terms = [
            w + c + s * honest_readable(n, corrupt, degree, threshold, s) for w, c, s in zip(ways, cut, sizes, strict=True)
        ]
        assert logsumexp([failure, *terms]) <= -40 * math.log(2)
        assert degree < n / 1.8

    def test_a_smaller_degree_would_not_do(self):
        degree, _ = plan(200, 50, 20)
        assert not _holds(200, 50, 20, degree - 2)
        assert _holds(200, 50, 20, degree)

    def test_few_clients_hold_shares_of_all(self):
        assert plan(10, 3, 1) == (9, 4)
        assert most_complaints(10, 3, 1, 9) == 3

    def test_what_cannot_be_had(self):
        with pytest.raises(ValueError, match="could open a mask themselves"):
            plan(100, 60, 50)


def honest_readable(n, corrupt, degree, threshold, size):
    """log P(a client has threshold - 1 holders among size - 1 others and the corrupt)."""
    with np.errstate(divide="ignore"):
        return float(hypergeom(n - 1, min(n - 1, size - 1 + corrupt), degree).logsf(threshold - 2))


def test_a_false_complaint_of_a_client_that_left_is_unsettled_and_of_one_that_stays_is_named():
    """Client 3 accuses client 0, of which it was dealt true shares; client 0 leaves before it could open what it had sent."""
    terms = Terms.agreed(clients=12, length=3, bound=1.0)
    updates = {number: np.full(3, 0.1) for number in range(12)}

    class Accuser(Client):
        def confirm(self, inbox):
            sent = super().confirm(inbox)
            if self.number != 3:
                return sent
            return self._sealed("confirmation", pack(sign(self._identity, "complaint", complaint_body(self.terms, 3, 0))))

    stays = secure_sum(updates, terms, client_class=Accuser)
    assert (set(stays.refused), stays.unsettled) == ({3}, frozenset())
    for stage in ("confirm", "mask"):
        leaves = secure_sum(
            updates, terms, client_class=Accuser, network=lambda at, i, m, stage=stage: None if (at, i) == (stage, 0) else m
        )
        assert (set(leaves.refused), leaves.unsettled) == (set(), frozenset({(3, 0)}))
        np.testing.assert_allclose(leaves.total, 1.1, atol=1e-6)


def test_a_client_that_was_saved_and_resumed_at_every_stage_is_the_same_client():
    """As a node of Flower does, whose processes end between messages."""
    terms = Terms.agreed(clients=7, length=5, bound=1.0)
    rng = np.random.default_rng(3)
    updates = {number: rng.uniform(-1, 1, 5) for number in range(7)}

    class Forgetful(Client):
        """Nothing but bytes is left of it between messages."""

    def slept(stage):
        def method(self, *arguments):
            known = self.number, self._identity, self._server, self._clients
            awake = self if stage == "advertise" else Client.resumed(self.bytes, *known)
            sent = getattr(Client, stage)(awake, *arguments)
            self.bytes = awake.saved()
            return sent

        return method

    for stage in STAGES[:-1]:
        setattr(Forgetful, stage, slept(stage))
    summed = secure_sum(updates, terms, client_class=Forgetful, network=lambda at, i, m: None if (at, i) == ("mask", 2) else m)
    assert summed.survivors == (0, 1, 3, 4, 5, 6)
    np.testing.assert_allclose(summed.total, sum(updates[i] for i in summed.survivors), atol=7 * terms.encoding.step)
    with pytest.raises(SecureAggregationError):
        Client.resumed(b"nothing", 0, Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate().public_key(), {})
