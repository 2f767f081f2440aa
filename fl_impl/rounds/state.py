"""All that a round needs of the rounds before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass
class RunState:
    """What lasts from round to round, the clients' own state apart. A checkpoint holds each field: see the tables below."""

    parameters: npt.NDArray[np.float32]
    """(d,): the global model."""
    round: int = 0
    """Rounds done."""
    previous: Array | None = None
    """(d,): the last aggregate."""
    control: Array | None = None
    """(d,): SCAFFOLD's c."""
    mechanism: Array | None = None
    """What the privacy mechanism remembers."""
    server: dict[str, Array] = field(default_factory=dict[str, Array])
    """The server optimizer's moments."""
    memory: dict[str, Array] = field(default_factory=dict[str, Array])
    """What the attack remembers."""
    history: dict[int, Array] = field(default_factory=dict[int, Array])
    """The sum of each client's updates, where the rule asks for it."""
    sent: dict[int, Array] = field(default_factory=dict[int, Array])
    """What each client remembers of compression."""
    received: dict[int, Array] = field(default_factory=dict[int, Array])
    """What the server remembers of each client's."""


SINGLE: Final = ("previous", "control", "mechanism")
"""Fields of one array, or None."""
BY_NAME: Final = ("server", "memory")
"""Fields of arrays by name."""
BY_CLIENT: Final = ("history", "sent", "received")
"""Fields of arrays by client."""
