"""The round over a grid gives what the loop and the batched program give, whatever nodes do."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fl_impl import ClientUpdate, FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.aggregators import ALL
from fl_impl.flower.backend import portable
from fl_impl.flower.fleet import Fleet
from fl_impl.flower.inline import inline
from fl_impl.flower.node import client_app

RUNS = {
    "plain": {"num_rounds": 3},
    "momentum": {"num_rounds": 2, "client_momentum": 0.9, "fraction_fit": 0.8},
    "scaffold": {"num_rounds": 2, "client_algorithm": "scaffold", "local_steps": 5},
    "poisoned": {"num_rounds": 2, "attack": "label_flip"},
}


def matrices(backend, loop=False, **settings):
    """The (n, d) matrices of a run, and its last global model."""
    seen = []

    def rule(updates, f):
        seen.append(updates.copy())
        return ALL["trimmed_mean"](updates, f=f)

    base = {"num_clients": 8, "aggregation": rule, "byzantine_fraction": 0.25, "attack": "sign_flip", "seed": 3}
    config = FLConfig(**{**base, **settings}, backend=backend)
    clients = make_clients(config)
    if loop:
        for client in clients:
            client.task.unbatched.append("the loop is asked for")
    coordinator = FederatedLearningCoordinator(config)
    metrics = coordinator.run(clients, output=None)
    return seen, coordinator.parameters, metrics


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_loop_batched_and_flower_give_the_same_matrix_and_model(settings):
    batched, model, metrics = matrices("local", **settings)
    for other in (matrices("local", loop=True, **settings), matrices("flower-inline", **settings)):
        for mine, theirs in zip(batched, other[0], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(model, other[1])
        for mine, theirs in zip(metrics.rounds, other[2].rounds, strict=True):
            assert mine == dataclasses.replace(theirs, train_loss=mine.train_loss)
            assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-6)


def test_convolutions_agree_to_rounding():
    settings = {"model": "cnn(channels=2)", "num_clients": 4, "local_steps": 2, "num_rounds": 1}
    (local,), _, _ = matrices("local", **settings)
    (flower,), _, _ = matrices("flower-inline", **settings)
    np.testing.assert_allclose(local, flower, atol=1e-5)


@dataclasses.dataclass
class Own:
    """A client of the user's own, good or bad."""

    answer: object = None

    def fit(self, parameters, round):
        if callable(self.answer):
            return self.answer(parameters, round)
        return ClientUpdate(np.ones(5), 10, 0.5) if self.answer is None else self.answer


def fault(parameters, round):
    raise RuntimeError("no power")


FAULTY = [
    None,
    None,
    None,
    None,
    fault,
    ClientUpdate(np.ones(6), 1, 0.1),
    ClientUpdate(np.full(5, np.nan), 1, 0.1),
    "garbage",
    ClientUpdate("x", 1, 0.1),
    ClientUpdate(np.ones(5), 1, float("nan")),
    ClientUpdate(np.ones(5), 1, 0.1, round=9),
    ClientUpdate(np.ones(5), 1, 0.1, client=3),
    [ClientUpdate(np.ones(5), 1, 0.1)] * 3,
    ClientUpdate(np.ones(5), -1, 0.1),
]


def test_faults_are_recorded_as_they_are_without_flower():
    told = {}
    for backend in ("local", "flower-inline"):
        config = FLConfig(num_clients=len(FAULTY), num_rounds=2, aggregation="median", backend=backend)
        coordinator = FederatedLearningCoordinator(config, parameters=np.zeros(5))
        clients = [Own(answer) for answer in FAULTY]
        told[backend] = [dict(result.rejected) for result in coordinator.run(clients, output=None).rounds]
        np.testing.assert_array_equal(coordinator.parameters, np.full(5, 2.0))
    assert told["local"] == told["flower-inline"]
    assert len(told["local"][0]) == 10


@pytest.mark.parametrize("kind", ["garbage", "wrong", "huge", "pickle", "state", "silent"])
def test_a_hostile_node_is_rejected_and_the_round_goes_on(kind):
    good = client_app(lambda context: [Own()] * 4)

    def mixed(message, context):
        if context.node_config["partition-id"] != 2 or message.metadata.message_type != "train":
            return good(message, context)
        content = good(message, context).content
        if kind == "garbage":
            return Message(RecordDict({"x": ConfigRecord({"a": 1})}), reply_to=message)
        if kind == "pickle":
            content["arrays"] = ArrayRecord({"delta": Array("object", (5,), "numpy.ndarray", pickle.dumps(object()))})
        elif kind == "state":  # it cannot make the server keep things for it
            content["state"] = ArrayRecord([np.zeros(10**5, np.float32)])
        elif kind == "silent":
            return Message(Error(2, "gone"), reply_to=message)
        else:
            content["arrays"] = ArrayRecord({"delta": Array(np.zeros({"wrong": 4, "huge": 10**6}[kind], np.float32))})
        return Message(content, reply_to=message)

    clients = [Own() for _ in range(4)]
    with inline(mixed, 4) as grid:
        admitted = Fleet(grid, clients, 0)(dict(enumerate(clients)), np.zeros(5, np.float32), 1)
    assert set(admitted.rejected) == (set() if kind == "state" else {2})
    assert admitted.deltas.shape == (3 + (kind == "state"), 5)
    assert not hasattr(clients[2], "state")


class Silent:
    """A grid on which node 2 never answers."""

    def __init__(self, grid):
        self.grid, self.asked = grid, []

    def __getattr__(self, name):
        return getattr(self.grid, name)

    def push_messages(self, messages):
        messages = list(messages)
        ids = self.grid.push_messages(messages)
        for message, name in zip(messages, ids, strict=True):
            if message.metadata.message_type == "train" and message.metadata.dst_node_id == self.grid.get_node_ids()[2]:
                self.grid.waiting.pop(name)
                self.asked.append(name)
        return ids


def test_a_node_that_is_gone_costs_one_time_out_and_no_more():
    clients = [Own() for _ in range(4)]
    with inline(client_app(lambda context: clients), 4) as plain:
        grid = Silent(plain)
        fleet = Fleet(grid, clients, 0)
        for number in (1, 2):
            # The second round would wait for an hour if it waited for node 2.
            patience = 0.3 if number == 1 else 3600.0
            admitted = fleet(dict(enumerate(clients)), np.zeros(5, np.float32), number, timeout=patience)
            assert admitted.rejected == {2: "timed out: no reply from its node"}
            assert admitted.ids == (0, 1, 3)
    assert len(grid.asked) == 2  # it was asked again: it may come back


def test_local_train_is_put_back_after_a_run():
    config = FLConfig(num_clients=3, num_rounds=1, backend="flower-inline")
    coordinator = FederatedLearningCoordinator(config)
    coordinator.simulate_round(make_clients(config))
    assert coordinator._engine is None


def test_a_deployment_refuses_what_cannot_travel():
    config = FLConfig(num_clients=3, backend="flower-deployment")
    with pytest.raises(ValueError, match="clients of your own"):
        portable(config, [Own()])
    x, y = np.zeros((30, 4), np.float32), np.zeros(30, np.int64)
    with pytest.raises(ValueError, match="by name"):
        portable(FLConfig(num_clients=3, dataset=(x, y), backend="flower-deployment"), [])
