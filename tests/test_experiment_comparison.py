"""Statistics over seeds, the search for the strongest attack, and the tables that show both."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from fl_impl import FLConfig, FLMetrics
from fl_impl.attacks import resolve
from fl_impl.experiment import search
from fl_impl.experiment.comparison import Comparison, better, estimate
from fl_impl.experiment.grid import NONE, Trial, TrialGrid, run_grid
from fl_impl.experiment.search import HELD_OUT, candidates, neighbours, strongest
from fl_impl.experiment.tables import COLUMNS, to_csv, to_latex, to_markdown
from fl_impl.metrics import RoundResult


def made(values: dict[tuple[str, str, float], list[float]]) -> Comparison:
    """A comparison with these final accuracies, one for each seed."""
    results = {
        Trial(rule, attack, fraction, seed): FLMetrics(rounds=[RoundResult(1, 0.1, value, 0.0, 5, seconds=0.25)])
        for (rule, attack, fraction), series in values.items()
        for seed, value in enumerate(series)
    }
    return Comparison(results)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [estimate(rng.normal(0.5, 0.1, 20).tolist()) for _ in range(200)]
    assert (
        0.88 <= np.mean([e.low <= 0.5 <= e.high for e in found]) <= 0.98
    )  # of 20 values the percentile method is a little short
    assert estimate([0.5]).mean == 0.5
    assert math.isnan(estimate([0.5]).low)
    assert str(estimate([math.nan])) == "failed"
    assert estimate([0.25, 0.75, math.nan]).mean == 0.5


def test_better_is_paired() -> None:
    base = [0.1, 0.5, 0.9]  # the seeds differ by more than the rules
    assert better([value + 0.01 for value in base], base)
    assert not better(base, [value + 0.01 for value in base])
    assert not better([0.2, 0.4, 0.9], base)
    assert better([0.6], [0.5])


def test_headline_ranks_and_breakdown() -> None:
    values = {}
    for fraction, (weak, strong) in {0.1: (0.9, 0.93), 0.2: (0.5, 0.92)}.items():
        for rule, harmed in (("mean", weak), ("krum", strong), ("meamed", strong)):
            values[rule, NONE, fraction] = [0.95, 0.95, 0.95]
            values[rule, "zero", fraction] = [harmed - 0.01, harmed, harmed + 0.01]
    values["krum", "min_max", 0.2] = [0.88, 0.9, 0.92]  # found for Krum alone
    comparison = made(values)
    assert comparison.shared_attacks == [NONE, "zero"]
    assert comparison.headline("krum", 0.2).attack == "min_max"
    assert comparison.headline("krum", 0.2).lost == pytest.approx(5)
    assert comparison.ranks(0.1) == {"mean": 3, "krum": 1, "meamed": 1}
    assert comparison.ranks(0.2)["mean"] == 3
    assert comparison.breakdown("mean") == 0.1
    assert comparison.breakdown("krum") == 0.2
    said = to_markdown(comparison)
    assert "| 1 | meamed | 95.0 [95.0, 95.0] |" in said
    assert "| mean | 0.1 |" in said
    assert "| krum | >= 0.2 |" in said


def test_the_csv_is_csv_and_the_latex_escapes() -> None:
    attack = "optimized(attack='sign_flip', evaluations=8)|x,\"y\""
    comparison = made({("nnm|trimmed_mean", NONE, 0.2): [0.9], ("nnm|trimmed_mean", attack, 0.2): [0.8]})
    lines = list(csv.reader(io.StringIO(to_csv(comparison))))
    assert tuple(lines[0]) == COLUMNS
    assert lines[2][:5] == ["nnm|trimmed_mean", attack, "0.2", "0", "0.8"]
    assert lines[2][COLUMNS.index("seconds_per_round")] == "0.25"
    assert r"nnm\textbar{}trimmed\_mean" in to_latex(comparison)
    assert r"\|" in to_markdown(comparison)


def test_every_candidate_is_an_attack_that_can_be_run_again() -> None:
    found = candidates()
    assert len(found) == len(set(found)) > 50
    for spec in found:
        assert resolve(resolve(spec).spec).spec == resolve(spec).spec
        for near in neighbours(spec, 40):
            FLConfig(attack=near, byzantine_fraction=0.2)
    assert candidates(["min_max"]) == ["min_max"]
    assert "sign_flip(scale=4.0)" in candidates(["sign_flip"])


def test_the_search_finds_the_best_of_known_accuracies_within_its_budget(monkeypatch, tmp_path) -> None:
    """Accuracies that are made up: the search must find their least, and count what it runs."""
    ran = []

    def accuracy(spec: str, seed: int) -> float:
        factor = resolve(spec).options.get("scale", 1.0) if spec.startswith("sign_flip") else 1.0
        return 0.95 if spec == NONE else 0.5 + 0.3 * abs(float(factor) - 6.0) / 6 + 0.001 * (seed % 2)

    def run(trial: Trial, folder: object) -> FLMetrics:
        ran.append(trial)
        return FLMetrics(rounds=[RoundResult(1, 0.1, accuracy(trial.attack, trial.seed), 0.0, 5)])

    monkeypatch.setattr(search, "run_trial", run)
    found = strongest("mean", "digits", families=["sign_flip", "mimic", "zero"], budget=40, folder=tmp_path)
    assert found.attack == "sign_flip(scale=6.0)"  # 4 was a candidate, and 1.5 times that a neighbour
    assert len(ran) == found.federations <= 40 + len(found.seeds)
    assert min(trial.seed for trial in ran) == HELD_OUT
    assert found.lost > 40


def test_a_real_search_beats_the_default_and_is_repeated(tmp_path) -> None:
    settings = {"dataset": "wine", "num_rounds": 8, "num_clients": 10, "local_steps": 1, "learning_rate": 0.5}
    found, again = (
        strongest("mean", settings, families=["sign_flip", "mimic"], budget=14, folder=tmp_path / name) for name in "ab"
    )
    assert again == found
    assert found.tried[found.attack] < found.tried["sign_flip"]
    with pytest.raises(ValueError, match="8 at least; got 3"):
        strongest("mean", settings, budget=3, folder=tmp_path)


def test_the_worst_client_and_class_are_known(tmp_path) -> None:
    grid = TrialGrid(("mean",), (), (0.2,), (0,), {"dataset": "wine", "num_rounds": 2, "num_clients": 4})
    comparison = Comparison(run_grid(grid, tmp_path, workers=1))
    (metrics,) = comparison.results.values()
    assert len(metrics.clients["accuracy"]) == 4
    assert len(metrics.clients["class_accuracy"]) == 3
    line = next(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert float(line["worst_class"]) == min(metrics.clients["class_accuracy"])
