"""A grid in this process: the ClientApp is called where it stands, on messages that went through Flower's wire format."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

ClientCall = Callable[[Message, Context], Message]
RAISED: Final = 2
"""Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION."""
RUN: Final = 1
"""The id of the one run of a process that has no SuperLink."""


@dataclass(eq=False)
class InlineGrid(Grid):  # pyright: ignore[reportUntypedBaseClass]  # unknown only where flwr is not installed
    """n nodes without a process: what they answer is there as soon as they are asked. The same nodes in every run."""

    client_app: ClientCall
    contexts: dict[int, Context]
    waiting: dict[str, Message] = field(default_factory=dict[str, Message])
    """Replies that nobody pulled yet, by the id of the message that they answer."""
    heard: Callable[[Message, Message], None] = lambda *_: None
    """Told of each message and its reply."""

    def set_run(self, run: Run) -> None:
        """Nothing: there is one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(run_id=RUN)

    def get_node_ids(self) -> list[int]:
        """The nodes by partition."""
        return list(self.contexts)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message, as Flower's deprecated method makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have the nodes answer, one after another."""
        return [self.answer(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages."""
        return [self.waiting.pop(asked) for asked in message_ids if asked in self.waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The replies to these messages."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def answer(self, message: Message) -> str:
        """The id of a message, after its node's reply was put into `waiting`."""
        sent = through_the_wire(message)
        message.metadata.__dict__["_message_id"] = sent.metadata.message_id  # as Flower's grids do when they push
        try:
            reply = through_the_wire(self.client_app(sent, self.contexts[message.metadata.dst_node_id]))
        except Exception as error:  # noqa: BLE001  # as Flower does: whatever a ClientApp raises is its reply
            reply = through_the_wire(Message(Error(RAISED, f"{type(error)}:<'{error}'>"), reply_to=sent))
        self.heard(message, reply)
        self.waiting[sent.metadata.message_id] = reply
        return sent.metadata.message_id


def through_the_wire(message: Message) -> Message:
    """The message as it is read from the bytes that Flower sends, under the id that follows from its content."""
    objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    read: Any = inflate_object_from_contents(message.object_id, objects)
    read.metadata.__dict__["_message_id"] = message.object_id
    return read


@contextmanager
def inline(
    client_app: ClientCall,
    nodes: int,
    *,
    run_config: dict[str, Any] | None = None,
    heard: Callable[[Message, Message], None] | None = None,
) -> Generator[InlineGrid]:
    """A grid of so many nodes, with Flower's node config of a simulation: partition-id and num-partitions."""
    contexts = {node_id(i): node_context(i, nodes, run_config or {}) for i in range(nodes)}
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, 1  # a message is signed with these
    try:
        yield InlineGrid(client_app, contexts, heard=heard or (lambda *_: None))
    finally:
        for name in names:
            setattr(TaskIdentity, name, before[name])


def node_id(partition: int) -> int:
    """An id like those of Flower, which are no partition numbers."""
    return zlib.crc32(f"node {partition}".encode()) + 2**32 * (partition + 1)


def node_context(partition: int, nodes: int, run_config: dict[str, Any]) -> Context:
    """What a node is told of itself."""
    config: dict[str, Any] = {"partition-id": partition, "num-partitions": nodes}
    return Context(RUN, node_id(partition), config, RecordDict(), dict(run_config))
