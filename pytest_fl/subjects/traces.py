"""State of the process that a rule has no business with: taken before a call, compared and put back after it."""

from __future__ import annotations

import contextlib
import gc
import io
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np


@dataclass(frozen=True)
class Probe:
    """One piece of state: how it is read, and how it is put back: None where a rule may go on to need what it holds."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object] | None = None


def _torch(read: Callable[[Any], Any]) -> Callable[[], Any]:
    """Of torch, where somebody has imported it."""

    def reading() -> Any:
        torch = sys.modules.get("torch")
        return None if torch is None or not hasattr(torch, "get_num_threads") else read(torch)

    return reading


def _set_torch(write: Callable[[Any, Any], object]) -> Callable[[Any], object]:
    return lambda value: None if value is None else write(sys.modules["torch"], value)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def _set_environment(before: dict[str, str]) -> None:
    for name in _environment().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals() if number != signal.SIGALRM}


def _set_handlers(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            with contextlib.suppress(OSError, ValueError):  # the kernel's own signals, or another thread than the main one
                signal.signal(number, handler)


def _mask() -> frozenset[int]:
    return frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())) if hasattr(signal, "pthread_sigmask") else frozenset()


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # what is compared is text
    except OSError:
        return "a folder that is gone"


def _open_files() -> frozenset[str]:
    """Numbers of the open descriptors that are files, pipes or sockets of somebody's; empty where /proc is not."""
    folder = "/proc/self/fd"
    found = set[str]()
    with contextlib.suppress(OSError):
        for number in os.listdir(folder):  # noqa: PTH208  # no Path objects: this is done around calls
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
                target = os.readlink(f"{folder}/{number}")  # noqa: PTH115  # the same
                if not target.startswith(("/proc/", "anon_inode")):
                    found.add(number)
    return frozenset(found)


def _threads() -> frozenset[str]:
    return frozenset(f"{thread.name}" for thread in threading.enumerate())


def _children() -> frozenset[str]:
    with contextlib.suppress(OSError):
        return frozenset(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split())
    return frozenset()


def _numpy_random() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # it is the global one that is looked at
    return name, np.asarray(keys).tobytes(), *rest


def _set_numpy_random(state: tuple[Any, ...]) -> None:
    name, keys, *rest = state
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002  # the same


PROBES: Final = (
    Probe("numpy's global random generator", _numpy_random, _set_numpy_random),
    Probe("the global generator of `random`", random.getstate, random.setstate),
    Probe("numpy's error state", np.geterr, lambda before: np.seterr(**before)),
    Probe("torch's global random generator", _torch(lambda torch: torch.get_rng_state().numpy().tobytes()),
          _set_torch(lambda torch, state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)))),
    Probe("torch's default dtype", _torch(lambda torch: torch.get_default_dtype()),
          _set_torch(lambda torch, value: torch.set_default_dtype(value))),
    Probe("torch's number of threads", _torch(lambda torch: torch.get_num_threads()),
          _set_torch(lambda torch, value: torch.set_num_threads(value))),
    Probe("torch's grad mode", _torch(lambda torch: torch.is_grad_enabled()),
          _set_torch(lambda torch, value: torch.set_grad_enabled(value))),
    Probe("torch's deterministic mode", _torch(lambda torch: torch.are_deterministic_algorithms_enabled()),
          _set_torch(lambda torch, value: torch.use_deterministic_algorithms(value))),
    Probe("the working directory", _folder, os.chdir),
    Probe("the environment", _environment, _set_environment),
    Probe("signal handlers", _handlers, _set_handlers),
    Probe("the signal mask", _mask, lambda before: signal.pthread_sigmask(signal.SIG_SETMASK, before)),
    Probe("warnings filters", lambda: tuple(warnings.filters),
          lambda before: warnings.filters.__setitem__(slice(None), before)),  # type: ignore[reportUnknownMemberType]  # a list, whatever typeshed says
    Probe("sys.stdout and sys.stderr", lambda: (sys.stdout, sys.stderr, sys.stdout.closed, sys.stderr.closed),
          lambda before: (setattr(sys, "stdout", before[0]), setattr(sys, "stderr", before[1]))),
    Probe("sys.path", lambda: tuple(sys.path), lambda before: sys.path.__setitem__(slice(None), before)),
    Probe("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Probe("the garbage collector", gc.isenabled, lambda before: gc.enable() if before else gc.disable()),
    Probe("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
    Probe("the root logger", lambda: (logging.root.level, len(logging.root.handlers)),
          lambda before: logging.root.setLevel(before[0])),
    Probe("open descriptors", _open_files),
    Probe("running threads", _threads),
    Probe("child processes", _children),
)  # fmt: skip
"""What is looked at, in the order in which it is told of."""


def snapshot() -> dict[str, Any]:
    """The state of every probe that can be read."""
    state = dict[str, Any]()
    for probe in PROBES:
        with contextlib.suppress(Exception):  # a rule may have closed, replaced or broken what is read
            state[probe.name] = probe.read()
    return state


RESOURCES: Final = ("open descriptors", "running threads", "child processes")
"""What a first call may start and keep, and a second one must not start again."""


def observe(call: Callable[[], object]) -> str:
    """Call twice; what it printed and which state it changed, in a sentence: empty where it left no trace.

    The global generators are moved first to where no rule's seed puts them.
    """
    _stir()
    with heard() as said:
        states = [snapshot()]
        for _ in range(2):
            call()
            states.append(snapshot())
    settings = [name for name in changed(states[0], states[1]) if name not in RESOURCES]
    resources = [name for name in changed(states[1], states[2]) if name in RESOURCES]
    sentences = [f"printed {text!r}" for text in said] + [f"changed {name}" for name in (*settings, *resources)]
    return ", ".join(sentences)


def _stir() -> None:
    random.seed(0x5EED)
    np.random.seed(0x5EED)  # noqa: NPY002  # it is the global one that is looked at
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(0x5EED)


HEARD: Final = 60
"""Characters of what was printed that are told."""


@contextlib.contextmanager
def heard() -> Generator[list[str]]:
    """What is written to descriptors 1 and 2 in the meantime, by Python or by anything else: one text, or nothing."""
    said = list[str]()
    streams, saved = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    with tempfile.TemporaryFile() as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
            sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
            yield said
        finally:
            sys.stdout, sys.stderr = streams
            for number, kept in zip((1, 2), saved, strict=True):
                os.dup2(kept, number)
                os.close(kept)
            file.seek(0)
            text = file.read(4 * HEARD).decode(errors="replace")[:HEARD]
            if text:
                said.append(text)


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    return [name for name, value in before.items() if name not in after or after[name] != value]


def restore(before: dict[str, Any]) -> list[str]:
    """Put back what differs from `before`, as far as that is possible; the names of what differed."""
    names = changed(before, snapshot())
    for probe in PROBES:
        if probe.name in names and probe.restore is not None:
            with contextlib.suppress(Exception):  # such as a working directory that was removed
                probe.restore(before[probe.name])
    return names
