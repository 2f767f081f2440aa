"""Flower clients that answer with what a function makes of the model that they were sent."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flwr.app import Message, MetricRecord, RecordDict

from fl_impl.flower import RobustStrategy
from fl_impl.flower.inline import inline

QUIET = {"fraction_evaluate": 0.0}


def echo(change):
    """A ClientApp that answers with what `change(i, record)` makes of the model that it was sent."""

    def call(message, context):
        i = int(context.node_config["partition-id"])
        content = RecordDict({"arrays": change(i, message.content["arrays"]), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return call


def run(call, model, n=5, rounds=1, **options):
    strategy = RobustStrategy(options.pop("rule", "trimmed_mean"), **{"byzantine_fraction": 0.2, **QUIET, **options})
    with inline(call, n) as grid:
        return strategy.start(grid, model, num_rounds=rounds).arrays, strategy
