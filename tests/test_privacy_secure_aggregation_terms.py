"""What a session of secure aggregation is agreed on: noise, neighbours, terms, rounding, weights, a bound near the updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_privacy_secure_aggregation import N, Session, assert_sum, terms, updates

from fl_impl.privacy import seeded
from fl_impl.privacy.secure_aggregation import (
    SecureAggregationError,
    Terms,
    near_bound,
    secure_sum,
    secure_weighted_mean,
)
from fl_impl.privacy.secure_aggregation.graph import largest_cut


@pytest.mark.parametrize("lost", [0, 3])
def test_distributed_noise_has_at_least_the_deviation_that_was_agreed(lost):
    d = 40_000
    agreed = terms(d=d, noise_std=5.0)
    x = {i: np.zeros(d) for i in range(N)}
    result = secure_sum(x, agreed, network=lambda at, i, m: None if at == "mask" and i < lost else m, randomness=seeded(lost))
    expected = 5.0 * math.sqrt((N - lost) / agreed.honest)
    assert abs(np.mean(result.total**2) / expected**2 - 1) < 6 * math.sqrt(2 / d)
    assert expected * math.sqrt((N - lost - agreed.corrupt) / (N - lost)) >= 5.0 - 1e-9, "the corrupt take theirs off"


def test_sixty_clients_on_a_graph_of_neighbours():
    x, agreed = updates(60, 25), Terms(60, 25, 1.0, 10, 6)
    assert agreed.degree < 40
    lost = {1, 5, 7, 30, 59}
    result = secure_sum(x, agreed, network=lambda at, i, m: None if at == "mask" and i in lost else m)
    assert_sum(result, x, agreed, set(x) - lost)


def test_the_server_keeps_the_order_of_stages():
    session = Session()
    with pytest.raises(SecureAggregationError, match="its next step is roster"):
        session.server.survivors({})


@pytest.mark.parametrize(
    ("clients", "dropouts", "corrupt", "words"),
    [
        (2, 1, 0, "must remain"),
        (10, 5, 1, "must remain"),
        (10, -1, 1, "must remain"),
        (20, 9, 2, "only the 2 corrupt ones in common"),
        (1, 0, 0, "expected 2 to"),
        (20, 2, 1, "a tenth of corrupt"),
        (2, 0, 1, "is the update of one: at least two honest"),
    ],
)
def test_terms_that_protect_nobody(clients, dropouts, corrupt, words):
    with pytest.raises(SecureAggregationError, match=words):
        Terms(clients, 4, 1.0, dropouts, corrupt).checked()


def test_agreed_terms_are_always_safe():
    for n in (*range(2, 70), 200):
        agreed = Terms.agreed(clients=n, length=1, bound=1.0)
        assert agreed.honest >= max(2, n // 2)
        assert agreed.threshold > max(1, agreed.corrupt)
    assert Terms.agreed(clients=5, length=1, bound=1.0, corrupt=1).dropouts == 1


def test_rounding_is_right_on_average():
    entries = np.repeat([1e-7, -1e-7, 3e-3, 1.0], 20_000)
    grid = Terms.agreed(clients=100, length=1, bound=1.0).encoding
    drawn = grid.rounded(entries, seeded(0)) * grid.step
    assert np.abs(drawn - entries).max() < grid.step
    off = (drawn - entries).reshape(4, -1).mean(axis=1)
    assert np.abs(off).max() < 6 * grid.step / 2 / math.sqrt(20_000)


def test_a_weighted_mean_of_those_who_stay():
    x, agreed, weights = updates(), terms(), dict(enumerate([0, 1, 5, 2, 2, 3, 100, 7, 1, 1]))
    mean = secure_weighted_mean(x, weights, agreed, most=100, network=lambda at, i, m: None if (at, i) == ("mask", 3) else m)
    stay = [i for i in x if i != 3]
    expected = np.average([x[i] for i in stay], axis=0, weights=[weights[i] for i in stay])
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    with pytest.raises(ValueError, match="the weight of client 6 must lie between 0 and 50; got 100"):
        secure_weighted_mean(x, weights, agreed, most=50)
    with pytest.raises(ValueError, match="all weights of a secure weighted mean are 0"):
        secure_weighted_mean(x, dict.fromkeys(x, 0), agreed, most=50)


@pytest.mark.parametrize(("peak", "expected"), [(100.0, 100.0), (60.0, 100.0), (3e-5, 100 * 2.0**-21), (0.0, 100 * 2.0**-64)])
def test_a_bound_near_the_updates(peak, expected):
    x = {i: np.array([0.0, -peak, peak / 3]) for i in range(5)}
    bound, sent = near_bound(x, 100.0)
    assert bound == expected
    assert bound >= peak
    assert sent > 0


def test_clients_that_a_lying_server_can_cut_off_are_not_promised():
    """At n = 1000 some honest clients have no more neighbours than may leave; no set beyond `largest_cut` is found so."""
    agreed = Terms.agreed(clients=1000, length=1, bound=1.0)
    cut = agreed.minimum - agreed.corrupt - agreed.honest
    assert cut == largest_cut(1000, agreed.dropouts, agreed.corrupt, agreed.degree) == 3
    rng, honest = np.random.default_rng(0), 1000 - agreed.corrupt
    linked = np.zeros((1000, 1000), bool)
    for i in range(1000):
        linked[i, rng.choice(np.delete(np.arange(1000), i), agreed.degree, replace=False)] = True
    linked = (linked | linked.T)[:honest, :honest]
    lonely = np.argsort(linked.sum(1))
    assert linked[lonely[0]].sum() <= agreed.dropouts
    for first in lonely[:50]:  # grown by whoever brings the fewest new neighbours
        group = [first]
        while len(group) <= cut:
            around = linked[group].any(0)
            new = (linked & ~around).sum(1) - around
            new[group] = 1000
            group.append(int(new.argmin()))
        around = linked[group].any(0)
        around[group] = False
        assert around.sum() > agreed.dropouts
    assert largest_cut(40, 10, 4, 39) == 0
