"""The replies of a round: whose each one is, which are sound, and why the others are not used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fl_impl.flower.decoder import Numbers
from fl_impl.flower.records import Floats, Schema, form_of

SUPERLINK: Final = 1
"""The node id under which the SuperLink answers for a node that does not (flwr.common.constant.SUPERLINK_NODE_ID)."""
REASON: Final = 200
"""Characters that are kept of a reason: a node may send megabytes of them."""
STATISTICS: Final = ("*running_mean", "*running_var", "*moving_mean", "*moving_variance")
"""The names that torch and Keras give to the statistics of batch normalization."""


@dataclass(frozen=True, eq=False)
class Model:
    """A global model as it was sent: what of it goes through the rule, what through medians, and what stays."""

    form: Schema
    record: Mapping[str, Array]
    statistics: tuple[str, ...]
    """Patterns of floating point arrays that are statistics of data, not parameters."""
    exclude: tuple[str, ...]
    """Patterns of arrays that stay as they are."""
    zero: bool = False
    """Whether updates are counted from 0 instead: nobody knows what was sent."""

    @cached_property
    def excluded(self) -> frozenset[str]:
        """The names of the arrays that stay as they are."""
        return frozenset(name for name in self.form.names if matches(name, self.exclude))

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """The names of the arrays that a reply must have."""
        return tuple(name for name in self.form.names if name not in self.excluded)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the arrays that go through the rule, as one vector."""
        floating = set(self.form.floating)
        return tuple(name for name in self.needed if name in floating and not matches(name, self.statistics))

    @cached_property
    def counted(self) -> tuple[str, ...]:
        """The names of the arrays whose coordinates are medians: integers, bool and statistics."""
        return tuple(name for name in self.needed if name not in set(self.parameters))

    @cached_property
    def origin(self) -> Floats:
        """(d,): the parameters that were sent."""
        vector = self.form.vector(self.form.read(self.record, self.needed), self.parameters)
        return np.zeros_like(vector) if self.zero else vector

    def update(self, reply: Message, key: str) -> tuple[Floats, dict[str, Numbers]]:
        """(d,) what a reply says minus what was sent, and its arrays of counts and statistics.

        Raises ValueError for a reply that is unsound.
        """
        parts, others = self.received(reply, key)
        return self.difference(parts), others

    def difference(self, parts: Sequence[Floats]) -> Floats:
        """(d,) the parameters of a reply minus what was sent. Raises ValueError where that is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            update = np.concatenate([*parts, np.zeros(0, self.origin.dtype)]) - self.origin
        if not is_finite(update):
            raise ValueError("non-finite numbers")
        return update

    def received(self, reply: Message, key: str) -> tuple[tuple[Floats, ...], dict[str, Numbers]]:
        """The parameters of a reply, flat, an array each, no copy where they are of the type of the vector; and its others.

        Raises ValueError for a reply that is unsound.
        """
        if reply.has_error():
            raise ValueError(f"error {reply.error.code}: {str(reply.error.reason)[:REASON]}")
        record = reply.content.get(key)
        if not isinstance(record, ArrayRecord):
            raise ValueError(f"it has no ArrayRecord {key!r}")  # noqa: TRY004  # a bad message
        arrays = self.form.read({name: array for name, array in record.items() if name not in self.excluded}, self.needed)
        dtype = self.form.dtype(self.parameters)
        with np.errstate(over="ignore"):
            parts = tuple(arrays[name].reshape(-1).astype(dtype, copy=False) for name in self.parameters)
        others = {name: arrays[name] for name in self.counted}
        if not all(map(is_finite, (*parts, *others.values()))):
            raise ValueError("non-finite numbers")
        return parts, others

    def moved(self, aggregate: Floats, replies: Sequence[Mapping[str, Numbers]]) -> ArrayRecord:
        """The new model: parameters plus the aggregate of the updates, medians of what is counted, the rest as it was."""
        return self.replaced(self.origin.astype(np.float64) + aggregate, replies)

    def replaced(self, parameters: Numbers, replies: Sequence[Mapping[str, Numbers]]) -> ArrayRecord:
        """The new model of these parameters, medians of what is counted, the rest as it was."""
        arrays = self.form.parted(parameters, self.parameters)
        arrays |= {name: coordinate_median([reply[name] for reply in replies]) for name in self.counted}
        return self.form.record(arrays, {name: self.record[name] for name in self.excluded})


@dataclass(frozen=True, eq=False)
class Sound:
    """A reply that is used."""

    node: int
    content: RecordDict
    parts: tuple[Floats, ...]
    """The parameters, flat, an array each."""
    others: Mapping[str, Numbers]
    update: Floats | None = None
    """(d,): the parameters minus what was sent, where that was asked for."""


def first_model(replies: Iterable[Message], key: str, statistics: tuple[str, ...], exclude: tuple[str, ...]) -> Model | None:
    """The model of the first reply that has one: what is expected where somebody else sent the messages."""
    for reply in replies:
        record = reply.content.get(key) if reply.has_content() else None
        if isinstance(record, ArrayRecord):
            try:
                model = Model(form_of(record), record, statistics, exclude, zero=True)
                len(model.origin)  # which checks that its arrays are as long as they say
            except ValueError:
                continue
            return model
    return None


def admitted(
    replies: Sequence[Message], messages: Sequence[Message], model: Model, key: str, *, differences: bool = True
) -> tuple[list[Sound], dict[int, str]]:
    """The sound replies by node, and why those of the others are not used: everybody who was asked is in one of them.

    differences: whether `update` is asked for.
    """
    sound: dict[int, Sound] = {}
    rejected: dict[int, str] = {}
    for node, reply in owners(replies, messages):
        if node in sound:  # each node is asked once: of a second reply nobody knows who sent it
            continue
        try:
            parts, others = model.received(reply, key)
            sound[node] = Sound(node, reply.content, parts, others, model.difference(parts) if differences else None)
            rejected.pop(node, None)
        except ValueError as error:
            rejected[node] = str(error)[:REASON]
        except Exception as error:  # noqa: BLE001  # a reply that finds a way around the checks must not end the server
            rejected[node] = f"malformed: {type(error).__name__}: {error}"[:REASON]
    silent = {message.metadata.dst_node_id for message in messages} - sound.keys() - rejected.keys()
    rejected |= dict.fromkeys(sorted(silent), "no reply")
    return [sound[node] for node in sorted(sound)], rejected


def owners(replies: Iterable[Message], messages: Iterable[Message]) -> list[tuple[int, Message]]:
    """Each reply with the node that was asked.

    The SuperLink answers for dead nodes under an id of its own; where nothing says which of them it means, they are
    numbered -1, -2, ...
    """
    asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages if message.metadata.message_id}
    found: list[tuple[int, Message]] = []
    unknown = 0
    for reply in replies:
        node = asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
        if node == SUPERLINK:
            unknown -= 1
            node = unknown
        found.append((node, reply))
    return found


def is_finite(numbers: Numbers) -> bool:
    """Whether no number is NaN or infinite: a finite sum of squares says so without a second array."""
    flat = numbers.reshape(-1)
    if flat.dtype.kind != "f" or flat.dtype.itemsize < 4:
        return bool(np.isfinite(flat).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(flat @ flat) or np.isfinite(flat).all())


def coordinate_median(values: Sequence[Numbers]) -> Numbers:
    """In each coordinate the median: the midpoint of floats; of integers and bool the lower one, a value that was sent."""
    rows = np.stack(values)
    if rows.dtype.kind == "f":
        return np.asarray(np.median(rows.astype(np.float64), axis=0))
    return np.sort(rows, axis=0)[(len(rows) - 1) // 2]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these, by the wildcards of shells."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def count(content: RecordDict, key: str) -> float:
    """The claimed number of samples; 0 where it is no count, so that a lie costs the liar its weight."""
    claims = [record[key] for record in content.metric_records.values() if key in record]
    claimed = claims[0] if claims else 0
    sound = isinstance(claimed, int | float) and 0 <= claimed < math.inf
    return float(claimed) if sound else 0.0  # pyright: ignore[reportArgumentType]  # a number by now


def medians(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Of each metric that more than half of the clients report as a finite number, the median over those.

    f < n/2 liars can neither move it far nor make the server keep a metric that nobody else has.
    """
    del weighted_by
    values: dict[str, list[float]] = {}
    for content in contents:
        for name, value in metrics_of(content).items():
            values.setdefault(name, []).append(value)
    return MetricRecord({name: float(np.median(said)) for name, said in values.items() if 2 * len(said) > len(contents)})


def metrics_of(content: RecordDict) -> dict[str, float]:
    """A client's finite metrics, each name once."""
    return {
        name: float(value)
        for record in content.metric_records.values()
        for name, value in record.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
