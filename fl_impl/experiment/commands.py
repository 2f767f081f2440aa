"""The commands of `fl-experiment`: run, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl_impl.common.counts import read_fraction
from fl_impl.common.specs import split
from fl_impl.experiment.aggregate import aggregate
from fl_impl.experiment.console import console, last, picture, plan, present, progress, status, stored
from fl_impl.experiment.grid import Trial, TrialGrid, kept, run_grid, run_trials
from fl_impl.experiment.lora import lora
from fl_impl.experiment.names import list_names
from fl_impl.experiment.options import (
    BROKEN,
    INTERRUPTED,
    USAGE,
    configuration,
    fail,
    reason,
    settings_of,
    with_settings,
    with_task,
)
from fl_impl.experiment.search import RULES, SUITE, check_budget, search_all
from fl_impl.metrics import LATEST, FLMetrics

if TYPE_CHECKING:
    from fl_impl.metrics import RoundResult

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Federated learning under attack.", pretty_exceptions_enable=False
)
app.command()(lora)
app.command("list")(list_names)
app.command()(aggregate)

ConfigFile = Annotated[Path | None, typer.Argument(help="A .toml, .yaml or .json file of settings.", exists=True)]
TaskName = Annotated[str | None, typer.Option(help="A named task, see `list tasks`: data, model and training that converge.")]
DEFAULT_TASK = "digits"
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run, and stop.")]


@app.command()
@with_settings()
def run(
    config: ConfigFile = None,
    task: TaskName = None,
    output: Annotated[Path, typer.Option(help="Metrics; checkpoint and picture lie beside it.")] = Path(LATEST),
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the output stops.")] = False,
    dry_run: DryRun = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Run one federation: a progress bar, the metrics as JSON, a checkpoint after each round, and a picture."""
    chosen = configuration(config, settings, task)
    if dry_run:
        console.print(plan(chosen))
        return
    from fl_impl.clients import make_clients  # noqa: PLC0415  # torch takes seconds: not for --help
    from fl_impl.coordinator import FederatedLearningCoordinator  # noqa: PLC0415  # as above

    coordinator = FederatedLearningCoordinator(chosen)
    with progress() as bar:
        line = bar.add_task("rounds", total=chosen.num_rounds, status="")

        def show(result: RoundResult) -> None:
            bar.update(line, completed=result.round, status=status(result))

        try:
            metrics = coordinator.run(make_clients(chosen), output=output, resume=resume, on_round=show)
        except KeyboardInterrupt:
            fail(f"interrupted after round {len(coordinator.metrics.rounds)}; --resume goes on from {output}", INTERRUPTED)
        except (ValueError, RuntimeError) as error:  # RuntimeError: an engine that does not start, or stopped
            fail(reason(error), BROKEN)
    console.print(f"{status(metrics.final)}  ->  {output}")
    for note in metrics.notes:
        console.print(f"note: {note}", highlight=False)
    picture(metrics)


@app.command()
@with_settings(without=("aggregation", "attack", "byzantine_fraction", "seed"))
def compare(
    config: ConfigFile = None,
    task: TaskName = None,
    aggregators: Annotated[str | None, typer.Option(help="Rules, with commas between.")] = None,
    attacks: Annotated[str | None, typer.Option(help="Attacks, with commas between; the clean run is always there.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Byzantine fractions, with commas between.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, with commas between; five by default.")] = None,
    strongest: Annotated[
        int, typer.Option(min=0, help="Federations spent on each rule's search for its strongest attack; 0 searches none.")
    ] = 40,
    output: Annotated[Path, typer.Option(help="Folder of results; what lies there is not run again.")] = Path("fl_compare"),
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run all again, whatever lies in the output.")] = False,
    dry_run: DryRun = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Run a grid of aggregators, attacks, fractions and seeds on a task, and each rule under the strongest attack found for it.

    Prints the tables; writes heat maps, CSV, Markdown, LaTeX and one HTML page. A config file may name task, aggregators,
    attacks, fractions and seeds too, as lists. The task "digits" is the default; settings replace those of the task.
    """
    try:
        axes = {"aggregators": aggregators, "attacks": attacks, "fractions": fractions, "seeds": seeds}
        chosen, read = with_task(settings_of(config, settings), task, DEFAULT_TASK)
        grid = grid_of(read, axes)
        trials = grid.trials()
        if strongest:
            check_budget(strongest)
    except (ValueError, OSError) as error:
        fail(reason(error), USAGE)
    done = 0 if fresh else sum(kept(trial, output) is not None for trial in trials)
    console.print(f"{len(trials)} federations, {done} of them done already in {output}")
    if dry_run:
        for trial in trials:
            console.print(f"{trial.aggregator}  {trial.attack}  {trial.fraction:g}  seed {trial.seed}", highlight=False)
        return
    try:
        results = run_comparison(grid, output, workers=workers, fresh=fresh, strongest=strongest)
    except KeyboardInterrupt:
        fail(f"interrupted; what is done lies in {output}, and the same command goes on from there", INTERRUPTED)
    present(results, output, chosen)
    broken = {trial: metrics.error for trial, metrics in results.items() if metrics.error}
    if broken:
        trial, error = next(iter(broken.items()))
        where = f"{trial.aggregator}, {trial.attack}, {trial.fraction:.0%}, seed {trial.seed}"
        fail(f"{len(broken)} of {len(results)} federations broke down; {where}: {error}", BROKEN)


def run_comparison(
    grid: TrialGrid, output: Path, *, workers: int | None, fresh: bool, strongest: int
) -> dict[Trial, FLMetrics]:
    """The grid, then the search for each rule and fraction, then the attacks that it found on the seeds of the grid."""
    with progress() as bar:
        line = bar.add_task("federations", total=len(grid.trials()), status="")

        def show(trial: Trial, metrics: FLMetrics) -> None:
            bar.update(line, advance=1, status=f"{trial.aggregator}, {trial.attack}, {trial.fraction:.0%}: {last(metrics)}")

        results = run_grid(grid, output, workers=workers, fresh=fresh, on_done=show)
        if not strongest:
            return results
        pairs = [(rule, fraction) for rule in grid.aggregators for fraction in grid.fractions]
        searching = bar.add_task("searches", total=len(pairs), status="")
        found: list[Trial] = []
        for found_in in search_all(grid, output, pairs, budget=strongest, workers=workers):
            rule, fraction, attack = found_in
            found += [Trial(rule, attack, fraction, seed, grid.settings) for seed in grid.seeds]
            bar.update(searching, advance=1, status=f"{rule}, {fraction:.0%}: {attack}")
        ordered = sorted(found, key=lambda trial: pairs.index((trial.aggregator, trial.fraction)))
        bar.update(line, total=len(grid.trials()) + len(ordered))
        return results | run_trials(ordered, output, workers=workers, fresh=fresh, on_done=show)


def grid_of(settings: dict[str, Any], axes: dict[str, str | None]) -> TrialGrid:
    """The grid of a file and of what the command line says, which wins."""
    defaults = {"aggregators": ",".join(RULES), "attacks": ",".join(SUITE), "fractions": "0.2", "seeds": "0,1,2,3,4"}
    chosen: dict[str, tuple[str, ...]] = {}
    for name, said in axes.items():
        read = settings.pop(name, defaults[name])
        listed = split(said, ",") if said is not None else split(read, ",") if isinstance(read, str) else list(map(str, read))
        chosen[name] = tuple(part.strip() for part in listed)
    for name in ("aggregation", "attack", "byzantine_fraction", "seed"):
        settings.pop(name, None)  # the grid sets these
    fractions, seeds = tuple(float(read_fraction(part)) for part in chosen["fractions"]), tuple(map(int, chosen["seeds"]))
    return TrialGrid(chosen["aggregators"], chosen["attacks"], fractions, seeds, settings)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="Metrics of a run, or the folder of a comparison.", exists=True)],
    output: Annotated[Path | None, typer.Option(help="The HTML page; beside the source by default.")] = None,
) -> None:
    """Make one self-contained HTML page of a run or a comparison."""
    from fl_impl.experiment.page import run_page  # noqa: PLC0415  # only where a page is made

    if source.is_dir():
        present(stored(source), source, page=output)
        return
    try:
        metrics = FLMetrics.load(source)
        page = run_page(metrics)
    except (ValueError, KeyError) as error:
        fail(str(error), USAGE)
    target = output or source.with_suffix(".html")
    target.write_text(page, encoding="utf-8")
    console.print(f"{status(metrics.final)}  ->  {target}")
