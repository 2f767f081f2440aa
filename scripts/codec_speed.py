"""Codecs at d = 1e6: CPU milliseconds of encoding and decoding, bytes, and error, beside torch.topk in the same run.

Run: python scripts/codec_speed.py [--d 1000000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from fl_impl.compression import resolve

SPECS = ("none", "top_k(0.01)", "rand_k(0.01)", "int8", "int4", "ternary", "sign", "power_sgd")
REPEATS = 15


def main() -> None:
    """Print one line a codec, then the yardsticks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d", type=int, default=10**6)
    d = parser.parse_args().d
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, d).astype(np.float32)
    tensor = torch.from_numpy(x)

    work = dict[str, Callable[[], object]]({
        "torch.topk(|x|, d/100)": lambda: torch.topk(tensor.abs(), d // 100),
        "numpy.argpartition(|x|)": lambda: np.argpartition(np.abs(x), d - d // 100),
    })  # fmt: skip
    facts = {}
    for spec in SPECS:
        codec = resolve(spec).codec
        arrays = codec.encode(x, rng)
        work[f"{spec} encode"] = lambda codec=codec: codec.encode(x, rng)
        work[f"{spec} decode"] = lambda codec=codec, arrays=arrays: codec.decode(arrays, d)
        error = codec.decode(arrays, d).astype(np.float64) - x
        facts[spec] = resolve(spec).message_bytes(d), float(error @ error) / float(x.astype(np.float64) @ x)
    times = interleaved(work)
    print(f"d = {d}, heavy-tailed float32, one thread, least CPU time of {REPEATS} interleaved runs")
    print(f"{'codec':<14}{'encode ms':>10}{'decode ms':>10}{'bytes':>10}{'|x-C|^2/|x|^2':>15}")
    for spec, (size, error) in facts.items():
        print(f"{spec:<14}{times[f'{spec} encode']:>10.2f}{times[f'{spec} decode']:>10.2f}{size:>10}{error:>15.4g}")
    for name in list(work)[:2]:
        print(f"{name}: {times[name]:.2f} ms; top_k(0.01) is {times[name] / times['top_k(0.01) encode']:.1f} x faster")


def interleaved(work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least CPU milliseconds of each, all run in turn so that a busy machine is busy for all."""
    least = dict.fromkeys(work, float("inf"))
    for _ in range(REPEATS):
        for name, call in work.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], 1e3 * (time.process_time() - start))
    return least


if __name__ == "__main__":
    main()
