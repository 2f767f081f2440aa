"""Models as people have them, three rounds on each of Flower's engines, one node an attacker: they learn."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

import flower_models as app
from flwr.app import ConfigRecord

from fl_impl.flower import RobustStrategy
from fl_impl.flower.deployment.launch import deployed
from fl_impl.flower.inline import inline
from fl_impl.flower.simulation import simulated

NODES, ROUNDS = 5, 3


@contextlib.contextmanager
def grid_of(engine):
    if engine == "inline":
        with inline(app.client, NODES) as grid:
            yield grid
    elif engine == "simulation":
        with simulated(app.client, NODES) as (grid, _):
            yield grid
    else:
        with deployed(NODES, client_app="flower_models:client") as (grid, _):
            wait_for(grid)
            yield grid


def wait_for(grid):
    """Until all nodes are there: Flower asks those that are."""
    import time

    deadline = time.monotonic() + 200
    while len(list(grid.get_node_ids())) < NODES and time.monotonic() < deadline:
        time.sleep(0.2)


def learns(name, grid, **options):
    strategy = RobustStrategy("trimmed_mean", fraction_evaluate=0.0, min_available_nodes=NODES, **options)
    before = app.initial(name)
    result = strategy.start(grid, before, num_rounds=ROUNDS, train_config=ConfigRecord({"model": name}))
    assert strategy.rejected == {number: {} for number in range(1, ROUNDS + 1)}
    assert list(result.arrays) == list(before)
    assert [a.shape for a in result.arrays.values()] == [a.shape for a in before.values()]
    assert [a.dtype for a in result.arrays.values()] == [a.dtype for a in before.values()]
    assert app.accuracy(name, before) < 0.35
    assert app.accuracy(name, result.arrays) > 0.85
    return before, result.arrays


def check(name, before, after):
    """What is special about each model."""
    if name == "batch_norm":
        steps = -(-len(range(1, 1347, NODES)) // 32) * 8 * ROUNDS
        assert after["1.num_batches_tracked"].numpy().tolist() == steps
        assert (after["1.running_var"].numpy() >= 0).all()
    if name == "tied":
        assert (after["head.weight"].numpy() == after["embedding.weight"].numpy()).all()
    if name == "frozen":
        assert (after["0.weight"].numpy() == before["0.weight"].numpy()).all()  # though the attacker sends others


@pytest.mark.parametrize("name", ["batch_norm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tied", "frozen"))])
def test_it_learns_in_this_process(name):
    with grid_of("inline") as grid:
        check(name, *learns(name, grid))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["simulation", "deployment"])
def test_they_learn_on_flowers_engines(engine, monkeypatch):
    if engine == "simulation":
        pytest.importorskip("ray", reason="ray is not installed: pip install 'flwr[simulation]'")
    folder = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}:{folder}")  # of the nodes
    monkeypatch.syspath_prepend(str(folder))
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    with grid_of(engine) as grid:
        for name in app.MODELS:
            check(name, *learns(name, grid))
