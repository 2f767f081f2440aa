"""Secure sums and local noise on Flower: what the server learns, what nodes refuse, and a federation over the network."""

from __future__ import annotations

import logging
import os
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

import flower_secure as app
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_impl.flower import RobustStrategy, SecureStrategy, local_noise_mod, make_federation, secure_mod
from fl_impl.flower.deployment.launch import deployed
from fl_impl.flower.inline import inline
from fl_impl.flower.secure_members import FEDERATION, IDENTITY, LEAST, make_identity, read_member
from fl_impl.flower.secure_messages import about, carried
from fl_impl.privacy.accounting import PrivacyBudgetError
from fl_impl.privacy.ledger import Ledger
from fl_impl.privacy.secure_aggregation import Least, SecureAggregationError

N = 4
MEAN = (N + 1) / 16
"""Of the clients' steps of (i + 1) / 8."""
QUIET = {"fraction_evaluate": 0.0}


@pytest.fixture
def folder(tmp_path):
    make_federation(tmp_path, N)
    return tmp_path


def client_of(folder, train=app.train, **options):
    made = ClientApp(mods=[secure_mod(f"{folder}/client-{{partition-id}}", **options)])
    made.train()(train)
    return made


def run(folder, *, rounds=2, call=None, heard=None, nodes=N, strategy=SecureStrategy, **options):
    """(the strategy afterwards, its result)."""
    made = strategy(folder / "server", **QUIET, **options)
    with inline(call or client_of(folder), nodes, heard=heard) as grid:
        result = made.start(grid, app.initial(), num_rounds=rounds)
    return made, result


def weights(result):
    return result.arrays["weights"].numpy()


class TestASum:
    def test_the_mean_of_the_updates_comes_out_and_integers_stay(self, folder):
        strategy, result = run(folder)
        np.testing.assert_allclose(weights(result), 2 * MEAN, atol=2 * N * strategy.terms.encoding.step)
        assert result.arrays["weights"].numpy().dtype == np.float32
        assert result.arrays["steps"].numpy().tolist() == [0, 1, 2]
        assert {number: found.survivors for number, found in strategy.sums.items()} == {1: (0, 1, 2, 3), 2: (0, 1, 2, 3)}
        assert strategy.failed == {}

    def test_nothing_else_of_a_client_crosses_the_network(self, folder):
        replies = []
        _, result = run(
            folder, rounds=1, heard=lambda _, reply: replies.append(reply), call=client_of(folder, metrics=["loss"])
        )
        assert len(replies) == 6 * N
        for reply in replies:
            assert set(reply.content.array_records) == {"secure-message"}
            assert dict(reply.content["secure-sum"]).keys() == {"number"}
            assert all(dict(record) == {"loss": 0.5} for record in reply.content.metric_records.values())
        masked = [carried(reply.content)[1] for reply in replies[3 * N : 4 * N]]
        for number, message in enumerate(masked):
            for dtype in ("<f4", "<f8"):
                assert np.asarray(app.step(number), dtype).tobytes()[:16] not in message
        assert result.train_metrics_clientapp[1] == {"loss": 0.5}

    def test_weights_are_masked_and_weigh(self, folder):
        _, result = run(folder, rounds=1, most_examples=10, clip_bound=20.0)
        count = np.arange(1, N + 1)
        np.testing.assert_allclose(weights(result), (count * count / 8).sum() / count.sum(), rtol=1e-4)

    def test_a_weight_above_what_was_agreed_is_not_sent(self, folder):
        strategy, result = run(folder, rounds=1, most_examples=3)
        assert strategy.sums[1].survivors == (0, 1, 2)
        assert list(strategy.rejected[1].values()) == ["error 6: its update cannot be summed"]
        np.testing.assert_allclose(weights(result), (1 + 4 + 9) / 8 / 6, rtol=1e-4)

    def test_updates_are_clipped_to_the_length_that_was_agreed(self, folder):
        _, result = run(folder, rounds=1, clip_bound=0.25)
        np.testing.assert_allclose(np.linalg.norm(weights(result)), 0.25, rtol=1e-4)

    def test_arrays_that_are_excluded_stay(self, folder):
        with pytest.raises(ValueError, match="no floating point numbers are left to sum"):
            run(folder, exclude=["w*"])

    def test_noise_is_that_of_the_terms_and_divides_by_all(self, folder):
        _, result = run(folder, rounds=1, clip_bound=1.0, noise_multiplier=50.0)
        most = 50 * np.sqrt(N / 2) / N  # all stay: each of four adds what two must have added together
        assert 0.6 * most < weights(result).std() < 1.5 * most

    def test_a_budget_is_entered_before_each_round_and_ends_the_run(self, folder):
        ledger = Ledger()
        options = {"epsilon": 8.0, "delta": 1e-5, "num_rounds": 2, "clip_bound": 1.0, "ledger": ledger}
        with pytest.raises(PrivacyBudgetError):
            run(folder, rounds=3, **options)
        assert [entry.round for entry in ledger.entries] == [1, 2]
        assert 7.9 < ledger.epsilon(1e-5) <= 8.0 * (1 + 1e-9)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"fraction_train": 0.5}, "all clients of a secure sum are asked"),
            ({"most_examples": 3, "noise_multiplier": 1.0}, "noise covers an unweighted sum"),
            ({"epsilon": 1.0}, "a budget is epsilon, delta and num_rounds"),
            ({"corrupt": 3}, "must remain"),
            ({"exclude": "steps"}, "exclude is several patterns"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, folder, options, said):
        with pytest.raises(ValueError, match=said):
            SecureStrategy(folder / "server", **QUIET, **options)


class TestWhatANodeInsistsOn:
    """In a file of its own: nothing that a server sends can lower it."""

    @pytest.mark.parametrize(
        ("least", "offered", "said"),
        [
            (Least(noise_std=2.0), {"noise_multiplier": 1.0, "clip_bound": 1.0}, "noise of 1, where 2 is the least"),
            (Least(bound=1.0), {"clip_bound": 2.0}, "a bound of 2, where 1 is the greatest"),
            (Least(honest=4), {}, "a sum of 3, where 4 is the least"),
            (Least(corrupt=1), {}, "corrupt clients of 0, where 1 is the least"),
        ],
    )
    def test_worse_terms_are_refused_by_all(self, tmp_path, least, offered, said):
        make_federation(tmp_path, N, least)
        strategy, result = run(tmp_path, rounds=1, **offered)
        assert strategy.sums == {}
        assert len(strategy.rejected[1]) == N
        assert all(said in reason for reason in strategy.rejected[1].values())
        assert not result.arrays

    def test_the_same_terms_are_taken(self, tmp_path):
        make_federation(tmp_path, N, Least(noise_std=1.0, bound=1.0, honest=3))
        strategy, _ = run(tmp_path, rounds=1, noise_multiplier=1.0, clip_bound=1.0)
        assert strategy.failed == {}

    def test_a_plain_message_to_train_is_refused(self, folder):
        with inline(client_of(folder), N) as grid:
            result = RobustStrategy("mean", **QUIET).start(grid, app.initial(), num_rounds=1)
        assert not result.arrays

    def test_an_app_without_a_folder_says_so(self, folder):
        strategy, _ = run(folder, rounds=1, call=client_of(folder / "elsewhere"))
        assert all("cannot read" in reason for reason in strategy.rejected[1].values())


class TestAServerThatLies:
    @pytest.mark.parametrize("changed", ["arrays", "config", "how it is summed"])
    def test_who_gives_one_client_another_model_learns_nothing(self, folder, changed):
        """Pasquini et al. 2022: the others are sent a model on which their updates are 0."""

        class TwoModels(SecureStrategy):
            def configure_train(self, *arguments):
                messages = list(super().configure_train(*arguments))
                content = messages[0].content
                if changed == "arrays":
                    content["arrays"] = ArrayRecord({**content["arrays"], "weights": app.array(np.ones(app.D, np.float32))})
                elif changed == "config":
                    content["config"] = ConfigRecord({**content["config"], "learning-rate": 0.0})
                else:
                    content["secure-sum"]["exclude"] = ["nothing*"]
                return messages

        strategy, _ = run(folder, rounds=1, strategy=TwoModels)
        total = strategy.sums[1].total
        expected = np.sum([app.step(i) for i in range(N)], axis=0)
        assert np.abs(total - expected).max() > 1.0
        assert total.std() > 0.1 * N * strategy.clip_bound  # of numbers drawn from the whole ring

    def test_each_stage_of_a_session_is_answered_once_however_often_a_state_comes_back(self, folder):
        """A server asks two copies of a node, of the same state, to sign other lists of survivors."""
        call, kept, answers = client_of(folder), {}, []

        def twice(message, context):
            before = {name: dict(record) for name, record in context.state.items()}
            reply = call(message, context)
            if int(context.node_config["partition-id"]) == 0:
                after = dict(context.state.items())
                for name in list(context.state):
                    del context.state[name]
                for name, record in before.items():
                    context.state[name] = ConfigRecord(record)
                answers.append(call(message, context))
                for name in list(context.state):
                    del context.state[name]
                for name, record in after.items():
                    context.state[name] = record
            return reply

        del kept
        strategy, _ = run(folder, rounds=1, call=twice)
        assert strategy.failed == {}
        assert len(answers) == 6
        assert all(reply.has_error() for reply in answers)

    def test_a_session_is_not_entered_twice(self, folder):
        member = read_member(folder / "client-1")
        member.begin(bytes(16))
        with pytest.raises(SecureAggregationError, match="replays"):
            read_member(folder / "client-1").begin(bytes(16))
        member.turn(bytes(16), "share")
        with pytest.raises(SecureAggregationError, match="not to share now"):
            member.turn(bytes(16), "share")

    def test_nothing_of_a_session_is_left_behind(self, folder):
        with inline(client_of(folder), N) as grid:
            SecureStrategy(folder / "server", **QUIET).start(grid, app.initial(), num_rounds=1)
            assert all(not context.state for context in grid.contexts.values())


class TestNodesThatFail:
    @pytest.mark.parametrize("stage", ["advertise", "share", "confirm", "mask", "agree", "reveal"])
    def test_a_node_that_leaves_at_any_stage_costs_its_own_update_at_most(self, folder, stage):
        call = client_of(folder)

        def leaving(message, context):
            if int(context.node_config["partition-id"]) == 2 and message.content["secure-sum"]["stage"] == stage:
                raise RuntimeError("gone")
            return call(message, context)

        strategy, result = run(folder, rounds=1, call=leaving)
        there = [i for i in range(N) if i != 2 or stage in ("agree", "reveal")]
        assert strategy.sums[1].survivors == tuple(there)
        np.testing.assert_allclose(weights(result), np.mean([(i + 1) / 8 for i in there]), atol=1e-5)
        assert len(strategy.rejected[1]) == 1

    def test_an_update_that_is_not_finite_is_not_sent_and_nothing_is_said_of_it(self, folder):
        def bad(message, context):
            reply = app.train(message, context)
            if int(context.node_config["partition-id"]) == 1:
                reply.content["arrays"]["weights"] = app.array(np.full(app.D, np.nan, np.float32))
            return reply

        strategy, _ = run(folder, rounds=1, call=client_of(folder, bad))
        assert strategy.sums[1].survivors == (0, 2, 3)
        assert list(strategy.rejected[1].values()) == ["error 6: its update cannot be summed"]

    def test_too_few_leave_the_model_as_it_is_and_the_next_round_goes_on(self, folder):
        call = client_of(folder)

        def leaving(message, context):
            first = message.content["config"]["server-round"] == 1 if "config" in message.content else False
            if first and int(context.node_config["partition-id"]) in {1, 2}:
                raise RuntimeError("gone")
            return call(message, context)

        strategy, result = run(folder, rounds=2, call=leaving)
        assert "2 clients remain of 4" in strategy.failed[1]
        assert list(strategy.sums) == [2]
        np.testing.assert_allclose(weights(result), MEAN, atol=1e-5)

    def test_who_speaks_in_anothers_name_costs_nobody_but_itself(self, folder):
        call = client_of(folder)

        def liar(message, context):
            reply = call(message, context)
            if int(context.node_config["partition-id"]) == 0 and reply.has_content():
                reply.content["secure-sum"]["number"] = 1
            return reply

        strategy, _ = run(folder, rounds=1, call=liar)
        assert strategy.sums[1].survivors == (1, 2, 3)
        (reason,) = strategy.rejected[1].values()
        assert "was not signed by who should have sent it" in reason or "of one that has spoken" in reason


class TestFolders:
    def test_secrets_are_readable_by_their_owner_alone(self, folder):
        assert stat.S_IMODE((folder / "client-0" / IDENTITY).stat().st_mode) == 0o600
        with pytest.raises(FileExistsError):
            make_identity(folder / "client-0")

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            (FEDERATION, "{}", "expected server and clients"),
            (FEDERATION, "[", "holds no JSON object"),
            (FEDERATION, '{"server": "00", "clients": []}', "keys have 32"),
            (LEAST, '{"noise": 3}', "noise"),
            (IDENTITY, "xyz", "hexadecimal"),
        ],
    )
    def test_what_cannot_be_read_is_refused_with_the_file(self, folder, name, text, said):
        (folder / "client-0" / name).write_text(text)
        with pytest.raises(ValueError, match=said):
            read_member(folder / "client-0")

    def test_a_server_is_no_client(self, folder):
        with pytest.raises(ValueError, match="not that of a client"):
            _ = read_member(folder / "server").number


def test_a_digest_tells_all_that_clients_are_told_apart():
    def content(value=1.0, dtype=np.float32, name="config", key="rate", data=0.0):
        arrays = ArrayRecord({"w": app.array(np.full(2, data, dtype))})
        return RecordDict({"arrays": arrays, name: ConfigRecord({key: value})})

    told = [
        content(), content(1), content(True), content("1.0"), content(b"1"), content(dtype=np.float64),
        content(name="more"), content(key="ra"), content(data=1.0), content([1.0]),
    ]  # fmt: skip
    assert len({about(each) for each in told}) == len(told)
    assert about(content()) == about(content())


class TestLocalNoise:
    def federation(self, folder, num_rounds, **options):
        said = []

        def train(message, context):
            said.append(context.node_config["partition-id"])
            return app.train(message, context)

        made = ClientApp(mods=[local_noise_mod(8.0, 1e-5, folder=f"{folder}/client-{{partition-id}}", **options)])
        made.train()(train)
        replies = []
        with inline(made, N, heard=lambda _, reply: replies.append(reply)) as grid:
            strategy = RobustStrategy("mean", **QUIET)
            result = strategy.start(grid, app.initial(), num_rounds=num_rounds)
        return strategy, result, replies, said

    def test_each_update_leaves_its_client_clipped_and_with_noise(self, folder):
        _, _, replies, _ = self.federation(folder, 1, rounds=1, clip_bound=0.5)
        sent = np.stack([reply.content["arrays"]["weights"].numpy() for reply in replies])
        scale = local_noise_mod(8.0, 1e-5, rounds=1).mechanism.noise_multiplier * 0.5
        assert 0.75 * scale < (sent - sent.mean(axis=0)).std() * np.sqrt(N / (N - 1)) < 1.3 * scale
        assert all(reply.content["arrays"]["steps"].numpy().tolist() == [0, 1, 2] for reply in replies)
        assert all(dict(reply.content["metrics"]) == {"num-examples": 1} for reply in replies)

    def test_a_client_keeps_its_own_ledger_and_trains_no_more_once_its_budget_is_spent(self, folder):
        strategy, _, _, said = self.federation(folder, 3, rounds=2)
        assert len(said) == 2 * N
        assert all("is spent" in reason for reason in strategy.rejected[3].values())
        again, _, _, said = self.federation(folder, 1, rounds=2)
        assert said == []
        assert len(again.rejected[1]) == N

    def test_more_noise_for_more_rounds(self):
        few, many = (local_noise_mod(1.0, 1e-5, rounds=rounds).mechanism.noise_multiplier for rounds in (1, 100))
        assert many == pytest.approx(10 * few)


def test_the_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).parents[1] / "docs" / "flower.md").read_text().split("## Secure sums and local noise")[1]
    exec(compile(page.split("```python\n")[1].split("```")[0], "docs/flower.md", "exec"), {})
    printed = np.array(capsys.readouterr().out.strip("[]\n ").split(), float)
    np.testing.assert_allclose(printed, np.full(4, 6.0), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [pytest.param(20, id="20 nodes")])
def test_a_federation_over_the_network_with_two_killed_nodes(tmp_path, monkeypatch, nodes):
    """Five rounds; one node is killed between two rounds, another in the midst of a session, after it dealt its shares."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    tests = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}:{tests}")  # of the nodes
    monkeypatch.setenv("FEDERATION", str(tmp_path))
    make_federation(tmp_path, nodes)
    between, midst = 3, 5

    with deployed(nodes, client_app="flower_secure:client") as (grid, deployment):
        deadline = time.monotonic() + 300
        while len(list(grid.get_node_ids())) < nodes and time.monotonic() < deadline:
            time.sleep(0.2)

        class Struck(SecureStrategy):
            def configure_train(self, server_round, *arguments):
                if server_round == 2:
                    os.kill(deployment.supernodes[between][0], signal.SIGKILL)
                messages = super().configure_train(server_round, *arguments)
                if server_round == 3:
                    os.kill(deployment.supernodes[midst][0], signal.SIGKILL)
                return messages

        strategy = Struck(tmp_path / "server", stage_timeout=200, **QUIET)
        result = strategy.start(grid, app.initial(), num_rounds=5, timeout=200)
    left = {1: set(), 2: {between}, 3: {between, midst}, 4: {between, midst}, 5: {between, midst}}
    assert {number: set(range(nodes)) - set(found.survivors) for number, found in strategy.sums.items()} == left
    assert strategy.failed == {}
    expected = sum(np.mean([(i + 1) / 8 for i in set(range(nodes)) - gone]) for gone in left.values())
    np.testing.assert_allclose(weights(result), expected, atol=1e-4)
