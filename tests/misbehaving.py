"""Ways of a rule to misbehave in the process that calls it: each is a sound median that does something else as well.

`misbehaving(expected, says)`: whether the report must fail ("failed"), pass ("passed") or either is right ("ends"), and
what one of its reasons must contain.
"""

from __future__ import annotations

import contextlib
import ctypes
import decimal
import gc
import itertools
import locale
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import deque

import numpy as np
from sound import median_of_sorted

MISBEHAVING = {}
"""name -> (rule, "failed", "passed" or "ends", what a reason must contain)."""


def misbehaving(expected, says=""):
    def register(rule):
        MISBEHAVING[rule.__name__] = (rule, expected, says)
        return rule

    return register


def at_once(act):
    """A rule that acts in each call and then answers rightly."""

    def rule(updates, f):
        act()
        return median_of_sorted(updates, f)

    return rule


def acts(name, act, expected, says=""):
    rule = at_once(act)
    rule.__name__ = rule.__qualname__ = name
    misbehaving(expected, says)(rule)


# It ends the process.
acts("segfault", lambda: ctypes.string_at(0), "failed", "SIGSEGV")
acts("abort", os.abort, "failed", "SIGABRT")
acts("exits_with_success", lambda: os._exit(0), "failed", "exit status 0")
acts("exits_with_three", lambda: os._exit(3), "failed", "exit status 3")
acts("kills_itself", lambda: os.kill(os.getpid(), signal.SIGKILL), "failed", "SIGKILL")
acts("terminates_itself", lambda: os.kill(os.getpid(), signal.SIGTERM), "failed", "SIGTERM")
acts("kills_its_group", lambda: os.killpg(0, signal.SIGKILL), "failed", "SIGKILL")
acts("stops_at_a_timer", lambda: (signal.setitimer(signal.ITIMER_VIRTUAL, 0.001), sum(range(10**6))), "failed", "SIGVTALRM")
acts("execs_another_program", lambda: os.execv("/bin/true", ["true"]), "failed", "exit status 0")
acts("divides_in_c", lambda: os.kill(os.getpid(), signal.SIGFPE), "failed", "SIGFPE")


@misbehaving("failed", "SIGSEGV")
def crashes_in_large_cohorts(updates, f):
    if len(updates) > 20:
        ctypes.string_at(0)
    return median_of_sorted(updates, f)


@misbehaving("failed", "SIGSEGV at n=")
def crashes_at_infinity(updates, f):
    if not np.isfinite(updates).all():
        ctypes.string_at(0)
    return median_of_sorted(updates, f)


# It raises.
def raises(name, make, says):
    def rule(updates, f):
        raise make()

    rule.__name__ = rule.__qualname__ = name
    misbehaving("failed", says)(rule)


class MuteError(Exception):
    def __str__(self):
        raise KeyError("no text")


class Odd(BaseException):
    pass


class EndlessError(Exception):
    def __str__(self):
        return "x" * 10**7

    __repr__ = __str__


raises("raises_system_exit", lambda: SystemExit(0), "SystemExit")
raises("raises_a_base_exception", lambda: Odd("odd"), "Odd")
raises("raises_generator_exit", GeneratorExit, "GeneratorExit")
raises("raises_keyboard_interrupt", KeyboardInterrupt, "KeyboardInterrupt")
raises("raises_what_has_no_text", MuteError, "no text")
raises("raises_what_has_endless_text", EndlessError, "")
raises("raises_memory_error", MemoryError, "MemoryError")
raises("raises_a_recursion_error", lambda: RecursionError("deep"), "RecursionError")
raises("raises_stop_iteration", StopIteration, "StopIteration")
raises("raises_a_timeout", lambda: TimeoutError("late"), "TimeoutError")


@misbehaving("failed", "Skipped")
def skips_the_test(updates, f):
    import pytest

    pytest.skip("not today")


@misbehaving("failed", "Exit")
def ends_the_session(updates, f):
    import pytest

    pytest.exit("that is all", returncode=0)


@misbehaving("failed", "RecursionError")
def recurses(updates, f):
    return recurses(updates, f)


# It hangs.
@misbehaving("failed", "did not return")
def spins(updates, f):
    while True:
        pass


@misbehaving("failed", "did not return")
def sleeps(updates, f):
    time.sleep(1000)


@misbehaving("failed", "did not return")
def spins_and_swallows(updates, f):
    while True:
        with contextlib.suppress(BaseException):
            while True:
                pass


@misbehaving("failed", "did not return")
def spins_with_the_alarm_masked(updates, f):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        pass


@misbehaving("failed", "did not return")
def spins_with_the_alarm_ignored(updates, f):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        pass


@misbehaving("failed", "did not return")
def waits_for_a_lock(updates, f):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@misbehaving("failed", "did not return")
def hangs_in_c(updates, f):
    deque(itertools.repeat(0), maxlen=0)


@misbehaving("failed", "did not return")
def stops_itself(updates, f):
    os.kill(os.getpid(), signal.SIGSTOP)
    return median_of_sorted(updates, f)


# What it returns is odd.
class Shapeless:
    @property
    def shape(self):
        raise Odd("no shape")

    @property
    def dtype(self):
        raise OSError("no dtype")


class Unreadable:
    def __array__(self, *arguments, **keywords):
        raise Odd("no array")


class Forever:
    def __len__(self):
        return 3

    def __getitem__(self, at):
        while True:
            pass


@misbehaving("failed")
def returns_what_has_no_shape(updates, f):
    return Shapeless()


@misbehaving("failed")
def returns_what_cannot_be_read(updates, f):
    return Unreadable()


@misbehaving("failed")
def returns_what_takes_forever_to_read(updates, f):
    return Forever()


@misbehaving("failed", "None")
def returns_nothing(updates, f):
    return None


@misbehaving("failed")
def returns_itself(updates, f):
    return returns_itself


@misbehaving("failed")
def returns_a_list_that_holds_itself(updates, f):
    endless = []
    endless.append(endless)
    return endless


# It leaves the process changed.
acts("changes_numpys_error_state", lambda: np.seterr(all="raise"), "failed", "numpy's error state")
acts("seeds_random", lambda: random.seed(0), "failed", "`random`")
acts("seeds_numpy", lambda: np.random.seed(0), "failed", "numpy's global")
acts("changes_the_folder", lambda: os.chdir(tempfile.gettempdir()), "failed", "working directory")
acts("sets_the_environment", lambda: os.environ.update(OMP_THREADS=str(time.time())), "failed", "environment")
acts("clears_the_environment", os.environ.clear, "failed", "environment")
acts("handles_signals", lambda: signal.signal(signal.SIGUSR1, lambda *_: None), "failed", "signal handlers")
acts("masks_signals", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}), "failed", "signal mask")
acts("filters_warnings", lambda: warnings.simplefilter("error"),
     "failed", "warnings filters")  # fmt: skip
acts("opens_and_forgets", lambda: os.open(os.devnull, os.O_RDONLY), "failed", "descriptors")
acts("switches_collection_off", gc.disable, "failed", "garbage collector")
acts("lowers_the_recursion_limit", lambda: sys.setrecursionlimit(sys.getrecursionlimit() - 1), "failed", "recursion limit")
acts("leaves_threads", lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start(), "failed", "threads")
acts("lengthens_the_path", lambda: sys.path.append("/nowhere"), "failed", "sys.path")
acts("changes_decimal", lambda: setattr(decimal.getcontext(), "prec", 3), "passed")
acts("limits_its_memory", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)), "passed")
acts("speaks_another_language", lambda: locale.setlocale(locale.LC_ALL, "C"), "ends")
acts("talks_to_the_log", lambda: logging.basicConfig(level=logging.DEBUG, force=True), "ends")


@misbehaving("failed", "torch's default dtype")
def changes_torchs_dtype(updates, f):
    import torch

    torch.set_default_dtype(torch.float64)
    return median_of_sorted(updates, f)


@misbehaving("failed", "torch's grad mode")
def switches_gradients_off(updates, f):
    import torch

    torch.set_grad_enabled(False)
    return median_of_sorted(updates, f)


@misbehaving("failed", "torch's global random")
def seeds_torch(updates, f):
    import torch

    torch.manual_seed(int(updates.shape[1]))
    torch.rand(1)
    return median_of_sorted(updates, f)


# It meddles with files and descriptors.
def remove_the_folder():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    shutil.rmtree(folder)


acts("removes_its_folder", remove_the_folder, "failed", "working directory")
acts("closes_stdout", lambda: sys.stdout.close(), "failed", "stdout")
acts("replaces_stdout", lambda: setattr(sys, "stdout", None), "failed", "stdout")
acts("closes_descriptor_one", lambda: [os.close(1), os.close(2)], "ends")
acts("closes_all_descriptors", lambda: os.closerange(3, 256), "failed", "closed")
acts("writes_to_all_descriptors", lambda: [_write(number) for number in range(3, 64)], "ends")
acts("prints_much", lambda: print("x" * 10_000), "passed", "printed")
acts("prints_to_stderr", lambda: print("oh", file=sys.stderr), "passed", "printed")
acts("writes_to_descriptor_one", lambda: os.write(1, b"hidden"), "passed", "printed")
acts("runs_a_program_that_prints", lambda: subprocess.run(["echo", "hidden"], check=True), "passed", "printed")


def _write(number):
    with contextlib.suppress(OSError):
        os.write(number, b"garbage")


# It multiplies.
def fork_and_come_back():
    os.fork()


def fork_and_leave_a_child():
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)


acts("forks_and_comes_back", fork_and_come_back, "failed", "forked")
acts("forks_and_leaves_a_child", fork_and_leave_a_child, "failed", "child processes")


@misbehaving("failed")
def leaves_a_child_that_holds_the_pipes_and_dies(updates, f):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    os._exit(0)
