"""Codecs against their claims, feedback over rounds, and bytes that nobody honest sent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_impl.compression import (
    ALIASES,
    CODECS,
    Compression,
    PowerSGD,
    RandK,
    Stochastic,
    TopK,
    exchange,
    int8,
    of_round,
    resolve,
)
from fl_impl.compression.packing import pack_nibbles, pack_trits, unpack_nibbles, unpack_trits
from fl_impl.compression.selection import indices_from_blocks, indices_to_blocks, largest
from fl_impl.compression.wire import pack

FURTHER = {"rand_k(0.2)", "rand_k(scaled=False)", "int4(bucket=3)", "top_k(1.0)", "error_feedback|sign", "ef21|int8"}
SPECS = sorted({*CODECS, *ALIASES, *FURTHER} - {"rand_k"})  # in 200 draws of 1 % one entry may never be met
SIX_SIGMA = 6.0


def heavy_tailed(d=700, seed=0):
    return np.random.default_rng(seed).standard_t(3, d).astype(np.float32)


def one_hot(d=700):
    return np.eye(1, d, d // 2, dtype=np.float32)[0]


def nearly_equal(d=700):
    return np.full(d, 0.3, np.float32)


def small_beside_the_greatest(d=700, levels=1, bucket=512):
    """Where stochastic rounding attains its variance: one entry a bucket at the top, the others in its shadow."""
    h, n = 1 / levels, bucket - 1
    x = np.full(d, (math.sqrt(1 + n * h * h) - 1) / (n * h), np.float32)
    x[::bucket] = 1
    return x


INPUTS = {
    "heavy tailed": heavy_tailed(),
    "one hot": one_hot(),
    "equal": nearly_equal(),
    "zero": np.zeros(700, np.float32),
    "huge": heavy_tailed() * np.float32(1e35),
    "tiny": heavy_tailed() * np.float32(1e-30),
    "one coordinate": np.array([-2.5], np.float32),
    "worst for ternary": small_beside_the_greatest(levels=1),
    "worst for int4": small_beside_the_greatest(levels=7),
}


@pytest.fixture(params=SPECS)
def compression(request):
    return resolve(request.param)


@pytest.fixture(params=INPUTS)
def x(request):
    return INPUTS[request.param]


def squares(v):
    return float((v.astype(np.float64) ** 2).sum())


class TestEveryCodec:
    def test_length_of_a_message_depends_on_d_alone(self, compression, x):
        message, _ = compression.send(x, None, np.random.default_rng(0))
        assert len(message) == compression.message_bytes(x.size)

    def test_comes_back_finite_in_kind(self, compression, x):
        message, _ = compression.send(x, None, np.random.default_rng(0))
        back, _ = compression.receive(message, None, x.size)
        assert back.dtype == np.float32
        assert back.shape == x.shape
        assert np.isfinite(back).all()

    def test_zero_stays_zero(self, compression):
        message, _ = compression.send(np.zeros(50), None, np.random.default_rng(0))
        assert not compression.receive(message, None, 50)[0].any()

    def test_update_is_not_written_to(self, compression):
        x = heavy_tailed()
        compression.send(x, np.ones_like(x), np.random.default_rng(0))
        np.testing.assert_array_equal(x, heavy_tailed())

    def test_contraction(self, compression, x):
        codec, rng = compression.codec, np.random.default_rng(1)
        errors = [squares(codec.decode(codec.encode(x, rng), x.size) - x) for _ in range(60)]
        allowed = (1 - codec.contraction(x.size)) * squares(x) * (1 + 1e-6)
        if codec.contraction(x.size):
            assert np.mean(errors) <= allowed + SIX_SIGMA * np.std(errors) / math.sqrt(60)

    def test_variance(self, compression, x):
        codec, rng = compression.codec, np.random.default_rng(2)
        omega = codec.variance(x.size)
        if omega is not None:
            errors = [squares(codec.decode(codec.encode(x, rng), x.size) - x) for _ in range(60)]
            assert np.mean(errors) <= omega * squares(x) * (1 + 1e-6) + SIX_SIGMA * np.std(errors) / math.sqrt(60)

    def test_unbiased(self, compression, x):
        codec, rng = compression.codec, np.random.default_rng(3)
        if codec.variance(x.size) is None:
            return
        scale = np.abs(x).max() or 1
        for direction in (np.sign(x), np.ones_like(x), np.random.default_rng(4).choice([-1.0, 1.0], x.size)):
            found = [
                float((codec.decode(codec.encode(x, rng), x.size) - x).astype(float) @ direction / scale) for _ in range(200)
            ]
            spread = np.std(found) / math.sqrt(len(found))
            assert abs(np.mean(found)) <= SIX_SIGMA * spread + 1e-6 * x.size

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
    def test_what_float32_cannot_say_is_refused(self, compression, bad):
        with pytest.raises(ValueError, match="must be finite"):
            compression.send(np.array([1.0, bad]), None, np.random.default_rng(0))


def test_variance_of_stochastic_rounding_is_attained():
    for make, levels in (("ternary", 1), ("int4", 7)):
        codec, x = resolve(f"{make}(bucket=512)").codec, small_beside_the_greatest(512, levels)
        rng = np.random.default_rng(5)
        errors = [squares(codec.decode(codec.encode(x, rng), 512) - x) for _ in range(1000)]
        assert np.mean(errors) / squares(x) == pytest.approx(codec.variance(512), rel=0.03)


def test_variance_is_right_for_any_number_of_levels_and_size_of_bucket():
    rng = np.random.default_rng(6)
    for levels in (1, 2, 7, 127):
        for bucket in (1, 2, 5, 64):
            omega = Stochastic("int8", levels, bucket).variance(bucket)
            for _ in range(200):
                x = rng.uniform(0, 1, bucket) ** rng.integers(1, 8)
                x[0] = 1
                part = x * levels % 1
                assert (part * (1 - part)).sum() / levels**2 <= omega * (x @ x) + 1e-12


@pytest.mark.parametrize("name", CODECS)
class TestTraits:
    """What a codec says of its messages is so, no less and no more; traits decide what it goes together with."""

    def round_trips(self, name):
        codec, d = CODECS[name]().for_round(7), 1024
        x, y = np.random.default_rng(0).standard_normal((2, d)).astype(np.float32)
        back = [codec.decode(codec.encode(v, np.random.default_rng(i)), d) for i, v in enumerate((x, y, x + y))]
        return codec, *back

    def test_linear(self, name):
        codec, x, y, both = self.round_trips(name)
        assert np.allclose(x + y, both, rtol=1e-5, atol=1e-5) == codec.linear

    def test_sparse(self, name):
        codec, x, y, _ = self.round_trips(name)
        places = [np.flatnonzero(v) for v in (x, y)]
        few = max(map(len, places)) < x.size / 2
        assert (few and not np.array_equal(*places)) == codec.sparse

    def test_kept_are_the_places_that_all_share(self, name):
        codec, x, _, both = self.round_trips(name)
        kept = codec.kept(x.size)
        assert kept is None or (np.array_equal(np.flatnonzero(x), kept) and np.array_equal(np.flatnonzero(both), kept))
        assert (kept is not None) == (codec.linear and 0 in x)


class TestTopK:
    @settings(max_examples=300)
    @given(arrays(np.float32, st.integers(1, 400), elements=st.floats(-4, 4, width=16)), st.data())
    def test_takes_the_largest_and_of_equals_the_first(self, x, data):
        k = data.draw(st.integers(1, x.size))
        expected = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
        np.testing.assert_array_equal(largest(x, k), expected)

    @pytest.mark.parametrize("d", [65_535, 65_536, 65_537, 200_000])
    @pytest.mark.parametrize("make", [heavy_tailed, nearly_equal, one_hot, lambda d: np.arange(d, dtype=np.float32) % 64])
    def test_large(self, d, make):
        x = make(d)
        expected = np.sort(np.argsort(-np.abs(x), kind="stable")[: d // 100])
        np.testing.assert_array_equal(largest(x, d // 100), expected)

    def test_sixteen_bits_an_index(self):
        indices = np.array([0, 65_535, 65_536, 131_072, 199_999])
        counts, offsets = indices_to_blocks(indices, 200_000)
        assert counts.tolist() == [2, 1, 1, 1]
        assert (offsets.dtype, offsets.tolist()) == (np.uint16, [0, 65_535, 0, 0, 199_999 % 65_536])
        np.testing.assert_array_equal(indices_from_blocks(counts, offsets, 200_000), indices)

    @pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
    def test_fraction_is_checked(self, fraction):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            resolve(f"top_k({fraction})").send(np.ones(5), None, np.random.default_rng(0))

    def test_entries_are_counted_exactly(self):
        assert [TopK(0.1).entries(d) for d in (1, 10, 11, 30, 1000)] == [1, 1, 2, 3, 100]


class TestRandK:
    def test_what_overflows_when_scaled_is_refused(self):
        with pytest.raises(ValueError, match="beyond the range of float32"):
            resolve("rand_k").send(np.full(700, 1e37), None, np.random.default_rng(0))

    def test_a_shared_seed_keeps_the_same_coordinates(self):
        codec = RandK(0.1).for_round(77)
        a, b = (codec.decode(codec.encode(heavy_tailed(seed=i), np.random.default_rng(i)), 700) for i in (1, 2))
        np.testing.assert_array_equal(a != 0, b != 0)

    def test_messages_of_a_round_can_be_summed(self):
        codec, rng = RandK(0.1).for_round(77), np.random.default_rng(0)
        x, y = codec.encode(heavy_tailed(), rng), codec.encode(one_hot(), rng)
        together = codec.decode({"seed": x["seed"], "values": x["values"] + y["values"]}, 700)
        np.testing.assert_array_equal(together, codec.decode(x, 700) + codec.decode(y, 700))

    def test_a_client_cannot_choose_its_own_coordinates(self):
        own = RandK(0.1).encode(heavy_tailed(), np.random.default_rng(0))
        with pytest.raises(ValueError, match="coordinates of this round's seed, 77"):
            RandK(0.1).for_round(77).decode(own, 700)

    def test_without_one_each_message_has_its_own(self):
        codec, rng = RandK(0.5), np.random.default_rng(0)
        supports = {(codec.decode(codec.encode(np.ones(64, np.float32), rng), 64) != 0).tobytes() for _ in range(5)}
        assert len(supports) == 5


def test_power_sgd_finds_a_low_rank_matrix():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((30, 3)) @ rng.standard_normal((3, 30))).astype(np.float32).reshape(-1)
    codec = PowerSGD(rank=3)
    np.testing.assert_allclose(codec.decode(codec.encode(x, rng), 900), x, atol=1e-4)


class TestFeedback:
    def run(self, spec, x, rounds, *, every=lambda _, x: x):
        compression, rng = resolve(spec), np.random.default_rng(0)
        state = server = None
        received = []
        for t in range(rounds):
            message, state = compression.send(every(t, x), state, rng)
            value, server = compression.receive(message, server, x.size)
            received.append(value.astype(np.float64))
        return np.array(received), state, server

    @pytest.mark.parametrize("spec", ["top_k(0.05)", "sign", "power_sgd", "rand_k(fraction=0.2, scaled=False)"])
    def test_error_feedback_loses_nothing(self, spec):
        x = heavy_tailed(200)
        received, residual, _ = self.run(f"error_feedback|{spec}", x, 100)
        np.testing.assert_allclose(received.sum(axis=0) + residual, 100 * x.astype(float), rtol=1e-3, atol=1e-2)
        assert np.linalg.norm(received.mean(axis=0) - x) < 0.25 * np.linalg.norm(x)

    @pytest.mark.parametrize("spec", ["top_k(0.05)", "int8", "power_sgd", "rand_k(fraction=0.2, scaled=False)"])
    def test_ef21_arrives_at_a_constant_update(self, spec):
        x = heavy_tailed(200)
        received, _, _ = self.run(f"ef21|{spec}", x, 120)
        assert np.linalg.norm(received[-1] - x) < 1e-3 * np.linalg.norm(x)

    def test_ef21_keeps_both_sides_equal_to_the_bit(self):
        drift = np.random.default_rng(9).standard_normal((60, 200)).astype(np.float32)
        _, client, server = self.run("ef21|top_k(0.1)", heavy_tailed(200), 60, every=lambda t, x: x + drift[t])
        np.testing.assert_array_equal(client, server)

    def test_a_median_of_ef21_states_is_dense_where_a_median_of_messages_is_not(self):
        honest = heavy_tailed(200) + 0.1 * np.random.default_rng(1).standard_normal((9, 200)).astype(np.float32)
        dense = np.median([self.run("sparse", row, 40)[0][-1] for row in honest], axis=0)
        sparse = np.median([self.run("top_k(0.1)", row, 1)[0][-1] for row in honest], axis=0)
        target = np.median(honest, axis=0)
        assert np.linalg.norm(dense - target) < 0.05 * np.linalg.norm(target)
        assert np.linalg.norm(sparse - target) > 0.4 * np.linalg.norm(target)

    @pytest.mark.parametrize("spec", ["ef21|rand_k", "error_feedback|ternary", "error_feedback|int4"])
    def test_feedback_needs_a_contraction(self, spec):
        with pytest.raises(ValueError, match=r"needs a codec that is a contraction, and .* is not"):
            resolve(spec)


class TestExchange:
    def over(self, spec, rounds, deltas, ids=(3, 5, 8)):
        sent, received, results = {}, {}, []
        for number in range(rounds):
            result = exchange(
                resolve(spec), ids, deltas(number), sent=sent, received=received,
                rng_of=lambda client, number=number: np.random.default_rng([number, client]),
            )  # fmt: skip
            sent, received = result.sent, result.received
            results.append(result)
        return results

    def test_rows_bytes_and_memories(self):
        x = np.stack([heavy_tailed(80, seed) for seed in range(3)])
        results = self.over("ef21|top_k(0.1)", 60, lambda _: x)
        assert results[0].ids == (3, 5, 8)
        assert results[0].bytes_up == 3 * resolve("ef21|top_k(0.1)").message_bytes(80)
        np.testing.assert_allclose(results[-1].rows, x, atol=1e-3)
        assert set(results[-1].sent) == set(results[-1].received) == {3, 5, 8}

    def test_without_feedback_nothing_is_remembered(self):
        (result,) = self.over("int8", 1, lambda _: np.ones((3, 80)))
        assert result.sent == result.received == {}

    def test_a_client_that_is_refused_keeps_its_memories_and_the_others_go_on(self):
        def deltas(number):
            x = np.stack([heavy_tailed(80, seed) for seed in range(3)])
            x[1, 0] = np.nan if number == 1 else 0
            return x

        first, second = self.over("ef21|top_k(0.1)", 2, deltas)
        assert second.ids == (3, 8)
        assert second.rows.shape == (2, 80)
        assert "must be finite" in second.refused[5]
        np.testing.assert_array_equal(second.sent[5], first.sent[5])
        np.testing.assert_array_equal(second.received[5], first.received[5])

    def test_nobody(self):
        result = exchange(
            resolve("none"), (), np.empty((0, 9)), sent={}, received={}, rng_of=lambda _: np.random.default_rng(0)
        )
        assert result.rows.shape == (0, 9)

    def test_clients_of_a_round_share_the_mask(self):
        compression = of_round(resolve("rand_k(0.2)"), 4)
        x = np.ones((3, 50), np.float32)
        result = exchange(compression, range(3), x, sent={}, received={}, rng_of=lambda client: np.random.default_rng(client))
        assert ((result.rows != 0) == (result.rows[0] != 0)).all()
        assert of_round(resolve("int8"), 4) == resolve("int8")


class TestSpecs:
    def test_the_short_names(self):
        assert resolve("none").codec.name == "none"
        assert resolve("sparse") == Compression(TopK(0.1), "ef21")
        assert resolve("quantize") == Compression(int8())
        assert resolve(resolve("sparse")) == resolve("sparse")
        assert resolve(" ef21 | top_k(0.2)") == Compression(TopK(0.2), "ef21")
        assert isinstance(resolve("fl_impl.compression:Plain").codec, type)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("top_kk", "did you mean 'top_k'"),
            ("top_k(k=3)", "does not take these options.*'k'"),
            ("ef22|top_k", "expected at most one of error_feedback, ef21"),
            ("ef21|ef21|top_k", "expected at most one of error_feedback, ef21"),
            ("int8(bucket=0)", "at least 1 coordinate"),
        ],
    )
    def test_wrong_ones(self, spec, message):
        with pytest.raises(ValueError, match=message):
            resolve(spec)


class TestBytesThatNobodyHonestSent:
    def test_every_bit_counts_or_changes_the_value_alone(self, compression):
        """A message with one byte changed is refused, or is another well-formed message: nothing else is raised."""
        x, rng = heavy_tailed(40), np.random.default_rng(0)
        message, _ = compression.send(x, None, rng)
        for position in range(0, len(message), 3):
            changed = bytearray(message)
            changed[position] ^= 0x55
            try:
                value, _ = compression.receive(bytes(changed), None, 40)
            except ValueError:
                continue
            assert value.shape == (40,)
            assert np.isfinite(value).all()

    def test_truncated_extended_and_none(self, compression):
        message, _ = compression.send(heavy_tailed(40), None, np.random.default_rng(0))
        for bad in (b"", message[:-1], message[:20], message + b"\0", bytes(len(message))):
            with pytest.raises(ValueError, match="expected"):
                compression.receive(bad, None, 40)

    def test_another_length_and_another_codec(self, compression):
        message, _ = compression.send(heavy_tailed(41), None, np.random.default_rng(0))
        with pytest.raises(ValueError, match="expected an update of d=40"):
            compression.receive(message, None, 40)
        foreign = pack({"values": np.ones(40, np.float32)}, codec="mine", d=40)
        with pytest.raises(ValueError, match="expected"):
            compression.receive(foreign, None, 40)

    @pytest.mark.parametrize(
        ("spec", "changes", "message"),
        [
            ("none", {"values": np.full(40, np.nan, "<f4")}, "must be finite"),
            ("top_k(0.1)", {"offsets": np.array([1, 2, 3, 40], "<u2")}, "ascending indices below 40"),
            ("top_k(0.1)", {"offsets": np.array([1, 1, 3, 4], "<u2")}, "ascending indices"),
            ("top_k(0.1)", {"offsets": np.array([3, 1, 4, 5], "<u2")}, "ascending indices"),
            ("top_k(0.1)", {"counts": np.array([2**32 - 1], "<u4")}, "announce 4294967295 entries"),
            ("int8", {"codes": np.full(40, -128, "|i1")}, "codes from -127 to 127"),
            ("int8", {"steps": np.array([-1.0], "<f4")}, "steps of 0 or more"),
            ("int8", {"steps": np.array([np.inf], "<f4")}, "must be finite"),
            ("int4", {"codes": np.full(20, 0x88, "|u1")}, "codes from -7 to 7"),
            ("ternary", {"codes": np.full(8, 255, "|u1")}, "bytes below 243"),
            ("sign", {"scale": np.array([-1.0], "<f4")}, "scale of 0 or more"),
            ("sign", {"scale": np.array([np.nan], "<f4")}, "scale of 0 or more"),
            ("power_sgd", {"left": np.full((7, 4), 3e38, "<f4")}, "must be finite"),
        ],
    )
    def test_impossible_values(self, spec, changes, message):
        compression = resolve(spec)
        sent = {**compression.codec.encode(heavy_tailed(40), np.random.default_rng(0)), **changes}
        with pytest.raises(ValueError, match=message):
            compression.receive(pack(sent, codec=compression.codec.name, d=40), None, 40)


class TestPacking:
    @given(arrays(np.int8, st.integers(1, 50), elements=st.integers(-8, 7)))
    def test_nibbles(self, codes):
        assert pack_nibbles(codes).size == -(-codes.size // 2)
        np.testing.assert_array_equal(unpack_nibbles(pack_nibbles(codes), codes.size), codes)

    @given(arrays(np.int8, st.integers(1, 50), elements=st.integers(-1, 1)))
    def test_trits(self, codes):
        assert pack_trits(codes).size == -(-codes.size // 5)
        np.testing.assert_array_equal(unpack_trits(pack_trits(codes), codes.size), codes)
