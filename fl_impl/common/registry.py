"""Named things: rules, attacks, checks, codecs and whatever else is chosen by name stand in one `Registry` a kind.

A registry fills itself at the first look-up: it imports the modules of its package, whose decorators enter what they
define, and then what other distributions announce in its entry-point group. No list is kept by hand.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from pkgutil import iter_modules
from typing import Any, TypeVar

from fl_impl.common.specs import nearest, parse

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class UnknownNameError(ValueError, KeyError):
    """No such name. A ValueError, as for every wrong setting, and a KeyError, as a mapping promises."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class Registry(Mapping[str, T]):
    """Things of one kind by name; `registry["wrong"]` raises UnknownNameError with the nearest name.

    Used as a decorator it enters a function under the function's own name.
    """

    def __init__(self, kind: str, *, package: str = "", group: str = "") -> None:
        """Make an empty registry; nothing is imported before the first look-up.

        kind: one entry with its article, for messages: "a partition". package: its modules, not those of inner packages,
        are imported. group: the entry-point group of other distributions; a point names a module, or what a decorator
        entered.
        """
        self.kind = kind
        self.package = package
        self.group = group
        self._things: dict[str, T] = {}
        self._homes: dict[str, str] = {}
        """Where each was defined, as module:qualname."""
        self._summaries: dict[str, str] = {}
        """The first line of each one's docstring."""
        self._missing: dict[str, str] = {}
        """Modules of the package that an extra library is missing for, and which."""
        self._complete = False
        self._filling = False
        self._lock = threading.RLock()

    def __call__(self, function: F) -> F:
        """Enter a function under its own name. Raises ValueError where the name is taken."""
        self.enter(function.__name__, function)
        return function

    def enter(self, name: str, thing: Any, defined_by: Any = None) -> None:
        """Enter a thing under a name; `defined_by` is the function or class that was decorated, the thing itself where None.

        Raises ValueError where something else has the name, and says where that stands. The same definition anew, as after
        a reload, takes the place of the old one.
        """
        definition = thing if defined_by is None else defined_by
        home = home_of(definition)
        if self._homes.get(name, home) != home:
            raise ValueError(f"{self.kind} named {name!r} stands in {self._homes[name]} already: give this one another name")
        self._things[name], self._homes[name] = thing, home
        self._summaries[name] = (inspect.getdoc(definition) or "").partition("\n")[0]

    def home(self, name: str) -> str:
        """Where the thing of a name was defined: `module:qualname`."""
        _ = self[name]
        return self._homes[name]

    def summary(self, name: str) -> str:
        """The first line of the docstring of what has that name."""
        _ = self[name]
        return self._summaries[name]

    def bind(self, spec: str) -> Callable[..., Any]:
        """The function of a spec with its options bound; positional ones in the order of the signature.

        Raises ValueError for a wrong name, option or number of options, with the nearest name.
        """
        read = parse(spec)
        function: Any = self[read.name]
        known = options_of(function)
        if len(read.arguments) > len(known):
            raise ValueError(f"{read.name} takes at most {len(known)} options ({', '.join(known)}), got {spec!r}")
        options = {**dict(zip(known, read.arguments, strict=False)), **read.options}
        wrong = next((name for name in options if name not in known), None)
        if wrong is not None:
            raise ValueError(f"{read.name} has no option {wrong!r}{nearest(wrong, known)}, asked for in {spec!r}")
        missing = [name for name, default in known.items() if default is inspect.Parameter.empty and name not in options]
        if missing:
            raise ValueError(f"{read.name} needs {', '.join(missing)}: write {read.name}({missing[0]}=...), got {spec!r}")
        return functools.partial(function, **options)

    @contextmanager
    def scoped(self) -> Generator[None]:
        """What is entered inside is gone afterwards: for tests that add a thing of their own."""
        _ = self._all()
        things, homes = dict(self._things), dict(self._homes)
        try:
            yield
        finally:
            self._things, self._homes = things, homes

    def __getitem__(self, name: str) -> T:
        things = self._all()
        if name not in things:
            raise UnknownNameError(f"expected {self.kind}, got {name!r}{nearest(name, things)}{self._unread()}")
        return things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, T]:
        """The things, those in modules that nobody has imported yet included."""
        if not self._complete:
            with self._lock:  # another thread waits for all; modules imported meanwhile see what there is so far
                if not self._filling and not self._complete:
                    self._filling = True
                    try:
                        self._import_modules()
                        self._load_entry_points()
                        self._complete = True
                    finally:
                        self._filling = False
        return self._things

    def _import_modules(self) -> None:
        for module in modules_in(self.package):
            try:
                import_module(module)
            except ModuleNotFoundError as error:
                library = (error.name or "").partition(".")[0]
                if library in ("", self.package.partition(".")[0]):
                    raise
                self._missing[module] = library  # an extra: whoever asks for a name that is not there is told

    def _load_entry_points(self) -> None:
        for point in metadata.entry_points(group=self.group) if self.group else ():
            origin = f"entry point {point.name!r} in group {self.group!r} of {point.dist.name if point.dist else 'unknown'}"
            try:
                loaded = point.load()
            except Exception as error:  # noqa: BLE001  # whatever foreign code raises, the names of others remain
                message = f"{origin} does not load and is left out: {type(error).__name__}: {error}"
                warnings.warn(message, stacklevel=2)
                continue
            if not inspect.ismodule(loaded) and not self._holds(loaded):
                warnings.warn(
                    f"{origin} gave {loaded!r}, which did not enter itself as {self.kind}: decorate it, or name its module",
                    stacklevel=2,
                )

    def _holds(self, thing: object) -> bool:
        return any(thing is known for known in self._things.values()) or home_of(thing) in self._homes.values()

    def _unread(self) -> str:
        """The tail of a message about a wrong name: modules that may define it and could not be imported."""
        said = [f"{module} needs {library}, which is not installed" for module, library in self._missing.items()]
        return f"; not looked at: {', '.join(said)}" if said else ""


def modules_in(package: str) -> list[str]:
    """The full names of the modules of a package, in alphabetical order, inner packages left out; [] for ""."""
    if not package:
        return []
    return [f"{package}.{entry.name}" for entry in iter_modules(import_module(package).__path__) if not entry.ispkg]


def home_of(thing: Any) -> str:
    """`module:qualname` of a function or class; of another object, of its class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of a function and their defaults: these are its options."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
