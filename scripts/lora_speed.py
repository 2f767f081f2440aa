"""What federated LoRA costs: factor Gram against dense products, and aggregation against a round of training.

`OMP_NUM_THREADS=1 python scripts/lora_speed.py` measures both ways in one process, alternately, in CPU seconds, least of
the repeats; memory is the peak beyond the inputs as tracemalloc sees it.
"""

from __future__ import annotations

import argparse
import functools
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from fl_impl.aggregators.kernels import geometry as dense_geometry
from fl_impl.lora import Factors, LoRAFLAdapter, Module, gram, make_text_clients
from fl_impl.lora import rounds as lora_rounds
from fl_impl.lora.product import geometry

SIZES = ((20, 576, 576, 8), (20, 1024, 4096, 8), (20, 4096, 4096, 16))
LARGEST_DENSE = 2e8
"""Entries: more are not formed."""


def adapters(n: int, m: int, k: int, r: int) -> Factors:
    """n random adapters of one module, in float32."""
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal((n, r, width), dtype=np.float32) for width in (m, k))
    return Factors((Module(up, down),))


def by_gram(factors: Factors) -> Any:
    """Squared distances of the products, which are not formed."""
    return geometry(gram(factors)).distances


def by_dense_gram(factors: Factors) -> Any:
    """As a library would: form the products, one BLAS call for their Gram matrix, all in float32."""
    up, down = factors.modules[0]
    rows = np.matmul(np.swapaxes(up, 1, 2), down).reshape(len(up), -1)
    products = rows @ rows.T
    own = np.diag(products)
    return own[:, None] + own[None, :] - 2 * products


def by_dense_pairs(factors: Factors) -> Any:
    """As published Krum implementations do, at our precision: the products, then the length of each difference."""
    up, down = (rows.astype(np.float64) for rows in factors.modules[0])
    rows = np.matmul(np.swapaxes(up, 1, 2), down).reshape(len(up), -1)
    return np.array([[float(np.linalg.norm(a - b)) ** 2 for b in rows] for a in rows])


def by_dense_kernel(factors: Factors) -> Any:
    """Form the products; distances without cancellation, by the kernel that this package uses on float32 updates."""
    up, down = factors.modules[0]
    return dense_geometry(np.matmul(np.swapaxes(up, 1, 2), down).reshape(len(up), -1)).distances


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def peak(call: Callable[[], Any]) -> int:
    """Bytes beyond what there was."""
    tracemalloc.start()
    call()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def compare_products(repeats: int) -> None:
    """One line for each size."""
    for n, m, k, r in SIZES:
        factors = adapters(n, m, k, r)
        ways = [by_gram] if n * m * k > LARGEST_DENSE else [by_gram, by_dense_pairs, by_dense_gram, by_dense_kernel]
        calls = [functools.partial(way, factors) for way in ways]
        times = np.array([[min(seconds(calls[0]) for _ in range(9)), *map(seconds, calls[1:])] for _ in range(repeats)])
        best, memory = times.min(axis=0), [peak(call) for call in calls]
        line = f"n={n} {m}x{k} r={r}: factors {1e3 * best[0]:.2f} ms, {memory[0] / 1e6:.2f} MB"
        for way, took, size in zip(ways[1:], best[1:], memory[1:], strict=True):
            line += f"; {way.__name__} {1e3 * took:.0f} ms, {size / 1e6:.0f} MB: {took / best[0]:.0f} x slower, "
            line += f"{100 * memory[0] / size:.2f} % of the memory"
        if len(ways) > 1:
            exact = by_dense_kernel(factors)
            line += f"; differs by {np.abs(by_gram(factors) - exact).max() / exact.max():.1e}"
        print(line, flush=True)


def measure_round(aggregation: str, rounds: int) -> None:
    """Ten speakers, ten steps each, on the tiny model: CPU seconds of a round, and the share of aggregation."""
    spent = {"aggregate": 0.0, "advance": 0.0}

    def timed(name: str) -> Callable[..., Any]:
        whole = getattr(lora_rounds, name)

        def call(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return whole(*arguments, **options)
            finally:
                spent[name] += time.process_time() - began

        return call

    originals = {name: getattr(lora_rounds, name) for name in spent}
    adapter, clients = LoRAFLAdapter("tiny", rank=8, alpha=16, target_modules=["q_proj", "v_proj"]), make_text_clients(10)
    try:
        for name in spent:
            setattr(lora_rounds, name, timed(name))
        began = time.process_time()
        adapter.federated_fit(clients, rounds, aggregation=aggregation, byzantine_fraction=0.2)
        took = time.process_time() - began
    finally:
        for name, original in originals.items():
            setattr(lora_rounds, name, original)
    share = sum(spent.values()) / took
    print(f"{aggregation}: {took / rounds:.2f} CPU s a round, {100 * share:.2f} % of it aggregation", flush=True)


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("products", "round"))
    chosen = parser.parse_args()
    if chosen.only != "round":
        compare_products(chosen.repeats)
    if chosen.only != "products":
        for aggregation in ("flexlora", "flexlora|nnm|krum", "fedex", "ffa|multi_krum"):
            measure_round(aggregation, chosen.rounds)


if __name__ == "__main__":
    main()
