"""The pytest plugin: options, markers, fixtures, and the table at the end; it imports only pytest until it is used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from pytest_fl.plugin import benchmarks, faults, fixtures, flower_app, knobs
from pytest_fl.reporting import current

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_fl.reporting.report import Report

MULTIPLIED: Final = ("aggregator", "attack")
"""Knobs that name several things: a test that uses the fixture runs once for each."""
REPORT: Final[pytest.StashKey[tuple[Report, list[str]]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini keys of the knobs."""
    knobs.add_options(parser)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With --fl-list, list what there is and run nothing, as --fixtures does."""
    if not config.getoption("fl_list"):
        return None
    from pytest_fl.plugin import listing  # noqa: PLC0415  # it imports fl_impl when it is asked

    for line in listing.lines():
        print(line)  # noqa: T201  # it is what was asked for
    return 0


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures and the markers, and refuse values that are none before anything is collected."""
    current.own_descriptors()
    targets = sys.modules.get("pytest_fl.engine.targets")
    if targets is not None:  # a run inside another, as of pytester, has names of its own
        targets.KNOWN.clear()
    for module in (fixtures, benchmarks, faults, flower_app):
        config.pluginmanager.register(module, module.__name__)
    keywords = ", ".join(f"{name}=..." for name in knobs.KNOBS)
    config.addinivalue_line("markers", f"fl({keywords}): settings of federated tests; the command line wins over them")
    config.addinivalue_line("markers", "byzantine: tests under attack; -m byzantine and -k byzantine select them")
    knobs.report_paths(config)
    for name in knobs.KNOBS:
        if name not in MULTIPLIED:  # names are read where they are used: only then is fl_impl imported
            knobs.given(name, config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line, and only where somebody turned a knob or asked for more output."""
    said = [(name, config.getoption(f"fl_{name}")) for name in (*knobs.KNOBS, "report", "bench_compare")]
    turned = [f"{name}={raw}" for name, raw in said if raw is not None]
    if not turned and config.get_verbosity() < 1:
        return None
    return f"fl: {', '.join(turned) or 'nothing set on the command line'}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Check the markers `fl`, and run a test that uses a rule or an attack once for each that was named."""
    item = metafunc.definition
    try:
        for marker in item.iter_markers("fl"):
            knobs.check_marker(marker)
        for name in MULTIPLIED:
            _multiply(metafunc, name)
    except pytest.UsageError as error:
        pytest.fail(str(error), pytrace=False)


def _multiply(metafunc: pytest.Metafunc, name: str) -> None:
    fixture = f"fl_{name}"
    if fixture not in metafunc.fixturenames or fixture in _parametrized(metafunc.definition):
        return
    given = knobs.given(name, metafunc.config, metafunc.definition)
    if given:
        metafunc.parametrize(fixture, given, indirect=True, ids=given)


def _parametrized(item: pytest.Item) -> set[str]:
    found: list[str] = []
    for marker in item.iter_markers("parametrize"):
        argnames = marker.args[0] if marker.args else marker.kwargs["argnames"]
        found += argnames.split(",") if isinstance(argnames, str) else argnames
    return {name.strip() for name in found}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let cases find the item that runs them, its profile and its seed."""
    running = current.Current(
        profile=knobs.value("profile", item.config, item),
        seed=knobs.value("seed", item.config, item),
        rootdir=item.config.rootpath,
        record=lambda row: item.user_properties.append((current.ROW, row)),
        nodeid=_typed(item),
        isolation="none" if item.config.getoption("usepdb") else knobs.value("isolation", item.config, item),
    )
    token = current.item.set(running)
    try:
        result = yield
        _refuse_unasked(item)
    finally:
        current.item.reset(token)
    return result


def _refuse_unasked(item: pytest.Item) -> None:
    """A test that was given a check and never called it has looked at nothing: that is no pass."""
    cases = sys.modules.get("pytest_fl.engine.cases")
    case = getattr(item, "funcargs", {}).get("check")
    if cases is None or not isinstance(case, cases.Case):
        return
    if not any(name == current.ROW for name, _ in item.user_properties):
        pytest.fail("expected the test to call its check, got none: the body of a conformance test is check()", pytrace=False)


def _typed(item: pytest.Item) -> str:
    """The node id as it would be typed where pytest was called: there it is relative to, not to the root."""
    rest = item.nodeid.partition("::")[2]
    folder = item.config.invocation_params.dir
    path = item.path.relative_to(folder) if item.path.is_relative_to(folder) else item.path
    return f"{path}::{rest}" if rest else item.nodeid


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """End the children of judged subjects while pytest-cov, which is further out, still counts their lines."""
    try:
        return (yield)
    finally:
        cases = sys.modules.get("pytest_fl.engine.cases")
        if cases is not None:
            cases.close_all()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the reports that were asked for; the controller alone does, with every worker's rows."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None:
        return
    from pytest_fl.plugin import summary  # noqa: PLC0415  # at the end, and the standard library only

    report = summary.gathered(reporter)
    told = [summary.write(report, config.invocation_params.dir / path) for path in knobs.report_paths(config)]
    told.append(summary.append_to_job(report))
    config.stash[REPORT] = report, [line for line in told if line]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The tables of rules and federations, and where reports were written."""
    report, told = config.stash.get(REPORT, (None, []))
    if report is None or not (report.rows or report.runs or told):
        return
    from pytest_fl.reporting.tables import lines  # noqa: PLC0415  # loaded by now

    terminalreporter.write_sep("=", "federated learning under attack")
    for line, bad in lines(report.rows, report.runs):
        terminalreporter.write_line(line, red=bad)
    for line in told:
        terminalreporter.write_line(line)
