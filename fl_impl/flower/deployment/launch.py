"""A real deployment on this machine: SuperLink and SuperNodes as processes, started and stopped cleanly, TLS if asked for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from fl_impl.flower.deployment.certificates import make_certificates, make_node_key
from fl_impl.flower.deployment.control import OURS, register, running_app
from fl_impl.flower.deployment.handle import Deployment

if TYPE_CHECKING:
    from flwr.serverapp import Grid

HOST: Final = "127.0.0.1"
"""Nothing of a deployment can be reached from another machine."""
STARTING: Final = 120.0
"""Seconds until the SuperLink must answer."""
STOPPING: Final = 15.0
"""Seconds until all processes must have ended, before they are killed."""


@contextlib.contextmanager
def deployed(
    nodes: int, settings: str = "", *, tls: bool = False, client_app: str = OURS
) -> Generator[tuple[Grid, Deployment]]:
    """SuperLink and `nodes` SuperNodes with the clients of a configuration (FLConfig as JSON); a grid to reach them by.

    client_app: the ClientApp that the SuperNodes run instead, as "module:attribute"; settings, if any, are then its
    run config's "settings". tls=True: all traffic with the SuperLink is encrypted, and only SuperNodes whose keys it was
    told may join. Raises RuntimeError, with the ends of the logs, where something does not start. All processes are ended
    afterwards, also after an exception or Ctrl-C; they end by themselves when this process is killed.
    """
    folder = Path(tempfile.mkdtemp(prefix="pytest-fl-flower-"))
    try:
        with (
            launched(folder, nodes, settings if client_app == OURS else "", tls=tls, client_app=client_app) as deployment,
            running_app(deployment, settings, client_app) as grid,
        ):
            yield grid, deployment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def launched(folder: Path, nodes: int, settings: str, *, tls: bool, client_app: str = OURS) -> Generator[Deployment]:
    """The processes of a deployment, for as long as this lasts."""
    certificates = make_certificates(folder) if tls else None
    keys = [make_node_key(folder / f"node-{i}.key") for i in range(nodes)] if tls else []
    link, *ports = free_ports(nodes + 1)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "fl_impl.flower.deployment.processes"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "launcher.log").open("w"), text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deployment = Deployment(folder, f"{HOST}:{link}", launcher, 0, [], certificates, keys)
    try:
        deployment.superlink = told(deployment, {"settings": settings, "app": client_app, **plan_of(deployment, ports)})
        await_superlink(deployment)
        register(deployment)
        deployment.supernodes = [(supernode, superexec) for supernode, superexec in told(deployment, "start the nodes")]
        yield deployment
    finally:
        end(launcher)


def plan_of(deployment: Deployment, ports: list[int]) -> dict[str, Any]:
    """The commands of all processes, as `fl_impl.flower.deployment.processes` reads them."""
    folder, made = deployment.folder, deployment.certificates
    port = deployment.address.rpartition(":")[2]
    superlink = ["--host", HOST, "--port", port, "--isolation", "process", "--disable-runtime-dependency-installation"]
    joins = ["--superlink", deployment.address, "--isolation", "process", "--host", HOST]
    if made is None:
        superlink, joins = [*superlink, "--insecure"], [*joins, "--insecure"]
    else:
        superlink += ["--ssl-ca-certfile", str(made.authority), "--ssl-certfile", str(made.certificate)]
        superlink += ["--ssl-keyfile", str(made.key), "--enable-supernode-auth"]
        joins += ["--root-certificates", str(made.authority)]
    supernodes = [
        [*joins, "--port", str(own), "--node-config", f"partition-id={i} num-partitions={len(ports)}"]
        + ([] if made is None else ["--auth-supernode-private-key", str(folder / f"node-{i}.key")])
        for i, own in enumerate(ports)
    ]
    superexecs = [["--insecure", "--runtime-api-address", f"{HOST}:{own}"] for own in ports]
    return {"folder": str(folder), "superlink": superlink, "supernodes": supernodes, "superexecs": superexecs}


def told(deployment: Deployment, line: Any) -> Any:
    """What the launcher answers. Raises RuntimeError where it does not."""
    launcher = deployment.launcher
    assert launcher.stdin is not None  # for the type checker: both are pipes
    assert launcher.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        launcher.stdin.write(json.dumps(line) + "\n")
        launcher.stdin.flush()
    answer = launcher.stdout.readline()
    if not answer:
        raise RuntimeError(f"Flower's processes did not start:\n{deployment.logs()}")
    return json.loads(answer)


def await_superlink(deployment: Deployment) -> None:
    """Return when the SuperLink answers. Raises RuntimeError where it does not."""
    made = deployment.certificates
    url = f"{'http' if made is None else 'https'}://{deployment.address}/health"
    verify = True if made is None else ssl.create_default_context(cafile=str(made.authority))
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline and deployment.launcher.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2.0, verify=verify, trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the SuperLink does not answer on {url}:\n{deployment.logs()}")


def end(launcher: subprocess.Popen[str]) -> None:
    """Close the launcher's stdin, upon which it ends everything; kill its group where that takes too long."""
    assert launcher.stdin is not None  # for the type checker
    with contextlib.suppress(BrokenPipeError):
        launcher.stdin.close()
    try:
        launcher.wait(STOPPING)
    except BaseException as error:  # a second Ctrl-C too: nothing may be left behind
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    finally:
        if launcher.stdout is not None:
            launcher.stdout.close()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
