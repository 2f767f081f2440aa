"""The data, the model and how it is trained: numpy only."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Model = list[NDArray[np.float32]]
"""Weights (64, 10) and biases (10,)."""
Data = tuple[NDArray[np.float32], NDArray[np.int64]]
"""x (n, 64) and y (n,)."""
CLASSES = 10


@cache
def digits() -> tuple[Data, Data]:
    """Data for training and for testing, in an order that is always the same."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def first_model() -> Model:
    """Zeros."""
    return [np.zeros((64, CLASSES), np.float32), np.zeros(CLASSES, np.float32)]


def probabilities(model: Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 10): the softmax of the logits."""
    logits = x @ model[0] + model[1]
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def train(model: Model, data: Data, learning_rate: float, steps: int = 10) -> Model:
    """Full-batch gradient descent."""
    (x, y), (weights, biases) = data, (part.copy() for part in model)
    wanted = np.eye(CLASSES, dtype=np.float32)[y]
    for _ in range(steps):
        error = (probabilities([weights, biases], x) - wanted) / len(x)
        weights -= learning_rate * x.T @ error
        biases -= learning_rate * error.sum(axis=0)
    return [weights, biases]


def accuracy(model: Model, data: Data) -> float:
    """The share of right answers."""
    return float((probabilities(model, data[0]).argmax(axis=1) == data[1]).mean())
