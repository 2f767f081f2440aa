"""Resident memory of the server that aggregates LoRA adapters on disk: python scripts/lora_memory.py --clients 10 100.

For each number of clients, adapters of rank 16 are written as peft writes them, and each time a process of its own
aggregates them by one mode and rule. The peak of its resident memory is VmHWM of Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fl_impl.lora import MODES, aggregate_folders, product_rules

RANK, MODULES, WIDTH = 16, 32, 2048
"""32 modules of 2048 x 2048: 2.1e6 numbers in an adapter."""
GROWTH = 0.1
EXACT = ("minimum_variance", "smea")
"""Rules that search all subsets, which 100 clients have too many of."""


def write_adapters(folder: Path, n: int) -> list[Path]:
    """n adapters around a common one."""
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "v_proj"]}
    common = {f"base_model.model.layers.{i // 2}.{'qv'[i % 2]}_proj.": np.random.default_rng(i) for i in range(MODULES)}
    center = {name: rng.standard_normal((2, RANK, WIDTH)).astype(np.float32) for name, rng in common.items()}
    paths = [folder / f"client{client}" for client in range(n)]
    for client, path in enumerate(paths):
        rng, tensors = np.random.default_rng(1000 + client), dict[str, np.ndarray]()
        for name, (up, down) in center.items():
            own = 0.1 * rng.standard_normal((2, RANK, WIDTH), dtype=np.float32)
            tensors |= {f"{name}lora_B.weight": np.ascontiguousarray((up + own[0]).T), f"{name}lora_A.weight": down + own[1]}
        path.mkdir()
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config))
    return paths


def aggregations(names: str) -> list[str]:
    """What is measured: modes under a robust rule, then flexlora under each rule on products."""
    if names != "all":
        return names.split(",")
    modes = [f"{mode}|nnm|krum" for mode in MODES]
    return [*modes, *(f"flexlora|{rule}" for rule in product_rules() if rule not in EXACT)]


def measure(folder: Path, name: str) -> None:
    """Aggregate by one, and print memory and time as JSON."""
    folders = sorted(folder.glob("client*"))
    rank = RANK if name.startswith(("fedex", "flora")) else None
    began = time.perf_counter()
    aggregate_folders(folders, folder / "global", name, f=len(folders) // 5, rank=rank)
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([int(status["VmHWM"].split()[0]) / 1024, seconds]))  # ru_maxrss would count the parent's too


def main() -> None:
    """Print a table, and exit with 1 where memory grows by a tenth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs=2, default=(10, 100))
    parser.add_argument("--aggregations", default="all", help='With commas between: "flexlora|krum,fedex|nnm|krum".')
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        measure(arguments.folder, arguments.aggregations)
        return
    found = dict[str, list[list[float]]]()
    for n in arguments.clients:
        with tempfile.TemporaryDirectory() as folder:
            write_adapters(Path(folder), n)
            for name in aggregations(arguments.aggregations):
                command = [sys.executable, __file__, "--folder", folder, "--aggregations", name]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # this script
                found.setdefault(name, []).append(json.loads(done.stdout))
    few, many = arguments.clients
    print(f"adapters of {2 * RANK * WIDTH * MODULES:,} numbers; resident memory in MB")
    print(f"{'aggregation':36} {few:>4} clients {many:>4} clients  growth  seconds")
    for name, ((less, _), (more, seconds)) in found.items():
        print(f"{name:36} {less:12.1f} {more:12.1f} {more / less - 1:7.1%} {seconds:8.1f}")
    sys.exit(any(more > (1 + GROWTH) * less for (less, _), (more, _) in found.values()))


if __name__ == "__main__":
    main()
