"""How the state of a run survives a kill: one safetensors file, replaced in one step, read with suspicion.

The file carries a digest of all that is in it and the number of the round, so that a damaged, truncated or foreign file is
refused in a sentence. The digest is no signature: who means to forge a checkpoint can compute it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fl_impl.common.files import write_atomically
from fl_impl.rounds.state import BY_CLIENT, BY_NAME, SINGLE, Array, RunState

FORMAT: Final = 1
METADATA: Final = "pytest-fl"
"""The one entry of the file's metadata: JSON with the format, the round and the digest. Several would be in random order."""


class CheckpointError(ValueError):
    """A file is no checkpoint of this run: damaged, truncated, or of another one."""


def save_state(path: Path, state: RunState, clients: Sequence[Any]) -> None:
    """Write state and clients' states atomically."""
    from safetensors.numpy import save  # noqa: PLC0415  # only runs that write files need it

    arrays = {name: np.asarray(value, order="C") for name, value in entries(state, clients).items()}
    said = {"format": FORMAT, "round": state.round, "digest": digest(arrays, state.round)}
    write_atomically(path, save(arrays, {METADATA: json.dumps(said)}), private=True)  # noise and updates are nobody else's


def load_state(path: Path, clients: Sequence[Any], d: int | None = None) -> RunState:
    """The state that `save_state` wrote; the clients get theirs, in place of what they have.

    d: how many parameters the model has, where that is known. Raises CheckpointError, a ValueError, for a file that is
    damaged, that is something else, or that is of other clients or another model; then no client was touched.
    """
    arrays, number = read(path)
    parameters = arrays.pop("parameters", None)
    if parameters is None or parameters.dtype != np.float32 or parameters.ndim != 1 or d not in (None, len(parameters)):
        came = "none" if parameters is None else f"{parameters.dtype} of shape {parameters.shape}"
        raise refusal(path, f"expected float32 parameters of shape ({'d' if d is None else d},), got {came}")
    state, states = RunState(parameters, number), dict[int, dict[str, Array]]()
    for name, value in arrays.items():
        place(path, state, states, name, value, len(clients))
    owners = [number for number in states if not hasattr(clients[number], "state")]
    if owners:
        raise refusal(path, f"it holds the state of client {owners[0]}, which keeps none here")
    for number, client in enumerate(clients):
        if hasattr(client, "state"):
            client.state.clear()
            client.state.update(states.get(number, {}))
    return state


def entries(state: RunState, clients: Sequence[Any]) -> dict[str, Array]:
    """Every array of a checkpoint by its name: "previous", "server/m", "history/3", "client/3/momentum"."""
    arrays: dict[str, Array] = {"parameters": state.parameters}
    arrays |= {name: value for name in SINGLE if (value := getattr(state, name)) is not None}
    for group in (*BY_NAME, *BY_CLIENT):
        arrays |= {f"{group}/{name}": value for name, value in getattr(state, group).items()}
    for number, client in enumerate(clients):
        arrays |= {f"client/{number}/{name}": value for name, value in getattr(client, "state", {}).items()}
    return arrays


def place(path: Path, state: RunState, states: dict[int, dict[str, Array]], name: str, value: Array, clients: int) -> None:
    """Put one array where `entries` took it from: into the state, or into a client's."""
    group, _, rest = name.partition("/")
    if group in SINGLE and not rest:
        setattr(state, group, value)
    elif group in BY_NAME and rest:
        getattr(state, group)[rest] = value
    elif group in BY_CLIENT and rest.isdecimal():
        getattr(state, group)[client_number(path, rest, clients)] = value
    elif group == "client" and (split := rest.partition("/"))[0].isdecimal() and split[2]:
        states.setdefault(client_number(path, split[0], clients), {})[split[2]] = value
    else:
        raise refusal(path, f"it holds an array named {name[:80]!r}, which no run of this version has")


def client_number(path: Path, text: str, clients: int) -> int:
    """The client that a name speaks of."""
    if len(text) > 9 or int(text) >= clients:
        raise refusal(path, f"it is of a run with more than {clients} clients")
    return int(text)


def read(path: Path) -> tuple[dict[str, Array], int]:
    """(the arrays of a checkpoint, its round), once the digest has been found right."""
    from safetensors.numpy import load  # noqa: PLC0415  # as above

    content = path.read_bytes()
    try:
        arrays: dict[str, Array] = load(content)
        said = metadata_of(content)
        wanted, number = said["digest"], said["round"]
        known = said["format"] == FORMAT
    except Exception as error:  # noqa: BLE001  # whatever the readers of JSON and safetensors make of strange bytes
        raise refusal(path, f"it cannot be read ({type(error).__name__}: {str(error)[:100]})") from None
    if not known or type(number) is not int or number < 0:
        raise refusal(path, f"expected format {FORMAT} and a round, got {str(said)[:100]}")
    if wanted != digest(arrays, number):
        raise refusal(path, f"its content does not match its digest, so it was damaged or changed after round {number}")
    return arrays, number


def metadata_of(content: bytes) -> Any:
    """What `save_state` wrote beside the arrays."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"][METADATA])


def digest(arrays: Mapping[str, Array], number: int) -> str:
    """SHA-256 of the round and of every array: name, dtype, shape and bytes, by name."""
    total = hashlib.sha256(f"{FORMAT} {number}\n".encode())
    for name, value in sorted(arrays.items()):
        total.update(f"{len(name)} {name} {value.dtype.str} {value.shape}\n".encode("utf-8", "surrogatepass"))
        total.update(np.asarray(value, order="C").data if value.size else b"")
    return total.hexdigest()


def refusal(path: Path, reason: str) -> CheckpointError:
    """The error that says which file, why, and what to do."""
    return CheckpointError(f"{path} is no checkpoint of this run: {reason}. Delete it to start anew, or give another output")
