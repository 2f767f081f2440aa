"""Write docs/worst_cases.md: what the adversary reaches of every exact constant, and of the others, at n <= 11.

Usage: python scripts/worst_cases.py [seconds for each, 20 where not given]
"""

import sys
from pathlib import Path

from pytest_fl import worst_case
from pytest_fl.oracles.theory import RULES

PAGE = Path(__file__).parent.parent / "docs" / "worst_cases.md"
SIZES = ((5, 2), (8, 3), (11, 2), (11, 5))
EVALUATIONS = 6000
HEAD = f"""# What the adversary finds

`python scripts/worst_cases.py` wrote this page. For each rule of fl_impl and each (n, f): the largest coefficient
`||F(x) - mean||^2 / variance` that `pytest_fl.worst_case` found in two dimensions within {EVALUATIONS} evaluations or the
seconds given, the proven kappa, and their quotient. No rule can stay below f/(n-2f). Where kappa is exact the quotient is to be
1; elsewhere the truth lies between what was found and kappa.

| rule | n | f | found | kappa | found / kappa | f/(n-2f) |
| --- | --: | --: | --: | --: | --: | --: |
"""


def main(seconds: float) -> None:
    """One line for each rule, exact constants first."""
    lines = []
    for theory in sorted(RULES.values(), key=lambda rule: not rule.exact):
        if theory.name in {"mean", "krum_unsquared"}:
            continue  # no constant, and no rule of ours
        spec = {
            "coordinate_median_lower": 'coordinate_median(convention="lower")',
            "krum_blanchard": 'krum(neighbours="n-f-2")',
        }.get(theory.name, theory.name)
        for n, f in SIZES:
            if n < theory.min_clients(f):
                continue
            found = worst_case(spec, n, f, 2, seconds=seconds, evaluations=EVALUATIONS)
            assert found.kappa is not None
            share = f"{found.ratio / found.kappa:.4f}"
            mark = f"**{share}**" if theory.exact else share
            least = f"{found.lower_bound:.4g}"
            name = f"`{theory.name}`".replace("|", "\\|")
            lines.append(f"| {name} | {n} | {f} | {found.ratio:.4g} | {found.kappa:.4g} | {mark} | {least} |")
            print(lines[-1], flush=True)
    PAGE.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
