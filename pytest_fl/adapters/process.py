"""A rule in another process or language: the round goes out as an .npz, the aggregate comes back as one."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters.registry import adapter
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS: Final = 60.0
"""What one aggregation may take where the caller sets no other bound."""


@dataclass(frozen=True)
class Command:
    """`rule(updates, f)` by a command: made by `command`."""

    words: tuple[str, ...]
    seconds: float

    def __call__(self, updates: npt.NDArray[np.floating], f: int) -> Any:
        """The array `aggregate` of the .npz that the command writes.

        Raises TimeoutError where it takes too long and RuntimeError where it fails or writes no such array.
        """
        with TemporaryDirectory(prefix="pytest-fl-") as folder:
            given, result = Path(folder) / "input.npz", Path(folder) / "output.npz"
            np.savez(given, updates=updates, f=f)
            self._run([word.replace("{input}", str(given)).replace("{output}", str(result)) for word in self.words])
            return self._read(result)

    def _run(self, words: list[str]) -> None:
        try:
            subprocess.run(words, timeout=self.seconds, check=True, capture_output=True, text=True, errors="replace")  # noqa: S603  # the user's own command, without a shell
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self} did not return within {self.seconds:g} s") from None
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{self} ended with status {error.returncode}: {error.stderr.strip()[-500:]}") from None

    def _read(self, result: Path) -> Any:
        if not result.exists():
            raise RuntimeError(f"{self} wrote no {{output}} file: expected an .npz with the array 'aggregate'")
        with np.load(result, allow_pickle=False) as data:
            if "aggregate" not in data.files:
                raise RuntimeError(f"{self} wrote the arrays {data.files}: expected 'aggregate' among them")
            return data["aggregate"]

    def __str__(self) -> str:
        return shlex.join(self.words)


def command(line: str | Sequence[str], *, seconds: float = SECONDS) -> Command:
    """The rule `my-rule {input} {output}`: any program that reads the one .npz and writes the other.

    `{input}` holds `updates` (n, d) and `f`; `{output}` must hold `aggregate` (d,). `line` is split as a shell would
    split it, or is a sequence of words; no shell runs. Raises ValueError for a command without both places.
    """
    words = tuple(shlex.split(line) if isinstance(line, str) else line)
    text = shlex.join(words)
    if not words or "{input}" not in text or "{output}" not in text:
        raise ValueError(f'expected a command such as "my-rule {{input}} {{output}}", with both places; got {line!r}')
    if not seconds > 0:
        raise ValueError(f"expected seconds above 0, got {seconds!r}")
    return Command(words, seconds)


@adapter("pytest_fl")
def of_command(rule: object) -> Subject | None:
    """The subject of a `Command`, which is told f in the file."""
    if not isinstance(rule, Command):
        return None
    name = " ".join(Path(word).name for word in rule.words if "{" not in word)
    conventions = f"a command, told f in the file, at most {rule.seconds:g} s a call"
    return Subject(name=name, call=rule, conventions=conventions, details={"path": str(rule)})
