"""Plans of faults on processes: nodes of a SuperLink are killed, or cut off for a round; the run equals the one in this process."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

import flower_models as app
from flwr.app import ConfigRecord
from test_flower_models import wait_for

from fl_impl.faults import Fault, FaultPlan
from fl_impl.faults.messages import faulty_grid
from fl_impl.flower import RobustStrategy
from fl_impl.flower.deployment.launch import deployed

NODES, ROUNDS, MODEL = 5, 4, "tied"
TIMEOUT = 100.0
"""Seconds that a round waits for nodes that are gone; a busy machine takes 30 for one of nodes that are there."""
PLANS = {
    "SIGKILL": FaultPlan((Fault("crash", (3, 4), (2, ROUNDS)),)),
    "partition": FaultPlan((Fault("partition", (1, 2), (2, 2)),)),
}


class Watched(RobustStrategy):
    """Told before each round, so that processes can be struck as the plan says."""

    def __init__(self, strike=lambda number: None, **keywords):
        super().__init__("trimmed_mean", fraction_evaluate=0.0, **keywords)
        self.strike = strike

    def configure_train(self, server_round, arrays, config, grid):
        self.strike(server_round)
        return super().configure_train(server_round, arrays, config, grid)


def run(strategy, grid):
    """(the model, round -> how many were not used)."""
    config = ConfigRecord({"model": MODEL})
    result = strategy.start(grid, app.initial(MODEL), num_rounds=ROUNDS, timeout=TIMEOUT, train_config=config)
    return result.arrays, {number: len(reasons) for number, reasons in strategy.rejected.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_on_processes_is_the_plan_in_this_process(name, monkeypatch):
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    folder = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}:{folder}")  # of the nodes
    plan = PLANS[name]
    with faulty_grid(app.client, NODES, plan) as grid:
        expected, lost = run(Watched(), grid)
    assert lost == {number: sum(plan.effect(i, number) == "lost" for i in range(NODES)) for number in range(1, ROUNDS + 1)}
    with deployed(NODES, client_app="flower_models:client") as (grid, deployment):
        wait_for(grid)
        nodes = {number: supernode for number, (supernode, _) in enumerate(deployment.supernodes)}  # in order of partitions

        def strike(number):
            for i, process in nodes.items():
                before, now = (plan.effect(i, n) == "lost" for n in (number - 1, number))
                if now and not before:
                    os.kill(process, signal.SIGKILL if name == "SIGKILL" else signal.SIGSTOP)
                elif before and not now:
                    os.kill(process, signal.SIGCONT)
            if not any(plan.effect(i, number) == "lost" for i in range(NODES)):
                wait_for(grid)  # a node whose heartbeat was missed is asked again only after its next one

        strategy = Watched(strike)
        model, refused = run(strategy, grid)
    assert refused[1] == 0
    assert refused[2] == lost[2]
    assert refused[ROUNDS] in {lost[ROUNDS], 0}  # the SuperLink lists dead nodes until their heartbeat is missed
    assert list(model) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(model[key].numpy(), array.numpy())
    assert app.accuracy(MODEL, model) > 0.85
