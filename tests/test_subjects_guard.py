"""Foreign code is bounded in time and leaves nothing behind."""

import signal
import threading
import time

import numpy as np
import pytest

from pytest_fl.subjects.guard import Hung, Misbehaved, Rule, as_vector, within
from pytest_fl.subjects.subject import Subject


def forever():
    while True:
        pass


def test_a_loop_is_interrupted_on_the_main_thread():
    with pytest.raises(Hung, match=r"0\.2 s"):
        within(0.2, forever)


def test_a_sleep_is_interrupted_after_some_patience():
    started = time.monotonic()
    with pytest.raises(Hung):
        within(0.1, lambda: time.sleep(60))
    assert time.monotonic() - started < 30


def test_another_thread_leaves_the_call_behind():
    found = []
    thread = threading.Thread(target=lambda: found.append(pytest.raises(Hung, within, 0.05, lambda: time.sleep(3))))
    thread.start()
    thread.join(10)
    assert found


def test_another_thread_returns_and_raises_as_the_call_does():
    outcomes = []

    def run():
        outcomes.append(within(5, lambda: 7))
        outcomes.append(pytest.raises(KeyError, within, 5, lambda: {}["missing"]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert outcomes[0] == 7
    assert len(outcomes) == 2


def test_somebody_elses_timer_goes_on():
    rang = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert within(5, lambda: 1) == 1
        deadline = time.monotonic() + 5
        while not rang and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert rang


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (None, "None"),
        ("a string", "not a vector"),
        (np.zeros((1, 3)), r"shape \(1, 3\)"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.array([0, np.nan, 0]), "NaN"),
        (np.array([0, np.inf, 0]), "infinity"),
    ],
)
def test_what_is_not_a_finite_vector_is_named(result, reason):
    with pytest.raises(Misbehaved, match=reason):
        as_vector(result, 3)


def test_exceptions_are_told_and_keyboard_interrupts_are_not_kept():
    def interrupted(updates, f):
        raise KeyboardInterrupt

    def divides(updates, f):
        return updates[0] / 0 if f else 1 // 0

    with pytest.raises(KeyboardInterrupt):
        Rule(Subject("interrupted", interrupted))(np.ones((3, 1)), 1)
    with pytest.raises(Misbehaved, match="raised ZeroDivisionError"):
        Rule(Subject("divides", divides))(np.ones((3, 1)), 0)
