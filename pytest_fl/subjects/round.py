"""A round: the updates of n clients, of which at most f, at known positions, are Byzantine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Updates = npt.NDArray[np.floating]
STORED = "stored"
"""The tag of a round that means something as it stands: changed by a shrinker it is another."""


@dataclass(frozen=True, eq=False)
class Round:
    """(n, d) updates, the f that the rule is told, and the rows that are Byzantine (at most f of them)."""

    updates: Updates
    f: int
    byzantine: tuple[int, ...] = ()
    origin: str = ""
    """Where it comes from, e.g. "unanimous, one outlier at 1e+10, last position": the first words of a failure."""
    tags: frozenset[str] = field(default_factory=frozenset[str])
    """What checks select by: "tied", "non_finite", "huge", ..."""

    @property
    def n(self) -> int:
        """The number of clients."""
        return self.updates.shape[0]

    @property
    def d(self) -> int:
        """The dimension of the updates."""
        return self.updates.shape[1]

    @property
    def honest(self) -> Updates:
        """The rows that are not Byzantine, in order."""
        return np.delete(self.updates, self.byzantine, axis=0) if self.byzantine else self.updates

    def with_updates(self, updates: Updates, origin: str | None = None) -> Round:
        """The same round with other updates."""
        return Round(updates, self.f, self.byzantine, self.origin if origin is None else origin, self.tags)

    def save(self, path: Path, **facts: str) -> None:
        """Write an .npz (no pickle) that `load` reads back; facts are short strings kept beside it."""
        arrays = {
            "updates": self.updates,
            "f": np.array(self.f),
            "byzantine": np.array(self.byzantine, np.int64),
            "origin": np.array(self.origin),
            "tags": np.array(sorted(self.tags), np.str_),
            **{f"fact_{key}": np.array(value) for key, value in facts.items()},
        }
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> tuple[Round, dict[str, str]]:
        """The round of an .npz written by `save`, and its facts. Raises ValueError where the file is not one."""
        with np.load(path, allow_pickle=False) as data:
            missing = {"updates", "f", "byzantine", "origin"} - set(data.files)
            if missing:
                raise ValueError(f"{path} is not a saved round: it lacks {', '.join(sorted(missing))}")
            facts = {name.removeprefix("fact_"): str(data[name]) for name in data.files if name.startswith("fact_")}
            positions: Sequence[int] = data["byzantine"].tolist()
            tags = frozenset(data["tags"].tolist()) if "tags" in data.files else frozenset[str]()
            return cls(data["updates"], int(data["f"]), tuple(positions), str(data["origin"]), tags), facts
