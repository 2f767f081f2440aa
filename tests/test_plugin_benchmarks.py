"""`fl_benchmark`: ratios beside pytest-benchmark's times, and a baseline that a slower rule breaks."""

import json
import tracemalloc
from functools import partial

import numpy as np
import pytest

from pytest_fl.plugin.benchmarks import Times, measure, peak_memory, read_baseline

BENCH = """
    import numpy as np
    import pytest

    def mean(updates, f, repeat=1):
        for _ in range(repeat):
            result = updates.mean(axis=0)
        return result

    @pytest.mark.parametrize("repeat", [{repeat}], ids=["it"])
    def test_bench(fl_benchmark, repeat):
        updates = np.ones((10, 40_000), np.float32)
        assert (fl_benchmark(mean, updates, 2, repeat=repeat) == 1).all()
"""
ONLY = ("-p", "pytest_benchmark.plugin", "--benchmark-only", "--benchmark-max-time=0.01", "--benchmark-min-rounds=3")


@pytest.fixture
def bench(run, pytester):
    def bench(*arguments, repeat=1):
        pytester.makepyfile(test_bench=BENCH.format(repeat=repeat))
        return run(*arguments)

    return bench


def test_ratios_stand_beside_the_time(bench, pytester):
    bench(*ONLY, "--benchmark-json=out.json").assert_outcomes(passed=1)
    (entry,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert entry["group"] == "n=10 f=2 d=40000"
    assert set(entry["extra_info"]) == {"read_ratio", "copy_ratio", "peak_extra_memory"}
    assert 0.5 < entry["extra_info"]["read_ratio"] < 3
    assert 0.1 <= entry["extra_info"]["peak_extra_memory"] < 0.2, "the result is a tenth of the input"


def test_benchmark_filters_see_it(bench):
    bench("-p", "pytest_benchmark.plugin", "--benchmark-skip").assert_outcomes(skipped=1)
    bench("-p", "pytest_benchmark.plugin", "--benchmark-disable").assert_outcomes(passed=1)


def test_slower_than_the_baseline_fails_and_the_same_passes(bench):
    bench(*ONLY, "--benchmark-json=base.json")
    bench(*ONLY, "--fl-bench-compare=base.json").assert_outcomes(passed=1)
    slower = bench(*ONLY, "--fl-bench-compare=base.json", repeat=4)
    slower.assert_outcomes(failed=1)
    slower.stdout.re_match_lines([r".*test_bench\[it\] takes .* x reading its input once, .*% more than .* of base.json"])


def test_a_benchmark_that_the_baseline_lacks_is_told(bench, pytester):
    (pytester.path / "base.json").write_text("{}")
    result = bench(*ONLY, "--fl-bench-compare=base.json")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*test_bench.py::test_bench?it? is not in base.json: nothing to compare with"])


def test_comparing_nothing_is_an_error(bench, pytester):
    (pytester.path / "base.json").write_text("{}")
    result = bench("-p", "pytest_benchmark.plugin", "--benchmark-disable", "--fl-bench-compare=base.json")
    result.assert_outcomes(failed=1)
    assert "--fl-bench-compare has nothing to compare: benchmarks are disabled" in result.stdout.str()


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "fast"}', '{"benchmarks": [{"fullname": "a"}]}', None])
def test_what_is_no_baseline(tmp_path, content):
    path = tmp_path / "base.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(pytest.UsageError, match=r"base\.json is no baseline"):
        read_baseline(path)


def test_measuring_counts_work_in_units_of_reading():
    updates = np.ones((20, 50_000), np.float32)

    def read(times):
        for _ in range(times):
            updates.sum(axis=0)

    once, often = (measure(partial(read, times), updates) for times in (1, 5))
    assert 0.7 < once.call / once.read < 1.5
    assert 3.5 < often.call / often.read < 7
    assert once.best(Times(call=0.0)) == Times(0.0, once.copy, once.read)


def test_peak_memory_counts_what_is_held_at_once():
    def work():
        for _ in range(5):
            np.ones(1_000_000, np.uint8)

    assert 1_000_000 <= peak_memory(work) < 1_100_000
    assert peak_memory(lambda: None) < 10_000


def test_peak_memory_forgets_what_was_traced_before():
    tracemalloc.start()
    try:
        np.ones(1_000_000, np.uint8)
        assert peak_memory(lambda: None) < 10_000
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
