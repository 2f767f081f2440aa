"""`python -m pytest_fl verify TARGET` and `python -m pytest_fl replay FILE TARGET`: the harness from a shell."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_fl.reporting.versions import version_line

TARGET = 'a spec ("krum", "nnm|trimmed_mean") or "package.module:attribute"'


def main(arguments: list[str] | None = None) -> int:
    """Print the report; 0 where every check holds, 1 where one fails, 2 where the request cannot be understood."""
    parser = argparse.ArgumentParser(
        prog="python -m pytest_fl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=version_line(), help="print the versions that matter, and exit")
    commands = parser.add_subparsers(dest="command", required=True)
    verifying = commands.add_parser("verify", help="run every check on an aggregator")
    verifying.add_argument("target", help=TARGET)
    verifying.add_argument("--profile", default="default", help="quick, default or thorough")
    verifying.add_argument("--seed", type=int, default=0)
    replaying = commands.add_parser("replay", help="run a saved counterexample again")
    replaying.add_argument("file", type=Path)
    replaying.add_argument("target", help=TARGET)
    for command in (verifying, replaying):
        command.add_argument("--claims", help='hold it to a known rule: "krum", "trimmed_mean", ...')
    options = parser.parse_args(arguments)

    from pytest_fl.engine.runner import replay, verify  # noqa: PLC0415  # --help needs none of it

    sys.path.insert(0, str(Path.cwd()))
    try:
        if options.command == "verify":
            report = verify(options.target, claims=options.claims, profile=options.profile, seed=options.seed)
        else:
            report = replay(options.file, options.target, claims=options.claims)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    print(report)  # noqa: T201  # a command prints
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
