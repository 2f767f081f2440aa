"""`verify` and `replay`: every check on one subject, or one saved round again, without pytest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from pytest_fl.adapters.options import Options
from pytest_fl.engine.isolation import Isolation, examiner
from pytest_fl.engine.search import judge
from pytest_fl.engine.session import run_check
from pytest_fl.engine.targets import target
from pytest_fl.reporting.report import Report
from pytest_fl.subjects.histories import History
from pytest_fl.subjects.profiles import Profile, profile_named
from pytest_fl.subjects.round import Round


def verify(
    thing: object,
    *,
    expected_failures: Mapping[str, str] | None = None,
    profile: str | Profile = "default",
    seed: int = 0,
    checks: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    isolation: Isolation = "process",
    **options: Unpack[Options],
) -> Report:
    """Run every check on an aggregator, or on another part, and report, without pytest: `print(pytest_fl.verify(my_rule))`.

    Takes what `conformance` takes. `checks`: only these, by name; `skip`: all but these. `isolation`: "process" calls the
    rule in a child process, whatever it does there; "none" calls it here, to debug it. Counterexamples are saved under
    ./.pytest_fl.
    """
    judged = target(thing, **options)
    chosen = replace(profile_named(profile) if isinstance(profile, str) else profile, seed=seed)
    expected, wanted = dict(expected_failures or {}), judged.checks(checks, skip)
    judged.checks(expected)  # an unknown name is an error
    with closing(examiner(judged, chosen, isolation, len(wanted))) as who:
        rows = tuple(who.examine(check, expected.get(check.name)) for check in wanted)
        failed = any(row.outcome == "failed" for row in rows)
        seen = who.identity() if failed else ""
        return Report(rows, notes=(*who.notes, f"behaves as {seen}") if seen else who.notes)


audit_report = verify
"""The name that `verify` has where a part other than an aggregator is judged."""


def replay(path: str | Path, aggregator: object, *, isolation: Isolation = "process", **options: Unpack[Options]) -> Report:
    """Run the check of a saved counterexample again, on that round alone; options as for `conformance`.

    Raises ValueError where the file is not a saved round or its check is unknown.
    """
    from fl_impl.common.specs import lookup  # noqa: PLC0415  # fl_impl is loaded when a check is chosen

    history = History.load(Path(path))
    _, known = history or Round.load(Path(path))
    judged = target(aggregator, **(options | Options(stateful=True) if history else options))
    if judged.part is not None:
        raise ValueError(f"expected an aggregator to replay {path} on, got the {type(judged.part).__name__} {judged.name}")
    check = lookup(known.get("check", ""), {check.name: check for check in judged.checks()}, "the name of a check")
    with closing(examiner(judged, profile_named("default"), isolation, 1)) as who:
        return Report((who.examine(check, file=Path(path)),), notes=who.notes)


__all__ = ["audit_report", "judge", "replay", "run_check", "verify"]
