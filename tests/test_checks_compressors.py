"""Compressors over many rounds and at any length: what breaks late, far back, or on a hostile message is caught."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

import pytest_fl
from pytest_fl.adapters.parts import as_part
from pytest_fl.checks import compressors
from pytest_fl.checks.parts import AUDITS
from pytest_fl.subjects.parts import Compressor

HERE = [name for name, check in AUDITS.items() if check.judge.__module__ == compressors.__name__]
SOUND = ("none", "sparse", "quantize", "int4", "ternary", "sign", "power_sgd", "rand_k(0.2)", "error_feedback|top_k(0.1)")


def with_send(spec, wrap):
    part = as_part(spec)
    return replace(part, send=wrap(part.send))


def with_receive(spec, wrap):
    part = as_part(spec)
    return replace(part, receive=wrap(part.receive))


def first(count):
    """Only the first coordinates arrive."""

    def wrap(receive):
        def received(message, state, d):
            x, state = receive(message, state, d)
            x = np.array(x)
            x[count:] = 0
            return x, state

        return received

    return wrap


def without_the_last(receive):
    def received(message, state, d):
        x, state = receive(message, state, d)
        x = np.array(x)
        x[-max(1, d // 8) :] = 0
        return x, state

    return received


def decays(rate):
    def wrap(send):
        def sent(x, state, seed):
            message, state = send(x, state, seed)
            return message, None if state is None else rate * state

        return sent

    return wrap


def forgets_after(rounds):
    def wrap(send):
        def sent(x, state, seed):
            return send(x, None if seed and seed % rounds == 0 else state, seed)

        return sent

    return wrap


def few_dithers(count):
    return lambda send: lambda x, state, seed: send(x, state, seed % count)


def down_if(condition):
    """A little smaller than it should be, where the condition holds."""

    def wrap(receive):
        def received(message, state, d):
            x, state = receive(message, state, d)
            x = np.asarray(x)
            return (x * np.float32(0.99) if condition(x, d) else x), state

        return received

    return wrap


def believing(message, state, d):
    """A length, and so many floats: the length is believed before anything is checked."""
    del d
    (count,) = struct.unpack("<Q", message[:8])
    room = np.zeros(min(count, 2**25), np.float32)
    values = np.frombuffer(message[8:], np.float32)
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError("length")
    room[:count] = values
    return room[:count].copy(), state


def room_for_all(message, state, d):
    room = np.zeros(min(d, 2**25), np.float32)
    values = np.frombuffer(message[8:], np.float32)
    if len(values) != d or not np.isfinite(values).all():
        raise ValueError("length")
    room[:d] = values
    return room[:d].copy(), state


def plain(x, state, seed):
    del seed
    return struct.pack("<Q", x.size) + x.tobytes(), state


WHOLE, UNBIASED, DITHERS = "every_coordinate_counts", "no_bias_at_any_length_or_sign", "dithers_are_many"
LATER, RESIDUAL, FRUGAL = (
    "what_is_kept_back_stays_small_over_fifty_rounds",
    "residuals_do_not_decay",
    "decoders_allocate_after_checking",
)
FEEDBACK = "error_feedback|top_k(0.1)"
BROKEN = {
    "coordinates above 65 536 are lost": (with_receive("int8", first(65_536)), WHOLE),
    "coordinates above 255 are lost": (with_receive("int8", first(255)), WHOLE),
    "coordinates above 2 048 are lost": (with_receive("none", first(2_048)), WHOLE),
    "the last eighth is lost": (with_receive("int8", without_the_last), WHOLE),
    "a bias where many entries are sent": (with_receive("int8", down_if(lambda x, d: d > 50_000)), UNBIASED),
    "a bias on negative entries": (with_receive("int8", down_if(lambda x, d: x.mean() < 0)), UNBIASED),
    "a bias on positive entries": (with_receive("int8", down_if(lambda x, d: x.mean() > 0)), UNBIASED),
    "one dither": (with_send("int8", few_dithers(1)), DITHERS),
    "eight dithers": (with_send("int8", few_dithers(8)), DITHERS),
    "a residual that decays": (with_send(FEEDBACK, decays(0.9)), RESIDUAL),
    "a residual that hardly decays": (with_send(FEEDBACK, decays(0.99)), RESIDUAL),
    "a residual that grows": (with_send(FEEDBACK, decays(1.02)), RESIDUAL),
    "forgets every third round": (with_send(FEEDBACK, forgets_after(3)), RESIDUAL),
    "forgets in every round": (with_send(FEEDBACK, decays(0.0)), LATER),
    "believes a length": (Compressor("believing", plain, believing), FRUGAL),
    "makes room before it looks": (Compressor("room", plain, room_for_all), FRUGAL),
}


@pytest.mark.parametrize(("part", "check"), BROKEN.values(), ids=BROKEN)
def test_a_broken_compressor_is_caught(part, check):
    (row,) = pytest_fl.verify(part, checks=[check]).rows
    assert row.outcome == "failed"
    assert not row.reason.startswith("raised")


@pytest.mark.parametrize("spec", SOUND)
@pytest.mark.parametrize("seeds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_sound_compressors_pass(spec, seeds):
    names = [name for name in HERE if not AUDITS[name].needs(as_part(spec))]
    for seed in range(seeds):
        report = pytest_fl.verify(as_part(spec), seed=seed, checks=names)
        assert report.passed, str(report)


def test_every_check_has_a_broken_compressor():
    assert {check for _, check in BROKEN.values()} == set(HERE)
