"""`byzantine_mod`: a Flower client mod that makes clients of any app Byzantine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from logging import INFO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.supercore import log

from fl_impl.aggregators import resolve as resolve_rule
from fl_impl.attacks import resolve
from fl_impl.clients import ClientUpdate
from fl_impl.common.counts import floor_of
from fl_impl.common.randomness import generator
from fl_impl.flower.decoder import packed, unpacked
from fl_impl.flower.records import Floats, Schema, form_of

if TYPE_CHECKING:
    from fl_impl.attacks import Attack

ClientCall = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, ClientCall], Message]
MEMORY: Final = "pytest-fl.memory"
"""Where in `context.state` an attacker keeps what it remembers."""
PAST: Final = 10
"""How many of its own updates an attacker keeps, to stand for the honest ones that it cannot see."""
REFUSED: Final = 6
"""Flower's ErrorCode.MOD_FAILED_PRECONDITION: the reply of a client that keeps silent."""


def byzantine_mod(
    attack: Any,
    fraction: float | None = None,
    *,
    clients: Collection[int] | None = None,
    rounds: range | Collection[int] | None = None,
    aggregator: Any = None,
    weighted_by: str = "num-examples",
    seed: int = 0,
) -> Mod:
    """A mod for `ClientApp(mods=[byzantine_mod("sign_flip", 0.2)])`: floor(fraction n) of n clients attack.

    attack: a spec such as "sign_flip", an Attack, or a function (honest, f, rng). clients: the partition-ids of those who
    attack, instead of a fraction. A fraction needs `partition-id` and `num-partitions` in the node's config, as Flower's
    simulation sets them; a node without them attacks with that probability, drawn from its node id. rounds: the rounds
    with an attack (`server-round` of the message), all where None. aggregator: the rule that the attacker knows.

    A client sees its own update only. Attacks that are blind or use the attacker's own update run as published; one that
    knows every honest update is told, in their place, the attacker's own honest updates of this and up to 9 earlier
    rounds, as estimates of their mean and spread: weaker than the omniscient attacker, above all in its first round.
    `mod.knowledge` says so, and Flower's log does. Attacks on data raise ValueError: poison them where the app loads
    them, with `attack.poison(data, rng)`.
    """
    return Saboteur(
        chosen_attack(attack),
        None if fraction is None else checked_fraction(fraction),
        None if clients is None else frozenset(clients),
        None if rounds is None else frozenset(rounds),
        None if aggregator is None else resolve_rule(aggregator),
        weighted_by,
        seed,
    )


def chosen_attack(attack: Any) -> Attack:
    """The attack. Raises ValueError for one that must reach the client's data."""
    found = resolve(attack)
    if found.stages("data"):
        raise ValueError(
            f"{found.spec} poisons data, which a Flower mod cannot reach: where the app loads them, write "
            "fl_impl.attacks.resolve(...).poison(Dataset(x, y), rng), or choose an attack on updates"
        )
    return found


def checked_fraction(fraction: float) -> float:
    """It, between 0 and 1. Raises ValueError."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is the share of the clients that attacks, from 0 to 1; got {fraction}")
    return fraction


@dataclass(frozen=True)
class Saboteur:
    """The mod: called by Flower with (message, context, the rest of the app)."""

    attack: Attack
    fraction: float | None
    clients: frozenset[int] | None
    rounds: frozenset[int] | None
    rule: Any
    weighted_by: str
    seed: int

    def __post_init__(self) -> None:
        """Raise ValueError unless there is exactly one of fraction and clients."""
        if (self.fraction is None) == (self.clients is None):
            raise ValueError("say who attacks by one of: a fraction, byzantine_mod(attack, 0.2), or clients={0, 3}")
        log(INFO, "%s", self.knowledge)

    @property
    def knowledge(self) -> str:
        """What the attack would know, and what it is told instead."""
        name, wanted = self.attack.spec, self.attack.knowledge
        if wanted in ("blind", "own"):
            return f"{name} needs nothing but the attacker's own update: it runs as published"
        missing = " and the aggregator (give aggregator=...)" if wanted == "aggregator" and self.rule is None else ""
        return (
            f"{name} needs every honest update{missing}, which a client cannot see: the attacker's own honest updates of "
            f"this and up to {PAST - 1} earlier rounds stand for them"
        )

    def __call__(self, message: Message, context: Context, call_next: ClientCall) -> Message:
        """The app's reply, or what the attacker makes of it."""
        reply = call_next(message, context)
        if not message.metadata.message_type.startswith("train") or not reply.has_content():
            return reply
        place = self.place(context)
        number = round_of(message)
        if place is None or (self.rounds is not None and number not in self.rounds):
            return reply
        return self.sabotaged(message, reply, context, place, number)

    def place(self, context: Context) -> tuple[int, int] | None:
        """(which of the attackers this client is, how many there are); None for an honest one."""
        partition, population = (context.node_config.get(name) for name in ("partition-id", "num-partitions"))
        if self.clients is not None:
            attackers = sorted(self.clients)
            if not isinstance(partition, int):
                raise ValueError(f'clients={attackers} are partition-ids, but this node has no "partition-id": give a fraction')
            return (attackers.index(partition), len(attackers)) if partition in self.clients else None
        fraction = self.fraction or 0.0
        if isinstance(partition, int) and isinstance(population, int):
            attackers = byzantine_clients(fraction, population, self.seed)
            return (attackers.index(partition), len(attackers)) if partition in attackers else None
        drawn = hashlib.sha256(f"{self.seed}/{context.node_id}".encode()).digest()
        return (0, 1) if int.from_bytes(drawn[:8], "big") < fraction * 2**64 else None

    def sabotaged(self, message: Message, reply: Message, context: Context, place: tuple[int, int], number: int) -> Message:
        """The reply with the attacker's arrays and claims; integers and bool stay those that it trained."""
        key, arrays = arrays_of(reply.content)
        form = form_of(arrays)
        trained = form.read(arrays)
        if not form.floating:
            raise ValueError("byzantine_mod changes floating point numbers, and the arrays of this app's clients hold none")
        origin = sent_vector(form, message.content)
        own = form.vector(trained, form.floating) - origin
        memory = recalled(context)
        crafted = self.crafted(own, memory, place, number)
        claimed_in, claimed = claim_of(reply.content, self.weighted_by)
        rng = generator(self.seed, "strike", number, place[0])
        update = self.attack.tamper(ClientUpdate(crafted, claimed, 0.0, client=place[0]), rng, memory=memory)
        remember(context, memory)
        if update is None:
            return Message(Error(REFUSED, "it sends nothing"), reply_to=message)
        with np.errstate(over="ignore", invalid="ignore"):
            trained |= form.parted(origin + update.delta, form.floating)
        reply.content[key] = form.record(trained)
        if claimed_in is not None:
            claimed_in[self.weighted_by] = update.num_samples
        return reply

    def crafted(self, own: Floats, memory: dict[str, Any], place: tuple[int, int], number: int) -> Floats:
        """(d,): this attacker's row of what f attackers send; they share their random numbers, and nothing else."""
        index, f = place
        if not self.attack.stages("update"):
            return own
        past = memory.get("own", own[None, :0].reshape(0, len(own)))
        seen = np.concatenate([past, own[None]])[-PAST:]
        memory["own"] = seen
        told: dict[str, Any] = {"own": np.repeat(own[None], f, axis=0), "memory": memory, "ids": np.arange(len(seen))}
        if self.rule is not None:
            told["aggregate"] = lambda updates: self.rule(updates, f=min(f, (len(updates) - 1) // 2))
        return np.asarray(self.attack.craft(seen, f, generator(self.seed, "strike", number), **told))[index]


def byzantine_clients(fraction: float, population: int, seed: int) -> list[int]:
    """Who attacks: floor(fraction n) of n, the same ones as `FLConfig(attack_fraction=fraction)` draws."""
    drawn = generator(seed, "attackers").permutation(population)
    return sorted(drawn[: floor_of(fraction, population)].tolist())


def round_of(message: Message) -> int:
    """`server-round` of a message's config; 0 where it has none."""
    found = [record["server-round"] for record in message.content.config_records.values() if "server-round" in record]
    return found[0] if found and isinstance(found[0], int) else 0


def arrays_of(content: RecordDict) -> tuple[str, ArrayRecord]:
    """The model in a message. Raises ValueError where there is not exactly one."""
    records = list(content.array_records.items())
    if len(records) != 1:
        raise ValueError(f"byzantine_mod expects one ArrayRecord in a train message, got {[name for name, _ in records]}")
    return records[0]


def sent_vector(form: Schema, content: RecordDict) -> Floats:
    """(d,): the global model that the message brought; 0 where its arrays are others than the reply's."""
    try:
        return form.vector(form.read(arrays_of(content)[1]), form.floating)
    except ValueError:
        return np.zeros(form.d, form.dtype(form.floating))


def claim_of(content: RecordDict, key: str) -> tuple[MetricRecord | None, int]:
    """The record that claims a number of samples, and the number."""
    for record in content.metric_records.values():
        value = record.get(key)
        if isinstance(value, int):
            return record, value
    return None, 1


def recalled(context: Context) -> dict[str, Any]:
    """What the attacker kept."""
    record = context.state.array_records.get(MEMORY, ArrayRecord())
    return {name: unpacked(array) for name, array in record.items()}


def remember(context: Context, memory: dict[str, Any]) -> None:
    """Keep arrays for the next round."""
    context.state[MEMORY] = ArrayRecord({name: packed(value) for name, value in memory.items() if np.size(value)})
