"""The parts of secure aggregation: shares, masks, frames, channels, the graph."""

from __future__ import annotations

import contextlib
import itertools
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from fl_impl.privacy.secure_aggregation.channel import agree, seal, unseal
from fl_impl.privacy.secure_aggregation.frames import (
    SecureAggregationError,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)
from fl_impl.privacy.secure_aggregation.graph import _tail, neighbours, plan
from fl_impl.privacy.secure_aggregation.masks import BLOCK_WORDS, add_mask, pair_mask_key
from fl_impl.privacy.secure_aggregation.shamir import PRIME, combine, split


class TestShamir:
    @pytest.mark.parametrize(("n", "threshold"), [(1, 1), (3, 2), (5, 5), (20, 14)])
    def test_any_threshold_shares_give_the_secret(self, n, threshold):
        secret = os.urandom(32)
        shares = split(secret, range(1, n + 1), threshold)
        for points in itertools.islice(itertools.combinations(shares, threshold), 50):
            assert combine({point: shares[point] for point in points}) == secret

    def test_fewer_shares_give_something_else(self):
        secret = os.urandom(32)
        shares = split(secret, range(1, 6), 3)
        assert combine({1: shares[1], 2: shares[2]}) != secret

    def test_fewer_shares_fit_every_secret(self):
        """Through two points and any value at 0 goes one polynomial of degree 2: two shares of three exclude nothing."""
        shares = split(bytes(32), [1, 2, 3], 3)
        other = split(bytes(32), [1, 2, 3], 3)
        assert shares[1] != other[1]
        assert combine({**shares, 3: other[3]}) != bytes(32)

    def test_secret_of_ones(self):
        secret = b"\xff" * 32
        assert combine(split(secret, [4, 9], 2)) == secret

    def test_a_share_that_was_changed_is_no_secret(self):
        shares = split(os.urandom(32), [1, 2, 3], 2)
        assert combine({1: shares[1], 2: (PRIME - 1).to_bytes(66, "little")}) is None

    @pytest.mark.parametrize(("points", "threshold"), [([1, 1], 1), ([0, 1], 1), ([1, 2], 3), ([1, 2], 0)])
    def test_arguments_are_checked(self, points, threshold):
        with pytest.raises(ValueError, match=r"points must be distinct|threshold must lie"):
            split(bytes(32), points, threshold)


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
    @pytest.mark.parametrize(("n", "degree"), [(5, 4), (5, 9), (20, 6), (101, 10)])
    def test_is_symmetric_and_regular(self, n, degree):
        numbers = range(3, 3 + n)
        graph = {i: neighbours(i, numbers, degree, b"session") for i in numbers}
        for i, near in graph.items():
            assert len(near) == len(set(near)) == min(degree, n - 1)
            assert i not in near
            assert all(i in graph[j] for j in near)

    def test_sessions_shuffle_it(self):
        assert neighbours(0, range(50), 4, b"a") != neighbours(0, range(50), 4, b"b")

    @pytest.mark.parametrize(("population", "marked", "drawn", "least"), [(99, 10, 22, 8), (50, 25, 10, 0), (20, 3, 5, 4)])
    def test_tails_are_hypergeometric(self, population, marked, drawn, least):
        expected = hypergeom(population, marked, drawn).sf(least - 1)
        assert _tail(population, marked, drawn, least) == pytest.approx(expected, abs=1e-15)

    @pytest.mark.parametrize(("n", "dropouts", "corrupt"), [(100, 10, 10), (500, 125, 50), (1000, 100, 100)])
    def test_plan_is_safe_and_complete(self, n, dropouts, corrupt):
        degree, threshold = plan(n, dropouts, corrupt)
        assert n * hypergeom(n - 1, corrupt, degree).sf(threshold - 1) <= 2.0**-40
        assert n * hypergeom(n - 1, dropouts, degree).sf(degree - threshold) <= 2.0**-20
        assert degree < n / 2

    def test_few_clients_are_all_neighbours(self):
        assert plan(10, 3, 1) == (9, 7)

    def test_what_cannot_be_had(self):
        with pytest.raises(ValueError, match="could open a mask themselves"):
            plan(100, 60, 50)
