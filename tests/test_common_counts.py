"""How many clients a fraction is, exactly; and how many attackers a sample may hold."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_impl.common.counts import excess_probabilities, excess_probability, floor_of, read_fraction, tolerated


@pytest.mark.parametrize(
    ("fraction", "n", "f"),
    [
        (143 / 1003, 1003, 143),  # was 142: the denominator is above 1000
        (0.3, 10, 3), (0.29, 100, 29), (0.57, 100, 57), (1 / 3, 3, 1), (2 / 3, 9, 6), (0.1, 30, 3), (0.7, 10, 7),
        (0.0, 5, 0), (0.2, 4, 0), (0.29999999, 10, 2), (0.3, 0, 0), (Fraction(143, 1003), 1003, 143), (1.0, 7, 7),
    ],
)  # fmt: skip
def test_a_fraction_of_the_clients_is_floored_exactly(fraction: float, n: int, f: int) -> None:
    assert floor_of(fraction, n) == f


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 1000))
def test_no_quotient_loses_a_client_to_rounding(p: int, q: int, m: int) -> None:
    p = p % (q + 1)
    assert floor_of(p / q, q * m) == p * m
    assert floor_of(p / q, m) == p * m // q


@given(st.decimals(0, 1, places=6), st.integers(1, 10**6))
def test_no_decimal_does_either(fraction: float, n: int) -> None:
    assert floor_of(float(fraction), n) == Fraction(fraction) * n // 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("1/3", 1 / 3), (" 0.3 ", 0.3), ("143/1003", 143 / 1003), (0.2, 0.2), (Fraction(1, 3), 1 / 3), (None, None)],
)
def test_fractions_are_read_as_people_write_them(text: object, value: object) -> None:
    assert read_fraction(text) == value


@pytest.mark.parametrize("text", ["1/0", "a third", "1/3/5", "", "1.5/3", "1" * 400 + "/1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a number such as 0.3, or 1/3; got "):
        read_fraction(text)


def test_the_chance_that_a_sample_holds_more_is_the_hypergeometric_tail() -> None:
    # 20 clients, 4 attackers, samples of 10: P(3) + P(4) = (4 C(16,7) + C(16,6)) / C(20,10) = 0.291
    exact = Fraction(4 * comb(16, 7) + comb(16, 6), comb(20, 10))
    assert excess_probability(20, 4, 10, 2) == pytest.approx(float(exact), rel=1e-12)
    assert excess_probability(20, 4, 10, 4) == 0
    assert excess_probability(20, 4, 10, -1) == 1
    rng = np.random.default_rng(0)
    drawn = [sum(rng.permutation(20)[:10] < 4) for _ in range(4000)]
    assert np.mean(np.array(drawn) > 2) == pytest.approx(float(exact), abs=0.03)


@given(st.data())
def test_tails_are_exact(data: st.DataObject) -> None:
    population = data.draw(st.integers(1, 60))
    attackers, sample = data.draw(st.integers(0, population)), data.draw(st.integers(0, population))
    tails = excess_probabilities(population, attackers, sample)
    assert len(tails) == min(attackers, sample) + 1
    for f, tail in enumerate(tails):
        ways = sum(
            comb(attackers, k) * comb(population - attackers, sample - k) for k in range(f + 1, attackers + 1) if k <= sample
        )
        assert tail == pytest.approx(ways / comb(population, sample), rel=1e-9, abs=1e-300)


@given(st.integers(2, 2000), st.floats(0, 0.49), st.floats(0.01, 1), st.sampled_from([0.0, 1e-9, 1e-3, 0.2, 0.9]))
def test_f_of_a_sample_keeps_the_tolerance_and_is_the_least_that_does(
    population: int, fraction: float, share: float, tolerance: float
) -> None:
    asked = max(1, floor_of(share, population))
    attackers, promised = floor_of(fraction, population), floor_of(fraction, asked)
    f = tolerated(fraction, asked, population, tolerance)
    assert f >= promised
    assert excess_probability(population, attackers, asked, f) <= tolerance
    if f > promised:
        assert excess_probability(population, attackers, asked, f - 1) > tolerance


def test_without_sampling_or_a_tolerance_f_is_the_promise() -> None:
    assert tolerated(0.3, 10, 10, 1e-9) == tolerated(0.3, 10, 20) == tolerated(0.3, 10) == 3
    assert tolerated(0.2, 10, 20, 0.0) == 4  # all attackers may be in the sample
    with pytest.raises(ValueError, match="from 0 to population=5, got 6 and 2"):
        excess_probabilities(5, 6, 2)
