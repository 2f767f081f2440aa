"""The one table of knobs: each is an option `--fl-x`, an ini key `fl_x`, a marker `fl(x=...)` and a fixture `fl_x`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

PROFILES: Final = ("quick", "default", "thorough")
STRICT: Final = ("defects", "range", "all")
ISOLATIONS: Final = ("process", "none")
BACKENDS: Final = ("local", "flower", "flower-inline", "flower-deployment")


def whole(minimum: int) -> Callable[[Any], int]:
    """A reader of integers of at least `minimum`."""

    def read(raw: Any) -> int:
        value = int(raw) if isinstance(raw, str) and raw.strip().lstrip("-").isdecimal() else raw
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"expected a whole number, at least {minimum}; got {raw!r}")
        return value

    return read


def fraction(raw: Any) -> float:
    """Read the share of the clients that is Byzantine: `0.3` or `1/3`, below one half."""
    from fl_impl.common.counts import read_fraction  # noqa: PLC0415  # only a run that gives a fraction pays for fl_impl

    try:
        value = float(read_fraction(raw))
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < 0.5:
        raise ValueError(f"expected a fraction from 0 to below 0.5, such as 0.3 or 1/3; got {raw!r}")
    return value


def names(raw: Any) -> tuple[str, ...]:
    """Read spec strings, a sequence of them or one text with commas between (those inside parentheses do not count).

    A sequence of texts, as an ini file or TOML gives it, may have commas inside them too.
    """
    from fl_impl.common.specs import split  # noqa: PLC0415  # only a run that names a rule or an attack pays for fl_impl

    given: Sequence[Any] = [raw] if isinstance(raw, str) else raw if isinstance(raw, Sequence) else ()
    texts = [text for text in given if isinstance(text, str)]
    found = tuple(part.strip() for text in texts for part in split(text, ","))
    if not found or not all(found) or len(texts) != len(given):
        raise ValueError(f'expected names with commas between, such as krum,"nnm|trimmed_mean"; got {raw!r}')
    return tuple(dict.fromkeys(found))


def choice(*known: str) -> Callable[[Any], str]:
    """A reader of one of the known words."""

    def read(raw: Any) -> str:
        if raw not in known:
            raise ValueError(f"expected one of its words; got {raw!r}{_nearest(raw, known)}")
        return raw

    return read


def text(raw: Any) -> str:
    """Read any text that is not empty."""
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError(f"expected a name; got {raw!r}")
    return raw.strip()


def _nearest(wrong: object, known: Iterable[str]) -> str:
    from fl_impl.common.specs import nearest  # noqa: PLC0415  # a mistake is rare

    return nearest(str(wrong), known)


@dataclass(frozen=True)
class Knob:
    """One thing to turn, in four places under one name. Unset is None everywhere, so 0 is a value."""

    name: str
    default: Any
    read: Callable[[Any], Any]
    metavar: str
    help: str
    ini: Literal["string", "int"] = "string"
    field: str = ""
    """The field of FLConfig that it sets for every federation of a test; "" for none."""


KNOBS: Final = {
    knob.name: knob
    for knob in (
        Knob("rounds", 10, whole(1), "N", "rounds of a federation", "int", field="num_rounds"),
        Knob("clients", 10, whole(1), "N", "clients of a federation", "int", field="num_clients"),
        Knob("byzantine", 0.2, fraction, "FRACTION", "share of clients that is Byzantine", field="byzantine_fraction"),
        Knob("aggregator", ("nnm|trimmed_mean",), names, "NAMES", "rules; several multiply the tests that use one"),
        Knob("attack", ("sign_flip",), names, "NAMES", 'attacks ("none" for a clean run); several multiply as well'),
        Knob("seed", 0, whole(0), "N", "seed of federations, rounds and checks", "int", field="seed"),
        Knob("profile", "default", choice(*PROFILES), "NAME", f"effort of the checks: {', '.join(PROFILES)}"),
        Knob("backend", "local", choice(*BACKENDS), "NAME", f"engine of a federation: {', '.join(BACKENDS)}", field="backend"),
        Knob("isolation", "process", choice(*ISOLATIONS), "NAME", "checks call a subject in a child process, or here: none"),
        Knob("strict", "defects", choice(*STRICT), "WHAT", "failures that fail a test: defects, range (those too), or all"),
        Knob("device", "cpu", text, "NAME", "torch device of training and rules", field="device"),
    )
}


def value(name: str, config: pytest.Config, node: pytest.Item | None = None) -> Any:
    """The knob's value: the command line wins, then the nearest marker, then the ini file, then the default.

    Raises pytest.UsageError where a value is not one: it says where it was given, what was expected and what came.
    """
    chosen = given(name, config, node)
    return KNOBS[name].default if chosen is None else chosen


def given(name: str, config: pytest.Config, node: pytest.Item | None = None) -> Any:
    """As `value`, but None where nobody gave one."""
    for origin, raw in _sources(name, config, node):
        if raw is not None:
            return _read(name, raw, origin)
    return None


def _read(name: str, raw: Any, origin: str) -> Any:
    try:
        return KNOBS[name].read(raw)
    except ValueError as error:
        raise pytest.UsageError(f"{origin}: {error}") from error


def _sources(name: str, config: pytest.Config, node: pytest.Item | None) -> Iterator[tuple[str, Any]]:
    yield f"--fl-{name}", config.getoption(f"fl_{name}")
    for marker in node.iter_markers("fl") if node is not None else ():
        yield f"@pytest.mark.fl({name}=...)", marker.kwargs.get(name)
    yield f"fl_{name} in the ini file", _written(config, f"fl_{name}")


def _written(config: pytest.Config, key: str) -> Any:
    """What the configuration file says, as it is: for pytest a key has one type, and here 0.3, "1/3" and lists are right."""
    overridden = any(said.partition("=")[0].strip() == key for said in config.getoption("override_ini") or ())
    if overridden or config.inipath is None or config.inipath.suffix != ".toml":
        return _ini(config, key)
    import tomllib  # noqa: PLC0415  # most runs have another file

    table = tomllib.loads(config.inipath.read_text(encoding="utf-8"))
    ours = [table.get("pytest", {}), table.get("tool", {}).get("pytest", {})]
    return next((part[key] for part in (*ours, ours[1].get("ini_options", {})) if key in part), None)


def _ini(config: pytest.Config, key: str) -> Any:
    try:
        return config.getini(key)
    except (TypeError, ValueError) as error:  # pytest's own typed ini values
        raise pytest.UsageError(str(error)) from error


def check_marker(marker: pytest.Mark) -> None:
    """Raise pytest.UsageError for a marker `fl(...)` that names no knob, or gives one a value that is none."""
    if marker.args:
        raise pytest.UsageError(f"@pytest.mark.fl takes keywords only, such as fl(rounds=3); got {marker.args!r}")
    for name, raw in marker.kwargs.items():
        if name not in KNOBS:
            raise pytest.UsageError(f"@pytest.mark.fl: no knob {name!r}{_nearest(name, KNOBS)}")
        _read(name, raw, f"@pytest.mark.fl({name}=...)")


def add_options(parser: pytest.Parser) -> None:
    """Give every knob its option and its ini key, and add where reports go and what benchmarks are compared with."""
    group = parser.getgroup("fl", "federated learning under attack")
    typed = pytest.version_tuple >= (8, 4)  # older versions know no typed ini values; `read` takes their strings
    for knob in KNOBS.values():
        default = ",".join(knob.default) if isinstance(knob.default, tuple) else knob.default
        group.addoption(f"--fl-{knob.name}", metavar=knob.metavar, help=f"{knob.help} (default: {default})")
        parser.addini(f"fl_{knob.name}", knob.help, type=knob.ini if typed else "string", default=None)
    reports = "write the results to this file; the suffix decides: .json, .md or .html (may be repeated)"
    group.addoption("--fl-report", metavar="PATH", action="append", help=reports)
    parser.addini("fl_report", reports, type="args", default=None)
    group.addoption("--fl-list", action="store_true", help="list the rules, attacks and checks that there are, and exit")
    baseline = "fail every fl_benchmark that got slower than in this file, in multiples of reading its input once"
    group.addoption("--fl-bench-compare", metavar="PATH", help=baseline)


def report_paths(config: pytest.Config) -> list[str]:
    """Where reports go. Raises pytest.UsageError for a suffix that is none of .json, .md and .html."""
    paths: list[str] = config.getoption("fl_report") or _ini(config, "fl_report") or []
    for path in paths:
        if not path.endswith((".json", ".md", ".html")):
            raise pytest.UsageError(f"--fl-report: expected a path that ends in .json, .md or .html; got {path!r}")
    return paths
