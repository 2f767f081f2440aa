"""The updates that rules are timed on."""

from dataclasses import dataclass

import numpy as np
import pytest

IN_A_PLAIN_RUN = 4096
"""Coordinates where benchmarks are disabled: then only that every rule runs is of interest."""


@dataclass(frozen=True)
class Case:
    """n clients, f of them Byzantine, d coordinates."""

    n: int
    f: int
    d: int

    def __str__(self):
        return f"{self.n}-{self.f}-{self.d}"


CASES = (
    Case(10, 2, 100_000),
    Case(20, 4, 460_800),  # the LoRA adapters of a SmolLM2-135M: rank 8 on q_proj and v_proj
    Case(20, 4, 1_000_000),
    Case(50, 10, 1_000_000),
    Case(100, 20, 100_000),
)


@pytest.fixture(scope="session", params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture(scope="session")
def updates(case, request):
    """Standard normal rows, of which the last f are ten times as large."""
    d = IN_A_PLAIN_RUN if request.config.getoption("benchmark_disable") else case.d
    x = np.random.default_rng(0).standard_normal((case.n, d), dtype=np.float32)
    x[case.n - case.f :] *= 10
    return x
