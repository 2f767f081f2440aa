"""The corpus covers what DESIGN asks for, is deterministic, and every round is what its tags say."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from sound import SOUND

from pytest_fl import Round, rounds, verify
from pytest_fl.engine.shrink import shrink
from pytest_fl.inputs import corpus
from pytest_fl.inputs.clouds import CLOUDS
from pytest_fl.inputs.colluders import COLLUDERS
from pytest_fl.inputs.strategies import unanimous
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Rule
from pytest_fl.subjects.profiles import PROFILES, profile_named
from pytest_fl.subjects.subject import Subject

FAMILIES = [
    corpus.unanimous, corpus.many_clients, corpus.many_coordinates, corpus.clouds_and_colluders, corpus.generic,
    corpus.huge_outliers, corpus.every_scale, corpus.far_from_origin, corpus.non_finite, corpus.no_attackers,
]  # fmt: skip


def rule(**claims):
    return Rule(Subject("sorted", SOUND["trimmed_mean_by_sort"][0], **claims))


def family(function, profile="default", **claims):
    return list(islice(function(rule(**claims), profile_named(profile)), 3000))


@pytest.mark.parametrize("function", FAMILIES)
def test_rounds_are_well_formed(function):
    found = family(function)
    assert found
    for round_ in found:
        assert len(round_.byzantine) == round_.f <= (round_.n - 1) // 2 or round_.f == 0
        assert set(round_.byzantine) <= set(range(round_.n))
        assert np.isfinite(round_.updates).all() or "non_finite" in round_.tags
        assert np.isfinite(round_.honest).all()
        assert round_.origin


@pytest.mark.parametrize("function", FAMILIES)
def test_the_same_seed_gives_the_same_rounds(function):
    for one, other in zip(family(function, "quick"), family(function, "quick"), strict=True):
        np.testing.assert_array_equal(one.updates, other.updates)


def test_every_plot_cloud_position_and_f_is_met():
    origins = " ".join(round_.origin for function in FAMILIES for round_ in family(function))
    assert [name for name in (*CLOUDS, *COLLUDERS, *corpus.POSITIONS) if name not in origins] == []
    pairs = {(round_.n, round_.f) for round_ in family(corpus.unanimous)}
    assert {n for n, _ in pairs} == set(range(3, 13))
    assert all((n, (n - 1) // 2) in pairs and (n, 1) in pairs for n in range(3, 13))


def test_dimensions_and_magnitudes_are_covered():
    everything = [round_ for function in FAMILIES for round_ in family(function)]
    assert {1, 2, 3, 17, 63, 64, 65, 127, 1000, 4097, 70_000} <= {round_.d for round_ in everything}
    assert {3, 25, 26, 31, 40} <= {round_.n for round_ in everything}
    sizes = [float(np.abs(round_.honest).max()) for round_ in family(corpus.every_scale)]
    assert min(size for size in sizes if size) < 1e-29
    assert max(sizes) > 1e29
    assert max(float(np.abs(round_.updates).max()) for round_ in family(corpus.huge_outliers)) == np.finfo(float).max
    assert {"float32", "float64"} == {round_.updates.dtype.name for round_ in everything}


def test_truncated_fractions_truncate():
    from pytest_fl.subjects.grid import TRUNCATED

    assert all(int(f / n * n) == f - 1 or int(round(f / n, 2) * n) == f - 1 for n, f in TRUNCATED)
    assert {(round_.n, round_.f) for round_ in family(corpus.many_clients, "thorough")} >= set(TRUNCATED)


def test_a_rule_is_tried_where_it_says_it_works():
    found = grid(rule(min_clients=lambda f: 4 * f + 3))
    assert all(n >= 4 * f + 3 for n, f in (*found.small, *found.large, *found.truncated))


def test_a_refusal_of_n_is_respected_where_nobody_said_what_it_needs():
    def needs_more(updates, f):
        if len(updates) < 2 * f + 3:
            raise ValueError("n >= 2f + 3")
        return updates[0]

    found = grid(Rule(Subject("needs more", needs_more)))
    assert all(n >= 2 * f + 3 for n, f in found.small)
    assert (5, 1) in found.small


def test_a_combinatorial_rule_is_not_asked_for_forty_clients():
    found = grid(Rule(Subject("subsets", SOUND["minimum_diameter"][0])))
    assert max(n for n, f in (*found.small, *found.large) if f == (n - 1) // 2) < 25
    assert "subsets of f" in found.note


def test_a_round_is_saved_and_loaded(tmp_path):
    (round_,) = islice(corpus.unanimous(rule(), PROFILES["quick"]), 1)
    round_.save(tmp_path / "round.npz", check="exactness")
    loaded, facts = Round.load(tmp_path / "round.npz")
    np.testing.assert_array_equal(loaded.updates, round_.updates)
    assert (loaded.f, loaded.byzantine, loaded.origin, loaded.tags) == (round_.f, round_.byzantine, round_.origin, round_.tags)
    assert facts == {"check": "exactness"}
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(ValueError, match="expected a round saved by pytest-fl .* it lacks byzantine"):
        Round.load(tmp_path / "other.npz")


@given(rounds())
@settings(max_examples=60, deadline=None)
def test_the_strategy_gives_rounds(round_):
    assert round_.updates.shape == (round_.n, round_.d)
    assert len(round_.byzantine) == round_.f
    assert np.isfinite(round_.updates).all()


@given(unanimous())
@settings(max_examples=40, deadline=None)
def test_unanimous_rounds_are_unanimous(round_):
    assert (round_.honest == round_.honest[0]).all()


def test_shrinking_ends_at_the_smallest_failing_round():
    rng = np.random.default_rng(0)
    start = Round(rng.standard_normal((11, 40)), 5, (0, 2, 4, 6, 8), "start")
    small = shrink(start, lambda round_: bool((round_.updates > 0).any()), lambda n, f: n >= 2 * f + 1)
    assert (small.n, small.f, small.d) == (3, 1, 1)
    assert np.count_nonzero(small.updates) == 1
    assert small.updates.max() == 1


def test_a_rule_that_needs_more_than_forty_clients_is_tried_all_the_same():
    def one_sided(updates, f):
        return np.sort(updates, axis=0)[: len(updates) - f].mean(axis=0)

    claims = {"min_clients": lambda f: 40 * f + 5, "profile": "quick", "checks": ["exactness", "huge_outliers"]}
    assert {row.outcome for row in verify(one_sided, **claims).rows} == {"failed"}
    assert {row.outcome for row in verify(lambda updates, f: np.median(updates, axis=0), **claims).rows} == {"passed"}
