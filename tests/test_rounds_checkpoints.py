"""Checkpoints: what is written is read back, and anything else is refused in a sentence."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.rounds.checkpoints import CheckpointError, digest, entries, load_state, save_state
from fl_impl.rounds.state import RunState

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fuzz_checkpoints  # the same mutations, for as long as one likes

D = 5


class Keeps:
    """A client with state."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}


def full_state() -> RunState:
    row = np.arange(D, dtype=np.float32)
    return RunState(
        row, 3, previous=row + 1, control=row + 2, mechanism=np.array(0.5), server={"m": row.astype(np.float64)},
        memory={"direction": row - 1}, history={1: row * 2}, sent={0: row}, received={0: row, 1: np.empty((0, D))},
    )  # fmt: skip


def test_every_field_shape_and_number_comes_back(tmp_path: Path) -> None:
    clients: list[Any] = [Keeps(), Keeps(), object()]
    clients[1].state["momentum"] = np.ones(D, np.float32)
    save_state(tmp_path / "a", full_state(), clients)
    again: list[Any] = [Keeps(), Keeps(), object()]
    again[0].state["left over"] = np.ones(1)
    state = load_state(tmp_path / "a", again, D)
    assert state.round == 3
    read, wrote = entries(state, again), entries(full_state(), clients)
    assert read.keys() == wrote.keys()
    for name, value in wrote.items():
        assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape), name
        np.testing.assert_array_equal(read[name], value)
    assert read["mechanism"].shape == ()


def written(path: Path) -> bytes:
    clients = [Keeps(), Keeps()]
    clients[1].state["momentum"] = np.ones(D, np.float32)
    save_state(path, full_state(), clients)
    return path.read_bytes()


def outcome(path: Path, content: bytes) -> str:
    """ "refused", or "the same"; anything else fails."""
    path.write_bytes(content)
    clients = [Keeps(), Keeps()]
    refusals = list[str]()
    try:
        state = load_state(path, clients, D)
    except CheckpointError as error:
        refusals.append(str(error))
    if refusals:
        assert refusals[0].startswith(f"{path} is no checkpoint of this run: ")
        assert "\n" not in refusals[0]
        assert not any(client.state for client in clients)
        return "refused"
    assert digest(entries(state, clients), state.round) == digest(entries(full_state(), with_momentum()), 3)
    return "the same"


def with_momentum() -> list[Keeps]:
    clients = [Keeps(), Keeps()]
    clients[1].state["momentum"] = np.ones(D, np.float32)
    return clients


@given(st.integers(0, 2**32))
@example(0)
def test_a_changed_file_is_refused_or_says_the_same(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "run.safetensors"
    whole = written(path)
    outcome(path, fuzz_checkpoints.mutated(whole, random.Random(seed)))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    assert outcome(tmp_path_factory.mktemp("fuzz") / "run.safetensors", content) == "refused"


def test_every_cut_and_every_byte_of_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    whole = written(path)
    for length in range(0, len(whole), 7):
        assert outcome(path, whole[:length]) == "refused"
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole), 5):
        changed = bytearray(whole)
        changed[place] ^= 1
        assert outcome(path, bytes(changed)) == "refused"


def forged(path: Path, arrays: dict[str, Any], number: Any = 3, **said: Any) -> Path:
    import json

    stamp = {"format": 1, "round": number, "digest": digest(arrays, number), **said}
    path.write_bytes(save(arrays, {"pytest-fl": json.dumps(stamp)}))
    return path


GOOD = np.zeros(D, np.float32)


@pytest.mark.parametrize(
    ("arrays", "said", "words"),
    [
        ({"parameters": GOOD}, {"round": 4}, "does not match its digest, so it was damaged or changed after round 4"),
        ({"parameters": GOOD}, {"round": -1}, "expected format 1 and a round"),
        ({"parameters": GOOD}, {"round": True}, "expected format 1 and a round"),
        ({"parameters": GOOD}, {"format": 2}, "expected format 1 and a round"),
        ({"parameters": GOOD}, {"digest": None}, "does not match its digest"),
        ({}, {}, r"expected float32 parameters of shape \(5,\), got none"),
        ({"parameters": np.zeros(D + 1, np.float32)}, {}, r"got float32 of shape \(6,\)"),
        ({"parameters": np.zeros(D)}, {}, r"got float64 of shape \(5,\)"),
        ({"parameters": GOOD, "client/7/momentum": GOOD}, {}, "a run with more than 2 clients"),
        ({"parameters": GOOD, "history/99999999999": GOOD}, {}, "a run with more than 2 clients"),
        ({"parameters": GOOD, "history/one": GOOD}, {}, "an array named 'history/one'"),
        ({"parameters": GOOD, "client/0": GOOD}, {}, "an array named 'client/0'"),
        ({"parameters": GOOD, "layers.0.weight": GOOD}, {}, "an array named 'layers.0.weight'"),
    ],
)
def test_foreign_files_are_refused_with_the_reason(tmp_path: Path, arrays: Any, said: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_state(forged(tmp_path / "a", arrays, **said), [Keeps(), Keeps()], D)


def test_state_of_a_client_that_keeps_none_is_refused(tmp_path: Path) -> None:
    path = forged(tmp_path / "a", {"parameters": GOOD, "client/0/momentum": GOOD})
    with pytest.raises(CheckpointError, match="the state of client 0, which keeps none here"):
        load_state(path, [object()], D)


def test_a_resumed_run_refuses_files_that_are_not_of_one_run(tmp_path: Path) -> None:
    config = FLConfig(num_rounds=3, num_clients=2)
    path = tmp_path / "run.json"
    FederatedLearningCoordinator(config).run(make_clients(config), output=path)
    kept = path.read_bytes()
    checkpoint = path.with_suffix(".safetensors").read_bytes()
    longer = FLConfig(num_rounds=5, num_clients=2)
    FederatedLearningCoordinator(longer).run(make_clients(longer), output=path)
    path.write_bytes(kept)
    with pytest.raises(ValueError, match="ends after round 3, and .* is of round 5: they are not of one run"):
        FederatedLearningCoordinator(longer).run(make_clients(longer), output=path, resume=True)
    path.with_suffix(".safetensors").write_bytes(checkpoint[:-1])
    with pytest.raises(CheckpointError, match=r"it cannot be read \(SafetensorError: .*Delete it to start anew"):
        FederatedLearningCoordinator(longer).run(make_clients(longer), output=path, resume=True)


def test_a_run_that_fails_leaves_what_the_last_one_wrote(tmp_path: Path) -> None:
    """U4: nothing is written before a round is done; the folder is made before the first one."""
    path = tmp_path / "runs" / "new" / "a.json"
    config = FLConfig(num_rounds=1, num_clients=2)
    FederatedLearningCoordinator(config).run(make_clients(config), output=path)
    before = path.read_bytes(), path.with_suffix(".safetensors").read_bytes()

    class Broken:
        def fit(self, parameters: np.ndarray, round: int) -> Any:
            raise RuntimeError

    with pytest.raises(ValueError, match="0 sound updates"):
        FederatedLearningCoordinator(config, parameters=np.zeros(3)).run([Broken()] * 2, output=path)
    assert (path.read_bytes(), path.with_suffix(".safetensors").read_bytes()) == before
