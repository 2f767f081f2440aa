"""Metrics: what is kept is what is read back, in every form."""

from __future__ import annotations

import csv
import json
import math
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_impl import FLMetrics, RoundResult


def made() -> FLMetrics:
    first = RoundResult(
        1, 2.5, 0.25, 0.125, 9, (3, 7), {4: 'raised X: "oh"', 2: "late"}, 360, 400, deviation=0.5, seconds=1.5, f=2
    )
    second = RoundResult(2, math.nan, math.nan, 0.5, 10, epsilon=0.75, attack_success=0.5, train_loss=1.0)
    return FLMetrics({"aggregation": "krum", "attack": "zero"}, [first, second], {"samples": [5, 6], "label_skew": [0.1, 0.2]})


def test_json_round_trip(tmp_path: Path) -> None:
    metrics = made()
    path = metrics.save(tmp_path / "a.json")
    loaded = FLMetrics.load(path)
    assert loaded.config == metrics.config
    assert loaded.clients == metrics.clients
    assert loaded.rounds[0] == metrics.rounds[0]
    assert loaded.rounds[0].seconds == 1.5
    assert loaded.rounds[0].rejected == {4: 'raised X: "oh"', 2: "late"}
    assert math.isnan(loaded.rounds[1].accuracy)
    assert (loaded.rounds[1].epsilon, loaded.rounds[1].attack_success, loaded.rounds[0].epsilon) == (0.75, 0.5, None)
    assert loaded.path == path
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_only_seconds_may_differ_between_equal_runs(tmp_path: Path) -> None:
    slow, fast = made(), made()
    fast.rounds[0] = RoundResult(**{**vars(slow.rounds[0]), "seconds": 0.1})
    assert fast.rounds == slow.rounds or math.isnan(fast.rounds[1].accuracy)
    files = [json.loads(m.save(tmp_path / name).read_text()) for m, name in ((slow, "s.json"), (fast, "f.json"))]
    assert files[0]["rounds"] == files[1]["rounds"]
    assert files[0].pop("seconds") != files[1].pop("seconds")
    assert files[0] == files[1]


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made().save(tmp_path / "a.json")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        FLMetrics().save(path)
    assert path.read_bytes() == before


def test_csv_and_pandas(tmp_path: Path) -> None:
    metrics = made()
    with metrics.to_csv(tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2"]
    assert (rows[0]["byzantine"], rows[0]["rejected"]) == ("3 7", '4: raised X: "oh"; 2: late')
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = metrics.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["accuracy"].iloc[0] == 0.25


def test_series_and_final() -> None:
    assert made().series("num_clients") == [9, 10]
    assert made().final.round == 2
    with pytest.raises(ValueError, match=r"call coordinator\.run"):
        FLMetrics().final  # noqa: B018  # a property that raises


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": 9, "rounds": []}', "", "[" * 100_000, "\0", '{"version": 1'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="not a metrics file"):
        FLMetrics.load(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 3}, "not iterable"),
        ({"seconds": [1.0]}, "shorter"),
        ({"notes": 5}, "notes"),
        ({"config": []}, "config"),
        ({"error": None}, "error"),
        ({"surprise": 1}, "surprise"),
        ({"rounds": [{}, {}]}, "round: Field required"),
        ({"rounds": "ab"}, "mapping"),
        ({"round": {"round": 7}}, "numbered"),
        ({"round": {"accuracy": "high"}}, "accuracy"),
        ({"round": {"byzantine": [1.5]}}, "byzantine"),
        ({"round": {"rejected": {"a": "b"}}}, "rejected"),
        ({"round": {"surprise": 1}}, "surprise"),
    ],
)
def test_tampered_files_are_refused_in_a_sentence_that_names_what_is_wrong(tmp_path: Path, change: Any, words: str) -> None:
    values = json.loads(made().save(tmp_path / "a.json").read_text())
    values["rounds"][0] |= change.pop("round", {})
    (tmp_path / "a.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=f"not a metrics file.*{words}") as refusal:
        FLMetrics.load(tmp_path / "a.json")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_file_with_changed_bytes_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, rng: Random) -> None:
    path = made().save(tmp_path_factory.getbasetemp() / "fuzzed.json")
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content))
        content[place : place + rng.randint(0, 6)] = bytes(
            rng.choice(b'0123456789,:[]{}"-.enul\xff') for _ in range(rng.randint(0, 4))
        )
    path.write_bytes(content)
    with suppress(ValueError):
        assert FLMetrics.load(path).final.round == 2


def test_pictures(tmp_path: Path) -> None:
    metrics = made()
    metrics.save(tmp_path / "a.json")
    metrics.plot_convergence()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    metrics.plot_convergence(tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "pytest-fl\[plots\]"'):
        made().plot_convergence()


def test_an_update_of_infinite_length_is_written_too(tmp_path: Path) -> None:
    """Under a large enough attack the deviation overflows: the run is kept all the same."""
    metrics = FLMetrics(rounds=[RoundResult(1, 0.5, 0.1, 0.0, 3, deviation=math.inf, train_loss=math.inf)])
    metrics.save(tmp_path / "a.json")
    assert math.isnan(FLMetrics.load(tmp_path / "a.json").final.deviation)
