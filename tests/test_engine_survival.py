"""`survives`: sound servers pass, and for each invariant a server that breaks it is caught with a small plan."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings

import pytest_fl
from fl_impl import FLConfig
from fl_impl.aggregators import ALL
from fl_impl.faults import Fault, FaultPlan
from pytest_fl.engine.survival import ARRIVED, BOUNDED, FINITE, INVARIANTS, UNDISTURBED, smaller
from pytest_fl.inputs.plans import fault_plans

FLOWER = "flwr is not installed: pip install 'pytest-fl[flower]'"


@pytest.mark.parametrize("rule", ["trimmed_mean", "nnm|krum"])
def test_our_rules_survive(rule):
    survival = pytest_fl.survives(rule, plans=8, clients=11, f=2)
    assert survival.plans == 8
    assert survival.bounded > 10
    assert "no invariant broken" in str(survival)


def test_our_strategy_survives():
    pytest.importorskip("flwr", reason=FLOWER)
    from fl_impl.flower import RobustStrategy

    survival = pytest_fl.survives(functools.partial(RobustStrategy, "coordinate_median"), plans=5, clients=7, rounds=3)
    assert survival.bounded > 5


def test_a_configuration_with_attackers_of_its_own_survives():
    config = FLConfig(
        num_clients=9, aggregation="coordinate_median", byzantine_fraction=0.3, attack="sign_flip", client_timeout=0.05
    )
    assert pytest_fl.survives(config, plans=[FaultPlan((Fault("hang", (0, 8), (2, 2)),))]).rounds == 4


def caught(subject, invariant, **keywords):
    """The plan under which a server breaks an invariant; run again, it breaks it again."""
    with pytest.raises(pytest_fl.NotSurvived) as first:
        pytest_fl.survives(subject, **{"plans": 150, "clients": 7, "rounds": 3, **keywords})
    assert first.value.invariant == invariant
    keywords.pop("kinds", None)
    with pytest.raises(pytest_fl.NotSurvived, match="Run it again"):
        pytest_fl.survives(subject, **{"clients": 7, "rounds": 3, **keywords, "plans": [first.value.plan]})
    return first.value.plan


def test_a_rule_that_lets_infinity_out_is_caught():
    def rule(updates, f):
        with np.errstate(all="ignore"):
            return np.exp(np.abs(updates).max(axis=0) * 1e3) * np.float64(1e300)

    caught(FLConfig(num_clients=7, aggregation=rule, byzantine_fraction=0.2), FINITE)


def test_a_server_that_raises_is_caught():
    def rule(updates, f):
        if len(updates) < 7:
            raise ZeroDivisionError("a client is missing")
        return updates.mean(axis=0)

    plan = caught(FLConfig(num_clients=7, aggregation=rule), FINITE)
    (only,) = plan.faults
    assert (len(only.clients), only.rounds[0]) == (1, only.rounds[1])


def test_a_rule_that_is_no_defence_is_caught():
    plan = caught(FLConfig(num_clients=7, aggregation="mean", byzantine_fraction=0.3), BOUNDED, kappa=lambda n, f: 1.0)
    assert {each.kind for each in plan.faults} <= {"byzantine", "stale", "lying_count"}
    assert len(plan.faults) == 1


def test_a_run_that_differs_by_itself_is_caught():
    calls = itertools.count()

    def rule(updates, f):
        return updates.mean(axis=0) * (1 + next(calls) / 10)

    config = FLConfig(num_clients=7, aggregation=rule)
    caught(config, UNDISTURBED, kinds=["slow"], kappa=lambda n, f: float("inf"))


def test_a_strategy_that_counts_a_reply_twice_is_caught():
    pytest.importorskip("flwr", reason=FLOWER)
    from flwr.serverapp.strategy import FedAvg

    plan = caught(FedAvg, ARRIVED, kinds=["duplicate"], plans=10, rounds=2)
    assert {each.kind for each in plan.faults} == {"duplicate"}


def test_flowers_mean_ends_with_one_broken_number():
    pytest.importorskip("flwr", reason=FLOWER)
    from flwr.serverapp.strategy import FedAvg

    assert caught(FedAvg, FINITE, kinds=["non_finite"], plans=10, rounds=2).faults[0].kind == "non_finite"


def test_a_whole_app_is_run():
    pytest.importorskip("flwr", reason=FLOWER)
    from flwr.app import ArrayRecord
    from flwr.serverapp import ServerApp

    from fl_impl.flower import RobustStrategy
    from pytest_fl.engine.servers import made_up

    server = ServerApp()

    @server.main()
    def main(grid, context):
        initial = ArrayRecord([np.zeros((3, 1), np.float32), np.zeros(2, np.float32)])
        RobustStrategy("trimmed_mean").start(grid, initial, num_rounds=context.run_config["num-server-rounds"])

    kappa = ALL["trimmed_mean"].kappa
    assert pytest_fl.survives((server, made_up(9, 0)), plans=4, rounds=2, f=1, kappa=kappa).bounded > 3


def test_what_is_no_server_is_told():
    with pytest.raises(ValueError, match="expected an FLConfig"):
        pytest_fl.survives(len)
    with pytest.raises(ValueError, match="did you mean 'crash'"):
        pytest_fl.survives("mean", kinds=["crahs"], f=0)


@settings(max_examples=30)
@given(fault_plans(6, 4, 2))
def test_plans_have_at_most_f_liars_and_get_smaller(plan):
    assert all(sum(plan.effect(client, number) == "wrong" for client in range(6)) <= 2 for number in range(1, 5))
    size = lambda plan: sum(len(each.clients) * (each.rounds[1] - each.rounds[0] + 1) for each in plan.faults)  # noqa: E731
    assert all(size(each) < size(plan) for each in smaller(plan, 4))


def test_every_invariant_has_a_server_that_breaks_it_above():
    assert set(INVARIANTS) == {FINITE, ARRIVED, BOUNDED, UNDISTURBED}


def test_the_fixture_takes_its_knobs(run, pytester):
    pytester.makepyfile(
        """
        def test_sound(fl_faults):
            assert fl_faults("coordinate_median", plans=3).plans >= 3

        def test_no_defence(fl_faults):
            fl_faults("mean", f=3, kappa=lambda n, f: 1.0)
        """
    )
    result = run("--fl-profile=default", "--fl-clients=8", "-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*NotSurvived: broken: with at most f faulty*"])
