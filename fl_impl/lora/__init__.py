"""Federated fine-tuning of language models by LoRA, robust to Byzantine clients in the space of the products B A."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_impl.lora.adapter import LoRAFLAdapter as LoRAFLAdapter
    from fl_impl.lora.bases import load_base as load_base
    from fl_impl.lora.factors import Factors as Factors
    from fl_impl.lora.factors import Module as Module
    from fl_impl.lora.modes import MODES as MODES
    from fl_impl.lora.modes import mode as mode
    from fl_impl.lora.on_disk import Folder as Folder
    from fl_impl.lora.on_disk import aggregate_folders as aggregate_folders
    from fl_impl.lora.product import gram as gram
    from fl_impl.lora.product import product_rules as product_rules
    from fl_impl.lora.states import aggregate_states as aggregate_states
    from fl_impl.lora.text import TextClient as TextClient
    from fl_impl.lora.text import make_text_clients as make_text_clients
    from fl_impl.lora.training import Judged as Judged

_HOMES = {
    "Factors": "factors",
    "Folder": "on_disk",
    "Judged": "training",
    "LoRAFLAdapter": "adapter",
    "MODES": "modes",
    "Module": "factors",
    "TextClient": "text",
    "aggregate_folders": "on_disk",
    "aggregate_states": "states",
    "gram": "product",
    "load_base": "bases",
    "make_text_clients": "text",
    "mode": "modes",
    "product_rules": "product",
}
__all__ = [
    "MODES",
    "Factors",
    "Folder",
    "Judged",
    "LoRAFLAdapter",
    "Module",
    "TextClient",
    "aggregate_folders",
    "aggregate_states",
    "gram",
    "load_base",
    "make_text_clients",
    "mode",
    "product_rules",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): `fl-experiment --help` imports no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fl_impl.lora' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"fl_impl.lora.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *_HOMES})
