"""A session in one process: server and clients, and the network between them, where a test can stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness
from fl_impl.privacy.secure_aggregation.client import Client
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError
from fl_impl.privacy.secure_aggregation.server import SecureSum, Server
from fl_impl.privacy.secure_aggregation.terms import Least, Terms

Network: TypeAlias = Callable[[str, int, bytes], bytes | None]
"""(stage, client, message from it) -> the message that arrives, or None where it is lost."""


def honest_network(stage: str, client: int, message: bytes) -> bytes:
    """Everything arrives as it was sent."""
    del stage, client
    return message


def secure_sum(
    updates: Mapping[int, Any],
    terms: Terms,
    *,
    network: Network = honest_network,
    randomness: Randomness = OPERATING_SYSTEM,
    server_class: type[Server] = Server,
    client_class: type[Client] = Client,
) -> SecureSum:
    """sum_i x_i of the (length,) updates of the clients that stay, by a session of secure aggregation on `terms`.

    Client numbers are the keys of updates; identities are made for the session. Each update is rounded at random to the grid
    of `terms.encoding`, up or down by less than a step and right on average; their sum is exact. Raises
    SecureAggregationError where too few stay, ValueError for an update that is not finite or is beyond the bound. A test may
    put in a server and clients of its own.
    """
    secret = {number: Ed25519PrivateKey.generate() for number in updates}
    public = {number: key.public_key() for number, key in secret.items()}
    server_identity = Ed25519PrivateKey.generate()
    server = server_class(terms, server_identity, public)
    clients = {
        number: client_class(
            number, secret[number], server_identity.public_key(), public, least=Least.of(terms), randomness=randomness
        )
        for number in updates
    }

    sizes = list[int]()

    def sent(stage: str, messages: Mapping[int, bytes], step: Callable[[int, bytes], bytes]) -> dict[int, bytes]:
        replies = dict[int, bytes]()
        for number, message in messages.items():
            with suppress(SecureAggregationError):  # a client that refuses says nothing more, and has dropped out
                replies[number] = step(number, message)
        sizes.extend(map(len, replies.values()))
        arrived = {number: network(stage, number, reply) for number, reply in replies.items()}
        return {number: message for number, message in arrived.items() if message is not None}

    opening = server.open()
    advertised = sent("advertise", dict.fromkeys(clients, opening), lambda i, m: clients[i].advertise(m))
    shared = sent("share", server.roster(advertised), lambda i, m: clients[i].share(m))
    confirmed = sent("confirm", server.inboxes(shared), lambda i, m: clients[i].confirm(m))
    masked = sent("mask", server.sharers(confirmed), lambda i, m: clients[i].mask(m, updates[i]))
    agreed = sent("agree", server.survivors(masked), lambda i, m: clients[i].agree(m))
    summed = server.total(sent("reveal", server.quorum(agreed), lambda i, m: clients[i].reveal(m)))
    return replace(summed, bytes_up=sum(sizes))
