"""How fast the rules are: in multiples of reading the input once, and of the fastest published library that has the rule.

    scripts/peers_env.sh .venv-peers            # once: the published libraries, from PyPI
    .venv-peers/bin/python scripts/peers.py     # half an hour; --rules krum --cases 20,4,100000 for a part of it

All run in one process on the same float32 input, on one thread, in turn; of each the least CPU time counts. ByzFL and krum
are given a stacked tensor, byzpy a list of rows, Flower's functions a list of arrays and its ServerApp strategies records,
made before the clock starts. Peers that lack a rule, or take longer than --limit for one call, are left out of its cell.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peers_rules
import torch
from threadpoolctl import threadpool_limits

from fl_impl.aggregators import kernels, resolve

CASES = "20,4,1000000 50,10,1000000 100,20,100000"
ROUNDS = 9


@dataclass(frozen=True)
class Case:
    """n clients, f of them Byzantine, d coordinates."""

    n: int
    f: int
    d: int

    def updates(self) -> np.ndarray:
        """Standard normal rows, of which the last f are ten times as large."""
        x = np.random.default_rng(0).standard_normal((self.n, self.d), dtype=np.float32)
        x[self.n - self.f :] *= 10
        return x

    def __str__(self) -> str:
        return f"n={self.n}, f={self.f}, d={self.d:.0e}".replace("e+0", "e")


@dataclass(frozen=True)
class Measured:
    """CPU milliseconds of one rule in one case."""

    reading: float
    ours: float
    peers: dict[str, float]

    def __str__(self) -> str:
        """`1.0 (105 x byzpy)`: multiples of reading, and how many times as long the fastest peer takes."""
        best = min(self.peers, key=self.peers.__getitem__, default=None)
        beside = f" ({self.peers[best] / self.ours:.0f} x {best})" if best else ""
        return f"{self.ours / self.reading:.2g}{beside}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=list(peers_rules.PEERS), choices=list(peers_rules.PEERS), metavar="RULE")
    parser.add_argument("--cases", nargs="+", default=CASES.split(), metavar="n,f,d")
    parser.add_argument("--limit", type=int, default=60, help="CPU seconds for one call of a peer")
    parser.add_argument("--json", type=Path, help="write all times there")
    given = parser.parse_args()
    cases = [Case(*map(int, text.split(","))) for text in given.cases]
    torch.set_num_threads(1)
    with kernels.threads(1), threadpool_limits(1):  # a BLAS thread of a peer would go on spinning, on our clock
        found = {(rule, case): measured(rule, case, given.limit) for case in cases for rule in given.rules}
    print(f"{platform.machine()}, Python {platform.python_version()}, {', '.join(map(versioned, peers_rules.LIBRARIES))}\n")
    print(table(found, given.rules, cases))
    if given.json:
        rows = [{"rule": rule, "case": str(case), **times.__dict__} for (rule, case), times in found.items()]
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measured(rule: str, case: Case, limit: int) -> Measured:
    """The least CPU time of reading, of our rule and of each peer, all run in turn."""
    x, ours = case.updates(), resolve(rule)
    work: dict[str, Callable[[], float]] = {
        "reading": partial(seconds, lambda: None, lambda _: x.sum(axis=0)),
        "ours": partial(seconds, lambda: None, lambda _: ours(x, f=case.f)),
    }
    for library, (prepare, call) in peers_rules.calls(rule, x, case.f).items():
        work[library] = partial(seconds, prepare, call)
    warm = {name: bounded(call, limit) for name, call in work.items()}
    least = {name: first for name, first in warm.items() if first < limit}
    for turn in range(ROUNDS):
        for name, first in warm.items():
            if name in least and (turn == 0 or turn * first < limit / 4):  # the slow a few times, the fast several a turn
                least[name] = min(least[name], *(work[name]() for _ in range(1 + min(9, int(0.1 / first)))))
    ms = {name: 1e3 * found for name, found in least.items()}
    result = Measured(ms.pop("reading"), ms.pop("ours"), ms)
    print(f"{case}  {rule:<18} {result!s:<24}", " ".join(f"{name} {found:.1f}" for name, found in ms.items()), flush=True)
    return result


def seconds(prepare: Callable[[], Any], call: Callable[[Any], Any]) -> float:
    """CPU time of one call on what was prepared."""
    given = prepare()
    start = time.process_time()
    call(given)
    return time.process_time() - start


def bounded(call: Callable[[], float], limit: int) -> float:
    """The CPU time of the first call, infinite if it takes longer than the limit."""
    begun = time.process_time()

    def look(*_: object) -> None:
        if time.process_time() - begun > limit:
            raise TimeoutError

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)  # a timer of CPU time would disturb the clock that is read
    try:
        return call()
    except TimeoutError:
        return float("inf")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def table(found: dict[tuple[str, Case], Measured], rules: list[str], cases: list[Case]) -> str:
    """Markdown: a row for each rule, a column for each case."""
    lines = [["rule", *map(str, cases)], ["---"] * (len(cases) + 1)]
    lines += [[f"`{rule}`".replace("|", "\\|"), *(str(found[rule, case]) for case in cases)] for rule in rules]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def versioned(package: str) -> str:
    """`byzfl 0.0.11`."""
    return f"{package} {version(package)}"


if __name__ == "__main__":
    main()
