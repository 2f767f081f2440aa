"""Whatever a reply holds, it is refused with its node's number and the server goes on; nodes that are gone do not lower f."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flower_echo import QUIET, echo, run
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_impl.flower import RobustStrategy, run_app
from fl_impl.flower.decoder import unpacked
from fl_impl.flower.fleet import Fleet
from fl_impl.flower.inline import InlineGrid, inline
from fl_impl.flower.node import client_app
from fl_impl.flower.pulling import pull
from scripts.fuzz_flower import TALLY, fuzz


def npy(header, data=b"\x00" * 16):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


DESCR = b"{'descr': %s, 'fortran_order': %s, 'shape': %s, }"
HEADERS = {
    "empty descr": DESCR % (b"()", b"False", b"(4,)"),  # IndexError in numpy
    "unclosed bracket": b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,",  # TokenError in numpy
    "indentation": b"\n  {'descr': '<f4',\n 'fortran_order': False, 'shape': (4,)}\n   1",
    "deep brackets": DESCR % (b"'<f4'", b"False", b"(" * 3000 + b")" * 3000),
    "subarray": DESCR % (b"('<f4', (4,))", b"False", b"(1,)"),
    "fields": DESCR % (b"[('a', '<f4')]", b"False", b"(4,)"),
    "wide": DESCR % (b"'<f99'", b"False", b"(4,)"),
    "no number": DESCR % (b"'<f4'", b"1", b"(4,)"),
    "negative": DESCR % (b"'<f4'", b"False", b"(-4,)"),
    "beyond memory": DESCR % (b"'<f4'", b"False", b"(0, 99999999999999999999)"),
    "many dimensions": DESCR % (b"'<f4'", b"False", b"(" + b"1," * 65 + b")"),
    "twice": b"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (4,)}",
    "more": b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}",
    "two commas": b"{'descr': '<f4',, 'fortran_order': False, 'shape': (4,)}",
    "nothing": b"",
    "digits of another script": DESCR % (b"'<f4'", b"False", b"(\xb2,)"),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_malformed_header_is_refused_with_the_number_of_its_node(header):
    bad = Array("float32", (4,), "numpy.ndarray", npy(header))
    with pytest.raises(ValueError, match=r"numpy's format|plain numbers|no memory"):
        unpacked(bad)
    model = ArrayRecord([np.zeros(4, np.float32)])
    after, strategy = run(echo(lambda i, record: ArrayRecord({"0": bad}) if i == 3 else record), model)
    assert after["0"].numpy().tolist() == [0] * 4
    with inline(echo(None), 5) as grid:
        assert list(strategy.rejected[1]) == [grid.get_node_ids()[3]]


def test_header_of_other_writers_are_read():
    for text in (
        b"{'descr':'<f4','fortran_order':False,'shape':(4,)}",
        b'{"shape": (4, ), "fortran_order": False, "descr": "<f4"}\n',
    ):
        assert unpacked(Array("float32", (4,), "numpy.ndarray", npy(text))).tolist() == [0] * 4


def test_the_fleet_refuses_a_malformed_header_too():
    bad = ArrayRecord({"delta": Array("float32", (4,), "numpy.ndarray", npy(HEADERS["empty descr"]))})
    good = client_app(lambda context: clients)

    def mixed(message, context):
        reply = good(message, context)
        if context.node_config["partition-id"] == 1 and message.metadata.message_type == "train":
            reply.content["arrays"] = bad
        return reply

    clients = [Ones() for _ in range(3)]
    with inline(mixed, 3) as grid:
        admitted = Fleet(grid, clients, 0)(dict(enumerate(clients)), np.zeros(4, np.float32), 1)
    assert (admitted.ids, list(admitted.rejected)) == ((0, 2), [1])
    assert "plain numbers" in admitted.rejected[1]


class Ones:
    """A client that remembers under a name that it declares, and under others."""

    state_names = ("seen",)

    def __init__(self, extra=()):
        self.state, self.extra = {}, extra

    def fit(self, parameters, round):
        from fl_impl import ClientUpdate

        self.state["seen"] = self.state.get("seen", np.zeros(4, np.float32)) + 1
        self.state |= {name: np.ones(4, np.float32) for name in self.extra}
        return ClientUpdate(np.ones(4), 1, 0.5)


def test_a_node_stores_nothing_but_the_names_that_its_class_declares():
    clients = [Ones(), Ones([f"n{i}" for i in range(300)]), Ones()]
    remote = [Ones(), Ones([f"n{i}" for i in range(300)]), Ones()]
    with inline(client_app(lambda context: remote), 3) as grid:
        fleet = Fleet(grid, clients, 0)
        for number in (1, 2):
            rejected = fleet(dict(enumerate(clients)), np.zeros(4, np.float32), number).rejected
    assert [sorted(client.state) for client in clients] == [["seen"]] * 3
    assert [client.state["seen"].tolist() for client in clients] == [[2] * 4] * 3
    assert list(rejected) == [1]
    assert "state 'n0' is not kept" in rejected[1]


def test_reasons_and_metrics_of_a_hostile_node_are_short():
    def hostile(message, context):
        i = int(context.node_config["partition-id"])
        if i == 0:
            return Message(Error(2, "e" * 1_000_000), reply_to=message)
        metrics = MetricRecord({"num-examples": 1, "loss": 0.5, **({f"m{j}": 1.0 for j in range(300)} if i == 1 else {})})
        arrays = message.content["arrays"]
        if i == 2:
            arrays = ArrayRecord({"x" * 10**6: arrays["0"]})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    strategy = RobustStrategy("mean", **QUIET)
    with inline(hostile, 5) as grid:
        result = strategy.start(grid, ArrayRecord([np.zeros(2, np.float32)]), num_rounds=1)
    assert set(result.train_metrics_clientapp[1]) == {"num-examples", "loss"}
    assert sorted(len(reason) <= 200 for reason in strategy.rejected[1].values()) == [True, True]


def test_errors_of_an_app_that_is_tested_are_short():
    server, client = ServerApp(), ClientApp()

    @server.main()
    def main(grid, context):
        RobustStrategy("mean", min_train_nodes=1, min_available_nodes=1, **QUIET).start(
            grid, ArrayRecord([np.zeros(2)]), num_rounds=1
        )

    @client.train()
    def train(message, context):
        raise RuntimeError("e" * 10**6)

    assert len(run_app((server, client), rounds=1, nodes=1).errors[1][0]) == 200


class Dying(InlineGrid):
    """A grid whose SuperLink answers for the nodes that are dead, under its own id."""

    dead: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        for reply in list(replies):
            if reply.metadata.src_node_id in self.silent:
                replies.remove(reply)
            if reply.metadata.src_node_id in self.dead:
                reply.metadata.__dict__["_src_node_id"] = 1
                reply.__dict__["_content"], reply.__dict__["_error"] = None, Error(5, "node unavailable")
        return replies


def test_each_dead_node_is_an_entry_of_its_own():
    with inline(echo(lambda i, record: record), 7) as plain:
        grid = Dying(plain.client_app, plain.contexts)
        nodes = grid.get_node_ids()
        grid.dead, grid.silent = tuple(nodes[:3]), (nodes[4],)
        strategy = RobustStrategy("mean", **QUIET)
        strategy.start(grid, ArrayRecord([np.zeros(2, np.float32)]), num_rounds=1, timeout=0.1)
    assert strategy.rejected[1] == {**dict.fromkeys(nodes[:3], "error 5: node unavailable"), nodes[4]: "no reply"}


def test_f_follows_those_that_were_asked_however_many_reply():
    told = []

    def rule(updates, f):
        told.append((len(updates), f))
        return updates.mean(axis=0)

    def lossy(message, context):
        if int(context.node_config["partition-id"]) < 3:
            return Message(Error(2, "crashed"), reply_to=message)
        return echo(lambda i, record: record)(message, context)

    run(lossy, ArrayRecord([np.zeros(2, np.float32)]), n=10, rule=rule, byzantine_fraction=0.3)
    assert told == [(7, 3)]  # a fraction of the seven that came would be 2


def test_nodes_that_leave_do_not_lower_f():
    told = []

    def rule(updates, f):
        told.append((len(updates), f))
        return updates.mean(axis=0)

    class Leaving(InlineGrid):
        rounds = 0

        def get_node_ids(self):
            return super().get_node_ids()[: 10 if self.rounds < 2 else 7]

        def push_messages(self, messages):
            self.rounds += 1
            return super().push_messages(messages)

    with inline(echo(lambda i, record: record), 10) as plain:
        strategy = RobustStrategy(rule, byzantine_fraction=0.3, **QUIET)
        strategy.start(Leaving(plain.client_app, plain.contexts), ArrayRecord([np.zeros(2, np.float32)]), num_rounds=2)
    assert told == [(10, 3), (7, 3)]


def test_f_of_a_sample_may_be_one_that_is_rarely_exceeded():
    told = []

    def rule(updates, f):
        told.append(f)
        return updates.mean(axis=0)

    for tolerance in (None, 0.01, 0.0):
        run(
            echo(lambda i, record: record), ArrayRecord([np.zeros(2, np.float32)]), n=20, rule=rule, byzantine_fraction=0.2,
            fraction_train=0.5, sample_tolerance=tolerance,
        )  # fmt: skip
    assert told == [2, 4, 4]  # P(more than 3 of the 4 among 10 of 20) = 0.043
    with pytest.raises(ValueError, match="sample_tolerance is a probability"):
        RobustStrategy("mean", sample_tolerance=1.5, **QUIET)


def test_bytes_that_are_no_message_cost_only_their_sender():
    class Broken(InlineGrid):
        bad, node = "", 0

        def push_messages(self, messages):
            messages = list(messages)
            ids = super().push_messages(messages)
            if not self.bad:
                self.bad, self.node = ids[1], messages[1].metadata.dst_node_id
            return ids

        def pull_messages(self, message_ids):
            if self.bad in message_ids:
                raise KeyError("children")
            return super().pull_messages(message_ids)

    with inline(echo(lambda i, record: record), 4) as plain:
        grid = Broken(plain.client_app, plain.contexts)
        strategy = RobustStrategy("mean", **QUIET)
        strategy.start(grid, ArrayRecord([np.zeros(2, np.float32)]), num_rounds=1)
        assert strategy.rejected[1] == {grid.node: "error 0: it cannot be read: KeyError: 'children'"}
        assert pull(grid, [grid.bad])[0].metadata.reply_to_message_id == grid.bad


@pytest.mark.parametrize("target", ["decoder", "strategy", "fleet", "wire"])
def test_whatever_a_reply_holds_the_server_goes_on(target):
    before = sum(TALLY.values())
    fuzz(target, 40, seed=0)
    assert sum(TALLY.values()) > before


def test_an_origin_that_is_no_numbers_is_the_users_error():
    with pytest.raises(ValueError, match="not plain numbers"):
        run(echo(lambda i, record: record), ArrayRecord([np.zeros(2, np.complex64)]))
