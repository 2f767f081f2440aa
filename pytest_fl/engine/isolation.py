"""Whose process a subject is called in: a child of its own, watched from here, or this one.

A subject reaches its child by `fork`, so that closures, lambdas and objects need not be pickled. Where there is no `fork`
(Windows), or where it is not safe (macOS, whose system libraries do not survive it; JAX that has begun to compute, whose
threads would be missing), and where a debugger follows this process, the subject is called here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pytest_fl.adapters.registry import ADAPTERS
from pytest_fl.engine import parts, tracing, worker
from pytest_fl.engine.replays import after_other_calls, replayable
from pytest_fl.engine.rows import as_expected
from pytest_fl.engine.saving import counterexample
from pytest_fl.engine.session import Session, share
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.grid import EXPLORING
from pytest_fl.subjects.guard import PATIENCE
from pytest_fl.subjects.witness import Witness

if TYPE_CHECKING:
    from pytest_fl.checks import Check
    from pytest_fl.checks.histories import HistoryCheck
    from pytest_fl.checks.parts import Audit
    from pytest_fl.engine.targets import Target
    from pytest_fl.subjects.profiles import Profile
    from pytest_fl.subjects.round import Round

Isolation = Literal["process", "none"]
GRACE: Final = 3.0
"""Seconds that a child may be late with what it should have ended by itself."""
PART_SECONDS: Final = 1200.0
"""For all checks of a part that is no rule: some compute for long, and none is shortened."""
IDENTIFYING: Final = 20.0
"""Seconds that it may take to say what a rule is."""
CONFIRMING: Final = 4.0
"""Seconds that may go into replaying failures of one subject in children of their own."""
LIVES: Final = 3
"""Children that a subject may end before no more is tried with it."""


class Examiner(Protocol):
    """Who judges one subject, one check at a time."""

    notes: tuple[str, ...]
    """How the subject is called, once it has been."""

    def examine(self, check: Check | Audit | HistoryCheck, expected: str | None = None, file: Path | None = None) -> Row:
        """The row of the check, on a saved round alone where one is given, whatever the subject does.

        Raises ValueError where it can be called in no way.
        """
        ...

    def identity(self) -> str:
        """What the subject is seen to be; empty where that is not found."""
        ...

    def close(self) -> None:
        """End what was started for it."""
        ...


def examiner(target: Target, profile: Profile, isolation: Isolation = "process", checks: int | None = None) -> Examiner:
    """Who judges this target: in a child process where that is asked for and possible. `checks`: how many share the time."""
    if target.part is not None:
        profile = replace(profile, seconds=PART_SECONDS, check_seconds=parts.SECONDS)
    budget = TimeBudget(profile, len(target.checks()) if checks is None else checks)
    if isolation == "none" or not can_fork():
        return InProcess(target, profile, budget)
    return InChild(target, profile, budget)


def can_fork() -> bool:
    """Whether a child made here can call the subject, and no debugger follows this process."""
    return hasattr(os, "fork") and sys.platform != "darwin" and not tracing.debugged() and not _jax_runs()


def _jax_runs() -> bool:
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    return bool(getattr(bridge, "_backends", None))


@dataclass
class TimeBudget:
    """The time of all checks of a subject, and the checks that share it."""

    profile: Profile
    checks: int
    spent: float = 0.0

    def next(self) -> float:
        """Seconds for the next check; 0 where nothing is left."""
        left = self.profile.seconds - self.spent
        seconds = share(left, self.checks, self.profile)
        self.checks -= 1
        return seconds if left > 0 else 0.0

    @property
    def reason(self) -> str:
        """Why nothing more is tried."""
        return f"not run: the {self.profile.seconds:g} s for this subject are used up (--fl-profile=thorough has more)"


@dataclass
class InProcess:
    """The subject is called in this process: to debug it, or where there is no other way."""

    target: Target
    profile: Profile
    budget: TimeBudget
    session: Session | None = None
    notes: tuple[str, ...] = ()

    def examine(self, check: Check | Audit | HistoryCheck, expected: str | None = None, file: Path | None = None) -> Row:
        """The row of the check."""
        with ends_refused():
            if self.session is None:
                session = Session(self.target, self.profile)
                _, called = session.start()
                self.notes = (called,) if called else ()
                self.session = session
            seconds, began = self.budget.next(), time.monotonic()
            if not seconds:
                return _row(self.target.name, check, "not_run", self.budget.reason)
            try:
                return replayable(self.session.examine(check, expected, seconds, file), self.target)
            finally:
                self.budget.spent += time.monotonic() - began

    def identity(self) -> str:
        """What the subject is seen to be."""
        return self.session.identity() if self.session is not None else ""

    def close(self) -> None:
        """Nothing was started."""


class Ended(BaseException):
    """The subject called `os._exit` or `os.abort` in a process that is not its own."""


@contextlib.contextmanager
def ends_refused() -> Generator[None]:
    """`os._exit(0)` in a subject would end pytest with success: here it is an exception of the subject's."""

    def refuse(*arguments: object) -> None:
        raise Ended(f"it called os._exit or os.abort with {arguments!r}")

    kept, home = (os._exit, os.abort), os.getpid()
    os._exit = lambda status: refuse(status) if os.getpid() == home else kept[0](status)  # type: ignore[assignment, reportAttributeAccessIssue]  # put back below
    os.abort = lambda: refuse() if os.getpid() == home else kept[1]()  # type: ignore[assignment, reportAttributeAccessIssue]  # the same
    try:
        yield
    finally:
        os._exit, os.abort = kept


@dataclass
class InChild:
    """The subject is called in a child process, started when it is first needed and again when the subject ended it."""

    target: Target
    profile: Profile
    budget: TimeBudget
    name: str = ""
    """As its adapter calls it; found when it is made."""
    explores: bool = True
    confirming: float = CONFIRMING
    """Seconds left for that."""
    deaths: int = 0
    over: str = ""
    """Why nothing more is tried; empty while something is."""
    child: Child | None = None
    last: Round | None = None
    """The round at which a child ended before any check."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.name = self.target.name

    def examine(self, check: Check | Audit | HistoryCheck, expected: str | None = None, file: Path | None = None) -> Row:
        """The row of the check; one that says how the child ended, where it did."""
        if self.over:
            return _row(self.name, check, "not_run", self.over)
        failure = "" if self.child is not None else self._start()
        if failure:
            self.over = f"not run: {failure}"
            return as_expected(self._ended(check, failure), expected)
        seconds, began = self.budget.next(), time.monotonic()
        if not seconds:
            return _row(self.name, check, "not_run", self.budget.reason)
        row = replayable(self._examine(check, expected, seconds, file), self.target)
        if row.outcome == "failed" and "replay" in (row.counterexample or {}) and file is None:
            row = self._confirmed(row, check)
        self.budget.spent += time.monotonic() - began
        return row

    def _ended(self, check: Check | Audit | HistoryCheck, how: str) -> Row:
        """The row of a check before which the child ended, with the round that it was at, if any."""
        row = _row(self.name, check, "failed", how)
        if self.last is None:
            return row
        return replayable(replace(row, counterexample=counterexample(self.name, check.name, self.last, how)), self.target)

    def _confirmed(self, row: Row, check: Check | Audit | HistoryCheck) -> Row:
        """The row; with another line to run where its round does not fail in a child that has seen no other."""
        if self.confirming <= 0 or "did not return" in row.reason:  # to wait again tells nothing new
            return row
        assert row.counterexample is not None
        began = time.monotonic()
        other = InChild(self.target, self.profile, TimeBudget(self.profile, 1), explores=False)
        with contextlib.closing(other):
            again = other.examine(check, file=Path(str(row.counterexample["file"])).absolute())
        self.confirming -= time.monotonic() - began
        return row if again.outcome in {"failed", "not_run"} else after_other_calls(row, self.target, self.profile)

    def _start(self) -> str:
        """Start a child; empty, or why there is none. Raises ValueError where the target is called in no way."""
        self.child = Child.start(self.target, self.profile, explores=self.explores)
        warm_up, call = self.profile.warm_up_seconds, PATIENCE * self.profile.call_seconds
        answer = self.child.answer(max(warm_up, call), warm_up + EXPLORING + 2 * call)
        if "refused" in answer:
            self.close()
            raise ValueError(answer["refused"])
        if "subject" in answer:
            self.name = answer["subject"]
            self.notes = (answer["called"],) if answer["called"] else ()
            return ""
        how = answer.get("broken") or self.child.ending(answer)
        words, self.last = self.child.witness.last()
        self.close()
        return f"{how}, when it was made or called for the first time{words and ', '}{words}"

    def _examine(self, check: Check | Audit | HistoryCheck, expected: str | None, seconds: float, file: Path | None) -> Row:
        assert self.child is not None
        asked = {"check": check.name, "expected": expected, "seconds": seconds}
        self.child.ask(asked if file is None else {**asked, "file": str(file)})
        call = self.profile.call_seconds
        answer = self.child.answer(PATIENCE * call, max(3 * seconds, seconds + call) + PATIENCE * call)
        if "row" in answer:
            return Row.from_json(answer["row"])
        if "broken" in answer:
            return as_expected(_row(self.name, check, "failed", answer["broken"]), expected)
        return as_expected(self._died(check, answer), expected)

    def _died(self, check: Check | Audit | HistoryCheck, answer: dict[str, Any]) -> Row:
        """The row of a check in which the child ended; the round that it was at is saved."""
        assert self.child is not None
        how = self.child.ending(answer)
        words, round_ = self.child.witness.last()
        said = self.child.said()
        self.close()
        self.deaths += 1
        if answer.get("stuck"):
            self.over = "not run: an earlier call of this rule did not return"
        elif self.deaths >= LIVES:
            self.over = f"not run: it has ended its process {self.deaths} times"
        reason = " ".join(filter(None, (how, words)))
        row = _row(self.name, check, "failed", reason + (f"; last words: {said}" if said else ""))
        if round_ is None:
            return row
        return replace(row, counterexample=counterexample(self.name, check.name, round_, how))

    def identity(self) -> str:
        """What the subject is seen to be, asked of the child where one lives."""
        if self.child is None or self.over:
            return ""
        self.child.ask({"identify": True})
        answer = self.child.answer(PATIENCE * self.profile.call_seconds, IDENTIFYING)
        if "identity" not in answer:
            self.close()
        return answer.get("identity", "")

    def close(self) -> None:
        """End the child."""
        if self.child is not None:
            if tracing.measured() and not self.over:
                self.child.ask({"coverage": True})
                self.child.answer(GRACE, GRACE)
            self.child.end()
            self.child = None


def _row(subject: str, check: Check | Audit | HistoryCheck, outcome: Literal["failed", "not_run"], reason: str) -> Row:
    value = float("inf") if outcome == "failed" else 0.0
    return Row(subject, check.name, check.claim, outcome, value=value, reason=reason)


@dataclass
class Child:
    """A process that was forked for one subject, and what it shares with this one."""

    number: int
    requests: int
    replies: int
    output: Any
    witness: Witness
    status: int | None = None
    """As `os.waitpid` gives it, once it has ended."""

    @classmethod
    def start(cls, target: Target, profile: Profile, *, explores: bool = True) -> Child:
        """Fork; in the child this never returns."""
        list(ADAPTERS)  # imported once, here: otherwise in every child anew
        if target.part is None:
            import_module("hypothesis")  # the same: 0.2 s
        asked, ask = os.pipe()
        answered, answer = os.pipe()
        output = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the child does
        witness = Witness()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other threads do not come along is why torch is told to use one
            number = os.fork()
        if number == 0:
            os.close(ask)
            os.close(answered)
            worker.serve(Session(target, profile, witness, explores), asked, answer, output.fileno())
        os.close(asked)
        os.close(answer)
        return cls(number, ask, answered, output, witness)

    def ask(self, message: dict[str, Any]) -> None:
        """Send a request; a child that is gone is noticed when its answer is waited for."""
        with contextlib.suppress(BrokenPipeError):
            worker.send(self.requests, message)

    def answer(self, call: float, seconds: float) -> dict[str, Any]:
        """The next message; {"stuck": ...} where a call takes longer than `call`, or all of it than `seconds`; else {}."""
        deadline = time.monotonic() + seconds + GRACE
        while True:
            if select.select([self.replies], [], [], 0.05)[0]:
                try:
                    return worker.receive(self.replies) or {}
                except (ValueError, OSError):
                    return {}
            if self._has_ended():
                return {} if not select.select([self.replies], [], [], 0)[0] else worker.receive(self.replies) or {}
            if self.witness.waiting > call + GRACE or time.monotonic() > deadline:
                return {"stuck": f"did not return within {min(call, self.witness.waiting or call):.3g} s"}

    def ending(self, answer: dict[str, Any]) -> str:
        """How it ended, or that it does not: a failure's reason."""
        if "stuck" in answer:
            return f"{answer['stuck']}, nor when it was interrupted"
        deadline = time.monotonic() + GRACE
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.status is None:
            return "closed the way to the process that tests it"
        if os.WIFSIGNALED(self.status):
            return f"ended the process: killed by {signal.Signals(os.WTERMSIG(self.status)).name}"
        code = os.WEXITSTATUS(self.status)
        if code == worker.LOST:
            return "closed file descriptors that it had not opened"
        return f"ended the process with exit status {code}"

    def said(self) -> str:
        """The last line that it wrote of a file of the user's: faulthandler's, where it crashed."""
        with contextlib.suppress(OSError):
            size = os.fstat(self.output.fileno()).st_size
            text = os.pread(self.output.fileno(), 4000, max(size - 4000, 0)).decode(errors="replace")
            for line in text.splitlines():
                if line.startswith('  File "') and "site-packages" not in line and worker.__file__ not in line:
                    return line.strip()
        return ""

    def _has_ended(self) -> bool:
        if self.status is None:
            with contextlib.suppress(ChildProcessError):
                number, status = os.waitpid(self.number, os.WNOHANG)
                if number:
                    self.status = status
                return bool(number)
            self.status = 0  # somebody else has waited for it
        return True

    def end(self) -> None:
        """Kill it, with all that it started and did not put into a session of its own."""
        for descriptor in (self.requests, self.replies):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        with contextlib.suppress(OSError):
            os.killpg(self.number, signal.SIGKILL)
        if not self._has_ended():
            with contextlib.suppress(OSError):
                os.kill(self.number, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.number, 0)
        self.output.close()
