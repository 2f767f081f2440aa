"""A rule is a function: its first answer, its last one and those given to several threads at once are the same."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, check, verdict
from pytest_fl.checks.contract import ordinary
from pytest_fl.subjects.guard import Misbehaved, Rule, as_vector
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject

CALLS: Final = (1, 6, 40)
"""Which calls of an object are compared with the first of another."""
MANY: Final = 2000
"""Calls after which it is asked once more, where they take no longer than SPARE seconds."""
SPARE: Final = 0.1
BATCH: Final = 50
RESULTS: Final = 64
"""Results that are kept while others are made."""
THREADS: Final = 4
TURNS: Final = 100
"""Calls of each thread."""


def _two(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Two ordinary rounds, n odd and even: each is asked for again and again."""
    rounds = list(ordinary(rule, profile))
    yield from {round_.n % 2: round_ for round_ in rounds}.values()


def _can_be_new(subject: Subject) -> str:
    known = subject.renew is not None or subject.first is not None
    return "" if known else "its adapter makes no new object, and keeps no first answer"


@check(rounds=_two, needs=_can_be_new)
def answers_as_when_new(rule: Rule, round_: Round) -> Bound:
    """A rule that has been called 5, 39 or 2000 times answers as a new one does in its first call."""
    fresh = rule.subject.renew() if rule.subject.renew is not None else None
    if fresh is None:
        assert rule.subject.first is not None
        updates, f, expected = rule.subject.first
        return _afterwards(rule, rule.subject.call, Round(updates, f, (), "the first of all rounds"), expected)
    expected = _answer(rule, fresh, round_)
    used = rule.subject.renew() if rule.subject.renew is not None else rule.subject.call
    others = [round_.updates * factor for factor in (-1, 0.5, 3)]
    for number in range(1, CALLS[-1] + 1):
        if number not in CALLS:
            _ask(rule, used, others[number % len(others)], round_.f)
            continue
        change = float(np.abs(_answer(rule, used, round_) - expected).max())
        if change:
            return Bound(change, 0.0, f"call {number} of an object gives a result {change:.3g} away from the first of another")
    return _afterwards(rule, used, round_, expected)


def _afterwards(rule: Rule, call: Callable[..., Any], round_: Round, expected: npt.NDArray[np.float64]) -> Bound:
    """The answer after many calls, as far as time is left for them, against the expected one."""
    started, made = time.monotonic(), 0
    other = -2 * round_.updates
    while made < MANY and time.monotonic() - started < SPARE:
        batch = BATCH if made else 1  # of a slow rule one is enough
        rule.attempt(lambda batch=batch: [call(other.copy(), round_.f) for _ in range(batch)])
        made += batch
    change = float(np.abs(_answer(rule, call, round_) - expected).max())
    return Bound(change, 0.0, f"after {made} more calls its answer is {change:.3g} away from its first" if change else "")


def _ask(rule: Rule, call: Callable[..., Any], updates: Any, f: int) -> Any:
    return rule.attempt(lambda: call(updates.copy(), f))


def _answer(rule: Rule, call: Callable[..., Any], round_: Round) -> npt.NDArray[np.float64]:
    return as_vector(_ask(rule, call, round_.updates, round_.f), round_.d).copy()


@check(rounds=_two)
def keeps_its_results(rule: Rule, round_: Round) -> Bound:
    """Results that were handed out stay as they are, while 64 others are made."""
    results, copies = list[Any](), list[npt.NDArray[np.float64]]()
    for index in range(RESULTS):
        results.append(rule.raw(round_.updates * (index + 1), round_.f))
        copies.append(as_vector(results[-1], round_.d).copy())
    for index, (result, before) in enumerate(zip(results, copies, strict=True)):
        if not np.array_equal(as_vector(result, round_.d), before):
            return verdict(f"of {RESULTS} results, number {index + 1} was overwritten by a later call")
    return verdict("")


def _is_called_here(subject: Subject) -> str:
    return "it is another process, which is asked one thing after the other" if "process" in subject.details else ""


@check(rounds=_two, needs=_is_called_here)
def answers_in_threads(rule: Rule, round_: Round) -> Bound | None:
    """Four threads that call it at once get what each would get alone."""
    given = [round_.updates * factor for factor in (1, -1, 0.5, 3)[:THREADS]]
    expected = [rule(updates, round_.f) for updates in given]
    started = time.monotonic()
    rule(given[0], round_.f)
    turns = max(1, min(TURNS, int(SPARE / THREADS / max(time.monotonic() - started, 1e-6))))
    wrong = list[str]()

    def work(mine: int) -> None:
        for _ in range(turns):
            try:
                answer = as_vector(rule.subject.call(given[mine].copy(), round_.f), round_.d)
                if not np.array_equal(answer, expected[mine]):
                    wrong.append(f"got a result {np.abs(answer - expected[mine]).max():.3g} away")
            except Exception as error:  # noqa: BLE001  # foreign code raises anything; on the main thread it did not
                wrong.append(str(error) if isinstance(error, Misbehaved) else f"raised {type(error).__name__}: {error}"[:200])

    rule.attempt(lambda: [work(mine) for mine in range(THREADS)])
    if wrong:  # it changes its mind on one thread too: another check's business
        return None
    rule.attempt(lambda: _at_once(work))
    return verdict(f"called from {THREADS} threads at once it {wrong[0]}" if wrong else "")


def _at_once(work: Callable[[int], None]) -> None:
    gate = threading.Barrier(THREADS)

    def begin(number: int) -> None:
        gate.wait()
        work(number)

    threads = [threading.Thread(target=begin, args=(number,), daemon=True) for number in range(THREADS)]
    with _switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@contextmanager
def _switching_often() -> Generator[None]:
    """Threads take turns every few instructions, so that what they share is met half written."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
