"""The state of a run between rounds, and how it survives a kill: one safetensors file, replaced in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_impl.common.files import write_atomically

Array = npt.NDArray[Any]


@dataclass
class RunState:
    """All that a round needs of the rounds before it, the clients' own state apart."""

    parameters: npt.NDArray[np.float32]
    round: int = 0
    """Rounds done."""
    server: dict[str, Array] = field(default_factory=dict[str, Array])
    """The server optimizer's moments."""
    memory: dict[str, Array] = field(default_factory=dict[str, Array])
    """What the attack remembers."""
    history: dict[str, Array] = field(default_factory=dict[str, Array])
    """The sum of each client's updates, where the rule asks for it."""
    single: dict[str, Array] = field(default_factory=dict[str, Array])
    """"previous": the last aggregate; "control": SCAFFOLD's c; "mechanism": what the privacy mechanism remembers."""
    sent: dict[str, Array] = field(default_factory=dict[str, Array])
    """What each client remembers of compression."""
    received: dict[str, Array] = field(default_factory=dict[str, Array])
    """What the server remembers of each client's."""


GROUPS = ("server", "memory", "history", "single", "sent", "received")


def save_state(path: Path, state: RunState, clients: Sequence[Any]) -> None:
    """Write state and clients' states atomically."""
    from safetensors.numpy import save  # noqa: PLC0415  # only runs that write files need it

    arrays = {"parameters": state.parameters, "round": np.array([state.round])}
    for group in GROUPS:
        arrays |= {f"{group}/{name}": value for name, value in getattr(state, group).items()}
    for number, client in enumerate(clients):
        arrays |= {f"client/{number}/{name}": value for name, value in getattr(client, "state", {}).items()}
    write_atomically(path, save({name: np.ascontiguousarray(value) for name, value in arrays.items()}))


def load_state(path: Path, clients: Sequence[Any]) -> RunState:
    """The state that `save_state` wrote; the clients get theirs. Raises ValueError where the clients are others."""
    from safetensors.numpy import load_file  # noqa: PLC0415  # as above

    arrays: Mapping[str, Array] = load_file(path)
    state = RunState(arrays["parameters"], int(arrays["round"][0]))
    for name, value in arrays.items():
        group, _, rest = name.partition("/")
        if group in GROUPS:
            getattr(state, group)[rest] = value
        elif group == "client":
            number, _, entry = rest.partition("/")
            if int(number) >= len(clients):
                raise ValueError(f"{path} is of a run with more than {len(clients)} clients: resume with the same ones")
            clients[int(number)].state[entry] = value
    return state
