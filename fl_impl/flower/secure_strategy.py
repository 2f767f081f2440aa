"""`SecureStrategy`: FedAvg whose server learns sums of updates alone, from nodes that run `secure_mod`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from flwr.supercore import log

from fl_impl.flower.pulling import Patient
from fl_impl.flower.replies import REASON, Model, medians, owners
from fl_impl.flower.secure_members import Member, read_member
from fl_impl.flower.secure_messages import ASKED, about, carried, carrying, summed_model
from fl_impl.flower.strategy import patterns
from fl_impl.privacy.ledger import Ledger
from fl_impl.privacy.protection import SECURE_BOUND, Protection, protect
from fl_impl.privacy.secure_aggregation import SecureAggregationError, SecureSum, Server, Terms
from fl_impl.privacy.secure_aggregation.messages import read_advertisement
from fl_impl.privacy.secure_aggregation.options import weighted_mean

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(eq=False)
class SecureRound:
    """A round's session: its server, and the node of each client that took part."""

    server: Server
    model: Model
    number: int
    nodes: dict[int, int] = field(default_factory=dict[int, int])
    """Client -> node."""
    asked: list[Message] = field(default_factory=list[Message])
    """The messages whose replies come next."""


class SecureStrategy(FedAvg):  # pyright: ignore[reportUntypedBaseClass]  # unknown only where flwr is not installed
    """FedAvg over secure sums: new = global + (sum_i clip(x_i - global)) / n, where the server learns the sum alone.

    folder: the server's own, as `make_federation` writes it: its identity and the public keys of all clients, each of which
    runs `secure_mod`. All are asked in every round. corrupt: how many of them may side with the server, a tenth where None;
    then up to a quarter may leave at any time (`Terms.agreed`). Where more do, the round leaves the model as it is, and
    `failed[round]` says why. clip_bound: the length to which a client clips its update.

    most_examples: the mean is weighted by each client's number of examples, at most that, which is masked too.
    noise_multiplier: clients together add noise of that many clip bounds to the sum. Or epsilon, delta and num_rounds: the
    noise for as many rounds of (epsilon, delta) differential privacy of a client, entered into a ledger before each; a round
    beyond raises PrivacyBudgetError. With noise the divisor is the number of all clients. exclude: patterns of arrays that
    stay as they are; arrays of integers do in any case. stage_timeout: seconds to wait for each of the five exchanges
    beside the one in which clients train. keywords: those of `flwr.serverapp.strategy.FedAvg`.

    `sums[round]` names those in the sum and those that lied, `rejected[round]` gives each node's reason.
    Raises ValueError for what does not go together.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        clip_bound: float | None = None,
        corrupt: int | None = None,
        most_examples: float | None = None,
        noise_multiplier: float = 0.0,
        epsilon: float | None = None,
        delta: float | None = None,
        num_rounds: int | None = None,
        ledger: Ledger | None = None,
        exclude: Iterable[str] = (),
        stage_timeout: float = 600.0,
        **keywords: Any,
    ) -> None:
        self.member: Member = read_member(folder)
        self.clients = len(self.member.clients)
        self.protection = budgeted(self.clients, clip_bound, epsilon, delta, num_rounds, noise_multiplier)
        self.clip_bound = self.protection.clip_bound if self.protection else SECURE_BOUND if clip_bound is None else clip_bound
        if self.protection is not None and self.protection.mechanism is not None:
            noise_multiplier = self.protection.mechanism.noise_multiplier
        if noise_multiplier and most_examples is not None:
            raise ValueError("noise covers an unweighted sum: give most_examples or noise, not both")
        self.most_examples = 0.0 if most_examples is None else float(most_examples)
        self.terms = Terms.agreed(
            clients=self.clients, length=1, bound=self.clip_bound, noise_std=noise_multiplier * self.clip_bound, corrupt=corrupt
        )
        given: dict[str, Any] = {
            "min_available_nodes": self.terms.minimum, "train_metrics_aggr_fn": medians, "evaluate_metrics_aggr_fn": medians,
            **keywords,
        }  # fmt: skip
        super().__init__(**given)
        if self.fraction_train != 1.0:
            raise ValueError(f"all clients of a secure sum are asked in every round; got fraction_train={self.fraction_train}")
        self.exclude, self.stage_timeout = patterns("exclude", exclude), stage_timeout
        self.ledger = Ledger() if ledger is None else ledger
        self.sums: dict[int, SecureSum] = {}
        self.failed: dict[int, str] = {}
        """Round -> why it summed nothing."""
        self.rejected: dict[int, dict[int, str]] = {}
        """Round -> node -> why its message was not used."""
        self._run = self.ledger.next_run()
        self._grid: Grid | None = None
        self._session: SecureRound | None = None

    def start(self, grid: Grid, *arguments: Any, **keywords: Any) -> Result:
        """As every strategy of Flower, by a grid on which a malformed reply costs nobody but its sender."""
        return super().start(Patient(grid), *arguments, **keywords)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """As FedAvg, after clients have exchanged keys and shares; nothing where too few of them did.

        Raises ValueError for arrays that are not plain numbers, PrivacyBudgetError for a round beyond the budget.
        """
        self._grid, self._session = grid, None
        self.rejected[server_round] = {}
        if self.protection is not None:
            self.protection.authorize(server_round, self.ledger, self._run)
        model = summed_model(arrays, self.exclude)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        nodes = [message.metadata.dst_node_id for message in messages]
        plain = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        try:
            self._session = self._begun(server_round, model, plain, nodes)
        except SecureAggregationError as error:
            self._fail(server_round, error)
            return []
        return self._session.asked

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """(the new arrays, medians of the metrics that clients show) of a session that ends well; else (None, None)."""
        session, given = self._session, list(replies)
        if session is None:
            return None, None
        try:
            summed = self._ended(session, self._read(session, given))
        except SecureAggregationError as error:
            self._fail(server_round, error)
            return None, None
        self.sums[server_round] = summed
        contents = [reply.content for reply in given if reply.has_content() and reply.content.metric_records]
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key) if contents else MetricRecord()
        return session.model.moved(self._mean(summed, session.server.terms), []), metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As FedAvg, over the replies that carry metrics; a malformed one is passed over."""
        del server_round
        contents = [reply.content for reply in replies if reply.has_content() and reply.content.metric_records]
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None

    def _begun(self, number: int, model: Model, plain: RecordDict, nodes: list[int]) -> SecureRound:
        """The session after three exchanges, with the messages upon which clients train and mask."""
        extra: dict[str, Any] = {"exclude": list(self.exclude), "most": self.most_examples}
        told = RecordDict({**plain, ASKED: ConfigRecord(extra)})
        length = len(model.origin) + bool(self.most_examples)
        agreed = self.terms
        terms = Terms(agreed.clients, length, agreed.bound, agreed.dropouts, agreed.corrupt, agreed.noise_std)
        session = SecureRound(Server(terms, self.member.identity, self.member.clients, about(told)), model, number)
        opening = session.server.open()
        asked = [message_to(node, carrying(opening, stage="advertise"), number) for node in nodes]
        roster = session.server.roster(self._met(session, asked))
        inboxes = session.server.inboxes(self._exchanged(session, "share", roster))
        sharers = session.server.sharers(self._exchanged(session, "confirm", inboxes))
        for client, message in sharers.items():
            content = RecordDict({**plain, **carrying(message, stage="mask", **extra)})
            session.asked.append(message_to(session.nodes[client], content, number))
        return session

    def _ended(self, session: SecureRound, masked: Mapping[int, bytes]) -> SecureSum:
        """The sum, after two exchanges more: entered into the ledger before it is read."""
        quorum = session.server.quorum(self._exchanged(session, "agree", session.server.survivors(masked)))
        if self.protection is not None:
            self.protection.enter(session.number, self.ledger, self._run)
        try:
            return session.server.total(self._exchanged(session, "reveal", quorum))
        finally:
            nodes, lost = session.nodes, self.rejected[session.number]
            lost |= {nodes[client]: reason[:REASON] for client, reason in session.server.refused.items() if client in nodes}

    def _mean(self, summed: SecureSum, terms: Terms) -> npt.NDArray[np.float64]:
        if self.most_examples:
            return weighted_mean(summed.total, terms)
        return summed.total / (self.clients if terms.noise_std else len(summed.survivors))

    def _met(self, session: SecureRound, asked: list[Message]) -> dict[int, bytes]:
        """The advertisements of clients, each with the node that it came from: its signature says whose it is."""
        found = dict[int, bytes]()
        for node, reply in owners(self._answers(asked), asked):
            try:
                said, message = self._content(reply)
                client: Any = said.get("number")
                if client not in self.member.clients or client in found:
                    raise SecureAggregationError("it says the number of no client, or of one that has spoken")  # noqa: TRY301  # as below
                read_advertisement(session.server.terms, self.member.clients[client], client, message)
            except SecureAggregationError as error:
                self.rejected[session.number][node] = str(error)[:REASON]
            else:
                found[client], session.nodes[client] = message, node
        return found

    def _exchanged(self, session: SecureRound, stage: str, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """What clients answer to these messages."""
        session.asked = [
            message_to(session.nodes[client], carrying(message, stage=stage), session.number)
            for client, message in messages.items()
        ]
        answers = self._read(session, self._answers(session.asked))
        session.asked = []
        return answers

    def _answers(self, asked: list[Message]) -> list[Message]:
        assert self._grid is not None  # for the type checker: configure_train has it
        return list(self._grid.send_and_receive(asked, timeout=self.stage_timeout))

    def _read(self, session: SecureRound, replies: Iterable[Message]) -> dict[int, bytes]:
        """The protocol's messages by client: a reply is that of the node that was asked, whatever it says of itself."""
        clients, found = {node: client for client, node in session.nodes.items()}, dict[int, bytes]()
        lost = self.rejected[session.number]
        for node, reply in owners(replies, session.asked):
            try:
                found[clients[node]] = self._content(reply)[1]
            except (SecureAggregationError, KeyError) as error:
                lost[node] = str(error)[:REASON]
        lost |= {
            node: "no reply"
            for node in (message.metadata.dst_node_id for message in session.asked)
            if clients[node] not in found and node not in lost
        }
        return found

    def _content(self, reply: Message) -> tuple[ConfigRecord, bytes]:
        if reply.has_error():
            raise SecureAggregationError(f"error {reply.error.code}: {str(reply.error.reason)[:REASON]}")
        return carried(reply.content)

    def _fail(self, number: int, error: SecureAggregationError) -> None:
        self.failed[number] = str(error)
        self._session = None
        log(WARNING, "round %s: no secure sum, the model stays: %s", number, error)


def message_to(node: int, content: RecordDict, number: int) -> Message:
    """A message of a round to a node."""
    return Message(content, dst_node_id=node, message_type=MessageType.TRAIN, group_id=str(number))


def budgeted(
    clients: int, clip_bound: float | None, epsilon: float | None, delta: float | None, rounds: int | None, multiplier: float
) -> Protection | None:
    """The noise and the budget of a private run, None of one without. Raises ValueError for half a budget."""
    if (epsilon, delta, rounds) == (None, None, None):
        return None
    if epsilon is None or delta is None or rounds is None or multiplier:
        raise ValueError(
            "a budget is epsilon, delta and num_rounds, without noise_multiplier; got "
            f"{epsilon}, {delta}, {rounds} and {multiplier}"
        )
    return protect(rounds=rounds, clients=clients, epsilon=epsilon, delta=delta, clip_bound=clip_bound, secure=True)
