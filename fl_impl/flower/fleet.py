"""The train stage of a round as messages to the nodes of a Flower grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from fl_impl.clients import ClientUpdate
from fl_impl.flower.decoder import packed, unpacked
from fl_impl.flower.node import CLAIMS, kept, restore
from fl_impl.flower.pulling import pull
from fl_impl.flower.replies import REASON
from fl_impl.rounds.admission import Admitted, Reasons, admit

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fl_impl.training.parameters import Vector

PATIENCE: Final = 120.0
"""Seconds that a round waits for the slowest node, where `client_timeout` is not given."""
JOINING: Final = 180.0
"""Seconds that the first round waits for all nodes to connect."""
TRIES: Final = 3
"""How often a message is sent that a SuperLink takes, but does not get all parts of."""
PAUSE: Final = 0.25
"""Seconds between two looks for replies, at most."""


@dataclass
class Fleet:
    """The nodes of a grid as the train stage of a round: `fleet(trainees, parameters, round_number, ...)`.

    State that clients keep from round to round travels with the messages, so that checkpoints hold it and a node may be
    restarted. A node that let a round time out is asked again, but not waited for until it has answered once.
    """

    grid: Grid
    clients: Sequence[Any]
    seed: int
    poison: Callable[[], str] = lambda: ""
    """The data attack in force, as a spec."""
    broken: Callable[[], str] = lambda: ""
    """Why the engine no longer runs; "" while it does."""
    nodes: dict[int, int] = field(default_factory=dict[int, int])
    """Client -> node."""
    lost: set[int] = field(default_factory=set[int])
    """Clients that let the last round time out."""

    def __call__(
        self,
        trainees: Mapping[int, Any],
        parameters: Vector,
        round_number: int,
        *,
        control: Vector | None = None,
        timeout: float | None = None,
    ) -> Admitted:
        """Everybody's sound update; why the others have none, in 200 characters at most."""
        if not self.nodes:
            self.nodes = self.joined()
        rejected: Reasons = {client: "its node never joined" for client in trainees if client not in self.nodes}
        present = [client for client in trainees if client in self.nodes]
        asked = {client: self.task(client, trainees[client], parameters, round_number, control, timeout) for client in present}
        replies = self.exchange(asked, PATIENCE if timeout is None else timeout)
        self.lost = set(present) - replies.keys()
        answers: dict[int, ClientUpdate] = {}
        for client in present:
            try:
                answers[client] = read(client, trainees[client], replies.get(client), len(parameters), rejected)
            except ValueError as error:
                rejected[client] = str(error)
            except Exception as error:  # noqa: BLE001  # a reply that finds a way around the checks must not end the run
                rejected[client] = f"malformed: {type(error).__name__}: {error}"
        admitted = admit(answers, len(parameters), round_number).noting(rejected)
        return replace(admitted, rejected={client: reason[:REASON] for client, reason in admitted.rejected.items()})

    def joined(self) -> dict[int, int]:
        """Client -> node, of the nodes that say which partition they have; it waits until all are there, up to JOINING."""
        found: dict[int, int] = {}
        known: set[int] = set()
        deadline = time.monotonic() + JOINING
        while len(found) < len(self.clients) and time.monotonic() < deadline:
            fresh = [node for node in self.grid.get_node_ids() if node not in known]
            known.update(fresh)
            asked = {node: self.message(node, RecordDict({"config": ConfigRecord()}), "query", "0") for node in fresh}
            for node, reply in self.exchange(asked, deadline - time.monotonic()).items():
                said = reply.content.config_records.get("config", {}) if reply.has_content() else {}
                partition = said.get("partition-id")
                if isinstance(partition, int) and 0 <= partition < len(self.clients):
                    found.setdefault(partition, node)
            self.check()
            time.sleep(0 if fresh else PAUSE)
        return found

    def check(self) -> None:
        """Raise RuntimeError where the engine no longer runs."""
        reason = self.broken()
        if reason:
            raise RuntimeError(f"Flower's engine stopped: {reason}")

    def task(
        self, client: int, trainee: Any, parameters: Vector, round_number: int, control: Vector | None, timeout: float | None
    ) -> Message:
        """What a client is asked."""
        arrays = {"parameters": packed(parameters)} | ({} if control is None else {"control": packed(control)})
        poison = "" if trainee is self.clients[client] else self.poison()
        told: dict[str, Any] = {"server-round": round_number, "poison": poison, "seed": self.seed, "timeout": timeout or 0.0}
        content = RecordDict({"arrays": ArrayRecord(arrays), "config": ConfigRecord(told), "state": kept(trainee)})
        return self.message(self.nodes[client], content, "train", str(round_number))

    def message(self, node: int, content: RecordDict, kind: str, group: str) -> Message:
        """To a node."""
        return Message(content, dst_node_id=node, message_type=kind, group_id=group)

    def pushed(self, asked: Mapping[int, Message]) -> dict[str, int]:
        """Message id -> whom it is for, of the messages that the grid took; anew where a SuperLink lost track of one."""
        for _ in range(TRIES):
            messages = [
                self.message(one.metadata.dst_node_id, one.content, one.metadata.message_type, one.metadata.group_id)
                for one in asked.values()
            ]
            with suppress(ObjectPushError):
                named = zip(self.grid.push_messages(messages), asked, strict=False)
                return {name: whom for name, whom in named if name}  # no name: Flower could not take the message
        raise RuntimeError(f"Flower's SuperLink lost a message {TRIES} times: is this machine out of time or memory?")

    def exchange(self, asked: Mapping[int, Message], patience: float) -> dict[int, Message]:
        """The replies by whom they were asked of; it waits for all but those that are lost already."""
        ids = self.pushed(asked)
        replies: dict[int, Message] = {}
        deadline, pause = time.monotonic() + patience, PAUSE / 32
        while True:
            for reply in pull(self.grid, [name for name, whom in ids.items() if whom not in replies]):
                whom = ids.get(reply.metadata.reply_to_message_id)
                if whom is not None:
                    replies.setdefault(whom, reply)
            if set(ids.values()) - self.lost <= replies.keys() or time.monotonic() > deadline:
                return replies
            self.check()
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)


def read(client: int, trainee: Any, reply: Message | None, d: int, rejected: Reasons) -> ClientUpdate:
    """The update in a reply. Raises ValueError that says what is wrong with it."""
    if reply is None:
        raise ValueError("timed out: no reply from its node")
    if reply.has_error():
        raise ValueError(str(reply.error.reason)[:REASON])
    content: Any = reply.content
    kinds: dict[str, Any] = {"arrays": ArrayRecord, "metrics": MetricRecord, "state": ArrayRecord}
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    if wrong or set(content["arrays"]) != {"delta"}:
        raise ValueError(f"garbage: expected {', '.join(kinds)} with one array, got {sorted(content)[:5]}")
    row = unpacked(content["arrays"]["delta"], (d,))
    if isinstance(content.get("note"), ConfigRecord) and content["note"].get("note"):
        rejected[client] = str(content["note"]["note"])
    remember(client, trainee, content["state"], d, rejected)
    claims = {name: content["metrics"].get(name) for name in CLAIMS}
    return ClientUpdate(row, **claims)


def remember(client: int, trainee: Any, state: ArrayRecord, d: int, rejected: Reasons) -> None:
    """Keep what a client wants to keep, as (d,) arrays, under names that it was sent or that its class declares.

    Whatever else it sends is dropped with a note: a node must not be able to store things on the server.
    """
    if not hasattr(trainee, "state"):
        return
    known = {*trainee.state, *getattr(trainee, "state_names", ())}
    strange = [name for name in state if name not in known]
    if strange:
        rejected[client] = f"its state {strange[0][:40]!r} is not kept: its class declares it in no state_names"
    restore(trainee, {name: unpacked(state[name], (d,)) for name in state if name in known})
