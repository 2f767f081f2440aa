"""`RobustStrategy`: any of our rules as the aggregation of any Flower app."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from logging import WARNING
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from fl_impl.aggregators import resolve
from fl_impl.common.randomness import generator
from fl_impl.config import byzantine_count
from fl_impl.flower.records import Floats, Form, form_of

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator


class RobustStrategy(FedAvg):  # pyright: ignore[reportUntypedBaseClass]  # unknown only where flwr is not installed
    """FedAvg with a robust rule: new = global + rule(x_i - global), over the sound replies x_1, ..., x_n.

    aggregator: a spec such as "nnm|trimmed_mean" or "krum", an Aggregator, or a function (updates (n, d), f) -> (d,).
    byzantine_fraction: f = floor(byzantine_fraction times the nodes that were asked), computed exactly. keywords: those
    of `flwr.serverapp.strategy.FedAvg`. A reply that is an error, has other arrays, a wrong shape, pickled objects or
    numbers that are not finite is not used: `rejected[round][node]` says why. Where fewer sound replies are left than
    the rule needs for f, the round leaves the model as it is. Claimed sample counts reach only rules that ask for them;
    metrics are medians over the clients, unless `train_metrics_aggr_fn` or `evaluate_metrics_aggr_fn` is given.
    Raises ValueError for a rule that is none.
    """

    def __init__(
        self, aggregator: Any = "nnm|trimmed_mean", *, byzantine_fraction: float = 0.2, seed: int = 0, **keywords: Any
    ) -> None:
        given: dict[str, Any] = {"train_metrics_aggr_fn": medians, "evaluate_metrics_aggr_fn": medians, **keywords}
        super().__init__(**given)
        if not 0 <= byzantine_fraction < 1:
            raise ValueError(f"byzantine_fraction is the share to tolerate, from 0 to below 1; got {byzantine_fraction}")
        self.rule: Aggregator = resolve(aggregator)
        self.byzantine_fraction, self.seed = byzantine_fraction, seed
        self.rejected: dict[int, dict[int, str]] = {}
        """Round -> node -> why its reply was not used."""
        self._sent: tuple[Form, Floats] | None = None
        self._asked = 0
        self._previous: Floats | None = None
        self._history: dict[int, Floats] = {}

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """As FedAvg, remembering what is sent to how many."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        form = form_of(arrays)
        self._sent, self._asked = (form, form.vector(arrays)), len(messages)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """(the new arrays, medians of the metrics) of the sound replies; (None, None) where too few are left."""
        sound, rejected = self._admitted(list(replies), server_round)
        if self._sent is None or not sound:
            return None, None
        form, origin = self._sent
        f = byzantine_count(self.byzantine_fraction, max(self._asked, len(sound) + len(rejected)))
        needed = self.rule.min_clients(f)
        if len(sound) < needed:
            told = server_round, len(sound), self.rule.spec, needed, f
            log(WARNING, "round %s: %s sound replies, but %s needs %s for f=%s: the model stays", *told)
            return None, None
        updates = np.stack([update for _, _, update in sound])
        aggregate = np.asarray(self.rule(updates, f=f, **self._context(sound, updates, server_round)))
        self._previous = aggregate
        contents = [content for _, content, _ in sound]
        return form.record(origin + aggregate), self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As FedAvg, over the replies that carry metrics; a malformed one is passed over."""
        del server_round
        contents = [reply.content for reply in replies if reply.has_content() and reply.content.metric_records]
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None

    def _admitted(
        self, replies: list[Message], server_round: int
    ) -> tuple[list[tuple[int, RecordDict, Floats]], dict[int, str]]:
        """(node, content, update) of the sound replies by node, and why the others are not used."""
        sound: dict[int, tuple[int, RecordDict, Floats]] = {}
        rejected: dict[int, str] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in sound:  # Flower asks each node once: the second reply is a lie about who sent it
                continue
            try:
                sound[node] = node, *self._update(reply)
            except ValueError as error:
                rejected[node] = str(error)
                log(WARNING, "round %s: the reply of node %s is not used: %s", server_round, node, error)
        self.rejected[server_round] = rejected
        return [sound[node] for node in sorted(sound)], rejected

    def _update(self, reply: Message) -> tuple[RecordDict, Floats]:
        """The content, and (d,) what it says minus what was sent. Raises ValueError for a reply that is unsound."""
        if reply.has_error():
            raise ValueError(f"error {reply.error.code}: {str(reply.error.reason)[:200]}")
        record = reply.content.get(self.arrayrecord_key)
        if not isinstance(record, ArrayRecord):
            raise ValueError(f"it has no ArrayRecord {self.arrayrecord_key!r}")  # noqa: TRY004  # a bad message
        form, origin = self._sent or form_and_zero(record)
        self._sent = form, origin
        with np.errstate(over="ignore", invalid="ignore"):
            update = form.vector(record) - origin
        if not np.isfinite(update).all():
            raise ValueError("non-finite numbers")
        return reply.content, update

    def _context(self, sound: Sequence[tuple[int, RecordDict, Floats]], updates: Floats, server_round: int) -> dict[str, Any]:
        """The keywords that the rule takes, as far as there is something to tell."""
        wanted = self.rule.keywords.context
        told: dict[str, Any] = {}
        weights = np.array([count(content, self.weighted_by_key) for _, content, _ in sound])
        if "weights" in wanted and weights.any():
            told["weights"] = weights
        if "previous" in wanted and self._previous is not None:
            told["previous"] = self._previous
        if "rng" in wanted:
            told["rng"] = generator(self.seed, "rule", server_round)
        if "history" in wanted:
            for (node, _, _), update in zip(sound, updates, strict=True):
                self._history[node] = self._history.get(node, 0) + update
            told["history"] = np.stack([self._history[node] for node, _, _ in sound])
        return told


def form_and_zero(record: ArrayRecord) -> tuple[Form, Floats]:
    """What is taken as sent where somebody aggregates replies to messages that were not ours: the first one's form."""
    form = form_of(record)
    return form, np.zeros_like(form.vector(record))  # which checks that it is as long as it says


def count(content: RecordDict, key: str) -> float:
    """The claimed number of samples; 0 where it is no count, so that a lie costs the liar its weight."""
    claims = [record[key] for record in content.metric_records.values() if key in record]
    claimed = claims[0] if claims else 0
    sound = isinstance(claimed, int | float) and 0 <= claimed < math.inf
    return float(claimed) if sound else 0.0  # pyright: ignore[reportArgumentType]  # a number by now


def medians(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Of each metric the median over the clients that report a finite number: f < n/2 liars cannot move it far."""
    del weighted_by
    values: dict[str, list[float]] = {}
    for content in contents:
        for record in content.metric_records.values():
            for name, value in record.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    values.setdefault(name, []).append(float(value))
    return MetricRecord({name: float(np.median(given)) for name, given in values.items()})
