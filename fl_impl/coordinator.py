"""The coordinator: one round is one path through the stages, and a run is as many rounds as the configuration says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.attacks import resolve
from fl_impl.common.counts import floor_of
from fl_impl.metrics import LATEST, FLMetrics, RoundResult
from fl_impl.rounds.admission import Admitted, replaced
from fl_impl.rounds.attackers import Attackers
from fl_impl.rounds.context import RoundContext
from fl_impl.rounds.evaluation import Setup, check_buffers, set_up
from fl_impl.rounds.quorum import check_quorum, sampling_note
from fl_impl.rounds.remarks import remarks
from fl_impl.rounds.resuming import ledger_path, saved_metrics, saved_state, taken_up, write_run
from fl_impl.rounds.stages import choose, scaffold_control, spread, train
from fl_impl.rounds.state import RunState
from fl_impl.rounds.transport import combine, deliver, plain_bytes, published
from fl_impl.training.server_optimizers import server_optimizer

if TYPE_CHECKING:
    from fl_impl.config import FLConfig
    from fl_impl.privacy.ledger import Ledger
    from fl_impl.rounds.evaluation import Evaluate


def _ledger_of(config: FLConfig) -> Ledger:
    from fl_impl.privacy.ledger import Ledger  # noqa: PLC0415  # it brings SciPy

    return Ledger.open(config.dp_ledger) if config.dp_ledger else Ledger()


class FederatedLearningCoordinator:
    """Runs the rounds of a configuration, with simulated clients or any that have `fit(parameters, round)`.

    parameters, the first (d,) global model, and evaluate, (d,) -> Evaluation, replace those of the configured model and
    data set: clients of the user's own that train something else need them. ledger: of earlier private runs on the same
    clients, whose costs add up to those of this one; a new one where not given, and no `dp_ledger` is configured.
    """

    def __init__(
        self, config: FLConfig, *, parameters: Any = None, evaluate: Evaluate | None = None, ledger: Ledger | None = None
    ) -> None:
        self.config = config
        self.metrics = FLMetrics(config.model_dump(mode="json"), notes=config.protection.notes if config.protection else ())
        self._given = parameters, evaluate
        self._optimize = server_optimizer.bind(config.server_optimizer)
        self._setup: Setup | None = None
        self._state: RunState | None = None
        self._attackers = Attackers()
        self._engine: Callable[..., Admitted] | None = None
        """What trains in place of this process, while a backend runs."""
        self.ledger = _ledger_of(config) if ledger is None and config.differential_privacy else ledger
        """Of all private releases about these clients, None without privacy: coordinators of several runs share one."""
        self._run = "" if self.ledger is None else self.ledger.next_run()
        if config.attack is not None:
            fraction = config.byzantine_fraction if config.attack_fraction is None else config.attack_fraction
            when = config.attack_start, config.attack_stop
            self._attackers = Attackers(resolve(config.attack), fraction, *when, seed=config.seed)

    def inject_attack(self, *, attack: Any, fraction: float, start: int = 1, stop: int | None = None) -> None:
        """From now on floor(fraction n) of the n clients attack, in rounds start to stop; it replaces another attack."""
        self._attackers = Attackers(resolve(attack), fraction, start, stop, self.config.seed)
        described = {"attack": self._attackers.spec, "attack_fraction": fraction, "attack_start": start}
        self.metrics.config.update(described, attack_stop=stop)

    def simulate_round(self, clients: Sequence[Any]) -> RoundResult:
        """Run the next round, from selection to the record of it.

        Raises QuorumError, a ValueError, where fewer sound updates come than min_clients or the rule needs for its f, and
        PrivacyBudgetError, which is one too, before a round that the budget does not cover.
        """
        started = time.perf_counter()
        setup, state = self._prepared(clients)
        config, guard, attackers, number = self.config, self.config.protection, self._attackers, state.round + 1
        epsilon = self._authorize(number)
        chosen = choose(config, len(clients), number)
        f = config.tolerated(len(chosen), len(clients))
        byzantine = attackers.among(chosen, len(clients), number)
        context = self._context(setup, state, clients)
        trained = self._trained(clients, attackers.trainees(clients, chosen, byzantine), state)
        honest, own = trained.parted(byzantine)
        messages = attackers.messages(honest, own, number, state.memory, **context.preview(honest, own, f))
        self._enter(number, local=True)
        arrived, bytes_up = deliver(guard, state, replaced(trained, byzantine, messages), number)
        self._check_quorum(arrived, len(chosen), f, number)
        self._enter(number, local=False)
        aggregate, bytes_summed = combine(guard, state, arrived.deltas, number, context.bound(arrived), f, arrived.counts)
        context.remember(arrived, aggregate)
        self._advance(state, aggregate, len(arrived.ids), len(clients))
        evaluation, (variance, deviation) = setup.evaluate(state.parameters), spread(honest, aggregate)
        came, asked, bytes_up = published(guard, len(arrived.ids), len(chosen), bytes_up + bytes_summed, len(aggregate))
        result = RoundResult(
            number, evaluation.loss, evaluation.accuracy, variance, came, tuple(sorted(byzantine)),
            arrived.rejected, bytes_up, plain_bytes(len(aggregate)) * asked, epsilon,
            time.perf_counter() - started, deviation, float(np.mean(honest.losses)) if honest.ids else math.nan,
            attackers.success(setup, state.parameters), f, guard.source if guard else "",
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
        if path is not None:
            self._keep_ledger(path)
        if resume and path is not None:
            self._resume(path, clients)
        _, state = self._prepared(clients)
        if path is not None:  # before hours of training, not after: but what lies there stays until a round is done
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._backend(clients):
            while state.round < self.config.num_rounds:
                result = self.simulate_round(clients)
                self._write(path, clients)
                if on_round is not None:
                    on_round(result)
        self._remark(path)
        return self.metrics

    def _remark(self, path: Path | None) -> None:
        """Note an attack without effect and a model that learnt nothing, in the metrics and in their file."""
        said = remarks(self.metrics.rounds, self._attackers, self._setup.test if self._setup else None)
        new = tuple(remark for remark in said if remark not in self.metrics.notes)
        self.metrics.notes += new
        if new and path is not None:
            self.metrics.save(path)

    @contextmanager
    def _backend(self, clients: Sequence[Any]) -> Generator[None]:
        """Train on the configured backend, for as long as this lasts; within another such, nothing changes."""
        if self.config.backend == "local" or self._engine is not None:
            yield
            return
        from fl_impl.flower import engine  # noqa: PLC0415  # flwr is imported where it is asked for

        with engine(self.config, clients, lambda: self._attackers.spec) as fleet:
            self._engine = fleet
            try:
                yield
            finally:
                self._engine = None

    def _trained(self, clients: Sequence[Any], trainees: dict[int, Any], state: RunState) -> Admitted:
        """The sound updates of those who train in this round."""
        with self._backend(clients):
            stage = self._engine or partial(train, workers=self.config.client_workers)
            return stage(trainees, state.parameters, state.round + 1, control=state.control, timeout=self.config.client_timeout)

    def _context(self, setup: Setup, state: RunState, clients: Sequence[Any]) -> RoundContext:
        """The rule of this round, and what it may be told."""
        config, counters = self.config, setup.task.layout.counters if setup.task else 0
        hidden = config.protection.hidden if config.protection else frozenset[str]()
        return RoundContext(config.rule, state, clients, config.seed, state.round + 1, hidden, counters, config.device)

    def _authorize(self, number: int) -> float | None:
        """The epsilon that all releases up to this round will have cost, asked before it; it never falls."""
        guard = self.config.protection
        spent = guard.authorize(number, self.ledger, self._run) if guard and self.ledger is not None else None
        before = self.metrics.rounds[-1].epsilon if self.metrics.rounds else None
        return spent if spent is None or before is None else max(spent, before)

    def _enter(self, number: int, *, local: bool) -> None:
        """Write the release of this round into the ledger, before anything of it is shown: clients' noise, or the server's."""
        guard = self.config.protection
        if guard and guard.mechanism and guard.mechanism.local == local and self.ledger is not None:
            guard.enter(number, self.ledger, self._run)
            self.metrics.ledger = self.ledger.plain

    def _keep_ledger(self, path: Path) -> None:
        """Let the ledger of a private run grow in a file beside the metrics, where it has none."""
        if self.ledger is not None and self.ledger.path is None:
            self.ledger.path = ledger_path(path)

    def _check_quorum(self, arrived: Admitted, asked: int, f: int, number: int) -> None:
        """Raise QuorumError where too few came. An empty Poisson sample is none: its release is noise."""
        config = self.config
        if not asked and config.protection and config.protection.may_be_empty and config.min_clients <= 1:
            return
        least, where = config.min_clients, f"round {number}"
        check_quorum(config.rule, len(arrived.ids), asked, f, arrived.rejected, min_clients=least, where=where)

    @property
    def parameters(self) -> np.ndarray:
        """The global model, (d,) float32, a copy. Raises ValueError before the first round."""
        if self._state is None:
            raise ValueError("there is no global model before the first round: call simulate_round or run first")
        return self._state.parameters.copy()

    def _prepared(self, clients: Sequence[Any]) -> tuple[Setup, RunState]:
        """Initial model, evaluation and state, made for these clients in the first round."""
        if not clients:
            raise ValueError("expected clients, got none: make_clients(config) makes them")
        if self._setup is None:
            self._setup = set_up(self.config, clients, *self._given)
            check_buffers(self.config, self._setup)
            self._describe(clients, len(self._setup.initial))
        if self._state is None:
            self._state = RunState(self._setup.initial.copy())
        return self._setup, self._state

    def _describe(self, clients: Sequence[Any], d: int) -> None:
        """Notes and figures that depend on the clients and the model."""
        if self.config.protection:
            self.metrics.notes += self.config.protection.about_noise(d)
        self.metrics.notes += sampling_note(self.config, len(clients), max(1, floor_of(self.config.fraction_fit, len(clients))))
        if all(hasattr(client, "rows") and hasattr(client, "label_skew") for client in clients):
            self.metrics.clients = {
                "samples": [len(client.rows) for client in clients],
                "label_skew": [round(float(client.label_skew), 6) for client in clients],
            }

    def _advance(self, state: RunState, aggregate: Any, n: int, population: int) -> None:
        """The server's step, and SCAFFOLD's c."""
        if self.config.algorithm[0] == "scaffold":
            state.control = scaffold_control(self.config, state.control, aggregate, n, population)
        trained = self._setup.task.layout.trained if self._setup and self._setup.task else len(aggregate)
        step, state.server = self._optimize(aggregate[:trained], state.server)
        whole = np.concatenate([step, aggregate[trained:]])  # buffers are statistics, and no optimizer's business
        state.parameters = (state.parameters + whole).astype(np.float32)
        state.round += 1

    def _write(self, path: Path | None, clients: Sequence[Any]) -> None:
        if path is not None and self._state is not None:
            write_run(path, self.metrics, self._state, clients)

    def _resume(self, path: Path, clients: Sequence[Any]) -> None:
        """Take up metrics and checkpoint, if there are any. Raises ValueError where they are of another configuration."""
        saved = saved_metrics(path, self.metrics.config)
        if saved is None:
            return
        setup, _ = self._prepared(clients)
        state = saved_state(path, saved, clients, len(setup.initial))
        if self.ledger is not None:
            self.ledger, self._run = taken_up(self.ledger, path, saved, state.round, self.config.protection)
            self.metrics.ledger = self.ledger.plain
        self._state = state
        self.metrics.rounds = saved.rounds[: state.round]
