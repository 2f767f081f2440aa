"""`fl-experiment`: the entry point; the commands themselves need typer and rich, an extra."""

from __future__ import annotations

import sys
from pathlib import Path

from fl_impl.common.extras import require


def main() -> None:
    """Run the command line; without its libraries, say how to get them."""
    try:
        for library in ("typer", "rich"):
            require(library, extra="cli")
    except ModuleNotFoundError as error:
        sys.exit(f"fl-experiment: {error}")
    sys.path.insert(0, str(Path.cwd()))  # a script lacks it: "my_module:my_rule" is the user's own file, as under python -m
    from fl_impl.experiment.commands import app  # noqa: PLC0415  # it imports typer

    app()
