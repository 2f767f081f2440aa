"""Write pytest_fl/oracles/data/worst_inputs.npz: the worst inputs that searches found, and those made to attain a constant.

Usage: python scripts/pack_worst_inputs.py [FOUND.json]

Without FOUND.json the inputs that were found stay as they are in the file, and the made ones are made anew.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.oracles.extremal import ATTAINED_BY
from pytest_fl.oracles.theory import RULES

TARGET = Path(__file__).parent.parent / "pytest_fl" / "oracles" / "data" / "worst_inputs.npz"
SIZES = [(n, f) for n in range(3, 13) for f in range(1, (n + 1) // 2)] + [(15, 4), (16, 5), (20, 3), (20, 6)]
"""(n, f) at which each exact constant is to have an input that attains it."""


class Entry(NamedTuple):
    """One input: rows 0..f-1 are Byzantine."""

    rule: str
    """The key: `RuleTheory.stored`."""
    x: npt.NDArray[np.float64]
    f: int
    ratio: float
    made: bool = False


def found(source: Path) -> Iterator[Entry]:
    """What a search left as JSON."""
    for entry in json.loads(source.read_text()):
        assert entry["byzantine_rows"] == list(range(entry["f"]))
        yield Entry(
            entry["rule"], np.asarray(entry["X"], np.float64).reshape(entry["n"], entry["d"]), entry["f"], entry["ratio"]
        )


def kept() -> Iterator[Entry]:
    """What searches found, out of the file as it is."""
    with np.load(TARGET, allow_pickle=False) as data:
        names, rule, shape, ratio, values = (data[key] for key in ("rules", "rule", "shape", "ratio", "values"))
        made = data["made"] if "made" in data else np.zeros(len(rule), bool)
    ends = np.cumsum(shape[:, 0].astype(int) * shape[:, 2])
    for index, (n, f, d) in enumerate(shape.astype(int)):
        if not made[index]:
            yield Entry(
                str(names[rule[index]]), values[ends[index] - n * d : ends[index]].reshape(n, d), int(f), float(ratio[index])
            )


def constructed(known: list[Entry]) -> Iterator[Entry]:
    """One input for each exact constant at each size at which no input that was found attains it."""
    reached = {(entry.rule, len(entry.x), entry.f): 0.0 for entry in known}
    for entry in known:
        key = entry.rule, len(entry.x), entry.f
        reached[key] = max(reached[key], entry.ratio)
    for name, shape in ATTAINED_BY.items():
        theory = RULES[name]
        for n, f in SIZES:
            if n < theory.min_clients(f) or not theory.attained(n, f):
                continue
            if reached.get((theory.stored, n, f), 0.0) >= 0.999 * theory.kappa(n, f):
                continue
            x = shape(n, f)
            ratio = _ratio(name, x, f)
            assert ratio >= 0.999 * theory.kappa(n, f), (name, n, f, ratio, theory.kappa(n, f))
            yield Entry(theory.stored, x, f, ratio, made=True)


def _ratio(name: str, x: npt.NDArray[np.float64], f: int) -> float:
    """||F - mean||^2 over the variance of the honest rows, F by its definition; where none is given, a line's median."""
    centre, honest = x[f:].mean(0), x[f:]
    variance = ((honest - centre) ** 2).sum(1).mean()
    answers = DEFINITIONS[name](x, f)
    if not len(answers):
        raise ValueError(f"{name} has no single answer at n={len(x)}, f={f}")
    return float((((answers - centre) ** 2).sum(1) / variance).max())


def pack(entries: list[Entry]) -> None:
    """All matrices end to end in one float64 array, their shapes and rules beside it."""
    rules = sorted({entry.rule for entry in entries})
    np.savez_compressed(
        TARGET,
        rules=np.array(rules),
        rule=np.array([rules.index(entry.rule) for entry in entries], np.uint8),
        shape=np.array([(len(entry.x), entry.f, entry.x.shape[1]) for entry in entries], np.uint8),
        ratio=np.array([entry.ratio for entry in entries]),
        made=np.array([entry.made for entry in entries]),
        values=np.concatenate([entry.x.ravel() for entry in entries]),
    )
    made = sum(entry.made for entry in entries)
    print(f"{len(entries)} inputs of {len(rules)} rules, {made} of them made, {TARGET.stat().st_size} bytes in {TARGET}")


if __name__ == "__main__":
    known = list(found(Path(sys.argv[1])) if len(sys.argv) > 1 else kept())
    pack(known + list(constructed(known)))
