"""A node of the federation: the clients of an `FLConfig` as a Flower ClientApp."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_impl.attacks import resolve
from fl_impl.clients import ClientUpdate, SimulatedClient
from fl_impl.flower.decoder import packed, unpacked
from fl_impl.rounds.admission import as_row, message_fault
from fl_impl.rounds.asking import ask_all
from fl_impl.rounds.attackers import Attackers

if TYPE_CHECKING:
    from fl_impl.training.parameters import Vector

FAULT: Final = 2
"""Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION."""
CLAIMS: Final = ("num_samples", "loss", "round", "client")
"""What a client says of its update."""


def client_app(clients: Callable[[Context], Sequence[Any]]) -> ClientApp:
    """A ClientApp that is, on each node, the client of the node's partition-id.

    `clients` gives all clients, once a process: they follow from the configuration. Data are poisoned where the message
    names an attack on them.
    """
    app = ClientApp()
    poisoned: dict[tuple[str, int], Any] = {}

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = partition_of(context)
        told: Any = message.content["config"]
        client: Any = clients(context)[number]
        if told["poison"]:
            key = str(told["poison"]), number
            poisoned.setdefault(key, Attackers(resolve(key[0]), 1, seed=int(told["seed"])).trainee(client, number))
            client = poisoned[key]
        return answer(client, message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        says = ConfigRecord({"partition-id": partition_of(context)})
        return Message(RecordDict({"config": says}), reply_to=message)

    del train, query  # the app keeps them
    return app


def partition_of(context: Context) -> int:
    """Which client this node is."""
    return int(context.node_config["partition-id"])


def answer(client: Any, message: Message) -> Message:
    """The client's update in a reply, or its fault as an error."""
    content: Any = message.content
    told = content["config"]
    parameters = numbers(content["arrays"])["parameters"].copy()
    restore(client, numbers(content["state"]))
    if type(client) is SimulatedClient and "control" in content["arrays"]:
        client = Controlled(client, numbers(content["arrays"])["control"].copy())
    answers = ask_all({0: client}, parameters, int(told["server-round"]), timeout=told["timeout"] or None)
    if 0 not in answers.messages:
        return Message(Error(FAULT, answers.rejected[0]), reply_to=message)
    update = answers.messages[0]
    row = as_row(update.delta) if hasattr(update, "delta") else None
    if row is None:
        reason = "its delta is no array of numbers" if hasattr(update, "delta") else message_fault(0, update, 0, {})
        return Message(Error(FAULT, reason), reply_to=message)
    claims = {name: getattr(update, name, None) for name in CLAIMS}
    metrics = MetricRecord({name: plain(value) for name, value in claims.items() if value is not None})
    note = ConfigRecord({"note": answers.rejected.get(0, "")})
    arrays = ArrayRecord({"delta": packed(row)})
    sent = RecordDict({"arrays": arrays, "metrics": metrics, "state": kept(client), "note": note})
    return Message(sent, reply_to=message)


@dataclass
class Controlled:
    """A simulated client with SCAFFOLD's c, which the server sent along."""

    client: SimulatedClient
    control: Vector

    def fit(self, parameters: Vector, round: int) -> ClientUpdate:  # noqa: A002  # the published protocol
        """Local SGD."""
        return self.client.fit(parameters, round, self.control)

    @property
    def state(self) -> dict[str, Any]:
        """The client's own."""
        return self.client.state


def plain(value: Any) -> int | float:
    """A claim as a number that Flower can send; NaN for one that is no number, which the server then refuses."""
    if isinstance(value, int | np.integer):
        return max(-(2**63), min(int(value), 2**63 - 1))
    return float(value) if isinstance(value, float | np.floating) else math.nan


def numbers(record: Any) -> dict[str, Any]:
    """name -> array, read-only. Raises ValueError where an array is malformed."""
    return {name: unpacked(array) for name, array in record.items()}


def restore(client: Any, arrays: Mapping[str, Any]) -> None:
    """Give a client back what it kept."""
    if arrays or hasattr(client, "state"):
        client.state.clear()
        client.state.update({name: array.copy() for name, array in arrays.items()})


def kept(client: Any) -> ArrayRecord:
    """What a client keeps from round to round."""
    return ArrayRecord({name: packed(value) for name, value in getattr(client, "state", {}).items()})
