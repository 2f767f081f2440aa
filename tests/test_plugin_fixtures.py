"""The fixtures: rules and attacks that multiply a test, attacked rounds, federations run once for equal settings."""

import json

import pytest

BOTH = """
    def test_it(fl_aggregator, fl_attack, request):
        attack = "none" if fl_attack is None else fl_attack.spec
        assert request.node.name in (f"test_it[{fl_aggregator.spec}-{attack}]", "test_it")
"""


def names(result):
    return [line.split("::")[1].split(" ")[0] for line in result.outlines if "::" in line and "PASSED" in line]


def test_names_multiply_a_test_that_uses_the_fixture(run, pytester):
    pytester.makepyfile(BOTH + "\n    def test_other(): pass\n")
    result = run("-v", "--fl-aggregator=mean, krum ,nnm|trimmed_mean,multi_krum(m=2)", "--fl-attack=sign_flip,none")
    result.assert_outcomes(passed=9)
    rules = ("mean", "krum", "nnm|trimmed_mean", "multi_krum(m=2)")
    assert set(names(result)) == {"test_other", *(f"test_it[{r}-{a}]" for r in rules for a in ("sign_flip", "none"))}


def test_one_default_and_a_plain_name_where_nobody_names_any(run, pytester):
    pytester.makepyfile(BOTH)
    assert names(run("-v")) == ["test_it"]


def test_marker_names_and_command_line_wins(run, pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.fl(aggregator=["krum", "mean"], attack="none")
        def test_it(fl_aggregator, fl_attack): pass
    """)
    assert names(run("-v")) == ["test_it[krum-none]", "test_it[mean-none]"]
    assert names(run("-v", "--fl-aggregator=meamed")) == ["test_it[meamed-none]"]


def test_ini_names(run, pytester):
    pytester.makeini("[pytest]\nfl_aggregator = krum,nnm|trimmed_mean")
    pytester.makepyfile("def test_it(fl_aggregator): pass")
    assert names(run("-v")) == ["test_it[krum]", "test_it[nnm|trimmed_mean]"]


def test_a_test_that_parametrizes_itself_is_left_alone(run, pytester):
    pytester.makepyfile("""
        import pytest

        def own(updates, f):
            return updates[0]

        @pytest.mark.parametrize("fl_aggregator", ["krum", own], indirect=True, ids=["krum", "own"])
        def test_it(fl_aggregator):
            assert fl_aggregator is own or fl_aggregator.name == "krum"
    """)
    assert names(run("-v", "--fl-aggregator=mean,meamed")) == ["test_it[krum]", "test_it[own]"]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--fl-aggregator=krumm", "fl_aggregator: expected an aggregator, got 'krumm'; did you mean 'krum'?"),
        ("--fl-attack=sign_flop", "fl_attack: expected an attack, got 'sign_flop'; did you mean 'sign_flip'?"),
        ("--fl-aggregator=mean,,krum", "--fl-aggregator: expected names with commas between"),
    ],
)
def test_wrong_names_are_one_line(run, pytester, argument, told):
    pytester.makepyfile(BOTH)
    result = run(argument)
    result.assert_outcomes(errors=1)
    assert told in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


@pytest.mark.usefixtures("run")
def test_collection_imports_no_rule(pytester):
    pytester.makepyfile("def test_it(fl_aggregator, fl_attack, fl_federation): pass")
    pytester.makeconftest("""
        import sys

        def pytest_collection_finish():
            assert not {"numpy", "torch", "fl_impl.aggregators", "fl_impl.attacks"} & set(sys.modules)
    """)
    arguments = ("-p", "pytest_fl.plugin", "--collect-only", "--fl-aggregator=mean,krum", "--fl-attack=sign_flip,mimic")
    result = pytester.runpytest_subprocess(*arguments)
    result.stdout.fnmatch_lines(["*4 tests collected*"])


def test_round_is_what_the_knobs_say_and_the_same_each_time(run, pytester):
    pytester.makepyfile("""
        import json
        import numpy as np
        from pathlib import Path

        def test_it(fl_round, fl_attack, request):
            assert (fl_round.n, fl_round.f, fl_round.updates.shape) == (7, 2, (7, 64))
            assert len(fl_round.byzantine) == (0 if fl_attack is None else 2)
            if fl_attack is not None and fl_attack.name == "zero":
                assert not fl_round.updates[list(fl_round.byzantine)].any()
                assert fl_round.honest.any(axis=1).all()
            with Path("seen.json").open("a") as file:
                file.write(json.dumps([request.node.nodeid, fl_round.updates.sum()]) + "\\n")

        test_other = test_it
    """)
    options = ("--fl-clients=7", "--fl-byzantine=1/3", "--fl-attack=zero,none,sign_flip")
    for seed in ("--fl-seed=1", "--fl-seed=1", "--fl-seed=2"):
        run(*options, seed).assert_outcomes(passed=6)
    seen = [json.loads(line) for line in (pytester.path / "seen.json").read_text().splitlines()]
    assert seen[:6] == seen[6:12]
    assert len({total for _, total in seen}) == 12


def test_round_refuses_an_attack_on_data(run, pytester):
    pytester.makepyfile("def test_it(fl_round): pass")
    result = run("--fl-attack=label_flip")
    result.assert_outcomes(errors=1)
    assert "fl_round: label_flip acts on data, not on updates: use fl_federation" in result.stdout.str()


FAKE = """
    import pytest
    from types import SimpleNamespace
    from pytest_fl.plugin import federations

    @pytest.fixture(scope="session")
    def ran():
        return []

    @pytest.fixture(autouse=True)
    def instead_of_training(monkeypatch, ran):
        def federate(settings, clients):
            ran.append(settings)
            accuracy = 0.9 if settings["attack"] is None else 0.5
            rounds = [SimpleNamespace(accuracy=accuracy, global_loss=1.0, f=2)] * settings["num_rounds"]
            return SimpleNamespace(rounds=rounds, settings=settings, clients=clients)

        monkeypatch.setattr(federations, "_federate", federate)
"""


def test_federation_takes_what_is_not_said_from_the_knobs(run, pytester):
    pytester.makeconftest(FAKE)
    pytester.makepyfile("""
        def test_it(fl_federation, fl_aggregator):
            settings = fl_federation(rounds=2, dataset="wine").settings
            assert {name: settings[name] for name in settings if name not in ("aggregation", "attack")} == {
                "num_rounds": 2, "num_clients": 6, "byzantine_fraction": 0.25, "seed": 0, "backend": "local",
                "device": "cpu", "dataset": "wine",
            }
            assert settings["aggregation"] is fl_aggregator and fl_aggregator.name == "krum"
            assert settings["attack"].name == "mimic"
            assert fl_federation(attack=None, seed=3).settings["attack"] is None
            assert fl_federation(aggregator="mean", byzantine=0).settings["byzantine_fraction"] == 0
            assert fl_federation(clients=["a", "b", "c"]).settings["num_clients"] == 3
            assert fl_federation(clients=["a", "b", "c"]).clients == ["a", "b", "c"]
    """)
    turned = ("--fl-rounds=20", "--fl-clients=6", "--fl-byzantine=0.25", "--fl-aggregator=krum", "--fl-attack=mimic")
    run(*turned).assert_outcomes(passed=1)


def test_equal_settings_are_run_once_a_session(run, pytester):
    pytester.makeconftest(FAKE)
    pytester.makepyfile("""
        import numpy as np

        def own(updates, f):
            return updates[0]

        def test_one(fl_federation):
            assert fl_federation() is fl_federation()
            assert fl_federation(attack=None) is not fl_federation()

        def test_two(fl_federation, fl_aggregator, fl_attack, ran):
            fl_federation(aggregator="nnm|trimmed_mean", attack="sign_flip")
            fl_federation(aggregator=fl_aggregator, attack=fl_attack)
            assert len(ran) == 2
            fl_federation(aggregator=own), fl_federation(aggregator=own)
            assert len(ran) == 3
            fl_federation(seed=1), fl_federation(rounds=3)
            assert len(ran) == 5
            fl_federation(clients=[1, 2, 3]), fl_federation(clients=[1, 2, 3])  # they may remember: run again
            assert len(ran) == 7
            fl_federation(dataset=(np.eye(2), [0, 1])), fl_federation(dataset=(np.eye(2), [0, 1]))  # no key: run again
            assert len(ran) == 9
    """)
    run().assert_outcomes(passed=2)


@pytest.mark.parametrize("workers", [[], ["-p", "xdist.plugin", "-n", "2"]], ids=["alone", "workers"])
def test_federations_stand_in_the_table(run, pytester, workers):
    pytester.makeconftest(FAKE)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.byzantine
        def test_it(fl_federation, fl_attack):
            fl_federation()
            assert fl_federation().rounds[-1].accuracy > (0.4 if fl_attack.name == "mimic" else 0.6)

        def test_clean(fl_federation):
            fl_federation(attack=None)
    """)
    result = run("--fl-rounds=20", "--fl-attack=mimic,sign_flip", "--fl-aggregator=mean,multi_krum(m=3)", *workers)
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines(
        [
            "aggregator       attack     rounds  clients  f  clean  attacked  test",
            "mean             mimic          20       10  2  90.0%     50.0%  passed",
            "mean             sign_flip      20       10  2  90.0%     50.0%  failed",
            "multi_krum(m=3)  mimic          20       10  2  90.0%     50.0%  passed",
            "multi_krum(m=3)  sign_flip      20       10  2  90.0%     50.0%  failed",
        ],
        consecutive=True,
    )


@pytest.mark.usefixtures("run")
def test_a_real_federation_under_attack(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.byzantine
        def test_it(fl_federation, fl_clients, fl_rounds):
            attacked, clean = fl_federation(), fl_federation(attack=None)
            assert len(attacked.rounds) == len(clean.rounds) == fl_rounds == 4
            assert (len(fl_clients), attacked.final.f, len(attacked.final.byzantine)) == (8, 2, 2)
            again = fl_federation(clients=fl_clients)
            assert again.rounds == attacked.rounds and again is not attacked
            assert attacked.final.accuracy > 0.3
    """)
    options = ("--fl-rounds=4", "--fl-clients=8", "--fl-byzantine=1/4", "--fl-attack=sign_flip")
    plugins = ("-p", "pytest_fl.plugin", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*plugins, *options, "-m", "byzantine")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"nnm\|trimmed_mean  sign_flip       4        8  2 +\d\S+% +\d\S+%  passed"])
    assert not list(pytester.path.glob("*.json")), "a test leaves no metrics file behind"
