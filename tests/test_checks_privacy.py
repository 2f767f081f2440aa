"""Checks of mechanisms, accountants and secure aggregation: each catches what is broken its way, and nothing sound."""

from __future__ import annotations

import functools
import math
from contextvars import ContextVar
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import test_checks_secure_sums as secure_sums
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp import strategy

import pytest_fl
from fl_impl.privacy import MECHANISMS, Budget, gaussian_delta, gaussian_epsilon, gaussian_noise, spent_epsilon
from fl_impl.privacy.secure_aggregation.masks import add_mask
from pytest_fl import audit, audit_report
from pytest_fl.adapters.flower_parts import mask_generator
from pytest_fl.adapters.parts import accountant, as_part, secure_aggregation
from pytest_fl.checks.parts import AUDITS, audits_of
from pytest_fl.engine.runner import run_check
from pytest_fl.subjects.parts import Accountant, Mechanism, SecureAggregation
from pytest_fl.subjects.profiles import PROFILES

BOUND, Z, EXPECTED = 2.0, 1.5, 8.0
SEEDS = range(50)


def row_of(part, check, seed):
    return run_check(part, check, replace(PROFILES["default"], seed=seed), {})


def clipped(row, bound=BOUND):
    if not np.isfinite(row).all():
        raise ValueError("not finite")
    peak = np.abs(row).max() or 1.0
    return row * min(1.0, bound / (np.linalg.norm(row / peak) * peak or 1.0))


def noise(seed, d, scale=1.0):
    return scale * Z * BOUND * np.random.default_rng(seed).standard_normal(d)


def release(updates, seed, *, clip=clipped, draw=noise, divide=lambda total, _: total / EXPECTED):
    total = np.zeros(updates.shape[1])
    for row in updates:
        total = total + clip(row)
    return divide(total + draw(seed, updates.shape[1]), len(updates))


def weighted(updates, seed, counts):
    total = sum(count * clipped(row) for count, row in zip(counts, updates, strict=True))
    return (total + noise(seed, updates.shape[1])) / EXPECTED


def mechanism(name, **changes):
    return Mechanism(
        name,
        functools.partial(release, **changes),
        BOUND,
        noise_std=lambda _: Z * BOUND / EXPECTED,
        divisor=lambda _: EXPECTED,
        release_with_counts=lambda updates, seed, _: release(updates, seed, **changes),
    )


def per_layer(row):
    return np.concatenate([clipped(part) for part in np.array_split(row, 2)])


def naive_clip(row):
    return row * min(1.0, BOUND / math.sqrt((row**2).sum()))


def lenient(row):
    return clipped(np.nan_to_num(row)) if np.isfinite(row).all() else row


def laplace(seed, d):
    return Z * BOUND / math.sqrt(2) * np.random.default_rng(seed).laplace(size=d)


SOUND = mechanism("sound")
BROKEN_MECHANISMS = {
    "no clip": (mechanism("broken", clip=lambda row: row), "one_update_moves_the_sum_by_the_bound"),
    "clip per layer": (mechanism("broken", clip=per_layer), "one_update_moves_the_sum_by_the_bound"),
    "clip per coordinate": (mechanism("broken", clip=lambda x: np.clip(x, -BOUND, BOUND)), "short_updates_count_in_full"),
    "always scaled to the bound": (
        mechanism("broken", clip=lambda row: BOUND * clipped(row) / np.linalg.norm(clipped(row))),
        "short_updates_count_in_full",
    ),
    "divided by those who came": (
        mechanism("broken", divide=lambda total, m: total / m), "one_client_moves_the_sum_by_the_bound",
    ),
    "count of those who came beside the sum": (
        mechanism("broken", divide=lambda total, m: (total + 10 * m) / EXPECTED), "one_client_moves_the_sum_by_the_bound",
    ),
    "weighted by counts": (replace(SOUND, release_with_counts=weighted), "claimed_counts_do_not_weigh"),
    "noise 2 % too low": (mechanism("broken", draw=functools.partial(noise, scale=0.98)), "noise_has_the_stated_scale"),
    "noise 2 % too high": (mechanism("broken", draw=functools.partial(noise, scale=1.02)), "noise_has_the_stated_scale"),
    "noise divided by n once more": (
        mechanism("broken", draw=functools.partial(noise, scale=1 / 3)), "noise_has_the_stated_scale",
    ),
    "noise of Laplace": (mechanism("broken", draw=laplace), "noise_is_normal"),
    "noise with a mean": (mechanism("broken", draw=lambda s, d: noise(s, d) + 0.1), "noise_is_normal"),
    "one noise for all rounds": (mechanism("broken", draw=lambda _, d: noise(7, d)), "noise_is_independent"),
    "one noise for two rounds": (mechanism("broken", draw=lambda s, d: noise(s // 2, d)), "noise_is_independent"),
    "one noise for two layers": (
        mechanism("broken", draw=lambda s, d: np.resize(noise(s, (d + 1) // 2), d)), "noise_is_independent",
    ),
    "zero, or 1e200, divides by zero": (mechanism("broken", clip=naive_clip), "hostile_updates_are_refused_or_clipped"),
    "NaN enters the sum": (mechanism("broken", clip=lenient), "hostile_updates_are_refused_or_clipped"),
}  # fmt: skip


def one_round(noise, delta, sampling, rounds):
    return spent_epsilon(noise_multiplier=noise, delta=delta, sampling=sampling, rounds=min(rounds, 1))


def central_limit(noise, delta, sampling, rounds):
    """Gaussian DP's limit theorem (Bu et al. 2020): near the truth, and below it."""
    if sampling == 1:
        return exact(noise, delta, sampling, rounds)
    return gaussian_epsilon(sampling * math.sqrt(rounds * math.expm1(noise**-2)), delta)


def rounded_down(noise, delta, sampling, rounds):
    return math.floor(20 * exact(noise, delta, sampling, rounds)) / 20


def exact(noise, delta, sampling, rounds):
    return spent_epsilon(noise_multiplier=noise, delta=delta, sampling=sampling, rounds=rounds)


def decoy(noise, delta, sampling, rounds):
    return 100 - exact(noise, delta, sampling, rounds)


BROKEN_ACCOUNTANTS = {
    "composition forgotten": (Accountant("broken", one_round), "never_below_the_exact_gaussian"),
    "rounded down": (Accountant("broken", rounded_down), "never_below_the_exact_gaussian"),
    "a limit theorem": (Accountant("broken", central_limit), "never_below_published_costs"),
    "falls with rounds": (Accountant("broken", decoy), "more_costs_more"),
    "calibrates to the wrong side": (
        Accountant("broken", exact, lambda e, delta, q, t: 0.99 * accountant().calibrate(e, delta, q, t)),
        "calibrates_to_the_safe_side",
    ),
}


def plain_sum(updates, network, *, step=2.0**-20, minimum=3, check=True, wrap=2**62):
    """A protocol of one message a client, in the clear: what is broken below is broken of it."""
    if check and not (np.isfinite(updates).all() and np.abs(updates).max() <= 1):
        raise ValueError("cannot encode")
    total, came = np.zeros(updates.shape[1], np.int64), 0
    for client, row in enumerate(updates):
        message = network("masked", client, np.nan_to_num(row / step).astype(np.int64).tobytes())
        if message is not None and len(message) == 8 * row.size:
            total, came = total + np.frombuffer(message, np.int64), came + 1
    if came < minimum:
        raise ValueError("too few")
    return (total + wrap // 2) % wrap * step - wrap // 2 * step


def in_the_clear(**changes):
    return SecureAggregation(
        "in the clear",
        functools.partial(plain_sum, **changes),
        stages=("masked",),
        masked="masked",
        minimum=lambda n: n - 1,
        step=lambda _: 2.0**-20,
    )


def counts_the_lost(updates, network):
    plain_sum(updates, network)
    return updates.sum(axis=0)


def ours(seed, d):
    words = np.zeros(d, np.uint32)
    add_mask(words, seed)
    return words


def folded(seed, d, modulus):
    fold = int(np.bitwise_xor.reduce(np.frombuffer(seed, np.uint32)))
    return np.random.default_rng(fold).integers(modulus, size=d)


def without_the_top(seed, d, modulus):
    return ours(seed, d) % (modulus - 1)


def half_the_seed(seed, d, modulus):
    return ours(seed[:16] + bytes(16), d) % modulus


def one_mask_for_all(updates):
    return ours(b"k" * 32, updates.size).reshape(updates.shape) + (updates * 1000).astype(np.uint32)


def small_masks(updates):
    return (np.random.default_rng().integers(2**31, size=updates.shape) + updates * 1000).astype(np.uint32)


BROKEN_AGGREGATIONS = {
    "overflows": (in_the_clear(wrap=2**21), "sum_is_exact"),
    "counts those who left": (replace(in_the_clear(), run=counts_the_lost), "survives_drop_out"),
    "goes on with too few": (in_the_clear(minimum=0), "aborts_below_the_minimum"),
    "believes every message": (in_the_clear(), "sums_nothing_forged"),
    "encodes NaN as something": (in_the_clear(check=False), "refuses_what_it_cannot_encode"),
    "top value never drawn": (SecureAggregation("broken", mask=without_the_top, moduli=(8,)), "masks_are_uniform"),
    "seed folded to 32 bits": (SecureAggregation("broken", mask=folded), "masks_use_the_whole_seed"),
    "half of the seed": (SecureAggregation("broken", mask=half_the_seed), "masks_use_the_whole_seed"),
    "one mask for all": (SecureAggregation("broken", masked_words=one_mask_for_all), "masked_updates_say_nothing"),
    "masks of 31 bits": (SecureAggregation("broken", masked_words=small_masks), "masked_updates_say_nothing"),
    "Flower's masks end below the top": (mask_generator(), "masks_are_uniform"),
    "Flower's masks fold the seed": (mask_generator(), "masks_use_the_whole_seed"),
}
BROKEN = {**BROKEN_MECHANISMS, **BROKEN_ACCOUNTANTS, **BROKEN_AGGREGATIONS}
OURS = [kind.calibrated(Budget(1.0, 1e-5, 0.5), rounds=4, clip_bound=2.0, clients=20) for kind in MECHANISMS.values()]


HERE = ("pytest_fl.checks.privacy", "pytest_fl.checks.secure_aggregation")
"""Modules whose checks are tried here; those of other modules have tests of their own."""


def checks_here(part):
    return [check for check in audits_of(as_part(part)) if check.judge.__module__ in HERE]


def failed(part, seed=0):
    rows = pytest_fl.verify(part, seed=seed, checks=[check.name for check in checks_here(part)]).rows
    return {row.check for row in rows if row.outcome == "failed"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_part_is_caught(name):
    part, check = BROKEN[name]
    row = row_of(part, AUDITS_BY_NAME[check], 0)
    assert row.outcome == "failed"
    assert row.reason


@pytest.mark.parametrize("name", ["noise 2 % too low", "clip per layer", "one noise for two rounds"])
def test_it_is_caught_with_every_seed(name):
    part, check = BROKEN[name]
    assert all(row_of(part, AUDITS_BY_NAME[check], seed).outcome == "failed" for seed in SEEDS)


AUDITS_BY_NAME = {check.name: check for part in (SOUND, accountant(), secure_aggregation()) for check in checks_here(part)}


def test_every_check_has_a_broken_part():
    assert {check for _, check in [*BROKEN.values(), *secure_sums.BROKEN.values()]} == set(AUDITS_BY_NAME)


@pytest.mark.parametrize("part", [SOUND, *OURS], ids=lambda part: getattr(part, "name", type(part).__name__))
def test_sound_mechanisms_pass_every_seed(part):
    seeds = SEEDS if part is SOUND else range(5)
    assert [failed(part, seed) for seed in seeds] == [set()] * len(seeds)


def test_our_accountant_passes():
    for seed in range(3):
        assert failed(accountant(), seed) == set()
    check = AUDITS_BY_NAME["never_below_the_exact_gaussian"]
    assert all(row_of(accountant(), check, seed).outcome == "passed" for seed in SEEDS)


def test_our_masks_pass_every_seed():
    random = {"masks_are_uniform", "masks_use_the_whole_seed", "masked_updates_say_nothing"}
    checks = [check for check in audits_of(secure_aggregation()) if check.name in random]
    for seed in SEEDS:
        rows = [row_of(secure_aggregation(), check, seed) for check in checks]
        assert [row.reason for row in rows if row.outcome != "passed"] == []


@pytest.mark.parametrize("side", ["ServerSide", "ClientSide"])
def test_flowers_fixed_wrappers_divide_by_zero_and_let_clients_weigh_themselves(side):
    wrapper = getattr(strategy, f"DifferentialPrivacy{side}FixedClipping")(strategy.FedAvg(), 1.0, 2.0, 3)
    assert failed(as_part(wrapper)) == {"hostile_updates_are_refused_or_clipped", "claimed_counts_do_not_weigh"}


@pytest.mark.parametrize("side", ["ServerSide", "ClientSide"])
def test_flowers_adaptive_wrappers_scale_the_noise_by_the_next_bound(side):
    """The sum is clipped to one bound and gets the noise of another, which the round's own norms decide."""
    kind = getattr(strategy, f"DifferentialPrivacy{side}AdaptiveClipping")
    options = {"noise_multiplier": 0.5, "num_sampled_clients": 3, "initial_clipping_norm": 2.0, "clipped_count_stddev": 1.0}
    assert "noise_has_the_stated_scale" in failed(as_part(kind(strategy.FedAvg(), **options)))


def test_flowers_local_mod_has_the_noise_that_it_states_and_divides_by_zero():
    assert failed(as_part(LocalDpMod(2.0, 4.0, 1.0, 1e-5))) == {"hostile_updates_are_refused_or_clipped"}


@pytest.mark.parametrize(
    "part",
    [
        strategy.DifferentialPrivacyServerSideFixedClipping(strategy.FedAvg(), 1.0, 2.0, 3),
        LocalDpMod(2.0, 4.0, 1.0, 1e-5),
    ],
    ids=["server", "client"],
)
def test_flowers_noise_leaks_by_its_low_bits(part):
    (row,) = pytest_fl.verify(as_part(part), checks=["low_bits_say_nothing"]).rows
    assert row.outcome == "failed"


def test_what_has_no_adapter_says_what_has_one():
    with pytest.raises(ValueError, match="or a LocalDpMod; got flwr.serverapp.strategy.fedavg.FedAvg"):
        as_part(strategy.FedAvg())


def test_the_exact_gaussian_of_the_check_is_the_definition():
    sigma = gaussian_noise(1.0, 1e-5)
    assert gaussian_delta(1 / sigma, 1.0) == pytest.approx(1e-5)


class TestAudit:
    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch):
        """What fails here on purpose is no row of this run's table."""
        nobody = SimpleNamespace(item=ContextVar("nobody", default=None))
        monkeypatch.setattr("pytest_fl.engine.cases.current", nobody)

    def test_runs_as_a_test_a_check(self):
        mark = audit(SOUND, secure_aggregation(), expected_failures={"masks_are_uniform": "known"})
        cases = {param.id: param.values[0] for param in mark.args[1]}
        assert cases["sound-noise_is_normal"]().outcome == "passed"
        with pytest.raises(pytest_fl.CheckFailed, match="passes, but was expected to fail"):
            cases["fl_impl secure aggregation-masks_are_uniform"]()

    def test_failure_says_claim_numbers_and_seed(self):
        part, check = BROKEN["noise 2 % too low"]
        mark = audit(part)
        (case,) = (param.values[0] for param in mark.args[1] if param.values[0].check.name == check)
        message = r"has 0.9[78]\d+ of the stated deviation \(seed 0\)[\s\S]*claim .*whatever"
        with pytest.raises(pytest_fl.CheckFailed, match=message):
            case()

    def test_expected_failures_and_claims_not_made(self):
        report = audit_report(mask_generator(), expected_failures={"masks_are_uniform": "flwrlabs/flower#7522"})
        outcomes = {row.check: row.outcome for row in report.rows}
        assert outcomes["masks_are_uniform"] == "expected_failure"
        assert outcomes["sum_is_exact"] == "not_claimed"
        assert not report.passed

    def test_arguments_are_checked(self):
        with pytest.raises(ValueError, match="at least one thing to judge"):
            audit()
        with pytest.raises(ValueError, match="did you mean 'noise_is_normal'"):
            audit(SOUND, expected_failures={"noise_is_norml": "x"})
        with pytest.raises(ValueError, match="expected a Mechanism, Accountant"):
            as_part(3)

    def test_a_part_that_raises_has_failed(self):
        def broken(*_):
            raise RuntimeError("no")

        rows = audit_report(replace(SOUND, release=broken, release_with_counts=None)).rows
        assert {row.outcome for row in rows} == {"failed", "not_claimed"}
        assert all("raised RuntimeError: no" in row.reason for row in rows if row.outcome == "failed")

    def test_every_check_is_registered_once_with_a_claim(self):
        assert all(check.claim.endswith(".") for check in AUDITS.values())
