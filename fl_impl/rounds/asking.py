"""Clients of the user's own are asked at the same time, under one deadline; whatever one of them does is its own failure."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fl_impl.training.parameters import Vector

WORKERS: Final = 32
"""Clients that are asked at the same time, where `client_workers` is not given."""
LONGEST_REASON: Final = 200
"""Characters of what a client says of its failure that are kept."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What clients said, by client, and why others said nothing."""

    messages: dict[int, Any] = field(default_factory=dict[int, Any])
    rejected: dict[int, str] = field(default_factory=dict[int, str])


def ask(client: Any, parameters: Vector, round_number: int) -> tuple[Any, str]:
    """(what `client.fit(parameters, round)` gives, "") or (None, why it gives nothing).

    A list of updates is a duplicate: the first one counts, and the reason says so. Any BaseException is the client's
    failure, SystemExit too; only KeyboardInterrupt goes on, since that is the user who stops the run.
    """
    try:
        said = client.fit(parameters, round_number)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever a client raises is its fault, and is recorded
        return None, f"raised {type(error).__name__}: {shown(error)}"
    if isinstance(said, list) and said:
        return said[0], f"duplicate: it sent {len(said)} updates, the first one counts"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # a stranger's list
    return said, ""


def ask_all(
    clients: Mapping[int, Any],
    parameters: Vector,
    round_number: int,
    *,
    timeout: float | None = None,
    workers: int | None = None,
) -> Answers:
    """What every client answers, each on its own copy of the (d,) parameters; at most `workers` at the same time.

    After `timeout` seconds the round goes on with the answers that are there: a client that hangs is left behind in its
    thread, which ends with the process. With one worker and no timeout clients are called where the caller stands.
    """
    count = min(WORKERS if workers is None else workers, len(clients))
    if count <= 1 and timeout is None:
        return gathered(clients, {number: ask(client, parameters.copy(), round_number) for number, client in clients.items()})
    waiting, done = queue.SimpleQueue[int](), queue.SimpleQueue[tuple[int, Any, str]]()
    closed = threading.Event()
    for number in clients:
        waiting.put(number)

    def work() -> None:
        while not closed.is_set():
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, *ask(clients[number], parameters.copy(), round_number)))
            except KeyboardInterrupt as error:
                done.put((number, error, ""))

    for place in range(count):
        threading.Thread(target=work, name=f"client worker {place}", daemon=True).start()
    try:
        return gathered(clients, collected(done, len(clients), timeout), timeout)
    finally:
        closed.set()


def collected(done: queue.SimpleQueue[tuple[int, Any, str]], count: int, timeout: float | None) -> dict[int, tuple[Any, str]]:
    """What comes of `count` answers before the deadline. Raises KeyboardInterrupt where a client met one."""
    answers: dict[int, tuple[Any, str]] = {}
    deadline = None if timeout is None else time.monotonic() + timeout
    while len(answers) < count:
        try:
            number, said, reason = done.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(said, KeyboardInterrupt):
            raise said
        answers[number] = said, reason
    return answers


def gathered(clients: Mapping[int, Any], answers: Mapping[int, tuple[Any, str]], timeout: float | None = None) -> Answers:
    """The answers in the order of the clients, whoever was quicker."""
    whole = Answers()
    for number in clients:
        said, reason = answers.get(number, (None, f"timed out after {timeout:g} s" if timeout else ""))
        if reason:
            whole.rejected[number] = reason
        if said is not None or not reason:
            whole.messages[number] = said
    return whole


def shown(error: BaseException) -> str:
    """What an exception says, as far as it can say it."""
    try:
        return str(error)[:LONGEST_REASON]
    except Exception:  # noqa: BLE001  # a stranger's __str__
        return "it cannot say why"
