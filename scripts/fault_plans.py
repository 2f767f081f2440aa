"""Random plans of faults on our rules and strategies, and on Flower's own: the figures of docs/faults.md and of the gallery.

    python scripts/fault_plans.py            # ours: 500 plans over six rules on each of two engines; a quarter of an hour
    python scripts/fault_plans.py --flower         # Flower's own strategies, kind by kind; a few minutes
    python scripts/fault_plans.py --write          # both, into docs/faults.md and docs/gallery.md

Exit status 1: one of ours broke an invariant.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fl_impl.faults import KINDS, Fault, FaultPlan  # noqa: E402  # found from the root of the repository
from fl_impl.faults.kinds import effect_of  # noqa: E402
from pytest_fl.engine.survival import ARRIVED, BOUNDED, FINITE, UNDISTURBED, NotSurvived, survives  # noqa: E402

RULES: Final = ("trimmed_mean", "coordinate_median", "krum", "multi_krum", "nnm|trimmed_mean", "bulyan")
CLIENTS, F, ROUNDS = 11, 2, 4
PLANS: Final = 84
"""For each rule and engine: six times that are 504."""
MARK: Final = "<!-- made by scripts/fault_plans.py -->"
SHORT: Final = {FINITE: "ends or NaN", ARRIVED: "counted twice", BOUNDED: "beyond the bound", UNDISTURBED: "differs"}


def ours() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """(rule, engine, how it is tried)."""
    from fl_impl.flower import RobustStrategy  # noqa: PLC0415  # flwr is imported by who asks for it

    for seed, rule in enumerate(RULES):  # other plans for each rule
        common: dict[str, Any] = {"plans": PLANS, "clients": CLIENTS, "f": F, "rounds": ROUNDS, "seed": seed}
        yield rule, "local", functools.partial(survives, rule, **common)
        strategy = functools.partial(RobustStrategy, rule, byzantine_fraction=F / CLIENTS)
        yield rule, "Flower", functools.partial(survives, strategy, **common)


def our_table() -> tuple[str, bool]:
    """The table of docs/faults.md, and whether something broke."""
    lines = ["| rule | engine | plans | rounds | held to the bound | runs refused | broken |", "|---|---|---|---|---|---|---|"]
    totals, broke = {"local": 0, "Flower": 0}, False
    for rule, engine, attempt in ours():
        started = time.monotonic()
        try:
            done = attempt()
            totals[engine] += done.plans
            cells = [done.plans, done.rounds, done.bounded, done.refused, "none"]
        except NotSurvived as error:
            broke, cells = True, ["", "", "", "", f"`{error.plan}`: {error.invariant}"]
        lines.append("| " + " | ".join([f"`{rule}`".replace("|", "\\|"), engine, *map(str, cells)]) + " |")
        print(lines[-1], f"{time.monotonic() - started:.0f} s", flush=True)
    verdict = "an invariant was broken" if broke else "no invariant was broken"
    engines = f"{totals['local']} plans on the coordinator and {totals['Flower']} on Flower's messages"
    head = f"{engines}, {CLIENTS} clients, f = {F}, {ROUNDS} rounds each: {verdict}."
    return "\n".join([head, "", *lines]), broke


def flowers() -> dict[str, tuple[Callable[[], Any], int]]:
    """Flower's strategy -> (how it is made, the f that it is told)."""
    from fl_impl.flower.quiet import prepare  # noqa: PLC0415  # before flwr

    prepare()
    from flwr.serverapp import strategy as theirs  # noqa: PLC0415  # likewise

    quiet: dict[str, Any] = {"fraction_evaluate": 0.0}
    return {
        "FedAvg": (functools.partial(theirs.FedAvg, **quiet), 0),
        "FedMedian": (functools.partial(theirs.FedMedian, **quiet), 2),
        "FedTrimmedAvg": (functools.partial(theirs.FedTrimmedAvg, beta=0.2, **quiet), 2),
        "Krum": (functools.partial(theirs.Krum, num_malicious_nodes=2, **quiet), 2),
        "MultiKrum": (functools.partial(theirs.MultiKrum, num_malicious_nodes=2, num_nodes_to_select=5, **quiet), 2),
        "Bulyan": (functools.partial(theirs.Bulyan, num_malicious_nodes=2, **quiet), 2),
    }


def plans_of(kind: str, f: int) -> list[FaultPlan]:
    """f clients that send something wrong; or one that is struck, alone and beside liars.

    A malformed reply arrives, and counts as one of the f; of replies that never arrive up to four are lost beside f liars.
    """
    if effect_of(kind) == "wrong":
        return [FaultPlan((Fault(kind, tuple(range(f)), (2, 3)),))] if f else []
    malformed = effect_of(kind) == "malformed"
    liars = Fault("byzantine", tuple(range(f - malformed)), (2, 2))
    struck = [Fault(kind, tuple(range(CLIENTS - lost, CLIENTS)), (2, 2)) for lost in ((1,) if malformed else (1, 2, 4))]
    return [FaultPlan((struck[0],)), *(FaultPlan((each, liars)) for each in struck if liars.clients)]


def cell(make: Callable[[], Any], f: int, kind: str) -> str:
    """What a kind of fault does to a strategy."""
    plans = plans_of(kind, f)
    if not plans:
        return "—"
    try:
        survives(make, plans=plans, clients=CLIENTS, f=f, rounds=ROUNDS)
    except NotSurvived as error:
        return SHORT[error.invariant]
    return "holds"


def their_table() -> str:
    """The section of docs/gallery.md."""
    lines = ["| strategy | f | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |", "|---|---|" + "---|" * len(KINDS)]
    for name, (make, f) in flowers().items():
        lines.append(f"| `{name}` | {f} | " + " | ".join(cell(make, f, kind) for kind in KINDS) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


ABOUT: Final = """## Faults: Flower's strategies when replies are lost or malformed

What `pytest_fl.survives` says of the strategies of `flwr.serverapp` ({version}), on Flower's own messages in one process:
{clients} clients, a few of which crash, hang, are cut off or send what no client should, in one round or two. Made by
`python scripts/fault_plans.py --flower --write`; `pytest_fl.survives(strategy, plans=[...])` runs one plan again.

- *ends or NaN*: the ServerApp raises and the run is over, or the model is NaN from then on. One malformed reply of one client
  does it: Flower checks the names of records and arrays, not what is in them. A **defect** of a server that faces clients it
  does not control; `RobustStrategy` refuses the reply.
- *beyond the bound*: f clients lie, up to four others do not reply, and the result is farther from the sound updates than the
  rule allows for f. FedTrimmedAvg cuts a share of the replies that *came*, so that lost ones disarm it. **By design**: it
  promises no more than that share.
- *counted twice*: a reply that is delivered twice counts twice. **By design**: Flower's grid delivers each reply once.
- *holds*: all four invariants hold. Whether f liars alone are survived is the business of the tables above.

{table}
"""


def write(page: Path, section: str) -> None:
    """Replace what stands after the mark, to the next one, or append it."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARK)
    _, _, after = rest.partition(MARK)
    page.write_text(f"{before.rstrip()}\n\n{MARK}\n\n{section.strip()}\n\n{MARK}\n{after.lstrip()}", encoding="utf-8")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", action="store_true", help="Flower's own strategies only")
    parser.add_argument("--ours", action="store_true", help="ours only")
    parser.add_argument("--write", action="store_true", help="write the pages")
    options = parser.parse_args()
    broke = False
    if options.flower or not options.ours:
        told = {"version": f"flwr {version('flwr')}", "clients": CLIENTS, "table": their_table()}
        if options.write:
            write(ROOT / "docs" / "gallery.md", ABOUT.format(**told))
    if options.ours or not options.flower:
        table, broke = our_table()
        if options.write:
            write(ROOT / "docs" / "faults.md", table)
    return int(broke)


if __name__ == "__main__":
    sys.exit(main())
