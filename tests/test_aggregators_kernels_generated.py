"""What the generated path owes beside right numbers: the same bits whoever computes, little memory, any processor."""

import multiprocessing
import os
import platform
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from fl_impl.aggregators import kernels
from fl_impl.aggregators.kernels import blocks, compiled, generated, on_arrays, parallel
from fl_impl.aggregators.kernels.arrays import rows_of
from fl_impl.aggregators.kernels.formulas import NearestMean, RankMean

DTYPES = (np.float32, np.float64)


def draws(n, d, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def means(n, f):
    mixing = np.ones((n, n))
    for i in range(n):
        mixing[i, [(i + k) % n for k in range(1, f + 1)]] = 0
    return mixing / (n - f)


def all_kernels(x):
    """What every kernel says of x."""
    n = len(x)
    return (
        kernels.rank_mean(x, (n - 1) // 2, n // 2 + 1),
        kernels.rank_mean(x, 2, n - 2),
        kernels.rank_mean(x, 2, n - 2, means(n, 2)),
        kernels.nearest_mean(x, 2, n - 2, n - 2),
        kernels.geometry(x).distances,
        kernels.combine(np.arange(n) / n, x),
        kernels.combine_rows(means(n, 2), x),
        kernels.squared_norms(x),
        kernels.distances_to(x, x[0]),
    )


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 21, 40])
def test_both_paths_give_the_same_bits_where_they_share_a_formula(n, dtype):
    rows, f = rows_of(draws(n, 20011, dtype)), (n - 1) // 3
    for formula in (
        RankMean((n - 1) // 2, n // 2 + 1),
        RankMean(f, n - f),
        NearestMean((n - 1) // 2, n // 2 + 1, n - f),
        NearestMean(f, n - f, n // 2 + 1),
    ):
        (ours, sound), (numpys, numpys_sound) = (path.coordinatewise(formula, rows, None) for path in (generated, blocks))
        assert sound
        assert numpys_sound
        assert np.array_equal(ours, numpys)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype, monkeypatch):
    monkeypatch.setattr(parallel, "WORTHWHILE", 0)
    monkeypatch.setattr(parallel, "SHORTEST", 1024)
    x = draws(11, 30001, dtype)
    with kernels.threads(1):
        alone = all_kernels(x)
    for count in (2, 3, 7):
        with kernels.threads(count):
            assert equal(all_kernels(x), alone)


def test_several_threads_work_and_share_what_is_to_do(monkeypatch):
    monkeypatch.setattr(parallel, "WORTHWHILE", 0)
    ranges, done = parallel.pieces(40 * parallel.SHORTEST), []
    with kernels.threads(3):
        parallel.run(lambda number, start, stop: done.append((number, start, stop)), ranges, 1)
    assert sorted(done) == [(number, *limits) for number, limits in enumerate(ranges)]


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(parallel, "WORTHWHILE", 0)

    def work(number, start, stop):
        del start, stop
        raise RuntimeError(f"range {number}")

    with kernels.threads(2), pytest.raises(RuntimeError, match="range"):
        parallel.run(work, parallel.pieces(1 << 20), 1)


@pytest.mark.parametrize("d", [1, 100, 8191, 8192, 8193, 16384, 10**6, 10**7 + 1])
def test_ranges_cover_the_columns_and_none_is_short(d):
    for ranges in (parallel.pieces(d), parallel.shares(d, 10**9)):
        assert [0, *(stop for _, stop in ranges)] == [*(start for start, _ in ranges), d]
        assert all(stop - start >= min(d, parallel.SHORTEST) for start, stop in ranges)
    assert len(parallel.pieces(d)) <= parallel.PIECES + 1


def test_thread_count_is_told_by_the_context_then_the_environment_then_the_cores(monkeypatch):
    monkeypatch.setenv(parallel.VARIABLE, "5")
    assert parallel.thread_count() == 5
    with kernels.threads(2):
        assert parallel.thread_count() == 2
    monkeypatch.delenv(parallel.VARIABLE)
    assert parallel.thread_count() == len(os.sched_getaffinity(0))
    for wrong in ("0", "many"):
        monkeypatch.setenv(parallel.VARIABLE, wrong)
        with pytest.raises(ValueError, match="PYTEST_FL_THREADS must be a positive number"):
            parallel.thread_count()
    with pytest.raises(ValueError, match="at least 1 thread, got 0"), kernels.threads(0):
        pass


def test_a_forked_child_starts_its_own_threads():
    """A pool does not survive a fork: waiting for the parent's threads would never end."""
    x = draws(8, 400_000)
    with kernels.threads(2):
        here = kernels.rank_mean(x, 2, 6)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            there = pool.apply_async(kernels.rank_mean, (x, 2, 6)).get(timeout=60)
    assert np.array_equal(here, there)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of this family")
@pytest.mark.parametrize(
    ("processor", "vector_bytes", "many"), [("x86-64-v3", 32, False), ("x86-64", 32, False), ("x86-64", 16, True)]
)
def test_code_for_other_processors_gives_the_same_numbers(processor, vector_bytes, many, dtype, monkeypatch):
    """AVX2 with 16 registers, and a machine with neither AVX nor fused multiply-add."""
    x = draws(12, 5003, dtype)
    expected = all_kernels(x)
    monkeypatch.setattr(compiled, "host", lambda: compiled.Host(processor, "", vector_bytes, many))
    monkeypatch.setattr(generated, "host", compiled.host)
    _forget_compiled()
    try:
        assert all(np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(all_kernels(x), expected, strict=True))
    finally:
        _forget_compiled()


def _forget_compiled():
    for function in vars(generated).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.mark.parametrize("path", ["numpy", "generated"])
def test_no_second_matrix_of_updates(path, monkeypatch):
    """Beside its result no kernel holds more than a fifth of its input."""
    monkeypatch.setenv(on_arrays.VARIABLE, path)
    n = 20
    x = draws(n, 400_000)
    calls = {
        "median": lambda: kernels.rank_mean(x, (n - 1) // 2, n // 2 + 1),
        "meamed": lambda: kernels.nearest_mean(x, (n - 1) // 2, n // 2 + 1, n - 4),
        "nnm|trimmed_mean": lambda: kernels.rank_mean(x, 4, n - 4, means(n, 4)),
        "geometry": lambda: kernels.geometry(x),
        "combine": lambda: kernels.combine(np.full(n, 1 / n), x),
        "norms": lambda: kernels.norms(x),
    }
    for name, call in calls.items():
        if path == "generated":
            call()  # compiles
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.2 * x.nbytes + x[0].nbytes, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_clients_than_are_compiled_for(dtype):
    n, d = generated.MOST_CLIENTS + 2, 300
    x = draws(n, d, dtype)
    assert np.array_equal(kernels.rank_mean(x, n // 2 - 1, n // 2 + 1), np.median(x, axis=0))
    mixed = np.sort(means(n, 20) @ x, axis=0)
    assert np.allclose(kernels.rank_mean(x, 20, n - 20, means(n, 20)), mixed[20:-20].mean(axis=0), atol=1e-6)


def test_small_matrices_are_not_worth_compiling_for():
    assert on_arrays._path(rows_of(draws(10, 100))) is blocks
    assert on_arrays._path(rows_of(draws(10, 10_000))) is generated


def test_a_misspelt_path_is_an_error(monkeypatch):
    monkeypatch.setenv(on_arrays.VARIABLE, "nunpy")
    with pytest.raises(ValueError, match=r'PYTEST_FL_KERNELS must be "numpy" or "generated"; got .nunpy.'):
        kernels.rank_mean(draws(10, 10_000), 2, 8)


def _python(code, **environment):
    command, told = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=120, check=False)


def test_without_llvmlite_numpy_serves():
    code = """if True:
        import sys
        sys.modules["llvmlite"] = None
        import numpy as np
        from fl_impl.aggregators import kernels
        x = np.random.default_rng(0).normal(size=(9, 20000)).astype(np.float32)
        assert np.array_equal(kernels.rank_mean(x, 4, 5), np.median(x, axis=0))
        assert kernels.geometry(x).distances.any()
    """
    served = _python(code)
    assert served.returncode == 0, served.stderr
    insisted = _python(code, PYTEST_FL_KERNELS="generated")
    assert "ImportError: PYTEST_FL_KERNELS=generated needs llvmlite, which does not import here" in insisted.stderr
    assert served.stderr.count("RuntimeWarning: llvmlite is not installed, so kernels run on numpy") == 1


def test_importing_the_kernels_imports_neither_torch_nor_llvmlite():
    done = _python("import sys, fl_impl.aggregators.kernels; assert not {'torch', 'llvmlite'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
