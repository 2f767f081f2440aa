"""The keys of an adapter that peft wrote: the factors of each module, and all that is trained as a whole."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

FACTOR: Final = re.compile(r"(?P<module>.*)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?$")
"""Of a linear or convolutional module "x.lora_A.weight", of an embedding "x.lora_embedding_A"."""
PREFIX: Final = "base_model.model."
"""What peft puts before the name that a module has in the model."""
UNLIKE: Final = (
    "use_qalora",
    "use_bdlora",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
)
"""Settings of peft under which B A is not what is added to a weight, or not to that one."""


class Pair(NamedTuple):
    """The keys of the two factors of a module."""

    module: str
    b: str
    a: str


def pairs(keys: Iterable[str], owner: str = "the adapter") -> tuple[Pair, ...]:
    """The modules with factors, by name. Raises ValueError where there is none, or one has a single factor."""
    found = dict[str, dict[str, str]]()
    for key in keys:
        match = FACTOR.match(key)
        if match:
            found.setdefault(match["module"], {})[match["side"]] = key
    if not found:
        raise ValueError(f"{owner}: expected keys such as 'q_proj.lora_A.weight'; got {sorted(keys)[:3]}")
    for module, sides in found.items():
        if len(sides) == 1:
            (there,) = sides.values()
            raise ValueError(
                f"{owner}: missing key {there.replace('_A', '_#').replace('_B', '_A').replace('_#', '_B')!r} of {module}"
            )
    return tuple(Pair(module, sides["B"], sides["A"]) for module, sides in sorted(found.items()))


def whole(keys: Iterable[str]) -> tuple[str, ...]:
    """The other keys: magnitudes of DoRA, modules_to_save, biases, saved embeddings. Each is a tensor of its own."""
    return tuple(sorted(key for key in keys if not FACTOR.match(key)))


def check_kind(config: Mapping[str, Any], where: object) -> None:
    """Raise ValueError for a configuration of peft that is not of LoRA as W + scale B A, with its reason."""
    unlike = [name for name in UNLIKE if config.get(name)]
    if config.get("peft_type") != "LORA" or unlike:
        raise ValueError(
            f"{where} is not an adapter that adds scale B A to weights: it has {', '.join(unlike) or config.get('peft_type')}"
        )


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What multiplies B A of a module: alpha / r, under rsLoRA alpha / sqrt(r), with alpha from alpha_pattern."""
    alpha = patterned(config.get("alpha_pattern"), module, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank that a configuration gives a module."""
    return int(patterned(config.get("rank_pattern"), module, config["r"]))


def patterned(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as peft reads them."""
    name = module.removeprefix(PREFIX)
    matching = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", name))
    return next(matching, default)


def with_ranks(config: Mapping[str, Any], ranks: Mapping[str, int], scales: Mapping[str, float]) -> dict[str, Any]:
    """The configuration of an adapter whose modules have these ranks and scales; unchanged where it says them already."""
    if all(rank_of(config, m) == r and scale_of(config, m, r) == scales[m] for m, r in ranks.items()):
        return dict(config)
    alphas = {module: scales[module] * rank for module, rank in ranks.items()}
    most = max(ranks, key=lambda module: ranks[module])
    exact = {module: "^" + re.escape(module.removeprefix(PREFIX)) for module in ranks}
    return {
        **config,
        "use_rslora": False,
        "r": ranks[most],
        "lora_alpha": plain(alphas[most]),
        "rank_pattern": {exact[module]: rank for module, rank in ranks.items() if rank != ranks[most]},
        "alpha_pattern": {exact[module]: plain(alpha) for module, alpha in alphas.items() if alpha != alphas[most]},
    }


def plain(value: float) -> float:
    """An int where it is one, as peft writes alpha."""
    return int(value) if float(value).is_integer() else value
