"""Condense pytest-benchmark's JSON into a baseline for --fl-bench-compare: of each benchmark the slowest ratio.

    pytest tests/bench --benchmark-only --benchmark-json=one.json
    python scripts/bench_baseline.py one.json two.json > tests/bench/baseline.json

Several files are runs of the same build: what is slower than the slowest of them by a quarter is slower.
"""

import json
import sys
from pathlib import Path

from pytest_fl.plugin.benchmarks import read_baseline


def main() -> None:
    """Print the baseline of the files named on the command line."""
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    slowest: dict[str, float] = {}
    for path in sys.argv[1:]:
        for name, ratio in read_baseline(Path(path)).items():
            slowest[name] = max(ratio, slowest.get(name, 0.0))
    print(json.dumps({name: round(slowest[name], 3) for name in sorted(slowest)}, indent=1))


if __name__ == "__main__":
    main()
