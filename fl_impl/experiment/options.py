"""From the command line to a configuration: one option for each field of FLConfig, and errors in a line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from fl_impl.common.counts import read_fraction
from fl_impl.common.settings import read_settings
from fl_impl.config import FLConfig
from fl_impl.tasks import BenchmarkTask, named

BROKEN, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes: the federation could not go on; the settings are wrong; Ctrl-C."""


def with_settings(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, which takes `settings`, one option for each field of FLConfig; a new field gets one by itself."""
    fields = {name: entry for name, entry in FLConfig.model_fields.items() if name not in {*without, "loss"}}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option(entry))
        for name, entry in fields.items()
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]

        def wrapped(**given: Any) -> None:
            settings = {name: given.pop(name) for name in fields}
            command(**given, settings={name: value for name, value in settings.items() if value is not None})

        wrapped.__signature__ = inspect.Signature([*own, *options])  # pyright: ignore[reportFunctionMemberAccess]  # typer reads it
        wrapped.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        return wrapped

    return decorate


def option(entry: Any) -> Any:
    """The option of one field: a flag and its opposite where it is yes or no, else text, which FLConfig reads."""
    default = "none" if entry.default is None else str(entry.default)
    shown = typer.Option(help=entry.description, rich_help_panel="Settings", show_default=default)
    return Annotated[bool | None if entry.annotation is bool else str | None, shown]


def fraction(text: str) -> float:
    """A fraction on the command line: 0.3 or 1/3."""
    try:
        return float(read_fraction(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def configuration(file: Path | None, settings: dict[str, Any], task: str | None = None) -> FLConfig:
    """The configuration of a task, a file and the command line, the later first. Leaves with the reason where there is none."""
    try:
        return FLConfig(**with_task(settings_of(file, settings), task)[1])
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(reason(error), USAGE)


def settings_of(file: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What a file says, and what the command line says instead."""
    return {**({} if file is None else read_settings(file)), **plain(settings)}


def with_task(
    settings: dict[str, Any], task: str | None, default: str | None = None
) -> tuple[BenchmarkTask | None, dict[str, Any]]:
    """The task that is named, here or as "task" in a file, and the settings on top of its own."""
    named_in_file = settings.pop("task", None)
    name = task or named_in_file or default
    if name is None:
        return None, settings
    chosen = named(str(name))
    return chosen, chosen.configured(settings)


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with "none" as None where a field can be None."""
    return {
        name: None if value == "none" and FLConfig.model_fields[name].default is None else value
        for name, value in settings.items()
    }


def reason(error: Exception) -> str:
    """What is wrong, without pydantic's frame around it."""
    if not isinstance(error, ValidationError):
        return str(error)
    lines = [(".".join(map(str, line["loc"])), line["msg"].removeprefix("Value error, ")) for line in error.errors()]
    return "\n".join(f"{where}: {message}" if where else message for where, message in lines)


def fail(message: str, code: int) -> NoReturn:
    """Say it on stderr and leave."""
    print(f"fl-experiment: {message}", file=sys.stderr)  # noqa: T201  # it is a command line
    raise SystemExit(code)
