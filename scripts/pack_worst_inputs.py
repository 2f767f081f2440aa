"""Pack the worst inputs found (../shared/theory/worst_inputs.json) into pytest_fl/oracles/data/worst_inputs.npz.

Usage: python scripts/pack_worst_inputs.py SOURCE.json
"""

import json
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent.parent / "pytest_fl" / "oracles" / "data" / "worst_inputs.npz"


def pack(source: Path) -> None:
    """All matrices end to end in one float64 array, their shapes and rules beside it."""
    entries = json.loads(source.read_text())
    assert all(entry["byzantine_rows"] == list(range(entry["f"])) for entry in entries)
    rules = sorted({entry["rule"] for entry in entries})
    np.savez_compressed(
        TARGET,
        rules=np.array(rules),
        rule=np.array([rules.index(entry["rule"]) for entry in entries], np.uint8),
        shape=np.array([(entry["n"], entry["f"], entry["d"]) for entry in entries], np.uint8),
        ratio=np.array([entry["ratio"] for entry in entries]),
        values=np.concatenate([np.asarray(entry["X"], np.float64).ravel() for entry in entries]),
    )
    print(f"{len(entries)} inputs of {len(rules)} rules, {TARGET.stat().st_size} bytes in {TARGET}")


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
