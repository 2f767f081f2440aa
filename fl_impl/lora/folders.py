"""Adapter folders as peft writes them: a configuration and safetensors, checked before anything is taken from them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.lora.factors import Factors, Module

if TYPE_CHECKING:
    from fl_impl.lora.adapted import Adapted

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def keys(name: str) -> tuple[str, str]:
    """What peft calls B and A of a module."""
    return f"{name}.lora_B.weight", f"{name}.lora_A.weight"


def write_folder(folder: Path, adapted: Adapted, adapter: Factors) -> Path:
    """Save one adapter, of any rank: alpha is chosen such that the scale stays alpha / r."""
    from safetensors.numpy import save_file  # noqa: PLC0415  # where it is used

    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(adapted.model.peft_config["default"])
    config.r, config.lora_alpha, config.inference_mode = adapter.rank, adapted.scale * adapter.rank, True
    if float(config.lora_alpha).is_integer():
        config.lora_alpha = int(config.lora_alpha)
    config.save_pretrained(str(folder))
    weights: dict[str, Any] = {}
    for shape, (up, down) in zip(adapted.shapes, adapter.modules, strict=True):
        b, a = up[0].T / adapted.scale, down[0]
        pairs = zip(keys(shape.name), (b, a), strict=True)
        weights |= {key: np.ascontiguousarray(value, np.float32) for key, value in pairs}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter folder. Raises ValueError where there is none, or it is not of plain LoRA."""
    path = folder / CONFIG
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} is no adapter folder: it needs {CONFIG} and {WEIGHTS}, as save() and peft write them")
    config = json.loads(path.read_text(encoding="utf-8"))
    unlike = ["bias"] if config.get("bias", "none") != "none" else []
    unlike += [
        name for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(name)
    ]
    if config.get("peft_type") != "LORA" or unlike:
        raise ValueError(
            f"{folder} is not a plain LoRA adapter, which is what is trained here: it has "
            f"{', '.join(unlike) or config.get('peft_type')}. aggregate_folders aggregates such folders of LoRA"
        )
    return config


def read_factors(folder: Path, adapted: Adapted) -> Factors:
    """The adapter of a folder. Raises ValueError for missing or foreign keys, wrong shapes, NaN and infinity."""
    from safetensors.torch import load_file  # noqa: PLC0415  # where it is used

    weights = {key: value.double().numpy() for key, value in load_file(folder / WEIGHTS).items()}
    check_weights(weights, adapted)
    modules: list[Module] = []
    for shape in adapted.shapes:
        b, a = (weights[key] for key in keys(shape.name))
        modules.append(Module(np.ascontiguousarray(b.T)[None] * adapted.scale, a[None]))
    return Factors(tuple(modules))


def check_weights(weights: dict[str, Any], adapted: Adapted) -> None:
    """Raise ValueError for what is no adapter of this model; peft itself takes NaN and missing keys without a word."""
    expected = {}
    for shape in adapted.shapes:
        expected |= dict(zip(keys(shape.name), ((shape.m, adapted.rank), (adapted.rank, shape.k)), strict=True))
    for wrong, what in ((expected.keys() - weights.keys(), "lacks"), (weights.keys() - expected.keys(), "has the foreign")):
        if wrong:
            raise ValueError(f"the adapter {what} {min(wrong)} ({len(wrong)} such keys): it is of another model")
    for key, value in weights.items():
        if value.shape != expected[key]:
            raise ValueError(f"{key} must have shape {expected[key]}; got {value.shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinity")
