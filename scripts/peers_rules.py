"""The rules of published libraries that scripts/peers.py times beside ours, each called as its library documents."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import byzfl
import numpy as np
import torch
from byzpy.aggregators import coordinate_wise, geometric_wise, norm_wise
from byzpy.pre_aggregators import NearestNeighborMixing
from flwr.app import ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.server.strategy import aggregate as flower
from flwr.serverapp import strategy as serverapp
from krum.primitives.aggregators import average, brute, bulyan, geometric_median, krum, median, multikrum, trimmed_mean

logging.getLogger("flwr").setLevel(logging.ERROR)
LIBRARIES = ("byzfl", "byzpy", "krum", "flwr", "torch", "numpy")

Call = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What makes the input, and what is timed on it."""
Make = Callable[[int, int], Callable[[Any], Any]]
"""(n, f) -> a function of the library's own kind of input."""


def calls(rule: str, x: np.ndarray, f: int) -> dict[str, Call]:
    """Each library that has the rule."""
    inputs: dict[str, Callable[[], Any]] = {
        "ByzFL": lambda: torch.from_numpy(x),
        "byzpy": lambda: list(torch.from_numpy(x)),
        "krum": lambda: torch.from_numpy(x),
        "Flower": lambda: [([row], 10) for row in x],
        "ServerApp": lambda: [reply(i, row) for i, row in enumerate(x)],
    }
    return {name: (inputs[name], make(len(x), f)) for name, make in PEERS[rule].items() if _admits(name, rule, len(x), f)}


def reply(node: int, row: np.ndarray) -> Any:
    """What a client of a Flower ServerApp sends."""
    content = RecordDict({"arrays": ArrayRecord([row]), "metrics": MetricRecord({"num-examples": 10})})
    envelope = Metadata(1, str(node), node, 0, "", "", 0.0, 60.0, MessageType.TRAIN)
    return Message(content=content, metadata=envelope)


def _admits(library: str, rule: str, n: int, f: int) -> bool:
    """Whether the library finishes: those that try all subsets do so for few clients only."""
    del f
    return not (rule == "minimum_diameter" and library in ("ByzFL", "byzpy", "krum") and n > 20)


def _byzfl(name: str, *, told: bool = True) -> Make:
    return lambda _, f: getattr(byzfl, name)(**({"f": f} if told else {}))


def _byzfl_mixing(n: int, f: int) -> Callable[[Any], Any]:
    del n
    mix, trim = byzfl.NNM(f=f), byzfl.TrMean(f=f)
    return lambda x: trim(mix(x))


def _byzpy(kind: Any, **told: Callable[[int, int], int]) -> Make:
    return lambda n, f: kind(**{name: value(n, f) for name, value in told.items()}).aggregate


def _byzpy_mixing(n: int, f: int) -> Callable[[Any], Any]:
    del n
    mix, trim = NearestNeighborMixing(f=f), coordinate_wise.CoordinateWiseTrimmedMean(f=f)
    return lambda rows: trim.aggregate(mix.pre_aggregate(rows))


def _krum(kind: Any, **told: Callable[[int, int], int]) -> Make:
    return lambda n, f: lambda x: kind.aggregate(x, n=n, f=f, **{name: value(n, f) for name, value in told.items()})


def _serverapp(kind: Any, **told: Callable[[int, int], Any]) -> Make:
    def make(n: int, f: int) -> Callable[[Any], Any]:
        strategy = kind(**{name: value(n, f) for name, value in told.items()})
        return lambda replies: strategy.aggregate_train(1, replies)

    return make


def _f(n: int, f: int) -> int:
    del n
    return f


def _honest(n: int, f: int) -> int:
    return n - f


def _share(n: int, f: int) -> float:
    return (f + 0.5) / n


PEERS: dict[str, dict[str, Make]] = {
    "mean": {
        "ByzFL": _byzfl("Average", told=False),
        "krum": _krum(average.Average),
        "Flower": lambda n, f: flower.aggregate,  # noqa: ARG005  # it is told neither
        "ServerApp": _serverapp(serverapp.FedAvg),
    },
    "coordinate_median": {
        "ByzFL": _byzfl("Median", told=False),
        "byzpy": _byzpy(coordinate_wise.CoordinateWiseMedian),
        "krum": _krum(median.Median),
        "Flower": lambda n, f: flower.aggregate_median,  # noqa: ARG005  # it is told neither
        "ServerApp": _serverapp(serverapp.FedMedian),
    },
    "trimmed_mean": {
        "ByzFL": _byzfl("TrMean"),
        "byzpy": _byzpy(coordinate_wise.CoordinateWiseTrimmedMean, f=_f),
        "krum": _krum(trimmed_mean.TrimmedMean),
        "Flower": lambda n, f: lambda results: flower.aggregate_trimmed_avg(results, _share(n, f)),
        "ServerApp": _serverapp(serverapp.FedTrimmedAvg, beta=_share),
    },
    "meamed": {"ByzFL": _byzfl("Meamed"), "byzpy": _byzpy(coordinate_wise.MeanOfMedians, f=_f)},
    "phocas": {},
    "krum": {
        "ByzFL": _byzfl("Krum"),
        "byzpy": _byzpy(geometric_wise.Krum, f=_f),
        "krum": _krum(krum.Krum),
        "Flower": lambda n, f: lambda results: flower.aggregate_krum(results, f, 0),  # noqa: ARG005  # not told n
        "ServerApp": _serverapp(serverapp.Krum, num_malicious_nodes=_f),
    },
    "multi_krum": {
        "ByzFL": _byzfl("MultiKrum"),
        "byzpy": _byzpy(geometric_wise.MultiKrum, f=_f, q=_honest),
        "krum": _krum(multikrum.MultiKrum, m=_honest),
        "Flower": lambda n, f: lambda results: flower.aggregate_krum(results, f, n - f),
        "ServerApp": _serverapp(serverapp.MultiKrum, num_malicious_nodes=_f, num_nodes_to_select=_honest),
    },
    "geometric_median": {
        "ByzFL": _byzfl("GeometricMedian", told=False),
        "byzpy": _byzpy(geometric_wise.GeometricMedian),
        "krum": _krum(geometric_median.GeometricMedian),
    },
    "minimum_diameter": {
        "ByzFL": _byzfl("MDA"),
        "byzpy": _byzpy(geometric_wise.MinimumDiameterAveraging, f=_f),
        "krum": _krum(brute.Brute),
    },
    "bulyan": {
        "krum": _krum(bulyan.Bulyan),
        "Flower": lambda n, f: lambda results: flower.aggregate_bulyan(results, f, flower.aggregate_krum, to_keep=0),  # noqa: ARG005
        "ServerApp": _serverapp(serverapp.Bulyan, num_malicious_nodes=_f),
    },
    "nnm|trimmed_mean": {"ByzFL": _byzfl_mixing, "byzpy": _byzpy_mixing},
    "caf": {"ByzFL": _byzfl("CAF"), "byzpy": _byzpy(norm_wise.CAF, f=_f)},
}
"""Rule -> library -> how it is made for (n, f)."""
