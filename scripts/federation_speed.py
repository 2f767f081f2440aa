"""How fast a federation is beside its floors, in one process, interleaved, one thread, least CPU time of several runs.

python scripts/federation_speed.py [--flower]     ours, the batched program, the plain loop; pfl and Flower where installed
The task: sklearn digits, iid, MLP 64-64-10, SGD 0.1, batch 32, one local epoch, 20 rounds, all clients in each.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import sys
import time
from collections.abc import Callable

import federation_speed_peers
import numpy as np
import torch
from torch.nn import functional

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.clients import SimulatedClient, make_problem
from fl_impl.training.models import make_task

ROUNDS, RATE, BATCH = 20, 0.1, 32
Run = Callable[[], float]
"""Runs a federation whose data are loaded already; returns the last accuracy."""


def ours(n: int, **settings: object) -> Run:
    """A federation of this package, with its metrics in memory."""
    config = FLConfig(num_rounds=ROUNDS, num_clients=n, learning_rate=RATE, batch_size=BATCH, **settings)
    clients = members(n)
    return lambda: FederatedLearningCoordinator(config).run(clients, output=None).final.accuracy


def members(n: int) -> list[SimulatedClient]:
    """The clients of all programs, cut to equal size, as the batched program needs them: at most one sample each is lost."""
    clients = make_clients(FLConfig(num_clients=n, learning_rate=RATE, batch_size=BATCH))
    size = min(len(client.rows) for client in clients)
    for client in clients:
        client.rows = client.rows[:size]
    return clients


def start(n: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """(x, y, rows of each client, first parameters W1, b1, W2, b2)."""
    clients = members(n)
    parts = clients[0].task.layout.views(torch.from_numpy(clients[0].task.initial))
    rows = [torch.from_numpy(client.rows) for client in clients]
    return clients[0].x, clients[0].y, rows, [part.clone() for part in parts.values()]


def batched_program(n: int) -> Run:
    """The floor: all clients in one program of batched products and autograd, nothing else."""
    x, y, rows, first = start(n)
    table = torch.stack(rows)
    test = make_problem(FLConfig()).test
    test_x, test_y = torch.from_numpy(test.x), torch.from_numpy(test.y)

    def run() -> float:
        weights, score = [part.clone() for part in first], 0.0
        generator = torch.Generator().manual_seed(0)
        for _ in range(ROUNDS):
            stacked = [part.expand(n, *part.shape).clone().requires_grad_() for part in weights]
            order = table.gather(1, torch.rand(*table.shape, generator=generator).argsort(1))
            for chosen in order.split(BATCH, dim=1):
                hidden = torch.baddbmm(stacked[1].unsqueeze(1), x[chosen], stacked[0].transpose(1, 2)).relu()
                answers = torch.baddbmm(stacked[3].unsqueeze(1), hidden, stacked[2].transpose(1, 2))
                loss = functional.cross_entropy(answers.flatten(0, 1), y[chosen].flatten(), reduction="sum") / chosen.shape[1]
                slopes = torch.autograd.grad(loss, stacked)
                with torch.no_grad():
                    for part, slope in zip(stacked, slopes, strict=True):
                        part.sub_(slope, alpha=RATE)
            weights = [part.detach().mean(0) for part in stacked]
            hidden = functional.linear(test_x, weights[0], weights[1]).relu()
            score = float((functional.linear(hidden, weights[2], weights[3]).argmax(1) == test_y).float().mean())
        return score

    return run


def plain_loop(n: int) -> Run:
    """One torch module and one torch.optim.SGD a client, one client after another, as one would write it."""
    x, y, rows, first = start(n)
    test = make_problem(FLConfig()).test
    test_x, test_y = torch.from_numpy(test.x), torch.from_numpy(test.y)
    module = make_task(test, "mlp").module

    def load(weights: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, part in zip(module.parameters(), weights, strict=True):
                parameter.copy_(part)

    def run() -> float:
        weights, score = [part.clone() for part in first], 0.0
        generator = torch.Generator().manual_seed(0)
        for _ in range(ROUNDS):
            total = [torch.zeros_like(part) for part in weights]
            for mine in rows:
                load(weights)
                optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
                for chosen in mine[torch.randperm(len(mine), generator=generator)].split(BATCH):
                    optimizer.zero_grad()
                    functional.cross_entropy(module(x[chosen]), y[chosen]).backward()
                    optimizer.step()
                for part, parameter in zip(total, module.parameters(), strict=True):
                    part.add_(parameter.detach(), alpha=1 / n)
            weights = total
            load(weights)
            with torch.no_grad():
                score = float((module(test_x).argmax(1) == test_y).float().mean())
        return score

    return run


def interleaved(runs: dict[str, Run], repeats: int) -> dict[str, tuple[float, float]]:
    """name -> (least CPU seconds, last accuracy); a round-robin, so that all meet the same machine."""
    found = {name: (float("inf"), 0.0) for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.process_time()
            score = run()
            found[name] = min(found[name], (time.process_time() - started, score))
    return found


def table(n: int, repeats: int) -> None:
    """Print the figures for n clients, and their ratios to the batched program."""
    runs = {"batched program (floor)": batched_program(n), "ours": ours(n), "plain loop": plain_loop(n)}
    for rule in ("trimmed_mean", "nnm|trimmed_mean"):
        runs[f"ours, {rule}"] = ours(n, aggregation=rule, byzantine_fraction=0.2)
        runs[f"ours, {rule} under ALIE"] = ours(n, aggregation=rule, byzantine_fraction=0.2, attack="a_little_is_enough")
    print(f"\n{n} clients, {ROUNDS} rounds: CPU ms (least of {repeats}, interleaved, 1 thread)")
    found = interleaved(runs, repeats)
    floor = found["batched program (floor)"][0]
    for name, (seconds, score) in found.items():
        print(f"  {name:42} {1000 * seconds:8.1f}   {seconds / floor:6.2f} x floor   accuracy {score:.3f}")


def memory() -> None:
    """Print how much more memory 1,000 clients with 100 a round take than 100 clients with all: the data are held once."""
    for n, fraction in ((100, 1.0), (1000, 0.1)):
        config = FLConfig(num_rounds=5, num_clients=n, fraction_fit=fraction)
        FederatedLearningCoordinator(config).run(make_clients(config), output=None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"  {n:5} clients, {config.fit_clients} a round: peak {peak:.0f} MiB")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--flower", action="store_true", help="time Flower's simulation too: minutes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, numpy {np.__version__}")
    for n in (10, 100):
        table(n, asked.repeats)
    print("\nmemory")
    memory()
    for peer, run in (("pfl", federation_speed_peers.pfl), ("flwr", federation_speed_peers.flower)):
        if importlib.util.find_spec(peer) is None or (peer == "flwr" and not asked.flower):
            print(f"{peer}: not installed or not asked for, not timed")
            continue
        for n in (10, 100):
            print(f"{peer}, {n} clients, {ROUNDS} rounds: {1000 * min(run(n) for _ in range(1 if asked.flower else 3)):.0f} ms")


if __name__ == "__main__":
    main()
