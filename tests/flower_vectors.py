"""Flower apps whose clients add a row each to the model, and what a strategy makes of it as one vector."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_impl.flower.inline import inline

D = 7
ORIGIN = [np.arange(4, dtype=np.float32), np.ones((1, 3), np.float32)]


def learner(rows):
    """A ClientApp whose client i adds rows[i] to what it is sent."""
    app = ClientApp()

    @app.train()
    def fit(message, context):
        i = context.node_config["partition-id"]
        sent = message.content["arrays"].to_numpy_ndarrays()
        trained = [sent[0] + rows[i][:4], sent[1] + rows[i][4:].reshape(1, 3)]
        metrics = MetricRecord({"num-examples": 10, "loss": float(i)})
        return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)

    return app


def once(strategy, call, n, rounds=1):
    """The model that a strategy makes of n clients, as one vector."""
    with inline(call, n) as grid:
        result = strategy.start(grid, ArrayRecord(ORIGIN), num_rounds=rounds)
    return np.concatenate([part.ravel() for part in result.arrays.to_numpy_ndarrays()]), result


def rows_of(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


ORIGIN_VECTOR = np.concatenate([part.ravel() for part in ORIGIN])
QUIET = {"fraction_evaluate": 0.0}


def with_mod(mod, call):
    return lambda message, context: mod(message, context, call)
