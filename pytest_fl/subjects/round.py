"""A round: the updates of n clients, of which at most f, at known positions, are Byzantine."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Mapping
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
        try:
            file = np.load(path, allow_pickle=False)
            with contextlib.nullcontext({"": file}) if isinstance(file, np.ndarray) else file as data:
                return _read(data)
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            said = str(error) if str(error).startswith("it ") else "it is no .npz that can be read"
            raise ValueError(f"expected a round saved by pytest-fl (.npz), got {path}: {said}") from error


def _read(data: Mapping[str, npt.NDArray[np.generic]]) -> tuple[Round, dict[str, str]]:
    """Raises ValueError where an array is missing or is not what it should be."""
    if list(data) == [""]:
        raise ValueError(f"it holds one array of shape {data[''].shape}")
    if missing := {"updates", "f", "byzantine", "origin"} - set(data):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    updates, f, byzantine = data["updates"], int(data["f"]), [int(row) for row in data["byzantine"]]
    if updates.ndim != 2 or not updates.size or updates.dtype.kind != "f":
        raise ValueError(f"its updates are {updates.dtype} of shape {updates.shape}, not (n, d) floating-point numbers")
    if f < 0 or not all(0 <= row < len(updates) for row in byzantine):
        raise ValueError(f"its f = {f} or its Byzantine rows {byzantine} are impossible for {len(updates)} clients")
    facts = {name.removeprefix("fact_"): str(data[name]) for name in data if name.startswith("fact_")}
    tags = frozenset(map(str, data["tags"])) if "tags" in data else frozenset[str]()
    return Round(updates, f, tuple(byzantine), str(data["origin"]), tags), facts  # type: ignore[reportArgumentType]  # their kind was seen
