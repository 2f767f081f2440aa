"""Flower without an engine: RobustStrategy and byzantine_mod on real messages, and the round over an inline grid."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_impl import ClientUpdate, FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.aggregators import ALL, resolve
from fl_impl.common.randomness import generator
from fl_impl.flower import RobustStrategy, byzantine_mod, run_app
from fl_impl.flower.backend import portable
from fl_impl.flower.decoder import unpacked
from fl_impl.flower.fleet import Fleet
from fl_impl.flower.inline import inline
from fl_impl.flower.mod import byzantine_clients
from fl_impl.flower.node import client_app
from fl_impl.flower.records import form_of

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


@pytest.mark.parametrize(
    "spec", ["krum", "nnm|trimmed_mean", "geometric_median", "centered_clipping", "dnc", "foolsgold", "mean"]
)
def test_strategy_applies_the_rule_to_the_updates(spec):
    rows, rule = rows_of(10), resolve(spec)
    model, result = once(RobustStrategy(spec, byzantine_fraction=0.2, **QUIET), learner(rows), 10)
    told = {"rng": generator(0, "rule", 1)} if "rng" in rule.keywords.context else {}
    np.testing.assert_allclose(model, ORIGIN_VECTOR + rule(rows, f=2, **told), rtol=1e-5, atol=1e-5)
    assert result.train_metrics_clientapp[1]["loss"] == 4.5  # the median of 0, ..., 9


def test_every_rule_that_needs_no_data_of_the_server_runs_as_a_strategy():
    for name in set(ALL) - {"fltrust"}:
        model, _ = once(RobustStrategy(name, byzantine_fraction=0.1, **QUIET), learner(rows_of(12)), 12, rounds=2)
        assert np.isfinite(model).all(), name


def hostile(kind):
    """A reply's content, made hostile."""
    sound = [np.zeros(4, np.float32), np.zeros((1, 3), np.float32)]
    good = ArrayRecord(sound)
    names = list(good)
    data = {name: good[name].data for name in names}

    def forged(**changes):
        first = Array(**{"dtype": "float32", "shape": (4,), "stype": "numpy.ndarray", "data": data[names[0]], **changes})
        return ArrayRecord({names[0]: first, names[1]: good[names[1]]})

    bomb = (
        b"\x93NUMPY\x01\x00"
        + (118).to_bytes(2, "little")
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }".ljust(117)
        + b"\n"
    )
    objects = np.array([{"a": 1}] * 4, object)
    pickled = (
        b"\x93NUMPY\x01\x00"
        + (118).to_bytes(2, "little")
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (4,), }".ljust(117)
        + b"\n"
        + pickle.dumps(objects)
    )
    arrays = {
        "wrong shape": ArrayRecord([np.zeros(5, np.float32), sound[1]]),
        "fewer arrays": ArrayRecord(sound[:1]),
        "other names": ArrayRecord({"x": good[names[0]], "y": good[names[1]]}),
        "huge": ArrayRecord([np.zeros(10**6, np.float32), sound[1]]),
        "header bomb": forged(data=bomb),
        "pickle": forged(data=pickled),
        "raw pickle": forged(data=pickle.dumps(objects)),
        "other serialization": forged(stype="pickle"),
        "garbage": forged(data=b"\x00\xff" * 40),
        "truncated": forged(data=data[names[0]][:-4]),
        "trailing": forged(data=data[names[0]] + b"more"),
        "strings": ArrayRecord([np.array(["a"] * 4), sound[1]]),
        "nan": ArrayRecord([np.full(4, np.nan, np.float32), sound[1]]),
        "infinite": ArrayRecord([np.full(4, np.inf, np.float32), sound[1]]),
    }
    return RecordDict({"arrays": arrays[kind], "metrics": MetricRecord({"num-examples": 10})})


HOSTILE = {
    "wrong shape": "wrong shape",
    "fewer arrays": "wrong arrays",
    "other names": "wrong arrays",
    "huge": "wrong shape",
    "header bomb": "wrong shape",
    "pickle": "not plain numbers",
    "raw pickle": "numpy's format",
    "garbage": "numpy's format",
    "other serialization": "serialized as",
    "truncated": "bytes",
    "trailing": "bytes",
    "strings": "not plain numbers",
    "nan": "non-finite",
    "infinite": "non-finite",
}


@pytest.mark.parametrize(("kind", "reason"), HOSTILE.items())
def test_a_hostile_reply_is_rejected_and_the_round_goes_on(kind, reason):
    rows, call = rows_of(10), learner(rows_of(10))
    hostiles = {2: lambda message: Message(hostile(kind), reply_to=message)}

    def mixed(message, context):
        i = context.node_config["partition-id"]
        return hostiles[i](message) if i in hostiles else call(message, context)

    strategy = RobustStrategy("coordinate_median", byzantine_fraction=0.2, **QUIET)
    model, _ = once(strategy, mixed, 10)
    assert list(strategy.rejected) == [1]
    assert [reason in said for said in strategy.rejected[1].values()] == [True]
    others = np.delete(rows, 2, axis=0)
    np.testing.assert_allclose(model, ORIGIN_VECTOR + np.median(others, axis=0), rtol=1e-5, atol=1e-6)


def test_a_reply_without_arrays_or_with_an_error_is_rejected_too():
    call = learner(rows_of(10))

    def mixed(message, context):
        i = context.node_config["partition-id"]
        if i == 0:
            return Message(Error(2, "no power"), reply_to=message)
        return Message(RecordDict({"arrays": MetricRecord({"a": 1})}), reply_to=message) if i == 1 else call(message, context)

    strategy = RobustStrategy("krum", byzantine_fraction=0.2, **QUIET)
    once(strategy, mixed, 10)
    assert sorted(strategy.rejected[1].values()) == ["error 2: no power", "it has no ArrayRecord 'arrays'"]


def test_too_few_sound_replies_leave_the_model_as_it_is():
    strategy = RobustStrategy("krum", byzantine_fraction=0.3, **QUIET)
    good = learner(rows_of(9))

    def mostly_silent(message, context):
        silent = context.node_config["partition-id"] > 3
        return Message(Error(2, "silent"), reply_to=message) if silent else good(message, context)

    with inline(mostly_silent, 9) as grid:
        arrays = ArrayRecord(ORIGIN)
        replies = grid.send_and_receive(strategy.configure_train(1, arrays, ConfigRecord(), grid))
        assert strategy.aggregate_train(1, replies) == (None, None)
    assert len(strategy.rejected[1]) == 5


def test_a_lie_about_the_sample_count_moves_only_the_mean():
    rows = rows_of(10)
    mod = byzantine_mod("inflated_count", clients={0})
    for spec, moved in (("mean", True), ("trimmed_mean", False)):
        clean, _ = once(RobustStrategy(spec, **QUIET), learner(rows), 10)
        model, _ = once(RobustStrategy(spec, **QUIET), with_mod(mod, learner(rows)), 10)
        assert (not np.allclose(model, clean, atol=1e-3)) is moved
        if moved:
            np.testing.assert_allclose(model, ORIGIN_VECTOR + rows[0], rtol=1e-4, atol=1e-4)


def with_mod(mod, call):
    return lambda message, context: mod(message, context, call)


def updates_sent(mod, rows, rounds=1):
    """round -> (n, d), what the clients send."""
    sent = {}

    class Watching(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
            got = [
                np.concatenate([part.ravel() for part in r.content["arrays"].to_numpy_ndarrays()])
                for r in replies
                if r.has_content()
            ]
            sent[server_round] = np.array(got) - ORIGIN_VECTOR
            return ArrayRecord(ORIGIN), None

    once(Watching(**QUIET), with_mod(mod, learner(rows)), len(rows), rounds)
    return sent


def test_mod_flips_the_sign_of_the_named_clients_in_the_named_rounds():
    rows = rows_of(5)
    sent = updates_sent(byzantine_mod("sign_flip", clients={1, 3}, rounds={2}), rows, rounds=3)
    flipped = rows.copy()
    flipped[[1, 3]] *= -1
    for number, expected in ((1, rows), (2, flipped), (3, rows)):
        np.testing.assert_allclose(sent[number], expected, atol=1e-6)


def test_mod_by_fraction_attacks_with_those_that_the_coordinator_draws():
    rows = rows_of(10)
    sent = updates_sent(byzantine_mod("sign_flip", 0.3, seed=5), rows)[1]
    attackers = byzantine_clients(0.3, 10, seed=5)
    assert len(attackers) == 3
    assert set(np.flatnonzero(np.abs(sent - rows).max(axis=1) > 1e-3)) == set(attackers)
    config = FLConfig(aggregation="median", byzantine_fraction=0.3, attack="sign_flip", seed=5)
    assert set(FederatedLearningCoordinator(config)._attackers.among(range(10), 10, 1)) == set(attackers)


def test_a_node_that_has_no_partition_attacks_with_that_probability():
    mod = byzantine_mod("sign_flip", 0.3)
    attackers = [mod.place(Context(1, node, {}, RecordDict(), {})) is not None for node in range(2000)]
    assert 0.25 < np.mean(attackers) < 0.35
    with pytest.raises(ValueError, match="partition-id"):
        byzantine_mod("sign_flip", clients={0}).place(Context(1, 2, {}, RecordDict(), {}))


def test_mod_remembers_and_colludes():
    rows = rows_of(6)
    stale = updates_sent(byzantine_mod("stale", clients={0}), rows, rounds=2)
    np.testing.assert_allclose(stale[2][0], rows[0], atol=1e-6)
    noise = updates_sent(byzantine_mod("noise_injection", clients={0, 1}), rows)[1]
    assert not np.allclose(noise[0] - rows[0], noise[1] - rows[1], atol=1e-3)  # two rows of one draw
    gone = updates_sent(byzantine_mod("drop_out", clients={0}), rows)[1]
    assert len(gone) == 5


def test_mod_says_what_an_omniscient_attack_is_told_instead():
    assert "runs as published" in byzantine_mod("sign_flip", 0.2).knowledge
    assert "cannot see" in byzantine_mod("a_little_is_enough", 0.2).knowledge
    assert "aggregator=" in byzantine_mod("optimized", 0.2).knowledge
    sent = updates_sent(byzantine_mod("inner_product_manipulation", clients={0}), rows_of(4), rounds=2)
    assert np.vdot(sent[2][0], rows_of(4)[0]) < 0  # against the only update that it knows: its own


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"attack": "label_flip", "fraction": 0.2}, "poisons data"),
        ({"attack": "sign_flip"}, "who attacks"),
        ({"attack": "sign_flip", "fraction": 0.2, "clients": {1}}, "who attacks"),
        ({"attack": "sign_flip", "fraction": 1.2}, "from 0 to 1"),
        ({"attack": "sign_flop", "fraction": 0.2}, "sign_flip"),
    ],
)
def test_mod_refuses(settings, match):
    with pytest.raises(ValueError, match=match):
        byzantine_mod(**settings)


def test_integers_and_doubles_survive():
    record = ArrayRecord([np.arange(3), np.array([0.1], np.float64), np.float16([1.5])])
    form = form_of(record)
    again = form.record(form.read(record))
    for name, before in record.items():
        assert again[name].dtype == before.dtype
        np.testing.assert_array_equal(again[name].numpy(), before.numpy())
    assert not unpacked(record["0"], (3,)).flags.writeable


# The round over a grid


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


# Anybody's app


def a_server(key="num-server-rounds"):
    app = ServerApp()

    @app.main()
    def main(grid, context):
        FedAvg(**QUIET).start(grid, ArrayRecord(ORIGIN), num_rounds=context.run_config.get(key, 1))

    return app


def test_run_app_reports_rounds_attackers_and_errors():
    run = run_app((a_server(), learner(rows_of(5))), rounds=2, nodes=5, attack="drop_out", clients={1})
    assert (run.rounds, run.byzantine, list(run.errors)) == (2, (1,), [1, 2])
    assert run.metrics["loss"][0] == (1, pytest.approx((0 + 2 + 3 + 4) / 4))
    with pytest.raises(ValueError, match="no 'accuracy', only loss"):
        run.final("accuracy")


def test_run_app_refuses_what_it_cannot_run(tmp_path):
    with pytest.raises(ValueError, match="rounds_key"):
        run_app((a_server("my-rounds"), learner(rows_of(3))), rounds=3, nodes=3)
    with pytest.raises(ValueError, match="there is no"):
        run_app(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n")
    with pytest.raises(ValueError, match="no Flower app"):
        run_app(tmp_path)
    with pytest.raises(ValueError, match="ServerApp, ClientApp"):
        run_app(42)
