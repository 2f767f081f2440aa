"""A grid whose replies are read one by one: bytes of which Flower can make no message cost only the node that sent them.

`HttpGrid.pull_messages` of Flower 1.41 reads all replies that are there in one loop. Where one of them is malformed, it raises,
and with it are lost the replies that it has confirmed to the SuperLink already, and the ServerApp.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

if TYPE_CHECKING:
    from flwr.supercore.run import Run

MALFORMED: Final = 0
"""Flower's ErrorCode.UNKNOWN: of a reply that cannot be read."""
PAUSE: Final = 1.0
"""Seconds between two looks for replies."""


def pull(grid: Grid, message_ids: Iterable[str]) -> list[Message]:
    """The replies that are there to these messages; an error in place of one that cannot be read.

    Raises httpx.HTTPError where the SuperLink does not answer.
    """
    replies: list[Message] = []
    for name in message_ids:
        try:
            replies += grid.pull_messages([name])
        except (httpx.HTTPError, ObjectPullError):
            raise
        except Exception as error:  # noqa: BLE001  # Flower raises what the bytes lead to: KeyError, JSONDecodeError, DecodeError
            replies.append(unreadable(name, error))
    return replies


def unreadable(message_id: str, error: Exception) -> Message:
    """An error in place of the reply to a message."""
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    asked.metadata.__dict__["_message_id"] = message_id
    return Message(Error(MALFORMED, f"it cannot be read: {type(error).__name__}: {error}"[:200]), reply_to=asked)


@dataclass(eq=False)
class Patient(Grid):  # pyright: ignore[reportUntypedBaseClass]  # unknown only where flwr is not installed
    """A grid that reads replies one by one."""

    grid: Grid

    def __getattr__(self, name: str) -> Any:
        """What else this kind of grid has."""
        return getattr(self.grid, name)

    def set_run(self, run: Run) -> None:
        """As the grid."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The grid's."""
        return self.grid.run

    def create_message(self, *arguments: Any, **keywords: Any) -> Message:
        """As the grid."""
        return self.grid.create_message(*arguments, **keywords)

    def get_node_ids(self) -> Iterable[int]:
        """The grid's."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the grid."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there, one by one."""
        return pull(self.grid, message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies to these messages, as far as they come within the timeout."""
        waiting = [name for name in self.push_messages(messages) if name]
        replies: list[Message] = []
        deadline = None if timeout is None else time.monotonic() + timeout
        while waiting:
            fresh = pull(self.grid, waiting)
            replies += fresh
            answered = {reply.metadata.reply_to_message_id for reply in fresh}
            waiting = [name for name in waiting if name not in answered]
            if deadline is not None and time.monotonic() >= deadline:
                break
            if waiting:
                time.sleep(PAUSE if deadline is None else min(PAUSE, max(0.0, deadline - time.monotonic())))
        return replies
