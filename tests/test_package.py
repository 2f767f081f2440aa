"""The package as a whole: its public names, what imports what, and what an import costs."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import iter_modules

import pytest

import pytest_fl

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("fl_impl", "pytest_fl")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(module: str) -> Iterator[str]:
    """The project's modules that a module imports, at load or later, type checking aside."""
    tree = ast.parse(MODULES[module].read_text())
    aside = {id(child) for node in ast.walk(tree) if for_types(node) for part in node.body for child in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) not in aside:
            yield from (name for name in targets(node, module) if name in MODULES and name != module)


def for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def targets(node, module):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}: imports are written in full"
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else node.module for name in inside]
    return []


def block(name):
    text = (ROOT / "ARCHITECTURE.md").read_text()
    return text.split(f"```{name}\n")[1].split("```")[0].strip().splitlines()


LAYERS = {name: depth for depth, line in enumerate(block("layers")) for name in line.split()}


def layer(module):
    return max((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), key=len)


def test_imports_go_down():
    upward = [
        f"{module} imports {target}, which stands above it"
        for module in MODULES
        for target in imports(module)
        if layer(target) != layer(module) and LAYERS[layer(target)] < LAYERS[layer(module)]
    ]
    assert not upward


def test_fl_impl_knows_nothing_of_pytest():
    ours = [path for module, path in MODULES.items() if module.startswith("fl_impl")]
    assert ours
    assert not [path for path in ours if re.search(r"^\s*(import|from) pytest", path.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("oracle", block("oracles"))
def test_the_code_under_test_is_not_its_own_oracle(oracle):
    mine = [module for module in MODULES if f"{module}.".startswith(f"{oracle}.")]
    assert mine
    used = {target for module in mine for target in imports(module) if target.startswith("fl_impl")}
    assert used <= {"fl_impl.common.specs"}


def test_layers_name_modules_that_exist():
    assert set(LAYERS) <= set(MODULES)


def test_public_names_are_sorted_listed_once_and_there():
    names = pytest_fl.__all__
    assert names == sorted(set(names))
    assert names == sorted(name for home in pytest_fl.HOMES.values() for name in home)
    assert dir(pytest_fl) == names
    for module, homed in pytest_fl.HOMES.items():
        for name in homed:
            found = getattr(pytest_fl, name)
            assert found is getattr(sys.modules[f"pytest_fl.{module}"], name)


def test_type_checkers_see_the_same_names():
    (block,) = [node for node in ast.parse(MODULES["pytest_fl"].read_text()).body if for_types(node)]
    seen = {node.module.removeprefix("pytest_fl."): tuple(a.name for a in node.names) for node in block.body}
    assert {home: tuple(sorted(names)) for home, names in seen.items()} == pytest_fl.HOMES


@pytest.mark.parametrize("package", ["fl_impl", "pytest_fl"])
def test_no_public_name_is_a_module(package):
    public = getattr(sys.modules[package], "__all__", [])
    assert not set(public) & {module.name for module in iter_modules([str(ROOT / package)])}


def test_a_wrong_name_is_told():
    with pytest.raises(AttributeError, match=r"module 'pytest_fl' has no attribute 'conform' \(public: Accountant, Bound, "):
        pytest_fl.conform  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import pytest_fl", "pytest numpy torch hypothesis fl_impl"),
        ("import pytest_fl.plugin", "numpy torch hypothesis fl_impl pydantic"),
        ("import fl_impl", "numpy torch pydantic sklearn"),
        ("import fl_impl.aggregators, fl_impl.attacks", "torch pydantic sklearn flwr transformers matplotlib"),
        ("import pytest_fl; pytest_fl.Report().to_html()", "numpy torch hypothesis fl_impl"),
    ],
)
def test_what_an_import_costs(statement, unwanted):
    code = f"import sys; {statement}; print(sorted(set({unwanted.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
