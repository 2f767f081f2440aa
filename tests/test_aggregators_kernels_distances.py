"""Squared distances: right at every offset and scale, and beside every row that an adversary may send."""

import numpy as np
import pytest

from fl_impl.aggregators import kernels
from fl_impl.aggregators.kernels import FARTHEST, Geometry, blocks, generated, gram, on_arrays

DTYPES = (np.float32, np.float64)


@pytest.fixture(params=["numpy", "generated", "products"], autouse=True)
def path(request, monkeypatch):
    """By differences, of numpy rows and compiled, and by matrix products however few rows there are."""
    by_products = request.param == "products"
    monkeypatch.setenv(on_arrays.VARIABLE, "numpy" if by_products else request.param)
    for module in (blocks, generated):
        monkeypatch.setattr(module, "MANY_ROWS", 3 if by_products else 10**9)
    monkeypatch.setattr(on_arrays, "WORTHWHILE", 0)


def draws(n, d, dtype, *, seed=0, offset=0.0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) * scale + offset).astype(dtype)


def exact(x):
    wide = np.asarray(x, np.longdouble)
    return np.array([((wide - row) ** 2).sum(axis=1) for row in wide])


def relative_error(x, rows=None):
    """The largest of the distances among some rows; 0 must be 0."""
    rows = np.arange(len(x)) if rows is None else rows
    found, true = kernels.geometry(x).distances[np.ix_(rows, rows)], exact(x[rows])
    assert ((found == 0) == (true == 0)).all()
    return float((np.abs(found - true) / np.where(true == 0, 1, true)).max())


def tolerance(dtype):
    return 2e-6 if dtype == np.float32 else 1e-13  # float32 inside blocks of columns


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9, 26])
@pytest.mark.parametrize("d", [1, 3, 63, 64, 65, 127, 1000, 1024, 4097])
def test_shapes(n, d, dtype):
    assert relative_error(draws(n, d, dtype)) < tolerance(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1.0, 1e4, 1e6])
def test_no_offset_cancels(offset, dtype):
    """n on both sides of 25, where torch.cdist turns to a Gram matrix and is off by 1e-3 at an offset of 100."""
    for n in (25, 26):
        assert relative_error(draws(n, 1000, dtype, offset=offset)) < tolerance(dtype)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-19, 1e-12, 1e12, 1e19, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scales(scale, dtype):
    assert relative_error(draws(9, 300, dtype, scale=scale)) < tolerance(dtype)


@pytest.mark.parametrize(
    ("honest", "outlier"),
    [(1e-30, 1.0), (1e-30, 3e38), (1e-25, 1.0), (1.0, 1e4), (1.0, 1e20), (1.0, 3e38), (1e4, 1e10), (1e30, 3e38)],
)
@pytest.mark.parametrize("position", [0, 4, 8])
def test_no_row_spoils_the_distances_among_others(position, outlier, honest):
    x = draws(9, 300, np.float32, scale=honest)
    x[position] = outlier
    others = np.delete(np.arange(9), position)
    assert relative_error(x, others) < tolerance(np.float32)
    distances = kernels.geometry(x).distances
    assert np.isfinite(distances).all()
    assert (distances[position][others] > distances[np.ix_(others, others)].max()).all()


@pytest.mark.parametrize("centre", [1e4, 1e10, 1e30])
def test_no_row_is_a_centre_that_cancels(centre):
    """An adversary who knows which row others would be centred on gains nothing: there is no centre."""
    for position in range(9):
        x = draws(9, 500, np.float32, offset=1e4, scale=1e-2)
        x[position] = centre
        others = np.delete(np.arange(9), position)
        assert relative_error(x, others) < tolerance(np.float32)


def test_krum_choice_survives_offsets_and_an_outlier():
    """The row nearest to the rest, by definition in extended precision, has the least score."""
    for offset in (0.0, 1e4, 1e6):
        for outlier in (None, 3e38):
            x = draws(26, 400, np.float32, offset=offset)
            if outlier:
                x[3] = outlier
            found, true = kernels.geometry(x).distances, exact(x)
            score = np.sort(found, axis=1)[:, 1:21].sum(axis=1)
            true_score = np.sort(true, axis=1)[:, 1:21].sum(axis=1)
            assert true_score[score.argmin()] <= true_score.min() * (1 + 1e-6)


def test_float64_rows_beyond_the_root_of_the_range():
    x = draws(6, 100, np.float64)
    x[1], x[4] = 1e308, -1e308
    distances = kernels.geometry(x).distances
    assert (distances[1, [0, 2, 3, 4, 5]] == FARTHEST).all()
    honest = [0, 2, 3, 5]
    assert np.allclose(distances[np.ix_(honest, honest)], exact(x[honest]).astype(float), rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetric_with_an_exactly_zero_diagonal_and_zero_between_equal_rows(dtype):
    x = draws(12, 1000, dtype, offset=3.0)
    x[5] = x[2]
    x[9:] = x[8]
    distances = kernels.geometry(x).distances
    assert np.array_equal(distances, distances.T)
    zeros = {tuple(map(int, pair)) for pair in np.argwhere(distances == 0)}
    equal = [{2, 5}, {8, 9, 10, 11}, *({i} for i in (0, 1, 3, 4, 6, 7))]
    assert zeros == {(i, j) for rows in equal for i in rows for j in rows}


def test_rows_that_differ_by_less_than_a_float32_square_are_not_equal():
    x = np.zeros((5, 300), np.float32)
    x[1, 7], x[2, 7] = 1e-30, 2e-30
    distances = kernels.geometry(x).distances
    assert distances[0, 1] == pytest.approx(1e-60, rel=1e-6)
    assert distances[0, 2] == pytest.approx(4e-60, rel=1e-6)
    assert distances[3, 4] == distances[0, 3] == 0


@pytest.mark.parametrize("n", [5, 26])
def test_mixed_geometry_is_that_of_the_mixed_rows(n):
    x, rng = draws(n, 300, np.float64, offset=1e4), np.random.default_rng(0)
    mixing = rng.random((n - 1, n))
    mixing /= mixing.sum(axis=1, keepdims=True)
    found, true = kernels.geometry(x).mixed(mixing).distances, exact(mixing @ x.astype(np.longdouble))
    assert np.allclose(found, true.astype(float), rtol=1e-10)


def test_mixed_geometry_of_nearly_equal_mixtures_and_beside_an_outlier():
    """Mixtures that leave the outlier out keep their precision, and equal mixtures are at distance 0."""
    x = draws(12, 300, np.float64)
    x[0] = 1e30
    mixing = np.full((4, 12), 1 / 11)
    mixing[:, 0] = 0
    mixing[1, 1], mixing[1, 2] = 1 / 11 + 1e-6, 1 / 11 - 1e-6
    mixing[3] = 1 / 12
    found, true = kernels.geometry(x).mixed(mixing).distances, exact(mixing @ x.astype(np.longdouble))
    assert found[0, 2] == 0
    assert found[0, 1] == pytest.approx(float(true[0, 1]), rel=1e-6)
    assert found[0, 3] == pytest.approx(float(true[0, 3]), rel=1e-6)


def test_gram_and_distances_to_a_mean():
    x = draws(8, 200, np.float64, offset=5.0)
    geometry = kernels.geometry(x)
    weights = np.array([0, 0.5, 0.5, 0, 0, 0, 0, 0])
    for w, centre in ((None, x.mean(axis=0)), (weights, weights @ x)):
        assert np.allclose(geometry.centred_gram(w), (x - centre) @ (x - centre).T, atol=1e-10)
    assert np.allclose(geometry.to_mean(weights), ((x - weights @ x) ** 2).sum(axis=1))
    assert np.array_equal(geometry.subset([1, 4]).distances, geometry.distances[np.ix_([1, 4], [1, 4])])
    assert len(Geometry(np.zeros((3, 3)))) == 3


def test_gram_around_honest_rows_is_not_drowned_by_an_outlier():
    x = draws(8, 200, np.float64)
    x[0] = 1e20
    weights = np.array([0, *[1 / 7] * 7])
    gram = kernels.geometry(x).centred_gram(weights)[1:, 1:]
    centred = x[1:] - x[1:].mean(axis=0)
    assert np.allclose(gram, centred @ centred.T, atol=1e-9)


def clouds_far_apart(n, d, dtype):
    """Three clouds, each far narrower than the way to the others: around any row, two of the three cancel."""
    x = draws(n, d, dtype, scale=1e-2)
    x[n // 3 :] += 1e2
    x[2 * n // 3 :] += 1e3
    x[4] = x[2]
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 10, 61])
def test_products_that_cancel_are_taken_again(n, dtype, monkeypatch):
    monkeypatch.setattr(gram, "WIDTH", 128)  # more than one block
    x = clouds_far_apart(n, 500, dtype) if n > 4 else draws(n, 500, dtype)
    assert relative_error(x) < tolerance(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_choice_of_the_middle_spoils_a_distance(dtype, monkeypatch):
    """Not even a row far from all others, which the search for the middle never takes."""
    x = draws(40, 300, dtype, scale=1e-2)
    x[7] = 100
    monkeypatch.setattr(gram, "_in_the_middle", lambda rows: 7)
    assert relative_error(x) < tolerance(dtype)
