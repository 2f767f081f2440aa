"""Each rule against its definition, on what is random, tied, duplicated, far from the origin, tiny and huge."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import oracles
import pytest
import torch
from oracles import CLOUDS

from fl_impl import aggregators

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
SIZES = [(3, 1, 1), (5, 2, 3), (6, 1, 4), (7, 1, 3), (8, 3, 2), (9, 2, 5), (11, 2, 40)]
COORDINATEWISE = ["coordinate_median", "trimmed_mean", "meamed", "phocas"]
SELECTING = ["krum", "multi_krum", "minimum_diameter", "minimum_variance", "smea", "monna"]
WITH_TIES = {"meamed", "phocas", *SELECTING, "bulyan", "dnc", "nnm"}


def as_dtype(x, dtype):
    """x in that dtype, in the container that has it, and what float64 makes of it."""
    if dtype == "bfloat16":
        tensor = torch.tensor(x).bfloat16()
        return tensor, tensor.double().numpy()
    narrow = x.astype(dtype)
    return narrow, narrow.astype(np.float64)


def to_float64(result):
    return result.double().numpy() if torch.is_tensor(result) else np.asarray(result, np.float64)


def matches(result, outcome, tolerance):
    """Whether the result is that vector or, coordinate by coordinate, one of those numbers."""
    if isinstance(outcome, list):
        return all(min(abs(value - r) for value in column) <= tolerance for column, r in zip(outcome, result, strict=True))
    return np.abs(result - outcome).max() <= tolerance


def assert_by_definition(name, x, f, dtype="float64", **options):
    updates, exact = as_dtype(x, dtype)
    if name == "monna":
        options = {"pivot": len(x) - 1}  # an honest one
    result = aggregators.ALL[name](updates, f=f, **options)
    assert str(result.dtype).removeprefix("torch.") == dtype
    computed = EPS["float64" if dtype == "float64" else "float32"]
    tolerance = np.abs(exact[f:]).max() * (4 * len(x) * computed + EPS[dtype])
    tie = {"tie": 1e-9 if dtype == "float64" else 1e-5} if name in WITH_TIES else {}
    outcomes = list(getattr(oracles, name)(exact, f, **options, **tie))
    found = to_float64(result)
    assert any(matches(found, outcome, tolerance) for outcome in outcomes), (found, outcomes[:3])


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("name", COORDINATEWISE + SELECTING)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_definition(name, cloud, dtype):
    rng = np.random.default_rng(0)
    for n, f, d in SIZES:
        assert_by_definition(name, CLOUDS[cloud](rng, n, f, d), f, dtype)


@pytest.mark.parametrize("cloud", [name for name in CLOUDS if name not in ("tiny", "huge", "far", "offset_1e6")])
@pytest.mark.parametrize("name", COORDINATEWISE + SELECTING)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_definition_in_low_precision(name, cloud, dtype):
    rng = np.random.default_rng(1)
    for n, f, d in SIZES:
        assert_by_definition(name, CLOUDS[cloud](rng, n, f, d), f, dtype)


@pytest.mark.parametrize("name", COORDINATEWISE + SELECTING)
def test_definition_for_every_admissible_f(name):
    rng = np.random.default_rng(2)
    for n in range(1, 11):
        for f in range((n + 1) // 2):
            assert_by_definition(name, oracles.generic(rng, n, f, 3), f)


@pytest.mark.parametrize("name", [*COORDINATEWISE, "krum", "multi_krum", "monna"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_definition_on_both_sides_of_25_clients(name, dtype):
    rng = np.random.default_rng(3)
    for n in (24, 25, 26, 31):
        assert_by_definition(name, oracles.generic(rng, n, n // 4, 50) + 1e4, n // 4, dtype)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bulyan(cloud, dtype):
    rng = np.random.default_rng(4)
    for n, f, d in ((3, 0, 2), (7, 1, 3), (8, 1, 4), (11, 2, 3)):
        if cloud in ("tied", "duplicated", "line") and n > 8:
            continue  # the oracle follows every way to break ties
        assert_by_definition("bulyan", CLOUDS[cloud](rng, n, f, d), f, dtype)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nnm(cloud, dtype):
    rng = np.random.default_rng(5)
    for n, f, d in SIZES:
        updates, exact = as_dtype(CLOUDS[cloud](rng, n, f, d), dtype)
        mixed = aggregators.nnm(updates, f=f)
        assert mixed.dtype == updates.dtype
        admitted = oracles.nnm(exact, f, tie=1e-9 if dtype == "float64" else 1e-5)
        for row, outcomes in zip(to_float64(mixed), admitted, strict=True):
            tolerance = min(np.abs(outcome).max() for outcome in outcomes) * 8 * n * EPS[dtype]
            assert any(matches(row, outcome, tolerance) for outcome in outcomes)


@pytest.mark.parametrize("name", ["caf", "dnc"])
@pytest.mark.parametrize("cloud", ["generic", "offset_1e4", "tiny", "huge"])
def test_spectral(name, cloud):
    rng = np.random.default_rng(6)
    for n, f, d in SIZES:
        assert_by_definition(name, CLOUDS[cloud](rng, n, f, d), f)


@pytest.mark.parametrize("convention", ["midpoint", "lower"])
def test_median_conventions(convention):
    rng = np.random.default_rng(7)
    for n in (3, 4, 9, 10, 30):
        assert_by_definition("coordinate_median", oracles.generic(rng, n, 1, 5), 1, convention=convention)


@pytest.mark.parametrize("neighbours", ["n-f-1", "n-f-2"])
@pytest.mark.parametrize("m", [1, 2, 4])
def test_krum_conventions(neighbours, m):
    rng = np.random.default_rng(8)
    for n, f in ((7, 2), (9, 2), (9, 3)):
        x = oracles.generic(rng, n, f, 4)
        assert_by_definition("krum", x, f, neighbours=neighbours)
        assert_by_definition("multi_krum", x, f, m=m, neighbours=neighbours)


def test_rules_without_adversary_are_the_mean_where_they_claim_it():
    x = oracles.generic(np.random.default_rng(9), 8, 0, 5)
    for rule in aggregators.ALL.values():
        if "mean" in rule.symmetries:
            np.testing.assert_allclose(rule(x), x.mean(axis=0), rtol=1e-13, err_msg=rule.name)


@pytest.mark.parametrize("previous", [None, np.linspace(-1, 1, 4)])
@pytest.mark.parametrize("iterations", [1, 5])
def test_centered_clipping(previous, iterations):
    x = oracles.generic(np.random.default_rng(10), 9, 2, 4)
    given = {} if previous is None else {"previous": previous}
    assert_by_definition("centered_clipping", x, 2, tau=1.5, iterations=iterations, **given)


def test_clipping_and_norm_clipping():
    x = oracles.generic(np.random.default_rng(11), 7, 2, 4)
    clipped = oracles.clip(x, 2.0)
    np.testing.assert_allclose(aggregators.clipping(x, f=2, radius=2.0), clipped, rtol=1e-14)
    np.testing.assert_allclose(aggregators.norm_clipping(x, f=2, radius=2.0), clipped.mean(axis=0), rtol=1e-13)


def test_arc():
    for n, f in ((5, 2), (8, 3), (10, 2), (10, 0), (12, 5)):
        x = oracles.generic(np.random.default_rng(n), n, f, 4)
        np.testing.assert_allclose(aggregators.arc(x, f=f), oracles.arc(x, f), rtol=1e-14)


def test_bucketing():
    x = oracles.generic(np.random.default_rng(12), 10, 1, 4)
    order = np.random.default_rng(7).permutation(10)
    buckets = aggregators.bucketing(x, f=1, size=3, rng=np.random.default_rng(7))
    assert buckets.shape == (4, 4)
    expected = [x[order[i : i + 3]].mean(axis=0) for i in range(0, 10, 3)]
    np.testing.assert_allclose(buckets, expected, rtol=1e-13)
    np.testing.assert_array_equal(aggregators.bucketing(x, f=1), aggregators.bucketing(x, f=1))


def test_fltrust():
    x = oracles.generic(np.random.default_rng(13), 9, 3, 6)
    root = x[5:].mean(axis=0)
    assert_by_definition("fltrust", x, 3, root=root)
    np.testing.assert_array_equal(aggregators.fltrust(-np.abs(x), f=3, root=np.ones(6)), np.zeros(6))
    result = aggregators.fltrust(x * 1e200, f=3, root=root)
    assert np.linalg.norm(result) <= np.linalg.norm(root) * (1 + 1e-12)


def test_foolsgold():
    rng = np.random.default_rng(14)
    x = rng.normal(size=(8, 20))
    x[:3] = x[0] + 1e-3 * rng.normal(size=(3, 20))  # sybils
    assert_by_definition("foolsgold", x, 3)
    assert_by_definition("foolsgold", rng.normal(size=(8, 20)), 3, history=x)
    assert abs(aggregators.foolsgold(x, f=3) @ x[0]) < 0.3 * abs(x.mean(axis=0) @ x[0])
    np.testing.assert_array_equal(aggregators.foolsgold(np.ones((4, 3)), f=1), np.zeros(3))


def test_signguard_keeps_the_plausible():
    rng = np.random.default_rng(15)
    x = 1 + 0.3 * rng.normal(size=(10, 500))
    x[0], x[1], x[2] = -x[0], 100 * x[1], 0.001 * x[2]  # wrong signs; too long; too short
    median = np.median(np.linalg.norm(x, axis=1))
    result = aggregators.signguard(x, f=3)
    np.testing.assert_allclose(result, oracles.clip(x[3:], median).mean(axis=0), rtol=1e-12)
    assert np.linalg.norm(result) <= median


def test_signguard_with_equal_signs_in_each_half():
    x = np.ones((6, 40))
    x[3:] *= -1
    assert abs(aggregators.signguard(x, f=2)[0]) == 1


def test_flame_keeps_the_majority_by_angle():
    rng = np.random.default_rng(16)
    x = 1 + 0.3 * rng.normal(size=(9, 50))
    x[:3] = -x[:3] * rng.uniform(1, 5, size=(3, 1))
    x[5] *= 10
    lengths = np.linalg.norm(x, axis=1)
    quiet = aggregators.flame(x, f=3, noise=0.0)
    clipped = oracles.clip(x, np.median(lengths))
    honest = [list(rows) for size in (5, 6) for rows in combinations(range(3, 9), size)]  # HDBSCAN may call one of them noise
    assert any(np.allclose(quiet, clipped[rows].mean(axis=0), rtol=1e-12) for rows in honest)
    noisy = aggregators.flame(x, f=3, noise=0.01, rng=np.random.default_rng(1))
    np.testing.assert_allclose(
        noisy - quiet, np.random.default_rng(1).standard_normal(50) * 0.01 * np.median(lengths), rtol=1e-6
    )
    np.testing.assert_array_equal(aggregators.flame(x, f=3), aggregators.flame(x, f=3))


def test_dnc_draws_coordinates_and_intersects():
    rng = np.random.default_rng(17)
    x = rng.normal(size=(10, 60))
    x[:2] += 20
    result = aggregators.dnc(x, f=2, coordinates=20, iterations=2, rng=np.random.default_rng(0))
    np.testing.assert_allclose(result, x[2:].mean(axis=0), rtol=1e-12)
    with pytest.raises(ValueError, match="n >= 11"):
        aggregators.dnc(x, f=2, iterations=5)


def test_exact_searches_say_when_they_are_too_long():
    x = np.random.default_rng(18).normal(size=(30, 3))
    for rule in (aggregators.minimum_variance, aggregators.smea):
        with pytest.raises(ValueError, match=r"C\(30, 10\) = 30045015"):
            rule(x, f=10)
    with pytest.raises(ValueError, match="max_nodes=3"):
        aggregators.minimum_diameter(x, f=10, max_nodes=3)
