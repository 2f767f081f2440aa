"""`fl-experiment aggregate`: one robust aggregate of saved updates or models, larger together than memory if need be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl_impl.experiment.console import console, progress
from fl_impl.experiment.options import USAGE, fail, reason


def aggregate(
    files: Annotated[list[Path], typer.Argument(help="One .safetensors file, or .safetensors.index.json, a client.")],
    rule: Annotated[str, typer.Option(help="A rule that ranks or distances decide.")] = "trimmed_mean",
    byzantine: Annotated[int, typer.Option(help="How many of the files may be from attackers.", min=0)] = 0,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("global.safetensors"),
    memory: Annotated[str, typer.Option(help='What may be in work at a time, such as "256MB" or "2GiB".')] = "2GB",
) -> None:
    """Aggregate the files of all clients into one, tensor names, shapes and types kept."""
    from fl_impl.aggregators.files.aggregate import aggregate_files  # noqa: PLC0415  # numpy is not needed for --help

    with progress() as bar:
        task = bar.add_task("reading", total=None, status="")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done >> 20, total=total >> 20, status="MiB")

        try:
            aggregate_files(files, rule, byzantine, output, memory=memory, progress=show)
        except (ValueError, ArithmeticError, OSError) as error:
            fail(reason(error), USAGE)
    console.print(f"{rule} of {len(files)} files, f={byzantine}: {output}")
