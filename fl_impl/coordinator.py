"""The coordinator: one round is one path through the stages, and a run is as many rounds as the configuration says."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.attacks import resolve
from fl_impl.metrics import LATEST, FLMetrics, RoundResult
from fl_impl.rounds.admission import Admitted, Reasons, replaced, stacked
from fl_impl.rounds.attackers import Assault
from fl_impl.rounds.checkpoints import RunState, load_state, save_state
from fl_impl.rounds.context import Server
from fl_impl.rounds.delivery import choose, combine, deliver, plain_bytes
from fl_impl.rounds.evaluation import Ground, ground_of
from fl_impl.rounds.stages import quorum, scaffold_control, spread, train
from fl_impl.training.server_optimizers import server_optimizer

if TYPE_CHECKING:
    from fl_impl.config import FLConfig
    from fl_impl.rounds.evaluation import Evaluate


class FederatedLearningCoordinator:
    """Runs the rounds of a configuration, with simulated clients or any that have `fit(parameters, round)`.

    parameters, the first (d,) global model, and evaluate, (d,) -> Evaluation, replace those of the configured model and
    data set: clients of the user's own that train something else need them.
    """

    def __init__(self, config: FLConfig, *, parameters: Any = None, evaluate: Evaluate | None = None) -> None:
        self.config = config
        self.metrics = FLMetrics(config.model_dump(mode="json"), notes=config.protection.notes if config.protection else ())
        self._given = parameters, evaluate
        self._optimize = server_optimizer.bind(config.server_optimizer)
        self._ground: Ground | None = None
        self._state: RunState | None = None
        self._assault: Assault | None = None
        self._train: Callable[..., Admitted] = train
        if config.attack is not None:
            fraction = config.byzantine_fraction if config.attack_fraction is None else config.attack_fraction
            when = config.attack_start, config.attack_stop
            self._assault = Assault(resolve(config.attack), fraction, *when, seed=config.seed)

    def inject_attack(self, *, attack: Any, fraction: float, start: int = 1, stop: int | None = None) -> None:
        """From now on floor(fraction n) of the n clients attack, in rounds start to stop; it replaces another attack."""
        self._assault = Assault(resolve(attack), fraction, start, stop, self.config.seed)
        described = {"attack": self._assault.attack.spec, "attack_fraction": fraction, "attack_start": start}
        self.metrics.config.update(described, attack_stop=stop)

    def simulate_round(self, clients: Sequence[Any]) -> RoundResult:
        """Run the next round, from selection to the record of it.

        Raises ValueError where fewer sound updates remain than the quorum or the aggregator needs, and
        PrivacyBudgetError, which is one, before a round that the budget does not cover.
        """
        started = time.perf_counter()
        ground, state = self._prepared(clients)
        config, assault, number, d = self.config, self._assault, state.round + 1, len(state.parameters)
        epsilon = config.protection.authorize(number) if config.protection else None
        chosen = choose(config, len(clients), number)
        byzantine = assault.byzantine(len(clients), number).intersection(chosen) if assault else frozenset[int]()
        trainees = {i: assault.trainee(clients[i], i) if assault and i in byzantine else clients[i] for i in chosen}

        control, rejected = state.single.get("control"), Reasons()
        with self._engine(clients):
            trained = self._train(trainees, state.parameters, number, rejected, control=control, timeout=config.client_timeout)
        honest, own = trained.parted(byzantine)
        admitted = trained
        hidden = config.protection.hidden if config.protection else frozenset[str]()
        server = Server(state, clients, config.seed, number, hidden)
        if assault and own.ids:
            told = {"aggregate": self._preview(server, honest, own), "previous": state.single.get("previous")}
            struck = assault.strike(honest, own, number, rejected, state.memory, **told)
            admitted = replaced(trained, byzantine, struck)
        arrived, bytes_up = deliver(config.protection, state, admitted, number, rejected)

        f = quorum(config, arrived, rejected, number)
        rule = functools.partial(self._aggregate, server, arrived)
        aggregate, summed = combine(config.protection, state, arrived.deltas, number, rule, f)
        server.remember(config.rule, arrived, aggregate)
        self._advance(state, aggregate, len(arrived.ids), len(clients))

        evaluation = ground.evaluate(state.parameters)
        variance, deviation = spread(honest, aggregate)
        result = RoundResult(
            number, evaluation.loss, evaluation.accuracy, variance, len(arrived.ids), tuple(sorted(byzantine)), rejected,
            bytes_up=bytes_up + summed, bytes_down=plain_bytes(d) * len(chosen), epsilon=epsilon,
            noise=config.protection.source if config.protection else "", deviation=deviation, f=f,
            train_loss=float(np.mean(honest.losses)) if honest.ids else math.nan,
            attack_success=assault.success(ground, state.parameters) if assault else None,
            seconds=time.perf_counter() - started,
        )  # fmt: skip
        self.metrics.rounds.append(result)
        return result

    def run(
        self,
        clients: Sequence[Any],
        *,
        output: str | Path | None = LATEST,
        resume: bool = False,
        on_round: Callable[[RoundResult], None] | None = None,
    ) -> FLMetrics:
        """Run the rounds that are left of `num_rounds`; metrics (`output`) and a checkpoint are written after each.

        output=None writes nothing. resume=True goes on where the files stop, to the same result as without the stop; it
        starts anew where there are none. on_round is called with each result.
        """
        path = None if output is None else Path(output)
        if resume and path is not None:
            self._resume(path, clients)
        _, state = self._prepared(clients)
        self._write(path, clients)
        with self._engine(clients):
            while state.round < self.config.num_rounds:
                result = self.simulate_round(clients)
                self._write(path, clients)
                if on_round is not None:
                    on_round(result)
        return self.metrics

    @contextmanager
    def _engine(self, clients: Sequence[Any]) -> Generator[None]:
        """Train on the configured backend, for as long as this lasts; within another such, nothing changes."""
        if self.config.backend == "local" or self._train is not train:
            yield
            return
        from fl_impl.flower import engine  # noqa: PLC0415  # flwr is imported where it is asked for

        def poison() -> str:
            return self._assault.attack.spec if self._assault else ""

        with engine(self.config, clients, poison) as fleet:
            self._train = fleet
            try:
                yield
            finally:
                self._train = train

    @property
    def parameters(self) -> np.ndarray:
        """The global model, (d,) float32, a copy. Raises ValueError before the first round."""
        if self._state is None:
            raise ValueError("there is no global model before the first round: call simulate_round or run first")
        return self._state.parameters.copy()

    def _prepared(self, clients: Sequence[Any]) -> tuple[Ground, RunState]:
        """The ground of evaluation and the state, made for these clients in the first round."""
        if not clients:
            raise ValueError("expected clients, got none: make_clients(config) makes them")
        if self._ground is None:
            self._ground = ground_of(self.config, clients, *self._given)
            self._describe(clients, len(self._ground.initial))
        if self._state is None:
            self._state = RunState(self._ground.initial.copy())
        return self._ground, self._state

    def _describe(self, clients: Sequence[Any], d: int) -> None:
        if self.config.protection:
            self.metrics.notes += self.config.protection.about_noise(d)
        if all(hasattr(client, "rows") and hasattr(client, "label_skew") for client in clients):
            self.metrics.clients = {
                "samples": [len(client.rows) for client in clients],
                "label_skew": [round(float(client.label_skew), 6) for client in clients],
            }

    def _aggregate(self, server: Server, arrived: Admitted, rows: Any, f: int) -> Any:
        """The aggregator, told what it takes: of the rows that arrived, or of what secure sums make of them."""
        return self.config.rule(rows, f=f, **server.context(self.config.rule, arrived))

    def _preview(self, server: Server, honest: Admitted, own: Admitted) -> Callable[[Any], Any]:
        """The aggregator as a white-box attacker sees it, (n, d) -> (d,), the honest rows first."""
        rule, f = self.config.rule, self.config.tolerated(len(honest.ids) + len(own.ids))

        @functools.cache
        def context() -> dict[str, Any]:
            return server.context(rule, stacked(honest, own), "preview") if rule.keywords.context else {}

        return lambda updates: rule(updates, f=f, **context())

    def _advance(self, state: RunState, aggregate: Any, n: int, population: int) -> None:
        """The server's step, and SCAFFOLD's c."""
        if self.config.algorithm[0] == "scaffold":
            state.single["control"] = scaffold_control(self.config, state.single.get("control"), aggregate, n, population)
        step, state.server = self._optimize(aggregate, state.server)
        state.parameters = (state.parameters + step).astype(np.float32)
        state.round += 1

    def _write(self, path: Path | None, clients: Sequence[Any]) -> None:
        """Metrics first: after a kill between the two files the checkpoint is the older one, and its round is redone."""
        if path is not None and self._state is not None:
            self.metrics.save(path)
            save_state(path.with_suffix(".safetensors"), self._state, clients)

    def _resume(self, path: Path, clients: Sequence[Any]) -> None:
        """Take up metrics and checkpoint, if there are any. Raises ValueError where they are of another configuration."""
        checkpoint = path.with_suffix(".safetensors")
        if not (path.exists() and checkpoint.exists()):
            return
        saved = FLMetrics.load(path)
        changed = [
            name for name, value in self.metrics.config.items() if name != "num_rounds" and saved.config.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{path} is of another configuration: {changed[0]} is {saved.config.get(changed[0])!r} there and "
                f"{self.metrics.config[changed[0]]!r} here. Resume with the same one, or give another output"
            )
        self._state = load_state(checkpoint, clients)
        self.metrics.rounds = saved.rounds[: self._state.round]
