"""A Flower app whose clients take part in secure sums: client i answers the model plus (i + 1) / 8.

The SuperNodes of tests/test_flower_secure.py import it by this name. The folders of its nodes are in $FEDERATION.
"""

from __future__ import annotations

import os

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.app import Message as Reply
from flwr.clientapp import ClientApp

from fl_impl.flower import secure_mod

D = 40


def initial():
    return ArrayRecord({"weights": array(np.zeros(D, np.float32)), "steps": array(np.arange(3))})


def array(numbers):
    return next(iter(ArrayRecord([numbers]).values()))


def step(number):
    return np.full(D, (number + 1) / 8)


client = ClientApp(mods=[secure_mod(os.environ.get("FEDERATION", "") + "/client-{partition-id}", metrics=["loss"])])


@client.train()
def train(message, context):
    number = int(context.node_config["partition-id"])
    weights = message.content["arrays"]["weights"].numpy()
    arrays = ArrayRecord({"weights": array(weights + step(number).astype(np.float32)), "steps": array(np.full(3, number))})
    said = MetricRecord({"num-examples": number + 1, "loss": 0.5, "secret": float(number)})
    return Reply(RecordDict({"arrays": arrays, "metrics": said}), reply_to=message)
