"""R15: a mean of exactly representable values is exact: the sum, then one division."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_impl.aggregators import ALL, resolve

ROTATES = {"principal_trimmed_mean"}
"""Takes its means along principal directions and turns them back, which rounds: equal to the mean to 1e-12, not to the bit."""
MEANS = sorted(name for name, rule in ALL.items() if "mean" in rule.symmetries and name not in ROTATES)
NUMBERS = st.integers(-(2**20), 2**20)


def test_the_mean_of_1_4_7_is_4() -> None:
    rows = np.array([[1.0], [4.0], [7.0]])
    for name in (*MEANS, "centered_clipping", "norm_clipping(radius=100.0)"):
        assert resolve(name)(rows, f=0).tolist() == [4.0], name
    assert resolve("centered_clipping")(rows, f=0, previous=np.array([2.0])).tolist() == [4.0]


@pytest.mark.parametrize("name", [*MEANS, "centered_clipping(tau=1e9)", "norm_clipping(radius=1e9)"])
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=20))
def test_rules_that_end_in_a_mean_round_once(name: str, rows: list[tuple[int, int]]) -> None:
    x = np.array(rows, np.float64)
    np.testing.assert_array_equal(resolve(name)(x, f=0), x.sum(axis=0) / len(x))


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.float32, torch.float64])
@given(st.lists(st.tuples(st.integers(-1000, 1000), st.integers(1, 1000)), min_size=1, max_size=12))
def test_a_weighted_mean_of_small_numbers_and_counts_is_exact(kind: Any, pairs: list[tuple[int, int]]) -> None:
    values, counts = np.array(pairs, np.float64).T
    exact = (values @ counts) / counts.sum()
    rows = torch.tensor(values[:, None], dtype=kind) if isinstance(kind, torch.dtype) else values[:, None].astype(kind)
    got = ALL["mean"](rows, weights=counts)
    assert float(got[0]) == float(
        np.asarray(exact, str(kind).removeprefix("torch.") if isinstance(kind, torch.dtype) else kind)
    )


@pytest.mark.parametrize("size", [1e308, 1e-300, 3e38])
def test_no_sum_overflows_on_the_way(size: float) -> None:
    rows = np.full((7, 3), size)
    np.testing.assert_allclose(ALL["mean"](rows), rows[0], rtol=1e-15)
    np.testing.assert_allclose(ALL["mean"](rows, weights=np.full(7, 1e308)), rows[0], rtol=1e-15)
    if size == 3e38:
        np.testing.assert_allclose(ALL["mean"](rows.astype(np.float32)), rows[0].astype(np.float32), rtol=1e-6)
