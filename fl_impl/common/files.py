"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600
"""The mode of files that hold what is not for everybody."""


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace the file in one step: a process killed at any moment leaves the old file or the new one.

    private: nobody but its owner may read it, from the moment that it exists.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE if private else 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    part.replace(path)
