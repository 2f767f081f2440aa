"""The one-run audit of whole federations: what canaries prove of a run, beside what it claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import pytest_fl
from fl_impl import FLConfig
from fl_impl.privacy import Gaussian
from pytest_fl.checks.canaries import lower_epsilon

PRIVATE: Any = {
    "num_clients": 300, "num_rounds": 3, "differential_privacy": True, "dp_epsilon": 1.0, "dp_delta": 1e-6, "dp_seed": 0,
}  # fmt: skip


@pytest.mark.parametrize("mechanism", ["gaussian", "adaptive", "local"])
@pytest.mark.parametrize("fraction", [1.0, 0.4])
def test_canaries_prove_no_more_than_a_federation_claims(mechanism: str, fraction: float) -> None:
    audit = pytest_fl.canary_audit(FLConfig(**PRIVATE, dp_mechanism=mechanism, fraction_fit=fraction))
    assert audit.holds, audit
    assert audit.claimed == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_noise_that_is_left_out_of_the_rounds_is_proven(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """The budget, its ledger and the claim are as they should be; the server adds a twentieth of the noise, or hardly any."""
    honest = Gaussian.release

    def quiet(self: Any, updates: Any, state: Any = None, *rest: Any) -> Any:
        return honest(replace(self, noise_multiplier=max(1e-4, share * self.noise_multiplier)), updates, state, *rest)

    monkeypatch.setattr(Gaussian, "release", quiet)
    audit = pytest_fl.canary_audit(FLConfig(**PRIVATE))
    assert audit.proven > 2 * audit.claimed


def test_a_generous_budget_is_seen_to_be_one() -> None:
    audit = pytest_fl.canary_audit(FLConfig(**{**PRIVATE, "dp_epsilon": 20.0}))
    assert 2.0 < audit.proven <= audit.claimed


def test_chance_proves_nothing_and_knowledge_does() -> None:
    rng = np.random.default_rng(0)
    present = rng.random(1000) < 0.5
    assert lower_epsilon(rng.standard_normal(1000), present, delta=1e-6) < 0.5
    assert lower_epsilon(present.astype(float), present, delta=1e-6) > 4
    with pytest.raises(ValueError, match="same two canaries or more"):
        lower_epsilon(np.zeros(1), np.ones(1, bool), delta=1e-6)
    with pytest.raises(ValueError, match="no epsilon to audit"):
        pytest_fl.canary_audit(FLConfig())
