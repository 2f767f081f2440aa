"""Ranks found by counting: the values that numpy's sort puts there, for any n, any rank, and values that are hard to tell apart."""

import math
import platform

import numpy as np
import pytest

from fl_impl.aggregators import kernels, resolve
from fl_impl.aggregators.kernels import Unfit, compiled, generated, on_arrays
from fl_impl.aggregators.kernels.arrays import rows_of
from fl_impl.aggregators.kernels.formulas import NearestMean, RankMean
from fl_impl.aggregators.vectors import Vectors

pytest.importorskip("llvmlite")
DTYPES = (np.float32, np.float64)
D = 67


def normal(rng, n, dtype):
    return rng.normal(size=(n, D)).astype(dtype)


def far_rows(rng, n, dtype):
    x = normal(rng, n, dtype)
    x[: n // 3] *= dtype(1e30)
    return x


def ties(rng, n, dtype):
    return rng.integers(-2, 3, (n, D)).astype(dtype)


def zeros(rng, n, dtype):
    x = normal(rng, n, dtype)
    x[rng.random((n, D)) < 0.7] = 0
    x[rng.random((n, D)) < 0.3] *= -1  # also -0
    return x


def denormals(rng, n, dtype):
    least = np.finfo(dtype).smallest_subnormal
    return (rng.integers(-300, 300, (n, D)) * least).astype(dtype)


def clusters(rng, n, dtype):
    """Neighbouring numbers around 1, and around a value far from it: lines through counts lead nowhere."""
    steps = rng.integers(0, 40, (n, D)).astype(dtype) * np.finfo(dtype).eps
    return np.where(rng.random((n, D)) < 0.5, 1 + steps, -(dtype(2) ** 90) * (1 + steps)).astype(dtype)


def every_magnitude(rng, n, dtype):
    top = int(np.finfo(dtype).maxexp) - 16
    return (np.ldexp(rng.normal(size=(n, D)), rng.integers(-top, top, (n, D)))).astype(dtype)


def sorted_rows(rng, n, dtype):
    """The sample is taken at equal distances: of rows in order, and of rows in turns, it says something else."""
    return np.sort(normal(rng, n, dtype), axis=0)[np.argsort(np.arange(n) % 7, kind="stable")]


def all_equal(rng, n, dtype):
    return np.repeat(rng.normal(size=(1, D)), n, axis=0).astype(dtype)


CLOUDS = (normal, far_rows, ties, zeros, denormals, clusters, every_magnitude, sorted_rows, all_equal)


def select(formula, x):
    result = np.empty(x.shape[1], x.dtype)
    with np.errstate(over="ignore"):
        assert generated._selected(formula, rows_of(x), result)
    return result


def windows(n):
    f = max(1, n // 5)
    return {(0, 1), (n - 1, n), (0, n), (f, n - f), ((n - 1) // 2, n // 2 + 1), (1, 2), (n - 3, n - 1)}


def mean_of(values):
    """The mean of each column, of the exact sum."""
    return np.array([math.fsum(column) / len(column) for column in values.T.tolist()])


def rounding(x, values):
    """Half a unit in the last place of float32, of what was summed in float64; a few of float64, of the largest value."""
    eps = np.finfo(x.dtype).eps
    if x.dtype == np.float32:
        return np.abs(values) * eps * 0.51 + np.abs(x).max(axis=0) * 1e-14 + np.finfo(x.dtype).smallest_subnormal
    return np.abs(values) * eps + np.abs(x).max(axis=0) * 2.0**-90 + np.finfo(x.dtype).smallest_subnormal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("n", [4, 5, 65, 129, 200, 257])
def test_ranks_are_numpys(n, cloud, dtype):
    for seed in range(2):
        x = cloud(np.random.default_rng(seed), n, dtype)
        ordered = np.sort(x, axis=0)
        for low, high in windows(n):
            found = select(RankMean(low, high), x)
            if high == low + 1:
                assert np.array_equal(found, ordered[low]), (low, high)
            else:
                expected = mean_of(ordered[low:high])
                assert (np.abs(found - expected) <= rounding(ordered[low:high], expected)).all(), (low, high)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("n", [1000, 5000])
def test_ranks_among_many(n, cloud):
    x = cloud(np.random.default_rng(n), n, np.float32)
    ordered = np.sort(x, axis=0)
    for rank in (0, 1, n // 5, n // 2, n - 2):
        assert np.array_equal(select(RankMean(rank, rank + 1), x), ordered[rank])
    low, high = n // 5, n - n // 5
    expected = mean_of(ordered[low:high])
    assert (np.abs(select(RankMean(low, high), x) - expected) <= rounding(ordered[low:high], expected)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cloud", [normal, far_rows, ties, zeros, all_equal, sorted_rows])
@pytest.mark.parametrize("n", [5, 64, 129, 600])
def test_the_nearest_are_those_of_the_definition(n, cloud, dtype):
    """By the definition, with the centre rounded as the kernels round it; of equally near values the smaller."""
    x = cloud(np.random.default_rng(n), n, dtype)
    ordered = np.sort(x, axis=0)
    f = n // 4
    for low, high in (((n - 1) // 2, n // 2 + 1), (f, n - f)):
        for keep in (1, n - f, n):
            centre = select(RankMean(low, high), x)
            order = np.argsort(np.abs(ordered - centre), axis=0, kind="stable")[:keep]
            nearest = np.take_along_axis(ordered, order, axis=0)
            expected = mean_of(nearest)
            assert (np.abs(select(NearestMean(low, high, keep), x) - expected) <= rounding(nearest, expected)).all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [129, 700])
def test_ranks_of_16_bit_numbers(kind, n):
    """Among 16-bit numbers many tie, and neighbours are far apart in float32."""
    bits = np.random.default_rng(0).integers(0, 0x7000, (n, D)).astype(np.uint16) | (
        np.random.default_rng(1).integers(0, 2, (n, D)).astype(np.uint16) << 15
    )
    stored = bits if kind == "bfloat16" else bits.view(np.float16)
    vectors = Vectors(stored, kind)
    ordered = np.sort(vectors.matrix(), axis=0)
    result = np.empty(D, np.float32)
    for rank in (0, 3, n // 2, n - 1):
        assert generated._selected(RankMean(rank, rank + 1), rows_of(vectors), result)
        assert np.array_equal(result, ordered[rank])


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_order_of_clients_and_no_sign_changes_a_bit(dtype):
    n = 301
    x = normal(np.random.default_rng(0), n, dtype)
    shuffled = np.ascontiguousarray(x[np.random.default_rng(1).permutation(n)])
    for formula in (RankMean(60, 241), RankMean(150, 151), NearestMean(150, 151, 241), NearestMean(60, 241, 241)):
        assert np.array_equal(select(formula, x), select(formula, shuffled))
        assert np.array_equal(select(formula, x), -select(formula, -x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad):
    x = normal(np.random.default_rng(0), 300, np.float32)
    x[7, 66] = bad
    with pytest.raises(Unfit):
        kernels.rank_mean(x, 60, 240)
    assert np.isfinite(resolve("trimmed_mean")(x, f=60)).all()


@pytest.mark.parametrize("spec", ["nnm|trimmed_mean", "nnm|meamed", "bucketing|trimmed_mean", "meamed", "phocas"])
def test_pipes_and_nearest_means_of_many_clients_agree_with_numpys_path(spec, monkeypatch):
    x, rule = normal(np.random.default_rng(0), 300, np.float32), resolve(spec)
    found = rule(x, f=20)
    monkeypatch.setenv(on_arrays.VARIABLE, "numpy")
    assert np.allclose(found, rule(x, f=20), rtol=0, atol=2e-6)


def test_threads_change_no_bit():
    x = np.random.default_rng(0).normal(size=(150, 30_000)).astype(np.float32)
    with kernels.threads(1):
        alone = kernels.rank_mean(x, 30, 120)
    with kernels.threads(3):
        assert np.array_equal(kernels.rank_mean(x, 30, 120), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of this family")
@pytest.mark.parametrize(("processor", "vector_bytes"), [("x86-64-v3", 32), ("x86-64", 16)])
def test_code_for_other_processors_gives_the_same_numbers(processor, vector_bytes, dtype, monkeypatch):
    x = normal(np.random.default_rng(0), 140, dtype)
    formulas = (RankMean(69, 71), RankMean(30, 110), NearestMean(69, 71, 110))
    expected = [select(formula, x) for formula in formulas]
    monkeypatch.setattr(compiled, "host", lambda: compiled.Host(processor, "", vector_bytes, many_registers=False))
    monkeypatch.setattr(generated, "host", compiled.host)
    generated._selection.cache_clear()
    try:
        assert all(np.array_equal(select(formula, x), found) for formula, found in zip(formulas, expected, strict=True))
    finally:
        generated._selection.cache_clear()
