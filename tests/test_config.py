"""FLConfig: exact counts, loading, nearest names, contradictions."""

from __future__ import annotations

import json
from fractions import Fraction
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


BROKEN = {
    "a.toml": ("num_rounds = 3\nseed = = 1\n", 2, 8),
    "b.toml": ('num_rounds = 3\nmodel = "mlp', 2, 13),
    "a.yaml": ("num_rounds: 3\n  seed: 1\n", 2, 7),
    "b.yaml": ("seed: [1, 2\nnum_rounds: 3\n", 2, 11),
    "c.yaml": ("seed: 1\nmodel: \x00\n", 2, 8),
    "d.yml": ("!!python/object:os.system {}\n", 1, 1),
    "a.json": ('{"num_rounds": 3,\n "seed": 1,}', 2, 12),
    "b.json": ("", 1, 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error_with_its_line_and_column(tmp_path: Path, name: str) -> None:
    text, line, column = BROKEN[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"^.*{name}, line {line}, column {column}: \S") as caught:
        FLConfig.load(tmp_path / name)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.toml", "a.yaml", "a.json"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00s", b"[" * 100_000, b"\x00\x01\x02"])
def test_a_file_of_anything_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        FLConfig.load(tmp_path / name)


FRACTIONS = ["fraction_fit", "byzantine_fraction", "attack_fraction", "sample_tolerance", "dp_delta"]


@pytest.mark.parametrize(("suffix", "text"), [(".toml", '{} = "1/3"'), (".yaml", "{}: 1/3"), (".json", '{{"{}": "1/3"}}')])
@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction_is_written_as_people_write_it(tmp_path: Path, name: str, suffix: str, text: str) -> None:
    (tmp_path / f"a{suffix}").write_text(text.format(name))
    rest = {
        "dp_delta": {"differential_privacy": True, "dp_epsilon": 1.0, "aggregation": "mean", "num_clients": 2},
        "attack_fraction": {"attack": "zero"},
    }.get(name, {})
    assert getattr(FLConfig.load(tmp_path / f"a{suffix}", **rest), name) == 1 / 3
    with pytest.raises(ValueError, match=rf"{name}[\s\S]*expected a number such as 0.3, or 1/3; got 'a third'"):
        FLConfig(**{name: "a third"})


def test_a_third_of_three_is_one() -> None:
    assert FLConfig(byzantine_fraction="1/3", num_clients=3).tolerated(3) == 1
    assert FLConfig(byzantine_fraction=Fraction(1, 3), num_clients=3).tolerated(3) == 1


NUMBERS = [name for name, field in FLConfig.model_fields.items() if "float" in str(field.annotation)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), "1e999", "-inf"], ids=repr)
def test_a_setting_that_is_not_finite_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name}\n"):
        FLConfig(**{name: value})


def test_numbers_are_all_there() -> None:
    assert {"learning_rate", "dp_clip", "dp_epsilon", "client_timeout", "client_momentum", *FRACTIONS} <= set(NUMBERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_optimizer", "sgd(learning_rate=1e999)"),
        ("partition", "dirichlet(-1e999)"),
        ("aggregation", "centered_clipping(tau=1e999)"),
        ("attack", "sign_flip(scale=1e999)"),
    ],
)
def test_an_option_of_a_spec_that_is_not_finite_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}[\s\S]*: option \w+ must be finite; got -?inf"):
        FLConfig(**{name: value})
