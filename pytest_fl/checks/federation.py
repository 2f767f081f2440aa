"""Checks on whole federations: the descent certificate, which needs no statistics, and accuracy under attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound

if TYPE_CHECKING:
    from fl_impl import ClientUpdate

Vector = npt.NDArray[np.float64]
ROUNDING = 1e-4
"""Relative to the progress of a step: updates travel as float32."""


@dataclass(frozen=True, eq=False)
class Bowl:
    """A client with the loss sum_k a_k (w_k - c_k)^2 / 2, which takes one gradient step of length `step`."""

    curvature: Vector
    centre: Vector
    step: float

    def fit(self, parameters: npt.NDArray[np.float32], round: int) -> ClientUpdate:  # noqa: A002  # the published protocol
        """The step from these parameters."""
        from fl_impl import ClientUpdate  # noqa: PLC0415  # torch is imported when a federation runs

        del round
        slope = self.gradient(parameters.astype(np.float64))
        return ClientUpdate(-self.step * slope, 1, self.loss(parameters.astype(np.float64)))

    def loss(self, w: Vector) -> float:
        """The value of the honest loss at w."""
        return float((self.curvature * (w - self.centre) ** 2).sum() / 2)

    def gradient(self, w: Vector) -> Vector:
        """The gradient of the honest loss at w."""
        return self.curvature * (w - self.centre)


def descent(
    aggregator: Any,
    attack: Any,
    *,
    kappa: Callable[[int, int], float] | None = None,
    n: int = 11,
    f: int = 3,
    d: int = 12,
    rounds: int = 12,
    seed: int = 0,
) -> Bound:
    """L_H(w') <= L_H(w) - (||grad||^2 - kappa G^2) / 2L in every round of gradient descent with step 1/L, under any attack.

    G^2 is the mean squared distance of honest gradients from their mean, L the smoothness of the honest loss. The value is
    the worst ratio of what was lost against the attack-free step to kappa G^2 / 2L; the limit is 1, up to rounding.
    Deterministic: it holds for each run of a rule with that coefficient, not on average.
    Raises ValueError where nobody says a finite kappa.
    """
    from fl_impl import FederatedLearningCoordinator, FLConfig  # noqa: PLC0415  # as above
    from fl_impl.aggregators import resolve  # noqa: PLC0415  # as above

    rule = resolve(aggregator)
    coefficient = (kappa or rule.kappa)(n, f)
    if not np.isfinite(coefficient):
        raise ValueError(f"{rule.spec} claims no finite kappa at n={n}, f={f}: pass kappa=, what it is to be held to")
    settings: dict[str, Any] = {"num_clients": n, "byzantine_fraction": f / n, "seed": seed}
    config = FLConfig(**settings, aggregation=rule, attack=attack)
    clients, smoothness = bowls(n, d, seed)
    coordinator = FederatedLearningCoordinator(config, parameters=np.zeros(d))
    before, worst = np.zeros(d), 0.0
    for _ in range(rounds):
        result = coordinator.simulate_round(clients)
        honest = [client for i, client in enumerate(clients) if i not in result.byzantine]
        after = coordinator.parameters.astype(np.float64)
        worst = max(worst, lost(honest, before, after, smoothness, coefficient))
        before = after
    return Bound(worst, 1.0 + ROUNDING, f"under {attack} the honest loss fell by less than the certificate promises")


def lost(honest: list[Bowl], before: Vector, after: Vector, smoothness: float, kappa: float) -> float:
    """(L_H(w') - L_H(w) + ||grad||^2 / 2L) / (kappa G^2 / 2L)."""
    gradients = np.stack([client.gradient(before) for client in honest])
    mean = gradients.mean(axis=0)
    spread = float(((gradients - mean) ** 2).sum(axis=1).mean())
    change = float(np.mean([client.loss(after) - client.loss(before) for client in honest]))
    progress = float(mean @ mean) / (2 * smoothness)
    return (change + progress) / (kappa * spread / (2 * smoothness) + ROUNDING * progress)


def bowls(n: int, d: int, seed: int) -> tuple[list[Bowl], float]:
    """n clients, and an L that bounds the curvature of the mean of any of them."""
    rng = np.random.default_rng(seed)
    curvatures, centres = rng.uniform(0.2, 1.0, (n, d)), rng.normal(1.0, 1.0, (n, d))
    smoothness = float(curvatures.max())
    return [Bowl(a, c, 1 / smoothness) for a, c in zip(curvatures, centres, strict=True)], smoothness


def accuracy_kept(
    aggregator: Any, attack: Any, *, fraction: float = 0.3, points: float = 5.0, task: str = "digits", **settings: Any
) -> Bound:
    """Under attack at most `points` of 100 of accuracy are lost against the clean run of the same seed.

    task: a named task, by default the digits; settings are fields of FLConfig that replace its own. Raises ValueError where
    the clean run learnt nothing, so that nothing could be lost, and where the attack had no effect to withstand.
    """
    from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients  # noqa: PLC0415  # as above
    from fl_impl.rounds.remarks import learnt_nothing  # noqa: PLC0415  # as above
    from fl_impl.tasks import named  # noqa: PLC0415  # as above

    def final(attack: Any) -> float:
        said = named(task).configured(settings)
        config = FLConfig(**said, aggregation=aggregator, byzantine_fraction=fraction, attack=attack)
        clients = make_clients(config)
        metrics = FederatedLearningCoordinator(config).run(clients, output=None)
        problem = learnt_nothing(metrics.final.accuracy, clients[0].test) if attack is None else ""
        remarks = [problem] if problem else [note for note in metrics.notes if note.startswith("the attack ")]
        if remarks:
            raise ValueError(f"accuracy_kept says nothing here: {remarks[0]}")
        return metrics.final.accuracy

    return Bound(100 * (final(None) - final(attack)), points, f"accuracy fell under {attack}")
