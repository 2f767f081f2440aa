"""Flower without an engine: RobustStrategy on real messages, and anybody's app."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flower_vectors import ORIGIN, ORIGIN_VECTOR, QUIET, learner, once, rows_of, with_mod
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_impl.aggregators import ALL, resolve
from fl_impl.common.randomness import generator
from fl_impl.flower import RobustStrategy, byzantine_mod, run_app
from fl_impl.flower.inline import inline


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
