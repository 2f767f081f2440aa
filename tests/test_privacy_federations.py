"""Federations with privacy, compression and secure aggregation: every combination runs or is refused, and says what it did."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_impl import FederatedLearningCoordinator, FLConfig, FLMetrics, RoundResult, make_clients
from fl_impl.clients import ClientUpdate
from fl_impl.compression import resolve as resolve_compression
from fl_impl.privacy import MECHANISMS, PrivacyBudgetError

SMALL = {"model": "linear", "num_rounds": 2, "num_clients": 16, "dp_seed": 0}
PRIVATE = {"differential_privacy": True, "dp_epsilon": 8.0, "dp_delta": 1e-5, "dp_seed": 0}
RULES = ("fedavg", "trimmed_mean", "nnm|krum")
COMPRESSIONS = ("none", "sparse", "quantize", "error_feedback|top_k(0.1)", "rand_k(0.5)")
GRID = list(itertools.product(RULES, (None, *MECHANISMS), COMPRESSIONS, (False, True), (None, 2)))


def configured(aggregation: str, mechanism: str | None, compression: str, secure: bool, group: int | None) -> FLConfig | str:
    """The configuration, or why there is none."""
    private = {**PRIVATE, "dp_mechanism": mechanism} if mechanism else {}
    fraction = 0.0 if aggregation == "fedavg" else 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return FLConfig(
                model="linear", num_rounds=2, num_clients=16, aggregation=aggregation, byzantine_fraction=fraction,
                attack="sign_flip" if fraction else None, compression=compression, secure_aggregation=secure,
                secure_group_size=group, **private,
            )  # fmt: skip
        except ValueError as error:
            return str(error)


def run(clients: Any = None, **settings: Any) -> FLMetrics:
    config = FLConfig(**{"model": "linear", "num_rounds": 2, "num_clients": 16, **settings})
    return FederatedLearningCoordinator(config).run(clients or make_clients(config), output=None)


@pytest.fixture(scope="module")
def clients() -> list[Any]:
    return make_clients(FLConfig(model="linear", num_clients=16))


@pytest.mark.parametrize(("aggregation", "mechanism", "compression", "secure", "group"), GRID)
def test_the_whole_grid_runs_or_is_refused(
    clients: list[Any], aggregation: str, mechanism: str | None, compression: str, secure: bool, group: int | None
) -> None:
    config = configured(aggregation, mechanism, compression, secure, group)
    if isinstance(config, str):
        assert any(remedy in config for remedy in ("use ", "Use ", "Sum in groups", "needs secure_aggregation")), config
        return
    metrics = FederatedLearningCoordinator(config).run(clients, output=None)
    for result in metrics.rounds:
        assert 0 <= result.accuracy <= 1
        assert result.bytes_up > 0
        assert not result.rejected
        assert (result.noise, result.epsilon is None) == (("seed 0", False) if mechanism else ("", True))
    if mechanism:
        assert metrics.final.epsilon == pytest.approx(8.0, rel=0.005)
        assert metrics.final.epsilon <= 8.0 * (1 + 1e-9)
    promises = [note for note in metrics.notes if "learnt nothing" not in note]  # two rounds of a linear model are few
    assert bool(promises) == bool(mechanism or secure)


def test_the_grid_has_both() -> None:
    refused = [isinstance(configured(*combination), str) for combination in GRID]
    assert refused.count(False) > 40
    assert refused.count(True) > 150


def test_local_updates_travel_as_they_were_trained() -> None:
    """Compression "none", and a sum that is secure and not noisy, change nothing but the bytes and the last bits."""
    plain, masked = run(partition="iid"), run(secure_aggregation=True)
    assert masked.final.global_loss == pytest.approx(plain.final.global_loss, rel=1e-4)
    assert masked.final.bytes_up > plain.final.bytes_up


@pytest.mark.parametrize("compression", ["none", "sparse", "quantize", "int4", "ef21|top_k(0.02)"])
def test_bytes_up_are_those_of_the_messages(compression: str) -> None:
    metrics = run(compression=compression)
    d = 64 * 10 + 10
    assert metrics.final.bytes_up == 16 * resolve_compression(compression).message_bytes(d)


def test_half_a_budget_is_spent_earlier_than_the_whole() -> None:
    metrics = run(**PRIVATE, fraction_fit=0.5)
    first, last = metrics.series("epsilon")
    assert 0 < first < last <= 8.0


def test_a_round_past_the_budget_is_refused_before_anybody_trains() -> None:
    config = FLConfig(**SMALL | PRIVATE)
    coordinator, asked = FederatedLearningCoordinator(config), []

    class Watched:
        def __init__(self, client: Any) -> None:
            self.client = client

        def fit(self, parameters: np.ndarray, round: int) -> ClientUpdate:  # the protocol's name
            asked.append(round)
            return self.client.fit(parameters, round)

    originals = make_clients(config)
    coordinator.run(originals, output=None)
    before = coordinator.parameters
    with pytest.raises(PrivacyBudgetError, match="round 3 would bring the spent epsilon"):
        coordinator.simulate_round([Watched(client) for client in originals])
    assert not asked
    np.testing.assert_array_equal(coordinator.parameters, before)


def test_a_round_may_be_empty_under_poisson_sampling_unless_a_quorum_was_asked_for() -> None:
    settings = {**PRIVATE, "num_clients": 3, "num_rounds": 3}
    metrics = run(**settings, fraction_fit=0.01)
    assert metrics.series("num_clients") == [0, 0, 0]
    assert metrics.final.noise == "seed 0"
    with pytest.raises(ValueError, match="1 sound updates, but 2 are needed"):
        run(**{**settings, "fraction_fit": 0.67}, min_clients=2)


def test_a_private_round_in_which_every_client_failed_is_an_error_not_noise() -> None:
    class Broken:
        def fit(self, parameters: np.ndarray, round: int) -> ClientUpdate:
            raise RuntimeError("no")

    coordinator = FederatedLearningCoordinator(FLConfig(**SMALL | PRIVATE), parameters=np.zeros(650, np.float32))
    with pytest.raises(ValueError, match="0 sound updates, but 1 are needed"):
        coordinator.run([Broken()] * 16, output=None)


def test_claimed_counts_do_not_reach_a_private_or_secure_mean() -> None:
    lies = {"attack": "inflated_count", "attack_fraction": 0.1}
    for settings in ({"secure_aggregation": True}, {**PRIVATE, "dp_mechanism": "local"}):
        assert run(**settings, **lies).final.global_loss == run(**settings).final.global_loss
    assert run(**lies).final.global_loss != run().final.global_loss


def test_a_rule_with_a_memory_of_clients_has_none_where_sums_are_secure() -> None:
    config = FLConfig(model="linear", num_rounds=1, num_clients=16, aggregation="foolsgold", secure_aggregation=True,
                      secure_group_size=4)  # fmt: skip
    assert FederatedLearningCoordinator(config).run(make_clients(config), output=None).final.num_clients == 16


@pytest.mark.parametrize(
    "settings",
    [
        {**PRIVATE, "fraction_fit": 0.7},
        {**PRIVATE, "dp_mechanism": "adaptive", "compression": "sparse"},
        {**PRIVATE, "dp_mechanism": "ftrl"},
        {**PRIVATE, "dp_mechanism": "local", "compression": "quantize", "aggregation": "trimmed_mean"},
        {"compression": "error_feedback|top_k(0.1)"},
        {"aggregation": "foolsgold"},
    ],
)  # fmt: skip
def test_a_stopped_run_goes_on_to_the_same_result(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = FLConfig(**{"model": "linear", "num_rounds": 4, "num_clients": 6, **settings})
    whole = FederatedLearningCoordinator(config)
    whole.run(make_clients(config), output=None)

    def stop(result: RoundResult) -> None:
        if result.round == 2:
            raise KeyboardInterrupt

    path = tmp_path / "run.json"
    with pytest.raises(KeyboardInterrupt):
        FederatedLearningCoordinator(config).run(make_clients(config), output=path, on_round=stop)
    resumed = FederatedLearningCoordinator(config)
    metrics = resumed.run(make_clients(config), output=path, resume=True)
    assert [r.to_dict() for r in metrics.rounds] == [r.to_dict() for r in whole.metrics.rounds]
    assert metrics.notes == whole.metrics.notes == FLMetrics.load(path).notes
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


def test_a_configuration_is_read_back_from_its_own_dump() -> None:
    for settings in ({**PRIVATE}, {"local_steps": 3}, {"secure_aggregation": True, "dp_clip": 3.0}):
        config = FLConfig(**settings)
        assert FLConfig(**config.model_dump(mode="json")) == config


def test_noise_is_the_operating_systems_unless_a_seed_is_asked_for() -> None:
    settings = {**PRIVATE, "num_rounds": 1}
    assert run(**settings).final.global_loss == run(**settings).final.global_loss
    first, second = (run(**{**settings, "dp_seed": None}).final for _ in range(2))
    assert first.noise == "operating system"
    assert first.global_loss != second.global_loss


def test_a_clipped_client_moves_the_private_mean_no_further_than_the_bound() -> None:
    """The same noise, one client with an update of length 1e3 more: the sum moves by dp_clip."""

    class Fixed:
        def __init__(self, length: float) -> None:
            self.length = length

        def fit(self, parameters: np.ndarray, round: int) -> ClientUpdate:  # the protocol's
            return ClientUpdate(np.eye(1, len(parameters), dtype=np.float32)[0] * self.length, 5, 0.0)

    config = FLConfig(**{**SMALL, **PRIVATE, "dp_clip": 0.5, "num_rounds": 1})
    models = []
    for length in (0.0, 1e3):
        coordinator = FederatedLearningCoordinator(config, parameters=np.zeros(650, np.float32))
        coordinator.run([Fixed(length), *[Fixed(0.0)] * 15], output=None)
        models.append(coordinator.parameters.astype(float))
    assert np.linalg.norm(models[1] - models[0]) * 16 == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"differential_privacy": True}, "give dp_epsilon, and dp_delta"),
        ({"dp_epsilon": 1.0}, "dp_epsilon: give differential_privacy=True too"),
        ({"dp_clip": 1.0}, "give differential_privacy=True or secure_aggregation=True"),
        ({"secure_group_size": 4}, "needs secure_aggregation=True"),
        ({**PRIVATE, "dp_mechanism": "gausian"}, "did you mean 'gaussian'"),
        ({"compression": "sparce"}, "did you mean"),
        ({**PRIVATE, "secure_aggregation": True, "fraction_fit": 0.5}, "give fraction_fit=1.0"),
        ({"secure_aggregation": True, "secure_group_size": 8, "aggregation": "trimmed_mean", "byzantine_fraction": 0.2,
          "num_clients": 20}, "at least 4 f = 16"),
        ({"backend": "flower", "compression": "sparse"}, "Flower's send plain updates"),
        ({"backend": "flower", **PRIVATE, "dp_mechanism": "local"}, "local_noise_mod"),
    ],
)  # fmt: skip
def test_what_would_be_less_private_than_it_reads_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="(?s).*" + words.replace("(", r"\(")):
        FLConfig(**settings)


def test_noise_of_the_server_is_the_same_on_flowers_messages() -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install pytest-fl[flower]")
    settings = {**PRIVATE, "num_clients": 6, "fraction_fit": 0.7}
    local, flower = (run(**settings, backend=backend) for backend in ("local", "flower-inline"))
    for name in ("global_loss", "num_clients", "epsilon", "noise", "bytes_up"):
        assert flower.series(name) == local.series(name)
