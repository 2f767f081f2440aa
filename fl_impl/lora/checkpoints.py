"""A fit's state as a federation's: one kind of checkpoint for both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fl_impl.lora.factors import Factors, Module, unflat
from fl_impl.lora.fit_state import State
from fl_impl.rounds.state import RunState

if TYPE_CHECKING:
    from fl_impl.lora.adapted import Adapted

DRIFT = "drift"


def as_run(state: State, adapted: Adapted) -> RunState:
    """The adapter as flat parameters, and the drift as arrays of the server's."""
    drift = () if state.drift is None else state.drift.modules
    server = {f"{DRIFT}/{i}/{side}": getattr(module, side) for i, module in enumerate(drift) for side in module._fields}
    flat = state.adapter.flat(adapted.scale)[0]
    return RunState(
        flat, state.round, mechanism=state.mechanism, server=server, memory=state.memory, sent=state.sent,
        received=state.received,
    )  # fmt: skip


def as_fit(run: RunState, adapted: Adapted) -> State:
    """The state of a fit that `as_run` wrote."""
    adapter = unflat(run.parameters[None], adapted.shapes, adapted.rank, adapted.scale)
    memory: dict[str, Any] = dict(run.memory)
    return State(adapter, drift_of(run, adapted), run.round, memory, dict(run.sent), dict(run.received), run.mechanism)


def drift_of(run: RunState, adapted: Adapted) -> Factors | None:
    """What stands beside the base weights. Raises ValueError where it is of other modules."""
    if not run.server:
        return None
    names = [f"{DRIFT}/{i}" for i in range(len(adapted.shapes))]
    try:
        modules = tuple(Module(run.server[f"{name}/up"], run.server[f"{name}/down"]) for name in names)
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks {error}: it is of other target_modules") from None
    for shape, (up, down) in zip(adapted.shapes, modules, strict=True):
        if up.ndim != 3 or down.ndim != 3 or up.shape != (1, up.shape[1], shape.m) or down.shape != (1, up.shape[1], shape.k):
            raise ValueError(f"the checkpoint has factors of shape {up.shape} and {down.shape} for {shape.name}")
    return Factors(modules)
