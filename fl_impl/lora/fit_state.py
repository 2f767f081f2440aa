"""All that a round of a fit needs of the rounds before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_impl.lora.factors import Factors


@dataclass(eq=False)
class State:
    """What lasts from round to round."""

    adapter: Factors
    """The server's, one of them."""
    drift: Factors | None = None
    """What stands beside the base weights so far, as one adapter."""
    round: int = 0
    memory: dict[str, Any] = field(default_factory=dict[str, Any])
    """The attack's own."""
    sent: dict[int, Any] = field(default_factory=dict[int, Any])
    """What each client remembers of compression."""
    received: dict[int, Any] = field(default_factory=dict[int, Any])
    """What the server remembers of each client's."""
    mechanism: Any = None
    """What the privacy mechanism remembers."""
