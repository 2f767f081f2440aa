"""Faults of clients, the quorum, checkpoints, and runs that are killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_impl import ClientUpdate, FederatedLearningCoordinator, FLConfig, FLMetrics, make_clients
from fl_impl.aggregators import ALL, resolve
from fl_impl.common.counts import floor_of
from fl_impl.rounds.quorum import QuorumError

D = 6


class Sound:
    """Answers as it should."""

    def fit(self, parameters: np.ndarray, round: int) -> Any:
        del round
        return ClientUpdate(np.ones_like(parameters), 3, 1.0)


class Faulty(Sound):
    """Answers what it was made with: an exception, or a function of (parameters, round)."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def fit(self, parameters: np.ndarray, round: int) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(parameters, round)


class Mute(Exception):  # noqa: N818  # it is no error of ours
    """Raises where it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError


def good(parameters: np.ndarray, **changes: Any) -> ClientUpdate:
    return ClientUpdate(**{"delta": np.ones_like(parameters), "num_samples": 3, "loss": 1.0, **changes})


FAULTS = {
    "raises": (ZeroDivisionError("oh"), "raised ZeroDivisionError: oh"),
    "exits": (SystemExit(3), "raised SystemExit: 3"),
    "ends a generator": (GeneratorExit(), "raised GeneratorExit: "),
    "cannot say why": (Mute(), "raised Mute: it cannot say why"),
    "says too much": (ValueError("x" * 10**6), r"^raised ValueError: x{200}$"),
    "wrong shape": (lambda p, r: good(p, delta=np.ones(D + 1)), r"wrong shape: expected \(6,\), got \(7,\)"),
    "matrix": (lambda p, r: good(p, delta=np.ones((1, D))), "wrong shape"),
    "NaN": (lambda p, r: good(p, delta=np.full(D, np.nan)), "non-finite"),
    "infinite": (lambda p, r: good(p, delta=np.full(D, np.inf)), "non-finite"),
    "overflows float32": (lambda p, r: good(p, delta=np.full(D, 1e300)), "non-finite"),
    "text": (lambda p, r: good(p, delta="abc"), "no array of numbers"),
    "ragged": (lambda p, r: good(p, delta=[[1.0], [1.0, 2.0]]), "no array of numbers"),
    "nothing": (lambda p, r: None, "sent nothing"),
    "not an update": (lambda p, r: np.ones(D), "without delta"),
    "late": (lambda p, r: good(p, round=1), "late: its update is of round 1"),
    "unknown round": (lambda p, r: good(p, round=r + 5), "unknown round 7"),
    "duplicate": (lambda p, r: good(p, client=0), "duplicate: it answers as client 0"),
    "twice": (lambda p, r: [good(p), good(p)], "duplicate: it sent 2 updates"),
    "unknown sender": (lambda p, r: good(p, client=77), "unknown sender"),
    "negative count": (lambda p, r: good(p, num_samples=-1), "expected a finite num_samples"),
    "count of text": (lambda p, r: good(p, num_samples="many"), "expected a finite num_samples"),
    "NaN loss": (lambda p, r: good(p, loss=float("nan")), "expected a finite loss"),
    "writes to what it is given": (lambda p, r: p.fill(7) or good(p), ""),
}  # fmt: skip


def coordinator(n: int, **settings: Any) -> FederatedLearningCoordinator:
    return FederatedLearningCoordinator(FLConfig(num_clients=n, **settings), parameters=np.zeros(D))


@pytest.mark.parametrize("name", FAULTS)
def test_each_kind_of_fault_is_recorded_and_the_round_goes_on(name: str) -> None:
    answer, reason = FAULTS[name]
    chief = coordinator(4)
    chief.simulate_round([Sound()] * 4)
    result = chief.simulate_round([Sound(), Sound(), Faulty(answer), Sound()])
    if not reason:
        assert (result.rejected, result.num_clients) == ({}, 4)
        np.testing.assert_array_equal(chief.parameters, 2)
        return
    assert list(result.rejected) == [2]
    assert result.num_clients == (4 if name == "twice" else 3)
    np.testing.assert_array_equal(chief.parameters, 2)
    assert re.search(reason, result.rejected[2])


def test_a_client_that_hangs_is_left_behind() -> None:
    chief = coordinator(3, client_timeout=0.2)
    result = chief.simulate_round([Sound(), Faulty(lambda p, r: time.sleep(30)), Sound()])
    assert result.rejected == {1: "timed out after 0.2 s"}
    assert result.num_clients == 2


@pytest.mark.parametrize("workers", [1, 2, None])
def test_hanging_clients_share_one_deadline(workers: int | None) -> None:
    chief = coordinator(6, client_timeout=0.4, client_workers=workers)
    hanging = [Faulty(lambda p, r: time.sleep(30)) for _ in range(4)]
    began = time.monotonic()
    result = chief.simulate_round([Sound(), Sound(), *hanging])
    assert time.monotonic() - began < 4 * 0.4  # one after another they would take that
    assert result.rejected == dict.fromkeys(range(2, 6), "timed out after 0.4 s")
    assert result.num_clients == 2


def test_own_clients_are_asked_at_the_same_time_and_recorded_in_their_order() -> None:
    gate = threading.Barrier(5, timeout=20)

    def answer(number: int) -> Any:
        def late(parameters: np.ndarray, round: int) -> ClientUpdate:
            gate.wait()  # passes only while all five are being asked
            time.sleep(0.01 * (5 - number))
            return good(parameters, loss=float(number))

        return late

    result = coordinator(5).simulate_round([Faulty(answer(number)) for number in range(5)])
    assert (result.num_clients, result.rejected, result.train_loss) == (5, {}, 2.0)


def test_one_worker_asks_one_client_after_another_where_the_caller_stands() -> None:
    seen: list[tuple[str, int]] = []

    def answer(number: int) -> Any:
        return lambda p, r: seen.append((threading.current_thread().name, number)) or good(p)

    coordinator(4, client_workers=1).simulate_round([Faulty(answer(number)) for number in range(4)])
    assert seen == [(threading.current_thread().name, number) for number in range(4)]


@pytest.mark.parametrize("workers", [1, None])
def test_ctrl_c_stops_the_run(workers: int | None) -> None:
    chief = coordinator(3, client_workers=workers)
    with pytest.raises(KeyboardInterrupt):
        chief.simulate_round([Sound(), Faulty(KeyboardInterrupt()), Sound()])
    assert chief.metrics.rounds == []


class Sends(Sound):
    """Sends these numbers, or crashes."""

    def __init__(self, row: Any) -> None:
        self.row = row

    def fit(self, parameters: np.ndarray, round: int) -> Any:
        if self.row is None:
            raise RuntimeError("power cut")
        return ClientUpdate(np.asarray(self.row, np.float32), 3, 1.0)


@pytest.mark.parametrize("lost", range(8))
@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
def test_honest_clients_that_crash_do_not_disarm_the_rule(rule: str, lost: int) -> None:
    """R1: with f from those who arrived, one crash gave -199 and four gave -499."""
    honest = [Sends(np.full(D, 1 + i / 100)) for i in range(7 - lost)] + [Sends(None)] * lost
    chief = coordinator(10, aggregation=rule, byzantine_fraction=0.3)
    clients = [Sends(np.full(D, -1000.0))] * 3 + honest
    if 10 - lost < 7:
        with pytest.raises(QuorumError, match=rf"{10 - lost} sound updates, but 7 are needed of the 10 .* with f=3\)"):
            chief.simulate_round(clients)
        return
    assert chief.simulate_round(clients).f == 3
    assert 1.0 <= chief.parameters.min() <= chief.parameters.max() <= 1.06


PROVEN = sorted(name for name, rule in ALL.items() if not rule.keywords.required and rule.kappa(41, 4) < np.inf)


@pytest.mark.parametrize("rule", [*PROVEN, "nnm|trimmed_mean", "nnm|krum", "bucketing(size=2)|median"])
def test_whoever_is_lost_the_result_is_within_the_rules_bound_or_refused(rule: str) -> None:
    """||F - mu||^2 <= kappa (1/h) sum ||x_i - mu||^2 over the h honest clients that arrived, for every fraction and loss."""
    n, rng, held = 13, np.random.default_rng(5), 0
    for fraction in (0.08, 1 / 6, 0.25, 0.31, 0.4, 0.47):
        attackers = floor_of(fraction, n)
        if n < resolve(rule).min_clients(attackers):
            continue
        for lost in range(n - attackers + 1):
            rows = rng.normal(1, 0.1, (n - attackers - lost, D))
            liars = rng.choice([-1000.0, 3.0, 1.5, 1e20], (attackers, 1)) * np.ones((1, D))
            clients = [Sends(row) for row in (*rows, *liars)] + [Sends(None)] * lost
            chief = coordinator(n, aggregation=rule, byzantine_fraction=fraction, client_workers=1)
            came = n - lost
            if came < max(1, chief.config.rule.min_clients(attackers)):
                with pytest.raises(QuorumError):
                    chief.simulate_round(clients)
                continue
            assert chief.simulate_round(clients).f == attackers
            sent = rows.astype(np.float32).astype(np.float64)
            mu = sent.mean(axis=0)
            bound = chief.config.rule.kappa(came, attackers) * ((sent - mu) ** 2).sum() / len(sent)
            assert ((chief.parameters - mu) ** 2).sum() <= bound * (1 + 1e-4) + 1e-9
            held += 1
    assert held > 5


def test_where_all_counts_are_0_the_error_speaks_of_num_samples() -> None:
    clients = [Faulty(lambda p, r: good(p, num_samples=0))] * 3
    with pytest.raises(ValueError, match="all 3 clients say num_samples=0, so a mean weighted by num_samples is not defined"):
        coordinator(3).simulate_round(clients)
    assert coordinator(3, aggregation="median").simulate_round(clients).num_clients == 3


def test_a_sample_may_hold_more_attackers_than_f_and_the_notes_say_how_often() -> None:
    """R2: 4 of 20 attack, 10 are asked: f = 2, and 29 % of the rounds hold more."""
    settings: dict[str, Any] = {"aggregation": "trimmed_mean", "byzantine_fraction": 0.2, "fraction_fit": 0.5}
    clients = [Sends(np.full(D, -1e6))] * 4 + [Sends(np.full(D, 1.0))] * 16
    chief = coordinator(20, num_rounds=40, **settings)
    chief.run(clients, output=None)
    (note,) = chief.metrics.notes
    assert "asks 10 of 20 clients, of which byzantine_fraction lets 4 attack" in note
    assert "f=2: with probability 0.291 a round holds more attackers" in note
    assert "sample_tolerance=0.001" in note
    assert min(chief.parameters) < -1e4  # it did happen

    safe = coordinator(20, num_rounds=40, sample_tolerance=0.0, **settings)
    safe.run(clients, output=None)
    assert {result.f for result in safe.metrics.rounds} == {4}
    np.testing.assert_allclose(safe.parameters, 40.0)
    assert safe.metrics.notes == ()
    rare = coordinator(20, sample_tolerance=0.1, **settings)
    rare.simulate_round(clients)
    assert rare.metrics.final.f == 3
    assert "with probability 0.0433" in rare.metrics.notes[0]
    with pytest.raises(ValueError, match="needs n >= 13 clients a round for f=6"):
        coordinator(20, sample_tolerance=0.0, aggregation="trimmed_mean", byzantine_fraction=0.3, fraction_fit=0.5)


def test_below_the_quorum_there_is_one_clear_error_and_no_round() -> None:
    chief = coordinator(3, min_clients=2)
    clients = [Sound(), Faulty(RuntimeError("no")), Faulty(RuntimeError("no"))]
    with pytest.raises(
        ValueError, match=r"round 1: 1 sound updates, but 2 are needed of the 3 .*client 1: raised RuntimeError: no"
    ):
        chief.simulate_round(clients)
    assert chief.metrics.rounds == []
    assert chief.simulate_round([Sound()] * 3).round == 1


def test_the_quorum_of_the_rule_counts_too() -> None:
    chief = coordinator(6, aggregation="bulyan", byzantine_fraction=0.0)
    needed = chief.config.rule.min_clients(0)
    assert needed > 1
    with pytest.raises(ValueError, match=f"0 sound updates, but {needed} are needed"):
        chief.simulate_round([Faulty(RuntimeError("no"))] * 6)


RESUMED: dict[str, Any] = {
    "num_rounds": 6, "num_clients": 8, "fraction_fit": 0.75, "server_optimizer": "adam", "client_momentum": 0.5,
    "attack": "mimic|stale", "attack_fraction": 0.25, "aggregation": "foolsgold",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{}, {"client_algorithm": "scaffold", "local_steps": 3, "client_momentum": 0.0, "aggregation": "centered_clipping"}],
)
def test_a_resumed_run_equals_the_undisturbed_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = FLConfig(**{**RESUMED, **changes})
    whole = FederatedLearningCoordinator(config)
    whole.run(make_clients(config), output=tmp_path / "whole.json")
    for stop in (1, 3, 5):
        part = tmp_path / f"{stop}.json"

        class Stop(Exception):  # noqa: N818  # it is no error
            pass

        def interrupt(result: Any, stop: int = stop, stopped: type[Exception] = Stop) -> None:
            if result.round == stop:
                raise stopped

        with pytest.raises(Stop):
            FederatedLearningCoordinator(config).run(make_clients(config), output=part, on_round=interrupt)
        resumed = FederatedLearningCoordinator(config)
        resumed.run(make_clients(config), output=part, resume=True)
        assert resumed.metrics.rounds == whole.metrics.rounds
        np.testing.assert_array_equal(resumed.parameters, whole.parameters)
        assert without_seconds(part) == without_seconds(tmp_path / "whole.json")
        assert part.with_suffix(".safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def without_seconds(path: Path) -> dict[str, Any]:
    """Everything in a metrics file but how long it took."""
    read = json.loads(path.read_text())
    assert len(read.pop("seconds")) == len(read["rounds"])
    return read


def test_resume_starts_anew_where_there_is_nothing_and_refuses_another_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    config = FLConfig(num_rounds=2)
    FederatedLearningCoordinator(config).run(make_clients(config), output=path, resume=True)
    longer = FLConfig(num_rounds=4)
    assert len(FederatedLearningCoordinator(longer).run(make_clients(longer), output=path, resume=True).rounds) == 4
    other = FLConfig(num_rounds=2, learning_rate=0.2)
    with pytest.raises(ValueError, match="another configuration: learning_rate is 0.1 there and 0.2 here"):
        FederatedLearningCoordinator(other).run(make_clients(other), output=path, resume=True)


KILLED = """
import json, os, random, signal, sys, time
import torch
from fl_impl import FederatedLearningCoordinator, FLConfig, FLMetrics, make_clients

torch.set_num_threads(1)  # so that the parent of the forks has no threads
folder, draw, reached = sys.argv[1], random.Random(7), []
config = FLConfig(num_rounds=80, num_clients=8, attack="mimic|stale", attack_fraction=0.25, aggregation="median",
                  client_momentum=0.5, server_optimizer="yogi", partition="dirichlet(1.0)")
make_clients(config)  # reads the data once for all forks

def written(path):
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0

def in_a_fork(name, writes=0):
    path = f"{folder}/{name}.json"
    last = written(path)
    child = os.fork()
    if not child:
        FederatedLearningCoordinator(config).run(make_clients(config), output=path, resume=True)
        os._exit(0)
    for _ in range(writes):
        while written(path) == last:
            time.sleep(0.0005)
        last = written(path)
    if writes:
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

while len(reached) < 10:
    in_a_fork("killed", draw.randint(1, 7))
    reached.append(len(FLMetrics.load(f"{folder}/killed.json").rounds))
assert in_a_fork("killed") == 0 and in_a_fork("whole") == 0
print(json.dumps(reached))
"""


def test_a_run_killed_at_ten_random_moments_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True)
    reached = json.loads(ended.stdout)
    assert len(reached) == 10
    assert sorted(reached) == reached
    assert 0 < reached[-1]  # it was killed under way
    assert reached[0] < 80
    assert without_seconds(tmp_path / "killed.json") == without_seconds(tmp_path / "whole.json")
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert len(FLMetrics.load(tmp_path / "killed.json").rounds) == 80
