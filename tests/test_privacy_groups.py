"""Secure sums of groups under a robust rule, and which parts of a run go together."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from fl_impl.compression import resolve
from fl_impl.privacy import MECHANISMS
from fl_impl.privacy.combinations import check_combination
from fl_impl.privacy.groups import deal, group_sizes, grouped_secure_aggregate


def trimmed_mean(updates, f):
    return np.sort(updates, axis=0)[f : len(updates) - f].mean(axis=0)


def plain_mean(rows, f):
    return rows.mean(axis=0) if f == 0 else None


def without_7(stage, client, message):
    return None if stage == "mask" and client == 7 else message


def updates(n=24, d=6, f=2, lie=1.0):
    x = 0.02 * np.random.default_rng(0).standard_normal((n, d)) + 0.1
    x[:f] = lie
    return x


@pytest.mark.parametrize("group_size", [2, 3])
def test_a_lying_client_spoils_its_own_group_only(group_size):
    x = updates()
    found = grouped_secure_aggregate(x, f=2, rule=trimmed_mean, group_size=group_size, bound=1.0, rng=np.random.default_rng(1))
    assert np.abs(found.value - x[2:].mean(axis=0)).max() < 0.02
    assert np.abs(x.mean(axis=0) - x[2:].mean(axis=0)).max() > 0.06
    assert found.bytes_up > 4 * x.size
    assert sorted(itertools.chain(*found.groups)) == list(range(24))


def test_without_attackers_the_mean_of_group_means():
    x = updates(f=0)
    found = grouped_secure_aggregate(x, f=0, rule=plain_mean, group_size=4, bound=1.0, rng=np.random.default_rng(1))
    np.testing.assert_allclose(found.value, x.mean(axis=0), atol=1e-6)


def test_a_group_that_aborts_is_lost_and_the_rest_goes_on():
    x = updates()
    rng = np.random.default_rng(1)
    found = grouped_secure_aggregate(x, f=2, rule=trimmed_mean, group_size=2, bound=1.0, rng=rng, network=without_7)
    assert [number for number, members in enumerate(found.groups) if 7 in members] == list(found.lost)
    assert np.abs(found.value - x[2:].mean(axis=0)).max() < 0.02


def test_too_few_groups_left():
    with pytest.raises(ValueError, match=r"8 groups of which 1 were lost make 7 groups.*4 f = 8"):
        grouped_secure_aggregate(
            updates(), f=2, rule=trimmed_mean, group_size=3, bound=1.0, rng=np.random.default_rng(1),
            network=without_7,
        )  # fmt: skip


def test_too_few_groups_says_the_arithmetic():
    message = r"n=20 clients in groups of 5 make 4 groups, and f=2 .* at least 4 f = 8 are needed.*groups smaller"
    with pytest.raises(ValueError, match=message):
        deal(20, f=2, group_size=5, rng=np.random.default_rng(0))
    assert list(group_sizes(20, 2)) == [2]
    assert list(group_sizes(15, 2)) == []


def test_a_group_of_one_hides_nothing():
    with pytest.raises(ValueError, match="a group of one has no sum to hide in"):
        deal(20, f=0, group_size=1, rng=np.random.default_rng(0))


def test_groups_are_dealt_anew_and_evenly():
    first, second = (deal(23, f=1, group_size=4, rng=np.random.default_rng(seed)) for seed in (0, 1))
    assert first != second
    assert sorted(map(len, first)) == [4, 4, 5, 5, 5]


RULES = {"mean": False, "nnm|trimmed_mean": True}
COMPRESSIONS = ("none", "sparse", "quantize", "top_k", "error_feedback|top_k", "rand_k", "sign", "power_sgd", "ternary")


def outcome(rule, mechanism, compression, secure, grouped):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            notes = check_combination(
                rule=rule, robust=RULES[rule], mechanism=mechanism, compression=resolve(compression),
                secure=secure, grouped=grouped,
            )  # fmt: skip
        except ValueError as error:
            return "refused", str(error)
    return ("warned" if caught else "runs"), " ".join([*notes, *(str(w.message) for w in caught)])


GRID = list(itertools.product(RULES, (None, *MECHANISMS), COMPRESSIONS, (False, True), (False, True)))


@pytest.mark.parametrize(("rule", "mechanism", "compression", "secure", "grouped"), GRID)
def test_every_combination_runs_or_is_refused_with_a_way_out(rule, mechanism, compression, secure, grouped):
    verdict, words = outcome(rule, mechanism, compression, secure, grouped)
    if verdict == "refused":
        assert any(remedy in words for remedy in ("use ", "Use ", "Sum in groups"))
    else:
        assert not (secure and RULES[rule] and not grouped)
        assert verdict == ("warned" if RULES[rule] and compression in ("top_k", "error_feedback|top_k", "ternary") else "runs")


@pytest.mark.parametrize(
    ("rule", "mechanism", "compression", "secure", "grouped", "verdict", "words"),
    [
        ("mean", "gaussian", "sparse", False, False, "runs", "clipped after decoding"),
        ("mean", "gaussian", "none", True, False, "runs", "without amplification"),
        ("mean", None, "none", True, False, "runs", "A secure mean is unweighted"),
        ("nnm|trimmed_mean", None, "none", True, True, "runs", "In a group of two it reads one member's update"),
        ("nnm|trimmed_mean", None, "none", True, True, "runs", ""),
        ("nnm|trimmed_mean", "gaussian", "none", True, True, "runs", "parallel composition"),
        ("nnm|trimmed_mean", "local", "none", False, False, "runs", "post-processing"),
        ("nnm|trimmed_mean", None, "sparse", False, False, "runs", ""),
        ("nnm|trimmed_mean", None, "top_k", False, False, "warned", "ef21"),
        ("nnm|trimmed_mean", None, "none", True, False, "refused", "at least 4 f groups"),
        ("nnm|trimmed_mean", "gaussian", "none", False, False, "refused", "is no sum"),
        ("mean", "adaptive", "none", True, False, "refused", "discrete shares"),
        ("mean", None, "quantize", True, False, "refused", "do not add"),
        ("mean", None, "none", False, True, "refused", "bucketing"),
    ],
)
def test_what_is_said(rule, mechanism, compression, secure, grouped, verdict, words):
    found = outcome(rule, mechanism, compression, secure, grouped)
    assert found[0] == verdict
    assert words in found[1]


@pytest.mark.parametrize(("size", "partners"), [(2, 1), (4, 2)])
def test_groups_too_small_for_partners_of_a_curious_server(size, partners):
    with pytest.raises(ValueError, match=f"in a group of {size}, {partners} that side with a curious server"):
        deal(20, f=0, group_size=size, rng=np.random.default_rng(0), partners=partners)


def test_groups_of_three_stand_a_partner():
    x = updates(f=0)
    found = grouped_secure_aggregate(
        x, f=0, rule=plain_mean, group_size=3, bound=1.0, rng=np.random.default_rng(1), partners=1
    )  # fmt: skip
    np.testing.assert_allclose(found.value, x.mean(axis=0), atol=1e-6)
