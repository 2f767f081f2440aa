"""`RobustStrategy`: any of our rules as the aggregation of any Flower app."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from logging import WARNING
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from flwr.supercore import log

from fl_impl.aggregators import resolve
from fl_impl.common.counts import tolerated
from fl_impl.common.randomness import generator
from fl_impl.flower.parts import aggregate_parts
from fl_impl.flower.pulling import Patient
from fl_impl.flower.records import Floats, form_of
from fl_impl.flower.replies import STATISTICS, Model, Sound, admitted, count, first_model, medians

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator


class RobustStrategy(FedAvg):  # pyright: ignore[reportUntypedBaseClass]  # unknown only where flwr is not installed
    """FedAvg with a robust rule: new = global + rule(x_i - global), over the sound replies x_1, ..., x_n.

    For a rule that moves with all of them that is rule(x_i), which is what is computed, on the bytes that came.

    aggregator: a spec such as "nnm|trimmed_mean" or "krum", an Aggregator, or a function (updates (n, d), f) -> (d,).
    byzantine_fraction: f = floor(byzantine_fraction times the nodes that were asked), computed exactly, however many
    reply, and of the most nodes that a round has asked: those that die and leave Flower's list do not lower it.
    sample_tolerance: where only some nodes are asked (fraction_train below 1), f is the least number, and no less than
    that, that a sample exceeds with at most this probability. keywords: those of `flwr.serverapp.strategy.FedAvg`.

    The floating point arrays are one vector, that of the rule. Arrays of integers and bool, such as counters of batches,
    are aggregated by their coordinate-wise (lower) median, and so are, by the midpoint, floating point arrays whose names
    match `statistics`, by default those of batch normalization: a variance stays between those that clients sent, and
    scales of data do not decide which client is near which. statistics=() sends them through the rule. Arrays that match
    `exclude` stay as they are, and replies need not have them. Names, order, shapes and dtypes stay those of the initial
    arrays.

    A reply that is an error, has other arrays, a wrong shape, pickled objects or numbers that are not finite is not used:
    `rejected[round][node]` says why. Where fewer sound replies are left than the rule needs for f, the round leaves the
    model as it is. Claimed sample counts reach only rules that ask for them; metrics are medians over the clients, of
    those that most of them report, unless `train_metrics_aggr_fn` or `evaluate_metrics_aggr_fn` is given.
    Raises ValueError for a rule that is none, and in `start` for initial arrays that are not plain numbers.
    """

    def __init__(
        self,
        aggregator: Any = "nnm|trimmed_mean",
        *,
        byzantine_fraction: float = 0.2,
        sample_tolerance: float | None = None,
        statistics: Iterable[str] = STATISTICS,
        exclude: Iterable[str] = (),
        seed: int = 0,
        **keywords: Any,
    ) -> None:
        given: dict[str, Any] = {"train_metrics_aggr_fn": medians, "evaluate_metrics_aggr_fn": medians, **keywords}
        super().__init__(**given)
        if not 0 <= byzantine_fraction < 1:
            raise ValueError(f"byzantine_fraction is the share to tolerate, from 0 to below 1; got {byzantine_fraction}")
        if sample_tolerance is not None and not 0 <= sample_tolerance < 1:
            raise ValueError(f"sample_tolerance is a probability, from 0 to below 1; got {sample_tolerance}")
        self.rule: Aggregator = resolve(aggregator)
        self.byzantine_fraction, self.sample_tolerance, self.seed = byzantine_fraction, sample_tolerance, seed
        self.statistics, self.exclude = patterns("statistics", statistics), patterns("exclude", exclude)
        self.rejected: dict[int, dict[int, str]] = {}
        """Round -> node -> why its reply was not used."""
        self._model: Model | None = None
        self._messages: list[Message] = []
        self._population: int | None = None
        self._most = 0
        self._previous: Floats | None = None
        self._history: dict[int, Floats] = {}

    def start(self, grid: Grid, *arguments: Any, **keywords: Any) -> Result:
        """As every strategy of Flower, by a grid on which a malformed reply costs nobody but its sender."""
        return super().start(Patient(grid), *arguments, **keywords)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """As FedAvg, remembering what is sent to whom. Raises ValueError for arrays that are not plain numbers."""
        self._model = Model(form_of(arrays), arrays, self.statistics, self.exclude)
        self._messages = list(super().configure_train(server_round, arrays, config, grid))
        self._population = len(list(grid.get_node_ids()))
        return self._messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """(the new arrays, medians of the metrics) of the sound replies; (None, None) where too few are left."""
        given = list(replies)
        model = self._model or first_model(given, self.arrayrecord_key, self.statistics, self.exclude)
        if model is None:
            return None, None
        differences = not self._as_received
        sound, rejected = admitted(given, self._messages, model, self.arrayrecord_key, differences=differences)
        self.rejected[server_round] = rejected
        for node, reason in rejected.items():
            log(WARNING, "round %s: the reply of node %s is not used: %s", server_round, node, reason)
        self._most = max(self._most, len(sound) + len(rejected))
        f = tolerated(self.byzantine_fraction, self._most, self._population, self.sample_tolerance)
        needed = max(1, self.rule.min_clients(f))
        if len(sound) < needed:
            told = server_round, len(sound), self.rule.spec, needed, f
            log(WARNING, "round %s: %s sound replies, but %s needs %s for f=%s: the model stays", *told)
            return None, None
        others = [reply.others for reply in sound]
        if differences:
            arrays = model.moved(self._aggregate(sound, f, server_round), others)
        else:
            arrays = model.replaced(aggregate_parts(self.rule, f, [reply.parts for reply in sound]), others)
        return arrays, self.train_metrics_aggr_fn([reply.content for reply in sound], self.weighted_by_key)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As FedAvg, over the replies that carry metrics; a malformed one is passed over."""
        del server_round
        contents = [reply.content for reply in replies if reply.has_content() and reply.content.metric_records]
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None

    @property
    def _as_received(self) -> bool:
        """Whether the rule may be given models as they came: it moves with all of them, and is told nothing beside them."""
        return self.rule.apart and "translation" in self.rule.symmetries and not self.rule.keywords.context

    def _aggregate(self, sound: Sequence[Sound], f: int, server_round: int) -> Floats:
        """(d,): the rule over the updates; a model without floating point parameters has none."""
        updates = np.stack([reply.update for reply in sound if reply.update is not None])
        if not updates.shape[1]:
            return updates[0]
        aggregate = np.asarray(self.rule(updates, f=f, **self._context(sound, updates, server_round)))
        self._previous = aggregate
        return aggregate

    def _context(self, sound: Sequence[Sound], updates: Floats, server_round: int) -> dict[str, Any]:
        """The keywords that the rule takes, as far as there is something to tell."""
        wanted = self.rule.keywords.context
        told: dict[str, Any] = {}
        weights = np.array([count(reply.content, self.weighted_by_key) for reply in sound])
        if "weights" in wanted and weights.any():
            told["weights"] = weights
        if "previous" in wanted and self._previous is not None:
            told["previous"] = self._previous
        if "rng" in wanted:
            told["rng"] = generator(self.seed, "rule", server_round)
        if "history" in wanted:
            for reply, update in zip(sound, updates, strict=True):
                self._history[reply.node] = self._history.get(reply.node, 0) + update
            told["history"] = np.stack([self._history[reply.node] for reply in sound])
        return told


def patterns(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """Names with wildcards. Raises ValueError for a single string, whose letters would be taken for patterns."""
    if isinstance(given, str):
        raise ValueError(f"{name} is several patterns: write {name}=[{given!r}]")  # noqa: TRY004  # a wrong value
    return tuple(given)
