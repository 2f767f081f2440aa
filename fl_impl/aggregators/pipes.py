"""Composition: a pre-aggregator before a rule, or before another pre-aggregator, with the claims of the whole."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.base import (
    NO_KEYWORDS,
    NO_OPTIONS,
    Aggregator,
    Keywords,
    Weights,
    bind,
    format_options,
    honest_majority,
    parted,
    with_options,
)
from fl_impl.aggregators.inputs import wants_gradient
from fl_impl.aggregators.kernels import combine, combine_rows
from fl_impl.aggregators.ranks import mean_of_ranks
from fl_impl.aggregators.screening import measured, screened

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

Context = Mapping[str, Any]

OF_EACH_CLIENT: Final = frozenset({"weights", "history"})
"""Context with a row for each client: what comes out of a pre-aggregator no longer has those rows."""

IDENTITY: Final = Aggregator("identity", lambda x, f: x)  # noqa: ARG005  # rules are told f
"""The matrix as it is: a pre-aggregator before it shows what comes out."""


def never_attained(inner: Callable[[int, int], float], n: int, f: int) -> bool:
    """The coefficient of the composition is not known to be attained, whatever the rule after it."""
    del inner, n, f
    return False


@dataclass(frozen=True, eq=False, repr=False)
class PreAggregator:
    """`transform(updates: (n, d), f) -> (n', d)`, and how it changes the claims of the rule after it.

    `nnm | trimmed_mean` is an Aggregator; `arc | nnm` is a PreAggregator.
    """

    name: str
    transform: Callable[..., Any]
    """(x: (n, d), f, *, options, context) -> (n', d)."""
    composed_kappa: Callable[..., float]
    """(inner, n, f, *, options) -> kappa of the composition with a rule whose own is inner(n', f)."""
    preserves: frozenset[str]
    """The symmetries that the composition has if the rule after it has them."""
    source: str = ""
    output_clients: Callable[..., int] = lambda n: n
    """(n, *, options) -> n', the number of rows that come out; up to f of them may be Byzantine."""
    composed_min_clients: Callable[..., int] = lambda needed, f: max(honest_majority(f), needed)
    """(min_clients(f) of the rule after it, f, *, options) -> min_clients(f) of the composition."""
    keywords: Keywords = NO_KEYWORDS
    options: Mapping[str, Any] = field(default_factory=lambda: NO_OPTIONS)
    equalises: bool = False
    """Whether it makes equal rows of different ones, so that a selective rule after it must break ties."""
    mixing: Callable[..., npt.NDArray[np.float64]] | None = None
    """(n, f, geometry: () -> Geometry, *, options, context) -> (n', n) matrix M with rows that sum to 1, where the
    output is M x with a matrix that distances alone decide, if anything."""
    composed_attained: Callable[..., bool] = never_attained
    """(inner, n, f, *, options) -> whether an input attains the kappa of the composition."""

    def __post_init__(self) -> None:
        """Let help() show what the transform says of itself."""
        object.__setattr__(self, "__doc__", self.transform.__doc__)

    def __call__(self, updates: object = None, f: int = 0, **keywords: Any) -> Any:
        """The (n', d) transformed updates, in the kind of the updates; with options alone, a configured copy."""
        if updates is None:
            return self.configured(**keywords)
        context, options = parted(keywords, self.keywords.context)
        return piped(self.configured(**options), IDENTITY)(updates, f, **context)

    def __or__(self, after: Any) -> Any:
        """The composition: what comes out of this goes into what is after it."""
        if isinstance(after, Aggregator):
            return piped(self, after)
        return chained(self, after) if isinstance(after, PreAggregator) else NotImplemented

    def configured(self, **options: Any) -> PreAggregator:
        """A copy with options bound. Raises ValueError for a name that the transform does not take."""
        return with_options(self, options)

    @property
    def spec(self) -> str:
        """The text that `resolve` turns back into this pre-aggregator, in front of a rule."""
        return self.name + format_options(self.options)

    def __repr__(self) -> str:
        """Its spec in angle brackets: <PreAggregator bucketing(size=2)>."""
        return f"<PreAggregator {self.spec}>"


def piped(before: PreAggregator, after: Aggregator) -> Aggregator:
    """The rule `before | after`."""

    def rule(x: Matrix, f: int, **context: Any) -> Any:
        if before.mixing is not None:
            return _after_mixing(before, after, x, f, context)
        transformed = _told(before.transform, before, context)(x, f)
        # It may be of quite another magnitude than x, so it is screened for itself.
        inner = bind(after.rule, after.options)
        return screened(inner, transformed, f, name=after.name, context=_for(after, context))

    return Aggregator(
        f"{before.spec}|{after.spec}",
        rule,
        lambda n, f: bind(before.composed_kappa, before.options)(after.kappa, n, f),
        lambda f: bind(before.composed_min_clients, before.options)(after.min_clients(f), f),
        _kept(before, after),
        "; ".join(filter(None, (before.source, after.source))),
        lambda n, f: bind(before.composed_attained, before.options)(after.kappa, n, f),
        keywords=_joined(before.keywords, after.keywords),
        weighing=_weighing(before, after),
        by_columns=_by_columns(before, after),
        selective=after.selective,
        defended=after.defended,
        apart=before.mixing is not None,
        native=after.native,
    )


def _kept(before: PreAggregator, after: Aggregator) -> frozenset[str]:
    """The symmetries of both, less what ties break.

    Clients with the same neighbours become equal rows, so groups of equals tie for selection though no update is in any
    special position. Then the order decides, of clients or of values.
    """
    tied = before.equalises and after.selective
    return before.preserves & after.symmetries - frozenset({"permutation", "sign"} if tied else ())


def chained(first: PreAggregator, second: PreAggregator) -> PreAggregator:
    """The pre-aggregator `first | second`."""

    def transform(x: Matrix, f: int, **context: Any) -> Any:
        return _told(second.transform, second, context)(_told(first.transform, first, context)(x, f), f)

    def mixing(n: int, f: int, geometry: Callable[[], Geometry], **context: Any) -> Any:
        inner = _told(first.mixing, first, context)(n, f, geometry)
        return _told(second.mixing, second, context)(len(inner), f, lambda: geometry().mixed(inner)) @ inner

    def kappa(inner: Callable[[int, int], float], n: int, f: int) -> float:
        composed = bind(second.composed_kappa, second.options)
        return bind(first.composed_kappa, first.options)(lambda m, g: composed(inner, m, g), n, f)

    def attained(inner: Callable[[int, int], float], n: int, f: int) -> bool:
        composed = bind(second.composed_kappa, second.options)
        return bind(first.composed_attained, first.options)(lambda m, g: composed(inner, m, g), n, f)

    def min_clients(needed: int, f: int) -> int:
        needed = bind(second.composed_min_clients, second.options)(needed, f)
        return bind(first.composed_min_clients, first.options)(needed, f)

    return PreAggregator(
        f"{first.spec}|{second.spec}",
        transform,
        kappa,
        first.preserves & second.preserves,
        "; ".join(filter(None, (first.source, second.source))),
        lambda n: bind(second.output_clients, second.options)(bind(first.output_clients, first.options)(n)),
        min_clients,
        _joined(first.keywords, second.keywords),
        equalises=first.equalises or second.equalises,
        mixing=mixing if first.mixing and second.mixing else None,
        composed_attained=attained,
    )


def _after_mixing(before: PreAggregator, after: Aggregator, x: Matrix, f: int, context: Context) -> Any:
    """The rule on mixing @ x without that matrix, where it is decided by sorting or by distances."""

    @functools.cache
    def geometry() -> Geometry:
        return measured(x, f)

    mixing = _told(before.mixing, before, context)(len(x), f, geometry)
    # The fused kernel takes differences from the row most used, which is a near one unless rows are mixed blindly.
    blindly = geometry.cache_info().misses == 0
    if after.ranks is not None and not blindly:
        return mean_of_ranks(x, bind(after.ranks, after.options)(len(mixing), f), mixing)
    if after.weighing is not None and not wants_gradient(x):
        return combine(after.weigh(geometry().mixed(mixing), f) @ mixing, x)
    return _told(after.rule, after, context)(combine_rows(mixing, x), f)


def _weighing(before: PreAggregator, after: Aggregator) -> Callable[[Geometry, int], Weights] | None:
    if before.mixing is None or after.weighing is None:
        return None

    def weigh(geometry: Geometry, f: int) -> Weights:
        mixing = _told(before.mixing, before, {})(len(geometry.distances), f, lambda: geometry)
        return after.weigh(geometry.mixed(mixing), f) @ mixing

    return weigh


def _by_columns(before: PreAggregator, after: Aggregator) -> Callable[..., Callable[[Matrix], Any]] | None:
    """As `_after_mixing`, on columns: distances over all of them give the mixing, once."""
    if before.mixing is None or (after.ranks is None and after.by_columns is None):
        return None

    def prepare(n: int, f: int, geometry: Callable[[], Geometry]) -> Callable[[Matrix], Any]:
        asked = functools.cache(geometry)
        mixing = _told(before.mixing, before, {})(n, f, asked)
        blindly = asked.cache_info().misses == 0
        if after.by_columns is not None:
            inner = after.by_columns(len(mixing), f, lambda: asked().mixed(mixing))
            return lambda x: inner(combine_rows(mixing, x))
        ranks = _told(after.ranks, after, {})(len(mixing), f)
        return lambda x: mean_of_ranks(combine_rows(mixing, x), ranks) if blindly else mean_of_ranks(x, ranks, mixing)

    return prepare


def _told(function: Callable[..., Any] | None, of: Aggregator | PreAggregator, context: Context) -> Callable[..., Any]:
    """A function of this rule with the rule's options, and with the part of the context that the rule takes."""
    assert function is not None
    return functools.partial(bind(function, of.options), **_for(of, context))


def _for(rule: Aggregator | PreAggregator, context: Context) -> dict[str, Any]:
    takes = (rule.keywords.context - OF_EACH_CLIENT) | rule.keywords.screening
    return {name: value for name, value in context.items() if name in takes}


def _joined(first: Keywords, second: Keywords) -> Keywords:
    return Keywords(
        context=(first.context | second.context) - OF_EACH_CLIENT,
        required=(first.required | second.required) - OF_EACH_CLIENT,
        screening=first.screening | second.screening,
    )
