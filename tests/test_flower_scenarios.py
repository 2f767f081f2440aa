"""The scenarios by which Flower tests its own strategies, for `RobustStrategy`: values and shapes a person can check by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl_impl.flower import RobustStrategy
from fl_impl.flower.inline import inline

QUIET = {"fraction_evaluate": 0.0}


def aggregated(rule, models, sent=None, counts=None, losses=None, **options):
    """(arrays, metrics, strategy) after one round in which client i answers with models[i]; None is an error."""
    n = len(models)

    def call(message, context):
        i = int(context.node_config["partition-id"])
        if models[i] is None:
            return Message(Error(2, "crashed"), reply_to=message)
        metrics = {"num-examples": (counts or [1] * n)[i]} | ({} if losses is None else {"loss": losses[i]})
        arrays = ArrayRecord([np.asarray(part, np.float32) for part in models[i]])
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)}), reply_to=message)

    first = next((model for model in models if model is not None), [])
    origin = [np.zeros_like(np.asarray(part, np.float32)) for part in first] if sent is None else sent
    strategy = RobustStrategy(rule, **{**QUIET, **options})
    with inline(call, n) as grid:
        messages = strategy.configure_train(1, ArrayRecord(origin), ConfigRecord(), grid)
        arrays, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
    return None if arrays is None else arrays.to_numpy_ndarrays(), metrics, strategy


def model_of(value):
    """Two layers, one with a bias's shape."""
    return [np.full((2, 3), value), np.full(3, value)]


def values(rule, numbers, **options):
    """The one value of all coordinates."""
    arrays, _, strategy = aggregated(rule, [model_of(number) for number in numbers], **options)
    assert [part.shape for part in arrays] == [(2, 3), (3,)]
    assert [part.dtype for part in arrays] == [np.float32] * 2
    assert not strategy.rejected[1]
    (value,) = {float(x) for part in arrays for x in part.ravel()}
    return value


@pytest.mark.parametrize("sent", [0.0, 10.0, -3.5])
@pytest.mark.parametrize(
    ("rule", "numbers", "fraction", "expected"),
    [
        # Krum: the score is the sum of squared distances to the n-f-1 nearest; 0.2 and 0.4 tie at 0.14.
        ("krum", [0.1, 0.2, 0.4, 0.5, 50.0], 0.2, (0.2, 0.4)),
        ("krum", [0.5, 0.5, 0.5, 0.5, 1000.0], 0.2, (0.5,)),
        ("krum", [-1000.0, 0.25, 0.25, 0.25, 0.5, 0.5, 1000.0], 0.3, (0.25,)),
        # Multi-Krum: the mean of the n-f with the least scores.
        ("multi_krum", [0.1, 0.2, 0.4, 0.5, 50.0], 0.2, (0.3,)),
        ("multi_krum(m=1)", [0.5, 0.5, 0.5, 0.5, 1000.0], 0.2, (0.5,)),
        ("multi_krum(m=2)", [0.5, 0.5, 0.5, 3.0, 1000.0], 0.2, (0.5,)),
        # Coordinate-wise median, odd and even.
        ("coordinate_median", [0.2, 0.5, 0.1], 0.0, (0.2,)),
        ("coordinate_median", [0.2, 0.5, 0.7, 0.1], 0.0, (0.35,)),
        ("coordinate_median", [1.0], 0.0, (1.0,)),
        ("coordinate_median", [-1e6, 0.2, 0.5, 0.7, 1e6], 0.4, (0.5,)),
        # Trimmed mean: f a side cut away.
        ("trimmed_mean", [0.2, 0.5, 0.7, 0.12, 0.1, 0.1, 0.1], 0.0, (0.26,)),
        ("trimmed_mean", [0.2, 0.5, 0.7, 0.12, 0.1], 0.2, (0.82 / 3,)),
        ("trimmed_mean", [-1e6, 1.0, 2.0, 3.0, 1e6], 0.2, (2.0,)),
        # The plain mean, and Bulyan.
        ("mean", [1.0, 4.0, 7.0], 0.0, (4.0,)),
        ("bulyan", [0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 100.0], 0.15, (0.2,)),
    ],
)
def test_values_and_shapes(rule, numbers, fraction, expected, sent):
    origin = [np.full((2, 3), sent, np.float32), np.full(3, sent, np.float32)]
    options = {"min_train_nodes": 1, "min_available_nodes": 1, "byzantine_fraction": fraction, "sent": origin}
    assert any(values(rule, numbers, **options) == pytest.approx(one, rel=2e-5, abs=2e-5) for one in expected)


def test_scalars():
    """Layers of shape (): a learning rate, a temperature, a logit scale of CLIP."""
    arrays, _, _ = aggregated("coordinate_median", [[1.0, [2.0, 3.0]], [2.0, [2.0, 5.0]], [30.0, [2.0, 4.0]]])
    assert [part.shape for part in arrays] == [(), (2,)]
    assert [part.tolist() for part in arrays] == [2.0, [2.0, 4.0]]


def test_each_coordinate_on_its_own():
    models = [[[[1, 9], [5, 0]]], [[[2, 8], [5, 0]]], [[[3, 7], [-5, 90]]]]
    arrays, _, _ = aggregated("coordinate_median", models)
    assert arrays[0].tolist() == [[2, 8], [5, 0]]


def test_the_mean_is_weighted_by_claimed_counts_and_robust_rules_are_not():
    models, counts = [model_of(0.0), model_of(1.0), model_of(1.0)], [2, 1, 1]
    (mean, _), _, _ = aggregated("mean", models, counts=counts)
    (median, _), _, _ = aggregated("coordinate_median", models, counts=[1000, 1, 1])
    assert mean.ravel().tolist() == [0.5] * 6
    assert median.ravel().tolist() == [1.0] * 6


def test_metrics_are_medians():
    _, metrics, _ = aggregated("trimmed_mean", [model_of(1.0)] * 5, losses=[0.1, 0.2, 0.3, 1e9, float("nan")])
    assert metrics["loss"] == pytest.approx(0.25)


def test_no_replies_and_only_errors_leave_the_model():
    strategy = RobustStrategy("krum", **QUIET)
    assert strategy.aggregate_train(1, []) == (None, None)
    arrays, metrics, strategy = aggregated("krum", [None] * 5, sent=[np.zeros(2, np.float32)])
    assert (arrays, metrics, len(strategy.rejected[1])) == (None, None, 5)


def test_an_error_is_no_update_and_f_stays():
    arrays, _, strategy = aggregated(
        "trimmed_mean", [model_of(x) for x in (1, 2, 3)] + [None, model_of(1e6)], byzantine_fraction=0.2
    )
    assert set(strategy.rejected[1].values()) == {"error 2: crashed"}
    assert arrays[1].tolist() == [2.5] * 3  # of 1, 2, 3, 1e6 one a side is cut


def test_evaluation_is_aggregated_by_medians_too():
    def call(message, context):
        i = int(context.node_config["partition-id"])
        return Message(
            RecordDict({"metrics": MetricRecord({"num-examples": 1, "accuracy": [0.1, 0.5, 0.6][i]})}), reply_to=message
        )

    strategy = RobustStrategy("mean", fraction_train=0.0)
    with inline(call, 3) as grid:
        arrays = ArrayRecord({"w": Array(np.zeros(2, np.float32))})
        replies = grid.send_and_receive(strategy.configure_evaluate(1, arrays, ConfigRecord(), grid))
        assert strategy.aggregate_evaluate(1, replies)["accuracy"] == 0.5
