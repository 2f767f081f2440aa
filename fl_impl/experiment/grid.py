"""Grids of federations: every aggregator against every attack, at every fraction, over seeds, on all cores, resumable."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fl_impl.config import FLConfig
from fl_impl.experiment.fingerprint import fingerprint
from fl_impl.metrics import FLMetrics

Result = TypeVar("Result")
Label = TypeVar("Label")
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
    coordinator, clients = FederatedLearningCoordinator(config), make_clients(config)
    try:
        metrics = coordinator.run(clients, output=None)
        metrics.clients |= least_served(coordinator.parameters, clients)
    except ValueError as error:
        metrics = coordinator.metrics
        metrics.error = str(error)
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics.save(path)
    return metrics


def least_served(parameters: Any, clients: Sequence[Any]) -> dict[str, list[float]]:
    """The final model's "accuracy" on the data of each client, and "class_accuracy" on the held-out data of each class."""
    task, test = clients[0].task, clients[0].test
    if not test.classes:
        return {}
    classes = [test.take((test.y == label).nonzero()[0]) for label in range(test.classes)]
    return {
        "accuracy": [round(client.evaluate(parameters).accuracy, 6) for client in clients],
        "class_accuracy": [round(task.evaluate(parameters, part).accuracy, 6) for part in classes if len(part)],
    }


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
    return run_trials(grid.trials(), folder, workers=workers, fresh=fresh, on_done=on_done)


def run_trials(
    trials: Sequence[Trial],
    folder: Path,
    *,
    workers: int | None = None,
    fresh: bool = False,
    on_done: Callable[[Trial, FLMetrics], None] | None = None,
) -> dict[Trial, FLMetrics]:
    """The results of these trials in their order, as `run_grid` gets them."""
    results = dict[Trial, FLMetrics]()
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
    yield from parallel(run_trial, [(trial, folder) for trial in trials], trials, workers)


def parallel(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], labels: Sequence[Label], workers: int
) -> Iterator[tuple[Label, Result]]:
    """(label, function(*call)) as they end, on so many processes; in this one where there is one worker, or one call."""
    if workers == 1 or len(calls) < 2:
        for label, call in zip(labels, calls, strict=True):
            yield label, function(*call)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(calls)), mp_context=context) as pool:
        waiting: dict[Future[Result], Label] = {
            pool.submit(function, *call): label for label, call in zip(labels, calls, strict=True)
        }
        try:
            while waiting:
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(done), done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
