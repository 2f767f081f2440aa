"""An aggregator is a function and its claims: what it needs, what it guarantees, whence that is known."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.inputs import as_inputs, as_rows, as_vector
from fl_impl.aggregators.screening import screened
from fl_impl.common.specs import nearest

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry
    from fl_impl.aggregators.ranks import Ranks

Weights = npt.NDArray[np.float64]
T = TypeVar("T")

SYMMETRIES: Final = frozenset({
    "permutation",  # the order of clients changes nothing (where scores tie: nothing but which of the tied is taken)
    "translation",  # F(x + c) = F(x) + c
    "scale",  # F(a x) = a F(x), a > 0
    "sign",  # F(-x) = -F(x)
    "rotation",  # F(x Q) = F(x) Q, Q orthogonal
    "monotone",  # raising entries lowers no coordinate of the result
    "unanimity",  # n equal rows give that row
    "exactness",  # n - f equal rows give that row, whatever the others are; necessary for any finite kappa
    "box",  # each coordinate lies between the least and the greatest input
    "honest_box",  # each coordinate lies between the (f+1)-th smallest and the (f+1)-th greatest input
    "hull",  # the result is a convex combination of the inputs
    "selects",  # the result is one of the inputs
    "mean",  # f = 0 gives the mean
})  # fmt: skip
CONTEXT: Final = frozenset({"weights", "previous", "root", "history", "rng"})
"""What a rule may be told beside the updates: claimed sample counts, the last aggregate, the server's own update, the
sum of each client's past updates, a numpy Generator."""
SCREENING: Final = frozenset({"rows", "unit"})
"""What screening tells a rule that asks: the numbers of the rows that were kept, and the length 1 in their scale."""
NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})


class _Options(Protocol):
    """What `with_options` reads of a dataclass."""

    @property
    def name(self) -> str: ...
    @property
    def keywords(self) -> Keywords: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


Configurable = TypeVar("Configurable", bound="_Options")


class ConvergenceWarning(UserWarning):
    """An iterative rule stopped at its bound of steps before it converged."""


def honest_majority(f: int) -> int:
    """n > 2f: the most Byzantine clients that any rule can stand."""
    return 2 * f + 1


def unproven(n: int, f: int) -> float:
    """No finite coefficient is proven."""
    del n, f
    return math.inf


def everywhere(n: int, f: int) -> bool:
    """Kappa is attained at every (n, f)."""
    del n, f
    return True


def nowhere(n: int, f: int) -> bool:
    """Kappa is not known to be attained at any (n, f)."""
    del n, f
    return False


@dataclass(frozen=True)
class Keywords:
    """The keyword-only parameters of a rule: its options, the context that it takes or even needs."""

    options: frozenset[str] = frozenset()
    context: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    screening: frozenset[str] = frozenset()

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Keywords:
        """Read off the signature: a name in CONTEXT or SCREENING is that, any other is an option."""
        parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        names = frozenset(p.name for p in parameters)
        required = frozenset(p.name for p in parameters if p.default is p.empty) & CONTEXT
        return cls(names - CONTEXT - SCREENING, names & CONTEXT, required, names & SCREENING)


NO_KEYWORDS: Final = Keywords()


@dataclass(frozen=True, eq=False, repr=False)
class Aggregator:
    """`rule(updates: (n, d), f) -> (d,)` and its claims.

    Called as numpy would be: `krum(updates, f=2)`. Called with options alone it gives a configured copy:
    `multi_krum(m=5)`, the same as `multi_krum.configured(m=5)`.
    """

    name: str
    rule: Callable[..., Any]
    """(x: (n, d), f, *, options, context) -> (d,)."""
    claimed_kappa: Callable[..., float] = unproven
    """(n, f, *, the options that it depends on) -> kappa."""
    claimed_min_clients: Callable[..., int] = honest_majority
    """(f, *, the options that it depends on) -> the smallest admissible n."""
    claimed_symmetries: frozenset[str] | Callable[..., frozenset[str]] = frozenset()
    """Names in SYMMETRIES, or (*, options) -> such names."""
    source: str = ""
    claimed_attained: Callable[..., bool] = nowhere
    """(n, f, *, the options that it depends on) -> whether an input attains kappa(n, f)."""
    keywords: Keywords = NO_KEYWORDS
    options: Mapping[str, Any] = field(default_factory=lambda: NO_OPTIONS)
    weighing: Callable[..., Weights] | None = None
    """(Geometry, f, *, options) -> (n,) weights, where the rule is a combination that distances alone decide."""
    ranks: Callable[..., Ranks] | None = None
    """(n, f, *, options) -> Ranks, where the rule is that in each coordinate."""
    by_columns: Callable[[int, int, Callable[[], Geometry]], Callable[[Matrix], Any]] | None = None
    """(n, f, geometry: () -> Geometry over all columns) -> the rule on some columns, where `ranks` and `weighing` do not
    say it."""
    selective: bool = False
    """Whether it takes some updates, or values, and leaves others: then their order may decide between equals."""
    defended: bool = True
    """Whether non-finite rows are dropped and counted against f; otherwise they are refused."""
    apart: bool = False
    """Whether the rule looks at updates only through kernels and row by row, so that `Vectors` do for a matrix."""
    native: bool = False
    """Whether a tensor on the CPU is handed to the rule as a tensor too, as plain functions of others expect."""

    def __post_init__(self) -> None:
        """Let help() show what the rule says of itself."""
        object.__setattr__(self, "__doc__", self.rule.__doc__)

    def __call__(self, updates: object = None, f: int = 0, **keywords: Any) -> Any:
        """The aggregate of n updates of which up to f are Byzantine, in the kind, dtype and device of the updates.

        Keywords are options of the rule, or context that it takes (`weights`, `previous`, `root`, `history`, `rng`).
        Raises ValueError for malformed updates, f < 0, n < min_clients(f), more than f non-finite rows, and unknown
        keywords. The updates are never written to.
        """
        if updates is None:
            return self.configured(**keywords)
        context, options = parted(keywords, self.keywords.context)
        bound = self.configured(**options)
        bound.check_context(context)
        inputs = as_inputs(updates, native=bound.native, apart=bound.apart)
        f = bound.check_clients(len(inputs.matrix), f)
        return inputs.restore(bound.compute(inputs.matrix, f, context))

    def compute(self, x: Matrix, f: int, context: Mapping[str, Any]) -> Any:
        """The rule on a matrix that is in order, with what is not finite screened out."""
        told = validated_context(context, x) | dict.fromkeys(self.keywords.screening)
        rule = bind(self.rule, self.options)
        return screened(rule, x, f, name=self.name, context=told, defended=self.defended)

    def weigh(self, geometry: Geometry, f: int = 0) -> Weights:
        """(n,) weights of the updates in the aggregate, from their distances alone.

        So the rule also runs where no (n, d) matrix exists, as on products of LoRA factors.
        Raises ValueError for a rule that needs more than distances, and for an inadmissible (n, f).
        """
        if self.weighing is None:
            raise ValueError(f"{self.name} needs the updates themselves: distances between them do not decide it")
        return bind(self.weighing, self.options)(geometry, self.check_clients(len(geometry.distances), f))

    def configured(self, **options: Any) -> Aggregator:
        """A copy with options bound. Raises ValueError for a name that the rule does not take."""
        return with_options(self, options)

    def kappa(self, n: int, f: int) -> float:
        """The proven coefficient: ||F(x) - mean_S||^2 <= kappa * mean_{i in S} ||x_i - mean_S||^2 for all |S| = n - f.

        math.inf where none is proven, or n is too small for f.
        """
        return bind(self.claimed_kappa, self.options)(n, f) if n >= self.min_clients(f) else math.inf

    def attained(self, n: int, f: int) -> bool:
        """Whether an input attains kappa(n, f), so that no smaller constant is true there."""
        return math.isfinite(self.kappa(n, f)) and bind(self.claimed_attained, self.options)(n, f)

    @property
    def exact(self) -> bool:
        """Whether kappa is attained with one attacker, for some of the smallest admissible numbers of clients."""
        least = self.min_clients(1)
        return any(self.attained(n, 1) for n in range(least, least + 6))

    def min_clients(self, f: int) -> int:
        """The smallest n at which the rule is defined for f Byzantine clients."""
        return bind(self.claimed_min_clients, self.options)(f)

    @property
    def symmetries(self) -> frozenset[str]:
        """The names in SYMMETRIES of what holds exactly, up to rounding."""
        claimed = self.claimed_symmetries
        return claimed if isinstance(claimed, frozenset) else bind(claimed, self.options)()

    def check_clients(self, n: int, f: object) -> int:
        """f as an int, if this rule admits (n, f); otherwise ValueError with the arithmetic."""
        if isinstance(f, bool) or not isinstance(f, int | np.integer) or f < 0:
            raise ValueError(f"{self.name}: f, the number of Byzantine clients, must be 0, 1, 2, ...; got {f!r}")
        f = int(f)
        needed = self.min_clients(f)
        if n < needed:
            raise ValueError(f"{self.name} needs n >= {needed} clients for f={f}; got n={n}. Add clients or lower f")
        return f

    def check_context(self, context: Mapping[str, Any]) -> None:
        """ValueError if something is missing that the rule cannot do without."""
        for name in sorted(self.keywords.required):
            if context.get(name) is None:
                raise ValueError(f"{self.name} cannot do without {name}: call {self.name}(updates, f=f, {name}=...)")

    @property
    def spec(self) -> str:
        """The text that `resolve` turns back into this aggregator."""
        return self.name + format_options(self.options)

    def __repr__(self) -> str:
        """Its spec in angle brackets: <Aggregator multi_krum(m=5)>."""
        return f"<Aggregator {self.spec}>"


def with_options(what: Configurable, options: Mapping[str, Any]) -> Configurable:
    """A copy with options bound. Raises ValueError for a name that it does not take, with the nearest."""
    for name in options:
        if name not in what.keywords.options:
            takes = f"{what.name} takes {{}} {name!r}{nearest(name, what.keywords.options)}"
            raise ValueError(takes.format("no option" if name not in CONTEXT else "no context"))
    bound = MappingProxyType({**what.options, **options})
    return cast("Configurable", replace(cast("Any", what), options=bound)) if options else what


def parted(keywords: Mapping[str, T], names: frozenset[str]) -> tuple[dict[str, T], dict[str, T]]:
    """The keywords of those names, and the others."""
    inside = {name: value for name, value in keywords.items() if name in names}
    return inside, {name: value for name, value in keywords.items() if name not in names}


def validated_context(context: Mapping[str, Any], x: Matrix) -> dict[str, Any]:
    """The context with vectors in the kind of x. Raises ValueError for what has the wrong form."""
    told = dict(context)
    for name in ("previous", "root"):
        if told.get(name) is not None:
            told[name] = as_vector(told[name], x, name)
    if told.get("history") is not None:
        told["history"] = as_rows(told["history"], x, "history")
    if told.get("rng") is not None and not isinstance(told["rng"], np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator; got {type(told['rng']).__name__}")
    return told


def bind(function: Callable[..., T], options: Mapping[str, Any]) -> Callable[..., T]:
    """function with those of the options bound that it takes."""
    if not options:
        return function
    parameters = inspect.signature(function).parameters
    taken = {name: value for name, value in options.items() if name in parameters}
    return lambda *arguments, **keywords: function(*arguments, **keywords, **taken)


def format_options(options: Mapping[str, Any]) -> str:
    """`(m=5)`, or nothing where there are no options."""
    return "(" + ", ".join(f"{name}={value!r}" for name, value in options.items()) + ")" if options else ""
