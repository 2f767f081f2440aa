"""`backend="flower"`: the train stage of a coordinator's rounds on Flower's engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fl_impl.clients import SimulatedClient
from fl_impl.flower.fleet import Fleet
from fl_impl.flower.node import client_app

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fl_impl.config import FLConfig


@contextmanager
def engine(config: FLConfig, clients: Sequence[Any], poison: Callable[[], str]) -> Generator[Fleet]:
    """The train stage of `config.backend`; `poison()` is the attack on data in force, as a spec.

    "flower" is Flower's simulation on Ray, "flower-inline" the same ClientApp in this process, and "flower-deployment"
    a SuperLink with one SuperNode for each client, on this machine. The coordinator does the rest of a round as ever:
    it selects, lets the attackers strike, aggregates and evaluates. Raises ValueError for what cannot travel.
    """
    with grid_of(config, clients) as (grid, broken):
        yield Fleet(grid, clients, config.seed, poison, broken)


@contextmanager
def grid_of(config: FLConfig, clients: Sequence[Any]) -> Generator[tuple[Grid, Callable[[], str]]]:
    """The grid of a backend, and what says why it no longer runs, "" while it does."""
    held = list(clients)
    if config.backend == "flower-inline":
        from fl_impl.flower.inline import inline  # noqa: PLC0415  # only the engine that runs is imported

        with inline(client_app(lambda _: held), len(held)) as grid:
            yield grid, str
    elif config.backend == "flower":
        from fl_impl.flower.simulation import simulated  # noqa: PLC0415  # as above

        with simulated(client_app(lambda _: held), len(held)) as (grid, broken):
            yield grid, broken
    else:
        from fl_impl.flower.deployment.launch import deployed  # noqa: PLC0415  # as above

        with deployed(len(held), portable(config, held)) as (grid, deployment):
            yield grid, deployment.broken


def portable(config: FLConfig, clients: Sequence[Any]) -> str:
    """The configuration as JSON, from which each node makes its client.

    Raises ValueError where clients do not follow from it: nodes are other processes, and nothing is pickled for them.
    """
    others = [type(client).__name__ for client in clients if type(client) is not SimulatedClient]
    if others:
        raise ValueError(
            f"the nodes of a deployment make their clients from the configuration, but {others[0]} is none of "
            'make_clients(config): use backend="flower" or "flower-inline" for clients of your own'
        )
    settings = {**config.model_dump(mode="json", exclude_unset=True), "backend": "local"}
    text = json.dumps(settings)
    again = type(config)(**json.loads(text)).model_dump(mode="json")
    if again | {"backend": config.backend} != config.model_dump(mode="json") or isinstance(config.dataset, tuple):
        raise ValueError("a deployment sends the configuration as text: give dataset, model and rules by name or module:name")
    return text
