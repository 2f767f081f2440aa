"""Plans of faults on Flower: a mod for any ClientApp, and a grid in this process whose network is at fault."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message

from fl_impl.clients import ClientUpdate
from fl_impl.faults.clients import Watch
from fl_impl.faults.kinds import Moment, Unreachable
from fl_impl.faults.plan import FaultPlan
from fl_impl.flower.inline import ClientCall, InlineGrid, inline, through_the_wire
from fl_impl.flower.mod import Mod, arrays_of, claim_of, round_of, sent_vector
from fl_impl.flower.records import Schema, form_of
from fl_impl.flower.replies import SUPERLINK

if TYPE_CHECKING:
    from fl_impl.flower.decoder import Numbers

GONE: Final = 5
"""Flower's ErrorCode.NODE_UNAVAILABLE."""


def fault_mod(plan: FaultPlan, *, patience: float = 0.0, weighted_by: str = "num-examples", watch: Watch | None = None) -> Mod:
    """A mod for `ClientApp(mods=[fault_mod(plan)])`: the plan's clients are partition-ids, its rounds `server-round`.

    Its state lives in the process: a stale reply needs a ClientApp whose process stays, as in a simulation or in this
    process. Faults change the floating point arrays and the claimed count; other messages than of training pass.
    """
    memories: dict[int, dict[str, Any]] = {}

    def mod(message: Message, context: Context, call_next: ClientCall) -> Message:
        reply = call_next(message, context)
        if not message.metadata.message_type.startswith("train") or not reply.has_content():
            return reply
        client, number = int(context.node_config["partition-id"]), round_of(message)
        memory = memories.setdefault(client, {})
        opened = Opened.of(message, reply, weighted_by)
        if watch is not None:
            watch(number, client, opened.update)
        try:
            answer = plan.arrives(opened.update, Moment(client, number, patience, memory))
        except Unreachable as error:
            return Message(Error(GONE, str(error)), reply_to=message)
        return opened.closed(answer[0] if isinstance(answer, list) else answer)

    return mod


@dataclass(frozen=True, eq=False)
class Opened:
    """A reply, and the update in it."""

    reply: Message
    key: str
    form: Schema
    arrays: dict[str, Numbers]
    origin: Numbers
    update: ClientUpdate
    weighted_by: str

    @classmethod
    def of(cls, message: Message, reply: Message, weighted_by: str) -> Opened:
        """The update in a reply to a message."""
        key, record = arrays_of(reply.content)
        form = form_of(record)
        arrays, origin = form.read(record), sent_vector(form, message.content)
        _, claimed = claim_of(reply.content, weighted_by)
        update = ClientUpdate(form.vector(arrays, form.floating) - origin, claimed, 0.0)
        return cls(reply, key, form, arrays, origin, update, weighted_by)

    def closed(self, answer: ClientUpdate) -> Message:
        """The reply with another update in it; the very reply where it is the same."""
        if answer.delta is not self.update.delta:
            self.reply.content[self.key] = self.record(answer.delta)
        record, _ = claim_of(self.reply.content, self.weighted_by)
        if record is not None and answer.num_samples != self.update.num_samples:
            record[self.weighted_by] = answer.num_samples
        return self.reply

    def record(self, delta: Any) -> ArrayRecord:
        """The arrays of an update; of too many numbers, or of bytes that are cut, as near to arrays as they come."""
        floating = self.form.floating
        if isinstance(delta, bytes):
            whole = self.form.record(self.arrays)
            last = whole[floating[-1]]
            return ArrayRecord({**whole, floating[-1]: Array(last.dtype, last.shape, last.stype, last.data[:-2])})
        with np.errstate(over="ignore", invalid="ignore"):
            parts = self.form.parted(self.origin + delta[: len(self.origin)], floating)
        record = self.form.record({**self.arrays, **parts})
        if len(delta) > len(self.origin):
            longer = np.append(parts[floating[-1]].ravel(), delta[len(self.origin) :])
            record[floating[-1]] = Array(longer.astype(np.float32))
        return record


@dataclass(eq=False)
class FaultyGrid(InlineGrid):
    """Nodes in this process, and a network that delivers replies twice and answers for nodes that are gone."""

    plan: FaultPlan = field(default_factory=FaultPlan)
    twice: set[str] = field(default_factory=set[str])

    def answer(self, message: Message) -> str:
        """As the grid without faults; the SuperLink answers under its own id where a node is gone."""
        name = super().answer(message)
        reply, place = self.waiting[name], list(self.contexts).index(message.metadata.dst_node_id)
        if reply.has_error() and reply.error.code == GONE:
            reply.metadata.__dict__["_src_node_id"] = SUPERLINK
        if message.metadata.message_type.startswith("train") and "duplicate" in self.plan.names(place, round_of(message)):
            self.twice.add(name)
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages, some of them twice."""
        replies = super().pull_messages(message_ids)
        again = [through_the_wire(reply) for reply in replies if reply.metadata.reply_to_message_id in self.twice]
        return [*replies, *again]


@contextmanager
def faulty_grid(
    client_app: ClientCall,
    nodes: int,
    plan: FaultPlan,
    *,
    watch: Watch | None = None,
    heard: Callable[[Message, Message], None] | None = None,
    run_config: dict[str, Any] | None = None,
) -> Generator[FaultyGrid]:
    """`fl_impl.flower.inline.inline` with a plan: nodes in this process, struck by `fault_mod` and by their network."""
    mod = fault_mod(plan, watch=watch)

    def call(message: Message, context: Context) -> Message:
        return mod(message, context, client_app)

    with inline(call, nodes, run_config=run_config, heard=heard) as grid:
        yield FaultyGrid(grid.client_app, grid.contexts, heard=grid.heard, plan=plan)
