"""Flower without telephone: no telemetry, no look for updates, and a home folder of its own while an engine runs."""

from __future__ import annotations

import os
from typing import Final

from fl_impl.common.extras import require

SILENCE: Final = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What keeps Flower and Ray from calling home; a value that the user set stays."""


def prepare() -> None:
    """Set SILENCE and import flwr. Raises ModuleNotFoundError that says what to install where it is missing."""
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)
    require("flwr", extra="flower")
