"""Rules by name: the decorators that enter one with its claims, and `resolve`, from a spec to the rule it stands for."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from fl_impl.aggregators.base import (
    SYMMETRIES,
    Aggregator,
    Keywords,
    Weights,
    everywhere,
    honest_majority,
    nowhere,
    unproven,
)
from fl_impl.aggregators.kernels import combine, combine_rows
from fl_impl.aggregators.pipes import PreAggregator, never_attained
from fl_impl.aggregators.ranks import Ranks, mean_of_ranks
from fl_impl.aggregators.screening import measured
from fl_impl.common import specs
from fl_impl.common.registry import Registry
from fl_impl.common.specs import nearest

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

RULES: Final = "fl_impl.aggregators.rules"
ALL: Final[Registry[Aggregator]] = Registry("an aggregator", package=RULES, group="pytest_fl.aggregators")
"""Every rule by its name."""
PRE: Final[Registry[PreAggregator]] = Registry("a pre-aggregator", package=RULES, group="pytest_fl.pre_aggregators")
"""Every pre-aggregator by its name."""

ALIASES: Final = {
    "fedavg": "mean",
    "fedprox": "mean",  # on the server; the proximal term is the client's
    "median": "coordinate_median",
    "byzantine_robust": "nnm|trimmed_mean",
}
"""Other names, and the specs that they stand for."""


def aggregator(
    *,
    by: Literal["updates", "distances", "ranks"] = "updates",
    kappa: Callable[..., float] = unproven,
    min_clients: Callable[..., int] = honest_majority,
    symmetries: frozenset[str] | set[str] | Callable[..., frozenset[str]] = frozenset(),
    source: str = "",
    exact: bool | Callable[..., bool] = False,
    selective: bool = False,
    defended: bool = True,
    weighing: Callable[..., Weights] | None = None,
    by_columns: Callable[..., Callable[[Any], Any]] | None = None,
    apart: bool = False,
) -> Callable[[Callable[..., Any]], Aggregator]:
    """Register a function under its name as a rule, with its claims.

    by="updates": the function is `rule(x: (n, d), f, *, options, context) -> (d,)`.
    by="distances": it is `weigh(geometry, f, *, options) -> (n,)`, the weights of the updates in the result.
    by="ranks": it is `ranks(n, f, *, options) -> (low, high)`; the result is, in each coordinate, the mean of the
    sorted values number low to high - 1. Or -> (low, high, keep): the mean of the `keep` values nearest to that mean.
    exact: whether an input attains kappa, or (n, f, *, options) -> whether one does there.
    Claims that depend on options are functions that take those by keyword. `selective`, `defended`, `weighing`,
    `by_columns` and `apart`, which ranks and distances imply, are as in Aggregator.
    """

    def register(function: Callable[..., Any]) -> Aggregator:
        rule = {"updates": lambda plain: plain, "distances": _combining, "ranks": _averaging_ranks}[by](function)
        claimed = symmetries if callable(symmetries) else frozenset(symmetries)
        attained = exact if callable(exact) else everywhere if exact else nowhere
        made = Aggregator(
            function.__name__, rule, kappa, min_clients, claimed, source, attained, Keywords.of(function),
            weighing=function if by == "distances" else weighing, ranks=function if by == "ranks" else None,
            by_columns=by_columns, apart=apart or by != "updates",
            selective=selective, defended=defended,
        )  # fmt: skip
        _check_names(made.symmetries)
        ALL.enter(made.name, made, function)
        return made

    return register


def pre_aggregator(
    *,
    by: Literal["updates", "mixing"] = "updates",
    kappa: Callable[..., float],
    preserves: frozenset[str] | set[str],
    source: str,
    exact: Callable[..., bool] = never_attained,
    equalises: bool = False,
    output_clients: Callable[..., int] = lambda n: n,
    min_clients: Callable[..., int] = lambda needed, f: max(honest_majority(f), needed),
) -> Callable[[Callable[..., Any]], PreAggregator]:
    """Register a function under its name as a pre-aggregator, with what it does to the claims of the rule after it.

    by="updates": the function is `transform(x: (n, d), f, *, options, context) -> (n', d)`.
    by="mixing": it is `mixing(n, f, geometry: () -> Geometry, *, options, context) -> (n', n)`, a matrix with rows that
    sum to 1; the output is that matrix times x. `geometry()` costs a pass over x, which a function that mixes blindly
    saves.
    `kappa(inner, n, f, *, options)` is the coefficient of the composition with a rule whose own is inner(n', f), and
    `exact(inner, n, f, *, options)` whether an input attains it.
    """

    def register(function: Callable[..., Any]) -> PreAggregator:
        made = PreAggregator(
            function.__name__, _mixed(function) if by == "mixing" else function, kappa, frozenset(preserves), source,
            output_clients, min_clients, Keywords.of(function), equalises=equalises,
            mixing=function if by == "mixing" else None, composed_attained=exact,
        )  # fmt: skip
        _check_names(made.preserves)
        PRE.enter(made.name, made, function)
        return made

    return register


def _combining(weigh: Callable[..., Weights]) -> Callable[..., Any]:
    @functools.wraps(weigh)
    def rule(x: Matrix, f: int, **options: Any) -> Any:
        return combine(weigh(measured(x, f), f, **options), x)

    return rule


def _averaging_ranks(ranks: Callable[..., Ranks]) -> Callable[..., Any]:
    @functools.wraps(ranks)
    def rule(x: Matrix, f: int, **options: Any) -> Any:
        return mean_of_ranks(x, ranks(len(x), f, **options))

    return rule


def _mixed(mixing: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(mixing)
    def transform(x: Matrix, f: int, **keywords: Any) -> Any:
        def geometry() -> Geometry:
            return measured(x, f)

        return combine_rows(mixing(len(x), f, geometry, **keywords), x)

    return transform


def _check_names(symmetries: Iterable[str]) -> None:
    for name in symmetries:
        if name not in SYMMETRIES:
            raise ValueError(f"no symmetry is called {name!r}{nearest(name, SYMMETRIES)}")


def resolve(what: object) -> Aggregator:
    """The aggregator that a spec, an object, or a plain function `(updates, f) -> (d,)` stands for.

    Specs: "krum", "nnm|trimmed_mean", "multi_krum(m=5)", an alias such as "fedavg", "package.module:attribute".
    Raises ValueError, with the nearest name where a name is wrong.
    """
    if isinstance(what, Aggregator):
        return what
    if isinstance(what, str):
        *before, last = [part.strip() for part in specs.split(what, "|")]
        return functools.reduce(lambda after, pre: _pre_aggregator(pre, what) | after, reversed(before), _rule(last))
    if callable(what) and not isinstance(what, PreAggregator | Registry):
        return Aggregator(_import_path(what), what, native=True)
    raise ValueError(
        'expected an aggregator: a spec such as "krum" or "nnm|trimmed_mean", an Aggregator, or a function '
        f"(updates, f) -> vector; got {what!r}"
    )


def _rule(text: str) -> Aggregator:
    if _is_import_path(text):
        return resolve(specs.import_attribute(text))
    spec = specs.parse(text)
    if spec.name in PRE:
        raise ValueError(f'{spec.name} is a pre-aggregator and needs a rule after it: "{text}|trimmed_mean"')
    known: dict[str, Aggregator | str] = {**ALL, **ALIASES}
    chosen = specs.lookup(spec.name, known, "an aggregator")
    return resolve(chosen).configured(**_options(spec))


def _pre_aggregator(text: str, whole: str) -> PreAggregator:
    if _is_import_path(text):
        found = specs.import_attribute(text)
        if isinstance(found, PreAggregator):
            return found
        raise ValueError(f"expected a pre-aggregator before the last bar of {whole!r}, got {found!r}")
    spec = specs.parse(text)
    if spec.name in ALL or spec.name in ALIASES:
        raise ValueError(f"{spec.name} is a rule and ends a pipe; in {whole!r} more comes after it")
    return PRE[spec.name].configured(**_options(spec))


def _is_import_path(text: str) -> bool:
    return ":" in text and "(" not in text


def _options(spec: specs.Spec) -> Mapping[str, Any]:
    if spec.arguments:
        raise ValueError(f"options are given by name, as in {spec.name}(option={spec.arguments[0]!r})")
    return spec.options


def _import_path(function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}:{name}" if module and name else type(function).__name__


def _reduced(rule: Aggregator) -> tuple[Callable[[object], Aggregator], tuple[str]]:
    """Rules travel between processes by name; said here, since resolving a name needs every rule."""
    return resolve, (rule.spec,)


copyreg.pickle(Aggregator, _reduced)
