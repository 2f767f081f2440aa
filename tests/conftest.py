"""What every test of the suite gets."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

# In-process pytester forgets the modules that its run imports: numpy then refuses to load twice, and classes lose their
# identity. So everything that a test may import is imported here first, before pytester takes its snapshot.
import hypothesis
import numpy as np
import pytest
import torch

import fl_impl.aggregators
import fl_impl.aggregators.kernels.on_arrays
import fl_impl.attacks
import pytest_fl.adapters
import pytest_fl.adapters.registry
import pytest_fl.checks
import pytest_fl.engine.cases
import pytest_fl.engine.runner
import pytest_fl.plugin
import pytest_fl.plugin.summary
import pytest_fl.reporting.page

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers would wait for one another
    torch.set_num_threads(1)

for _registry in (fl_impl.aggregators.ALL, fl_impl.attacks.ALL, pytest_fl.adapters.registry.ADAPTERS, pytest_fl.checks.CHECKS):
    list(_registry)  # a module of things is imported at the first look-up, and that of a check brings SciPy

pytest_plugins = ["pytester"]

ROOT = Path(pytest_fl.__file__).parents[1]
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # a busy machine is not a slow test
)
hypothesis.settings.load_profile("suite")
IMPORTED = (fl_impl, hypothesis, np, pytest_fl, torch)


STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-seconds", type=float, metavar="N", help="skip, with that reason, slow tests that would start later"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what no longer fits into the time that CI has; -ra lists it."""
    limit = item.config.getoption("--slow-seconds")
    if limit is not None and item.get_closest_marker("slow") and time.monotonic() - STARTED > limit:
        pytest.skip(f"not run: the {limit:.0f} seconds for slow tests are used up")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let children be interrupted; let benchmarks take their time only where --benchmark-only or --benchmark-enable asks."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a shell; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    options = config.option
    if not (getattr(options, "benchmark_only", False) or getattr(options, "benchmark_enable", False)):
        options.benchmark_disable = True


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest in an empty folder with this plugin and those asked for by -p, whatever else is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for subprocesses, where the package is not installed
    # With CI set, pytest prints every failure a second time, whole, in its short summary.
    for inherited in ("CI", "BUILD_NUMBER", "GITHUB_STEP_SUMMARY", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(inherited, raising=False)

    def run(*arguments: str) -> pytest.RunResult:
        quiet = "ignore::pytest.PytestAssertRewriteWarning"  # the plugin is loaded already, by this very run
        return pytester.runpytest_inprocess("-p", "pytest_fl.plugin", "-p", "no:cacheprovider", "-W", quiet, *arguments)

    return run
