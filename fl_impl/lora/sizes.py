"""What a federated fine-tune needs, in bytes by place, counted from the configuration of the model: no weights are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from fl_impl.common.counts import floor_of
from fl_impl.common.extras import require
from fl_impl.lora.adapted import check_options
from fl_impl.lora.bases import tiny_config
from fl_impl.lora.factors import Shape, length
from fl_impl.lora.stored import OVERSAMPLED, ROWS, TOGETHER

NF4: Final = (4 + 0.127) / 8
"""Bytes of a weight in nf4 with its twice quantised scales: Dettmers et al. 2023 (arXiv:2305.14314), section 3."""
DOUBLE, SINGLE, HALF = 8, 4, 2


@dataclass(frozen=True)
class Size:
    """So many bytes at a place."""

    place: str
    """"server memory", "server disk", "client memory" or "network"."""
    what: str
    bytes: int


def sizes(base_model: str, rank: int, target_modules: list[str], clients: int, fraction_fit: float = 1.0) -> tuple[Size, ...]:
    """Bytes of a round of n clients: on the server, on one client, and between them.

    base_model: "tiny", "llama-7b", or a folder with the config.json of a causal language model. The server is
    `aggregate_folders` in a process of its own: interpreter and libraries come to its bytes, activations to a client's.
    Raises ValueError for a model that has no configuration here, and for modules that it does not have.
    """
    model = outline(base_model)
    check_options(rank, 2 * rank, target_modules, model)
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    shapes = tuple(
        Shape(name, layer.out_features, layer.in_features)
        for name, layer in linear.items()
        if any(name == target or name.endswith("." + target) for target in target_modules)
    )
    d, n = length(shapes, rank), max(1, floor_of(fraction_fit, clients))
    whole = sum(parameter.numel() for parameter in model.parameters())
    packed = sum(layer.weight.numel() for name, layer in linear.items() if not name.endswith("lm_head"))
    return (
        Size(
            "server memory", f"inner products of {n} adapters, or one module's sum, whichever is more", working(shapes, rank, n)
        ),
        Size("server disk", f"{n} adapters as they arrive, and the result", (n + 1) * SINGLE * d),
        Size("client memory", f"base weights in bfloat16, {whole:,} numbers", HALF * whole),
        Size("client memory", "or in nf4 (embeddings and head in bfloat16)", round(NF4 * packed) + HALF * (whole - packed)),
        Size("client memory", f"adapter, {d:,} numbers in float32, its gradient and two moments of AdamW", 4 * SINGLE * d),
        Size("network", "up, a client and round", SINGLE * d),
        Size("network", "down, a client and round", SINGLE * d),
    )


def working(shapes: tuple[Shape, ...], rank: int, n: int) -> int:
    """Bytes of arrays that `aggregate_folders` has at once, at most, for the largest module."""
    m, k = max(shape.m for shape in shapes), max(shape.k for shape in shapes)
    one, directions = rank * (m + k), 2 * rank + OVERSAMPLED
    rows = min(max(rank, min(ROWS, TOGETHER // (m + k))), n * rank)
    tiles = 2 * rows * (m + k) + 3 * rows**2 + 3 * one
    summed = 3 * one + 4 * (m + k) * directions
    return DOUBLE * (max(tiles, summed) + 8 * (n + 1) ** 2)


def outline(base_model: str) -> Any:
    """The model without its weights. Raises ValueError where there is no configuration of it."""
    transformers = require("transformers", extra="lora")
    if base_model == "tiny":
        config = tiny_config()
    elif base_model == "llama-7b":
        config = transformers.LlamaConfig()  # its defaults are those of LLaMA-7B
    elif (Path(base_model) / "config.json").is_file():
        config = transformers.AutoConfig.from_pretrained(base_model, local_files_only=True)
    else:
        raise ValueError(f"expected 'tiny', 'llama-7b' or a folder with the config.json of a model; got {base_model!r}")
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)
