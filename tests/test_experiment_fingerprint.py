"""A stored result is used again only where data, models, rules and code are the same, not where they are called the same."""

import importlib
import sys

import numpy as np
import pytest
import torch

from fl_impl import FLConfig
from fl_impl.aggregators import krum, trimmed_mean
from fl_impl.data.labelled import Dataset
from fl_impl.experiment.fingerprint import content, fingerprint
from fl_impl.experiment.grid import TrialGrid, kept, run_grid
from fl_impl.metrics import FLMetrics

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])


def layers(fill, width=3):
    model = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(fill)
    return model


def closing_over(value):
    return lambda updates, f: updates.mean(axis=0) + value


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: (X.copy(), Y.copy()), lambda: (X.copy(), 1 - Y)),
        (lambda: (X.copy(), Y.copy()), lambda: (X + np.float32(1e-6), Y.copy())),
        (lambda: (X.copy(), Y.copy()), lambda: (X.astype(np.float64), Y.copy())),
        (lambda: (X.copy(), Y.copy()), lambda: (X.reshape(2, 6), Y.copy())),
        (lambda: torch.tensor([1.0, 2.0]).bfloat16(), lambda: torch.tensor([1.0, 2.5]).bfloat16()),
        (lambda: layers(0.1), lambda: layers(0.2)),
        (lambda: layers(0.1), lambda: layers(0.1, width=4)),
        (lambda: closing_over(1), lambda: closing_over(2)),
        (lambda: Dataset(X.copy(), Y.copy(), "mine", 2), lambda: Dataset(X.copy(), 1 - Y, "mine", 2)),
        (lambda: krum, lambda: trimmed_mean),
        (lambda: {"a": 1}, lambda: {"a": 2}),
    ],
    ids=(
        "other labels", "one number a little off", "another dtype", "another shape", "a bfloat16 tensor", "a model's state",
        "a model's structure", "a closure", "a data set", "a rule", "a mapping",
    ),
)  # fmt: skip
def test_the_content_decides(make, other):
    assert content(make()) == content(make())
    assert content(make()) != content(other())


def test_what_cannot_be_read_is_never_the_same():
    class Secret:
        def __reduce__(self):
            raise TypeError("no")

    secret = Secret()
    assert content(secret) != content(secret)


def test_an_edited_rule_is_another_rule(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_rules_edited.py"
    file.write_text("def mine(updates, f):\n    return updates.mean(axis=0)\n")
    config = FLConfig(aggregation="my_rules_edited:mine")
    before = fingerprint(config)
    assert before == fingerprint(FLConfig(aggregation="my_rules_edited:mine"))
    file.write_text("def mine(updates, f):\n    return updates.sum(axis=0)\n")
    importlib.reload(sys.modules["my_rules_edited"])
    assert fingerprint(FLConfig(aggregation="my_rules_edited:mine")) != before
    assert fingerprint(FLConfig(aggregation="my_rules_edited:mine", seed=1)) != before


def grid_of(dataset):
    settings = {"num_rounds": 8, "num_clients": 3, "learning_rate": 0.5, "dataset": dataset, "model": "linear"}
    return TrialGrid(("mean",), (), seeds=(0,), fractions=(0.0,), settings=settings)


def test_random_labels_do_not_get_the_result_of_the_true_ones(tmp_path):
    """0.1.0 knew arrays by their shapes, and gave random labels the accuracy of the true ones."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 150)
    x = (rng.normal(size=(300, 4)) + 3 * y[:, None]).astype(np.float32)
    (true,) = run_grid(grid_of((x, y)), tmp_path, workers=1).values()
    (random,) = run_grid(grid_of((x, rng.permutation(y))), tmp_path, workers=1).values()
    assert true.rounds[-1].accuracy > 0.9
    assert random.rounds[-1].accuracy < 0.8
    (again,) = run_grid(grid_of((x.copy(), y.copy())), tmp_path, workers=1).values()
    assert again.path is not None  # read, not run
    (fresh,) = run_grid(grid_of((x, y)), tmp_path, workers=1, fresh=True).values()
    assert fresh.rounds == true.rounds


def test_a_federation_that_broke_down_is_run_again(tmp_path):
    (trial,) = grid_of((X, Y)).trials()
    path = trial.path(tmp_path)
    path.parent.mkdir(parents=True)
    FLMetrics({}, error="the disk was full").save(path)
    assert kept(trial, tmp_path) is None
