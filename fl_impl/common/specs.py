"""Spec strings: `"krum"`, `"nnm|trimmed_mean"`, `"multi_krum(m=5)"`, `"package.module:attribute"`."""

from __future__ import annotations

import ast
import difflib
import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Spec:
    """One parsed name with its arguments: `multi_krum(m=5)` is Spec("multi_krum", (), {"m": 5})."""

    name: str
    arguments: tuple[object, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict[str, object])


def parse(text: str) -> Spec:
    """Read one `name` or `name(literal, option=literal)`.

    Raises ValueError where the text is not a name or a call with literal arguments, and for a number that is not finite.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return Spec(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
            if len(options) == len(node.keywords):
                spec = Spec(node.func.id, tuple(ast.literal_eval(value) for value in node.args), options)
                check_finite(spec)
                return spec
    except NonFiniteOptionError:
        raise
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f'expected a spec such as "krum" or "multi_krum(m=5)", got {text!r}')


class NonFiniteOptionError(ValueError):
    """An option of a spec is infinite, as 1e999 is."""


def check_finite(spec: Spec) -> None:
    """Raise NonFiniteOptionError for an infinite option, by its name or its place."""
    for name, value in [*enumerate(spec.arguments, 1), *spec.options.items()]:
        if isinstance(value, float) and not math.isfinite(value):
            raise NonFiniteOptionError(f"{spec.name}: option {name} must be finite; got {value}")


def split(text: str, separator: str) -> list[str]:
    """Split at a separator outside parentheses and quotes: `a(x="p|q")|b` at `|` is two parts."""
    parts, depth, quote, escaped, start = list[str](), 0, "", False, 0
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == separator and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def lookup(name: str, registry: Mapping[str, T], kind: str) -> T:
    """The registered object of that name; ValueError with the nearest name where there is none."""
    try:
        return registry[name]
    except KeyError:
        raise ValueError(f"expected {kind}, got {name!r}{nearest(name, registry)}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an error message about a wrong name: the nearest one, then all that there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(names)})" if names else hint


def import_attribute(text: str) -> object:
    """The object at `package.module:attribute`; ValueError says which half was not found."""
    module_name, _, path = text.partition(":")
    if not module_name or not path:
        raise ValueError(f"expected package.module:attribute, got {text!r}")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import module {module_name!r} of {text!r}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"module {module_name!r} has no attribute {path!r}, asked for as {text!r}")
        found = getattr(found, part)
    return found
