"""How somebody's function or constructor is told f: under which name, as a number or as a fraction of the clients."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

WHO: Final = (
    "byzantine", "byzantines", "byz", "malicious", "mal", "attacker", "attackers", "adversary", "adversaries", "adversarial",
    "adv", "faulty", "faults", "compromised", "corrupt", "corrupted", "poisoned", "bad", "outliers",
)  # fmt: skip
"""Words for those who lie."""
NUMBER: Final = frozenset(
    f"{before}{who}{after}"
    for before, who, after in product(
        ("n_", "nb_", "num_", "nr_", "number_of_", "max_", "expected_", "n", ""),
        WHO,
        ("", "_clients", "_nodes", "_workers", "_users", "_client", "_num", "_count", "_number", "_client_num", "_worker_num",
         "_clients_num"),
    )
) - {"bad", "adv", "mal"} | {"f", "n_f", "num_f", "krum_f"}  # fmt: skip
"""Names under which libraries take f, the number of Byzantine clients."""
FRACTION: Final = frozenset(
    f"{what}_{share}"
    for what, share in product(
        ("trim", "trimmed", "trimming", "cut", *WHO), ("fraction", "ratio", "proportion", "frac", "rate", "percentage")
    )
) | {"proportiontocut", "trimmed_fraction"}  # fmt: skip
"""Names under which libraries take f / n."""
TRIMS: Final[dict[str, type]] = {
    **dict.fromkeys(("b", "k", "trim", "n_trim", "num_trim"), int),
    **dict.fromkeys(("beta", "fraction", "alpha", "ratio", "proportion", "q"), float),
}
"""Names that mean f or f / n in something called trimmed, and anything elsewhere: beta may be a momentum."""
CLIENTS: Final = frozenset({
    "n", "num_clients", "n_clients", "nb_clients", "num_workers", "n_workers", "nb_workers", "num_users", "n_users",
    "total_clients", "client_num", "num_updates",
})  # fmt: skip
"""Names under which libraries take n."""
COUNTS: Final = frozenset({
    "counts", "num_samples", "n_samples", "num_examples", "n_examples", "sample_counts", "sample_nums", "sample_num",
    "sample_sizes", "data_sizes", "dataset_sizes", "client_sizes", "sizes", "samples", "num_data", "data_num", "weights",
    "client_num_samples", "client_samples",
})  # fmt: skip
"""Names under which libraries take one claimed sample count a client, beside the updates."""
ROOT: Final = frozenset(
    f"{who}_{what}"
    for who, what in product(
        ("root", "server", "trusted", "clean", "reference"),
        ("update", "gradient", "grad", "model", "delta", "weights", "vector"),
    )
) | {"root", "trusted", "g0", "server_grads"}  # fmt: skip
"""Names under which libraries take what the server learnt from data of its own."""
NOT_UPDATES: Final = ("global", "server", "prev", "previous", "old", "initial", "init")
"""First words of a first parameter that is not the updates of the clients."""


@dataclass(frozen=True)
class Fixed:
    """f, or the fraction of the clients, that a configured rule is for and cannot be told otherwise."""

    text: str
    """As the user wrote it: `beta=0.2`."""
    f: int | None = None
    fraction: Fraction | None = None

    def admits(self, n: int, f: int) -> bool:
        """Whether the rule is for (n, f): of a fraction, f = floor(fraction * n), computed exactly."""
        return f == (self.f if self.fraction is None else math.floor(self.fraction * n))

    def __str__(self) -> str:
        return f"f fixed by {self.text}" if self.fraction is None else f"f = floor({self.fraction} n) by {self.text}"


@dataclass(frozen=True)
class Telling:
    """What a callable takes beside the updates."""

    f: str | None = None
    """The parameter that takes f; None where it is not told."""
    fraction: str | None = None
    """The parameter that takes f / n."""
    n: str | None = None
    """The parameter that takes n."""
    counts: str | None = None
    """The parameter that takes one sample count a client."""
    root: str | None = None
    """The parameter that takes the server's own update."""
    position: int | None = None
    """The place of f where it has to be passed by place."""
    updates: str | None = None
    """The name under which the updates have to be passed; None where they are the first argument."""
    fixed: Fixed | None = None
    """What a `functools.partial` has bound already."""

    def arguments(self, n: int, f: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional (after the updates) and keyword arguments that tell (n, f)."""
        if self.position is not None:
            return (f,), {}
        keywords: dict[str, Any] = {self.n: n} if self.n else {}
        if self.fixed is None and self.f:
            keywords[self.f] = f
        if self.fixed is None and self.fraction:
            keywords[self.fraction] = f / n
        return (), keywords

    @property
    def told(self) -> bool:
        """Whether f can still be told, as a number or as a fraction."""
        return self.fixed is None and bool(self.f or self.fraction or self.position is not None)

    def __str__(self) -> str:
        """What is passed as what: "f as num_byzantine, n as num_clients"."""
        if self.fixed is not None:
            how = str(self.fixed)
        elif self.fraction:
            how = f"f/n as {self.fraction}"
        else:
            how = f"f as {self.f}" if self.told else "f not told"
        beside = {"n": self.n, "sample counts": self.counts, "the server's own update": self.root}
        return ", ".join([how, *(f"{value} as {name}" for value, name in beside.items() if name)])


def telling(function: Callable[..., Any], takes_updates: bool, f: str | None = None, root: str | bool = False) -> Telling:
    """Find from the signature how `function` is told f, n, sample counts and, where `root` is set, the server's own update.

    Only parameters with known names are filled, or those that the caller names: `f` and `root`. Raises ValueError where a
    parameter without a default is left, and where the caller names one that does not exist.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return Telling(f="the second argument", position=1) if takes_updates else Telling()
    named = [p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    if takes_updates and not named:
        return Telling(f="the second argument", position=1)  # *args: a decorator that hides the signature
    first = _updates(function, named) if takes_updates else None
    rest = [p for p in named if p is not first]
    names = _filled(function, rest, takes_updates, f, root)
    unfilled = [p for p in rest if p.default is p.empty and p.name not in names.values()]
    if unfilled:
        raise ValueError(_unfilled(function, unfilled, takes_updates))
    told = names["f"] or names["fraction"]
    by_place = next((i for i, p in enumerate(rest) if p.name == told and p.kind is p.POSITIONAL_ONLY), None)
    by_name = first.name if first is not None and first.kind is first.KEYWORD_ONLY else None
    return Telling(**names, position=by_place, updates=by_name, fixed=_bound(function, told))


def makes_objects(function: object) -> bool:
    """Whether a function is a factory of rules: it can be called without arguments, or with f, f / n or n alone."""
    if not callable(function) or not (inspect.isroutine(function) or isinstance(function, partial)):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    known = NUMBER | FRACTION | CLIENTS
    needed = [p for p in parameters if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return not several and all(p.name.lower().strip("_") in known for p in needed)


def _filled(
    function: Callable[..., Any], rest: Sequence[inspect.Parameter], takes_updates: bool, f: str | None, root: str | bool
) -> dict[str, str | None]:
    """What is passed as what: the caller's word first, then the known names."""
    for name in (f, root):
        if isinstance(name, str) and name not in {p.name for p in rest}:
            raise ValueError(f"expected a parameter of {_name(function)} beside the updates, got {name!r}")
    bare = [p for p in rest if p.name != f]
    numbers, fractions = _trimming(function, bare)
    told = f or _named(rest, NUMBER) or numbers
    return {
        "f": told,
        "fraction": None if told else _named(rest, FRACTION) or fractions,
        "n": _named(rest, CLIENTS),
        # A default means that the rule does without; a constructor is not told what clients claim.
        "counts": _named([p for p in rest if p.default is p.empty], COUNTS) if takes_updates else None,
        "root": root if isinstance(root, str) else _named(rest, ROOT) if root else None,
    }


def _trimming(function: Callable[..., Any], rest: Sequence[inspect.Parameter]) -> tuple[str | None, str | None]:
    """Parameters that are f and f / n in a trimmed mean only, told apart by their defaults where they have any."""
    if "trim" not in _name(function).lower():
        return None, None
    kinds = {p.name: type(p.default) if isinstance(p.default, int | float) else TRIMS[p.name] for p in rest if p.name in TRIMS}
    numbers, fractions = ([name for name, kind in kinds.items() if kind is wanted] for wanted in (int, float))
    return next(iter(numbers), None), next(iter(fractions), None)


def _updates(function: Callable[..., Any], named: Sequence[inspect.Parameter]) -> inspect.Parameter:
    """The parameter that takes the clients' updates: the first that is not bound."""
    bound: Mapping[str, Any] = function.keywords if isinstance(function, partial) else {}
    first = next((p for p in named if p.name not in bound), named[0])
    if first.name.lower().strip("_").split("_")[0] in NOT_UPDATES:
        raise ValueError(
            f"expected the clients' updates as the first argument of {_name(function)}, which takes {first.name} there: "
            f"bind it, functools.partial({_name(function)}, {first.name}=...)"
        )
    return first


def _named(parameters: Iterable[inspect.Parameter], names: frozenset[str]) -> str | None:
    return next((p.name for p in parameters if p.name.lower().strip("_") in names), None)


def _bound(function: Callable[..., Any], name: str | None) -> Fixed | None:
    if not (name and isinstance(function, partial) and name in function.keywords):
        return None
    return _fixed(name, function.keywords[name])


def _name(function: Any) -> str:
    """The name of a function, method or class, inside `functools.partial` too."""
    while isinstance(function, partial):
        function = function.func
    return (getattr(function, "__qualname__", None) or repr(function)).rpartition("<locals>.")[2]


def _unfilled(function: Callable[..., Any], parameters: Sequence[inspect.Parameter], takes_updates: bool) -> str:
    name, one = _name(function).rpartition(".")[2], parameters[0].name
    wanted = "rule(updates), rule(updates, f)" if takes_updates else "a constructor that takes f or nothing"
    left = ", ".join(p.name for p in parameters)
    remedies = [f"bind it, functools.partial({name}, {one}=...)"]
    if takes_updates:
        remedies.append(f"say that it takes f, f={one!r}")
    if _named(parameters, ROOT):
        remedies.append("say that it takes the server's own update, root=True")
    return f"expected {wanted}, f under one of its usual names; got {name}, which also needs {left}: {', or '.join(remedies)}"


def fixed_in(instance: object) -> Fixed | None:
    """What a configured object carries in an attribute with a known name; a number goes before a fraction."""
    attributes: Mapping[str, object] = getattr(instance, "__dict__", {})
    trims = TRIMS if "trim" in type(instance).__name__.lower() else {}
    for names in (NUMBER, FRACTION, trims):
        for name, value in attributes.items():
            if name.lower().strip("_") in names and (found := _fixed(name.strip("_"), value)):
                return found
    return None


def _fixed(name: str, value: object) -> Fixed | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return Fixed(f"{name}={value}", f=value)
    return Fixed(f"{name}={value}", fraction=exact(value)) if isinstance(value, float) and 0 <= value < 1 else None


def exact(fraction: float) -> Fraction:
    """The fraction that a user wrote as a float: 0.29 is 29/100 and 1/3 is a third, so floor(fraction * n) is right."""
    return Fraction(fraction).limit_denominator(1_000_000)
