"""`fl_benchmark`: pytest-benchmark's times, and beside each the multiple of what the machine can do."""

from __future__ import annotations

import json
import time
import tracemalloc
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

TOLERANCE: Final = 0.25
"""How much slower than the baseline is a regression: a tripwire, since the same binary varies by a few percent."""
ATTEMPTS: Final = 5
"""How often a suspected regression is measured again before it is reported."""
ROUNDS: Final = 7
BUDGET: Final = 1.0
"""Each measurement takes at least ROUNDS interleaved rounds, and goes on for BUDGET CPU-seconds up to ten times as many."""


@dataclass(frozen=True)
class Times:
    """Least CPU-seconds of one aggregation and, interleaved with it, of copying its input and of reading it once."""

    call: float = float("inf")
    copy: float = float("inf")
    read: float = float("inf")

    def best(self, other: Times) -> Times:
        """The lesser of the times before and after the benchmark."""
        return Times(min(self.call, other.call), min(self.copy, other.copy), min(self.read, other.read))


@dataclass(frozen=True)
class Cost:
    """What an aggregation costs on any machine: what `extra_info` of a benchmark holds."""

    read_ratio: float
    """CPU time in multiples of reading the input once (numpy's sum over clients)."""
    copy_ratio: float
    """CPU time in multiples of copying the input."""
    peak_extra_memory: float
    """Most bytes that Python and numpy held during the call, result included, in multiples of the input's."""


@pytest.fixture
def fl_benchmark(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., Any]:
    """`fl_benchmark(rule, updates, f, **options)`: pytest-benchmark's time of one aggregation, and its `Cost` beside it.

    Groups by (n, f, d). With --fl-bench-compare, a `read_ratio` more than 25 % above the baseline's fails the test.
    Gives back what the rule returned.
    """
    return partial(_benchmark, request, benchmark)


def _benchmark(
    request: pytest.FixtureRequest, benchmark: Any, rule: Callable[..., Any], updates: Any, f: int = 0, **options: Any
) -> Any:
    n, d = updates.shape
    benchmark.group = f"n={n} f={f} d={d}"
    result = benchmark(rule, updates, f, **options)
    baseline = request.config.getoption("fl_bench_compare")
    if getattr(benchmark, "enabled", False):
        call, array = partial(rule, updates, f, **options), _array(updates)
        times = measure(call, array)
        if baseline:
            times = _compare(request.node.nodeid, times, partial(measure, call, array), Path(baseline))
        cost = Cost(times.call / times.read, times.call / times.copy, peak_memory(call) / array.nbytes)
        benchmark.extra_info.update(asdict(cost))
    elif baseline:
        pytest.fail("--fl-bench-compare has nothing to compare: benchmarks are disabled; add --benchmark-only, drop -n")
    return result


def measure(call: Callable[[], Any], updates: np.ndarray) -> Times:
    """The least CPU time of a call, of a copy and of a sum over clients, each measured in turn."""
    import numpy as np  # noqa: PLC0415  # only benchmarks pay for it

    buffer = np.empty_like(updates)
    work = (call, partial(np.copyto, buffer, updates), partial(np.sum, updates, axis=0))
    best, rounds, start = Times(), 0, time.process_time()
    while rounds < ROUNDS or (time.process_time() - start < BUDGET and rounds < 10 * ROUNDS):
        best = best.best(Times(*map(_seconds, work)))
        rounds += 1
    return best


def peak_memory(call: Callable[[], Any]) -> int:
    """Most bytes allocated at one time during the call, by Python and numpy; torch's own allocations are not seen."""
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not traced:
            tracemalloc.stop()


def read_baseline(path: Path) -> Mapping[str, float]:
    """Node id -> read_ratio, of a file written by `scripts/bench_baseline.py` or by --benchmark-json.

    Raises pytest.UsageError for a file that is neither.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "benchmarks" in content:
            return {entry["fullname"]: entry["extra_info"]["read_ratio"] for entry in content["benchmarks"]}
        return {name: float(ratio) for name, ratio in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise pytest.UsageError(f"--fl-bench-compare: {path} is no baseline: {error!r}") from error


def _compare(name: str, times: Times, again: Callable[[], Times], path: Path) -> Times:
    """Fail a regression that stays one when measured again: the fastest of all attempts counts."""
    expected = read_baseline(path).get(name)
    if expected is None:
        warnings.warn(f"{name} is not in {path}: nothing to compare with", pytest.PytestWarning, stacklevel=2)
        return times
    for _ in range(ATTEMPTS):
        if times.call / times.read <= expected * (1 + TOLERANCE):
            return times
        times = times.best(again())
    ratio = times.call / times.read
    if ratio > expected * (1 + TOLERANCE):
        slower = f"takes {ratio:.2f} x reading its input once, {ratio / expected - 1:.0%} more than the {expected:.2f} x"
        pytest.fail(f"{name} {slower} of {path} ({TOLERANCE:.0%} is allowed)", pytrace=False)
    return times


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _array(updates: Any) -> np.ndarray:
    return updates.numpy(force=True) if hasattr(updates, "numpy") else updates
