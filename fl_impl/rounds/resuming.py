"""Where a stopped run goes on: metrics, checkpoint and ledger that are of one run, or an error that says which is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_impl.metrics import FLMetrics
from fl_impl.rounds.checkpoints import load_state, save_state

if TYPE_CHECKING:
    from fl_impl.privacy.ledger import Ledger
    from fl_impl.privacy.protection import Protection
    from fl_impl.rounds.state import RunState


def ledger_path(path: Path) -> Path:
    """Where the ledger of a private run lies, beside its metrics."""
    return path.with_suffix(".ledger")


def write_run(path: Path, metrics: FLMetrics, state: RunState, clients: Sequence[Any]) -> None:
    """Metrics first: after a kill between the two files the checkpoint is the older one, and its round is redone."""
    metrics.save(path)
    save_state(path.with_suffix(".safetensors"), state, clients)


def saved_metrics(path: Path, config: Mapping[str, Any]) -> FLMetrics | None:
    """The metrics of a stopped run; None where there is none. Raises ValueError where it is of another configuration."""
    if not (path.exists() and path.with_suffix(".safetensors").exists()):
        return None
    saved = FLMetrics.load(path)
    for name, value in config.items():
        if name != "num_rounds" and saved.config.get(name) != value:
            raise ValueError(
                f"{path} is of another configuration: {name} is {saved.config.get(name)!r} there and {value!r} here. Resume "
                "with the same one, or give another output"
            )
    return saved


def saved_state(path: Path, saved: FLMetrics, clients: Sequence[Any], d: int) -> RunState:
    """The checkpoint beside metrics. Raises ValueError where it is of more rounds than they are."""
    checkpoint = path.with_suffix(".safetensors")
    state = load_state(checkpoint, clients, d)
    if state.round > len(saved.rounds):
        where = f"{path} ends after round {len(saved.rounds)}, and {checkpoint} is of round {state.round}"
        raise ValueError(f"{where}: they are not of one run. Delete both to start anew, or give another output")
    return state


def taken_up(ledger: Ledger, path: Path, saved: FLMetrics, rounds: int, guard: Protection | None) -> tuple[Ledger, str]:
    """The ledger of a stopped run, and the run's name in it.

    Raises ValueError where it lacks rounds, or the noise is of another number of them.
    """
    if ledger.path == ledger_path(path):
        ledger = type(ledger).open(ledger_path(path))
    run = saved.ledger[-1]["run"] if saved.ledger else ledger.next_run()
    mine = [entry for entry in ledger.entries if entry.run == run]
    missing = set(range(1, rounds + 1)) - {entry.round for entry in mine}
    if missing:
        raise ValueError(
            f"{ledger.path} lacks round {min(missing)} of the run in {path}, so that nobody knows what was spent: "
            "restore it, or start anew with other clients"
        )
    if guard and guard.mechanism and guard.budget and guard.mechanism.correlated and mine:
        stream = guard.mechanism.entry(1, guard.budget).stream
        if stream != mine[-1].stream:
            raise ValueError(
                f"the noise of its rounds is made for {saved.config['num_rounds']} rounds together, and the number of rounds "
                f"is another now: resume with num_rounds={saved.config['num_rounds']}"
            )
    return ledger, run
