"""Run anybody's Flower app in this process, with some of its clients under an attack, and keep what it measured."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Result, Strategy

from fl_impl.common.specs import import_attribute
from fl_impl.flower.inline import RUN, ClientCall, inline
from fl_impl.flower.mod import byzantine_mod, round_of
from fl_impl.flower.replies import REASON

ROUNDS: Final = "num-server-rounds"
"""The run-config key of Flower's templates for the number of rounds."""


@dataclass(frozen=True)
class App:
    """A Flower app: its two halves and its run config."""

    server: Any
    client: Any
    config: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class FlowerRun:
    """What an app's run came to."""

    metrics: dict[str, list[tuple[int, float]]]
    """Metric -> (round, value): of the ServerApp's own evaluation where it has one, else as its strategy aggregated them."""
    rounds: int
    """How many rounds trained."""
    byzantine: tuple[int, ...]
    """The partition-ids of those that attacked, in the last round that trained."""
    errors: dict[int, dict[int, str]]
    """Round -> partition-id -> why there was an error for a reply."""
    result: Any
    """Flower's Result, with the final arrays; None for a ServerApp that runs no strategy of `flwr.serverapp`."""

    def final(self, metric: str) -> float:
        """Its last value. Raises ValueError for a metric that the app does not report, with those that it does."""
        if metric not in self.metrics:
            raise ValueError(f"the app reports no {metric!r}, only {', '.join(sorted(self.metrics)) or 'nothing'}")
        return self.metrics[metric][-1][1]


def run_app(
    app: Any,
    *,
    rounds: int | None = None,
    nodes: int = 10,
    attack: Any = None,
    fraction: float | None = None,
    clients: Collection[int] | None = None,
    aggregator: Any = None,
    seed: int = 0,
    run_config: dict[str, Any] | None = None,
    rounds_key: str = ROUNDS,
) -> FlowerRun:
    """Run a Flower app on `nodes` nodes in this process, attacked as by `byzantine_mod`; it needs no Ray and no SuperLink.

    app: the folder of its pyproject.toml, that file, or (ServerApp, ClientApp). rounds is put into the run config under
    rounds_key. attack=None is a clean run; without clients, fraction (0.2 where None) of the nodes attack; aggregator is
    what the attacker knows of the strategy. Raises ValueError for what is no app, and where it trained another number
    of rounds than asked for.
    """
    found = read_app(app)
    config = {**found.config, **({} if rounds is None else {rounds_key: rounds}), **(run_config or {})}
    watch = Watch()
    call: ClientCall = found.client
    if attack is not None:
        share = fraction if fraction is not None or clients is not None else 0.2
        call = watch.attacked(call, byzantine_mod(attack, share, clients=clients, aggregator=aggregator, seed=seed))
    results: list[Any] = []
    with inline(call, nodes, run_config=config, heard=watch) as grid, kept(results):
        watch.partitions = {node: i for i, node in enumerate(grid.get_node_ids())}
        found.server(grid, Context(RUN, 1, {}, RecordDict(), config))
    trained = len(watch.rounds)
    if rounds is not None and trained != rounds:
        raise ValueError(
            f"the app trained {trained} rounds instead of {rounds}: does it read run_config[{rounds_key!r}]? "
            "Say by rounds_key=... under which key it expects the number"
        )
    result = results[-1] if results else None
    return FlowerRun(history(result), trained, tuple(sorted(watch.byzantine)), watch.errors, result)


@dataclass
class Watch:
    """What went over the grid."""

    partitions: dict[int, int] = field(default_factory=dict[int, int])
    rounds: set[int] = field(default_factory=set[int])
    byzantine: set[int] = field(default_factory=set[int])
    errors: dict[int, dict[int, str]] = field(default_factory=dict[int, dict[int, str]])

    def __call__(self, message: Message, reply: Message) -> None:
        """Note the round, and an error."""
        if message.metadata.message_type.startswith("train"):
            self.rounds.add(round_of(message))
        if reply.has_error():
            where = self.errors.setdefault(round_of(message), {})
            where[self.partitions[message.metadata.dst_node_id]] = str(reply.error.reason)[:REASON]

    def attacked(self, call: ClientCall, mod: Any) -> ClientCall:
        """The ClientApp with the mod around it."""

        def attacked(message: Message, context: Context) -> Message:
            if mod.place(context) is not None:
                self.byzantine.add(int(context.node_config["partition-id"]))
            return mod(message, context, call)

        return attacked


@contextmanager
def kept(results: list[Any]) -> Generator[None]:
    """Keep the Result of each strategy that is started: most ServerApps throw it away."""
    start = Strategy.start

    def keeping(self: Any, *arguments: Any, **keywords: Any) -> Any:
        results.append(start(self, *arguments, **keywords))
        return results[-1]

    Strategy.start = keeping
    try:
        yield
    finally:
        Strategy.start = start


def history(result: Result | None) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (round, value); what the ServerApp evaluates itself wins over what clients say."""
    found: dict[str, list[tuple[int, float]]] = {}
    if result is None:
        return found
    said: list[dict[int, Any]] = [
        result.train_metrics_clientapp, result.evaluate_metrics_clientapp, result.evaluate_metrics_serverapp,
    ]  # fmt: skip
    for rounds in said:
        for name in {name for record in rounds.values() for name in record}:
            found[name] = [(number, float(record[name])) for number, record in sorted(rounds.items()) if name in record]
    return found


def read_app(app: Any) -> App:
    """The app of a pyproject.toml, of its folder, or of its two halves. Raises ValueError for anything else."""
    if isinstance(app, tuple):
        halves: Any = app
        if len(halves) == 2 and isinstance(halves[0], ServerApp) and isinstance(halves[1], ClientApp):
            return App(*halves)
    elif isinstance(app, str | Path):
        path = Path(app)
        return project_app(path / "pyproject.toml" if path.is_dir() else path)
    raise ValueError(f"expected the path of a Flower app's pyproject.toml, or (ServerApp, ClientApp); got {app!r}")


def project_app(path: Path) -> App:
    """The app that a pyproject.toml describes."""
    if not path.is_file():
        raise ValueError(f"expected the pyproject.toml of a Flower app, but there is no {path}")
    described = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("flwr", {}).get("app", {})
    parts = described.get("components", {})
    if not {"serverapp", "clientapp"} <= parts.keys():
        raise ValueError(f"{path} names no serverapp and clientapp under [tool.flwr.app.components]: it is no Flower app")
    with importable(path.parent.resolve()):
        server, client = import_attribute(parts["serverapp"]), import_attribute(parts["clientapp"])
    return App(server, client, flat(described.get("config", {})))


@contextmanager
def importable(folder: Path) -> Generator[None]:
    """Modules of a folder come first."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A run config as Flower tells it to apps: {"a": {"b": 1}} is {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
