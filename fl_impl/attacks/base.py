"""An attack is a function: what it does to updates, data or messages, what it must know, whence it is known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from fl_impl.common.registry import options_of
from fl_impl.common.specs import nearest

if TYPE_CHECKING:
    from fl_impl.data.labelled import Dataset

Array = npt.NDArray[Any]
Kind = Literal["update", "data", "protocol"]
Knowledge = Literal["blind", "own", "omniscient", "aggregator"]
"""Nothing; the attackers' own data and updates; every honest update; the aggregator in use as well."""
CONTEXT: Final = frozenset({"own", "aggregate", "previous", "memory", "ids"})
"""What an attack may be told beside the honest updates.

own: (f, d), what the attackers would have sent. aggregate: the rule in use, (n, d) -> (d,). previous: (d,), the last
aggregate. memory: a dict of arrays that lasts from round to round. ids: (n - f,), who sent which honest row.
"""


@dataclass(frozen=True, eq=False)
class Attack:
    """`attack(honest: (n-f, d), f, rng) -> (f, d)`, or `attack(data, rng)` for data, `attack(update, rng)` for messages.

    `backdoor | model_replacement` is one attack of two stages: poison the data, then scale what was learnt from it.
    Called with options alone it gives a configured copy: `sign_flip(scale=4)`.
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    knowledge: Knowledge = "omniscient"
    source: str = ""
    factor: str | None = None
    """The option that makes it stronger: `optimized` searches it."""
    goal: Callable[..., Dataset] | None = None
    """(test data, rng, **options) -> the inputs that the attacker cares about, labelled as the attacker wishes."""
    before: Attack | None = None
    """The stage that acts first."""
    default_before: bool = False
    """Whether `before` is the attack's own default, which a pipe replaces."""
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the stages of this attack's kind; without positional arguments, a configured copy."""
        if not arguments and not keywords.keys() & {"honest", "data", "update"}:
            return self.configured(**keywords)
        options = {name: value for name, value in keywords.items() if name in self.known_options}
        rest = {name: value for name, value in keywords.items() if name not in options}
        bound = self.configured(**options)
        run = {"update": bound.craft, "data": bound.poison, "protocol": bound.tamper}[self.kind]
        return run(*arguments, **rest)

    def craft(self, honest: Any, f: int, rng: np.random.Generator, **context: Any) -> Any:
        """(f, d): the Byzantine updates, in the kind and dtype of honest, an (n-f, d) array, tensor or list of rows.

        Raises ValueError for another shape, no row, or f < 0. What an attack is not told (see CONTEXT), it does without.
        """
        x, restore = as_array(honest)
        check(x, f)
        told: dict[str, Any] = {name: value for name, value in context.items() if value is not None}
        if "own" in told:
            told["own"] = as_array(told["own"])[0]
        with np.errstate(over="ignore", invalid="ignore"):  # an overflowing message is a legal one
            for stage in self.stages("update"):
                told["own"] = np.asarray(stage.act(x, f, rng, **told)).astype(x.dtype, copy=False)
        return restore(told["own"] if "own" in told else stand_in(x, f))

    def poison(self, data: Dataset, rng: np.random.Generator) -> Dataset:
        """The data set that a Byzantine client trains on instead of its own."""
        for stage in self.stages("data"):
            data = stage.act(data, rng)
        return data

    def tamper(self, update: Any, rng: np.random.Generator, **context: Any) -> Any:
        """The message that is sent instead of this update, or None for none."""
        for stage in self.stages("protocol"):
            if update is not None:
                update = stage.act(update, rng, **context)
        return update

    def act(self, *arguments: Any, **context: Any) -> Any:
        """Call this stage's function with its options and what it takes of the context."""
        taken = options_of(self.function).keys() & CONTEXT
        return self.function(*arguments, **self.options, **{k: v for k, v in context.items() if k in taken})

    def aim(self, data: Dataset, rng: np.random.Generator) -> Dataset | None:
        """What the attacker wants said of the test data; None for an attack that only wants to do harm."""
        for stage in reversed(self.chain):
            if stage.goal is not None:
                wanted = options_of(stage.goal).keys()
                return stage.goal(data, rng, **{k: v for k, v in stage.options.items() if k in wanted})
        return None

    @property
    def chain(self) -> tuple[Attack, ...]:
        """All stages, the first one first."""
        return (*(self.before.chain if self.before else ()), self)

    def stages(self, kind: Kind) -> tuple[Attack, ...]:
        """The stages of one kind, in order."""
        return tuple(stage for stage in self.chain if stage.kind == kind)

    def __or__(self, after: Attack) -> Attack:
        """First this attack, then another one; it takes the place of the default first stage that the other may have."""
        first = self if after.before is None or after.default_before else self | after.before
        return replace(after, before=first, default_before=False)

    @property
    def known_options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        return {name: default for name, default in options_of(self.function).items() if name not in CONTEXT}

    def configured(self, **options: object) -> Attack:
        """A copy with options bound. Raises ValueError for a name that it does not take, with the nearest one."""
        for name in options:
            if name not in self.known_options:
                raise ValueError(f"{self.name} has no option {name!r}{nearest(name, self.known_options)}")
        return replace(self, options=MappingProxyType({**self.options, **options})) if options else self

    @property
    def spec(self) -> str:
        """The text that `resolve` turns back into this attack."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        own = f"{self.name}({options})" if options else self.name
        return own if self.before is None or self.default_before else f"{self.before.spec}|{own}"

    @property
    def summary(self) -> str:
        """The first line of its documentation: the formula."""
        return (self.function.__doc__ or "").partition("\n")[0]

    def __repr__(self) -> str:
        return f"<Attack {self.spec}>"


def stand_in(honest: Array, f: int) -> Array:
    """(f, d): what f attackers may have sent had they been honest, where nobody says: honest rows, in turn."""
    return honest[np.arange(f) % len(honest)]


def as_array(rows: Any) -> tuple[Array, Callable[[Array], Any]]:
    """A float32 or float64 array of the rows, and the way back to their kind, dtype and device."""
    torch = sys.modules.get("torch")
    if isinstance(rows, list | tuple):
        return as_array(cast("Any", torch).stack(list(rows)) if _all_tensors(rows) else np.asarray(rows))
    if torch is not None and isinstance(rows, torch.Tensor):
        dtype, device = rows.dtype, rows.device
        wide = rows.detach().cpu()
        wide = wide if dtype in (torch.float32, torch.float64) else wide.float()
        return wide.numpy(), lambda result: torch.from_numpy(np.ascontiguousarray(result)).to(device, dtype)
    array = np.asarray(rows)
    wide = array.astype({"float32": np.float32, "float16": np.float32}.get(array.dtype.name, np.float64), copy=False)
    back = array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
    return wide, lambda result: result.astype(back, copy=False)


def _all_tensors(rows: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and len(rows) > 0 and all(isinstance(row, torch.Tensor) for row in rows)


def check(honest: Array, f: object) -> None:
    """Raise ValueError for what is no (n-f, d) matrix with n - f >= 1, and for f that is no count."""
    if honest.ndim != 2 or 0 in honest.shape:
        raise ValueError(f"expected the honest updates as an (n-f, d) matrix with a row at least, got shape {honest.shape}")
    if isinstance(f, bool) or not isinstance(f, int | np.integer) or f < 0:
        raise ValueError(f"f must be an integer >= 0, the number of Byzantine clients; got {f!r}")
