"""Ranges of columns on all cores: kernels release the interpreter's lock, so plain threads do."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Final

VARIABLE: Final = "PYTEST_FL_THREADS"
WORTHWHILE: Final = 1 << 20
"""Elements below which one thread is faster than waking another."""
SHORTEST: Final = 1 << 13
"""Columns of the shortest range."""
PIECES: Final = 32
"""Ranges that sums are taken over, however many threads take them."""
SHARES: Final = 4
"""Ranges for each thread: one that is held up leaves the rest to the others."""

_chosen: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def threads(count: int) -> Generator[None]:
    """Run the kernels of this context on `count` threads, whatever the environment says."""
    if count < 1:
        raise ValueError(f"expected at least 1 thread, got {count}")
    token = _chosen.set(count)
    try:
        yield
    finally:
        _chosen.reset(token)


def thread_count() -> int:
    """The threads to use: those of the context, of PYTEST_FL_THREADS, or as many as cores are open to this process."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    text = os.environ.get(VARIABLE, "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{VARIABLE} must be a positive number of threads; got {text!r}")
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Range = tuple[int, int]
Work = Callable[[int, int, int], None]
"""(number of the range, start, stop)."""


def pieces(d: int) -> list[Range]:
    """d columns in ranges that depend on d alone, so that sums over them do not depend on the number of threads."""
    return _ranges(d, PIECES)


def shares(d: int, elements: int) -> list[Range]:
    """d columns in one range, or in some for each thread where that many elements make threads worthwhile."""
    count = thread_count() if elements >= WORTHWHILE else 1
    return _ranges(d, SHARES * count if count > 1 else 1)


def run(work: Work, ranges: Sequence[Range], elements: int) -> None:
    """Do the work of every range, on several threads where that many elements make them worthwhile."""
    count = min(thread_count(), len(ranges)) if elements >= WORTHWHILE else 1
    tasks = iter(enumerate(ranges))  # shared: one step of it is atomic

    def take() -> None:
        for number, (start, stop) in tasks:
            work(number, start, stop)

    helpers = [_pool(count).submit(take) for _ in range(count - 1)]
    take()
    for helper in helpers:
        helper.result()


def _ranges(d: int, count: int) -> list[Range]:
    """About `count` ranges that begin at multiples of SHORTEST; none is shorter than that unless d is."""
    length = -(-d // (count * SHORTEST)) * SHORTEST
    starts = [0, *range(length, d - SHORTEST + 1, length)]
    return list(zip(starts, [*starts[1:], d], strict=True))


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count - 1, thread_name_prefix="fl-kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads
