"""The package as a whole: its public names, what imports what, and what an import costs."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
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


DEEPEST = 11
"""Modules in the longest chain of imports at load time."""


def imports(module: str, *, at_load: bool = False) -> set[str]:
    """The project's modules that a module imports: at load, or with those inside functions and for type checkers."""
    nodes = loaded(ast.parse(MODULES[module].read_text())) if at_load else ast.walk(ast.parse(MODULES[module].read_text()))
    return {name for node in nodes for name in targets(node, module) if name in MODULES and name != module}


def loaded(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is loaded: those in functions and for type checkers left out."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or for_types(node):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from loaded(child)


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


ROOMS = re.findall(
    r"^\| `((?:fl_impl|pytest_fl)/[\w/.]*)` \|", (ROOT / "ARCHITECTURE.md").read_text().split("## Oracles")[0], re.MULTILINE
)
"""The page's lines: rooms end in a slash, files at a root in .py."""


def room(module: str) -> str:
    """The line of the page that a module stands on: its outermost room, or its own file at a root."""
    package, name, *_ = MODULES[module].relative_to(ROOT).parts
    return f"{package}/{name}" if name.endswith(".py") else f"{package}/{name}/"


def test_every_room_and_every_file_at_a_root_has_its_line():
    rooms = {f"{path.parent.relative_to(ROOT)}/" for path in MODULES.values() if path.parent.parent != ROOT}
    loose = {str(path.relative_to(ROOT)) for path in MODULES.values() if path.parent.parent == ROOT}
    assert sorted(ROOMS) == sorted(rooms | loose)


def test_imports_go_down_the_page():
    upward = [
        f"{module} imports {target}, which stands above it"
        for module in MODULES
        for target in imports(module)
        if ROOMS.index(room(target)) < ROOMS.index(room(module))
    ]
    assert not upward


def test_no_circle():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()  # CycleError names the modules of a circle


def test_the_deepest_chain_of_imports():
    graph = {module: imports(module, at_load=True) for module in MODULES}
    deepest: dict[str, tuple[str, ...]] = {}
    for module in TopologicalSorter(graph).static_order():
        deepest[module] = (module, *max((deepest[target] for target in graph[module]), key=len, default=()))
    longest = max(deepest.values(), key=len)
    assert len(longest) <= DEEPEST, " -> ".join(longest)


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


def test_the_version_line_names_what_a_bug_report_wants():
    done = subprocess.run([sys.executable, "-m", "pytest_fl", "--version"], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert re.fullmatch(r"pytest-fl \S+ \(Python [\d.]+, \w+ \S+; pytest \S+, hypothesis \S+, numpy \S+.*\)", line)


SHARED = {
    "Client": "what the coordinator asks, and a party of a secure sum; both public",
    "Mechanism": "what adds the noise, and that as a subject of the harness; both public",
}
"""Names of classes that stand twice, and why."""


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in (*ROOT.glob("fl_impl/**/*.py"), *ROOT.glob("pytest_fl/**/*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in homes.items() if len(where) > 1 and name not in SHARED} == {}
