"""The fixture `fl_faults`: a federated server under random faults, in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_fl.plugin.knobs import value

if TYPE_CHECKING:
    from pytest_fl.engine.survival import Survival


@dataclass(frozen=True, repr=False)
class Survive:
    """What `fl_faults` is: `pytest_fl.survives`, with the knobs for what is not given."""

    request: pytest.FixtureRequest

    def __call__(self, subject: Any, **keywords: Any) -> Survival:
        """Hold a server to four invariants: as many plans as --fl-profile has examples, on --fl-clients clients."""
        from pytest_fl.engine.survival import survives  # noqa: PLC0415  # hypothesis and numpy are imported on use
        from pytest_fl.subjects.profiles import profile_named  # noqa: PLC0415  # likewise

        def knob(name: str) -> Any:
            return value(name, self.request.config, self.request.node)

        settings: dict[str, Any] = {
            "plans": profile_named(knob("profile")).examples,
            "clients": knob("clients"),
            "seed": knob("seed"),
        }
        return survives(subject, **{**settings, **keywords})


@pytest.fixture
def fl_faults(request: pytest.FixtureRequest) -> Survive:
    """`fl_faults(subject, plans=..., rounds=..., clients=..., f=..., kappa=..., kinds=...) -> Survival`.

    Runs a configuration, a rule, a Flower strategy or a Flower app under random faults: crashes, hangs, lies, cut
    networks. Fails with the smallest plan under which the model is not finite, an update is used that did not arrive,
    the rule's bound is broken, or a run in which nothing was lost differs from the undisturbed one.
    """
    return Survive(request)
