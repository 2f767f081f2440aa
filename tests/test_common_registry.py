"""The one registry: what it finds, what it refuses, and what other distributions add to it."""

import importlib
import re
import sys
import threading
import time
import warnings

import pytest

from fl_impl.aggregators import ALL, PRE
from fl_impl.attacks import ALL as ATTACKS
from fl_impl.common.registry import Registry
from fl_impl.compression import CODECS
from fl_impl.data import dataset, partition
from fl_impl.lora import MODES
from fl_impl.lora.bases import named
from fl_impl.privacy import MECHANISMS
from fl_impl.training.models import model
from fl_impl.training.server_optimizers import server_optimizer
from pytest_fl.adapters.registry import ADAPTERS
from pytest_fl.checks import CHECKS
from pytest_fl.checks.parts import AUDITS

EVERY = {
    "rules": ALL, "pre-aggregators": PRE, "attacks": ATTACKS, "checks": CHECKS, "checks of parts": AUDITS,
    "adapters": ADAPTERS, "mechanisms": MECHANISMS, "codecs": CODECS, "LoRA modes": MODES, "base models": named,
    "partitions": partition, "data sets": dataset, "models": model, "server optimizers": server_optimizer,
}  # fmt: skip
THINGS = """
from {package} import things
@things
def {name}():
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package of these modules, which register in its `things`, and give back that registry."""
    made = []

    def write(name, group="", **modules):
        folder = tmp_path / name
        folder.mkdir()
        header = "from fl_impl.common.registry import Registry\n"
        (folder / "__init__.py").write_text(f"{header}things = Registry('a thing', package={name!r}, group={group!r})\n")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name).things

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for module in [module for module in sys.modules if module.partition(".")[0] in made]:
        del sys.modules[module]


def announce(tmp_path, distribution, group, **points):
    """An installed distribution, in tmp_path, with these entry points."""
    folder = tmp_path / f"{distribution}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *(f"{name} = {at}" for name, at in points.items())]))
    importlib.invalidate_caches()


@pytest.mark.parametrize("kind", EVERY)
def test_every_kind_of_named_thing_is_in_a_registry(kind):
    registry = EVERY[kind]
    assert isinstance(registry, Registry)
    assert registry.group.startswith("pytest_fl.")
    assert len(registry) == len(list(registry)) > 0
    first = next(iter(registry))
    with pytest.raises(ValueError, match=f"^expected {registry.kind}, got '{first}_'; did you mean '{first}'"):
        registry[f"{first}_"]
    module, _, name = registry.home(first).partition(":")
    assert getattr(importlib.import_module(module), name, None) is not None


def test_groups_of_entry_points_are_one_each():
    groups = [registry.group for registry in EVERY.values()]
    assert len(set(groups)) == len(groups)


def test_modules_are_found_at_the_first_look_up(package):
    things = package("found", b=THINGS.format(package="found", name="beta"), a=THINGS.format(package="found", name="alpha"))
    assert "found.a" not in sys.modules
    assert list(things) == ["alpha", "beta"]  # module by module, in alphabetical order
    assert "gamma" not in things
    assert things.get("gamma") is None
    assert things.home("beta") == "found.b:beta"


def test_a_wrong_name_is_a_value_error_and_a_key_error(package):
    things = package("wrong", a=THINGS.format(package="wrong", name="alpha"))
    for kind in (ValueError, KeyError):
        with pytest.raises(kind) as raised:
            things["alhpa"]
        assert str(raised.value) == "expected a thing, got 'alhpa'; did you mean 'alpha'? (known: alpha)"


def test_a_taken_name_is_refused_and_says_by_whom(package):
    text = THINGS.format(package="taken", name="alpha")
    things = package("taken", a=text, b=text)
    with pytest.raises(ValueError, match="a thing named 'alpha' stands in taken.a:alpha already"):
        things["alpha"]


def test_a_module_that_is_loaded_again_takes_its_own_place(package):
    things = package("again", a=THINGS.format(package="again", name="alpha"))
    before = things["alpha"]
    importlib.reload(sys.modules["again.a"])
    assert things["alpha"] is not before
    assert list(things) == ["alpha"]


def test_what_is_entered_in_a_scope_is_gone_after_it(package):
    things = package("scoped", a=THINGS.format(package="scoped", name="alpha"))

    def beta():
        pass

    with things.scoped():
        things(beta)
        assert list(things) == ["alpha", "beta"]
    assert list(things) == ["alpha"]


def test_a_module_whose_library_is_missing_is_named_where_a_name_is_not_found(package):
    things = package("extra", a="import no_such_library.inner", b=THINGS.format(package="extra", name="beta"))
    assert list(things) == ["beta"]
    with pytest.raises(ValueError, match="not looked at: extra.a needs no_such_library, which is not installed"):
        things["alpha"]


def test_a_module_of_the_package_that_is_broken_is_an_error_each_time(package):
    things = package("broken_package", a="import broken_package.nothing")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=r"broken_package\.nothing"):
            list(things)


def test_modules_that_look_names_up_while_they_are_imported_see_what_there_is(package):
    late = "from eager import things\nseen = list(things)\n"
    things = package("eager", a=THINGS.format(package="eager", name="alpha"), b=late)
    assert list(things) == ["alpha"]
    assert sys.modules["eager.b"].seen == ["alpha"]


def test_another_thread_waits_until_all_is_found(package):
    slow = "import time\ntime.sleep(0.2)\n" + THINGS.format(package="slow", name="beta")
    things = package("slow", a=THINGS.format(package="slow", name="alpha"), b=slow)
    first = threading.Thread(target=lambda: list(things))
    first.start()
    while "slow.a" not in sys.modules:
        time.sleep(0.001)
    assert list(things) == ["alpha", "beta"]
    first.join()


def test_entry_points_of_other_distributions(package, tmp_path):
    foreign = "from points import things\n@things\ndef theirs():\n    pass\ndef bare():\n    pass\n"
    things = package("points", group="points.group", a=THINGS.format(package="points", name="ours"))
    (tmp_path / "foreign_things.py").write_text(foreign)
    (tmp_path / "foreign_module.py").write_text(THINGS.format(package="points", name="by_module"))
    (tmp_path / "foreign_clash.py").write_text(THINGS.format(package="points", name="ours"))
    announce(
        tmp_path, "toy-things", "points.group", theirs="foreign_things:theirs", module="foreign_module",
        absent="no_such_module_anywhere:x", bare="foreign_things:bare", clash="foreign_clash:ours",
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert sorted(things) == ["by_module", "ours", "theirs"]
    said = "\n".join(str(warning.message) for warning in caught)
    assert re.search(
        r"entry point 'absent' in group 'points.group' of toy-things does not load and is left out: ModuleNot", said
    )
    assert re.search(r"entry point 'bare' .* gave <function bare .*>, which did not enter itself as a thing", said)
    assert re.search(r"entry point 'clash' .*: a thing named 'ours' stands in points.a:ours already", said)
    assert len(caught) == 3
    assert things.home("ours") == "points.a:ours"
    for module in ("foreign_things", "foreign_module", "foreign_clash"):
        sys.modules.pop(module, None)
