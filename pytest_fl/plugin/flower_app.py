"""The fixture `fl_flower_app`: somebody's Flower app inside a test, with an attack on some of its clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_fl.plugin.knobs import value

if TYPE_CHECKING:
    from collections.abc import Collection

    from fl_impl.attacks import Attack
    from fl_impl.flower.runs import FlowerRun


@dataclass(frozen=True, repr=False)
class RunApp:
    """The factory that `fl_flower_app` is: `(app, attack, byzantine, rounds, clients, **run_app's) -> FlowerRun`."""

    request: pytest.FixtureRequest
    attack: Attack | None

    def __call__(
        self,
        app: Any = None,
        *,
        rounds: int | None = None,
        clients: int | None = None,
        byzantine: float | None = None,
        attackers: Collection[int] | None = None,
        **keywords: Any,
    ) -> FlowerRun:
        """Run a Flower app in this process, without Ray: what is not given comes from the knobs, attack=None is clean.

        app: the folder of its pyproject.toml or (ServerApp, ClientApp); the project that is tested where None. byzantine
        is the share that attacks, attackers are its partition-ids instead. Other keywords are those of
        `fl_impl.flower.run_app`, run_config above all.
        """
        from fl_impl.flower import run_app  # noqa: PLC0415  # flwr is imported by the tests that need it

        def knob(name: str) -> Any:
            return value(name, self.request.config, self.request.node)

        settings: dict[str, Any] = {
            "attack": self.attack,
            "seed": knob("seed"),
            "rounds": knob("rounds") if rounds is None else rounds,
            "nodes": knob("clients") if clients is None else clients,
        }
        if attackers is None:
            settings["fraction"] = knob("byzantine") if byzantine is None else byzantine
        settings["clients"] = attackers
        return run_app(self.request.config.rootpath if app is None else app, **{**settings, **keywords})


@pytest.fixture
def fl_flower_app(request: pytest.FixtureRequest, fl_attack: Attack | None) -> RunApp:
    """`fl_flower_app(app=..., attack=..., rounds=..., clients=..., byzantine=..., run_config=...) -> FlowerRun`.

    Runs a Flower app for --fl-rounds rounds on --fl-clients nodes, floor(--fl-byzantine n) of them under --fl-attack.
    `.final("accuracy")` is a metric after the last round, `.metrics` are all, by round. Skipped without flwr.
    """
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'", exc_type=ImportError)
    return RunApp(request, fl_attack)
