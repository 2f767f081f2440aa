"""identify names a rule from its behaviour alone, and a claim accepts each published convention."""

import numpy as np
import pytest
from broken.registry import krum_scores
from sound import SOUND, distances, median_of_sorted, trimmed_mean_by_sort

from pytest_fl import as_subject, identify, verify
from pytest_fl.oracles.conventions import conventions
from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.oracles.theory import RULES
from pytest_fl.oracles.variants import variants

X = np.random.default_rng(0).normal(size=(11, 4))


def krum(neighbours, power=1.0, m=None, total=False):
    def rule(updates, f):
        n = len(updates)
        scores = krum_scores(updates, neighbours(n, f), distances(updates) ** power)
        if m is None:
            return updates[np.argmin(scores)]
        rows = updates[np.argsort(scores, kind="stable")[: m(n, f)]]
        return rows.sum(0) if total else rows.mean(0)

    return rule


def trims(k):
    def rule(updates, f):
        n = len(updates)
        return np.sort(updates, axis=0)[k(n, f) : n - k(n, f)].mean(0)

    return rule


def counts_itself(updates, f):
    scores = np.sort(distances(updates), axis=1)[:, : len(updates) - f - 1].sum(1)
    return updates[np.argmin(scores)]


def gram(updates, f):
    squares = (updates**2).sum(1)
    away = squares[:, None] + squares[None] - 2 * updates @ updates.T
    return updates[np.argmin(krum_scores(updates, len(updates) - f - 1, away))]


def upper(updates, f):
    return np.sort(updates, axis=0)[len(updates) // 2]


NAMED = {
    "Krum with n-f-1 neighbours": krum(lambda n, f: n - f - 1),
    "Krum with n-f-2 neighbours": krum(lambda n, f: n - f - 2),
    "Krum with n-f neighbours": krum(lambda n, f: n - f),
    "Krum with n-f-3 neighbours": krum(lambda n, f: n - f - 3),
    "Krum with n-2f neighbours": krum(lambda n, f: n - 2 * f),
    "Krum with n-f-1 neighbours, plain distances instead of squared ones": krum(lambda n, f: n - f - 1, 0.5),
    "Krum with n-f-2 neighbours, plain distances instead of squared ones": krum(lambda n, f: n - f - 2, 0.5),
    "Krum with n-f-1 neighbours, fourth powers of distances": krum(lambda n, f: n - f - 1, 2),
    "medoid: the input with the least sum of plain distances": krum(lambda n, f: n - 1, 0.5),
    "Multi-Krum with n-f-2 neighbours and m = n-f": krum(lambda n, f: n - f - 2, m=lambda n, f: n - f),
    "Multi-Krum with n-f-1 neighbours and m = n-f": krum(lambda n, f: n - f - 1, m=lambda n, f: n - f),
    "Multi-Krum with n-f-1 neighbours and m = n-f-1": krum(lambda n, f: n - f - 1, m=lambda n, f: n - f - 1),
    "Multi-Krum with n-f-2 neighbours and m = n-f-2": krum(lambda n, f: n - f - 2, m=lambda n, f: n - f - 2),
    "Multi-Krum with n-f-1 neighbours and m = n-f+1": krum(lambda n, f: n - f - 1, m=lambda n, f: n - f + 1),
    "Multi-Krum with n-f-2 neighbours and m = n-f, their sum instead of the mean": krum(
        lambda n, f: n - f - 2, m=lambda n, f: n - f, total=True
    ),
    "Multi-Krum with n-f-1 neighbours and m = n-f, plain distances instead of squared ones": krum(
        lambda n, f: n - f - 1, 0.5, m=lambda n, f: n - f
    ),
    "trimmed mean": trimmed_mean_by_sort,
    "trimmed mean that trims f - 1 a side": trims(lambda n, f: f - 1),
    "trimmed mean that trims f + 1 a side": trims(lambda n, f: f + 1),
    "trimmed mean whose f is truncated: int(f / n * n)": trims(lambda n, f: int(f / n * n)),
    "trimmed mean that trims 10 % a side": trims(lambda n, f: int(0.1 * n)),
    "trimmed mean, the sum instead of the mean": lambda x, f: np.sort(x, axis=0)[f : len(x) - f].sum(0),
    "trimmed mean divided by n instead of n - 2f": lambda x, f: np.sort(x, axis=0)[f : len(x) - f].sum(0) / len(x),
    "trimmed mean that trims the greatest only": lambda x, f: np.sort(x, axis=0)[: len(x) - f].mean(0),
    "coordinate-wise median, midpoint": median_of_sorted,
    "coordinate-wise median, lower": SOUND["lower_median"][0],
    "coordinate-wise median, upper": upper,
    "MeaMed": SOUND["mean_around_median"][0],
    "Phocas": SOUND["phocas"][0],
    "the mean": lambda x, f: x.mean(0),
    "the sum instead of the mean": lambda x, f: x.sum(0),
    "NNM, then trimmed mean": SOUND["nearest_neighbour_mixing_then_trimmed_mean"][0],
    "Bulyan, n-f-2 neighbours of those left": SOUND["bulyan"][0],
    "the input nearest to the mean": lambda x, f: x[np.argmin(np.linalg.norm(x - x.mean(0), axis=1))],
    "the mean of the n - f smallest norms (CGE)": lambda x, f: x[np.argsort(np.linalg.norm(x, axis=1))[: len(x) - f]].mean(0),
    "the majority of signs": lambda x, f: np.sign(np.sign(x).sum(0)),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_variant_is_named_from_its_behaviour_alone(name):
    found = identify(NAMED[name])
    assert (str(found), found.known) == (name, True)


def test_what_counts_itself_has_one_neighbour_less():
    assert str(identify(counts_itself)) == "Krum with n-f-2 neighbours"


def test_an_uncentred_gram_matrix_is_remarked():
    assert "rows that are not centred" in str(identify(gram))


def test_a_subset_search_is_named_without_waiting_for_it():
    assert str(identify(SOUND["minimum_diameter"][0])) == "minimum diameter averaging (MDA)"


def test_what_is_no_rule_known_is_said_to_be_none():
    found = identify(lambda x, f: np.sin(np.median(x, axis=0)))
    assert not found.known
    assert str(found).startswith("no rule known here")


def test_variants_have_names_of_their_own():
    names = [variant.name for variant in variants()]
    assert len(set(names)) == len(names) > 250


def test_a_failing_report_says_what_the_rule_is():
    report = verify(NAMED["trimmed mean that trims f - 1 a side"], checks=["exactness"], profile="quick")
    assert any("trimmed mean that trims f - 1 a side" in note for note in report.notes)


CLAIMS = {
    "krum": [("krum_of_blanchard", "n-f-2 neighbours"), ("krum_first_of_ties", "n-f-1 neighbours")],
    "multi_krum": [("multi_krum", "m = n-f"), ("multi_krum_of_three", "m = n-2f-2")],
    "median": [("lower_median", "the lower"), ("upper_median", "the upper"), ("median_of_sorted", "the midpoint")],
    "bulyan": [("bulyan", "around the midpoint median")],
    "meamed": [("mean_around_median", "around the midpoint median")],
}


@pytest.mark.parametrize(("claim", "name", "says"), [(claim, *case) for claim, cases in CLAIMS.items() for case in cases])
def test_a_claim_accepts_each_published_convention(claim, name, says):
    rule, options = SOUND[name]
    assert says in as_subject(rule, claims=claim, **options).called
    report = verify(rule, claims=claim, profile="quick", checks=["definition", "permutation", "sign", "coefficient"], **options)
    assert [(row.check, row.reason, row.value, row.limit) for row in report.failures] == []


@pytest.mark.parametrize("claim", ["bulyan", "arc|coordinate_median", "krum", "nnm|krum"])
def test_a_median_is_held_to_the_definition_that_it_claims(claim):
    report = verify(median_of_sorted, claims=claim, profile="quick", checks=["definition"])
    assert [row.check for row in report.failures] == ["definition"]


def test_every_claim_that_can_be_named_has_a_definition():
    assert all(conventions(name) for name in RULES)


def test_a_claim_without_a_definition_is_refused(monkeypatch):
    monkeypatch.delitem(DEFINITIONS, "phocas")
    with pytest.raises(ValueError, match="a definition to hold it to"):
        as_subject(median_of_sorted, claims="phocas")
