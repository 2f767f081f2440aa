"""Secure aggregation: CPU milliseconds of masking and unmasking, beside Flower's mask generator in the same run.

Run: python scripts/secagg_speed.py [--clients 10] [--words 1000000] [--dropouts 3]
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict

import numpy as np
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from fl_impl.privacy.secure_aggregation import Client, Server, Terms, secure_sum
from fl_impl.privacy.secure_aggregation.masks import add_mask

REPEATS = 7


def main() -> None:
    """Print the cost of each step of a session, then of one mask by either generator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--words", type=int, default=10**6)
    parser.add_argument("--dropouts", type=int, default=3)
    options = parser.parse_args()
    n, d, lost = options.clients, options.words, options.dropouts
    updates = dict(enumerate(np.random.default_rng(0).uniform(-1, 1, (n, d))))
    terms = Terms(n, d, 1.0, lost, n // 10)

    sessions = {"all stay": 0, f"{lost} drop out": lost}
    least = {name: defaultdict[str, float](lambda: float("inf")) for name in sessions}
    masks = defaultdict[str, float](lambda: float("inf"))
    for _ in range(REPEATS):
        for name, gone in sessions.items():
            for step, spent in timed_session(updates, terms, gone).items():
                least[name][step] = min(least[name][step], spent)
        for name, spent in timed_masks(d).items():
            masks[name] = min(masks[name], spent)

    print(f"{n} clients, {d} words, {terms.degree} holders, threshold {terms.threshold}; least CPU ms of {REPEATS} runs")
    for name, steps in least.items():
        print(f"{name}: " + ", ".join(f"{step} {spent:.1f}" for step, spent in steps.items()))
    ours = masks.pop("ours, generated and added")
    print(f"one mask of {d} words, generated and added: {ours:.2f}")
    for task, spent in masks.items():
        print(f"{task}: {spent:.2f}; ours is {spent / ours:.1f} x faster")


def timed_masks(d: int) -> dict[str, float]:
    """CPU milliseconds of one mask of d words, by either generator: made, and added to words that are there."""
    words, wide = np.zeros(d, np.uint32), [np.zeros(d, np.int64)]
    work = {
        "ours, generated and added": lambda: add_mask(words, os.urandom(32)),
        "Flower's, generated and added": lambda: parameters_addition(wide, pseudo_rand_gen(os.urandom(32), 1 << 32, [(d,)])),
        "Flower's, generated only": lambda: pseudo_rand_gen(os.urandom(32), 1 << 32, [(d,)]),
    }
    spent = dict.fromkeys(work, float("inf"))
    for _ in range(REPEATS):
        for name, call in work.items():
            start = time.process_time()
            call()
            spent[name] = min(spent[name], 1e3 * (time.process_time() - start))
    return spent


def timed_session(updates: dict[int, np.ndarray], terms: Terms, gone: int) -> dict[str, float]:
    """CPU milliseconds of one client's masking (the mean) and of the server's unmasking in a session that `gone` leave."""
    spent = defaultdict[str, float](float)

    def watched(owner: type, method: str, name: str, share: float) -> None:
        original = getattr(owner, method)

        def timed(*arguments: object) -> object:
            start = time.process_time()
            try:
                return original(*arguments)
            finally:
                spent[name] += 1e3 * (time.process_time() - start) * share

        setattr(owner, method, timed)
        restore.append((owner, method, original))

    restore: list[tuple[type, str, object]] = []
    for method in ("advertise", "share", "confirm", "mask", "agree", "reveal"):
        watched(Client, method, f"{method} (a client)", 1 / (len(updates) - gone * (method in ("agree", "reveal"))))
    watched(Server, "survivors", "receive and add (server)", 1)
    watched(Server, "total", "unmask (server)", 1)
    try:
        found = secure_sum(updates, terms, network=lambda at, i, m: None if at == "mask" and i < gone else m)
    finally:
        for owner, method, original in restore:
            setattr(owner, method, original)
    expected = np.sum([updates[i] for i in found.survivors], axis=0)
    assert np.abs(found.total - expected).max() < len(updates) * terms.encoding.step
    return dict(spent)


if __name__ == "__main__":
    main()
