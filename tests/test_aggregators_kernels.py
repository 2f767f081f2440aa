"""Both paths of the kernels against definitions in extended precision, on every shape where blocks and lanes may err."""

import numpy as np
import pytest

from fl_impl.aggregators import kernels
from fl_impl.aggregators.kernels import Unfit, on_arrays

DIMENSIONS = (1, 2, 3, 17, 63, 64, 65, 127, 1000, 4097)
DTYPES = (np.float32, np.float64)


@pytest.fixture(params=["numpy", "generated"], autouse=True)
def path(request, monkeypatch):
    """Every test here runs on both paths; the generated one is not left to numpy for being small."""
    monkeypatch.setenv(on_arrays.VARIABLE, request.param)
    monkeypatch.setattr(on_arrays, "WORTHWHILE", 0)
    return request.param


def draws(n, d, dtype, *, seed=0, offset=0.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + offset).astype(dtype)


def wide(x):
    return np.asarray(x, np.longdouble)


def trimmed_mean(x, low, high):
    return np.sort(wide(x), axis=0)[low:high].mean(axis=0)


def nearest_mean(x, low, high, keep):
    """By the definition, with the centre rounded as the kernels round it; of equally near values the smaller."""
    ordered = np.sort(wide(x), axis=0)
    centre = ordered[low:high].mean(axis=0).astype(x.dtype)
    order = np.argsort(np.abs(ordered - centre), axis=0, kind="stable")[:keep]
    return np.take_along_axis(ordered, order, axis=0).mean(axis=0)


def mixing_matrix(n, f, seed=1):
    """Means of n - f rows, as nearest-neighbour mixing makes them; every row contains itself."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, n))
    for i in range(n):
        others = rng.permutation(np.delete(np.arange(n), i))[: n - f - 1]
        matrix[i, [i, *others]] = 1 / (n - f)
    return matrix


def rounding(x, terms=4):
    """What `terms` roundings of values as large as those of x may amount to."""
    return terms * np.finfo(x.dtype).eps * np.abs(wide(x)).max()


def test_the_path_asked_for_is_the_one_that_runs(path):
    chosen = on_arrays._path(on_arrays.rows_of(draws(3, 64, np.float32)))
    assert chosen.__name__.rpartition(".")[2] == {"numpy": "blocks", "generated": "generated"}[path]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_median_is_numpys(n, d, dtype):
    x = draws(n, d, dtype)
    assert np.array_equal(kernels.rank_mean(x, (n - 1) // 2, n // 2 + 1), np.median(x, axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize(("n", "low", "high"), [(1, 0, 1), (4, 0, 1), (7, 2, 5), (20, 4, 16), (33, 0, 33)])
def test_rank_mean(n, low, high, d, dtype):
    x = draws(n, d, dtype, seed=d)
    error = np.abs(kernels.rank_mean(x, low, high) - trimmed_mean(x, low, high)).max()
    assert error <= rounding(x, 0.5 if dtype == np.float32 else 4)  # rounded once where float64 is wider


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize(
    ("n", "low", "high", "keep"), [(1, 0, 1, 1), (5, 2, 3, 3), (12, 5, 7, 9), (12, 3, 9, 9), (11, 5, 6, 3), (20, 9, 11, 20)]
)
def test_nearest_mean(n, low, high, keep, d, dtype):
    x = draws(n, d, dtype, seed=d)
    assert np.abs(kernels.nearest_mean(x, low, high, keep) - nearest_mean(x, low, high, keep)).max() <= rounding(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_mixing_before_ranks(offset, d, dtype):
    """However far the rows lie from 0: what is lost is a rounding of the result, not of the n - f sums."""
    n, f = 11, 2
    x, mixing = draws(n, d, dtype, offset=offset), mixing_matrix(n, f)
    mixed = mixing @ wide(x)
    near = rounding(draws(n, d, dtype)) + np.finfo(dtype).eps * (offset + 1)
    assert np.abs(kernels.rank_mean(x, f, n - f, mixing) - trimmed_mean(mixed, f, n - f)).max() <= near
    meamed = kernels.nearest_mean(x, n // 2, n // 2 + 1, n - f, mixing)
    if offset == 0:  # elsewhere values lie on a grid, and ties go either way
        assert np.abs(meamed - nearest_mean(mixed.astype(dtype), n // 2, n // 2 + 1, n - f)).max() <= 8 * near


@pytest.mark.parametrize("dtype", DTYPES)
def test_mixing_by_buckets_and_by_any_matrix(dtype):
    x = draws(10, 500, dtype)
    buckets = np.repeat(np.eye(4), 3, axis=1)[:, :10]
    uneven = np.random.default_rng(0).random((6, 10))
    for matrix in (buckets / buckets.sum(axis=1, keepdims=True), uneven / uneven.sum(axis=1, keepdims=True)):
        found = kernels.rank_mean(x, 1, len(matrix) - 1, matrix)
        assert np.abs(found - trimmed_mean(matrix @ wide(x), 1, len(matrix) - 1)).max() <= rounding(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chosen_rows_are_those_of_the_copy(dtype):
    x, rows = draws(12, 300, dtype), [7, 0, 11, 3, 4]
    assert np.array_equal(kernels.rank_mean(x, 1, 4, rows=rows), kernels.rank_mean(x[rows], 1, 4))
    assert np.array_equal(kernels.nearest_mean(x, 2, 3, 3, rows=rows), kernels.nearest_mean(x[rows], 2, 3, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_and_duplicates(dtype):
    x = np.random.default_rng(0).integers(-2, 3, size=(9, 400)).astype(dtype)
    x[4:7] = x[3]
    assert np.array_equal(kernels.rank_mean(x, 4, 5), np.median(x, axis=0))
    assert np.abs(kernels.nearest_mean(x, 4, 5, 7) - nearest_mean(x, 4, 5, 7)).max() <= rounding(x)
    distances = kernels.geometry(x).distances
    assert (distances[3:7, 3:7] == 0).all()
    assert np.array_equal(distances, ((x[:, None] - x[None]) ** 2).sum(axis=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_order_of_clients_and_the_sign_change_no_bit(d, dtype):
    x = draws(9, d, dtype)
    order = np.random.default_rng(1).permutation(9)
    assert np.array_equal(kernels.rank_mean(-x, 2, 7), -kernels.rank_mean(x, 2, 7))
    for call in (lambda x: kernels.rank_mean(x, 2, 7), lambda x: kernels.nearest_mean(x, 4, 5, 7)):
        assert np.array_equal(call(x), call(x[order]))
        assert np.array_equal(call(x * dtype(2.0**-40)), call(x) * dtype(2.0**-40))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_values_come_out_exactly(dtype):
    """The n - f equal rows of an exactness check, subnormal ones among them, whatever f others say."""
    n, f = 11, 3
    v = np.array([0.1, 1 / 3, -7e20, 1e-30, np.finfo(dtype).smallest_subnormal] * 20, dtype)
    x = np.tile(v, (n, 1))
    x[[1, 5, 10]] = draws(3, len(v), dtype) * 1e10
    geometry = kernels.geometry(x)
    nearest = np.argsort(geometry.distances, axis=1, kind="stable")[:, : n - f]
    mixing = np.zeros((n, n))
    np.put_along_axis(mixing, nearest, 1 / (n - f), axis=1)
    normal = np.abs(v) >= np.finfo(dtype).tiny
    assert np.array_equal(kernels.rank_mean(x, 5, 6), v)
    assert np.array_equal(kernels.rank_mean(x, f, n - f, mixing)[normal], v[normal])
    for found in (kernels.rank_mean(x, f, n - f), kernels.nearest_mean(x, 5, 6, n - f)):
        assert np.abs(found - wide(v)).max() <= rounding(x[:1], 0 if dtype == np.float32 else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("n", [1, 2, 4, 13])
def test_combinations(n, d, dtype):
    x = draws(n, d, dtype)
    weights = np.random.default_rng(n).normal(size=(6, n))
    exact = weights @ wide(x)
    tolerance = rounding(x, 1) * np.abs(weights).sum(axis=1).max()
    assert np.abs(kernels.combine(weights[0], x) - exact[0]).max() <= tolerance
    assert np.abs(kernels.combine_rows(weights, x) - exact).max() <= tolerance
    assert np.array_equal(kernels.combine(np.zeros(n), x), np.zeros(d, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_weight_zero_are_not_read(dtype):
    x = draws(4, 300, dtype)
    x[1], x[3, 7] = np.nan, np.inf
    weights = np.array([0.25, 0, 0.75, 0])
    assert np.abs(kernels.combine(weights, x) - weights[[0, 2]] @ wide(x[[0, 2]])).max() <= rounding(x[[0, 2]])
    assert np.isfinite(kernels.combine_rows([weights, [1, 0, 0, 0]], x)).all()
    with pytest.raises(Unfit):
        kernels.combine([0.5, 0, 0, 0.5], x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_norms_and_distances_to_a_point(d, dtype):
    x, v = draws(7, d, dtype), draws(1, d, dtype, seed=9)[0]
    assert np.allclose(kernels.squared_norms(x), (wide(x) ** 2).sum(axis=1).astype(float), rtol=1e-13)
    assert np.allclose(kernels.norms(x), np.sqrt((wide(x) ** 2).sum(axis=1)).astype(float), rtol=1e-13)
    assert np.allclose(kernels.distances_to(x, v), ((wide(x) - wide(v)) ** 2).sum(axis=1).astype(float), rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_whose_squares_leave_the_range(dtype):
    limits = np.finfo(dtype)
    x = np.zeros((4, 70), dtype)
    x[0, 3], x[1, :2], x[2, 69] = limits.max, limits.max / 2, limits.tiny
    expected = [limits.max, limits.max / 2 * np.sqrt(2), limits.tiny, 0]
    assert np.allclose(kernels.norms(x), np.array(expected, float), rtol=1e-14, atol=0)


@pytest.mark.parametrize("layout", ["strided rows", "unaligned rows", "fortran", "reversed columns", "read-only"])
def test_layouts(layout):
    whole = draws(14, 1003, np.float32)
    x = {
        "strided rows": whole[::2],
        "unaligned rows": whole[:, 1:-1],
        "fortran": np.asfortranarray(whole[::2]),
        "reversed columns": whole[::2, ::-1],
        "read-only": whole[:7],
    }[layout]
    x.flags.writeable = False
    before, copy = x.tobytes(), np.ascontiguousarray(x)
    calls = [
        lambda x: kernels.rank_mean(x, 2, len(x) - 2),
        lambda x: kernels.nearest_mean(x, 3, 4, 5),
        lambda x: kernels.rank_mean(x, 1, len(x) - 1, mixing_matrix(len(x), 1)),
        lambda x: kernels.geometry(x).distances,
        lambda x: kernels.combine(np.full(len(x), 0.1), x),
        kernels.squared_norms,
    ]
    for call in calls:
        assert np.array_equal(call(x), call(copy))
    assert x.tobytes() == before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 64, 65, 1000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_unfit_wherever_they_lie(bad, d, dtype):
    n, mixing = 6, mixing_matrix(6, 1)
    calls = [
        lambda x: kernels.rank_mean(x, 2, 4),
        lambda x: kernels.rank_mean(x, 1, 5, mixing),
        lambda x: kernels.nearest_mean(x, 2, 4, 5),
        kernels.geometry,
        lambda x: kernels.combine(np.full(n, 1 / n), x),
        lambda x: kernels.combine_rows(mixing, x),
        kernels.norms,
        lambda x: kernels.distances_to(x, np.zeros(d, dtype)),
    ]
    for row, column in ((0, 0), (n - 1, d - 1), (3, d // 2)):
        x = draws(n, d, dtype)
        x[row, column] = bad
        for call in calls:
            with pytest.raises(Unfit):
                call(x)


def test_a_single_non_finite_row_is_unfit():
    with pytest.raises(Unfit):
        kernels.geometry(np.array([[1.0, np.nan]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 200])
def test_finite_values_at_the_limit_of_the_type_are_no_reason_to_give_up(d, dtype):
    """One to f rows at +-max, among them a pair whose difference overflows: results are those of the definitions."""
    n, f, limit = 9, 2, np.finfo(dtype).max
    for outliers in ([limit], [limit, limit], [limit, -limit]):
        x, mixing = draws(n, d, dtype), mixing_matrix(n, f)
        x[: len(outliers)] = np.array(outliers, dtype)[:, None]
        honest = x[f:]
        assert np.abs(kernels.rank_mean(x, f, n - f) - trimmed_mean(x, f, n - f)).max() <= rounding(honest)
        assert np.abs(kernels.nearest_mean(x, 4, 5, n - f) - nearest_mean(x, 4, 5, n - f)).max() <= rounding(honest)
        found = kernels.rank_mean(x, f, n - f, mixing)
        exact = trimmed_mean(mixing @ wide(x), f, n - f)
        assert np.isfinite(found).all()
        assert (np.abs(found - exact) <= 16 * np.finfo(dtype).eps * np.abs(mixing @ wide(x)).max()).all()
        assert np.isfinite(kernels.geometry(x).distances).all()


def test_rows_all_at_the_limit():
    x = np.full((5, 200), np.finfo(np.float64).max)
    for found in (kernels.rank_mean(x, 1, 4), kernels.nearest_mean(x, 1, 3, 4), kernels.combine(np.full(5, 0.2), x)):
        assert np.allclose(found, x[0], rtol=1e-15)


def test_windows_that_do_not_fit_are_refused():
    x = draws(4, 5, np.float32)
    for low, high in ((-1, 2), (2, 2), (0, 5)):
        with pytest.raises(ValueError, match=r"expected 0 <= low < high <= n=4 .*got low="):
            kernels.rank_mean(x, low, high)
    with pytest.raises(ValueError, match="n=3"):
        kernels.rank_mean(x, 0, 4, rows=[0, 1, 2])
    with pytest.raises(ValueError, match="n=2"):
        kernels.nearest_mean(x, 0, 1, 3, np.ones((2, 4)) / 4)
    with pytest.raises(ValueError, match=r"float32 and float64; got float16.*astype"):
        kernels.geometry(x.astype(np.float16))
