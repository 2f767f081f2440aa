"""Whether a torch device is one, and here."""

from __future__ import annotations

import torch


def check_device(name: str) -> None:
    """Raise ValueError unless torch knows a device of this name and can put a tensor there, with what there is instead."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is no torch device: {str(error).splitlines()[0][:200]}") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"the device {name!r} is not there ({reason}); there is {', '.join(present())}") from None


def present() -> list[str]:
    """The devices of this machine that torch can use."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])
