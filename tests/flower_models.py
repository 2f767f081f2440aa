"""A Flower app with the models that people have: batch normalization, tied embeddings, a frozen part.

The SuperNodes of tests/test_flower_models.py import it by this name.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.app import Message as Reply
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from torch import nn

WORDS = 12


class Tied(nn.Module):
    """Which word comes next: the output layer's weights are the embedding's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, WORDS, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words):
        return self.head(torch.tanh(self.hidden(self.embedding(words))))


def batch_norm():
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def frozen():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model[0].requires_grad_(requires_grad=False)
    return model


MODELS = {"batch_norm": batch_norm, "tied": Tied, "frozen": frozen}


def make(name):
    torch.manual_seed(0)
    return MODELS[name]()


@functools.cache
def data(name):
    """(inputs, labels) of everybody, the last quarter held out."""
    if name == "tied":
        words = torch.from_numpy(np.random.default_rng(0).integers(0, WORDS, 1200))
        return words, (5 * words + 1) % WORDS
    digits = load_digits()
    return torch.from_numpy(digits.data.astype(np.float32) / 16), torch.from_numpy(digits.target)


def accuracy(name, arrays):
    """On what is held out."""
    model = make(name)
    model.load_state_dict(arrays.to_torch_state_dict())
    model.eval()
    x, y = data(name)
    held = len(y) * 3 // 4
    with torch.no_grad():
        return float((model(x[held:]).argmax(1) == y[held:]).float().mean())


def initial(name):
    return ArrayRecord(make(name).state_dict())


client = ClientApp()


@client.train()
def train(message, context):
    name, number = str(message.content["config"]["model"]), int(context.node_config["partition-id"])
    nodes = int(context.node_config["num-partitions"])
    model = make(name)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = data(name)
    rows = torch.arange(number, len(y) * 3 // 4, nodes)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.01)
    for epoch in range(8):
        order = rows[torch.from_numpy(np.random.default_rng([number, epoch]).permutation(len(rows)))]
        for batch in order.split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    arrays = ArrayRecord(model.state_dict())
    if number == 0:  # one attacker: everything negated, counters and statistics too
        arrays = ArrayRecord({n: type(a)(np.asarray(-a.numpy() * 3, a.numpy().dtype)) for n, a in arrays.items()})
    return Reply(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": len(rows)})}), reply_to=message)
