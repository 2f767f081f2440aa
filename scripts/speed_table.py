"""How fast the rules are at every size, in multiples of a true read of the input, beside what numpy does in a line or two.

python scripts/speed_table.py                      # five minutes: the sizes of issue 15
python scripts/speed_table.py --sizes 20,1000000 --forms   # lists, tensors and 16-bit numbers beside the matrix

One thread. All that is compared runs in turn in one process, and of each the least CPU time counts. A true read is numpy.max
over the flat input. Of the rows, standard normal, the last fifth is ten times as large, and f is that fifth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fl_impl.aggregators import kernels, resolve

SIZES = "20,1000000 100,200000 200,100000 1000,20000 5000,4000 10,1000"
RULES = ("coordinate_median", "trimmed_mean", "meamed", "phocas", "krum", "multi_krum", "geometric_median", "nnm|trimmed_mean")
BY_DISTANCE = {"krum", "multi_krum", "geometric_median", "nnm|trimmed_mean"}
MOST_BY_DISTANCE = 1000
"""Clients; more take minutes."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES.split(), metavar="n,d")
    parser.add_argument("--rules", nargs="+", default=RULES, metavar="RULE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--forms", action="store_true", help="other forms of the input instead of numpy's lines")
    given = parser.parse_args()
    with kernels.threads(1), threadpool_limits(1):
        for size in given.sizes:
            n, d = map(int, size.split(","))
            x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
            x[n - n // 5 :] *= 10
            print(f"\nn = {n}, d = {d}, f = {n // 5}\n\n| | x read | ms |\n|---|---|---|")
            rules = [rule for rule in given.rules if n <= MOST_BY_DISTANCE or rule not in BY_DISTANCE]
            report(least(by_form(x, rules) if given.forms else calls(x, rules), given.rounds))


def calls(x: np.ndarray, rules: list[str]) -> dict[str, Callable[[], Any]]:
    """The rules, and the lines of numpy that do the same."""
    n, f = len(x), len(x) // 5
    found: dict[str, Callable[[], Any]] = {rule: call(rule, x, f) for rule in rules}
    found["numpy: median"] = lambda: np.median(x, axis=0)
    found["numpy: sort, mean of the middle"] = lambda: np.sort(x, axis=0)[f : n - f].mean(axis=0)
    found["numpy: partition, mean of the middle"] = lambda: np.partition(x, (f, n - f - 1), axis=0)[f : n - f].mean(axis=0)
    if n <= MOST_BY_DISTANCE:
        found["numpy: Krum by a Gram matrix"] = lambda: gram_krum(x, f)
    return {"read": lambda: np.max(x.reshape(-1)), **found}


def by_form(x: np.ndarray, rules: list[str]) -> dict[str, Callable[[], Any]]:
    """The rules on the matrix, and on the same numbers in other forms."""
    import torch  # noqa: PLC0415  # for those who ask

    tensor, f = torch.from_numpy(x), len(x) // 5
    forms: dict[str, Any] = {
        "matrix": x,
        "list": [row.copy() for row in x],
        "tensors": [row.clone() for row in tensor],
        "float16": x.astype(np.float16),
        "bfloat16": tensor.bfloat16(),
    }
    found = {f"{rule}, {name}": call(rule, form, f) for rule in rules for name, form in forms.items()}
    return {"read": lambda: np.max(x.reshape(-1)), **found}


def call(rule: str, form: Any, f: int) -> Callable[[], Any]:
    """A call of a rule, after one that compiles."""
    resolved = resolve(rule)
    resolved(form, f=f)
    return lambda: resolved(form, f=f)


def gram_krum(x: np.ndarray, f: int) -> np.ndarray:
    """Krum in four lines, which cancel where updates share an offset."""
    products = x @ x.T
    own = np.diag(products)
    distances = own[:, None] + own - 2 * products
    return x[np.partition(distances, len(x) - f, axis=1)[:, : len(x) - f].sum(axis=1).argmin()]


def least(work: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least CPU milliseconds of each, run in turn; of short calls the mean of many counts as one."""
    found: dict[str, float] = {}
    for turn in range(rounds):
        for name, run in work.items():
            repeats = 1 if turn == 0 or found[name] > 1 else 100
            start = time.process_time()
            for _ in range(repeats):
                run()
            took = 1e3 * (time.process_time() - start) / repeats
            found[name] = min(found.get(name, took), took)
    return found


def report(times: dict[str, float]) -> None:
    """A row of the table for each."""
    for name, ms in times.items():
        print(f"| {name} | {ms / times['read']:.3g} | {ms:.3g} |".replace("|trimmed", "\\|trimmed"), flush=True)


if __name__ == "__main__":
    main()
