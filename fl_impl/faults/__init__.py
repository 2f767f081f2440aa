"""Faults on purpose: a plan of who crashes, hangs, lies or is cut off in which round, and clients that follow it.

    plan = FaultPlan((Fault("crash", clients=(2,), rounds=(3, 4)), Fault("partition", clients=(0, 1, 5))))
    coordinator.run(faulty(make_clients(config), plan), output=None)

`fl_impl.faults.messages` has the same for Flower: `fault_mod(plan)` for any ClientApp, and a grid in this process.
"""

from __future__ import annotations

from fl_impl.faults.clients import FaultyClient, faulty
from fl_impl.faults.kinds import KINDS, Moment, Unreachable, fault
from fl_impl.faults.plan import Effect, Fault, FaultPlan

__all__ = ["KINDS", "Effect", "Fault", "FaultPlan", "FaultyClient", "Moment", "Unreachable", "fault", "faulty"]
