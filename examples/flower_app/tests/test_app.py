"""What the app must do: learn, and go on learning while a fifth of its clients sends minus four times its update.

`pytest -k byzantine` selects the test under attack; `--fl-attack min_max --fl-byzantine 0.3` changes the attack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_fl.plugin.flower_app import RunApp

STRATEGIES = ["fedavg", "robust"]
FAILS = pytest.mark.xfail(strict=True, reason="FedAvg is no defence: this is the test that it fails")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_learns(fl_flower_app: RunApp, strategy: str) -> None:
    """Nobody attacks."""
    run = fl_flower_app(attack=None, run_config={"strategy": strategy})
    assert run.final("accuracy") > 0.85


@pytest.mark.fl(attack="sign_flip(scale=4)")
@pytest.mark.parametrize("strategy", [pytest.param("fedavg", marks=FAILS), "robust"])
def test_byzantine(fl_flower_app: RunApp, strategy: str) -> None:
    """Two of ten clients attack."""
    run = fl_flower_app(run_config={"strategy": strategy})
    assert len(run.byzantine) == 2
    assert run.final("accuracy") > 0.85
