"""The child process that calls one subject: it is asked for one check after the other and answers with rows."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_fl.engine import tracing
from pytest_fl.reporting import current
from pytest_fl.subjects import guard

if TYPE_CHECKING:
    from pytest_fl.engine.session import Session

LENGTH: Final = struct.Struct("<4sI")
MAGIC: Final = b"\x93fl\n"
"""Before each message: what a subject writes into the wrong descriptor is told from an answer."""
LARGEST: Final = 256 << 20
"""Bytes that the child may write to one file: a rule that prints without end fills no disk."""
LOST: Final = 71
"""Exit status of a child whose way to answer is gone."""


def send(descriptor: int, message: dict[str, Any]) -> None:
    """Write one message. Raises OSError where nobody reads."""
    body = json.dumps(message).encode()
    data = memoryview(LENGTH.pack(MAGIC, len(body)) + body)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> dict[str, Any] | None:
    """Read one message; None where the other side is gone. Raises ValueError for what is none."""
    head = _read(descriptor, LENGTH.size)
    if head is None:
        return None
    magic, length = LENGTH.unpack(head)
    if magic != MAGIC:
        raise ValueError("what came is no message")
    body = _read(descriptor, length)
    return None if body is None else json.loads(body)


def _read(descriptor: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = os.read(descriptor, size - len(data))
        if not more:
            return None
        data += more
    return data


def serve(session: Session, requests: int, replies: int, output: int) -> None:
    """Answer until nobody asks any more, then end this process without a word; never returns."""
    home = os.getpid()
    status = LOST
    with contextlib.suppress(BaseException):  # whatever the subject does, this process never goes back into pytest's code
        _settle(output)
        _answer(session, requests, replies, home)
        status = 0
    os._exit(status)


def _settle(output: int) -> None:
    """A session, an output, a signal table and a size of files of its own."""
    os.setsid()
    streams = {(found.st_dev, found.st_ino) for found in map(os.fstat, (1, 2))}
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _leave_the_run_alone(streams)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    faulthandler.enable(file=2)  # a crash tells its line into our output, not into the terminal
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, ValueError):
        import resource  # noqa: PLC0415  # POSIX only, as this process is

        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, most))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("1000")  # where memory runs out, this process goes, not the run
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)  # the parent's OpenMP threads did not come along; waiting for them would never end
    guard.isolate()


def _leave_the_run_alone(streams: set[tuple[int, int]]) -> None:
    """Put nothing behind the descriptors that are pytest's own: its terminal, its capture, xdist's channel."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else current.DESCRIPTORS:  # noqa: PTH112, PTH208
        with contextlib.suppress(OSError):
            found = os.fstat(number)
            identity = found.st_dev, found.st_ino
            if number > 2 and (identity in streams or identity == current.DESCRIPTORS.get(number)):
                os.dup2(nothing, number)
    os.close(nothing)


def _answer(session: Session, requests: int, replies: int, home: int) -> None:
    checks = {check.name: check for check in session.target.checks()}
    try:
        answer: dict[str, Any] = dict(zip(("subject", "called"), session.start(), strict=True))
    except (ValueError, OSError) as error:
        answer = {"refused": str(error)}
    except BaseException as error:  # noqa: BLE001  # a constructor, a property, an import of the user's
        answer = {"broken": guard.raised(error)}
    while os.getpid() == home:
        send(replies, answer)
        request = receive(requests)
        if request is None:
            return
        try:
            if "coverage" in request:
                tracing.save()
                answer = {}
                continue
            if "identify" in request:
                answer = {"identity": session.identity()}
                continue
            check = checks[request["check"]]
            file = Path(request["file"]) if "file" in request else None
            answer = {"row": session.examine(check, request["expected"], request["seconds"], file).to_json()}
        except BaseException as error:  # noqa: BLE001  # a subject's objects may raise wherever they are touched
            answer = {"broken": guard.raised(error)}
    os._exit(0)  # a child of the subject's own making that came back
