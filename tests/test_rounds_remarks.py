"""U2, U3: an attack without effect and a federation that learnt nothing say so."""

from __future__ import annotations

from typing import Any

import pytest

from fl_impl import FederatedLearningCoordinator, FLConfig, FLMetrics, make_clients
from pytest_fl.checks.federation import accuracy_kept

LEARNING = {"dataset": "wine", "num_rounds": 3, "num_clients": 10, "learning_rate": 0.5, "local_epochs": 5}


def notes(**settings: Any) -> tuple[str, ...]:
    config = FLConfig(**{**LEARNING, **settings})
    return FederatedLearningCoordinator(config).run(make_clients(config), output=None).notes


def test_a_run_that_does_what_one_thinks_has_no_remark() -> None:
    assert notes() == ()
    assert notes(attack="sign_flip", byzantine_fraction=0.2) == ()
    assert notes(attack="a_little_is_enough", byzantine_fraction=0.4, aggregation="trimmed_mean") == ()
    assert notes(attack="label_flip", byzantine_fraction=0.2) == ()


def test_an_attack_without_attackers_says_so() -> None:
    (said,) = notes(attack="sign_flip")
    assert "the attack sign_flip had no attacker in any round" in said
    (said,) = notes(attack="sign_flip", byzantine_fraction=0.2, attack_start=9)
    assert "rounds 9 to the last must be among those that were run" in said


def test_an_attack_that_sends_the_honest_mean_says_so() -> None:
    (said,) = notes(attack="a_little_is_enough", byzantine_fraction=0.2)
    assert "sent the mean of the honest updates in every round" in said


def test_a_federation_that_learnt_nothing_says_so_and_writes_it(tmp_path) -> None:
    config = FLConfig(num_rounds=1, learning_rate=1e-6)
    path = tmp_path / "a.json"
    FederatedLearningCoordinator(config).run(make_clients(config), output=path)
    (said,) = FLMetrics.load(path).notes
    assert "the model has learnt nothing: its accuracy is" in said
    assert "always gives 10." in said


def test_resuming_says_it_once(tmp_path) -> None:
    path = tmp_path / "a.json"
    for rounds in (1, 2):
        config = FLConfig(num_rounds=rounds, learning_rate=1e-6)
        FederatedLearningCoordinator(config).run(make_clients(config), output=path, resume=True)
    assert len(FLMetrics.load(path).notes) == 1


def test_accuracy_kept_refuses_a_clean_run_that_learnt_nothing() -> None:
    with pytest.raises(ValueError, match="accuracy_kept says nothing here: the model has learnt nothing"):
        accuracy_kept("krum", "sign_flip", num_rounds=1, learning_rate=1e-6)


def test_accuracy_kept_refuses_an_attack_that_does_nothing() -> None:
    with pytest.raises(ValueError, match="had no attacker in any round"):
        accuracy_kept("krum", "sign_flip", fraction=0.01)
