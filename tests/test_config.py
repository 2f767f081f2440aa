"""FLConfig: exact counts, loading, nearest names, contradictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_impl import FLConfig


def test_f_is_the_exact_share_of_those_who_are_asked() -> None:
    assert FLConfig(byzantine_fraction=143 / 1003, num_clients=1003).tolerated(1003) == 143
    sampled = FLConfig(byzantine_fraction=0.2, num_clients=20, fraction_fit=0.5, aggregation="trimmed_mean")
    assert sampled.tolerated(10) == 2
    assert sampled.model_copy(update={"sample_tolerance": 0.0}).tolerated(10) == 4
    assert sampled.model_copy(update={"sample_tolerance": 0.1}).tolerated(10) == 3


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".toml", 'num_rounds = 7\naggregation = "krum"\nbyzantine_fraction = 0.2\n'),
        (".yaml", "num_rounds: 7\naggregation: krum\nbyzantine_fraction: 0.2\n"),
        (".json", json.dumps({"num_rounds": 7, "aggregation": "krum", "byzantine_fraction": 0.2})),
    ],
)
def test_loads_from_files(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"federation{suffix}"
    path.write_text(text)
    config = FLConfig.load(path, seed=3)
    assert (config.num_rounds, config.rule.name, config.seed) == (7, "krum", 3)


@pytest.mark.parametrize(("name", "text"), [("a.ini", ""), ("a.yaml", "- 1"), ("a.json", "[]")])
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="expected a"):
        FLConfig.load(tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agregation": "krum"}, "did you mean 'aggregation'"),
        ({"aggregation": "krumm"}, "did you mean 'krum'"),
        ({"attack": "sign_flp"}, "did you mean 'sign_flip'"),
        ({"num_rounds": 0}, "greater than or equal to 1"),
        ({"byzantine_fraction": 1.0}, "less than 1"),
        ({"aggregation": "krum", "byzantine_fraction": 0.5}, "needs n >= 11 clients a round for f=5"),
        ({"aggregation": "krum", "byzantine_fraction": 0.4, "num_clients": 5, "fraction_fit": 0.8}, None),
        ({"min_clients": 6, "fraction_fit": 0.5}, "more than the 5 clients of a round"),
        ({"local_steps": 3, "local_epochs": 2}, "local_steps replaces local_epochs"),
        ({"client_algorithm": "scaffold"}, "give local_steps"),
        ({"client_algorithm": "fedprx"}, "did you mean 'fedprox'"),
        ({"client_algorithm": "fedprox(mu=-1)"}, "mu of fedprox"),
        ({"attack_fraction": 0.2}, "without an attack"),
        ({"attack": "zero", "attack_start": 5, "attack_stop": 4}, "is before"),
        ({"dp_epsilon": 1.0}, "differential_privacy=True"),
        ({"server_optimizer": "adm"}, "did you mean 'adam'"),
        ({"partition": "dirichlet"}, "alpha"),
        ({"partition": "dirichlt(0.5)"}, "did you mean 'dirichlet'"),
    ],
)
def test_wrong_settings_say_what_is_right(settings: dict[str, object], message: str | None) -> None:
    if message is None:
        assert FLConfig(**settings).tolerated(4) == 1
        return
    with pytest.raises(ValueError, match=message):
        FLConfig(**settings)


def test_what_the_clients_do() -> None:
    assert FLConfig(aggregation="fedprox").algorithm == ("fedprox", 0.01)
    assert FLConfig(client_algorithm="fedprox(0.5)").algorithm == ("fedprox", 0.5)
    assert FLConfig(client_algorithm="scaffold", local_steps=4).algorithm == ("scaffold", 0.0)
    assert FLConfig().algorithm == ("sgd", 0.0)


def test_attackers_may_be_other_than_what_is_tolerated() -> None:
    assert FLConfig(byzantine_fraction=0.3, attack="zero").attackers == 3
    assert FLConfig(byzantine_fraction=0.3, attack="zero", attack_fraction=0.1).attackers == 1
    assert FLConfig(byzantine_fraction=0.3).attackers == 0


def test_objects_are_described_by_their_specs() -> None:
    from fl_impl.aggregators import multi_krum
    from fl_impl.attacks import ALL

    said = FLConfig(aggregation=multi_krum(m=3), attack=ALL["zero"], byzantine_fraction=0.2).model_dump(mode="json")
    assert (said["aggregation"], said["attack"]) == ("multi_krum(m=3)", "zero")
    assert FLConfig(**said).rule.spec == "multi_krum(m=3)"
