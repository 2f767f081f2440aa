"""Models that come as several arrays go through a rule as their vector would, and are not put together for it."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict

from fl_impl.aggregators import resolve
from fl_impl.flower.parts import LARGE, aggregate_parts
from fl_impl.flower.replies import is_finite
from fl_impl.flower.strategy import RobustStrategy

SIZES = (3, LARGE, 0, 7, LARGE + 5, 1)


def models(n, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [tuple(rng.normal(size=size).astype(dtype) for size in SIZES) for _ in range(n)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "spec", ["trimmed_mean", "coordinate_median", "meamed", "krum", "geometric_median", "nnm|trimmed_mean"]
)
def test_the_bits_are_those_of_the_vectors(spec, dtype):
    given, rule = models(11, dtype), resolve(spec)
    found = aggregate_parts(rule, 2, given)
    assert found.dtype == dtype
    assert np.array_equal(found, rule([np.concatenate(parts) for parts in given], f=2))


def reply(node, arrays):
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, metadata=Metadata(1, str(node), node + 2, 0, "", "", 0.0, 60.0, MessageType.TRAIN))


@pytest.mark.parametrize("spec", ["trimmed_mean", "nnm|trimmed_mean", "multi_krum", "norm_clipping(radius=1.0)"])
def test_a_strategy_gives_the_rule_of_the_models(spec):
    """Rules that move with all updates see models as they came; others updates, which are those here, counted from 0."""
    given = models(12)
    strategy = RobustStrategy(spec, byzantine_fraction=0.2, statistics=())
    record, _ = strategy.aggregate_train(1, [reply(i, list(parts)) for i, parts in enumerate(given)])
    assert record is not None
    found = np.concatenate([array.numpy() for array in record.values()])
    assert np.allclose(found, resolve(spec)(np.array([np.concatenate(parts) for parts in given]), f=2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spec", ["trimmed_mean", "norm_clipping(radius=1.0)"])
def test_a_reply_that_is_not_finite_is_named(spec, bad):
    given = [[np.array(part) for part in parts] for parts in models(12)]
    given[5][4][123] = bad
    strategy = RobustStrategy(spec, byzantine_fraction=0.2)
    assert strategy.aggregate_train(1, [reply(i, parts) for i, parts in enumerate(given)])[0] is not None
    assert strategy.rejected[1] == {7: "non-finite numbers"}


def test_large_numbers_are_finite_though_their_squares_are_not():
    assert is_finite(np.full(5, 3e38, np.float32))
    assert is_finite(np.array([60000, -60000], np.float16))
    assert is_finite(np.zeros((), np.float64))
    assert not is_finite(np.array([[1, np.inf]], np.float16))
    assert not is_finite(np.array([[1.0], [np.nan]]))


def test_no_model_is_copied():
    n, d = 12, 200_000
    messages = [reply(i, [np.random.default_rng(i).normal(size=d).astype(np.float32)]) for i in range(n)]
    strategy = RobustStrategy("trimmed_mean", byzantine_fraction=0.2)
    strategy.aggregate_train(1, messages)
    tracemalloc.start()
    strategy.aggregate_train(2, messages)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 4 * d  # the new model, packed, and what was sent; n models are 12 times this
