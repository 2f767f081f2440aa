"""A run on a SuperLink: this process starts it and takes its ServerApp's task, as a SuperExec's child would."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.constant import SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fl_impl.flower.deployment.handle import Deployment

SCHEDULING: Final = 30.0
"""Seconds until the SuperLink must hand out the task of the ServerApp."""
TRYING: Final = 120.0
"""Seconds that a request is repeated."""
OURS: Final = "fl_impl.flower.deployment.app:client"
"""The ClientApp of the clients of an FLConfig."""
APP: Final = """
[project]
name = "pytest-fl-federation"
version = "1.0.0"
description = "The clients of an FLConfig."
license = "MIT"
dependencies = ["flwr>=1.41"]

[tool.flwr.app]
publisher = "pytest-fl"

[tool.flwr.app.components]
serverapp = "fl_impl.flower.deployment.app:server"
clientapp = {client_app}

[tool.flwr.app.config]
settings = {settings}
"""


@contextmanager
def running_app(deployment: Deployment, settings: str, client_app: str) -> Generator[Grid]:
    """The grid of a run of an app, which is finished afterwards."""
    start_run(deployment, settings, client_app)
    task, token = acquired(deployment)
    grid = HttpGrid(deployment.address, *security(deployment), token=token)
    grid._retry_invoker = patient()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # before it connects
    client = grid._runtime_client  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # as flwr-serverapp does
    heartbeat = HeartbeatSender(heartbeat_of(client, deployment))
    heartbeat.start()
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    outcome, details = SubStatus.FAILED, "the coordinator was stopped"
    try:
        given = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task, given.run.run_id, given.context.node_id
        grid.set_run(run_from_proto(given.run))
        yield grid
        outcome, details = SubStatus.COMPLETED, ""
    except httpx.HTTPError as error:
        raise RuntimeError(f"the SuperLink does not answer as it should: {error}\n{deployment.logs()}") from error
    finally:
        grid._retry_invoker.max_tries = 1  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the SuperLink may be gone
        finish(client, outcome, details)
        heartbeat.stop()
        grid.close()
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def patient() -> RetryInvoker:
    """Asks again where there was no answer, for TRYING seconds; Flower's own sends SIGINT to this process, the user's."""
    return RetryInvoker(lambda: exponential(max_delay=2), httpx.TransportError, max_tries=None, max_time=TRYING)


def heartbeat_of(client: Any, deployment: Deployment) -> Callable[[], bool]:
    """Sends a heartbeat; Flower's own sends SIGINT to this process where the SuperLink gave up."""

    def beat() -> bool:
        with suppress(httpx.HTTPError):
            if not client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                deployment.given_up = "the SuperLink gave up the run: no heartbeat reached it in time"
        return True

    return beat


def finish(client: Any, outcome: str, details: str) -> None:
    """Tell the SuperLink how the run ended, if it is still there."""
    with suppress(httpx.HTTPError):
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=outcome, details=details))


def register(deployment: Deployment) -> None:
    """Tell the SuperLink which SuperNodes may join."""
    for key in deployment.keys:
        control(deployment).RegisterNode(RegisterNodeRequest(public_key=key))


def start_run(deployment: Deployment, settings: str, client_app: str) -> None:
    """Send the app, an empty bundle that names ours, and start a run of it."""
    described = APP.replace("{settings}", json.dumps(settings)).replace("{client_app}", json.dumps(client_app))
    bundle, _ = build_fab_from_files({"pyproject.toml": described.encode()})
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    answer = control(deployment).StartRun(StartRunRequest(fab=fab_to_proto(fab)))
    if not answer.HasField("run_id"):
        raise RuntimeError(f"the SuperLink started no run:\n{deployment.logs()}")


def acquired(deployment: Deployment) -> tuple[int, str]:
    """The id and the token of the ServerApp's task. Raises RuntimeError where there is none."""
    insecure, authority = security(deployment)
    interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    client = RuntimeHttpClient.from_server_address(
        server_address=deployment.address, insecure=insecure, root_certificates=authority, interceptors=interceptors
    )
    deadline = time.monotonic() + SCHEDULING
    try:
        while time.monotonic() < deadline:
            answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            if answer.HasField("task") and answer.token:
                return answer.task.task_id, answer.token
            time.sleep(0.1)
    finally:
        client.close()
    raise RuntimeError(f"the SuperLink handed out no task for the ServerApp:\n{deployment.logs()}")


def control(deployment: Deployment) -> Any:
    """A client of the SuperLink's Control API."""
    insecure, authority = security(deployment)
    interceptors = [CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    return ControlHttpClient.from_server_address(
        server_address=deployment.address, insecure=insecure, root_certificates=authority, interceptors=interceptors
    )


def security(deployment: Deployment) -> tuple[bool, bytes | None]:
    """(insecure, the CA's certificate) as Flower's clients take them."""
    made = deployment.certificates
    return made is None, None if made is None else made.authority.read_bytes()
