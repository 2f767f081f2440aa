"""Named tasks that converge: data, model, training and the accuracy that they reach, so that an attack has something to spoil.

A task is settings of `FLConfig` and, for each of its partitions, the accuracy of a clean run. The clients take one step of SGD
a round with momentum 0.9 of their own, (1 - beta) g + beta m: without memory robust rules lose to attacks that are small in
each round and consistent over many (Karimireddy, He & Jaggi 2021, arXiv 2012.10333; Farhadkhani et al. 2022, arXiv 2205.12173).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fl_impl.common.registry import Registry
from fl_impl.common.specs import nearest

task: Registry[Any] = Registry("a task", package="fl_impl.tasks", group="pytest_fl.tasks")
"""Functions () -> BenchmarkTask; those decorated with it are known by their names."""
SLACK: Final = 0.03
"""A clean run that ends further than this below the recorded accuracy has not done the task."""


@dataclass(frozen=True)
class BenchmarkTask:
    """What is learnt, how, and how well."""

    settings: Mapping[str, Any]
    """Fields of FLConfig, but for the partition."""
    clean: Mapping[str, float]
    """Partition -> accuracy of the mean without attack after the last round, mean over the seeds 0 to 4."""
    version: int = 1
    """Raised with every change: figures of two versions are not comparable."""
    name: str = ""

    def configured(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The task's settings, with those given in their place; local_epochs takes that of local_steps.

        The partition is the task's first where none is given.
        """
        mine = {"partition": next(iter(self.clean)), **self.settings}
        if "local_epochs" in given:
            mine.pop("local_steps", None)
        return {**mine, **given}

    def shortfall(self, settings: Mapping[str, Any], accuracy: float) -> str:
        """What to say of a clean run that is worse than recorded; empty where it is not, or other settings were given."""
        recorded = self.clean.get(str(settings.get("partition")))
        if recorded is None or any(settings.get(name) != value for name, value in self.settings.items()):
            return ""
        if accuracy >= recorded - SLACK:
            return ""
        return (
            f"the clean run of task {self.name} (version {self.version}, {settings['partition']}) ends at {accuracy:.1%}, and "
            f"{recorded:.1%} is recorded: what it is compared with has not converged"
        )


def named(name: str) -> BenchmarkTask:
    """The task of that name. Raises ValueError with the nearest name for another."""
    found: BenchmarkTask = task.bind(name)()
    return found


def check_partition(chosen: BenchmarkTask, partition: str) -> None:
    """Raise ValueError for a partition that the task has no recorded accuracy for."""
    if partition not in chosen.clean:
        known = ", ".join(chosen.clean)
        raise ValueError(f"task {chosen.name} is recorded for {known}; got {partition!r}{nearest(partition, chosen.clean)}")
