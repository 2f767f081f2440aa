"""Grids of federations: every aggregator against every attack, at every fraction, over seeds, on all cores, resumable."""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl_impl.config import FLConfig
from fl_impl.experiment.fingerprint import fingerprint
from fl_impl.metrics import FLMetrics

NONE = "none"
"""The attack that is none: the clean run that the others are compared with."""


@dataclass(frozen=True)
class Trial:
    """One federation of a grid."""

    aggregator: str
    attack: str
    fraction: float
    seed: int
    settings: dict[str, Any] = field(default_factory=dict[str, Any], compare=False, hash=False)
    """The other fields of FLConfig."""

    def config(self) -> FLConfig:
        """Its configuration. Raises ValueError where it contradicts itself."""
        attack = None if self.attack == NONE else self.attack
        chosen: dict[str, Any] = {
            "aggregation": self.aggregator,
            "attack": attack,
            "byzantine_fraction": self.fraction,
            "seed": self.seed,
        }
        return FLConfig(**{**self.settings, **chosen})

    def path(self, folder: Path) -> Path:
        """Where its metrics are kept: named by all that decides them, so that another grid finds what is done."""
        return folder / "runs" / f"{fingerprint(self.config())[:16]}.json"


@dataclass(frozen=True)
class TrialGrid:
    """What is compared. Every aggregator also runs without attack."""

    aggregators: tuple[str, ...]
    attacks: tuple[str, ...]
    fractions: tuple[float, ...] = (0.2,)
    seeds: tuple[int, ...] = (0,)
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def trials(self) -> list[Trial]:
        """All of them, clean runs first. Raises ValueError where one is inadmissible, before any has run."""
        attacks = (NONE, *(attack for attack in self.attacks if attack != NONE))
        found = [
            Trial(aggregator, attack, fraction, seed, self.settings)
            for attack in attacks
            for aggregator in self.aggregators
            for fraction in self.fractions
            for seed in self.seeds
        ]
        for trial in found:
            trial.config()
        return found


def kept(trial: Trial, folder: Path) -> FLMetrics | None:
    """The result of a trial where it is done, with these data, models and code. One that broke down is not kept."""
    path = trial.path(folder)
    metrics = FLMetrics.load(path) if path.exists() else None
    return None if metrics is None or metrics.error else metrics


def run_trial(trial: Trial, folder: Path) -> FLMetrics:
    """Run one federation and write its metrics. One that breaks down is a result too, with its reason in `error`."""
    path = trial.path(folder)
    import torch  # noqa: PLC0415  # workers import it, the process that plans does not

    from fl_impl.clients import make_clients  # noqa: PLC0415  # as above
    from fl_impl.coordinator import FederatedLearningCoordinator  # noqa: PLC0415  # as above

    torch.set_num_threads(1)
    config = trial.config()
    coordinator = FederatedLearningCoordinator(config)
    try:
        metrics = coordinator.run(make_clients(config), output=None)
    except ValueError as error:
        metrics = coordinator.metrics
        metrics.error = str(error)
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics.save(path)
    return metrics


def run_grid(
    grid: TrialGrid,
    folder: Path,
    *,
    workers: int | None = None,
    fresh: bool = False,
    on_done: Callable[[Trial, FLMetrics], None] | None = None,
) -> dict[Trial, FLMetrics]:
    """Run all trials that are not done, on `workers` processes (all cores if None), and return all results.

    What is done stays done, as long as settings, data, models and code are the same (see `fingerprint`): a run that is
    interrupted is taken up again by the next call. fresh=True runs all of them again.
    """
    trials, results = grid.trials(), dict[Trial, FLMetrics]()
    for trial in () if fresh else trials:
        metrics = kept(trial, folder)
        if metrics is not None:
            results[trial] = metrics
            if on_done is not None:
                on_done(trial, metrics)
    for trial, metrics in _parallel(
        [trial for trial in trials if trial not in results], folder, workers or os.cpu_count() or 1
    ):
        results[trial] = metrics
        if on_done is not None:
            on_done(trial, metrics)
    return {trial: results[trial] for trial in trials}


def _parallel(trials: Sequence[Trial], folder: Path, workers: int) -> Iterator[tuple[Trial, FLMetrics]]:
    """(trial, its metrics) as they end."""
    if workers == 1 or len(trials) < 2:
        for trial in trials:
            yield trial, run_trial(trial, folder)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(trials)), mp_context=context) as pool:
        waiting: dict[Future[FLMetrics], Trial] = {pool.submit(run_trial, trial, folder): trial for trial in trials}
        try:
            while waiting:
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(done), done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class Comparison:
    """The results of a grid, looked up by aggregator, attack and fraction."""

    results: Mapping[Trial, FLMetrics]

    @property
    def aggregators(self) -> list[str]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(trial.aggregator for trial in self.results))

    @property
    def attacks(self) -> list[str]:
        """In the order in which they were asked for, "none" first."""
        return list(dict.fromkeys(trial.attack for trial in self.results))

    @property
    def fractions(self) -> list[float]:
        """The Byzantine fractions of the grid, ascending."""
        return sorted({trial.fraction for trial in self.results})

    def runs(self, aggregator: str, attack: str, fraction: float) -> list[FLMetrics]:
        """The metrics of these settings, one for each seed."""
        wanted = (aggregator, attack, fraction)
        return [metrics for t, metrics in self.results.items() if (t.aggregator, t.attack, t.fraction) == wanted]

    def accuracy(self, aggregator: str, attack: str, fraction: float) -> float:
        """After the last round, mean over the seeds; NaN where no run got through a round."""
        return mean(run.rounds[-1].accuracy for run in self.runs(aggregator, attack, fraction) if run.rounds)

    def worst(self, aggregator: str, fraction: float) -> float:
        """Under the attack that hurts most."""
        values = (self.accuracy(aggregator, attack, fraction) for attack in self.attacks)
        return min((value for value in values if not math.isnan(value)), default=math.nan)

    def course(self, aggregator: str, attack: str, fraction: float) -> list[tuple[float, float]]:
        """(round, accuracy), mean over the seeds, as far as all of them went."""
        lines = zip(*(run.rounds for run in self.runs(aggregator, attack, fraction)), strict=False)
        return [(float(line[0].round), mean(result.accuracy for result in line)) for line in lines]


def mean(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
