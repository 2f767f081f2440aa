"""The lines that run a failure again: a command where the rule can be named on one, or the reason why it cannot."""

from __future__ import annotations

import ast
import inspect
import os
import shlex
import site
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_fl.adapters.process import Command
from pytest_fl.reporting import current

if TYPE_CHECKING:
    from pytest_fl.engine.targets import Target
    from pytest_fl.reporting.results import Row
    from pytest_fl.subjects.profiles import Profile

WORDS: Final = ("claims", "form", "f", "root", "result", "warm_up", "within", "step", "recovers")
"""Options that are written as they are, where they are words or numbers."""
REMEMBERS: Final = "this round alone does not fail, since what the rule answers depends on the calls before it"


class Unnamed(Exception):  # noqa: N818  # it is no error: the line says why there is no command
    """The rule cannot be named on a command line: the message says why."""


def replayable(row: Row, target: Target) -> Row:
    """The row with the lines that run its counterexample again: `replay` in a shell, `rerun` as a test."""
    if row.counterexample is None or str(row.counterexample.get("file", "not saved")).startswith("not saved"):
        return row
    running = current.item.get()
    lines = {"replay": line(str(row.counterexample["file"]), target)}
    if running is not None and running.nodeid:
        lines["rerun"] = f"python -m pytest {shlex.quote(running.nodeid)}"  # stored rounds are tried first
    return replace(row, counterexample={**row.counterexample, **lines})


def after_other_calls(row: Row, target: Target, profile: Profile) -> Row:
    """The row with the lines that run everything again, for a round that does not fail by itself."""
    assert row.counterexample is not None
    effort = [f"--profile={profile.name}", f"--seed={profile.seed}"]
    try:
        before, name = named(target.thing)
        said = " ".join([*before, "python -m pytest_fl verify", *effort, *_options(target), shlex.quote(name)])
    except Unnamed as reason:
        said = f"pytest_fl.verify(the rule{_given(target)}, profile={profile.name!r}, seed={profile.seed}) in Python: {reason}"
    lines = {"replay": f"{REMEMBERS}; all of it again: {said}"}
    if "rerun" in row.counterexample:
        test = shlex.split(str(row.counterexample["rerun"]))[-1].partition("[")[0]
        lines["rerun"] = f"python -m pytest {shlex.quote(test)}"
    return replace(row, counterexample={**row.counterexample, **lines})


def line(file: str, target: Target) -> str:
    """A command for a shell, or what to call in Python instead and why there is no command."""
    try:
        before, name = named(target.thing)
        return " ".join([*before, "python -m pytest_fl replay", *_options(target), shlex.quote(file), shlex.quote(name)])
    except Unnamed as reason:
        return f"pytest_fl.replay({file!r}, the rule{_given(target)}) in Python: {reason}"


def _given(target: Target) -> str:
    """The keywords that must be given again, for a call in Python."""
    return "".join(f", {name}=..." for name, value in target.claims.items() if value is not None)


def _options(target: Target) -> Iterator[str]:
    """What was said of the rule, as options. Raises Unnamed for what cannot be written."""
    given: Mapping[str, Any] = {name: value for name, value in target.claims.items() if value is not None}
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name == "min_clients":
            yield f"{option}={shlex.quote(_of_f(value))}"
        elif name == "symmetries":
            yield f"{option}={','.join(sorted([value] if isinstance(value, str) else value))}"
        elif name == "root" and isinstance(value, bool):
            yield from [f"{option}=True"] * value
        elif name == "stateful":
            yield from ["--stateful"] * bool(value)
        elif name in WORDS and isinstance(value, str | int | float):
            yield f"{option}={shlex.quote(str(value))}"
        else:
            raise Unnamed(f"{name} is no text that could stand on a command line")


def _of_f(function: Any) -> str:
    """min_clients as a formula of f. Raises Unnamed where it is not a straight line."""
    least, next_one = function(1), function(2)
    slope, start = next_one - least, 2 * least - next_one
    if any(function(f) != slope * f + start for f in range(1, 21)):
        raise Unnamed("min_clients is no straight line in f that could stand on a command line")
    return f"{slope}*f+{start}"


def named(thing: object) -> tuple[list[str], str]:
    """What stands before the command (PYTHONPATH, where it is needed), and the rule's name on it. Raises Unnamed."""
    if isinstance(thing, str):
        return [], thing
    spec = getattr(thing, "spec", None)
    if type(thing).__module__.startswith("fl_impl.") and isinstance(spec, str):
        return [], spec
    folders, name = _importable(thing)
    if not folders:
        return [], name
    return [f"PYTHONPATH={shlex.quote(os.pathsep.join(dict.fromkeys(folders)))}"], name


def _importable(thing: object) -> tuple[list[str], str]:
    """Folders that must be on the path, and `module:name`, with what a partial binds, or several with bars between."""
    found = _attribute(thing)
    if found is not None:
        return _folder(found[0]), f"{found[0]}:{found[1]}"
    if isinstance(thing, tuple) and thing:
        steps = [_importable(step) for step in thing]
        return [folder for folders, _ in steps for folder in folders], "|".join(name for _, name in steps)
    if isinstance(thing, partial):
        folders, name = _importable(thing.func)
        if set(".|(") & set(name.partition(":")[2]):
            raise Unnamed("a partial of anything but a module's function or class has no name")
        return folders, f"{name}({', '.join(_bound(thing))})"
    if inspect.ismethod(thing):
        folders, name = _importable(thing.__self__)
        return folders, f"{name}.{thing.__name__}"
    raise Unnamed(_why_not(thing))


def _bound(thing: partial[Any]) -> list[str]:
    values = [*(("", value) for value in thing.args), *((f"{name}=", value) for name, value in thing.keywords.items())]
    for name, value in values:
        try:
            same = ast.literal_eval(repr(value)) == value
        except (ValueError, SyntaxError):
            same = False
        if not same:
            raise Unnamed(f"what {name or 'a partial'} binds in it is no literal")
    return [f"{name}{value!r}" for name, value in values]


def _why_not(thing: object) -> str:
    name = getattr(thing, "__qualname__", "")
    if isinstance(thing, Command):
        return f"the command {thing} is no name of a module's"
    if "<lambda>" in name:
        return "a lambda that no module has a name for cannot be imported"
    if "<locals>" in name:
        return f"{name} is made inside a function and cannot be imported"
    if name:
        return f"{name} cannot be imported from {getattr(thing, '__module__', 'its module')}"
    return f"an object of {type(thing).__name__} that no module has a name for cannot be imported"


def _attribute(thing: object) -> tuple[str, str] | None:
    """The module and the name under which exactly this object stands in it; its own module first, then any other."""
    own, name = getattr(thing, "__module__", None) or type(thing).__module__, getattr(thing, "__qualname__", "")
    if isinstance(own, str) and name and "<" not in name and _stands(own, name, thing):
        return own, name
    for module, values in _modules(first=str(own)):
        for known, value in list(values.items()):
            if value is thing and known.isidentifier():
                return module, known
    return None


def _modules(first: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Modules that can be imported by their names, with what stands in them."""
    for name in dict.fromkeys([first, *list(sys.modules)]):
        module = sys.modules.get(name)
        if isinstance(module, types.ModuleType) and name not in {"__main__", "builtins"}:
            yield name, vars(module)


def _stands(module: str, name: str, thing: object) -> bool:
    if module == "__main__" or module not in sys.modules:
        return False
    try:
        return reduce(getattr, name.split("."), sys.modules[module]) is thing  # type: ignore[arg-type, reportArgumentType]  # attributes of a module
    except AttributeError:
        return False


def _folder(module: str) -> list[str]:
    """The folder that must be on the path for the module to be found: none where Python looks in it by itself."""
    file = getattr(sys.modules[module], "__file__", None)
    if not file:
        return []  # built in, or a namespace
    parents = Path(file).resolve().parents
    levels = module.count(".") + (Path(file).name == "__init__.py")
    if levels >= len(parents):
        return []
    folder, here = parents[levels], Path.cwd().resolve()
    searched = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *_installed()]
    if folder in [Path(place).resolve() for place in searched]:
        return []
    return [str(folder.relative_to(here) if folder.is_relative_to(here) else folder)]


def _installed() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages(), os.path.dirname(os.__file__)]  # noqa: PTH120  # text beside text
