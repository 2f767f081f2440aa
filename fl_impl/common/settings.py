"""Settings in a file: TOML, YAML or JSON, with the place of a mistake."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final, cast

from fl_impl.common.extras import require

SUFFIXES: Final = (".toml", ".yaml", ".yml", ".json")


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a TOML, YAML or JSON file.

    Raises ValueError for another ending, for what is no mapping, and for a file that breaks its format, with line and column.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"expected a .toml, .yaml, .yml or .json file, got {path.name!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        read: object = {".toml": tomllib.loads, ".json": json.loads}.get(path.suffix, read_yaml)(text)
    except json.JSONDecodeError as error:
        raise broken(path, error.lineno, error.colno, error.msg) from None
    except tomllib.TOMLDecodeError as error:
        raise broken(path, *toml_place(str(error), text)) from None
    except YAMLMistake as error:
        raise broken(path, *error.args) from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be settings") from None
    if not isinstance(read, dict):
        raise ValueError(f"expected a mapping of settings in {path}, got {type(read).__name__}")  # noqa: TRY004  # a bad file
    return cast("dict[str, Any]", read)


class YAMLMistake(Exception):  # noqa: N818  # it is caught a few lines above
    """Line, column and what is wrong: yaml's own exceptions are there only where yaml is installed."""


def read_yaml(text: str) -> object:
    """What a YAML text says. Raises YAMLMistake."""
    yaml = require("yaml", extra="cli")
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLMistake(mark.line + 1, mark.column + 1, error.problem or error.context) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        raise YAMLMistake(before.count("\n") + 1, error.position - before.rfind("\n"), error.reason) from None
    except ValueError as error:  # a date such as 2026-99-99
        raise YAMLMistake(1, 1, str(error)) from None


def toml_place(message: str, text: str) -> tuple[int, int, str]:
    """(line, column, what is wrong) of tomllib's message; the end of the text where it says so."""
    what, _, where = message.rpartition(" (at ")
    numbers = [int(number) for number in re.findall(r"\d+", where)]
    end = text.count("\n") + 1, len(text) - text.rfind("\n")
    line, column = numbers if len(numbers) == 2 else end
    return line, column, what or message


def broken(path: Path, line: int, column: int, what: str) -> ValueError:
    """The error for a file that breaks its format."""
    return ValueError(f"{path}, line {line}, column {column}: {what}")
