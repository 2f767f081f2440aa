"""A foreign rule called safely: bounded in time, its exceptions and odd results turned into one sentence."""

from __future__ import annotations

import math
import os
import select
import signal
import stat
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from pytest_fl.subjects.subject import majority

if TYPE_CHECKING:
    from types import FrameType

    from pytest_fl.subjects.round import Round
    from pytest_fl.subjects.subject import Subject, Updates
    from pytest_fl.subjects.witness import Witness

T = TypeVar("T")
PATIENCE: Final = 2.0
"""Seconds of waiting that count as one of computing."""
_HERE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # compared with text
_INSTALLED: Final = f"{os.sep}site-packages{os.sep}"


class Misbehaved(Exception):  # noqa: N818  # it is a finding about the rule, not an error of ours
    """The rule did not return a finite vector of length d: the message says what it did instead."""


class Hung(Misbehaved):
    """The rule did not return in time."""


class OutOfTime(Exception):  # noqa: N818  # it is no error: the check ends with what it has seen
    """The time of a check is up, before the call that would have been next."""


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
    heeds: bool | None = None
    """Whether it may refuse (n, f) by itself: None where nobody said how many clients it needs."""
    least: dict[int, int] = field(default_factory=lambda: dict[int, int]())
    """f -> the smallest n that it was seen to take, where it refuses smaller ones."""
    witness: Witness | None = None
    """Who is told of each round and call, where another process watches."""
    deadline: float = math.inf
    """When (`time.monotonic`) the check that is running should come to an end, with what it has seen."""
    stop: float = math.inf
    """When no further call is made, in the middle of a round or not."""

    @property
    def late(self) -> bool:
        """Whether the time of the check that is running is up."""
        return time.monotonic() > self.deadline

    @property
    def may_refuse(self) -> bool:
        """Whether a ValueError or AssertionError at too small an n is a refusal, and no failure."""
        return self.subject.min_clients is majority if self.heeds is None else self.heeds

    def takes(self, n: int, f: int) -> bool:
        """Whether (n, f) is admissible, by what is claimed and by what it was seen to refuse."""
        needed = max((least for known, least in self.least.items() if known <= f), default=0)
        return n >= needed and self.subject.takes(n, f)

    def begins(self, round_: Round) -> None:
        """A round is about to be judged."""
        if self.witness is not None:
            self.witness.begins(round_)

    def raw(self, updates: Updates, f: int) -> Any:
        """Whatever the rule returns for a copy of the updates. Raises Misbehaved where it raises, hangs or forks."""
        return self.attempt(lambda: self._called(updates, f))

    def __call__(self, updates: Updates, f: int) -> npt.NDArray[np.float64]:
        """The aggregate as float64. Raises Misbehaved where the result is not a finite vector of length d."""
        return self.attempt(lambda: as_vector(self._called(updates, f), updates.shape[1]))

    def _called(self, updates: Updates, f: int) -> Any:
        given = updates.copy()
        result = self.subject.call(given, f)
        if "wrote" not in self.cache and not _same_bits(given, updates):
            n, d = updates.shape
            self.cache["wrote"] = f"wrote to the updates that it was given, at n={n}, f={f}, d={d}"
        return result

    def attempt(self, call: Callable[[], Any]) -> Any:
        """What the call returns, within the time limit; Misbehaved tells what else it did."""
        if self.hung:
            raise Hung(self.cache.get("hung", "not called again: an earlier call did not return"))
        if time.monotonic() > self.stop:
            raise OutOfTime
        self.calls += 1
        if self.witness is not None:
            self.witness.calls()
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return _in_this_process(lambda: within(max(self.call_seconds, patience()), call))
        except Hung as finding:
            self.hung = True
            self.cache["hung"] = str(finding)
            raise
        except (Misbehaved, OutOfTime):
            raise
        except KeyboardInterrupt as error:
            if not isolated():  # somebody wants to stop the run
                raise
            raise Misbehaved(raised(error)) from error
        except BaseException as error:  # foreign code raises anything: SystemExit, or pytest's own outcomes
            raise Misbehaved(raised(error)) from error
        finally:
            if self.witness is not None:
                self.witness.returned()


_patience: ContextVar[float] = ContextVar("patience", default=0.0)
_isolated: ContextVar[bool] = ContextVar("isolated", default=False)


@contextmanager
def warming_up(seconds: float) -> Generator[None]:
    """First calls may take so many seconds in all, whatever a call may take later: some rules compile themselves."""
    token = _patience.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def patience() -> float:
    """Seconds that are left of the warm-up; 0 where there is none."""
    return max(_patience.get() - time.monotonic(), 0.0)


def isolate() -> None:
    """From now on this process is there for one subject alone: nobody sits at its keyboard."""
    _isolated.set(True)


def isolated() -> bool:
    """Whether this process is there for one subject alone."""
    return _isolated.get()


def raised(error: BaseException) -> str:
    """The exception in a sentence, whatever its `__str__` does, and the line of the user's file that raised it."""
    try:
        text = f"raised {type(error).__name__}: {error}"
    except BaseException as inner:  # noqa: BLE001  # foreign code raises anything
        text = f"raised {type(error).__name__}, whose text cannot be read: its __str__ raises {type(inner).__name__}"
    return text[:400] + _line_of(error)


def _line_of(error: BaseException) -> str:
    """In brackets, the innermost line that is neither ours nor an installed library's: file, number, function, text."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((_HERE, "<")) and _INSTALLED not in frame.filename]
    if not own:
        return ""
    frame = own[-1]
    return f" ({os.path.basename(frame.filename)}, line {frame.lineno}, in {frame.name}: {(frame.line or '').strip()[:80]})"  # noqa: PTH119  # a file's name, no file


def _same_bits(a: Updates, b: Updates) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


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
    """The numbers of a tensor, array or sequence as float64, or None where there are none.

    Raises Misbehaved where reading them raises what reading numbers does not.
    """
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(result, torch.Tensor):
            return result.detach().cpu().double().numpy()
        return np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        return None
    except Exception as error:
        raise Misbehaved(f"returned {type(result).__name__}; reading it {raised(error)}") from error


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns, or Hung after so many seconds of computing, or twice as many of waiting.

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
    reading, writing = _pipe(home)
    try:
        return call()
    finally:
        if os.getpid() != home:
            os.write(writing, b"!")
            os._exit(0)
        if not (_is_open(reading) and _is_open(writing)):
            _pipe.cache_clear()
            raise Misbehaved("closed file descriptors that it had not opened")
        if _forks > before and select.select([reading], [], [], 1.0)[0] and os.read(reading, 1):
            raise Misbehaved("forked: a child process came back into the test run")


@lru_cache(maxsize=1)
def _pipe(process: int) -> tuple[int, int]:
    """A pipe of this process, by which a child that should not be here says that it is."""
    del process
    return os.pipe()


def _is_open(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
