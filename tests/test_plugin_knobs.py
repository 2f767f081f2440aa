"""Every knob in its four places, who wins, and what a wrong value says."""

import tomllib
from pathlib import Path
from typing import get_args

import pytest

from fl_impl import FLConfig
from pytest_fl.plugin.knobs import BACKENDS, KNOBS, PROFILES
from pytest_fl.subjects import profiles

ROOT = Path(__file__).parents[1]

VALUES = {
    "rounds": ("3", 3),
    "clients": ("7", 7),
    "byzantine": ("1/3", 1 / 3),
    "seed": ("0", 0),
    "profile": ("quick", "quick"),
    "backend": ("flower", "flower"),
    "strict": ("all", "all"),
    "isolation": ("none", "none"),
    "device": ("cuda", "cuda"),
}
"""What is said, and what a test then sees; `aggregator` and `attack` multiply instead: test_plugin_fixtures.py."""


def test_every_knob_is_tested():
    assert set(VALUES) | {"aggregator", "attack"} == set(KNOBS)


def test_words_are_those_that_are_understood():
    assert set(profiles.PROFILES) == set(PROFILES)
    assert get_args(FLConfig.model_fields["backend"].annotation) == BACKENDS


def asserting(pytester, expected, decorator=""):
    """A test that sees these values, by the fixture where it is the value itself (`fl_clients` are the clients)."""
    names = ", ".join(["request", *(f"fl_{name}" for name in expected if name != "clients")])
    see = "value('{0}', request.config, request.node) == {1!r}"
    lines = ["assert " + see.format(name, value) for name, value in expected.items()]
    lines += [f"assert fl_{name} == {value!r}" for name, value in expected.items() if name != "clients"]
    head = f"import pytest\nfrom pytest_fl.plugin.knobs import value\n{decorator}\ndef test_it({names}):\n    "
    pytester.makepyfile(head + "\n    ".join(lines))


def test_defaults(run, pytester):
    asserting(pytester, {name: KNOBS[name].default for name in VALUES})
    run().assert_outcomes(passed=1)


@pytest.mark.parametrize(("name", "said", "seen"), [(name, *pair) for name, pair in VALUES.items()])
def test_option_ini_and_marker(run, pytester, name, said, seen):
    asserting(pytester, {name: seen})
    run(f"--fl-{name}={said}").assert_outcomes(passed=1)
    pytester.makeini(f"[pytest]\nfl_{name} = {said if name != 'byzantine' else seen}")
    run().assert_outcomes(passed=1)
    pytester.makeini("[pytest]")
    asserting(pytester, {name: seen}, f"@pytest.mark.fl({name}={seen!r})")
    run("--strict-markers").assert_outcomes(passed=1)


def test_native_toml_takes_numbers(run, pytester):
    pytester.makepyprojecttoml("[tool.pytest]\nfl_rounds = 4\nfl_byzantine = 0.25\nfl_profile = 'quick'\nstrict = true\n")
    asserting(pytester, {"rounds": 4, "byzantine": 0.25, "profile": "quick"})
    run().assert_outcomes(passed=1)


def test_zero_is_a_value(run, pytester):
    pytester.makeini("[pytest]\nfl_seed = 5\nfl_byzantine = 0.4")
    asserting(pytester, {"seed": 0, "byzantine": 0.0}, "@pytest.mark.fl(seed=7, byzantine=0.3)")
    run("--fl-seed=0", "--fl-byzantine=0").assert_outcomes(passed=1)
    asserting(pytester, {"seed": 0, "byzantine": 0.0}, "@pytest.mark.fl(seed=0, byzantine=0)")
    run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "marker", "ini", "seen"),
    [
        (["--fl-rounds=1"], 2, 3, 1),
        ([], 2, 3, 2),
        ([], None, 3, 3),
        ([], None, None, 10),
    ],
    ids=["command line", "marker", "ini", "default"],
)
def test_who_wins(run, pytester, arguments, marker, ini, seen):
    pytester.makeini("[pytest]" if ini is None else f"[pytest]\nfl_rounds = {ini}")
    asserting(pytester, {"rounds": seen}, f"@pytest.mark.fl(rounds={marker})" if marker else "")
    run(*arguments).assert_outcomes(passed=1)


def test_nearest_marker_wins_and_an_outer_one_fills_in(run, pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.fl(rounds=2, clients=5)
        class TestInside:
            @pytest.mark.fl(rounds=3)
            def test_it(self, fl_rounds, request):
                from pytest_fl.plugin import knobs
                assert (fl_rounds, knobs.value("clients", request.config, request.node)) == (3, 5)
    """)
    run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--fl-rounds=0", "--fl-rounds: expected a whole number, at least 1; got '0'"),
        ("--fl-rounds=many", "--fl-rounds: expected a whole number, at least 1; got 'many'"),
        ("--fl-byzantine=0.5", "--fl-byzantine: expected a fraction from 0 to below 0.5, such as 0.3 or 1/3; got '0.5'"),
        ("--fl-profile=quik", "--fl-profile: expected one of its words; got 'quik'; did you mean 'quick'? (known: "),
        ("--fl-report=r.pdf", "--fl-report: expected a path that ends in .json, .md or .html; got 'r.pdf'"),
    ],
)
def test_wrong_option(run, pytester, argument, told):
    pytester.makepyfile("def test_it(): pass")
    result = run(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in result.stderr.str()


def test_wrong_ini(run, pytester):
    pytester.makeini("[pytest]\nfl_rounds = -1")
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "fl_rounds in the ini file: expected a whole number, at least 1; got -1" in result.stderr.str()


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("fl(round=3)", "@pytest.mark.fl: no knob 'round'; did you mean 'rounds'?"),
        ("fl(3)", "@pytest.mark.fl takes keywords only, such as fl(rounds=3); got (3,)"),
        ("fl(profile='fast')", "@pytest.mark.fl(profile=...): expected one of its words; got 'fast' (known: "),
    ],
)
def test_wrong_marker_is_an_error_of_collection(run, pytester, marker, told):
    pytester.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_it(): pass\n")
    result = run()
    result.assert_outcomes(errors=1)
    assert told in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_header_only_where_it_says_something(run, pytester):
    pytester.makepyfile("def test_it(): pass")
    assert "fl:" not in run().stdout.str()
    run("--fl-rounds=20", "--fl-seed=0").stdout.fnmatch_lines(["fl: rounds=20, seed=0"])
    run("-v").stdout.fnmatch_lines(["fl: nothing set on the command line"])


def test_help_and_markers_list_every_knob(run):
    shown, markers, fixtures = (run(flag).stdout.str() for flag in ("--help", "--markers", "--fixtures"))
    for name in KNOBS:
        assert f"--fl-{name}" in shown
        assert f"fl_{name}" in shown
        assert f"{name}=..." in markers
        assert f"fl_{name}" in fixtures
    assert "@pytest.mark.byzantine" in markers


@pytest.mark.usefixtures("run")
def test_it_costs_nothing_until_it_is_used(pytester):
    pytester.makepyfile("""
        import sys

        def test_unused():
            heavy = {"torch", "numpy", "hypothesis", "fl_impl", "pydantic", "pytest_benchmark"} & set(sys.modules)
            assert not heavy
            ours = {name for name in sys.modules if name.startswith("pytest_fl.")}
            known = ("plugin", "reporting", "reporting.current", "reporting.runs")
            rooms = ("knobs", "fixtures", "federations", "benchmarks", "faults", "flower_app")
            assert ours == {f"pytest_fl.{name}" for name in (*known, *(f"plugin.{room}" for room in rooms))}
    """)
    pytester.makeconftest("""
        import sys

        def pytest_unconfigure():
            assert not {"torch", "numpy", "hypothesis", "fl_impl", "pytest_fl.reporting.page"} & set(sys.modules)
    """)
    result = pytester.runpytest_subprocess("-p", "pytest_fl.plugin", "-v")
    assert result.ret == 0, result.stderr.str()
    result.assert_outcomes(passed=1)


@pytest.mark.usefixtures("run")
def test_the_entry_point_loads_it_and_no_fl_switches_it_off(pytester, monkeypatch):
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = pytester.mkdir("installed-1.dist-info")
    (installed / "METADATA").write_text("Name: installed\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{k} = {v}\n" for k, v in entry.items()))
    monkeypatch.setenv("PYTHONPATH", f"{pytester.path}:{ROOT}")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    assert pytester.runpytest_subprocess("--fl-rounds=3").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    refused = pytester.runpytest_subprocess("-p", "no:fl", "--fl-rounds=3")
    assert "unrecognized arguments: --fl-rounds=3" in refused.stderr.str()


FILES = {
    "pytest.ini": "[pytest]\nfl_byzantine = 1/3\nfl_aggregator = krum, multi_krum(m=2)\n",
    "tox.ini": "[pytest]\nfl_byzantine = 1/3\nfl_aggregator = krum,multi_krum(m=2)\n",
    "pyproject.toml": '[tool.pytest.ini_options]\nfl_byzantine = "1/3"\nfl_aggregator = ["krum", "multi_krum(m=2)"]\n',
    "pytest.toml": '[pytest]\nfl_byzantine = "1/3"\nfl_aggregator = ["krum", "multi_krum(m=2)"]\n',
}


@pytest.mark.parametrize("name", [*FILES, "native pyproject.toml"])
def test_fractions_and_lists_are_taken_from_every_kind_of_file(pytester, name):
    """U6: pytest's typed ini keys refused 1/3 in an ini file, and a TOML list of rules."""
    native = name.startswith("native")
    if pytest.version_tuple < (9, 0) and (native or name == "pytest.toml"):
        pytest.skip("native TOML is of pytest 9")
    if native:
        pytester.path.joinpath("pyproject.toml").write_text(FILES["pyproject.toml"].replace(".ini_options", ""))
    else:
        pytester.path.joinpath(name).write_text(FILES[name])
    pytester.makepyfile("def test_it(fl_byzantine, fl_aggregator): assert fl_byzantine == 1 / 3")
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2)
    overridden = pytester.runpytest("-p", "no:cacheprovider", "-o", "fl_aggregator=mean", "-o", "fl_byzantine=1/4")
    overridden.assert_outcomes(failed=1)


def test_the_device_reaches_the_federation(run, pytester):
    """R9: --fl-device=cuda:77 was accepted on a machine without a GPU, and did nothing."""
    pytester.makepyfile("""
        def test_clients(fl_clients):
            assert {client.task.device.type for client in fl_clients} == {"meta"}

        def test_federation(fl_federation):
            fl_federation(rounds=1)
    """)
    result = run("--fl-device=cuda:77")
    result.assert_outcomes(errors=1, failed=1)
    result.stdout.fnmatch_lines(["*the device 'cuda:77' is not there*"])
    run("--fl-device=meta", "-k", "clients").assert_outcomes(passed=1, deselected=1)
