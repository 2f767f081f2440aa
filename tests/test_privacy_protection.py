"""The protections of a run together: every combination that is admitted runs, and gives what it says."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.privacy import MECHANISMS
from fl_impl.privacy.protection import protect
from fl_impl.privacy.secure_aggregation import Terms

N, D = 16, 30
COMPRESSIONS = ("none", "sparse", "quantize", "error_feedback|top_k(0.1)", "rand_k(0.5)")


def mean(rows, f):
    return np.mean(rows, axis=0) + 0 * f


def trimmed_mean(rows, f):
    return np.sort(rows, axis=0)[f : len(rows) - f].mean(axis=0)


def deltas(seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((N, D)).astype(np.float32) + 0.05


def run(guard, rule, rounds=2, f=0):
    sent, received, state, results = {}, {}, None, []
    for number in range(1, rounds + 1):
        guard.authorize(number)
        chosen = guard.sample(N, number)
        ids = range(N) if chosen is None else chosen
        carried = guard.carry(ids, deltas()[list(ids)], number, sent, received)
        sent, received = carried.sent, carried.received
        combined = guard.combine(carried.rows, number, state, rule, f)
        state = combined.state
        results.append((carried, combined))
    return results


GRID = list(itertools.product((False, True), (None, *MECHANISMS), COMPRESSIONS, (False, True), (None, 2)))


def admitted(robust, mechanism, compression, secure, group_size):
    """The protections, or the reason why they do not go together."""
    private = {"epsilon": 8.0, "delta": 1e-5, "mechanism": mechanism} if mechanism else {}
    options = {"robust": robust, "compression": compression, "secure": secure, "group_size": group_size, **private}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return protect(rounds=2, clients=N, **options)
        except ValueError as error:
            return str(error)


@pytest.mark.parametrize(("robust", "mechanism", "compression", "secure", "group_size"), GRID)
def test_the_whole_grid_runs_or_is_refused(robust, mechanism, compression, secure, group_size):
    guard = admitted(robust, mechanism, compression, secure, group_size)
    if isinstance(guard, str):
        assert any(remedy in guard for remedy in ("use ", "Use ", "Sum in groups"))
        return
    for carried, combined in run(guard, trimmed_mean if robust else mean, f=2 if robust else 0):
        assert combined.value.shape == (D,)
        assert np.isfinite(combined.value).all()
        assert (combined.bytes_up > 0, carried.bytes_up > 0) == (secure, not secure)
    assert bool(guard.source) == (mechanism is not None)


def test_the_grid_has_both():
    refused = [isinstance(admitted(*combination), str) for combination in GRID]
    assert refused.count(False) > 30
    assert refused.count(True) > 100


@pytest.mark.parametrize("options", [{}, {"secure": True}, {"secure": True, "group_size": 4}])
def test_without_noise_the_mean_is_the_mean(options):
    _, combined = run(protect(rounds=1, clients=N, **options), mean, rounds=1)[0]
    np.testing.assert_allclose(combined.value, deltas().mean(axis=0), atol=1e-5)


def test_a_shared_mask_under_secure_aggregation_keeps_the_mean_of_what_it_keeps():
    _, combined = run(protect(rounds=1, clients=N, secure=True, compression="rand_k(0.5)"), mean, rounds=1)[0]
    kept = combined.value != 0
    assert kept.sum() == D // 2
    np.testing.assert_allclose(combined.value[kept], 2 * deltas().mean(axis=0)[kept], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"mechanism": "local"}, {"secure": True, "group_size": 4}])
def test_noise_is_seeded_only_when_asked(options):
    settings = {"rounds": 1, "clients": N, "epsilon": 8.0, "delta": 1e-5, **options}
    guards = [protect(**settings, noise_seed=seed) for seed in (3, 3, 4, None)]
    first, second, other, system = (run(guard, mean, rounds=1)[0][1] for guard in guards)
    np.testing.assert_array_equal(first.value, second.value)
    assert (first.value != other.value).all()
    assert (system.value != other.value).all()
    assert [guard.source for guard in guards] == ["seed 3", "seed 3", "seed 4", "operating system"]


@pytest.mark.parametrize("compression", ["none", "sparse", "quantize"])
def test_a_private_sum_is_clipped_after_decoding(compression):
    """One client more moves the noisy sum by the bound at most, whatever compression made of its update."""
    guard = protect(rounds=1, clients=N, epsilon=8.0, delta=1e-5, clip_bound=0.5, compression=compression, noise_seed=1)
    x = 100 * deltas()
    carried = guard.carry(range(N), x, 1, {}, {})
    rows = carried.rows.astype(float)
    rows[-1] *= 50  # as if decoding had lengthened it
    values = [guard.combine(part, 1, None, mean, 0).value * guard.mechanism.expected_clients for part in (rows, rows[:-1])]
    assert np.linalg.norm(values[0] - values[1]) <= 0.5 * (1 + 1e-6)


def test_an_adaptive_bound_grows_past_its_first():
    guard = protect(rounds=40, clients=150, epsilon=200.0, delta=1e-5, mechanism="adaptive", clip_bound=0.1, noise_seed=0)
    rows, state = np.tile(deltas(), (10, 1)), None
    for number in range(1, 41):
        carried = guard.carry(range(len(rows)), rows, number, {}, {})
        state = guard.combine(carried.rows, number, state, mean, 0).state
    assert state == pytest.approx(np.median(np.linalg.norm(rows, axis=1)), rel=0.3)


def test_privacy_stops_at_its_budget_and_samples_as_accounted():
    guard = protect(rounds=2, clients=1000, sampling=0.25, epsilon=1.0, delta=1e-5, noise_seed=0)
    assert guard.authorize(2) == pytest.approx(1.0, rel=0.01)
    with pytest.raises(ValueError, match="round 3 would bring"):
        guard.authorize(3)
    assert len(guard.sample(1000, 1)) == pytest.approx(250, abs=80)
    assert guard.sample(1000, 1) == guard.sample(1000, 1) != guard.sample(1000, 2)


def test_under_secure_aggregation_everybody_takes_part_and_nothing_is_amplified():
    hidden = protect(rounds=2, clients=N, sampling=0.25, epsilon=1.0, delta=1e-5, secure=True)
    open_ = protect(rounds=2, clients=N, sampling=0.25, epsilon=1.0, delta=1e-5)
    assert hidden.sample(N, 1) == tuple(range(N))
    assert hidden.mechanism.noise_multiplier > 2 * open_.mechanism.noise_multiplier
    assert any("without amplification" in note for note in hidden.notes)


def test_a_run_without_protection_selects_and_sends_as_it_likes():
    guard = protect(rounds=1, clients=N)
    assert (guard.authorize(1), guard.sample(N, 1)) == (None, None)
    carried = guard.carry(range(N), deltas(), 1, {}, {})
    np.testing.assert_array_equal(carried.rows, deltas())


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="needs a delta"):
        protect(rounds=1, clients=N, epsilon=1.0)
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        protect(rounds=1, clients=N, epsilon=1.0, delta=1e-5, mechanism="gausian")


class TestSumsOfAConfiguration:
    """`secure_partners` and `secure_most_samples`."""

    def rows(self, n=8, d=6):
        return np.random.default_rng(4).uniform(-1, 1, (n, d))

    def test_counts_weigh_up_to_the_most(self):
        guard = FLConfig(num_clients=8, secure_aggregation=True, secure_most_samples=50).protection
        counts = np.array([1, 2, 50, 10, 0, 7, 500, 3])
        found = guard.combine(self.rows(), 1, None, None, 0, counts)
        expected = np.average(self.rows(), axis=0, weights=np.minimum(counts, 50))
        np.testing.assert_allclose(found.value, expected, atol=1e-5)
        assert any("masked too" in note for note in guard.notes)
        plain = FLConfig(num_clients=8, secure_aggregation=True).protection.combine(self.rows(), 1, None, None, 0, counts)
        np.testing.assert_allclose(plain.value, self.rows().mean(axis=0), atol=1e-5)

    def test_a_federation_weighs(self):
        """Clients with unequal data: the secure weighted mean is FedAvg's."""
        common = {"num_clients": 6, "num_rounds": 2, "model": "linear", "partition": "quantity(alpha=0.7)", "local_epochs": 1}
        found = [
            run_once(FLConfig(**common, secure_aggregation=True, secure_most_samples=10_000)),
            run_once(FLConfig(**common, aggregation="fedavg")),
            run_once(FLConfig(**common, secure_aggregation=True)),
        ]
        np.testing.assert_allclose(found[0], found[1], atol=1e-3)
        assert np.abs(found[2] - found[1]).max() > 1e-2

    @pytest.mark.parametrize("partners", [0, 2, 3])
    def test_every_session_allows_for_so_many_partners(self, monkeypatch, partners):
        seen = []
        checked = Terms.checked
        monkeypatch.setattr(Terms, "checked", lambda terms: seen.append(terms.corrupt) or checked(terms))
        config = FLConfig(num_clients=12, secure_aggregation=True, secure_partners=partners)
        config.protection.combine(self.rows(12), 1, None, None, 0)
        assert set(seen) == {max(partners, 1)}

    def test_with_partners_each_client_adds_more_noise(self):
        private = {"differential_privacy": True, "dp_epsilon": 8.0, "dp_delta": 1e-5, "secure_aggregation": True}
        found = []
        for partners in (1, 8):
            guard = FLConfig(num_clients=20, **private, secure_partners=partners, dp_seed=3).protection
            found.append(guard.combine(np.zeros((20, 4000)), 1, None, None, 0).value.std())
        honest = [Terms.agreed(clients=20, length=1, bound=1.0, corrupt=partners).honest for partners in (2, 8)]
        assert found[1] / found[0] == pytest.approx(np.sqrt(honest[0] / honest[1]), rel=0.05)

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"secure_partners": 2}, "needs secure_aggregation=True"),
            ({"secure_most_samples": 2}, "needs secure_aggregation=True"),
            ({"secure_aggregation": True, "secure_partners": 9, "num_clients": 10}, "must remain"),
            (
                {
                    "secure_aggregation": True, "secure_partners": 2, "secure_group_size": 4, "num_clients": 40,
                    "aggregation": "trimmed_mean", "byzantine_fraction": 0.05,
                },
                "groups of 5 or more",
            ),
            (
                {
                    "secure_aggregation": True, "secure_most_samples": 2, "secure_group_size": 4, "num_clients": 40,
                    "aggregation": "trimmed_mean", "byzantine_fraction": 0.05,
                },
                "give one of the two",
            ),
            (
                {
                    "secure_aggregation": True, "secure_most_samples": 2, "differential_privacy": True, "dp_epsilon": 1.0,
                    "dp_delta": 1e-5,
                },
                "give secure_most_samples or differential_privacy",
            ),
        ],
    )  # fmt: skip
    def test_what_does_not_go_together_is_refused(self, settings, said):
        with pytest.raises(ValueError, match=said):
            FLConfig(**settings)


def run_once(config):
    coordinator = FederatedLearningCoordinator(config)
    coordinator.run(make_clients(config), output=None)
    return np.asarray(coordinator.parameters)
