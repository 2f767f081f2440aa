"""Libraries that not everybody installs: imported where they are used, with an error that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, *, extra: str) -> Any:
    """The module. Raises ModuleNotFoundError that names the extra of this package that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        package = {"yaml": "pyyaml"}.get(module, module.partition(".")[0])
        message = f'this needs {package}, which is not installed: run pip install "pytest-fl[{extra}]"'
        raise ModuleNotFoundError(message, name=module) from error
