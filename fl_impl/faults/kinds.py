"""The kinds of faults: each makes of a client's update what arrives instead. Adding one is one decorated function."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar

import numpy as np

from fl_impl.common.registry import Registry
from fl_impl.common.specs import parse

F = TypeVar("F", bound=Callable[..., Any])
Effect = Literal["kept", "wrong", "malformed", "lost"]
"""What a fault does to an update: it is used as it was meant; a wrong one arrives; one to refuse; nothing."""
KINDS: Final[Registry[Callable[..., Any]]] = Registry("a fault", group="pytest_fl.faults")
"""Name -> function (update, moment, *, options) -> what arrives; it may raise, wait, or return several updates."""


class Unreachable(ConnectionError):  # noqa: N818  # the word is what a reader of `rejected` needs
    """Nothing of the client arrives, not even an error of its own."""


@dataclass(frozen=True, eq=False)
class Moment:
    """When and where a fault happens."""

    client: int
    round: int
    patience: float = 0.0
    """Seconds after which the server waits no longer; 0 where it is told at once that nothing comes."""
    memory: dict[str, Any] = field(default_factory=dict[str, Any])
    """The client's own, from round to round: "last" is its update of the round before, as it was meant."""


def fault(effect: Effect) -> Callable[[F], F]:
    """Enter a kind of fault under the function's name. Raises ValueError where the name is taken."""

    def enter(function: F) -> F:
        vars(function)["effect"] = effect
        return KINDS(function)

    return enter


def effect_of(kind: str) -> Effect:
    """What the kind of a name or spec does to a round. Raises ValueError for a name that is none, with the nearest."""
    return vars(KINDS[parse(kind).name])["effect"]


@fault("lost")
def crash(update: Any, moment: Moment) -> Any:
    """Raises RuntimeError."""
    del update
    raise RuntimeError(f"client {moment.client} crashed in round {moment.round}")


@fault("lost")
def hang(update: Any, moment: Moment) -> Any:
    """Answers when nobody waits any longer."""
    if not moment.patience:
        raise Unreachable(f"client {moment.client} hangs in round {moment.round}")
    time.sleep(3 * moment.patience)
    return update


@fault("lost")
def partition(update: Any, moment: Moment) -> Any:
    """The network is cut: nothing arrives from the clients of this fault."""
    del update
    raise Unreachable(f"client {moment.client} is cut off in round {moment.round}")


@fault("kept")
def slow(update: Any, moment: Moment, *, seconds: float = 0.002) -> Any:
    """Answers later, but in time."""
    del moment
    time.sleep(seconds)
    return update


@fault("kept")
def duplicate(update: Any, moment: Moment) -> Any:
    """The same reply arrives twice."""
    del moment
    return [update, update]


@fault("wrong")
def stale(update: Any, moment: Moment) -> Any:
    """Its update of the round before, as if it were new; in its first round it has none and sends nothing but zeros."""
    last = moment.memory.get("last")
    return replace(update, delta=np.zeros_like(update.delta) if last is None else last)


@fault("wrong")
def byzantine(update: Any, moment: Moment, *, scale: float = -1000.0) -> Any:
    """scale times its update."""
    del moment
    return replace(update, delta=scale * np.asarray(update.delta))


@fault("wrong")
def lying_count(update: Any, moment: Moment, *, count: int = 10**9) -> Any:
    """Claims to have trained on `count` samples, and sends its update negated with that weight."""
    del moment
    return replace(update, num_samples=count, delta=-np.asarray(update.delta))


@fault("malformed")
def wrong_shape(update: Any, moment: Moment) -> Any:
    """One number too many."""
    del moment
    return replace(update, delta=np.append(np.asarray(update.delta), np.float32(0)))


@fault("malformed")
def non_finite(update: Any, moment: Moment, *, value: float = float("nan")) -> Any:
    """One number is NaN, or infinite."""
    del moment
    delta = np.array(update.delta)
    delta[0] = value
    return replace(update, delta=delta)


@fault("malformed")
def truncated(update: Any, moment: Moment) -> Any:
    """The first half of its bytes."""
    del moment
    data = np.asarray(update.delta).tobytes()
    return replace(update, delta=data[: len(data) // 2])
