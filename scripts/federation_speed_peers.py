"""The task of federation_speed.py on pfl-research's and Flower's own simulation engines, where they are installed."""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fl_impl import FLConfig, make_clients
from fl_impl.training.models import make_task
from fl_impl.training.parameters import load_vector, to_vector

ROUNDS, RATE, BATCH = 20, 0.1, 32


def pfl(n: int) -> float:
    """CPU seconds of the rounds in pfl's SimulatedBackend, set-up apart."""
    from pfl.aggregate.simulate import SimulatedBackend  # noqa: PLC0415  # optional
    from pfl.algorithm.base import NNAlgorithmParams  # noqa: PLC0415  # optional
    from pfl.algorithm.federated_averaging import FederatedAveraging  # noqa: PLC0415  # optional
    from pfl.data.dataset import Dataset  # noqa: PLC0415  # optional
    from pfl.data.federated_dataset import FederatedDataset  # noqa: PLC0415  # optional
    from pfl.data.sampling import get_user_sampler  # noqa: PLC0415  # optional
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams  # noqa: PLC0415  # optional
    from pfl.model.pytorch import PyTorchModel  # noqa: PLC0415  # optional

    clients = make_clients(FLConfig(num_clients=n))

    class Perceptron(nn.Module):
        """The same model, with the two methods that pfl asks for."""

        def __init__(self) -> None:
            super().__init__()
            self.body = make_task(clients[0].data, "mlp").module

        def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            """Cross entropy."""
            return functional.cross_entropy(self.body(x), y)

        def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
            """None are asked for while it is timed."""
            del x, y
            return {}

    module = Perceptron()
    rows = {client: torch.from_numpy(client.rows) for client in clients}
    data = {c.id: Dataset(raw_data=[c.x[rows[c]], c.y[rows[c]]], user_id=str(c.id)) for c in clients}
    users = FederatedDataset(data.__getitem__, get_user_sampler("minimize_reuse", list(data)))
    central = torch.optim.SGD(module.parameters(), lr=1.0)
    model = PyTorchModel(module, torch.optim.SGD, central)
    settings = NNAlgorithmParams(ROUNDS, ROUNDS + 1, n, None)
    recipe = NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=RATE)
    backend = SimulatedBackend(training_data=users, val_data=users)
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        FederatedAveraging().run(
            settings, backend, model, recipe, NNEvalHyperParams(local_batch_size=BATCH), send_metrics_to_platform=False
        )
    return time.process_time() - started


def flower(n: int) -> float:
    """Wall seconds of Flower's run_simulation on Ray with two actors, start-up included: its work is in other processes."""
    os.environ.update({"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"})
    from flwr.client import ClientApp, NumPyClient  # noqa: PLC0415  # optional
    from flwr.common import ndarrays_to_parameters  # noqa: PLC0415  # optional
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig  # noqa: PLC0415  # optional
    from flwr.server.strategy import FedAvg  # noqa: PLC0415  # optional
    from flwr.simulation import run_simulation  # noqa: PLC0415  # optional

    class Member(NumPyClient):
        """One of ours behind Flower's interface."""

        def __init__(self, number: int) -> None:
            self.own = make_clients(FLConfig(num_clients=n))[number]

        def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            """One local epoch by the plain loop."""
            del config
            module = make_task(self.own.data, "mlp").module
            load_vector(module, np.concatenate([part.ravel() for part in parameters]).astype(np.float32))
            optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
            rows = torch.from_numpy(self.own.rows)
            for chosen in rows[torch.randperm(len(rows))].split(BATCH):
                optimizer.zero_grad()
                functional.cross_entropy(module(self.own.x[chosen]), self.own.y[chosen]).backward()
                optimizer.step()
            return [to_vector(module)], len(rows), {}

    def server(context: Any) -> Any:
        del context
        first = ndarrays_to_parameters([make_clients(FLConfig(num_clients=2))[0].task.initial])
        strategy = FedAvg(fraction_evaluate=0.0, min_fit_clients=n, min_available_clients=n, initial_parameters=first)
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))

    started = time.perf_counter()
    run_simulation(
        server_app=ServerApp(server_fn=server),
        client_app=ClientApp(client_fn=lambda context: Member(int(context.node_config["partition-id"])).to_client()),
        num_supernodes=n,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return time.perf_counter() - started
