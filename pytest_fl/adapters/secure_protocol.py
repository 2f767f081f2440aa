"""`fl_impl.privacy.secure_aggregation` as a subject, with clients and a server of one's own where these are to be judged."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.privacy.secure_aggregation import Client, Server, Terms, secure_sum
from fl_impl.privacy.secure_aggregation.graph import holders
from fl_impl.privacy.secure_aggregation.masks import add_mask
from pytest_fl.adapters.hostile_clients import SABOTAGE, dishonest_terms, sabotaged
from pytest_fl.adapters.secure_plots import Offer, plots
from pytest_fl.adapters.secure_sums import STAGES, LyingServer, Plotted
from pytest_fl.subjects.parts import Network, SecureAggregation, Tally, Updates

if TYPE_CHECKING:
    import numpy.typing as npt

Graph = Mapping[int, frozenset[int]]
"""Client -> who holds shares of it."""


def agreed_terms(n: int, d: int = 1) -> Terms:
    """The terms under which the protocol is judged: a quarter may leave, a tenth be corrupt, the bound is 1."""
    return Terms.agreed(clients=n, length=d, bound=1.0)


def protocol(
    name: str = "fl_impl secure aggregation",
    *,
    client: type[Client] = Client,
    server: type[Server] = Server,
    terms: Callable[[int, int], Terms] = agreed_terms,
    graph: Callable[[int, int, np.random.Generator], Graph] | None = None,
) -> SecureAggregation:
    """The protocol with these clients, this server, these terms, and this draw of holders (n, degree, generator)."""
    draw = drawn if graph is None else graph

    def run(updates: Updates, network: Network) -> Any:
        offered = terms(*updates.shape)
        return secure_sum(dict(enumerate(updates)), offered, network=network, client_class=client, server_class=server).total

    def spoilt(updates: Updates, liars: Mapping[int, str], rng: np.random.Generator) -> Tally:
        return sabotaged(updates, liars, rng, terms=terms(*updates.shape), server_class=server)

    return SecureAggregation(
        name,
        run,
        stages=STAGES,
        masked="mask",
        minimum=lambda n: terms(n, 1).minimum,
        step=lambda n: terms(n, 1).encoding.step,
        mask=_mask,
        masked_words=lambda updates: masked_words(client, terms(*updates.shape), updates),
        partners=lambda n: terms(n, 1).corrupt,
        plots=plots(Offer(terms, client)),
        exposure=lambda n, rng: exposure(terms(n, 1), draw(n, terms(n, 1).degree, rng), rng),
        severed=lambda n, rng: severed(terms(n, 1), draw(n, terms(n, 1).degree, rng), rng),
        noise=noise,
        dishonest_terms=dishonest_terms(client),
        sabotaged=spoilt,
        sabotage=tuple(SABOTAGE),
    )


def _mask(seed: bytes, d: int, modulus: int) -> npt.NDArray[Any]:
    del modulus
    words = np.zeros(d, np.uint32)
    add_mask(words, seed)
    return words


def masked_words(client: type[Client], terms: Terms, updates: Updates) -> npt.NDArray[np.uint32]:
    """What a curious server unseals of the masked messages of a session."""
    session = Plotted(terms, updates, client)
    session.take_words(session.send("mask", session.until_masks()))
    return np.stack([session.words[i] for i in range(len(updates))])


def noise(n: int, d: int, deviation: float) -> Updates:
    """What each of the fewest clients that stay adds to its update."""
    terms = Terms.agreed(clients=n, length=d, bound=1.0, noise_std=deviation)
    quiet = Plotted(terms, np.zeros((n, d)))
    shares = [quiet.clients[i]._encoded_noise(terms) for i in range(terms.minimum)]  # noqa: SLF001  # what it adds
    return np.stack([terms.encoding.decode(share) for share in shares])


def drawn(n: int, degree: int, rng: np.random.Generator) -> Graph:
    """Who holds whose shares, as clients draw them: from all that are registered."""
    del rng
    return {i: frozenset(holders(i, range(n), degree, os.urandom(32))) for i in range(n)}


def exposure(terms: Terms, graph: Graph, rng: np.random.Generator) -> tuple[int, int]:
    """(the most shares of one honest client that random partners hold, how many open a secret)."""
    partners = frozenset(rng.permutation(terms.clients)[: terms.corrupt].tolist())
    return max(len(held & partners) for i, held in graph.items() if i not in partners), terms.threshold


def severed(terms: Terms, graph: Graph, rng: np.random.Generator) -> tuple[int, int]:
    """(honest clients in the smallest group that chosen drop-outs leave alone and readable, how many were promised).

    Greedy: a group grows from each client by whoever brings the fewest new neighbours; those around it drop out.
    """
    n = terms.clients
    partners = frozenset(rng.permutation(n)[: terms.corrupt].tolist())
    near = {i: set(graph[i]) - partners for i in graph if i not in partners}
    for i, held in graph.items():
        for j in held - partners:
            if i not in partners:
                near[j].add(i)
    smallest = len(near) - terms.dropouts
    for start in list(near)[:20]:
        group, boundary = {start}, set(near[start])
        while len(group) < smallest and boundary:
            best = min(boundary, key=lambda i: len(near[i] - group - boundary))
            group.add(best)
            boundary = (boundary | near[best]) - group
            alone = len(boundary) <= terms.dropouts and len(group) + len(boundary) < len(near)
            if alone and all(len(graph[i] & (group | partners)) + 1 >= terms.threshold for i in group):
                smallest = min(smallest, len(group))
                break
    return smallest, len(near) - terms.dropouts


__all__ = ["LyingServer", "agreed_terms", "protocol"]
