"""Federations: the published interface, what an attack does to a mean, what the aggregator is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_impl import ByzantineAttack, ClientUpdate, FederatedLearningCoordinator, FLConfig, FLMetrics, make_clients


def run(clients: Any = None, **settings: Any) -> FLMetrics:
    config = FLConfig(**settings)
    return FederatedLearningCoordinator(config).run(clients or make_clients(config), output=None)


def test_the_published_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = FLConfig(
        num_rounds=10, num_clients=5, fraction_fit=0.8, aggregation="fedavg", byzantine_fraction=0.2,
        differential_privacy=True, dp_epsilon=1.0, dp_delta=1e-5, compression="sparse", local_epochs=5, learning_rate=0.01,
    )  # fmt: skip
    coordinator = FederatedLearningCoordinator(config)
    clients = make_clients(config)
    results = coordinator.simulate_round(clients=clients)
    assert results.round == 1
    assert 0 <= results.num_clients <= 5  # each trains with probability 0.8
    assert f"Round {results.round}: loss={results.global_loss:.4f}, acc={results.accuracy:.2%}"
    coordinator.inject_attack(attack=ByzantineAttack.LABEL_FLIP, fraction=0.3)
    metrics = coordinator.run(clients)
    assert [result.round for result in metrics.rounds] == list(range(1, 11))
    loaded = FLMetrics.load("fl_run_latest.json")
    assert loaded.rounds == metrics.rounds
    assert 0.995 <= metrics.final.epsilon <= 1.0
    assert metrics.final.noise == "operating system"
    loaded.plot_convergence()
    assert Path("fl_run_latest.png").stat().st_size > 1000


def test_the_mean_falls_to_a_sign_flip_and_a_robust_rule_holds() -> None:
    lines = ["seed  mean: clean attacked  nnm|trimmed_mean: clean attacked"]
    for seed in range(3):
        accuracy = {
            (rule, attack): run(
                num_rounds=20, aggregation=rule, byzantine_fraction=0.3, attack=attack, seed=seed
            ).final.accuracy
            for rule in ("mean", "nnm|trimmed_mean")
            for attack in (None, "sign_flip")
        }
        lines.append(f"{seed:4}  " + "  ".join(f"{value:16.1%}" for value in accuracy.values()))
        assert accuracy["mean", None] - accuracy["mean", "sign_flip"] > 0.20
        assert accuracy["nnm|trimmed_mean", None] - accuracy["nnm|trimmed_mean", "sign_flip"] < 0.05
        assert accuracy["mean", None] - accuracy["nnm|trimmed_mean", "sign_flip"] < 0.05
    print("\n".join(lines))  # the figures are asked for; pytest -rP shows them


def test_the_aggregator_sees_deltas_and_the_exact_f() -> None:
    seen: list[tuple[tuple[int, ...], int]] = []

    def spy(updates: np.ndarray, f: int) -> np.ndarray:
        seen.append((tuple(updates.shape), f))
        return np.asarray(updates).mean(0)

    run(num_rounds=2, num_clients=10, aggregation=spy, byzantine_fraction=0.3, attack="zero", attack_fraction=0.5)
    run(num_rounds=1, num_clients=100, aggregation=spy, byzantine_fraction=0.29)
    run(num_rounds=1, num_clients=10, fraction_fit=0.7, aggregation=spy, byzantine_fraction=0.3)
    assert seen == [((10, 4810), 3), ((10, 4810), 3), ((100, 4810), 29), ((7, 4810), 2)]


def test_selection_decides_who_attacks() -> None:
    rounds = run(num_rounds=12, num_clients=10, fraction_fit=0.5, attack="sign_flip", attack_fraction=0.4).rounds
    attackers = {client for result in rounds for client in result.byzantine}
    assert len(attackers) == 4
    assert len({len(result.byzantine) for result in rounds}) > 1
    assert all(result.num_clients == 5 for result in rounds)


def test_attackers_start_and_stop() -> None:
    rounds = run(num_rounds=6, attack="sign_flip", attack_fraction=0.3, attack_start=2, attack_stop=4).rounds
    assert [len(result.byzantine) for result in rounds] == [0, 3, 3, 3, 0, 0]
    assert [result.deviation > 1e-3 for result in rounds] == [False, True, True, True, False, False]


def test_inject_attack_replaces_the_configured_one() -> None:
    config = FLConfig(num_rounds=3, attack="zero", attack_fraction=0.1)
    coordinator = FederatedLearningCoordinator(config)
    coordinator.inject_attack(attack="label_flip(source=1, target=7)", fraction=0.5, start=2)
    metrics = coordinator.run(make_clients(config), output=None)
    assert [len(result.byzantine) for result in metrics.rounds] == [0, 5, 5]
    assert metrics.config["attack"] == "label_flip(source=1, target=7)"
    with pytest.raises(ValueError, match="from 0 to 1"):
        coordinator.inject_attack(attack="zero", fraction=1.5)


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    settings: dict[str, Any] = {"num_rounds": 3, "attack": "noise_injection", "attack_fraction": 0.2, "aggregation": "median"}
    assert run(**settings).rounds == run(**settings).rounds
    assert run(**settings).rounds != run(**settings, seed=1).rounds


def test_global_generators_are_left_alone() -> None:
    import torch

    np.random.seed(3)  # to see that nobody touches it
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    run(num_rounds=1, model="cnn", attack="noise_injection", attack_fraction=0.3)
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # type: ignore[index]
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize(
    "attack", ["label_flip(source=3, target=8)", "backdoor", "edge_case", "backdoor|model_replacement", "neurotoxin"]
)
def test_attacks_with_an_aim_measure_their_success(attack: str) -> None:
    clean = run(num_rounds=8, learning_rate=0.5, attack=attack, attack_fraction=0.0).final.attack_success
    attacked = run(num_rounds=8, learning_rate=0.5, attack=attack, attack_fraction=0.4).final.attack_success
    assert clean is not None
    assert attacked is not None
    assert attacked > clean + 0.1


def test_inflated_counts_reach_the_mean_and_no_robust_rule() -> None:
    told: list[Any] = []

    def attacked(rule: str, attack: str | None) -> float:
        metrics = run(num_rounds=10, aggregation=rule, byzantine_fraction=0.2, attack=attack, learning_rate=0.3)
        told.append(metrics.final)
        return metrics.final.accuracy

    assert attacked("mean", "sign_flip|inflated_count") < 0.3 < 0.7 < attacked("mean", "sign_flip")
    assert attacked("trimmed_mean", "sign_flip|inflated_count") == attacked("trimmed_mean", "sign_flip")


def test_drop_out_and_stale() -> None:
    silent = run(num_rounds=3, attack="drop_out", attack_fraction=0.3)
    assert [result.num_clients for result in silent.rounds] == [7, 7, 7]
    assert all(set(result.rejected.values()) == {"sent nothing"} for result in silent.rounds)
    old, fresh = (run(num_rounds=4, attack=f"stale(delay={delay})", attack_fraction=0.3).rounds for delay in (2, 0))
    assert old[0] == fresh[0]
    assert all(a.num_clients == 10 and a.deviation != b.deviation for a, b in zip(old[1:], fresh[1:], strict=True))


def test_non_finite_attackers_are_rejected_and_the_rest_goes_on() -> None:
    metrics = run(num_rounds=2, aggregation="krum", byzantine_fraction=0.3, attack="non_finite")
    assert all(set(result.rejected.values()) == {"non-finite numbers"} for result in metrics.rounds)
    assert [(result.num_clients, result.f) for result in metrics.rounds] == [(7, 3), (7, 3)]


@pytest.mark.parametrize("rule", ["fltrust", "foolsgold", "centered_clipping", "bucketing(size=2)|krum", "dnc", "monna"])
def test_rules_that_ask_for_context_are_told(rule: str) -> None:
    assert run(num_rounds=2, aggregation=rule, byzantine_fraction=0.2, attack="sign_flip").final.round == 2


@pytest.mark.parametrize("attack", ["optimized", "worst_case", "mimic", "relocated_orthogonal", "min_max", "fang_krum"])
def test_omniscient_attacks_run_in_a_federation(attack: str) -> None:
    metrics = run(num_rounds=2, aggregation="trimmed_mean", byzantine_fraction=0.3, attack=attack)
    assert metrics.final.deviation > 0


class Quadratic:
    """Minimises |w - centre|^2 / 2 by one step."""

    def __init__(self, centre: float) -> None:
        self.centre = centre

    def fit(self, parameters: np.ndarray, round: int) -> ClientUpdate:
        del round
        return ClientUpdate(0.5 * (self.centre - parameters), 1, float(np.mean((self.centre - parameters) ** 2)))

    def evaluate(self, parameters: np.ndarray) -> Any:
        from fl_impl import Evaluation

        return Evaluation(float(np.mean((self.centre - parameters) ** 2)), float("nan"))


def test_clients_of_the_users_own() -> None:
    clients = [Quadratic(1.0), Quadratic(2.0), Quadratic(3.0)]
    coordinator = FederatedLearningCoordinator(FLConfig(num_rounds=30, num_clients=3), parameters=np.zeros(5))
    metrics = coordinator.run(clients, output=None)
    np.testing.assert_allclose(coordinator.parameters, 2.0, rtol=1e-6)
    assert metrics.final.global_loss == pytest.approx(2 / 3)
    assert np.isnan(metrics.final.accuracy)
    with pytest.raises(ValueError, match=r"no poisoned\(attack, rng\)"):
        coordinator.inject_attack(attack="label_flip", fraction=0.4)
        coordinator.simulate_round(clients)


class Broken(Quadratic):
    """Its evaluation fails as `answer` says: it is raised, or given back."""

    def __init__(self, answer: Any) -> None:
        super().__init__(2.0)
        self.answer = answer

    def evaluate(self, parameters: np.ndarray) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer == "hang":
            time.sleep(5)
        return self.answer


@pytest.mark.parametrize("answer", [RuntimeError("no data"), SystemExit(3), None, (0.5, 0.5), "hang"], ids=str)
def test_a_client_whose_evaluation_fails_is_left_out_of_it_and_said_so(answer: Any) -> None:
    clients = [Quadratic(1.0), Broken(answer), Quadratic(3.0)]
    config = FLConfig(num_rounds=1, num_clients=3, client_timeout=0.5 if answer == "hang" else None)
    coordinator = FederatedLearningCoordinator(config, parameters=np.zeros(5))
    with pytest.warns(UserWarning, match="client 1 is left out of the evaluation"):
        metrics = coordinator.run(clients, output=None)
    assert metrics.final.num_clients == 3  # its update counts
    assert metrics.final.global_loss == pytest.approx(np.mean([(c - coordinator.parameters[0]) ** 2 for c in (1.0, 3.0)]))


def test_no_clients_is_an_error() -> None:
    with pytest.raises(ValueError, match="got none"):
        FederatedLearningCoordinator(FLConfig()).simulate_round([])


def test_clients_may_have_other_data_than_the_configuration_says() -> None:
    config = FLConfig(num_rounds=2, num_clients=4)
    clients = make_clients(config, dataset="wine", partition="dirichlet(5.0)")
    metrics = FederatedLearningCoordinator(config).run(clients, output=None)
    assert sum(metrics.clients["samples"]) == len(clients[0].data) < 178
    with pytest.raises(ValueError, match="did you mean 'partition'"):
        make_clients(config, partitoin="iid")


def test_data_that_the_user_brings() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 4))
    metrics = run(num_rounds=5, dataset=(x, (x[:, 0] > 0).astype(int)), learning_rate=0.5)
    assert metrics.final.accuracy > 0.85
    regression = run(num_rounds=5, dataset=(x, x @ [1.0, 2.0, 0.0, 0.0]), model="linear", learning_rate=0.2)
    assert regression.final.global_loss < 0.2
    assert np.isnan(regression.final.accuracy)
