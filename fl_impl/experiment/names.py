"""`fl-experiment list`: all that a setting may name, read from the registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from fl_impl.common.specs import import_attribute, lookup
from fl_impl.experiment.console import console
from fl_impl.experiment.options import USAGE, fail

if TYPE_CHECKING:
    from fl_impl.common.registry import Registry

KINDS: Final = {
    "tasks": "fl_impl.tasks:task",
    "aggregators": "fl_impl.aggregators:ALL",
    "pre-aggregators": "fl_impl.aggregators:PRE",
    "attacks": "fl_impl.attacks:ALL",
    "partitions": "fl_impl.data:partition",
    "datasets": "fl_impl.data:dataset",
    "models": "fl_impl.training.models:model",
    "server-optimizers": "fl_impl.training.server_optimizers:server_optimizer",
    "mechanisms": "fl_impl.privacy:MECHANISMS",
    "compressions": "fl_impl.compression:CODECS",
    "lora-modes": "fl_impl.lora:MODES",
}
"""What can be listed, and where its registry stands; only those asked for are imported."""


def list_names(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; all of them where not given.")] = None,
) -> None:
    """List what a setting may name, with the first line of its documentation."""
    try:
        chosen = KINDS if kind is None else {kind: lookup(kind, KINDS, "a kind of name")}
    except ValueError as error:
        fail(str(error), USAGE)
    for heading, where in chosen.items():
        console.print(heading, style="bold", highlight=False)
        for line in lines(cast("Registry[Any]", import_attribute(where))):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def lines(registry: Registry[Any]) -> list[str]:
    """A line for each name, in alphabetical order, with its summary."""
    width = max(map(len, registry), default=0)
    return [f"{name:{width}}  {registry.summary(name)}".rstrip() for name in sorted(registry)]
