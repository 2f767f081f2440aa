"""What decides the result of a federation, as one digest: settings, data, models, code and version, all by content.

A result that lies on the disk is used again only where this is the same. Names do not suffice: other labels in an array of
the same shape, another model of the same class, an edited rule at the same import path all give another result.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fl_impl.common.specs import import_attribute

if TYPE_CHECKING:
    from fl_impl.config import FLConfig

OBJECTS = ("dataset", "model", "loss", "aggregation", "attack", "partition", "server_optimizer")
"""The settings that may be objects, or name code of the user's own as "package.module:attribute"."""


def fingerprint(config: FLConfig) -> str:
    """64 hexadecimal digits: equal where settings, arrays, model states, functions and this package are.

    Arrays count by dtype, shape and bytes; modules of torch by their code, structure and state; functions by the file
    that defines them, their defaults and what they close over; other objects by pickle. What cannot be read in any of
    these ways gets a digest of its own every time: then nothing is used again.
    """
    parts = [config.model_dump_json(), own_code(), *(content(getattr(config, name)) for name in OBJECTS)]
    return digest("fingerprint", *parts)


def content(value: Any) -> str:
    """A digest of one setting by its content."""
    kind = next(kind for kind in KINDS if kind.test(value))
    return digest(kind.name, *kind.parts(value))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value: how it is recognised, and the texts that stand for its content."""

    name: str
    test: Callable[[Any], bool]
    parts: Callable[[Any], Iterable[str]]


def _tensor(value: Any) -> tuple[str, str]:
    plain = value.detach().cpu()
    return str(plain.dtype), content(plain.view(dtype_of_bits(plain)).numpy())  # as bits, for types that numpy lacks


def _array(value: Any) -> tuple[str, str, str]:
    return str(value.dtype), repr(value.shape), pickled(value) if value.dtype.hasobject else value.tobytes().hex()


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


KINDS: Final = (
    Kind("text", lambda v: isinstance(v, str), lambda v: (str(v), code_named(v))),
    Kind("plain", lambda v: v is None or isinstance(v, int | float | bytes), lambda v: (type(v).__name__, repr(v))),
    Kind("mapping", lambda v: isinstance(v, Mapping), lambda v: (digest(str(key), content(each)) for key, each in v.items())),
    Kind("sequence", lambda v: isinstance(v, list | tuple), lambda v: map(content, v)),
    Kind("module", _has("state_dict", "named_modules"), lambda v: (code_of(type(v)), repr(v), content(v.state_dict()))),
    Kind("tensor", _has("detach", "numpy"), _tensor),
    Kind("array", _has("__array_interface__"), _array),
    Kind("partial", lambda v: isinstance(v, functools.partial), lambda v: map(content, (v.func, v.args, v.keywords))),
    Kind(
        "function",
        lambda v: inspect.isroutine(v) or isinstance(v, type),
        lambda v: (code_of(v), *map(content, closed_over(v))),
    ),
    Kind(
        "dataclass",
        dataclasses.is_dataclass,
        lambda v: (code_of(type(v)), *(content(getattr(v, entry.name)) for entry in dataclasses.fields(v))),
    ),
    Kind("object", lambda v: True, lambda v: (code_of(type(v)), pickled(v))),  # noqa: ARG005  # all that is left
)
"""In the order in which they are tried."""


def code_named(text: str) -> str:
    """The digest of what a spec names as "package.module:attribute"; nothing for names of this package's own."""
    if ":" not in text or "(" in text:
        return ""
    return digest("named", *(content(import_attribute(part.strip())) for part in text.split("|") if ":" in part))


def code_of(thing: Any) -> str:
    """The file that defines a function or class; its own code where it is of no file, as one typed at a prompt."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    name = f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', '')}"
    file = getattr(module, "__file__", None)
    if file and Path(file).is_file():
        return digest("code", name, Path(file).read_bytes().hex())
    compiled = getattr(thing, "__code__", None)
    if compiled is not None:
        return digest("code", name, compiled.co_code.hex(), repr(compiled.co_consts), repr(compiled.co_names))
    return digest("code", name)


def closed_over(function: Any) -> list[Any]:
    """The defaults of a function, the values that it closes over, and the object that it is a method of."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    defaults = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)]
    bound = getattr(function, "__self__", None)
    return [*cells, *defaults, *([] if bound is None or inspect.ismodule(bound) else [bound])]


def dtype_of_bits(tensor: Any) -> Any:
    """An integer type of torch as wide as the tensor's elements."""
    torch = sys.modules["torch"]
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size(), tensor.dtype)


def pickled(value: Any) -> str:
    """The digest of a pickle, as joblib makes it; a new one every time where there is none."""
    from joblib import hash as joblib_hash  # noqa: PLC0415  # scikit-learn brings it; few settings need it

    try:
        return str(joblib_hash(value, hash_name="sha1"))
    except Exception:  # noqa: BLE001  # whatever a foreign __reduce__ raises: it cannot be compared, so nothing is used again
        return secrets.token_hex(16)


@functools.cache
def own_code() -> str:
    """The digest of this package's source: another version, or an edited one, gives other results."""
    root = Path(__file__).parents[1]
    return digest("fl_impl", *(f"{path.relative_to(root)} {path.read_bytes().hex()}" for path in sorted(root.rglob("*.py"))))


def digest(*parts: str) -> str:
    """SHA-256 of texts, each with its length before it, so that no two lists of texts run together."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()
