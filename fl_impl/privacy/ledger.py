"""The ledger of private releases: each is an entry, written down before anything is shown; their costs only add up."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from fl_impl.common.extras import require
from fl_impl.common.files import PRIVATE, write_atomically
from fl_impl.privacy.losses import Releases, composed_epsilon

Composition = Literal["pld", "rdp"]
"""How costs are composed: by privacy loss distributions, near the truth, or by Renyi divergences, an older upper bound."""


@dataclass(frozen=True)
class Entry:
    """One release: a sum of clipped updates with noise N(0, (noise_multiplier C)^2 I), C the clip bound."""

    mechanism: str
    round: int
    """Of its run, from 1."""
    noise_multiplier: float
    """0 for a release without noise, which costs infinity. In a stream: that of its first rounds, up to this one, jointly."""
    sampling: float = 1.0
    """The probability with which each client takes part, by itself."""
    stream: str = ""
    """Releases of one stream have correlated noise, and cost together what their least noise_multiplier does once."""
    run: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for what is no release."""
        if not (self.noise_multiplier >= 0 and 0 < self.sampling <= 1 and self.round >= 1):
            raise ValueError(
                f"expected noise_multiplier >= 0, sampling in (0, 1] and a round from 1 in an entry of a ledger; got {self}"
            )


class Ledger:
    """All private releases about some clients, in order: in memory, or in a file that grows by one line before each.

    Runs that concern the same clients share one. Reading it back after a kill counts a release of which nobody knows
    whether it was shown.
    """

    def __init__(self, entries: Iterable[Entry] = (), path: str | Path | None = None) -> None:
        self._entries = list(entries)
        self.path = None if path is None else Path(path)
        self._on_disk = False

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The ledger in a file of JSON lines, empty where there is none. Raises ValueError for a line that is no entry.

        Half a last line is left by a kill while it was written: nothing was shown, and it is cut off.
        """
        file = Path(path)
        if not file.exists():
            return cls((), file)
        text = file.read_text(encoding="utf-8")
        whole, _, torn = text.rpartition("\n")
        if torn:
            os.truncate(file, len(whole.encode()) + bool(whole))
        made = cls([_parsed(line, f"{file}, line {number}") for number, line in enumerate(whole.splitlines(), 1)], file)
        made._on_disk = True
        return made

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The releases so far."""
        return tuple(self._entries)

    def enter(self, entry: Entry) -> None:
        """Write an entry, before its release is shown: on disk, where there is a file, when this returns.

        The first one replaces a file that was not opened, with all entries so far.
        """
        if self.path is not None and not self._on_disk:
            write_atomically(self.path, "".join(map(_line, self._entries)).encode(), private=True)
            self._on_disk = True
        if self.path is not None:
            _append(self.path, _line(entry))
        self._entries.append(entry)

    def copied(self, path: str | Path) -> None:
        """Write all entries to another file, in place of what is there."""
        write_atomically(Path(path), "".join(map(_line, self._entries)).encode(), private=True)

    def detached(self) -> Ledger:
        """The same entries, in memory."""
        return Ledger(self._entries)

    @property
    def plain(self) -> tuple[dict[str, Any], ...]:
        """The entries as plain values: `Ledger(Entry(**values) for values in metrics.ledger)` reads them back."""
        return tuple(asdict(entry) for entry in self._entries)

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that made the entries, in order."""
        return tuple(dict.fromkeys(entry.run for entry in self._entries))

    def next_run(self) -> str:
        """A name that no run in it has: "run 1", "run 2", ..."""
        return f"run {len(self.runs) + 1}"

    def epsilon(self, delta: float, more: Iterable[Entry] = (), *, composition: Composition = "pld") -> float:
        """The epsilon at delta of all releases and, in thought, of `more`: an upper bound, which more of them never lower.

        Raises ModuleNotFoundError for "rdp" without the extra "privacy".
        """
        if not 0 < delta < 1:
            raise ValueError(f"delta must lie strictly between 0 and 1, e.g. 1e-5; got {delta}")
        entries = [*self._entries, *more]
        if composition == "rdp":
            return _renyi(_summed(entries), delta)
        return _composed(_summed(entries), delta)

    def __len__(self) -> int:
        """How many releases there were."""
        return len(self._entries)


def _summed(entries: Sequence[Entry]) -> tuple[Releases, ...]:
    """The entries as independent releases, equal ones counted together.

    A stream is one Gaussian release. A round of it that was released again, after a kill, is one more coordinate of the
    whitened stream, with fresh noise: it costs at most what the stream up to that round does.
    """
    counts = Counter[tuple[float, float]]()
    streams: dict[tuple[str, str], dict[int, float]] = {}
    for entry in entries:
        if not entry.stream:
            counts[entry.noise_multiplier, entry.sampling] += 1
            continue
        rounds = streams.setdefault((entry.run, entry.stream), {})
        if entry.round in rounds:
            counts[entry.noise_multiplier, 1.0] += 1
        rounds[entry.round] = min(entry.noise_multiplier, rounds.get(entry.round, math.inf))
    for rounds in streams.values():
        counts[min(rounds.values()), 1.0] += 1
    return tuple(sorted((Releases(z, q, count) for (z, q), count in counts.items()), key=lambda r: (r.noise, r.sampling)))


@lru_cache(maxsize=256)
def _composed(releases: tuple[Releases, ...], delta: float) -> float:
    return composed_epsilon(releases, delta)


def _renyi(releases: tuple[Releases, ...], delta: float) -> float:
    """Mironov, Talwar & Zhang 2019 (arXiv 1908.10530), by dp-accounting."""
    if any(part.noise == 0 for part in releases):
        return math.inf
    accounting = require("dp_accounting", extra="privacy")
    accountant = accounting.rdp.RdpAccountant()
    for part in releases:
        event = accounting.GaussianDpEvent(part.noise)
        accountant.compose(accounting.PoissonSampledDpEvent(part.sampling, event) if part.sampling < 1 else event, part.count)
    return float(accountant.get_epsilon(delta)) if releases else 0.0


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def _parsed(line: str, where: str) -> Entry:
    try:
        return Entry(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} is no entry of a ledger ({error}). Without it nobody knows what was spent: restore the file, or take "
            "other clients"
        ) from error


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
