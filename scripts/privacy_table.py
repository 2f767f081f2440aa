"""Accuracy on digits with 100 clients at epsilon 8, 3 and 1, with and without attack: the table that README shows.

Run: python scripts/privacy_table.py [--rounds 20] [--seeds 2]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np

from fl_impl import FLConfig, make_clients
from fl_impl.aggregators import resolve
from fl_impl.assaults import Assault
from fl_impl.attacks import resolve as resolve_attack
from fl_impl.evaluation import ground_of
from fl_impl.privacy.protection import Protection, protect
from fl_impl.stages import Admitted, admit, joined, train

CLIENTS, SAMPLING, DELTA, FRACTION = 100, 0.5, 1e-5, 0.1
PRIVACY: dict[str, dict[str, Any]] = {
    "none": {},
    **{f"{epsilon:g}": {"epsilon": epsilon, "delta": DELTA} for epsilon in (8.0, 3.0, 1.0)},
}
SCHEMES: dict[str, dict[str, Any]] = {
    "mean": {"clip_bound": 0.5},
    "mean, adaptive clipping": {"clip_bound": 0.5, "mechanism": "adaptive"},
    "mean, sparse": {"clip_bound": 0.5, "compression": "sparse"},
    "mean, int8": {"clip_bound": 0.5, "compression": "quantize"},
    "trimmed mean over secure groups of 2": {"clip_bound": 0.5, "secure": True, "group_size": 2, "rule": "trimmed_mean"},
}
ATTACKS = ("none", "sign_flip", "inner_product_manipulation")


def main() -> None:
    """Print one line a scheme and epsilon: accuracy without attack, and under each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(f"digits, {CLIENTS} clients, linear model, {options.rounds} rounds, half of the clients in each, delta = {DELTA:g}, "
          f"attackers {FRACTION:.0%}; mean accuracy of {options.seeds} seeds\n")  # fmt: skip
    print(f"| scheme | epsilon | {' | '.join(ATTACKS)} |\n|---|--:|{'--:|' * len(ATTACKS)}")
    for scheme, settings in SCHEMES.items():
        for name, privacy in PRIVACY.items():
            if not privacy and "mechanism" in settings:
                continue  # clipping adapts as part of a private mechanism only
            cells = []
            for attack in ATTACKS:
                found = [accuracy({**settings, **privacy}, attack, options.rounds, seed) for seed in range(options.seeds)]
                cells.append(f"{statistics.mean(found):.1%}")
            print(f"| {scheme} | {name} | {' | '.join(cells)} |", flush=True)


def accuracy(settings: dict[str, Any], attack: str, rounds: int, seed: int) -> float:
    """Of the model after the last round."""
    rule = settings.get("rule", "mean")
    robust = rule != "mean"
    guard = protect(**{
        **settings, "rounds": rounds, "clients": CLIENTS, "sampling": SAMPLING, "rule": rule, "robust": robust,
        "seed": seed, "noise_seed": seed,
    })  # fmt: skip
    config = FLConfig(num_clients=CLIENTS, model="linear", local_epochs=2, learning_rate=0.2, batch_size=8, seed=seed)
    clients = make_clients(config)
    ground = ground_of(config, clients, None, None)
    assault = Assault(resolve_attack(attack), FRACTION, seed=seed) if attack != "none" else None
    parameters, memory = ground.initial.astype(np.float64), (dict[int, Any](), dict[int, Any](), None)
    for number in range(1, rounds + 1):
        guard.authorize(number)
        updates = gathered(guard, clients, parameters.astype(np.float32), number, seed, assault)
        carried = guard.carry(updates.ids, updates.deltas, number, memory[0], memory[1])
        f = int(FRACTION * CLIENTS) if robust else 0
        combined = guard.combine(carried.rows, number, memory[2], resolve(rule), f)
        memory = carried.sent, carried.received, combined.state
        parameters += combined.value
    return ground.evaluate(parameters.astype(np.float32)).accuracy


def gathered(
    guard: Protection, clients: list[Any], parameters: np.ndarray, number: int, seed: int, assault: Assault | None
) -> Admitted:
    """The updates of a round's clients, those of the attackers among them."""
    chosen = guard.sample(len(clients), number)
    if chosen is None:
        share = 1.0 if guard.secure else SAMPLING
        drawn = np.random.default_rng([seed, number]).choice(len(clients), int(share * len(clients)), replace=False)
        chosen = tuple(sorted(drawn.tolist()))
    byzantine = assault.byzantine(len(clients), number).intersection(chosen) if assault else frozenset()
    rejected: dict[int, str] = {}
    honest, own = train({i: clients[i] for i in chosen}, parameters, number, rejected).parted(byzantine)
    if assault and own.ids:
        own = admit(assault.strike(honest, own, number, {}), len(parameters), number, rejected)
    return joined(honest, own)


if __name__ == "__main__":
    main()
