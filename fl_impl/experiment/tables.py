"""The table of a comparison for papers and programs: CSV, Markdown, LaTeX and a pandas frame."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import TYPE_CHECKING, Any, Final

from fl_impl.common.extras import require
from fl_impl.experiment.grid import NONE

if TYPE_CHECKING:
    import pandas as pd

    from fl_impl.experiment.comparison import Comparison

COLUMNS: Final = (
    "aggregator", "attack", "fraction", "seed", "accuracy", "worst_client", "worst_class", "attack_success",
    "seconds_per_round", "rounds", "error",
)  # fmt: skip
"""Of the CSV file and the frame; a line is a federation."""
LATEX: Final = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "|": r"\textbar{}", "{": r"\{", "}": r"\}"}


def rows(comparison: Comparison) -> list[tuple[Any, ...]]:
    """One tuple of COLUMNS for each federation; NaN for what is not known."""
    found: list[tuple[Any, ...]] = []
    for t, metrics in comparison.results.items():
        last = metrics.rounds[-1] if metrics.rounds else None
        success = math.nan if last is None or last.attack_success is None else last.attack_success
        seconds = sum(r.seconds for r in metrics.rounds) / len(metrics.rounds) if metrics.rounds else math.nan
        least = [min(metrics.clients.get(name, []), default=math.nan) for name in ("accuracy", "class_accuracy")]
        accuracy = last.accuracy if last else math.nan
        label = (t.aggregator, t.attack, t.fraction, t.seed)
        found.append((*label, accuracy, *least, success, round(seconds, 5), len(metrics.rounds), metrics.error))
    return found


def to_csv(comparison: Comparison) -> str:
    """Every federation a line, quoted as RFC 4180 says."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows(comparison))
    return text.getvalue()


def to_pandas(comparison: Comparison) -> pd.DataFrame:
    """Every federation a row. Raises ModuleNotFoundError where pandas is not installed."""
    return require("pandas", extra="frames").DataFrame(rows(comparison), columns=list(COLUMNS))


def headline_cells(comparison: Comparison, fraction: float) -> tuple[list[str], list[list[str]]]:
    """The table of one fraction, head and lines: rank, rule, clean, each shared attack, the strongest, what it cost."""
    attacks = [attack for attack in comparison.shared_attacks if attack != NONE]
    head = ["rank", "aggregator", "clean", *attacks, "strongest attack found", "which", "points lost"]
    ranks = comparison.ranks(fraction)
    lines: list[list[str]] = []
    for rule in sorted(comparison.aggregators, key=lambda rule: (ranks[rule], -comparison.worst(rule, fraction))):
        line = comparison.headline(rule, fraction)
        cells = [str(comparison.estimate(rule, attack, fraction)) for attack in attacks]
        lost = f"{line.lost:.1f}"
        lines.append([str(ranks[rule]), rule, str(line.clean), *cells, str(line.accuracy), line.attack, lost])
    return head, lines


def breakdown_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Rule, and the largest fraction up to which it keeps 90 % of its clean accuracy; >= where that is the largest tried."""
    last = comparison.fractions[-1]
    found = {rule: comparison.breakdown(rule) for rule in comparison.aggregators}
    lines = [[rule, f"{'>= ' if held == last else ''}{held:g}"] for rule, held in found.items()]
    return ["aggregator", "breakdown fraction"], lines


def to_markdown(comparison: Comparison) -> str:
    """A table for each fraction, in per cent with 95 % intervals, and the breakdown fractions."""
    parts: list[str] = []
    for fraction in comparison.fractions:
        parts += [f"### {fraction:.0%} attackers", markdown(*headline_cells(comparison, fraction))]
    return "\n\n".join([*parts, "### Breakdown", markdown(*breakdown_cells(comparison))]) + "\n"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in (head, ["---"] * len(head), *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def to_latex(comparison: Comparison) -> str:
    """A tabular for each fraction, for a document that uses booktabs."""
    return "\n".join(
        f"% {100 * fraction:g} per cent attackers; accuracy in per cent\n{latex(*headline_cells(comparison, fraction))}"
        for fraction in comparison.fractions
    )


def latex(head: list[str], lines: list[list[str]]) -> str:
    """A booktabs tabular; names are escaped."""
    body = "\n".join(" & ".join(map(escaped, line)) + r" \\" for line in lines)
    columns = "r" + "l" * (len(head) - 1)
    top = " & ".join(map(escaped, head)) + r" \\"
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{top}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def escaped(text: str) -> str:
    """The text with what LaTeX reads as commands escaped."""
    return re.sub(r"[_%&#|{}]", lambda found: LATEX[found[0]], text)
