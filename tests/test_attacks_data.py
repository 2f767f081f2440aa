"""Attacks on data and on the protocol."""

from __future__ import annotations

import numpy as np
import pytest

from fl_impl.attacks import ALL, resolve
from fl_impl.clients import ClientUpdate
from fl_impl.data import Dataset, load

DIGITS = load("digits")


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.mark.parametrize("name", ["label_flip", "random_label", "backdoor", "edge_case"])
def test_poisoning_leaves_the_original_alone_and_is_deterministic(name: str) -> None:
    x, y = DIGITS.x.copy(), DIGITS.y.copy()
    first, second = ALL[name](DIGITS, rng()), ALL[name](DIGITS, rng())
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.y, second.y)
    np.testing.assert_array_equal(DIGITS.x, x)
    np.testing.assert_array_equal(DIGITS.y, y)
    assert (first.x.dtype, first.y.dtype) == (np.float32, np.int64)
    assert 0 <= first.y.min() <= first.y.max() < 10


def test_label_flip_conventions() -> None:
    np.testing.assert_array_equal(ALL["label_flip"](DIGITS, rng()).y, 9 - DIGITS.y)
    targeted = resolve("label_flip(source=2, target=7)")(DIGITS, rng()).y
    np.testing.assert_array_equal(targeted, np.where(DIGITS.y == 2, 7, DIGITS.y))
    aim = resolve("label_flip(source=2, target=7)").aim(DIGITS, rng())
    assert aim is not None
    assert set(aim.y) == {7}
    assert len(aim) == int((DIGITS.y == 2).sum())


def test_random_labels_are_uniform() -> None:
    counts = np.bincount(ALL["random_label"](DIGITS, rng()).y, minlength=10)
    expected = len(DIGITS) / 10
    assert ((counts - expected) ** 2 / expected).sum() < 33.7  # chi squared, 9 degrees of freedom, 1e-4
    assert ALL["random_label"].aim(DIGITS, rng()) is None


def test_backdoor_stamps_a_share_and_aims_at_the_rest() -> None:
    poisoned = resolve("backdoor(target=3, share=0.25, size=2)")(DIGITS, rng())
    corner = poisoned.x.reshape(-1, 8, 8)[:, :2, :2]
    stamped = (corner == 1.0).all(axis=(1, 2))
    assert stamped.sum() >= round(0.25 * len(DIGITS))
    assert (poisoned.y[stamped] == 3).mean() > 0.99
    aim = resolve("backdoor(target=3)").aim(DIGITS, rng())
    assert aim is not None
    assert set(aim.y) == {3}
    assert len(aim) == int((DIGITS.y != 3).sum())
    assert (aim.x.reshape(-1, 8, 8)[:, :2, :2] == 1.0).all()


def test_backdoor_on_tables_sets_the_first_features() -> None:
    wine = load("wine")
    aim = ALL["backdoor"].aim(wine, rng())
    assert aim is not None
    assert (aim.x[:, :2] == wine.x.max()).all()


def test_edge_case_copies_the_least_typical_of_a_class() -> None:
    poisoned = resolve("edge_case(source=7, target=1, share=0.1, copies=3)")(DIGITS, rng())
    added = len(poisoned) - len(DIGITS)
    assert added == 3 * round(0.1 * int((DIGITS.y == 7).sum()))
    assert set(poisoned.y[len(DIGITS) :]) == {1}
    alone = resolve("edge_case(mode='replace')")(DIGITS, rng())
    assert set(alone.y) == {1}
    without = DIGITS.take(np.flatnonzero(DIGITS.y != 7))
    assert ALL["edge_case"](without, rng()) is without


def test_labels_are_checked() -> None:
    regression = Dataset(np.zeros((3, 2), np.float32), np.zeros(3, np.float32), 0, name="prices")
    with pytest.raises(ValueError, match="regression"):
        ALL["label_flip"](regression, rng())
    with pytest.raises(ValueError, match="label from 0 to 9"):
        resolve("backdoor(target=11)")(DIGITS, rng())


def update(value: float = 1.0) -> ClientUpdate:
    return ClientUpdate(np.full(3, value, np.float32), 20, 0.5, client=4)


def test_protocol_attacks() -> None:
    assert ALL["inflated_count"](update(), rng()).num_samples == 10**9
    assert ALL["drop_out"](update(), rng()) is None
    assert resolve("drop_out(probability=0)")(update(), rng()) is not None


def test_stale_sends_what_is_delay_rounds_old() -> None:
    memory: dict[str, np.ndarray] = {}
    sent = [resolve("stale(delay=2)").tamper(update(float(t)), rng(), memory=memory).delta[0] for t in range(6)]
    assert sent == [0, 0, 0, 1, 2, 3]
