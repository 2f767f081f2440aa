"""Forty rules in the forms that public code has, judged without a wrapper: the form is found, printed, and can be said."""

import functools

import numpy as np
import pytest
import torch
from foreign import FOREIGN

from pytest_fl import verify
from pytest_fl.adapters import as_subject

X = np.random.default_rng(0).normal(size=(11, 6))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_there_are_forty():
    assert len(FOREIGN) >= 40


@pytest.mark.parametrize("name", FOREIGN)
def test_the_form_is_found_and_said(name):
    rule, form, says, options = FOREIGN[name]
    subject = as_subject(rule, **options)
    assert subject.details["form"] == form, subject.called
    assert f"({form})" in subject.called
    assert says in subject.called


FIRST = ("krum_of_state_dicts", "trimmed_of_parameters_and_examples", "median_of_one_model", "median_in_pure_python")
"""Of different kinds, for every run; the others come with the slow tests."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in FOREIGN])
def test_a_sound_rule_in_a_foreign_form_passes_without_a_wrapper(name):
    rule, _, _, options = FOREIGN[name]
    report = verify(rule, profile="quick", skip=["non_finite"], **options)
    assert [(row.check, row.reason, row.value, row.limit) for row in report.failures] == []
    assert str(report).startswith("called as ")


def mean_of_state_dicts(models):
    return {key: sum(model[key] for model in models) / len(models) for key in models[0]}


def last_layer_only(models, f):
    from foreign import flat, krum_scores_of  # noqa: F401

    vectors = torch.stack([list(m.values())[-1].reshape(-1).double() for m in models])
    best = int(torch.argmin(krum_scores_of(vectors, len(models) - f - 1)))
    return models[best]


def forgets_a_layer(models, f):
    from foreign import trimmed_mean_of_state_dicts

    result = trimmed_mean_of_state_dicts(models, f)
    if len(result) > 1:
        result.popitem()
    return result


@pytest.mark.parametrize(
    ("rule", "check"),
    [(mean_of_state_dicts, "exactness"), (last_layer_only, "several_layers"), (forgets_a_layer, "several_layers")],
)
def test_a_broken_rule_over_state_dicts_is_failed(rule, check):
    failures = [row.check for row in verify(rule, profile="quick", skip=["non_finite"]).failures]
    assert check in failures
    if check == "several_layers":
        assert failures == [check]


def clip_mean(updates, tau):
    return updates.mean(0) * tau


def stale(updates, staleness):
    return updates.mean(0) / staleness


def fltrust(updates, server_update):
    return updates.mean(0) + server_update


def with_global(global_weights, client_weights):
    return global_weights + client_weights.mean(0)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (clip_mean, "tau: bind it.*f='tau'"), (stale, "staleness: bind it"), (fltrust, "server_update.*root=True"),
        (with_global, "first argument of with_global.*global_weights"),
    ],
)  # fmt: skip
def test_f_goes_into_known_names_only(rule, said):
    with pytest.raises(ValueError, match=said):
        as_subject(rule)


def test_a_momentum_is_not_a_fraction():
    def momentum_mean(updates, beta=0.9):
        return updates.mean(0) * beta

    class Server:
        beta = 0.9

        def __init__(self):
            self.beta = 0.9

        def aggregate(self, updates):
            return np.median(updates, axis=0)

    np.testing.assert_allclose(as_subject(momentum_mean).call(X, 3), X.mean(0) * 0.9)
    assert as_subject(Server()).admits is None


def test_a_bound_first_argument_moves_the_updates():
    rule = functools.partial(with_global, global_weights=0.0)
    np.testing.assert_allclose(as_subject(rule).call(X, 1), X.mean(0))


def test_the_form_can_be_said():
    rule = FOREIGN["median_of_lists_of_layers"][0]
    assert as_subject(rule, form="[[array]]").details["form"] == "[[array]]"
    with pytest.raises(ValueError, match="a form of pytest_fl"):
        as_subject(rule, form="[[arrays]]")
    model = {"w": np.zeros((2, 3)), "b": np.zeros(2), "seen": np.array(3)}

    def by_name(states):
        return {
            "w": np.median([s["w"] for s in states], axis=0),
            "b": np.median([s["b"] for s in states], axis=0),
            "seen": states[0]["seen"],
        }

    subject = as_subject(by_name, form=model)
    assert subject.most_d == 8
    np.testing.assert_allclose(subject.call(X, 1), np.median(X, axis=0))


def test_a_mistake_of_the_rules_own_is_shown_as_it_is():
    def typo(updates, f):
        return np.sort(updats, axis=0)  # noqa: F821

    with pytest.raises(NameError, match="updats"):
        as_subject(typo).call(X, 1)


def test_an_object_without_a_rule_names_its_methods():
    class Server:
        def combine(self, updates):
            return updates.mean(0)

    with pytest.raises(ValueError, match="pass one of its methods: combine"):
        as_subject(Server())
