"""Every rule, and what is often piped before one, at the sizes of the README's speed table.

    pytest tests/bench --benchmark-only                                               # times, and multiples of reading
    pytest tests/bench --benchmark-only --fl-bench-compare=tests/bench/baseline.json  # fails a rule that became slower

One thread computes: so ratios to reading, which is one thread's work too, hold on any machine.
"""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from fl_impl import aggregators
from fl_impl.aggregators import kernels

RULES = (*aggregators.ALL, "nnm|trimmed_mean", "nnm|krum", "bucketing|coordinate_median", "arc|geometric_median")
SEARCHES = {"minimum_variance", "smea"}
"""Search all C(n, f) subsets, and refuse what would take hours."""


@pytest.fixture(autouse=True)
def _one_thread():
    with kernels.threads(1), threadpool_limits(1):  # a BLAS thread goes on spinning, on the clock that is read
        yield


@pytest.mark.parametrize("spec", RULES)
def test_rule(fl_benchmark, updates, case, spec):
    rule = aggregators.resolve(spec)
    if case.n < rule.min_clients(case.f) or (spec in SEARCHES and case.n > 20):
        with pytest.raises(ValueError, match=r"needs n >= |exceeds max_subsets"):
            rule(updates, f=case.f)
        pytest.skip("refused: too few clients, or too many subsets")
    told = {"root": updates[0], "history": updates}
    result = fl_benchmark(rule, updates, case.f, **{name: told[name] for name in rule.keywords.required})
    assert result.shape == updates.shape[1:]
    assert np.isfinite(result).all()
