"""What `fl-experiment` shows: the plan, progress, tables, pictures and pages."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fl_impl.common.files import write_atomically
from fl_impl.config import describe
from fl_impl.experiment.grid import NONE, Comparison, Trial
from fl_impl.metrics import FLMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fl_impl.config import FLConfig
    from fl_impl.metrics import RoundResult

console = Console()


def progress() -> Progress:
    """A bar with a count, the time, and a line of status."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[status]}"), console=console)


def status(result: RoundResult) -> str:
    """A round in a line."""
    success = "" if result.attack_success is None else f"  attack success {result.attack_success:.1%}"
    spent = "" if result.epsilon is None else f"  epsilon {result.epsilon:.3g}"
    lost = f"  {len(result.rejected)} rejected" if result.rejected else ""
    return f"round {result.round}: accuracy {result.accuracy:.1%}  loss {result.global_loss:.4f}{spent}{success}{lost}"


def last(metrics: FLMetrics) -> str:
    """The line that says how a federation ended."""
    accuracy = f"{metrics.rounds[-1].accuracy:.1%}" if metrics.rounds else "no round"
    return f"{accuracy} ({metrics.error})" if metrics.error else accuracy


def plan(config: FLConfig) -> Table:
    """All settings, and what follows from them."""
    table = Table("setting", "value", title="plan", title_justify="left")
    for name in type(config).model_fields:
        value = getattr(config, name)
        table.add_row(name, "" if value is None else describe(value) if not isinstance(value, int | float) else str(value))
    n = config.fit_clients
    table.add_section()
    table.add_row("clients in a round", str(n))
    table.add_row("f that the aggregator is told", str(config.tolerated(n)))
    table.add_row("kappa of the aggregator", f"{config.rule.kappa(n, config.tolerated(n)):.3g}")
    table.add_row("attackers among all clients", str(config.attackers))
    return table


def picture(metrics: FLMetrics) -> None:
    """Draw the course of a run beside its metrics, or say why not."""
    try:
        metrics.plot_convergence()
    except ModuleNotFoundError as error:
        console.print(f"no picture: {error}")


def stored(folder: Path) -> dict[Trial, FLMetrics]:
    """The results of a comparison that lie in its folder."""
    found: dict[Trial, FLMetrics] = {}
    for path in sorted((folder / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime):  # of two the newer
        metrics = FLMetrics.load(path)
        said = metrics.config
        trial = Trial(said["aggregation"], said["attack"] or NONE, said["byzantine_fraction"], said["seed"])
        found[trial] = metrics
    return dict(sorted(found.items(), key=lambda item: (item[0].attack != NONE, item[0].attack, item[0].aggregator)))


def present(results: Mapping[Trial, FLMetrics], folder: Path, page: Path | None = None) -> None:
    """Print the tables; write comparison.html, comparison.csv and the pictures."""
    from fl_impl.experiment.page import comparison_page  # noqa: PLC0415  # only where a page is made

    comparison = Comparison(results)
    rules, attacks = comparison.aggregators, comparison.attacks
    for fraction in comparison.fractions:
        rows = [[comparison.accuracy(rule, attack, fraction) for attack in attacks] for rule in rules]
        console.print(grid_table(rules, attacks, rows, f"{fraction:.0%} Byzantine: accuracy in per cent, mean over seeds"))
    pictures(comparison, folder)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("aggregator", "attack", "fraction", "seed", "accuracy"))
    for t, metrics in results.items():
        accuracy = metrics.rounds[-1].accuracy if metrics.rounds else math.nan
        writer.writerow((t.aggregator, t.attack, t.fraction, t.seed, accuracy))
    write_atomically(folder / "comparison.csv", table.getvalue().encode())
    target = page or folder / "comparison.html"
    write_atomically(target, comparison_page(comparison).encode())
    console.print(f"page: {target}")


def grid_table(rules: list[str], attacks: list[str], rows: list[list[float]], title: str) -> Table:
    """Attacks down, aggregators across; the worst attack of each aggregator in bold."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("attack", no_wrap=True)
    for rule in rules:
        table.add_column(rule.replace("_", " ").replace("|", " | "), justify="right")
    worst = [min((value for value in values if not math.isnan(value)), default=math.nan) for values in rows]
    for number, attack in enumerate(attacks):
        cells = [(values[number], least) for values, least in zip(rows, worst, strict=True)]
        table.add_row(attack, *(f"[bold]{100 * v:.0f}[/]" if v == least else f"{100 * v:.0f}" for v, least in cells))
    return table


def pictures(comparison: Comparison, folder: Path) -> None:
    """A heat map for each fraction and, for several, accuracy under the worst attack over them; or why there are none."""
    from fl_impl.plotting.figures import against_fraction, heat_map  # noqa: PLC0415  # matplotlib is an extra

    rules, attacks, fractions = comparison.aggregators, comparison.attacks, comparison.fractions
    try:
        for fraction in fractions:
            rows = [[comparison.accuracy(rule, attack, fraction) for attack in attacks] for rule in rules]
            figure = heat_map(rules, attacks, rows, f"{fraction:.0%} Byzantine: accuracy in per cent, worst in bold")
            figure.savefig(folder / f"heatmap_{round(100 * fraction)}.png", dpi=150)
        if len(fractions) > 1:
            lines = {rule: [comparison.worst(rule, fraction) for fraction in fractions] for rule in rules}
            against_fraction(fractions, lines, "Accuracy under the worst attack").savefig(folder / "fractions.png", dpi=150)
    except ModuleNotFoundError as error:
        console.print(f"no pictures: {error}")
