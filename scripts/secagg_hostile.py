"""Secure sums under random hostile clients and random hostile servers: what came out, and whether it was what was promised.

Run: python scripts/secagg_hostile.py [--sessions 2000] [--largest 60] [--seed 0] [--processes 2] [--only clients]

Sizes run from 3 to `--largest`, small ones more often. Hostile clients do what `pytest_fl.adapters.hostile_clients.SABOTAGE`
lists, as many of them as the terms stand, each something else; others leave. One liar cannot be told, and is counted by
itself: who complains of the shares of a client that leaves before it could answer, as only that one could show what it had
sent (`SecureSum.unsettled`). What a client puts into the sum is its own affair: no session can tell a false update from a
true one, so none is tried here.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import time
from collections import Counter

import numpy as np

from fl_impl.privacy.secure_aggregation import SecureAggregationError
from pytest_fl.adapters.hostile_clients import SABOTAGE, sabotaged
from pytest_fl.adapters.secure_plots import Offer, plots
from pytest_fl.adapters.secure_protocol import agreed_terms
from pytest_fl.checks.secure_aggregation import honest_in


def main() -> None:
    """Print what became of all sessions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--largest", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=["clients", "server"], help="one of the two halves")
    options = parser.parse_args()
    halves = {"clients": ("hostile clients", hostile_clients), "server": ("a hostile server", hostile_server)}
    for name, session in (halves[half] for half in halves if options.only in {None, half}):
        start = time.monotonic()
        work = functools.partial(session, largest=options.largest, seed=options.seed)
        with multiprocessing.Pool(options.processes) as pool:
            counts = Counter[str]()
            for each in pool.imap_unordered(work, range(options.sessions), chunksize=20):
                counts.update(each)
        spent = time.monotonic() - start
        print(f"{options.sessions} sessions with {name}, 3 to {options.largest} clients, seed {options.seed}; {spent:.0f} s")
        for outcome, count in sorted(counts.items()):
            print(f"  {outcome}: {count}")


def size(rng: np.random.Generator, largest: int) -> int:
    """Between 3 and the largest, small ones more often."""
    return 3 + int((largest - 2) * rng.uniform() ** 2)


def hostile_clients(number: int, *, largest: int, seed: int) -> Counter[str]:
    """One session in which as many clients lie as the terms stand, and one more where they stand none."""
    rng = np.random.default_rng([seed, 0, number])
    n = size(rng, largest)
    terms, updates = agreed_terms(n, 8), rng.uniform(-1, 1, (n, 8))
    most = terms.most_complaints
    drawn = rng.permutation(n)[: max(1, int(rng.integers(1, most + 1)) if most else 1)].tolist()
    liars = {i: str(rng.choice(list(SABOTAGE))) for i in drawn}
    counts = Counter(
        {"sums of too few": 0, "wrong sums": 0, "liars that were not named": 0, "honest clients that were named": 0}
    )
    try:
        tally = sabotaged(updates, liars, rng, terms=terms)
    except SecureAggregationError as error:
        if most < len(liars):
            counts["no sum, where the terms stand no liar: three clients"] += 1
            return counts
        counts["no sum"] += 1
        named = {i for i in range(n) if f"client {i}: " in str(error)}
    else:
        counts["a sum of all that were honest"] += set(range(n)) - set(liars) <= tally.counted
        counts["sums of too few"] += len(tally.counted) < terms.minimum
        off = np.abs(tally.total - updates[sorted(tally.counted)].sum(axis=0)).max()
        counts["wrong sums"] += bool(off > n * terms.encoding.step)
        named = set(tally.named)
        accusers = set(liars) & tally.moot - named
        counts["liars of whom nobody can tell: they accuse a client that left"] += len(accusers)
        counts["liars that were not named"] -= len(accusers)
    counts["liars"] += len(liars)
    counts["liars that were not named"] += len(set(liars) - named)
    counts["honest clients that were named"] += len(named - set(liars))
    return counts


def hostile_server(number: int, *, largest: int, seed: int) -> Counter[str]:
    """One session with a server that tries one thing."""
    rng = np.random.default_rng([seed, 1, number])
    n = size(rng, largest)
    offer = Offer(agreed_terms)
    terms, updates = agreed_terms(n, 2 * n), rng.uniform(-1, 1, (n, 2 * n))
    name = str(rng.choice(list(plots(offer))))
    counts = Counter({"sums of fewer than promised": 0, "single updates read": 0})
    read = [honest_in(v, updates, n - terms.corrupt, terms.encoding.step) for v in plots(offer)[name](updates, rng)]
    counts["nothing was read" if not any(read) else "a sum of as many as promised was read"] += 1
    counts["sums of fewer than promised"] += any(0 < each < terms.honest for each in read)
    counts["single updates read"] += 1 in read
    return counts


if __name__ == "__main__":
    main()
