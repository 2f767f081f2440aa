"""Selection networks, proved by the 0-1 principle: on all inputs of zeros and ones."""

import numpy as np
import pytest

from fl_impl.aggregators.kernels.formulas import RankMean, mean
from fl_impl.aggregators.kernels.networks import Comparator, selection_network, sorting_network

EXHAUSTIVE = range(1, 14)


def zeros_and_ones(n):
    """(n, 2^n): every vector of zeros and ones, a column each."""
    return (np.arange(2**n) >> np.arange(n)[:, None] & 1).astype(np.int8)


def run(network, values):
    """The places after the exchanges; what is not kept is made visible as -9, so that reading it is an error."""
    places = list(values)
    for low, high, keep_low, keep_high in network:
        a, b = places[low], places[high]
        places[low] = np.minimum(a, b) if keep_low else np.full_like(a, -9)
        places[high] = np.maximum(a, b) if keep_high else np.full_like(a, -9)
    return np.array(places)


@pytest.mark.parametrize("n", EXHAUSTIVE)
def test_sorting_network_sorts_all_zeros_and_ones(n):
    inputs = zeros_and_ones(n)
    assert (run(sorting_network(n), inputs) == np.sort(inputs, axis=0)).all()


@pytest.mark.parametrize("n", EXHAUSTIVE)
def test_every_window_of_ranks_is_selected_from_all_zeros_and_ones(n):
    inputs = zeros_and_ones(n)
    ordered = np.sort(inputs, axis=0)
    for low in range(n):
        for high in range(low + 1, n + 1):
            classes = tuple("window" if low <= place < high else None for place in range(n))
            found = run(selection_network(classes), inputs)[low:high]
            assert (np.sort(found, axis=0) == ordered[low:high]).all(), (low, high)


@pytest.mark.parametrize("n", range(3, 12))
def test_classes_of_single_places_beside_an_inner_class(n):
    """What MeaMed and Phocas need: f single places at either end, and the inner ones in two classes."""
    inputs = zeros_and_ones(n)
    ordered = np.sort(inputs, axis=0)
    for f in range((n + 1) // 2):
        middle = (n - 1) // 2
        classes = tuple(("inner", middle <= place <= n // 2) if f <= place < n - f else place for place in range(n))
        found = run(selection_network(classes), inputs)
        for name in set(classes):
            places = [place for place, of in enumerate(classes) if of == name]
            assert (np.sort(found[places], axis=0) == ordered[places]).all(), (f, name)


@pytest.mark.parametrize("n", [20, 33, 50, 64, 100, 129])
def test_larger_networks_sort_random_zeros_and_ones_and_permutations(n):
    rng = np.random.default_rng(n)
    permutations = rng.permuted(np.tile(np.arange(n), (500, 1)), axis=1).T
    inputs = np.concatenate([rng.random((n, 3000)) < rng.random(3000), permutations], axis=1).astype(np.int16)
    assert (run(sorting_network(n), inputs) == np.sort(inputs, axis=0)).all()


@pytest.mark.parametrize(
    ("n", "low", "high", "exchanges"), [(20, 9, 11, 81), (20, 4, 16, 88), (50, 24, 26, 328), (100, 20, 80, 924)]
)
def test_pruning_leaves_no_more_exchanges_than_measured(n, low, high, exchanges):
    classes = tuple("window" if low <= place < high else None for place in range(n))
    assert len(selection_network(classes)) == exchanges < len(sorting_network(n))


def test_an_exchange_that_nobody_reads_is_dropped():
    assert selection_network((None, None, None)) == ()
    assert selection_network(("all",) * 8) == ()
    assert selection_network((None, None, "largest"))[-1] == Comparator(1, 2, keep_low=False)


class Exact:
    """`formulas.Operations` on Python fractions of one column."""

    dtype = "float64"
    minimum, maximum = staticmethod(min), staticmethod(max)

    def widen(self, value):
        return value

    narrow = widen

    def choose(self, mask, yes, no):
        return yes if mask else no

    def arrange(self, values, classes):
        del classes
        return sorted(values)


def test_formulas_run_on_any_values():
    assert RankMean(1, 3)(Exact(), [4, 1, 9, 2]) == 3
    assert mean(Exact(), [1, 2, 3, 4, 5]) == 3
