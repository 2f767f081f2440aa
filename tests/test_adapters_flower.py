"""Flower's strategies of both generations and its legacy functions, by real aggregation calls with claimed counts."""

import functools
import subprocess
import sys

import numpy as np
import pytest

from pytest_fl.adapters import as_subject

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'pytest-fl[flower]'")

from flwr.server import strategy as legacy
from flwr.server.strategy import aggregate
from flwr.serverapp import strategy as serverapp

X = np.random.default_rng(1).normal(size=(11, 5)).astype(np.float32)
MANY = [10**6] + [1] * 10


def trimmed(x, cut):
    return np.sort(x, axis=0)[cut : len(x) - cut].mean(axis=0)


def krum(x, f):
    distances = np.sort(((x[:, None] - x[None]) ** 2).sum(axis=2), axis=1)
    return x[distances[:, 1 : len(x) - f - 1].sum(axis=1).argmin()]


@pytest.mark.parametrize("generation", [legacy, serverapp], ids=["legacy", "serverapp"])
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda s: s.FedAvg, lambda x: x.mean(axis=0)),
        (lambda s: s.FedAvg(), lambda x: x.mean(axis=0)),
        (lambda s: s.FedMedian, lambda x: np.median(x, axis=0)),
        (lambda s: s.FedMedian(), lambda x: np.median(x, axis=0)),
        (lambda s: s.FedTrimmedAvg, lambda x: trimmed(x, 2)),
        (lambda s: s.FedTrimmedAvg(beta=0.2), lambda x: trimmed(x, 2)),
        (lambda s: s.Krum, lambda x: krum(x, 2)),
    ],
    ids=["FedAvg", "FedAvg()", "FedMedian", "FedMedian()", "FedTrimmedAvg", "FedTrimmedAvg(0.2)", "Krum"],
)
def test_strategies_give_what_they_document(generation, build, expected):
    np.testing.assert_allclose(as_subject(build(generation)).call(X, 2), expected(X), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("strategy", "fixed"),
    [
        (legacy.Krum(num_malicious_clients=2), 2),
        (legacy.Krum(), 0),
        (serverapp.Krum(num_malicious_nodes=2), 2),
        (serverapp.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3), 1),
        (serverapp.Bulyan(num_malicious_nodes=2), 2),
        (legacy.Bulyan(num_malicious_clients=2, to_keep=0), 2),
        (functools.partial(serverapp.MultiKrum, num_malicious_nodes=3), 3),
        (functools.partial(serverapp.MultiKrum, num_nodes_to_select=3), None),
        (serverapp.FedMedian(), None),
    ],
    ids=["krum", "krum 0", "app krum", "app multi-krum", "app bulyan", "bulyan", "partial f", "partial m", "median"],
)
def test_a_configured_strategy_keeps_its_f(strategy, fixed):
    subject = as_subject(strategy)
    assert subject.fixed_f == fixed
    if fixed:
        assert str(fixed) in subject.name
    assert subject.call(X, 2 if fixed is None else fixed).shape == (5,)


def test_documented_minimum_numbers_of_clients():
    assert [as_subject(s).min_clients(2) for s in (legacy.Krum, serverapp.Krum, serverapp.MultiKrum)] == [7, 7, 7]
    assert [as_subject(s).min_clients(2) for s in (serverapp.Bulyan, aggregate.aggregate_bulyan)] == [11, 11]
    assert [as_subject(s).min_clients(2) for s in (legacy.FedMedian, serverapp.FedTrimmedAvg)] == [5, 5]


@pytest.mark.parametrize("generation", [legacy, serverapp], ids=["legacy", "serverapp"])
def test_beta_promises_its_floor_computed_exactly(generation):
    subject = as_subject(generation.FedTrimmedAvg(beta=0.29))
    assert subject.takes(100, 29)  # int(0.29 * 100) is 28
    assert not subject.takes(100, 28)
    assert "beta" in subject.conventions


def test_claimed_counts_reach_the_strategies():
    for strategy in (legacy.FedAvg(), serverapp.FedAvg()):
        weighted = as_subject(strategy).call_with_counts(X, 0, MANY)
        np.testing.assert_allclose(weighted, np.average(X, axis=0, weights=MANY), rtol=1e-3, atol=1e-5)
    for strategy in (legacy.FedMedian(), serverapp.FedMedian()):
        np.testing.assert_allclose(as_subject(strategy).call_with_counts(X, 2, MANY), np.median(X, axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (aggregate.aggregate, lambda x: x.mean(axis=0)),
        (aggregate.aggregate_median, lambda x: np.median(x, axis=0)),
        (aggregate.aggregate_trimmed_avg, lambda x: trimmed(x, 2)),
        (aggregate.aggregate_krum, lambda x: krum(x, 2)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_legacy_functions_give_what_they_document(function, expected):
    subject = as_subject(function)
    np.testing.assert_allclose(subject.call(X, 2), expected(X), rtol=1e-5, atol=1e-7)
    assert subject.details["path"] == f"flwr.server.strategy.aggregate:{function.__name__}"


def test_legacy_multi_krum_and_bulyan_are_told_f_and_their_options():
    multi = as_subject(functools.partial(aggregate.aggregate_krum, to_keep=11))
    np.testing.assert_allclose(multi.call(X, 2), X.mean(axis=0), rtol=1e-5, atol=1e-7)
    assert as_subject(aggregate.aggregate_bulyan).call(X, 2).shape == (5,)


def test_a_users_own_strategy_is_served_as_flowers():
    class First(serverapp.FedAvg):
        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, list(replies)[:1])
            return arrays, metrics

    subject = as_subject(First())
    np.testing.assert_array_equal(subject.call(X, 2), X[0])
    assert "First" in subject.name


def test_none_is_handed_on_for_the_checks_to_see():
    assert as_subject(serverapp.Bulyan(num_malicious_nodes=3)).call(X, 3) is None


def test_one_parameter_is_a_model_of_one_layer():
    assert as_subject(serverapp.FedMedian()).call(X[:, :1], 2).shape == (1,)


def test_aggregating_prints_nothing(capfd):
    for strategy in (legacy.FedMedian(), serverapp.FedMedian()):
        as_subject(strategy).call(X, 2)
    assert capfd.readouterr() == ("", "")


def test_no_library_is_imported_to_find_an_adapter():
    code = (
        "import sys, numpy; from pytest_fl.adapters import as_subject;"
        "as_subject(lambda updates, f: numpy.median(updates, 0));"
        "print([name for name in ('flwr', 'torch', 'byzfl', 'jax') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
