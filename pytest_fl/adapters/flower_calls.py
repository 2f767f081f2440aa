"""One aggregation by Flower's own code: real Parameters or Messages in, one vector out, no server around it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

Floats = npt.NDArray[np.floating]
ROUND: Final = 2
"""The server's round: in round 1 the legacy strategies log that no metrics are aggregated."""


def legacy(strategy: Any, updates: Floats, counts: Sequence[int]) -> Floats | None:
    """`aggregate_fit` of a strategy of `flwr.server.strategy`, on FitRes with the claimed sample counts."""
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays  # noqa: PLC0415  # flwr is optional

    def result(row: Floats, count: int) -> Any:
        return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(layers(row)), num_examples=count, metrics={})

    proxies = [SimpleNamespace(cid=str(i), node_id=i) for i in range(len(updates))]
    results = [(proxy, result(row, count)) for proxy, row, count in zip(proxies, updates, counts, strict=True)]
    with quiet():
        parameters, _ = strategy.aggregate_fit(ROUND, results, [])
    return None if parameters is None else joined(parameters_to_ndarrays(parameters))


def serverapp(
    strategy: Any, updates: Floats, counts: Sequence[int], through: Callable[[Any], Any] | None = None
) -> Floats | None:
    """`aggregate_train` of a strategy of `flwr.serverapp.strategy`, on Messages with the claimed sample counts.

    through: what a client's mod makes of its reply.
    """
    keys = {"arrays": strategy.arrayrecord_key, "count_key": strategy.weighted_by_key}
    replies = [message(row, count, node, **keys) for node, (row, count) in enumerate(zip(updates, counts, strict=True))]
    with quiet():
        arrays, _ = strategy.aggregate_train(ROUND, [through(reply) for reply in replies] if through else replies)
    return None if arrays is None else joined(arrays.to_numpy_ndarrays())


def message(
    row: Floats,
    count: int = 1,
    node: int = 0,
    *,
    arrays: str = "arrays",
    count_key: str = "num-examples",
    config: Mapping[str, float] | None = None,
) -> Any:
    """A Message with a model, a claimed sample count and, if any, settings, as Flower's transport would bring it."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, Metadata, MetricRecord, RecordDict  # noqa: PLC0415  # optional

    content = RecordDict({arrays: ArrayRecord(layers(row)), "metrics": MetricRecord({count_key: count})})
    if config:
        content["config"] = ConfigRecord(dict(config))
    envelope = Metadata(  # what a running app fills in by itself
        run_id=1, message_id=str(node), src_node_id=node, dst_node_id=0, reply_to_message_id="", group_id="",
        created_at=0.0, ttl=60.0, message_type=MessageType.TRAIN,
    )  # fmt: skip
    return Message(content=content, metadata=envelope)  # type: ignore[reportCallIssue]  # as Flower's transport does


def function(aggregate: Callable[..., Any], updates: Floats, counts: Sequence[int], keywords: dict[str, Any]) -> Floats:
    """A function of `flwr.server.strategy.aggregate`, on [(layers, claimed sample count), ...]."""
    return joined(aggregate([(layers(row), count) for row, count in zip(updates, counts, strict=True)], **keywords))


def layers(row: Floats) -> list[Floats]:
    """A client's vector as a model of two layers, so that what a rule does across layers is under test as well."""
    middle = (len(row) + 1) // 2
    return [row[:middle], row[middle:]] if len(row) > 1 else [row]


def joined(model: Sequence[Any]) -> Floats:
    """The vector of a model's layers."""
    return np.concatenate([np.asarray(layer) for layer in model], axis=None)


@contextmanager
def quiet() -> Generator[None]:
    """Without the line that Flower logs for each aggregation."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
