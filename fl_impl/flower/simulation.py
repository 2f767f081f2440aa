"""Flower's own simulation: its engine on Ray, started for the rounds of a run and shut down after them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fl_impl.common.extras import require

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

RESOURCES: Final = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
STARTING: Final = 120.0
"""Seconds that Ray may take to start."""
STOPPING: Final = 60.0
"""Seconds that it may take to stop; what is left then ends with this process."""


@contextmanager
def simulated(client_app: ClientApp, nodes: int) -> Generator[tuple[Grid, Callable[[], str]]]:
    """A grid of Flower's simulation with so many nodes, and why the engine stopped ("" while it runs).

    Raises RuntimeError where it does not start.
    """
    require("ray", extra="flower")
    grids: queue.Queue[Grid] = queue.Queue()
    done = threading.Event()
    faults: list[str] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        grids.put(grid)
        done.wait()

    del main  # the app keeps it

    def run() -> None:
        try:
            run_simulation(server_app, client_app, nodes, backend_config=dict[str, Any](RESOURCES))
        except BaseException as error:  # noqa: BLE001  # Flower also raises SystemExit; it is told where replies are awaited
            cause = error.__cause__.__cause__ if error.__cause__ is not None else None
            faults.append(f"{type(error).__name__}: {cause or error.__cause__ or error}")

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    engine = threading.Thread(target=run, name="flower simulation", daemon=True)
    engine.start()
    try:
        yield started(grids, faults), lambda: faults[0] if faults else ""
    finally:
        done.set()
        engine.join(STOPPING)


def started(grids: queue.Queue[Grid], faults: list[str]) -> Grid:
    """The grid, once it is there. Raises RuntimeError where it does not come."""
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline and not faults:
        with suppress(queue.Empty):
            return grids.get(timeout=0.2)
    raise RuntimeError(f"Flower's simulation did not start: {faults[0] if faults else 'it says nothing'}")
