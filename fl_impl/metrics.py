"""What a federation did, round by round: kept as plain numbers, saved as JSON, CSV or a pandas frame, drawn as a picture."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from fl_impl.common.extras import require
from fl_impl.common.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

T = TypeVar("T")
VERSION: Final = 1
LATEST: Final = "fl_run_latest.json"


@dataclass(frozen=True)
class RoundResult:
    """One round. All but `seconds` follow from the configuration and its seed; in simulation the honest truth is known."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    round: int
    """From 1."""
    global_loss: float
    """Of the new global model on held-out data; NaN where it diverged."""
    accuracy: float
    """Likewise; NaN where there are no classes."""
    client_variance: float
    """(1/h) sum ||x_i - mu||^2 over the h honest updates."""
    num_clients: int
    """Updates that were aggregated; the expected number, as in the bytes, where privacy rests on a secret sample."""
    byzantine: tuple[int, ...] = ()
    """The clients that attacked."""
    rejected: Mapping[int, str] = field(default_factory=dict[int, str])
    """Clients whose answer was not used, and why."""
    bytes_up: int = 0
    bytes_down: int = 0
    epsilon: float | None = None
    """Privacy spent up to this round, at the configured delta; None without differential privacy."""
    seconds: float = field(default=0.0, compare=False)
    deviation: float = math.nan
    """||aggregate - mu||, mu the mean of the honest updates."""
    train_loss: float = math.nan
    """Mean over the honest clients."""
    attack_success: float | None = None
    """Share of the samples that the attacker cares about that are read as it wishes; None where it only does harm."""
    f: int = 0
    """What the aggregator was told."""
    noise: str = ""
    """Where the noise of differential privacy is from: "operating system", or the seed of a test; empty without noise."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes null, as does infinity, `seconds` is left out."""
        values = {name: value for name, value in vars(self).items() if name in NAMES and name != "seconds"}
        values |= {"byzantine": list(self.byzantine), "rejected": {str(client): why for client, why in self.rejected.items()}}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
        }

    @cached_property
    def text(self) -> str:
        """Itself as JSON, made once: a run of many rounds writes all of them after each."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], seconds: float = 0.0) -> RoundResult:
        """The round that `to_dict` gave. Raises ValueError for values of other types, and for missing and unknown ones."""
        numbers = ("global_loss", "accuracy", "client_variance", "deviation", "train_loss")
        nan = {name: math.nan for name in numbers if name in values and values[name] is None}
        return _validated(cls, {**values, **nan, "seconds": seconds})


def _validated(kind: type[T], values: Mapping[str, Any]) -> T:
    """One of a dataclass from plain values, whose types are checked: a file may hold anything."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  # what only writes metrics does without it

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or kind.__name__}: {first['msg']}") from error


NAMES: Final = tuple(entry.name for entry in fields(RoundResult))


@dataclass
class FLMetrics:
    """The rounds of a federation and the configuration that led to them."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    config: dict[str, Any] = field(default_factory=dict[str, Any])
    rounds: list[RoundResult] = field(default_factory=list[RoundResult])
    clients: dict[str, list[float]] = field(default_factory=dict[str, "list[float]"])
    """"samples" and "label_skew" of each simulated client."""
    notes: tuple[str, ...] = ()
    """What its privacy, compression and secure aggregation guarantee together, and what they do not."""
    ledger: tuple[dict[str, Any], ...] = ()
    """Every private release about its clients, in order, as plain values of a `fl_impl.privacy.ledger.Entry`: what epsilon
    is composed of. Empty without privacy."""
    error: str = ""
    """Why the run ended before its last round; empty where it did not."""
    path: Path | None = field(default=None, compare=False)
    """Where it was saved or loaded last."""

    @property
    def final(self) -> RoundResult:
        """The last round. Raises ValueError where there is none."""
        if not self.rounds:
            raise ValueError("there is no round yet: call coordinator.run(clients) first")
        return self.rounds[-1]

    def series(self, name: str) -> list[Any]:
        """One field of all rounds: `metrics.series("accuracy")`."""
        return [getattr(result, name) for result in self.rounds]

    def save(self, path: str | Path = LATEST) -> Path:
        """Write JSON, so that no reader ever meets half a file. Seconds stand apart: all else is reproducible."""
        rest = {
            "config": self.config,
            "clients": self.clients,
            "notes": list(self.notes),
            "ledger": list(self.ledger),
            "error": self.error,
            "seconds": [round(result.seconds, 6) for result in self.rounds],
        }
        rounds = ",\n".join(result.text for result in self.rounds)
        text = f'{{"version": {VERSION}, "rounds": [\n{rounds}\n], {json.dumps(rest, allow_nan=False)[1:]}\n'
        self.path = Path(path)
        write_atomically(self.path, text.encode(), private=bool(self.ledger))
        return self.path

    @classmethod
    def load(cls, path: str | Path = LATEST) -> FLMetrics:
        """What `save` wrote. Raises ValueError, with the file and what is wrong, for one that is something else."""
        try:
            return cls._from_plain(json.loads(Path(path).read_text(encoding="utf-8")), Path(path))
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            why = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path} is not a metrics file of version {VERSION} ({why}): FLMetrics.save writes them, and a run without "
                "resume replaces this one"
            ) from error

    @classmethod
    def _from_plain(cls, read: Any, path: Path) -> FLMetrics:
        """What the JSON of a file says."""
        if not isinstance(read, dict) or "rounds" not in read or read.pop("version", None) != VERSION:
            raise ValueError("it has no rounds, or another version")
        rounds = [RoundResult.from_dict(r, s) for r, s in zip(read.pop("rounds"), read.pop("seconds"), strict=True)]
        if [result.round for result in rounds] != list(range(1, len(rounds) + 1)):
            raise ValueError("its rounds are not numbered 1, 2, ...")
        return _validated(cls, {**read, "rounds": rounds, "path": path})

    def to_csv(self, path: str | Path) -> Path:
        """Write one line a round, with a header; mappings and tuples as text."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(NAMES)
            writer.writerows([_cell(getattr(result, name)) for name in NAMES] for result in self.rounds)
        return Path(path)

    def to_pandas(self) -> pd.DataFrame:
        """One row a round. Raises ModuleNotFoundError where pandas is not installed."""
        return require("pandas", extra="frames").DataFrame([asdict(result) for result in self.rounds])

    def plot_convergence(self, path: str | Path | None = None) -> Figure:
        """Draw accuracy, loss and deviation over the rounds to a picture file, beside the metrics file if no path is given.

        Raises ModuleNotFoundError where matplotlib is not installed.
        """
        from fl_impl.plotting.figures import convergence, title_of  # noqa: PLC0415  # matplotlib is an extra

        target = Path(path) if path is not None else (self.path or Path(LATEST)).with_suffix(".png")
        figure = convergence(self.series, title_of(self.config))
        figure.savefig(target, dpi=150)
        return figure


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return "; ".join(f"{client}: {reason}" for client, reason in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
