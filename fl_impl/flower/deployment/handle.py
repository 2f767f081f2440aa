"""What is known of a running deployment: where it listens, its processes, its certificates."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_impl.flower.deployment.certificates import Certificates


@dataclass
class Deployment:
    """A deployment that runs: its address, its processes, its files."""

    folder: Path
    """Logs, certificates and keys; removed at the end."""
    address: str
    """Of the SuperLink: all its APIs are on one port."""
    launcher: subprocess.Popen[str]
    superlink: int
    supernodes: list[tuple[int, int]]
    """Of each SuperNode its process and that of its SuperExec."""
    certificates: Certificates | None = None
    keys: list[bytes] = field(default_factory=list[bytes])
    """The public keys of the nodes that may join; without TLS anybody on this machine may."""
    given_up: str = ""
    """Why the SuperLink no longer takes part."""

    @property
    def pids(self) -> list[int]:
        """All processes but those of tasks."""
        return [self.launcher.pid, self.superlink, *(pid for pair in self.supernodes for pid in pair)]

    def broken(self) -> str:
        """Why it no longer runs; "" while it does."""
        return self.given_up if self.launcher.poll() is None else f"its processes have ended:\n{self.logs()}"

    def logs(self, lines: int = 15) -> str:
        """The last lines of all logs."""
        tails = [(path.name, path.read_text(errors="replace").splitlines()[-lines:]) for path in self.folder.glob("*.log")]
        return "\n".join(f"{name}: {line}" for name, tail in sorted(tails) for line in tail)
