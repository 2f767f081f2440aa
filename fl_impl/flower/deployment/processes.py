"""The processes of a deployment, `python -m fl_impl.flower.deployment.processes`: they follow a plan on stdin until it ends.

The plan is one line; upon a second line, when the SuperLink knows the nodes' keys, the SuperNodes start.

It imports Flower and torch once and forks: the SuperLink, each SuperNode with the SuperExec that serves it, and a process
for each task of a ClientApp, as Flower's subprocess isolation has them, at the price of a fork. Whatever becomes of the
process that started it, stdin ends then, and everything here is stopped; children die with their parent in any case.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from fl_impl.flower.quiet import prepare

DIE_WITH_PARENT: Final = 1
"""prctl's PR_SET_PDEATHSIG."""
GRACE: Final = 3.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class LaunchPlan:
    """What is to run; every command is a list of arguments for Flower's own entry point."""

    folder: str
    """Logs, and a FLWR_HOME for each process."""
    settings: str
    """The configuration from which the nodes make their clients: made once, before the first fork; "" of other apps."""
    superlink: list[str]
    supernodes: list[list[str]]
    superexecs: list[list[str]]
    """One for each SuperNode."""


def main() -> None:
    """Run the plan on stdin; say on stdout which processes these are, and stop them when stdin ends."""
    plan = LaunchPlan(**json.loads(sys.stdin.readline()))
    prepare()
    for module in ("superlink.main", "superlink.cli", "supernode.main", "supernode.cli", "supercore.cli"):
        importlib.import_module(f"flwr.{module}")
    from fl_impl.flower.deployment.app import clients_of  # noqa: PLC0415  # after prepare()

    if plan.settings:
        clients_of(plan.settings)
    link = fork(plan, "superlink", entry("flwr.superlink.cli", "flower_superlink"), plan.superlink)
    say(link)
    nodes = start_nodes(plan) if sys.stdin.readline() else []
    say(nodes)
    sys.stdin.read()
    stop([link, *(pid for pair in nodes for pid in pair)])
    shutil.rmtree(plan.folder, ignore_errors=True)  # who started us may have been killed
    os.killpg(0, signal.SIGKILL)  # ourselves too, and whatever a child left behind in our group


def start_nodes(plan: LaunchPlan) -> list[list[int]]:
    """The SuperNodes, each with its SuperExec, which ends when the SuperNode does."""
    nodes: list[list[int]] = []
    for number, (supernode, superexec) in enumerate(zip(plan.supernodes, plan.superexecs, strict=True)):
        node = fork(plan, f"node-{number}", entry("flwr.supernode.cli", "flower_supernode"), supernode)
        served = [*superexec, "--parent-pid", str(node)]
        nodes.append([node, fork(plan, f"node-{number}", run_superexec, served)])
    return nodes


def say(pids: Any) -> None:
    """Tell who started us which processes these are."""
    print(json.dumps(pids), flush=True)  # noqa: T201  # on a pipe


def entry(module: str, name: str) -> Callable[[], None]:
    """The command line that runs a program of Flower."""
    return getattr(importlib.import_module(module), name)


def fork(plan: LaunchPlan, name: str, command: Callable[[], None], arguments: list[str]) -> int:
    """Run a command of Flower in a process of its own, with a log and a home of its own."""
    pid = os.fork()
    if pid == 0:
        become(plan, name, command, arguments)
    return pid


def become(plan: LaunchPlan, name: str, command: Callable[[], None], arguments: list[str]) -> NoReturn:
    """The child's part of a fork."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    log = os.open(Path(plan.folder) / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    os.environ["FLWR_HOME"] = str(Path(plan.folder) / name)
    leave(command, [name, *arguments])


def leave(command: Callable[[], None], arguments: list[str]) -> NoReturn:
    """Run a command as the whole rest of this process."""
    sys.argv = arguments
    code = 1
    try:
        command()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_superexec() -> None:
    """Flower's SuperExec, which forks the process of a task instead of starting a new interpreter."""
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor  # noqa: PLC0415  # likewise
    from flwr.supercore.superexec.executor.types import LaunchResult  # noqa: PLC0415  # likewise

    class Forking(SubprocessExecutor):  # pyright: ignore[reportUntypedBaseClass]  # unknown only where flwr is missing
        """Launches a ClientApp's task by a fork."""

        def launch(self, spec: Any) -> Any:
            """As Flower's, with the same arguments."""
            arguments = ["flwr-clientapp", "--runtime-api-address", spec.runtime_api_address, "--token", spec.token]
            arguments += ["--insecure", "--parent-pid", str(os.getpid())]
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                    signal.signal(number, signal.SIG_DFL)
                leave(entry("flwr.supernode.cli", "flwr_clientapp"), arguments)
            return LaunchResult.accepted()

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the tasks
    module: Any = importlib.import_module("flwr.supercore.superexec.run_superexec")
    module.get_executor = lambda *_, **__: Forking()
    entry("flwr.supercore.cli", "flower_superexec")()


def stop(pids: list[int]) -> None:
    """End these processes: asked first, killed after GRACE seconds."""
    for pid in pids:
        send(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    left = set(pids)
    while left and time.monotonic() < deadline:
        left -= {pid for pid in left if ended(pid)}
        time.sleep(0.02)
    for pid in left:
        send(pid, signal.SIGKILL)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def ended(pid: int) -> bool:
    """Whether a child has ended; it is buried then."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


if __name__ == "__main__":
    main()
