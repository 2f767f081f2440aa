"""What the SuperNodes of a deployment run: the clients of the configuration in the run config."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import ServerApp

from fl_impl.clients import make_clients
from fl_impl.config import FLConfig
from fl_impl.flower.node import client_app

if TYPE_CHECKING:
    from fl_impl.clients import SimulatedClient


@functools.cache
def clients_of(settings: str) -> list[SimulatedClient]:
    """The clients of a configuration as JSON."""
    return make_clients(FLConfig(**json.loads(settings)))


def configured(context: Context) -> Sequence[Any]:
    """All clients of the run's configuration: a node takes its own by its partition-id."""
    return clients_of(str(context.run_config["settings"]))


client = client_app(configured)
server = ServerApp()
"""Flower wants one in every app; here the coordinator takes its place and its task."""
