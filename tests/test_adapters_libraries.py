"""ByzFL, byzpy and krum, where they are installed: scripts/peers_env.sh builds an environment that has them."""

import functools

import numpy as np
import pytest

from pytest_fl.adapters import as_subject

X = np.random.default_rng(3).normal(size=(11, 5)).astype(np.float32)
WHY = "{} is not installed: scripts/peers_env.sh builds an environment that has it"


def trimmed(x, f):
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def krum(x, neighbours):
    distances = np.sort(((x[:, None] - x[None]) ** 2).sum(axis=2), axis=1)
    return x[distances[:, 1 : neighbours + 1].sum(axis=1).argmin()]


def close(subject, expected, f=2):
    np.testing.assert_allclose(np.asarray(subject.call(X, f)), expected, rtol=1e-5, atol=1e-6)


def test_byzfl():
    byzfl = pytest.importorskip("byzfl", reason=WHY.format("ByzFL"))
    close(as_subject(byzfl.TrMean), trimmed(X, 2))
    close(as_subject(byzfl.Krum), krum(X, 11 - 2 - 1))
    close(as_subject(byzfl.Median()), np.median(X, axis=0))
    assert as_subject(byzfl.Krum(f=2)).fixed_f == 2
    piped = as_subject((byzfl.NNM, byzfl.TrMean))
    own = byzfl.RobustAggregator({"name": "TrMean", "parameters": {"f": 2}}, [{"name": "NNM", "parameters": {"f": 2}}])
    assert (piped.fixed_f, as_subject(own).fixed_f) == (None, 2)
    close(piped, byzfl.TrMean(2)(byzfl.NNM(2)(X)))
    close(as_subject(own), own.aggregate_vectors(X))
    with pytest.raises(ValueError, match="pre-aggregator NNM"):
        as_subject(byzfl.NNM)


def test_byzpy():
    pytest.importorskip("byzpy", reason=WHY.format("byzpy"))
    from byzpy.aggregators.coordinate_wise import CoordinateWiseMedian, CoordinateWiseTrimmedMean  # optional
    from byzpy.aggregators.geometric_wise import Krum, MultiKrum  # optional
    from byzpy.pre_aggregators import NearestNeighborMixing  # optional

    close(as_subject(CoordinateWiseTrimmedMean), trimmed(X, 2))
    close(as_subject(CoordinateWiseMedian()), np.median(X, axis=0))
    close(as_subject(Krum), krum(X, 11 - 2 - 1))
    assert as_subject(Krum(f=3)).fixed_f == 3
    assert as_subject((NearestNeighborMixing, Krum)).container == "torch"
    with pytest.raises(ValueError, match="pre-aggregator NearestNeighborMixing"):
        as_subject(NearestNeighborMixing)
    with pytest.raises(ValueError, match=r"functools.partial\(MultiKrum, q=...\)"):
        as_subject(MultiKrum)
    close(as_subject(functools.partial(MultiKrum, q=1)), krum(X, 11 - 2 - 1))


def test_krum():
    pytest.importorskip("krum.primitives", reason=WHY.format("krum"))
    from krum.primitives.aggregators.bulyan import Bulyan  # optional
    from krum.primitives.aggregators.krum import Krum  # optional
    from krum.primitives.aggregators.trimmed_mean import TrimmedMean  # optional

    close(as_subject(TrimmedMean), trimmed(X, 2))
    close(as_subject(TrimmedMean.aggregate), trimmed(X, 2))
    close(as_subject(Krum), krum(X, 11 - 2 - 2))
    assert [as_subject(rule).min_clients(2) for rule in (TrimmedMean, Krum, Bulyan)] == [5, 7, 11]
