"""`python -m pytest_fl verify TARGET` and `python -m pytest_fl replay FILE TARGET`: the harness from a shell."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_fl.reporting.versions import version_line

if TYPE_CHECKING:
    from pytest_fl.reporting.report import Report

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
    verifying.add_argument("--checks", type=names, help="only these checks, with commas between")
    verifying.add_argument("--skip", type=names, default=(), help="all checks but these, with commas between")
    verifying.add_argument("--updates", type=Path, help="judge it on saved updates: .npz, .npy, .csv or .safetensors")
    verifying.add_argument("--byzantine", type=int, default=1, help="f, with --updates")
    verifying.add_argument("--json", action="store_true", help="print the report as JSON")
    replaying = commands.add_parser("replay", help="run a saved counterexample again")
    replaying.add_argument("file", type=Path)
    replaying.add_argument("target", help=TARGET)
    for command in (verifying, replaying):
        command.add_argument("--claims", help='hold it to a known rule: "krum", "trimmed_mean", ...')
        command.add_argument("--min-clients", help='the least n, as a formula of f: "2*f+3"')
        command.add_argument("--kappa", help='the claimed coefficient, as a formula of n and f: "f/(n-2*f)"')
        command.add_argument("--symmetries", type=names, help="claimed symmetries, with commas between")
        command.add_argument("--form", help='how the updates are handed over: "[(n, OrderedDict)]", "list of arrays", ...')
        command.add_argument("--f", type=number_or_name, help="the one f that it is for, or the parameter that takes f")
        command.add_argument(
            "--result", type=number_or_name, help='where the aggregate stands in the result: 0, "weights", "mask"'
        )
        command.add_argument("--stateful", action="store_true", help="a rule with memory, made anew for each history")
        command.add_argument("--warm-up", type=int, help="rounds of agreement after which it gives the agreed row")
        command.add_argument("--within", type=float, help="how far from it, as a share of the largest honest row")
        command.add_argument("--influence", help='how far f attackers keep it from that row: "10*f/(n-f)"')
        command.add_argument("--step", type=float, help="the farthest that the result moves from round to round")
        command.add_argument("--recovers", type=int, help="rounds after an attack by which its effect is gone")
        command.add_argument("--root", help="the parameter that takes the server's own update; True to look for it")
    options = parser.parse_args(arguments)

    sys.path.insert(0, str(Path.cwd()))
    try:
        report = _report(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    print(report.to_json() if getattr(options, "json", False) else report)  # noqa: T201  # a command prints
    return 0 if report.passed else 1


def _report(options: argparse.Namespace) -> Report:
    """What the command was asked for."""
    from pytest_fl.adapters.options import Options  # noqa: PLC0415  # --help needs none of it
    from pytest_fl.engine.runner import replay, verify  # noqa: PLC0415
    from pytest_fl.engine.updates import verify_updates  # noqa: PLC0415

    said = Options(
        claims=options.claims,
        min_clients=formula(options.min_clients, "f"),
        kappa=formula(options.kappa, "n", "f"),
        symmetries=options.symmetries,
        form=options.form,
        f=options.f,
        result=options.result,
        root=options.root == "True" or options.root,
        stateful=options.stateful or None,
        warm_up=options.warm_up,
        within=options.within,
        influence=formula(options.influence, "n", "f"),
        step=options.step,
        recovers=options.recovers,
    )
    if options.command == "replay":
        return replay(options.file, options.target, **said)
    effort = {"profile": options.profile, "seed": options.seed}
    if options.updates is not None:
        return verify_updates(options.target, options.updates, options.byzantine, **effort, **said)
    return verify(options.target, checks=options.checks, skip=options.skip, **effort, **said)


def names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def number_or_name(text: str) -> int | str:
    """A whole number where it is one."""
    return int(text) if text.lstrip("-").isdecimal() else text


def formula(text: str | None, *names: str) -> Callable[..., Any] | None:
    """A function of these names from arithmetic as it is written: numbers, + - * / // % **, brackets.

    Raises ValueError for anything else.
    """
    if text is None:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise ValueError(f"expected a formula of {', '.join(names)}, got {text!r}") from None
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
        known = isinstance(node, ast.Name) and node.id in names
        if not (number or known or isinstance(node, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.Load)):
            raise ValueError(f"expected a formula of {', '.join(names)} in + - * / // % **, got {text!r}")
    code = compile(ast.Expression(tree), "<formula>", "eval")
    return lambda *values: eval(code, {"__builtins__": {}}, dict(zip(names, values, strict=True)))  # noqa: S307  # arithmetic


if __name__ == "__main__":
    sys.exit(main())
