"""The table "Where to add" of ARCHITECTURE.md is true: each kind of thing is added in one file, and all else follows."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import things_to_add

import pytest_fl
from fl_impl import FLConfig, aggregators, attacks
from fl_impl.aggregators import ALL, PRE, resolve
from fl_impl.compression import CODECS
from fl_impl.compression import resolve as resolve_compression
from fl_impl.data import dataset, partition
from fl_impl.data.partitions import deal
from fl_impl.data.sources import load
from fl_impl.faults import KINDS, Fault
from fl_impl.lora import MODES
from fl_impl.lora.modes import parse
from fl_impl.privacy import MECHANISMS
from fl_impl.tasks import named, task
from fl_impl.training.models import make_task, model
from fl_impl.training.server_optimizers import server_optimizer
from pytest_fl.adapters import as_subject
from pytest_fl.adapters.registry import ADAPTERS
from pytest_fl.checks import CHECKS
from pytest_fl.checks.parts import AUDITS
from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.oracles.theory import RULES
from pytest_fl.plugin import listing

ROOT = Path(__file__).parents[1]
REGISTRIES = (
    ALL, PRE, attacks.ALL, CHECKS, AUDITS, ADAPTERS, MECHANISMS, CODECS, MODES, partition, dataset, model, server_optimizer,
    KINDS, task,
)  # fmt: skip
ROWS = {
    "a rule": "rule",
    "a pre-aggregator": "pre_aggregator",
    "an attack": "attack",
    "a check": "check",
    "an adapter for a library": "adapter",
    "a check of another part": "part_check",
    "a privacy mechanism": "mechanism",
    "a compression codec": "codec",
    "a way to merge LoRA adapters": "lora_mode",
    "a task": "task",
    "a partition": "partition",
    "a data set": "dataset",
    "a model": "model",
    "a server optimizer": "server_optimizer",
    "a kind of fault": "fault",
    "a setting of a federation": "setting",
    "a knob": "knob",
}
"""The first column of the table, and the test and the text of a thing that belong to it."""


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Import a module that adds the thing of that name; the test over, it is as if nobody had."""
    monkeypatch.syspath_prepend(tmp_path)
    added = []

    def add(kind):
        write(tmp_path, kind)
        importlib.invalidate_caches()
        added.append(f"toy_{kind}")
        return importlib.import_module(f"toy_{kind}")

    with contextlib.ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(registry.scoped())
        yield add
    for module in added:
        sys.modules.pop(module, None)


def write(folder, *kinds):
    for kind in kinds:
        (folder / f"toy_{kind}.py").write_text(getattr(things_to_add, kind.upper()))


def command_line(*arguments):
    """What `fl-experiment` prints."""
    pytest.importorskip("typer", reason="the cli extra is not installed")
    from typer.testing import CliRunner

    from fl_impl.experiment.commands import app

    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def readme_tables():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "scripts" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_a_process(folder, *arguments):
    """What a fresh Python prints, in that folder, with its modules."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")]), "COLUMNS": "200"}
    for inherited in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "GITHUB_STEP_SUMMARY", "CI"):
        environment.pop(inherited, None)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_row_of_the_table_has_its_test():
    table = (ROOT / "ARCHITECTURE.md").read_text().split("## Where to add")[1]
    assert re.findall(r"^\| (an? [^|]*) \|", table, re.MULTILINE) == list(ROWS)
    for name in ROWS.values():
        assert f"test_{name}" in globals()
        assert hasattr(things_to_add, name.upper())


def test_rule(add, tmp_path):
    toy = add("rule").toy_rule
    assert "toy_rule" in ALL
    assert aggregators.toy_rule is toy
    assert "toy_rule" in dir(aggregators)
    assert resolve("nnm|toy_rule").spec == "nnm|toy_rule"
    assert FLConfig(aggregation="toy_rule", byzantine_fraction=0.2).rule is toy
    assert "toy_rule" in command_line("run", "--aggregation", "toy_rule", "--dry-run")
    assert "In each coordinate the mean of the middle values." in command_line("list", "aggregators")
    assert "| `toy_rule` | n &ge; 2f + 1 | &le; 0.667 | a test |" in readme_tables().rules()
    report = pytest_fl.verify("toy_rule", profile="quick", checks=["permutation", "coefficient"])
    assert {row.outcome for row in report.rows} == {"passed"}
    assert any("toy_rule" in line for line in listing.lines())


def test_pre_aggregator(add):
    toy = add("pre_aggregator").toy_step
    assert aggregators.toy_step is toy
    assert resolve("toy_step|krum").spec == "toy_step|krum"
    assert FLConfig(aggregation="toy_step|mean").rule.spec == "toy_step|mean"
    assert "The updates as they are." in command_line("list", "pre-aggregators")
    assert "| `toy_step` | permutation | a test |" in readme_tables().mixers()


def test_attack(add):
    toy = add("attack").toy_attack
    assert attacks.resolve("toy_attack") is toy
    assert FLConfig(attack="toy_attack(size=2)", byzantine_fraction=0.2).attackers == 2
    assert "toy_attack" in command_line("run", "--attack", "toy_attack", "--byzantine-fraction", "0.2", "--dry-run")
    assert "size times the mean." in command_line("list", "attacks")
    assert "| `toy_attack` | update | omniscient | size times the mean. | a test |" in readme_tables().attacks_()
    assert any("toy_attack" in line for line in listing.lines())


FOLLOWING = {
    "rule": [("aggregators_autograd", "toy_rule"), ("aggregators_names", "toy_rule")],
    "pre_aggregator": [("aggregators_autograd", r"toy_step\|trimmed_mean"), ("aggregators_names", r"toy_step\|mean")],
    "attack": [("attacks", "toy_attack")],
}
"""What is added, and the test files that then try it, and under which name."""
FURTHER = {
    "rule": [("aggregators_contract", "toy_rule"), ("aggregators_pipes", "toy_rule")],
    "pre_aggregator": [("aggregators_contract", "toy_step")],
    "mechanism": [("privacy", "toy_mechanism")],
    "codec": [("compression", "toy_codec")],
}


@pytest.mark.parametrize("following", [FOLLOWING, pytest.param(FURTHER, marks=pytest.mark.slow)], ids=["first", "further"])
def test_tests_of_the_suite_follow(tmp_path, following):
    """They try what was added, without an edit."""
    write(tmp_path, *following)
    files = sorted({name for pairs in following.values() for name, _ in pairs})
    plugins = [part for kind in following for part in ("-p", f"toy_{kind}")]
    paths = [str(ROOT / "tests" / f"test_{name}.py") for name in files]
    said = in_a_process(tmp_path, "-m", "pytest", "-v", "-p", "no:cacheprovider", *plugins, "-k", "toy_", *paths)
    for name, toy in (pair for pairs in following.values() for pair in pairs):
        assert re.search(rf"test_{name}\.py::.*\[.*{toy}.*\] PASSED", said), (name, toy, said)


def test_check(add):
    add("check")
    (row,) = pytest_fl.verify("krum", profile="quick", checks=["toy_check"]).rows
    assert (row.check, row.outcome) == ("toy_check", "passed")
    assert row.claim == "The first number of the result is below a million, or the updates reach it."
    (row,) = pytest_fl.verify(lambda updates, f: updates[0] * 0 + 1e9, profile="quick", checks=["toy_check"]).rows
    assert row.outcome == "failed"
    ids = [str(case.id) for case in pytest_fl.conformance("krum").args[1]]  # a name that another test has is numbered
    assert any("krum" in name and name.endswith("-toy_check") for name in ids), ids
    assert any("toy_check" in line for line in listing.lines())


def test_adapter(add):
    module = add("adapter")
    assert as_subject(module.Toy()).name == "toy library"
    (row,) = pytest_fl.verify(module.Toy(), profile="quick", checks=["selects"], symmetries={"selects"}).rows
    assert (row.subject, row.outcome) == ("toy library", "passed")


def test_part_check(add):
    add("part_check")
    row = next(row for row in pytest_fl.audit_report("sparse").rows if row.check == "toy_part_check")
    assert (row.outcome, row.claim) == ("passed", "A message is never empty.")
    assert any("toy_part_check" in line for line in listing.lines())


def test_mechanism(add):
    toy = add("mechanism").Toy
    private = {"differential_privacy": True, "dp_epsilon": 5.0, "dp_delta": 1e-5, "fraction_fit": 0.5}
    config = FLConfig(dp_mechanism="toy_mechanism", num_clients=20, **private)
    assert isinstance(config.protection.mechanism, toy)
    assert "The Gaussian by another name." in command_line("list", "mechanisms")
    with pytest.raises(ValueError, match="did you mean 'toy_mechanism'"):
        FLConfig(dp_mechanism="toy_mechanisn", num_clients=20, **private)


def test_codec(add):
    add("codec")
    x = np.arange(5, dtype=np.float32)
    compression = resolve_compression("ef21|toy_codec")
    message, _ = compression.send(x, None, np.random.default_rng(0))
    np.testing.assert_array_equal(compression.receive(message, None, 5)[0], x)
    assert FLConfig(compression="toy_codec").protection.compression.codec.name == "toy_codec"
    assert "The values as they are, by another name." in command_line("list", "compressions")
    assert {row.outcome for row in pytest_fl.audit_report("toy_codec").rows} <= {"passed", "not_claimed"}


def test_lora_mode(add):
    toy = add("lora_mode").toy_mode
    mode, rule = parse("toy_mode|krum")
    assert (mode, rule.name) == (toy, "krum")
    assert "The means of the factors." in command_line("list", "lora-modes")
    with pytest.raises(ValueError, match="one of the modes; did you mean 'toy_mode'"):
        parse("toy_mod")


def test_task(add):
    add("task")
    assert named("toy_task").clean == {"iid": 0.9}
    said = command_line("compare", "--task", "toy_task", "--attacks", "zero", "--seeds", "0", "--strongest", "0", "--dry-run")
    assert "federations" in said
    assert re.search(r"dataset\W+wine", command_line("run", "--task", "toy_task", "--dry-run"))
    assert "The signs of wine." in command_line("list", "tasks")
    with pytest.raises(ValueError, match="did you mean 'toy_task'"):
        named("toy_tusk")


def test_partition(add):
    add("partition")
    assert FLConfig(partition="toy_partition(turn=1)").partition == "toy_partition(turn=1)"
    assert deal(load("digits"), 3, "toy_partition(1)", 0).rows[1][0] == 0
    assert "toy_partition(turn=1)" in command_line("run", "--partition", "toy_partition(turn=1)", "--dry-run")
    assert "Row i goes to client i + turn, modulo their number." in command_line("list", "partitions")


def test_dataset(add):
    add("dataset")
    assert len(load("toy_dataset(rows=30)")) == 30
    assert "toy_dataset" in command_line("run", "--dataset", "toy_dataset", "--dry-run")
    assert "The signs of one number." in command_line("list", "datasets")


def test_model(add):
    add("model")
    assert make_task(load("wine"), "toy_model(width=3)").layout.d == 13 * 3 + 3 + 3 * 3 + 3
    assert "Two layers." in command_line("list", "models")


def test_server_optimizer(add):
    add("server_optimizer")
    assert FLConfig(server_optimizer="toy_optimizer(half=0.25)").server_optimizer == "toy_optimizer(half=0.25)"
    step, _ = server_optimizer.bind("toy_optimizer")(np.ones(2), {})
    assert step.tolist() == [0.5, 0.5]
    assert "half of the aggregate." in command_line("list", "server-optimizers")


def test_fault(add):
    add("fault")
    assert Fault("toy_fault(value=2)", (0,)).effect == "wrong"
    pytest_fl.survives("coordinate_median", plans=2, rounds=2, kinds=["toy_fault"])
    with pytest.raises(ValueError, match="did you mean 'toy_fault'"):
        Fault("toy_falt", (0,))


def test_setting(tmp_path):
    pytest.importorskip("typer", reason="the cli extra is not installed")
    write(tmp_path, "setting")
    (tmp_path / "settings.toml").write_text('toy_setting = 5\nnum_rounds = 1\nnum_clients = 2\ndataset = "wine"\n')
    calls = [["run", "--help"], ["run", "settings.toml", "--output", "a.json"], ["run", "--toy-setting", "0", "--dry-run"]]
    script = "import toy_setting\nfrom typer.testing import CliRunner\nfrom fl_impl.experiment.commands import app\n"
    said = in_a_process(tmp_path, "-c", f"{script}for call in {calls}: print(CliRunner().invoke(app, call).output)")
    assert re.search(r"--toy-setting .*A number that nothing reads.*\[default: \(3\)\]", said)
    assert '"toy_setting": 5' in (tmp_path / "a.json").read_text()
    assert "toy_setting: Input should be greater than or equal to 1" in said


def test_knob(tmp_path):
    write(tmp_path, "knob")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from pytest_fl.plugin.federations import knob_settings\n"
        "def test_by_the_command_line(fl_toy, request):\n"
        "    assert fl_toy == 5 == knob_settings(request.node)['local_epochs']\n"
        "@pytest.mark.fl(toy=7)\n"
        "def test_by_a_marker(fl_toy, request):\n"
        "    assert fl_toy == 7 == knob_settings(request.node)['local_epochs']\n"
        "def test_by_the_ini_file(fl_toy):\n"
        "    assert fl_toy == 9\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nfl_toy = 9\n")
    pytest_of = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "toy_knob"]
    plugin = [] if "pytest_fl.plugin" in registered_plugins() else ["-p", "pytest_fl.plugin"]
    assert "2 passed" in in_a_process(tmp_path, *pytest_of, *plugin, "-k", "marker or ini")
    assert "1 passed" in in_a_process(tmp_path, *pytest_of, *plugin, "--fl-toy=5", "-k", "command_line")


def registered_plugins():
    return {point.value for point in importlib.metadata.entry_points(group="pytest11")}


WITHOUT_FINITE = {"monna", "caf", "dnc", "centered_clipping", "norm_clipping", "fltrust", "foolsgold", "signguard", "flame"}
"""They claim no finite constant, and their definitions stand in tests/oracles.py or in test_aggregators_definitions.py."""
DEFINED_IN_TESTS = {"bulyan"} | WITHOUT_FINITE


def unwritten(name):
    """What the oracles lack of a rule, and where to write it; empty where they have all."""
    lacking = []
    if name not in DEFINITIONS and name not in DEFINED_IN_TESTS:
        lacking.append(f"@definition({name!r}) in pytest_fl/oracles/definitions.py: all answers that its definition admits")
    if name not in RULES and math.isfinite(ALL[name].kappa(15, 1)):
        lacking.append(f"an entry {name!r} in RULES of pytest_fl/oracles/theory.py: kappa, derived apart from the rule's own")
    return f"{name}, of {ALL.home(name)}, has nothing to be compared with. Write " + "; and ".join(lacking) if lacking else ""


@pytest.mark.parametrize("name", ALL)
def test_the_oracles_know_every_rule(name):
    assert not unwritten(name)


def test_a_rule_that_the_oracles_do_not_know_is_told_where_to_write(add):
    add("rule")
    assert unwritten("toy_rule") == (
        "toy_rule, of toy_rule:toy_rule, has nothing to be compared with. Write @definition('toy_rule') in "
        "pytest_fl/oracles/definitions.py: all answers that its definition admits; and an entry 'toy_rule' in RULES of "
        "pytest_fl/oracles/theory.py: kappa, derived apart from the rule's own"
    )


def test_definitions_in_tests_are_there():
    text = (ROOT / "tests" / "test_aggregators_definitions.py").read_text()
    assert DEFINED_IN_TESTS <= set(ALL)
    for name in DEFINED_IN_TESTS:
        assert hasattr(oracles, name) or f"aggregators.{name}(" in text
