"""The line that a bug report wants: this package, the Python, the machine, and the libraries that decide results."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

LIBRARIES: Final = ("pytest", "hypothesis", "numpy", "scipy", "torch", "llvmlite", "flwr")


def version_line() -> str:
    """`pytest-fl 0.1.0 (Python 3.11.7, Linux x86_64; pytest 9.2.0, ...)`; libraries that are not installed are left out."""
    known = [f"{name} {version}" for name in LIBRARIES if (version := _version(name))]
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"pytest-fl {_version('pytest-fl') or 'from a source tree'} ({machine}; {', '.join(known)})"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
