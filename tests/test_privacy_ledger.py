"""The ledger: costs of runs add up over resumes, kills, saves and loads, and never fall."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from fl_impl import FederatedLearningCoordinator, FLConfig, FLMetrics, make_clients
from fl_impl.privacy import PrivacyBudgetError, calibrate, gaussian_epsilon, spent_epsilon
from fl_impl.privacy.ledger import Entry, Ledger

SMALL: Any = {"model": "linear", "num_clients": 8, "dp_seed": 0}
PRIVATE: Any = {"differential_privacy": True, "dp_epsilon": 3.0, "dp_delta": 1e-5}


def config(rounds: int, **settings: Any) -> FLConfig:
    return FLConfig(**{**SMALL, **PRIVATE, "num_rounds": rounds, **settings})


def run(settings: FLConfig, path: Path, **options: Any) -> FLMetrics:
    return FederatedLearningCoordinator(settings).run(make_clients(settings), output=path, **options)


@pytest.mark.parametrize("mechanism", ["gaussian", "adaptive", "local", "ftrl"])
def test_resume_with_more_rounds_counts_what_the_first_released(tmp_path: Path, mechanism: str) -> None:
    """P1: 5 rounds within epsilon 3, then 50: the truth is above 3, and was said to be 0.97."""
    path, options = tmp_path / "run.json", {"dp_mechanism": mechanism}
    assert run(config(5, **options), path).final.epsilon == pytest.approx(3.0, rel=0.01)
    with pytest.raises(ValueError, match="would bring the spent epsilon to 3|the noise of its rounds is made for 5"):
        run(config(50, **options), path, resume=True)


def test_a_kill_between_metrics_and_checkpoint_is_counted(tmp_path: Path) -> None:
    """P2: round 3 is released twice, with other noise each time; a fourth release is not covered by a budget for three."""
    path, settings = tmp_path / "run.json", config(3)
    checkpoint = path.with_suffix(".safetensors")

    def keep(result: Any) -> None:
        if result.round == 2:
            shutil.copy(checkpoint, tmp_path / "older")

    run(settings, path, on_round=keep)
    shutil.copy(tmp_path / "older", checkpoint)
    with pytest.raises(PrivacyBudgetError, match=r"round 3 would bring the spent epsilon to 3\.[3-9]"):
        run(settings, path, resume=True)


def test_a_delta_that_covers_a_whole_client_is_refused() -> None:
    with pytest.raises(ValueError, match="delta=0.5 for 10 clients"):
        config(3, num_clients=10, dp_delta=0.5)


def entry(number: int, noise: float, **changes: Any) -> Entry:
    return Entry(**{"mechanism": "gaussian", "round": number, "noise_multiplier": noise, "run": "run 1", **changes})


def of_rounds(rounds: int, sampling: float = 1.0) -> float:
    return calibrate(epsilon=3.0, delta=1e-5, sampling=sampling, rounds=rounds)


def test_the_composed_truth_of_p1_and_p2() -> None:
    first, rest = of_rounds(5, 0.5), of_rounds(50, 0.5)
    noises = [first] * 5 + [rest] * 45
    ledger = Ledger(entry(t, noise, sampling=0.5) for t, noise in enumerate(noises, 1))
    assert ledger.epsilon(1e-5) == pytest.approx(4.21, abs=0.01)
    twice = Ledger(entry(t, of_rounds(3)) for t in (1, 2, 3, 3))
    assert twice.epsilon(1e-5) == pytest.approx(3.53, abs=0.02)


def test_one_mechanism_composes_as_its_accountant() -> None:
    ledger = Ledger(entry(t, 2.0, sampling=0.3) for t in range(1, 31))
    exact = spent_epsilon(noise_multiplier=2.0, delta=1e-6, sampling=0.3, rounds=30)
    assert ledger.epsilon(1e-6) == pytest.approx(exact, rel=1e-12)
    assert exact < ledger.epsilon(1e-6, composition="rdp") < 1.3 * exact


@pytest.mark.parametrize("more", [entry(9, 50.0), entry(9, 1.0, sampling=0.01), entry(9, 4.0, stream="s"), entry(9, 0.0)])
def test_an_entry_more_never_costs_less(more: Entry) -> None:
    ledger = Ledger([entry(1, 2.0, sampling=0.5), entry(1, 3.0, stream="s", sampling=1.0)])
    before = ledger.epsilon(1e-5)
    assert ledger.epsilon(1e-5, [more]) >= before * (1 - 2e-3)
    ledger.enter(more)
    assert ledger.epsilon(1e-5) == ledger.epsilon(1e-5, []) >= before * (1 - 2e-3)


def test_a_stream_is_one_release_and_a_round_released_again_is_one_more() -> None:
    stream = [entry(t, noise, stream="s", mechanism="ftrl") for t, noise in ((1, 4.0), (2, 3.0), (3, 2.0))]
    assert Ledger(stream).epsilon(1e-5) == gaussian_epsilon(1 / 2.0, 1e-5)
    again = Ledger([*stream, stream[1]]).epsilon(1e-5)
    assert again == pytest.approx(gaussian_epsilon((2.0**-2 + 3.0**-2) ** 0.5, 1e-5))


def test_a_file_is_written_before_anything_is_shown_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run.ledger"
    ledger = Ledger(path=path)
    ledger.enter(entry(1, 2.0))
    assert Ledger.open(path).entries == ledger.entries == (entry(1, 2.0),)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(path.read_text() + '{"mechanism": "gaus')  # killed while it was written: nothing was shown
    opened = Ledger.open(path)
    opened.enter(entry(2, 2.0))
    assert len(Ledger.open(path)) == len(opened) == 2
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no entry of a ledger"):
        Ledger.open(path)


@pytest.mark.parametrize("wrong", [{"noise_multiplier": float("nan")}, {"sampling": 0.0}, {"sampling": 2.0}, {"round": 0}])
def test_what_is_no_release_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="in an entry of a ledger"):
        Entry(**{"mechanism": "gaussian", "round": 1, "noise_multiplier": 1.0, **wrong})


def test_runs_on_the_same_clients_share_a_ledger(tmp_path: Path) -> None:
    settings = config(2, dp_ledger=str(tmp_path / "clients.ledger"))
    first = run(settings, tmp_path / "a.json")
    with pytest.raises(PrivacyBudgetError, match=r"round 1 would bring the spent epsilon to 3\.\d+ .* by 2 releases so far"):
        run(settings, tmp_path / "b.json")
    with pytest.raises(PrivacyBudgetError, match="round 2 would bring .* by 3 releases so far"):
        run(config(2, dp_ledger=settings.dp_ledger, dp_epsilon=30.0), tmp_path / "b.json")
    ledger = FLMetrics.load(tmp_path / "b.json").ledger
    assert [(e["run"], e["round"]) for e in ledger] == [("run 1", 1), ("run 1", 2), ("run 2", 1)]
    assert first.ledger == ledger[:2]


def test_a_run_whose_ledger_is_lost_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run(config(2), path)
    path.with_suffix(".ledger").unlink()
    with pytest.raises(ValueError, match="lacks round 1 of the run"):
        run(config(2), path, resume=True)


def test_metrics_hold_the_ledger_and_other_runs_have_none(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert json.loads(run(config(2), path).path.read_text())["ledger"][1]["round"] == 2  # type: ignore[union-attr]
    plain = FLConfig(**SMALL | {"dp_seed": None}, num_rounds=1)
    assert run(plain, tmp_path / "plain.json").ledger == ()
    assert not (tmp_path / "plain.ledger").exists()
