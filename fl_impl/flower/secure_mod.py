"""`secure_mod`: a Flower client mod that lets the update of a client out only as one summand of a secure sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from logging import WARNING
from typing import Any, Final, cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.supercore import log

from fl_impl.flower.replies import metrics_of
from fl_impl.flower.secure_members import Member, read_member
from fl_impl.flower.secure_messages import ASKED, CARRIED, about, carried, carrying, summed_model
from fl_impl.privacy.secure_aggregation import Client, SecureAggregationError
from fl_impl.privacy.secure_aggregation.client import STAGES
from fl_impl.privacy.secure_aggregation.options import clipped, weighted_row

ClientCall = Callable[[Message, Context], Message]
MEMORY: Final = "pytest-fl.secure-sum"
"""Where in `context.state` a node keeps its secrets of the session that it is in. The state never leaves the node."""
REFUSED: Final = 6
"""Flower's ErrorCode.MOD_FAILED_PRECONDITION."""


def secure_mod(folder: str = "{secure-folder}", *, metrics: Iterable[str] = (), weighted_by: str = "num-examples") -> SecureMod:
    """A mod for `ClientApp(mods=[secure_mod()])`: what the app trains leaves the node masked, in sums of many.

    folder: the node's own, with its identity, the public keys of the others, and what it insists on (`least.json`), as
    `make_federation` writes them; names in braces are those of the node's config, here of `flower-supernode --node-config
    'secure-folder="/etc/federation"'`. metrics: names that may leave in plain; all others stay, as a loss tells of data.

    The terms that the server offers are taken where they are no worse than `least.json`. The update, the trained floating
    point arrays minus those that came, is clipped to the bound of the terms in length, rounded at random, given its part of
    the noise, and masked. A message to train outside a session is refused. Everybody must have been sent the same model and
    config: masks do not cancel otherwise. Who may lie, and what then holds, is in the docstring of
    `fl_impl.privacy.secure_aggregation.Client`. What the app answers to other messages, and the app's code where the server
    supplies that, is not watched. Each stage of a session is answered once, also by processes that start at the same time.
    """
    return SecureMod(folder, frozenset(metrics), weighted_by)


@dataclass(frozen=True)
class SecureMod:
    """The mod: called by Flower with (message, context, the rest of the app)."""

    folder: str
    metrics: frozenset[str]
    weighted_by: str

    def __call__(self, message: Message, context: Context, call_next: ClientCall) -> Message:
        """The protocol's next message; an error in place of what would break it."""
        if not message.has_content() or ASKED not in message.content:
            if message.metadata.message_type.startswith("train"):
                return refusal(message, "this client trains for secure sums only: SecureStrategy asks for them")
            return call_next(message, context)
        try:
            return self.answer(message, context, call_next)
        except SecureAggregationError as error:
            reason = str(error)
        except ValueError as error:
            log(WARNING, "the update of this client is not sent: %s", error)
            reason = "its update cannot be summed"  # why would tell of the update
        forget(context)
        return refusal(message, reason)

    def answer(self, message: Message, context: Context, call_next: ClientCall) -> Message:
        """The reply to one message of the protocol."""
        member = member_of(self.folder, context)
        asked, body = carried(message.content)
        stage, more = str(asked.get("stage")), RecordDict()
        client, act = entered(member, stage, context)
        if stage == "mask":
            update, digest, more = self.trained(message, context, call_next, client)
            sent = client.mask(body, update, digest)
        else:
            sent = act(body)
        if stage == "advertise":
            member.begin(client.terms.session)
        forget(context)
        if stage != STAGES[-2]:
            context.state[MEMORY] = ConfigRecord({"client": client.saved()})
        reply = carrying(sent, number=member.number)
        reply.update(more)
        return Message(reply, reply_to=message)

    def trained(
        self, message: Message, context: Context, call_next: ClientCall, client: Client
    ) -> tuple[Any, bytes, RecordDict]:
        """(what is to be masked, a digest of what it was made from, what else may be sent) after the app has trained."""
        content = message.content
        digest, asked = about(content), cast("dict[str, Any]", content[ASKED])
        exclude, most = asked.get("exclude", []), asked.get("most", 0.0)
        for name in (ASKED, CARRIED):
            del content[name]
        name, arrays = only_arrays(content)
        model = summed_model(arrays, exclude)
        reply = call_next(message, context)
        update, _ = model.update(reply, name if name in reply.content else only_arrays(reply.content)[0])
        row = clipped(update, client.terms)
        if most:
            row = weighted_row(row, metrics_of(reply.content).get(self.weighted_by, -1.0), client.terms, most)
        shown: dict[str, Any] = {key: value for key, value in metrics_of(reply.content).items() if key in self.metrics}
        return row, digest, RecordDict({"metrics": MetricRecord(shown)} if shown else {})


def entered(member: Member, stage: str, context: Context) -> tuple[Client, Callable[[bytes], bytes]]:
    """(the client at a stage of its session, what it does there). Raises SecureAggregationError where it is not there."""
    known = member.number, member.identity, member.server, member.clients
    if stage == "advertise":
        client = Client(*known, least=member.least)
    elif stage in STAGES[1:-1] and MEMORY in context.state:
        kept: Any = context.state[MEMORY]
        client = Client.resumed(kept["client"], *known)
        member.turn(client.terms.session, stage)
    else:
        raise SecureAggregationError(f"this client is in no session in which it could {stage[:20]}")
    return client, getattr(client, stage)


def member_of(folder: str, context: Context) -> Member:
    """The member whose node this is. Raises SecureAggregationError where the folder is not as it should be."""
    try:
        return read_member(folder.format_map(context.node_config))
    except KeyError as error:
        raise SecureAggregationError(f"the node's config has no {error}, which its folder is named after: {folder}") from error
    except ValueError as error:
        raise SecureAggregationError(str(error)) from error


def only_arrays(content: RecordDict) -> tuple[str, ArrayRecord]:
    """The model in a message. Raises ValueError where there is not exactly one."""
    records = list(content.array_records.items())
    if len(records) != 1:
        raise ValueError(f"expected one ArrayRecord, of the model; got {[name for name, _ in records]}")
    return records[0]


def forget(context: Context) -> None:
    """Drop the secrets of a session."""
    with suppress(KeyError):
        del context.state[MEMORY]


def refusal(message: Message, reason: str) -> Message:
    """An error in place of a reply."""
    return Message(Error(REFUSED, reason), reply_to=message)
