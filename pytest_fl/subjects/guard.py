"""A foreign rule called safely: bounded in time, its exceptions and odd results turned into one sentence."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from types import FrameType

    from pytest_fl.subjects.subject import Subject, Updates

T = TypeVar("T")
PATIENCE: Final = 3.0
"""Seconds of waiting that count as one of computing."""


class Misbehaved(Exception):  # noqa: N818  # it is a finding about the rule, not an error of ours
    """The rule did not return a finite vector of length d: the message says what it did instead."""


class Hung(Misbehaved):
    """The rule did not return in time."""


class _OutOfTime(BaseException):
    """Raised inside the foreign code; not an Exception, so that its own `except Exception` does not swallow it."""


_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  # os.register_at_fork offers no other way to tell us
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_count_fork)


@dataclass(eq=False)
class Rule:
    """A subject as the checks call it: `rule(updates, f)` is a finite float64 vector of length d, or Misbehaved is raised."""

    subject: Subject
    call_seconds: float = 10.0
    calls: int = 0
    hung: bool = False
    cache: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    """What is found out once for each subject: the admissible (n, f)."""

    def raw(self, updates: Updates, f: int) -> Any:
        """Whatever the rule returns for a copy of the updates. Raises Misbehaved where it raises, hangs or forks."""
        return self.attempt(lambda: self.subject.call(updates.copy(), f))

    def attempt(self, call: Callable[[], Any]) -> Any:
        """What the call returns, within the time limit; Misbehaved tells what else it did."""
        if self.hung:
            raise Hung("not called again: an earlier call did not return")
        self.calls += 1
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return _in_this_process(lambda: within(self.call_seconds, call))
        except Hung:
            self.hung = True
            raise
        except Misbehaved:
            raise
        except (Exception, SystemExit) as error:
            raise Misbehaved(f"raised {type(error).__name__}: {error}"[:400]) from error

    def __call__(self, updates: Updates, f: int) -> npt.NDArray[np.float64]:
        """The aggregate as float64. Raises Misbehaved where the result is not a finite vector of length d."""
        return as_vector(self.raw(updates, f), updates.shape[1])


def as_vector(result: Any, d: int) -> npt.NDArray[np.float64]:
    """A foreign result as a finite float64 vector of length d; Misbehaved says what it is otherwise."""
    if result is None:
        raise Misbehaved("returned None")
    vector = to_float64(result)
    if vector is None or vector.dtype.kind != "f":
        raise Misbehaved(f"returned {type(result).__name__}, which is not a vector of numbers")
    if vector.shape != (d,):
        raise Misbehaved(f"returned shape {vector.shape}; expected ({d},)")
    if not np.isfinite(vector).all():
        raise Misbehaved("returned NaN" if np.isnan(vector).any() else "returned infinity")
    return vector


def to_float64(result: Any) -> npt.NDArray[np.float64] | None:
    """The numbers of a tensor, array or sequence as float64, or None where there are none."""
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(result, torch.Tensor):
            return result.detach().cpu().double().numpy()
        return np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns, or Hung after so many seconds of computing, or three times as many of waiting.

    Computing is counted in processor time, so that a busy machine does not make a slow rule a hanging one. On the main thread
    a timer signal interrupts whatever Python code runs, again and again until it ends; code that never comes back to the
    interpreter is beyond it. Elsewhere (no signals) the call runs on a thread that is left behind.
    """
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        return _within_by_signal(seconds, call)
    return _within_by_thread(PATIENCE * seconds, call)


def _within_by_signal(seconds: float, call: Callable[[], T]) -> T:
    alarm = _Alarm(time.process_time() + seconds, time.monotonic() + PATIENCE * seconds)
    try:
        with alarm.every(min(0.2, seconds)):
            result = call()
    except _OutOfTime:
        pass
    else:
        if not alarm.rang:
            return result
    raise Hung(f"did not return within {seconds:g} s") from None


@dataclass
class _Alarm:
    """Raises _OutOfTime in whatever Python code runs, once processor time or time is up, and at each tick after that."""

    processor: float
    clock: float
    rang: bool = False
    """Whether it did: foreign code may have swallowed it and returned all the same."""

    @contextmanager
    def every(self, tick: float) -> Generator[None]:
        handler = signal.signal(signal.SIGALRM, self._ring)
        remaining, interval = signal.setitimer(signal.ITIMER_REAL, tick, tick)
        try:
            yield
        finally:
            # Somebody else's timer (pytest-timeout's) goes on where it was.
            signal.setitimer(signal.ITIMER_REAL, remaining, interval)
            signal.signal(signal.SIGALRM, handler)

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if time.process_time() > self.processor or time.monotonic() > self.clock:
            self.rang = True
            raise _OutOfTime


def _within_by_thread(seconds: float, call: Callable[[], T]) -> T:
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="pytest-fl foreign rule")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Hung(f"did not return within {seconds:g} s")
    if failure:
        raise failure[0]
    return outcome[0]


def _in_this_process(call: Callable[[], T]) -> T:
    """What the call returns; a child process that it forked and let come back here is ended, and Misbehaved says so."""
    home, before = os.getpid(), _forks
    reading, writing = os.pipe()
    try:
        return call()
    finally:
        if os.getpid() != home:
            os.write(writing, b"!")
            os._exit(0)
        os.close(writing)
        came_back = _forks > before and select.select([reading], [], [], 1.0)[0] and os.read(reading, 1)
        os.close(reading)
        if came_back:
            raise Misbehaved("forked: a child process came back into the test run")
