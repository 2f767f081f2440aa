"""The histories that a rule with memory is shown, and how it is led through one."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pytest_fl.subjects.guard import Hung, Misbehaved, Rule, as_vector
from pytest_fl.subjects.round import Round

if TYPE_CHECKING:
    from pytest_fl.subjects.subject import Subject

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class History:
    """(T, n, d) updates of T rounds: client i is row i in each of them, and the Byzantine clients are always the same."""

    updates: npt.NDArray[np.floating]
    byzantine: tuple[int, ...]
    origin: str = ""
    f: int = -1
    """What the rule is told; the number of Byzantine clients where it is left out."""

    def __post_init__(self) -> None:
        if self.f < 0:
            object.__setattr__(self, "f", len(self.byzantine))

    def __len__(self) -> int:
        return self.updates.shape[0]

    @property
    def n(self) -> int:
        """The number of clients."""
        return self.updates.shape[1]

    @property
    def d(self) -> int:
        """The dimension of the updates."""
        return self.updates.shape[2]

    @property
    def honest(self) -> npt.NDArray[np.floating]:
        """(T, n - f, d): what those sent that are not Byzantine."""
        return np.delete(self.updates, self.byzantine, axis=1)

    def round(self, number: int) -> Round:
        """The round of that number, from 0."""
        origin = f"{self.origin}: round {number + 1} of {len(self)}"
        return Round(self.updates[number], self.f, self.byzantine, origin, frozenset({"history"}))

    def until(self, number: int) -> History:
        """The history up to the round of that number."""
        return replace(self, updates=self.updates[: number + 1])

    def calm(self) -> History:
        """The same history in which nobody attacks: the Byzantine clients send the mean of the others."""
        updates = self.updates.copy()
        updates[:, list(self.byzantine)] = self.honest.mean(axis=1, keepdims=True)
        return replace(self, updates=updates, origin=f"{self.origin}, had nobody attacked")

    def agreed(self) -> npt.NDArray[np.intp]:
        """(T,): for how many rounds, this one included, the honest clients have sent one and the same row."""
        honest = self.honest
        alike = (honest == honest[:, :1]).all(axis=(1, 2))
        runs = np.zeros(len(self), np.intp)
        for number in range(len(self)):
            same = number > 0 and alike[number - 1] and (honest[number, 0] == honest[number - 1, 0]).all()
            runs[number] = alike[number] and (runs[number - 1] + 1 if same else 1)
        return runs

    def sizes(self) -> Floats:
        """(T,): the greatest norm of an honest row up to each round."""
        return np.maximum.accumulate(np.linalg.norm(self.honest.astype(np.float64), axis=2).max(axis=1))

    def attacked_last(self) -> int:
        """The number of the last round in which a Byzantine client sent what no honest one did; -1 where there is none."""
        same = (self.updates[:, list(self.byzantine)][:, :, None] == self.honest[:, None]).all(axis=3).any(axis=2).all(axis=1)
        return int(np.flatnonzero(~same).max(initial=-1))

    def save(self, path: Path, **facts: str) -> None:
        """Write an .npz (no pickle) that `load` reads back; facts are short strings kept beside it."""
        with path.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                updates=self.updates,
                f=np.array(self.f),
                byzantine=np.array(self.byzantine, np.int64),
                origin=np.array(self.origin),
                **{f"fact_{key}": np.array(value) for key, value in facts.items()},
            )

    @classmethod
    def load(cls, path: Path) -> tuple[History, dict[str, str]] | None:
        """The history of an .npz written by `save`, and its facts; None where the file holds a single round, or is none."""
        try:
            data = np.load(path, allow_pickle=False)
            if isinstance(data, np.ndarray):
                return None
            with data:
                arrays = {name: data[name] for name in data.files}
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None  # `Round.load` says what is wrong with it
        if "updates" not in arrays or arrays["updates"].ndim != 3:
            return None
        facts = {name.removeprefix("fact_"): str(arrays[name]) for name in arrays if name.startswith("fact_")}
        byzantine = tuple(arrays["byzantine"].tolist())
        return cls(arrays["updates"], byzantine, str(arrays["origin"]), int(arrays["f"])), facts


def anew(subject: Subject) -> Callable[[npt.NDArray[np.floating], int], Any]:
    """The call of an object that knows of nothing yet. Raises ValueError where none can be made."""
    if subject.renew is None:
        raise ValueError(f"expected a class, a factory or an object that can be copied, so that {subject.name} starts anew")
    return subject.renew()


def told(rule: Rule, history: History) -> Floats:
    """(T, d): what an object made anew gives in each round. Raises Misbehaved, with the round, where that is no vector."""
    call = anew(rule.subject)
    return np.stack([tell(rule, call, history, number) for number in range(len(history))])


def tell(rule: Rule, call: Callable[[npt.NDArray[np.floating], int], Any], history: History, number: int) -> Floats:
    """What it gives in the round of that number."""
    round_ = history.round(number)
    rule.begins(round_)
    try:
        return rule.attempt(lambda: as_vector(call(round_.updates.copy(), history.f), history.d).copy())
    except Hung as finding:
        raise Hung(f"in round {number + 1} of {len(history)} it {finding}") from finding.__cause__
    except Misbehaved as finding:
        raise Misbehaved(f"in round {number + 1} of {len(history)} it {finding}") from finding.__cause__
