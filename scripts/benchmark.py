"""Make docs/benchmark.md: each rule on named tasks, against the fixed suite and the strongest attack that a search finds.

python scripts/benchmark.py [--tasks digits,tumours] [--fractions 0.2] [--strongest 40] [--seeds 0,1,2,3,4] [--output FOLDER]

What lies in the folder is not run again, and gives the same page. --quick is two rules, two attacks, two seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fl_impl.common.counts import read_fraction
from fl_impl.common.files import write_atomically
from fl_impl.experiment.commands import run_comparison
from fl_impl.experiment.comparison import Comparison
from fl_impl.experiment.grid import NONE, TrialGrid
from fl_impl.experiment.search import RULES, SUITE
from fl_impl.experiment.tables import markdown, to_markdown
from fl_impl.tasks import named

PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
QUICK = {"aggregators": ("mean", "coordinate_median"), "attacks": ("sign_flip", "mimic"), "seeds": "0,1", "strongest": 8}


def compared(task: str, options: argparse.Namespace) -> Comparison:
    """The comparison of one task."""
    fractions = tuple(float(read_fraction(part)) for part in options.fractions.split(","))
    seeds = tuple(map(int, (QUICK["seeds"] if options.quick else options.seeds).split(",")))
    rules, suite = (QUICK["aggregators"], QUICK["attacks"]) if options.quick else (RULES, SUITE)
    grid = TrialGrid(rules, suite, fractions, seeds, named(task).configured({}))
    budget = QUICK["strongest"] if options.quick else options.strongest
    folder = Path(options.output) / task
    return Comparison(run_comparison(grid, folder, workers=options.workers, fresh=False, strongest=budget))


def gains(comparison: Comparison, fraction: float) -> str:
    """What the search adds: points lost under the worst attack of the suite, and under the strongest found."""
    suite = [attack for attack in comparison.shared_attacks if attack in SUITE]
    lines: list[list[str]] = []
    for rule in comparison.aggregators:
        clean = comparison.accuracy(rule, NONE, fraction)
        usual = max(100 * (clean - comparison.accuracy(rule, attack, fraction)) for attack in suite)
        most = comparison.headline(rule, fraction).lost
        ratio = f"{most / usual:.1f}" if usual > 0 else "suite costs nothing"
        lines.append([rule, f"{usual:.1f}", f"{most:.1f}", ratio])
    head = ["rule", "points lost, worst of the suite", "points lost, strongest found", "ratio"]
    return markdown(head, lines)


def page(comparisons: dict[str, Comparison], command: str) -> str:
    """The whole page: every figure in it is read from the comparisons."""
    parts = [
        "# Rules under attacks that try",
        (
            f"Made by `{command}`. Accuracy in per cent after the last round: mean over paired seeds, 95 % bootstrap interval. "
            "`strongest attack found` is the one that left a rule least: of the fixed suite, and of successive "
            "halving on seeds that are not shown here. Equal ranks are ties: the interval of the difference has 0 in it. "
            "A search of this size finds a lower bound of the harm: another attack may do more."
        ),
    ]
    for name, comparison in comparisons.items():
        settings = named(name).configured({})
        parts.append(f"## {name}, {settings['partition']}, {settings['num_clients']} clients")
        parts.append(to_markdown(comparison).strip())
        for fraction in comparison.fractions:
            parts += [f"### What the search adds at {fraction:.0%}", gains(comparison, fraction)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run what is not done yet and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="digits,tumours")
    parser.add_argument("--fractions", default="0.2")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--strongest", type=int, default=40)
    parser.add_argument("--output", default="fl_benchmark")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    shown = [f"--tasks {options.tasks}", f"--fractions {options.fractions}", f"--strongest {options.strongest}"]
    shown += ["--quick"] if options.quick else []
    comparisons = {name: compared(name, options) for name in options.tasks.split(",")}
    write_atomically(options.page, page(comparisons, f"python scripts/benchmark.py {' '.join(shown)}").encode())


if __name__ == "__main__":
    main()
