"""Checks of compressors: each catches the compressor that is broken its way, and no sound one."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from fl_impl.compression import resolve
from pytest_fl.adapters.parts import as_part
from pytest_fl.checks.parts import audits_of
from pytest_fl.engine.runner import run_check
from pytest_fl.subjects.parts import Compressor
from pytest_fl.subjects.profiles import PROFILES

SEEDS = range(50)
SOUND = ("none", "sparse", "quantize", "int4", "ternary", "sign", "power_sgd", "rand_k(0.2)", "error_feedback|top_k(0.1)")
EVERY_SEED = ("quantize",)


def row_of(part, check, seed):
    return run_check(part, check, replace(PROFILES["default"], seed=seed), {})


def checked(x):
    if not np.isfinite(x).all():
        raise ValueError("not finite")
    return x


def eight_bits(name="eight bits", *, rounding=None, **claims):
    """A small int8 compressor of its own, sound as it stands: one step, the codes."""

    def draw(scaled, seed):
        return np.floor(scaled + np.random.default_rng(seed).random(scaled.size))

    def send(x, state, seed):
        step = float(np.abs(checked(x)).max()) / 127 or 1.0
        codes = np.clip((rounding or draw)(x / step, seed), -127, 127).astype(np.int8)
        return struct.pack("<d", step) + codes.tobytes(), state

    def receive(message, state, d):
        if len(message) != 8 + d:
            raise ValueError("wrong length")
        step, codes = struct.unpack("<d", message[:8])[0], np.frombuffer(message[8:], np.int8)
        with np.errstate(all="ignore"):
            return checked((np.float32(step) * codes).astype(np.float32)), state

    claimed = {"contraction": lambda _: 0.95, "variance": lambda _: 0.05, "message_bytes": lambda d: 8 + d}
    return Compressor(name, send, receive, **{**claimed, **claims})


def to_the_nearest(scaled, _):
    return np.rint(scaled)


def floored(scaled, _):
    return np.floor(scaled)


def slightly_down(scaled, seed):
    return np.floor(scaled + 0.9 * np.random.default_rng(seed).random(scaled.size))


def with_send(spec, wrap):
    """One of ours with another `send`: wrap(send) -> send."""
    part = as_part(spec)
    return replace(part, send=wrap(part.send))


def lost_residual(send):
    return lambda x, _, seed: (send(x, None, seed)[0], None)


def half_the_residual(send):
    def sent(x, state, seed):
        message, state = send(x, state, seed)
        return message, 0.5 * state

    return sent


def scribbling(send):
    def sent(x, state, seed):
        result = send(x.copy(), state, seed)
        x[0] = 0
        return result

    return sent


def nan_as_zero(send):
    return lambda x, state, seed: send(np.nan_to_num(x, posinf=0, neginf=0), state, seed)


def noisy_receive(part):
    rng = np.random.default_rng(0)

    def receive(message, state, d):
        x, state = part.receive(message, state, d)
        return x * np.float32(1 + 1e-3 * rng.random()), state

    return replace(part, receive=receive)


def padded(part):
    """Takes what is missing of a message for zeros."""

    def receive(message, state, d):
        return part.receive((message + bytes(8 + d))[: 8 + d], state, d)

    return replace(part, receive=receive)


def adaptive_length(send):
    def sent(x, state, seed):
        message, state = send(x, state, seed)
        return message + bytes(int((x == 0).sum()) % 8), state

    return sent


BROKEN = {
    "rounded to the nearest": (eight_bits(rounding=to_the_nearest), "error_has_no_mean"),
    "rounded down": (eight_bits(rounding=floored), "error_has_no_mean"),
    "rounded down one time in ten too often": (eight_bits(rounding=slightly_down), "error_has_no_mean"),
    "lost residual": (with_send("error_feedback|top_k(0.1)", lost_residual), "nothing_is_lost_for_good"),
    "half of the residual": (with_send("error_feedback|top_k(0.1)", half_the_residual), "nothing_is_lost_for_good"),
    "lost state of EF21": (with_send("sparse", lost_residual), "nothing_is_lost_for_good"),
    "one byte too few stated": (eight_bits(message_bytes=lambda d: 7 + d), "messages_have_the_stated_length"),
    "payload stated, header forgotten": (
        replace(as_part("top_k(0.1)"), message_bytes=lambda d: 6 * -(-d // 10)), "messages_have_the_stated_length",
    ),
    "length that tells of zeros": (with_send("none", adaptive_length), "messages_have_the_stated_length"),
    "twice the contraction": (replace(as_part("top_k(0.1)"), contraction=lambda _: 0.2), "error_contracts"),
    "contraction of sign for all inputs": (replace(as_part("sign"), contraction=lambda _: 0.5), "error_contracts"),
    "half of the variance": (replace(as_part("rand_k(0.2)"), variance=lambda _: 2.0), "variance_is_as_stated"),
    "variance of ternary as of int8": (replace(as_part("ternary"), variance=lambda _: 0.1), "variance_is_as_stated"),
    "another update each time it is read": (noisy_receive(as_part("none")), "comes_back_in_shape"),
    "writes to the update": (with_send("none", scribbling), "update_is_left_alone"),
    "NaN taken for zero": (with_send("int8", nan_as_zero), "refuses_non_finite"),
    "short messages filled up": (padded(eight_bits()), "refuses_damaged_messages"),
}  # fmt: skip
HERE = "pytest_fl.checks.compression"
CHECKS = {check.name: check for check in audits_of(as_part("sparse")) if check.judge.__module__ == HERE}


def failures(part, seed=0):
    rows = [row_of(part, check, seed) for check in CHECKS.values()]
    return [(row.check, row.reason) for row in rows if row.outcome == "failed"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_compressor_is_caught(name):
    part, check = BROKEN[name]
    row = row_of(part, CHECKS[check], 0)
    assert row.outcome == "failed"
    assert row.reason


@pytest.mark.parametrize("name", ["rounded down one time in ten too often", "half of the residual"])
def test_it_is_caught_with_every_seed(name):
    part, check = BROKEN[name]
    assert all(row_of(part, CHECKS[check], seed).outcome == "failed" for seed in SEEDS)


def test_every_check_has_a_broken_compressor():
    assert {check for _, check in BROKEN.values()} == set(CHECKS)


def test_the_compressor_that_is_broken_is_sound_as_it_stands():
    assert [failures(eight_bits(), seed) for seed in range(5)] == [[]] * 5


@pytest.mark.parametrize("spec", SOUND)
def test_sound_compressors_pass(spec):
    seeds = SEEDS if spec in EVERY_SEED else range(4)
    assert [failures(as_part(spec), seed) for seed in seeds] == [[]] * len(seeds)


def test_claims_not_made_are_not_tested():
    unclaimed = {check.name for check in CHECKS.values() if check.needs(as_part("sign"))}
    assert unclaimed == {"error_has_no_mean", "variance_is_as_stated", "nothing_is_lost_for_good"}
    assert resolve("sign").codec.variance(10) is None
