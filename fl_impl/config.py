"""`FLConfig`: every setting of a federation, checked before anything runs."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_serializer, field_validator, model_validator

from fl_impl.common.counts import floor_of, read_fraction, tolerated
from fl_impl.common.settings import read_settings
from fl_impl.common.specs import nearest, parse

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator
    from fl_impl.privacy.protection import Protection


Number = Annotated[float, BeforeValidator(read_fraction)]
"""A finite number; "1/3" is one too."""


class FLConfig(BaseModel):
    """The settings of a federation. ValueError for contradictions, and for an unknown field, with the nearest name."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    num_rounds: int = Field(10, ge=1)
    """Rounds of the whole run."""
    num_clients: int = Field(10, ge=1)
    """Simulated clients."""
    fraction_fit: Number = Field(1.0, gt=0, le=1)
    """The share of the clients that trains in a round; under differential privacy the probability that one does."""
    min_clients: int = Field(1, ge=1)
    """The quorum: with fewer sound updates a round is an error."""
    seed: int = Field(0, ge=0)
    """All random numbers follow from it."""
    backend: Literal["local", "flower", "flower-inline", "flower-deployment"] = "local"
    """The engine: this process, Flower's simulation, Flower's messages without processes, or SuperLink and SuperNodes."""

    device: str = "cpu"
    """The torch device on which clients train, models are evaluated and rules are computed: "cpu", "cuda", "cuda:1", "mps"."""
    exclude_buffers: str = ""
    """Patterns of buffers that stay as they are in the model, such as "*num_batches_tracked" or "*"; all others are aggregated
    as parameters are, those of integers by the coordinate-wise median."""

    dataset: Any = "digits"
    """A name, a pair (x, y) of arrays, a Dataset or a torch data set: see fl_impl.data.load."""
    partition: str = "iid"
    """"iid", "dirichlet(0.5)", "pathological(2)", "quantity(1.0)", "gamma_similarity(0.3)" or "natural"."""
    model: Any = "mlp"
    """A name, a torch module, or a function that makes one: see fl_impl.training.models.make_task."""
    loss: Any = None
    """(outputs, targets) -> scalar; cross entropy, or squared error for a regression, where None."""

    local_epochs: int = Field(1, ge=1)
    """Passes over a client's data in a round."""
    local_steps: int | None = Field(None, ge=1)
    """Batches per round, instead of epochs."""
    batch_size: int = Field(32, ge=1)
    """Samples in a step."""
    learning_rate: Number = Field(0.1, gt=0)
    """Of the clients."""
    client_algorithm: str | None = None
    """"sgd", "fedprox(mu=0.01)" or "scaffold"; None is "fedprox" where aggregation is "fedprox", else "sgd"."""
    client_momentum: Number = Field(0.0, ge=0, lt=1)
    """beta of v <- beta v + (1 - beta) g, kept from round to round."""
    client_timeout: Number | None = Field(None, gt=0)
    """Seconds that the clients of the user's own may take in a round, all together."""
    client_workers: int | None = Field(None, ge=1)
    """How many clients of the user's own are asked at the same time, each in a thread; 32 where None. 1 is one after
    another, for clients that share what threads may not."""
    server_optimizer: str = "sgd"
    """"sgd(learning_rate=1.0, momentum=0.9)", "adam" or "yogi": see fl_impl.training.server_optimizers."""

    aggregation: Any = "fedavg"
    """A spec such as "nnm|trimmed_mean", an Aggregator, or a function (updates, f)."""
    byzantine_fraction: Number = Field(0.0, ge=0, lt=1)
    """The share that the aggregator is to tolerate."""
    attack: Any = None
    """A spec such as "sign_flip" or "backdoor|model_replacement", an Attack, or a function (honest, f, rng)."""
    sample_tolerance: Number | None = Field(None, ge=0, lt=1)
    """f of a sampled round is the least that more attackers exceed with at most this probability; floor(byzantine_fraction
    n) of the n that are asked where None."""
    attack_fraction: Number | None = Field(None, ge=0, le=1)
    """The share of the clients that attacks; None is byzantine_fraction."""
    attack_start: int = Field(1, ge=1)
    """The first round with an attack."""
    attack_stop: int | None = Field(None, ge=1)
    """The last round with an attack; None is the last round of all."""

    differential_privacy: bool = False
    """Clip updates and add noise, for (dp_epsilon, dp_delta) of a client over all rounds."""
    dp_epsilon: Number | None = Field(None, gt=0)
    """The privacy budget."""
    dp_delta: Number | None = Field(None, gt=0, lt=1)
    """The probability that the budget does not hold."""
    dp_mechanism: str = "gaussian"
    """"gaussian", "adaptive" (clipping), "local", or "ftrl", where each client trains every floor(1 / fraction_fit) rounds."""
    dp_clip: Number | None = Field(None, gt=0)
    """The length that updates are clipped to: 1 under privacy, 100 in a secure sum, where None."""
    dp_seed: int | None = Field(None, ge=0)
    """Draws noise and sampling from a seed, for tests: it is no privacy. None is the operating system's randomness."""
    dp_ledger: str | None = None
    """A file in which all private runs on the same clients enter their releases, so that their costs add up."""
    compression: str = "none"
    """How updates travel: "none", "sparse", "quantize", "ef21|top_k(0.01)", "rand_k(0.1)": see fl_impl.compression."""
    secure_aggregation: bool = False
    """The server sees sums only."""
    secure_group_size: int | None = Field(None, ge=2)
    """Sums of groups of so many clients, for a robust rule over the groups."""
    secure_partners: int = Field(0, ge=0)
    """Clients that may tell a curious server all they know; a tenth of a sum are allowed for in any case."""
    secure_most_samples: int | None = Field(None, ge=1)
    """Weigh a secure mean by each client's number of samples, at most this, which is masked too; unweighted where None."""

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, given: Any) -> Any:
        for name in cast("dict[str, Any]", given) if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"FLConfig has no field {name!r}{nearest(name, cls.model_fields)}")
        return given

    @field_validator("device")
    @classmethod
    def _a_device(cls, given: str) -> str:
        if given != "cpu":
            from fl_impl.training.devices import check_device  # noqa: PLC0415  # the default needs no torch

            check_device(given)
        return given

    @field_validator("aggregation")
    @classmethod
    def _an_aggregator(cls, given: Any) -> Any:
        _rule(given)
        return given

    @field_validator("attack")
    @classmethod
    def _an_attack(cls, given: Any) -> Any:
        if given is not None:
            from fl_impl.attacks import resolve  # noqa: PLC0415  # names are looked up where one is given, here and below

            resolve(given)
        return given

    @field_validator("partition")
    @classmethod
    def _a_partition(cls, given: str) -> str:
        from fl_impl.data.partitions import partition  # noqa: PLC0415  # as above

        partition.bind(given)
        return given

    @field_validator("server_optimizer")
    @classmethod
    def _a_server_optimizer(cls, given: str) -> str:
        from fl_impl.training.server_optimizers import server_optimizer  # noqa: PLC0415  # as above

        server_optimizer.bind(given)
        return given

    @field_validator("compression")
    @classmethod
    def _a_compression(cls, given: str) -> str:
        from fl_impl.compression import resolve  # noqa: PLC0415  # as above

        resolve(given)
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in [*_contradictions(self), *_unprotected(self)]:
            raise ValueError(problem)
        _ = self.protection  # raises ValueError for what does not go together
        return self

    @cached_property
    def rule(self) -> Aggregator:
        """The aggregator that `aggregation` stands for."""
        return _rule(self.aggregation)

    @cached_property
    def protection(self) -> Protection | None:
        """What stands between updates and server, with its noise calibrated; None where nothing was asked for."""
        if not (self.differential_privacy or self.secure_aggregation or self.compression != "none"):
            return None
        from fl_impl.privacy.protection import protect  # noqa: PLC0415  # it brings SciPy

        return protect(
            rounds=self.num_rounds, clients=self.num_clients, sampling=self.fraction_fit, rule=self.rule.spec,
            robust=self.rule.spec != "mean", epsilon=self.dp_epsilon, delta=self.dp_delta, mechanism=self.dp_mechanism,
            clip_bound=self.dp_clip, compression=self.compression, secure=self.secure_aggregation,
            group_size=self.secure_group_size, partners=self.secure_partners, most_samples=self.secure_most_samples,
            n=self.fit_clients, f=self.tolerated(self.fit_clients), seed=self.seed, noise_seed=self.dp_seed,
        )  # fmt: skip

    @cached_property
    def algorithm(self) -> tuple[str, float]:
        """The client's algorithm and the mu of its proximal term: ("sgd", 0), ("fedprox", 0.01), ("scaffold", 0)."""
        return client_algorithm(self.client_algorithm or ("fedprox" if self.aggregation == "fedprox" else "sgd"))

    @property
    def fit_clients(self) -> int:
        """How many clients train in a round: floor(fraction_fit num_clients), one at least."""
        return max(1, floor_of(self.fraction_fit, self.num_clients))

    def tolerated(self, asked: int, population: int | None = None) -> int:
        """f, what the aggregator is told in a round that asks so many of the clients, whoever answers.

        population: how many clients there are, num_clients where None. See `sample_tolerance`.
        """
        everybody = max(asked, self.num_clients) if population is None else population
        return tolerated(self.byzantine_fraction, asked, everybody, self.sample_tolerance)

    @property
    def attackers(self) -> int:
        """How many of all clients attack, once they do."""
        fraction = self.byzantine_fraction if self.attack_fraction is None else self.attack_fraction
        return 0 if self.attack is None else floor_of(fraction, self.num_clients)

    @field_serializer("aggregation", "attack", "dataset", "model", "loss")
    def _as_text(self, given: Any) -> str | None:
        return None if given is None else describe(given)

    def is_default(self, name: str) -> bool:
        """Whether a field has the value that it has when not given."""
        return getattr(self, name) == type(self).model_fields[name].default

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> FLConfig:
        """Read a .toml, .yaml, .yml or .json file; keywords replace what it says. Raises ValueError for another ending."""
        return cls(**{**read_settings(Path(path)), **changes})


def _rule(given: Any) -> Aggregator:
    from fl_impl.aggregators import resolve  # noqa: PLC0415  # as above

    return resolve(given)


def describe(given: Any) -> str:
    """What a setting is, as text: the spec or import path that gives it back where there is one."""
    if isinstance(given, str):
        return str(given)
    if hasattr(given, "spec"):
        return str(given.spec)
    if hasattr(given, "__qualname__"):
        return f"{given.__module__}:{given.__qualname__}"
    if isinstance(given, tuple):
        return f"arrays{tuple(len(part) for part in cast('tuple[Any, ...]', given))}"
    return type(given).__name__


def client_algorithm(text: str) -> tuple[str, float]:
    """The name and mu of "sgd", "fedprox", "fedprox(mu=0.1)" or "scaffold". Raises ValueError for another."""
    spec = parse(text)
    known = ("sgd", "fedprox", "scaffold")
    if spec.name not in known:
        raise ValueError(f"expected a client algorithm, got {text!r}{nearest(spec.name, known)}")
    values = {**dict(zip(("mu",), spec.arguments, strict=False)), **spec.options}
    if set(values) - {"mu"} or len(spec.arguments) > 1 or (values and spec.name != "fedprox"):
        raise ValueError(f'expected "sgd", "fedprox(mu=0.01)" or "scaffold", got {text!r}')
    mu = values.get("mu", 0.01)
    if not isinstance(mu, int | float) or not 0 <= mu < math.inf:
        raise ValueError(f"mu of fedprox must be a number >= 0, got {mu!r}")
    return spec.name, float(mu) if spec.name == "fedprox" else 0.0


def _contradictions(config: FLConfig) -> list[str]:
    """What cannot be meant, each with the remedy."""
    n = config.fit_clients
    f = config.tolerated(n)
    needed = config.rule.min_clients(f)
    name, _ = config.algorithm
    found = {
        f"{describe(config.aggregation)} needs n >= {needed} clients a round for f={f} (byzantine_fraction "
        f"{config.byzantine_fraction} of {n}); lower the fraction or take more clients": n < needed,
        f"min_clients={config.min_clients} is more than the {n} clients of a round": config.min_clients > n,
        "local_steps replaces local_epochs: give one of them": config.local_steps is not None
        and not config.is_default("local_epochs"),
        "scaffold counts K equal steps: give local_steps": name == "scaffold" and config.local_steps is None,
        "attack_fraction without an attack: give attack": config.attack is None and config.attack_fraction is not None,
        f"attack_stop={config.attack_stop} is before attack_start={config.attack_start}": config.attack_stop is not None
        and config.attack_stop < config.attack_start,
    }
    return [message for message, holds in found.items() if holds]


def _unprotected(config: FLConfig) -> list[str]:
    """What would be less private than it reads, each with the remedy."""
    private, secure = config.differential_privacy, config.secure_aggregation
    alone = [name for name in ("dp_epsilon", "dp_delta", "dp_mechanism", "dp_seed", "dp_ledger") if not config.is_default(name)]
    of_sums = [name for name in ("secure_group_size", "secure_partners", "secure_most_samples") if not config.is_default(name)]
    by_clients = [
        name
        for name, asked in {
            f"compression={config.compression!r}": config.compression != "none",
            "secure_aggregation": secure,
            'dp_mechanism="local"': private and config.dp_mechanism == "local",
        }.items()
        if asked
    ]
    found = {
        f"{' and '.join(alone)}: give differential_privacy=True too": bool(alone) and not private,
        "differential_privacy=True needs a budget: give dp_epsilon, and dp_delta below 1 / num_clients, e.g. 1e-5": private
        and (config.dp_epsilon is None or config.dp_delta is None),
        "dp_clip is of privacy and secure sums: give differential_privacy=True or secure_aggregation=True": not private
        and not secure
        and config.dp_clip is not None,
        f"{' and '.join(of_sums)} needs secure_aggregation=True": bool(of_sums) and not secure,
        "under secure aggregation the server sees who takes part, so sampling hides nobody: give fraction_fit=1.0 with "
        "differential_privacy": private and secure and config.fraction_fit < 1,
        f"{' and '.join(by_clients)} is done by clients, and Flower's send plain updates here: use backend='local', or "
        "fl_impl.flower.secure_mod and local_noise_mod in a Flower app of yours": config.backend != "local"
        and bool(by_clients),
    }
    return [message for message, holds in found.items() if holds]
