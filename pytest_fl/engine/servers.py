"""Federated servers under a plan of faults: a configuration of ours, a Flower strategy or a whole Flower app."""

from __future__ import annotations

import copy
import inspect
import logging
import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from fl_impl.common.counts import floor_of
from pytest_fl.checks.federation import bowls
from pytest_fl.oracles.theory import RuleTheory, rule_theory

if TYPE_CHECKING:
    from fl_impl import FLConfig
    from fl_impl.faults import FaultPlan

Vector = npt.NDArray[np.float64]
Kappa = Callable[[int, int], float]
D: Final = 5
"""Dimensions of the made-up federation that a configuration or a strategy gets: quadratic losses around a common centre."""
THEORY: Final = {
    "FedMedian": "coordinate_median",
    "FedTrimmedAvg": "trimmed_mean",
    "Krum": "krum_blanchard",
    "MultiKrum": "krum_blanchard",
    "Bulyan": "bulyan",
}
"""Flower's strategy -> the rule whose proven constants it is held to."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One round as it looked from outside."""

    number: int
    before: Vector
    after: Vector
    honest: dict[int, Vector]
    """Of every client that was asked: its update as it was meant."""
    wrong: frozenset[int] = frozenset()
    """Clients that sent another one on the configuration's own account: its attackers."""
    used: int | None = None
    """How many updates the server says it used."""


@dataclass(frozen=True, eq=False)
class ServerHistory:
    """The rounds of a run, and how it ended if not well."""

    rounds: tuple[Seen, ...]
    ended: str = ""
    """The exception that ended the server."""
    refused: str = ""
    """The sentence by which it refused a round in which too few updates were left."""


class JudgedServer(Protocol):
    """What is held to the invariants."""

    clients: int
    kappa: Kappa | None
    refuses: bool
    """Whether it promises to refuse malformed updates: then they are none of the f."""

    def run(self, plan: FaultPlan, rounds: int) -> ServerHistory:
        """Rounds from the beginning, under a plan; the same for the same plan."""
        ...

    def tolerated(self, asked: int) -> int:
        """f of a round in which so many are asked."""
        ...

    def needed(self, f: int) -> int:
        """The fewest updates that the rule is defined for."""
        ...


@dataclass(eq=False)
class Federation:
    """A configuration of ours, on made-up clients whose losses are quadratic."""

    config: FLConfig
    kappa: Kappa | None = None
    refuses: bool = True

    def __post_init__(self) -> None:
        """Take kappa from the rule where the model moves by the aggregate itself."""
        plain = self.config.is_default("server_optimizer") and self.config.protection is None
        if self.kappa is None and plain:
            self.kappa = self.config.rule.kappa
        self.clients = self.config.num_clients

    def tolerated(self, asked: int) -> int:
        """floor(byzantine_fraction asked)."""
        return self.config.tolerated(asked)

    def needed(self, f: int) -> int:
        """The quorum, or what the rule needs."""
        return max(self.config.min_clients, self.config.rule.min_clients(f))

    def run(self, plan: FaultPlan, rounds: int) -> ServerHistory:
        """Rounds of the coordinator."""
        from fl_impl import FederatedLearningCoordinator  # noqa: PLC0415  # it imports torch
        from fl_impl.faults import faulty  # noqa: PLC0415  # likewise

        honest: dict[int, dict[int, Vector]] = {}
        inner, _ = bowls(self.clients, D, self.config.seed)
        clients = faulty(inner, plan, patience=self.config.client_timeout or 0.0, watch=recorder(honest))
        coordinator = FederatedLearningCoordinator(self.config, parameters=np.zeros(D))
        before, seen = np.zeros(D), list[Seen]()
        for number in range(1, rounds + 1):
            try:
                result = coordinator.simulate_round(clients)
            except Exception as error:  # noqa: BLE001  # whatever ends the server is the finding
                said = f"round {number}: {type(error).__name__}: {error}"
                if isinstance(error, ValueError) and self.too_few(plan, honest.get(number, {}), number):
                    return ServerHistory(tuple(seen), refused=said)
                return ServerHistory(tuple(seen), said)
            after = coordinator.parameters.astype(np.float64)
            wrong = frozenset(result.byzantine)
            seen.append(Seen(number, before, after, honest.get(number, {}), wrong, result.num_clients))
            before = after
        return ServerHistory(tuple(seen))

    def too_few(self, plan: FaultPlan, asked: Mapping[int, Vector], number: int) -> bool:
        """Whether so few updates arrive that a round is rightly refused."""
        arrived = [client for client in asked if plan.effect(client, number) not in ("lost", "malformed")]
        return len(arrived) < self.needed(self.tolerated(len(asked)))


@dataclass(eq=False)
class FlowerServer:
    """A strategy on made-up clients, or a ServerApp with its ClientApp, on Flower's messages in this process."""

    serve: Callable[[Any, int], Any]
    """(grid, rounds) -> the final ArrayRecord, or None."""
    client_app: Callable[[Any, Any], Any]
    clients: int
    f: int | None = None
    fraction: float | None = None
    """Where f is a share of those that are asked."""
    kappa: Kappa | None = None
    refuses: bool = False
    min_clients: Callable[[int], int] = lambda f: 2 * f + 1
    run_config: dict[str, Any] = field(default_factory=dict[str, Any])

    def tolerated(self, asked: int) -> int:
        """f of the strategy, or the share of those that are asked."""
        return self.f if self.f is not None else floor_of(self.fraction or 0.0, asked)

    def needed(self, f: int) -> int:
        """What the rule needs."""
        return self.min_clients(f)

    def run(self, plan: FaultPlan, rounds: int) -> ServerHistory:
        """Rounds of the server."""
        from fl_impl.faults.messages import faulty_grid  # noqa: PLC0415  # flwr is optional

        honest: dict[int, dict[int, Vector]] = {}
        sent: dict[int, Vector] = {}
        ended, last = "", None
        with (
            quiet(),
            faulty_grid(
                self.client_app, self.clients, plan, watch=recorder(honest), heard=listener(sent), run_config=self.run_config
            ) as grid,
        ):
            try:
                last = self.serve(grid, rounds)
            except Exception as error:  # noqa: BLE001  # whatever ends the server is the finding
                ended = f"round {max(sent, default=0)}: {type(error).__name__}: {error}"
        models = {**sent, max(sent, default=0) + 1: vector_of(last) if last else sent.get(max(sent, default=0), np.zeros(0))}
        done = [number for number in sorted(sent) if not (ended and number == max(sent))]
        seen = [Seen(number, models[number], models[number + 1], honest.get(number, {})) for number in done]
        return ServerHistory(tuple(seen), ended)


def recorder(honest: dict[int, dict[int, Vector]]) -> Callable[[int, int, Any], None]:
    """Writes down each update as it was meant: round -> client -> update."""

    def record(number: int, client: int, update: Any) -> None:
        honest.setdefault(number, {})[client] = np.asarray(update.delta, np.float64)

    return record


def listener(sent: dict[int, Vector]) -> Callable[[Any, Any], None]:
    """Writes down the model that each training round sends."""
    from fl_impl.flower.mod import arrays_of, round_of  # noqa: PLC0415  # flwr is optional

    def listen(message: Any, reply: Any) -> None:
        del reply
        if message.metadata.message_type.startswith("train"):
            sent.setdefault(round_of(message), vector_of(arrays_of(message.content)[1]))

    return listen


def vector_of(record: Any) -> Vector:
    """The floating point numbers of a model, as they stand: NaN too."""
    from fl_impl.flower.records import form_of  # noqa: PLC0415  # flwr is optional

    form = form_of(record)
    return form.vector(form.read(record), form.floating).astype(np.float64)


@contextmanager
def quiet() -> Generator[None]:
    """Without Flower's log and numpy's warnings, and with the global generator from which Flower samples nodes seeded."""
    logger, state = logging.getLogger("flwr"), random.getstate()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    random.seed(0)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.setLevel(level)
        random.setstate(state)


def server_of(
    subject: Any, *, clients: int, f: int | None, kappa: Kappa | None, rounds_key: str, seed: int, run_config: dict[str, Any]
) -> JudgedServer:
    """What somebody hands over as a server. Raises ValueError for what is none.

    A rule's spec or an FLConfig; a Flower strategy, its class, a partial of it or a function that makes one; a Flower
    app as (ServerApp, ClientApp) or the path of its pyproject.toml.
    """
    if isinstance(subject, Path | tuple):
        return app_server(subject, clients, f, kappa, rounds_key, run_config)
    from fl_impl import FLConfig  # noqa: PLC0415  # it imports pydantic

    if isinstance(subject, FLConfig):
        return Federation(subject, kappa)
    if isinstance(subject, str):
        share = 0.2 if f is None else f / clients
        given: dict[str, Any] = {"num_clients": clients, "aggregation": subject, "byzantine_fraction": share, "seed": seed}
        return Federation(FLConfig(**given), kappa)
    made = subject() if takes_nothing(subject) else subject
    if not hasattr(made, "aggregate_train"):
        raise ValueError(
            "expected an FLConfig, a rule such as 'nnm|trimmed_mean', a strategy of flwr.serverapp or a Flower app; "
            f"got {subject!r}"
        )
    make = partial(copy.deepcopy, subject) if made is subject else subject
    return strategy_server(make, made, clients, f, kappa, seed)


def takes_nothing(subject: Any) -> bool:
    """Whether it makes something when it is called without arguments: a class, a partial, a function."""
    try:
        inspect.signature(subject).bind()
    except (TypeError, ValueError):
        return False
    return True


def strategy_server(
    make: Callable[[], Any], made: Any, clients: int, f: int | None, kappa: Kappa | None, seed: int
) -> FlowerServer:
    """A strategy on made-up clients, with the constants that are proven of its rule."""
    rule = getattr(made, "rule", None)
    theory = next((rule_theory(THEORY[kind.__name__]) for kind in type(made).__mro__ if kind.__name__ in THEORY), None)
    trimmed = getattr(made, "beta", None)
    known = f if f is not None else getattr(made, "num_malicious_nodes", None)
    fraction = getattr(made, "byzantine_fraction", trimmed)
    client_app, known_kappa = made_up(clients, seed), kappa or kappa_of(rule, theory)
    server = FlowerServer(starter(make), client_app, clients, known, fraction, known_kappa, refuses=rule is not None)
    if rule is not None or theory is not None:
        server.min_clients = rule.min_clients if rule is not None else theory.min_clients  # pyright: ignore[reportOptionalMemberAccess]
    return server


def kappa_of(rule: Any, theory: RuleTheory | None) -> Kappa | None:
    """The coefficient that is proven of a strategy's rule."""
    return rule.kappa if rule is not None else theory.kappa if theory is not None else None


def starter(make: Callable[[], Any]) -> Callable[[Any, int], Any]:
    """Starts a new strategy on a grid."""

    def serve(grid: Any, rounds: int) -> Any:
        from flwr.app import ArrayRecord  # noqa: PLC0415  # flwr is optional

        initial = ArrayRecord([np.zeros((3, 1), np.float32), np.zeros(2, np.float32)])
        return make().start(grid, initial, num_rounds=rounds, timeout=60).arrays or None

    return serve


def made_up(clients: int, seed: int) -> Any:
    """A ClientApp whose clients take one gradient step on quadratic losses; the model is a (3, 1) and a (2,) array."""
    from flwr.app import ArrayRecord, MetricRecord, RecordDict  # noqa: PLC0415  # flwr is optional
    from flwr.app import Message as Reply  # noqa: PLC0415  # likewise
    from flwr.clientapp import ClientApp  # noqa: PLC0415  # likewise

    inner, _ = bowls(clients, D, seed)
    app = ClientApp()

    @app.train()
    def train(message: Any, context: Any) -> Any:
        parts = message.content["arrays"].to_numpy_ndarrays()
        model = np.concatenate([part.ravel() for part in parts]).astype(np.float32)
        after = model + inner[int(context.node_config["partition-id"])].fit(model, 0).delta.astype(np.float32)
        arrays = ArrayRecord([after[:3].reshape(3, 1), after[3:]])
        return Reply(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Any, context: Any) -> Any:
        del context
        return Reply(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.0})}), reply_to=message)

    del train, evaluate  # the app keeps them
    return app


def app_server(
    subject: Any, clients: int, f: int | None, kappa: Kappa | None, rounds_key: str, run_config: dict[str, Any]
) -> FlowerServer:
    """A whole app: its own clients, data and model."""
    from flwr.app import Context, RecordDict  # noqa: PLC0415  # flwr is optional

    from fl_impl.flower.runs import kept, read_app  # noqa: PLC0415  # likewise

    app = read_app(subject)
    config = {**app.config, **run_config}

    def serve(grid: Any, rounds: int) -> Any:
        results: list[Any] = []
        with kept(results):
            app.server(grid, Context(1, 1, {}, RecordDict(), {**config, rounds_key: rounds}))
        return results[-1].arrays or None if results else None

    return FlowerServer(serve, app.client, clients, 0 if f is None else f, None, kappa, run_config=config)
