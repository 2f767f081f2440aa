"""What `fl-experiment` shows: the plan, progress, tables, pictures and pages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fl_impl.common.files import write_atomically
from fl_impl.config import describe
from fl_impl.experiment.comparison import Comparison
from fl_impl.experiment.grid import NONE, Trial
from fl_impl.experiment.tables import to_csv, to_latex, to_markdown
from fl_impl.metrics import FLMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fl_impl.config import FLConfig
    from fl_impl.metrics import RoundResult
    from fl_impl.tasks import BenchmarkTask

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


def present(
    results: Mapping[Trial, FLMetrics], folder: Path, task: BenchmarkTask | None = None, *, page: Path | None = None
) -> None:
    """Print the tables; write comparison.html, .csv, .md and .tex, and the pictures. task: whose recorded accuracy counts."""
    from fl_impl.experiment.page import comparison_page  # noqa: PLC0415  # only where a page is made

    comparison = Comparison(results)
    rules, attacks = comparison.aggregators, comparison.shared_attacks
    seeds = len(comparison.seeds)
    for fraction in comparison.fractions:
        rows = [[comparison.accuracy(rule, attack, fraction) for attack in attacks] for rule in rules]
        console.print(
            grid_table(rules, attacks, rows, f"{fraction:.0%} Byzantine: accuracy in per cent, mean of {seeds} seeds")
        )
        headline(comparison, fraction)
    for remark in remarks(comparison, task):
        console.print(f"note: {remark}", highlight=False)
    pictures(comparison, folder)
    for ending, text in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
        write_atomically(folder / f"comparison.{ending}", text(comparison).encode())
    target = page or folder / "comparison.html"
    write_atomically(target, comparison_page(comparison).encode())
    console.print(f"page: {target}")


def headline(comparison: Comparison, fraction: float) -> None:
    """Print each rule under the strongest attack found for it, best first, with intervals, ranks and ties."""
    table = Table(title="Under the strongest attack found", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name, justify in (
        ("rank", "right"),
        ("aggregator", "left"),
        ("accuracy", "left"),
        ("lost", "right"),
        ("attack", "left"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left")
    ranks = comparison.ranks(fraction)
    for rule in sorted(comparison.aggregators, key=lambda rule: (ranks[rule], -comparison.worst(rule, fraction))):
        line = comparison.headline(rule, fraction)
        table.add_row(str(ranks[rule]), rule, Text(str(line.accuracy)), f"{line.lost:.1f}", Text(line.attack))
    console.print(table)


def remarks(comparison: Comparison, task: BenchmarkTask | None) -> list[str]:
    """What the federations said of themselves, each once, and a clean run that falls short of what the task records."""
    said = [note for metrics in comparison.results.values() for note in metrics.notes]
    clean = [t for t in comparison.results if t.aggregator in ("mean", "fedavg") and t.attack == NONE]
    if task is not None:
        said += [task.shortfall(t.settings, comparison.accuracy(t.aggregator, NONE, t.fraction)) for t in clean]
    return [note for note in dict.fromkeys(said) if note]


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
    from fl_impl.plotting.figures import heat_map, save, with_bands  # noqa: PLC0415  # matplotlib is an extra

    rules, attacks, fractions = comparison.aggregators, comparison.shared_attacks, comparison.fractions
    try:
        for fraction in fractions:
            rows = [[comparison.accuracy(rule, attack, fraction) for attack in attacks] for rule in rules]
            figure = heat_map(rules, attacks, rows, f"{fraction:.0%} Byzantine: accuracy in per cent, worst in bold")
            save(figure, folder / f"heatmap_{round(100 * fraction)}")
            courses = {rule: comparison.course(rule, comparison.headline(rule, fraction).attack, fraction) for rule in rules}
            bands = {rule: [(x, e.mean, e.low, e.high) for x, e in line] for rule, line in courses.items()}
            title = f"Under the strongest attack found for each, {fraction:.0%} attackers"
            save(with_bands(bands, title, x_label="round"), folder / f"strongest_{round(100 * fraction)}")
        if len(fractions) > 1:
            found = {rule: [(x, comparison.headline(rule, x).accuracy) for x in fractions] for rule in rules}
            bands = {rule: [(x, e.mean, e.low, e.high) for x, e in line] for rule, line in found.items()}
            title = "Accuracy under the strongest attack found"
            save(with_bands(bands, title, x_label="Byzantine fraction", marker="o"), folder / "fractions")
    except ModuleNotFoundError as error:
        console.print(f"no pictures: {error}")
