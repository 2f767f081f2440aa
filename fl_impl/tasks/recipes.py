"""The tasks that come with the package.

Each accuracy is what this prints, PARTITION being one of the task's:
fl-experiment compare --task NAME --partition PARTITION --aggregators mean --attacks none --strongest 0
"""

from __future__ import annotations

from typing import Any, Final

from fl_impl.tasks.base import BenchmarkTask, task

MOMENTUM: Final[dict[str, Any]] = {"local_steps": 1, "client_momentum": 0.9}
"""One step a round with worker momentum, as base.py says; 0.9 is the beta of both sources."""


@task
def digits() -> BenchmarkTask:
    """1,797 handwritten digits of 8 x 8 pixels, an MLP with 64 hidden units, 20 clients, 100 rounds."""
    settings = {"dataset": "digits", "model": "mlp", "num_clients": 20, "num_rounds": 100, "batch_size": 32}
    return BenchmarkTask({**settings, **MOMENTUM, "learning_rate": 1.0}, {"iid": 0.961, "dirichlet(0.3)": 0.964}, name="digits")


@task
def tumours() -> BenchmarkTask:
    """569 tumours of 30 measurements (tabular), logistic regression, 20 clients, 60 rounds."""
    settings = {"dataset": "breast_cancer", "model": "linear", "num_clients": 20, "num_rounds": 60, "batch_size": 16}
    return BenchmarkTask(
        {**settings, **MOMENTUM, "learning_rate": 0.5}, {"iid": 0.977, "dirichlet(0.3)": 0.975}, name="tumours"
    )


@task
def exercises() -> BenchmarkTask:
    """Exercises of 10 people seen by a smart watch, an MLP, 10 clients: by person, one client is one person. 100 rounds."""
    settings = {"dataset": "watch", "model": "mlp", "num_clients": 10, "num_rounds": 100, "batch_size": 32}
    clean = {"natural": 0.899, "iid": 0.895, "dirichlet(0.3)": 0.897}
    return BenchmarkTask({**settings, **MOMENTUM, "learning_rate": 0.5}, clean, name="exercises")


@task
def characters() -> BenchmarkTask:
    """The next character in Hamlet, a language model with a context of 8, 20 clients: by speaker, each is one. 200 rounds."""
    settings = {"dataset": "characters", "model": "next_character", "num_clients": 20, "num_rounds": 200, "batch_size": 64}
    clean = {"natural": 0.364, "iid": 0.382, "dirichlet(0.3)": 0.38}
    return BenchmarkTask({**settings, **MOMENTUM, "learning_rate": 1.0}, clean, name="characters")


@task
def mnist() -> BenchmarkTask:
    """5,000 digits of MNIST of 28 x 28 pixels, a small CNN with BatchNorm, 20 clients, 40 rounds."""
    settings = {"dataset": "mnist5000", "model": "cnn(batch_norm=True)", "num_clients": 20, "num_rounds": 40, "batch_size": 16}
    return BenchmarkTask({**settings, **MOMENTUM, "learning_rate": 0.5}, {"iid": 0.931, "dirichlet(0.3)": 0.942}, name="mnist")
