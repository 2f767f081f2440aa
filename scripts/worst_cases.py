"""Write docs/worst_cases.md: what the adversary reaches of every exact constant, and of the others, at n <= 20.

Usage: python scripts/worst_cases.py [seconds for each, 20 where not given]
"""

import math
import sys
from pathlib import Path

from pytest_fl import worst_case
from pytest_fl.oracles.theory import RULES, RuleTheory

PAGE = Path(__file__).parent.parent / "docs" / "worst_cases.md"
SIZES = ((5, 2), (8, 3), (11, 2), (11, 5), (16, 3), (20, 6))
EVALUATIONS = 6000
SUBSETS = 10_000
"""Beyond so many, a search through all subsets is left out."""
HEAD = """# What the adversary finds

`python scripts/worst_cases.py` wrote this page. For each rule of fl_impl and each (n, f): the largest coefficient
`||F(x) - mean||^2 / variance` that `pytest_fl.worst_case` found in max(2, n - 2f) dimensions, starting from the shapes of
`pytest_fl/oracles/extremal.py`, within {evaluations} evaluations or {seconds:g} seconds; the proven kappa; and their
quotient. No rule can stay below f/(n-2f). Where kappa is exact (bold) the quotient is to be 1; elsewhere the truth lies
between what was found and kappa. The proofs: [theory.md](theory.md). Rules that search all subsets are left out beyond
{subsets} of them.

| rule | n | f | found | kappa | found / kappa | f/(n-2f) |
| --- | --: | --: | --: | --: | --: | --: |
"""
SPECS = {"coordinate_median_lower": 'coordinate_median(convention="lower")', "krum_blanchard": 'krum(neighbours="n-f-2")'}


def affordable(theory: RuleTheory, n: int, f: int) -> bool:
    """Whether the rule takes (n, f) and is fast there."""
    subsets = math.comb(n, f) if theory.name in {"minimum_variance", "smea"} else 0
    return n >= theory.min_clients(f) and subsets <= SUBSETS


def main(seconds: float) -> None:
    """One line for each rule, exact constants first. Fails where an exact constant is not reached to 0.99."""
    lines: list[str] = []
    for theory in sorted(RULES.values(), key=lambda rule: not rule.exact):
        if theory.name in {"mean", "krum_unsquared"}:
            continue  # no constant, and no rule of ours
        for n, f in SIZES:
            if not affordable(theory, n, f):
                continue
            found = worst_case(SPECS.get(theory.name, theory.name), n, f, seconds=seconds, evaluations=EVALUATIONS)
            assert found.kappa is not None
            exact = theory.exact and theory.attained(n, f)
            assert not exact or found.ratio >= 0.99 * found.kappa, (theory.name, n, f, found.ratio, found.kappa)
            share = f"{found.ratio / found.kappa:.4f}"
            mark = f"**{share}**" if exact else share
            name = f"`{theory.name}`".replace("|", "\\|")
            lines.append(f"| {name} | {n} | {f} | {found.ratio:.4g} | {found.kappa:.4g} | {mark} | {found.lower_bound:.4g} |")
            print(lines[-1], flush=True)
    head = HEAD.format(evaluations=EVALUATIONS, seconds=seconds, subsets=SUBSETS)
    PAGE.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
