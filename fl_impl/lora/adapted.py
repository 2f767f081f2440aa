"""A base model with a LoRA adapter of peft, which is written and read as one flat vector."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fl_impl.common.extras import require
from fl_impl.common.specs import nearest
from fl_impl.lora.factors import Factors, Module, Shape
from fl_impl.lora.keys import PREFIX

if TYPE_CHECKING:
    from fl_impl.lora.bases import Base
    from fl_impl.lora.modes import Trains

Flat = npt.NDArray[np.float32]
ADAPTER = "default"


@dataclass(frozen=True, eq=False)
class Adapted:
    """The model of peft and, module by module, its shape and layer; A is (r, k), B is (m, r), scale is alpha / r."""

    base: Base
    model: Any
    shapes: tuple[Shape, ...]
    layers: tuple[Any, ...]
    rank: int
    scale: float
    device: str
    drifts: dict[str, tuple[torch.Tensor, ...]] = field(default_factory=dict[str, "tuple[torch.Tensor, ...]"])
    """(R, m) and (R, k) in float32 by module: what fedex and flora would add to the weights. A bfloat16 weight would round
    it away, and one packed into 4 bits cannot take it."""
    hooks: list[Any] = field(default_factory=list[Any])
    tokenised: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    def factors(self, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """B and A of a layer."""
        return layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].weight

    def parameters(self, trains: Trains = "AB") -> Iterator[torch.Tensor]:
        """B, A, B, A, ... as far as they are trained; from now on only these have gradients."""
        for layer in self.layers:
            for letter, weight in zip("BA", self.factors(layer), strict=True):
                weight.requires_grad_(letter in trains)
                if letter in trains:
                    yield weight

    def trained(self, trains: Trains) -> npt.NDArray[np.bool_]:
        """(d,): which entries of a flat adapter are trained."""
        sides = [(letter, width) for shape in self.shapes for letter, width in (("B", shape.m), ("A", shape.k))]
        return np.concatenate([np.full(self.rank * width, letter in trains) for letter, width in sides])

    @torch.no_grad()
    def write(self, flat: Flat) -> None:
        """Set the adapter to a (d,) vector laid out as in `Factors.flat`."""
        at = 0
        for layer in self.layers:
            for weight in self.factors(layer):
                piece = torch.from_numpy(np.array(flat[at : at + weight.numel()], np.float32))
                weight.copy_(piece.view(weight.shape))
                at += weight.numel()

    @torch.no_grad()
    def read(self) -> Flat:
        """The adapter as a (d,) vector."""
        pieces = [weight.reshape(-1).float().cpu() for layer in self.layers for weight in self.factors(layer)]
        return torch.cat(pieces).numpy()

    def carry_drift(self, drift: Factors | None) -> None:
        """Let the layers compute with products beside their base weights, which stay as they are, packed or rounded."""
        self.drifts.clear()
        for name, layer, module in () if drift is None else zip(self.shapes, self.layers, drift.modules, strict=True):
            where = layer.base_layer.weight.device
            self.drifts[name.name] = tuple(torch.from_numpy(np.asarray(side[0], np.float32)).to(where) for side in module)

    def hook(self) -> None:
        """From now on every adapted layer adds what it carries."""
        for shape, layer in zip(self.shapes, self.layers, strict=True):
            self.hooks.append(layer.base_layer.register_forward_hook(partial(self._with_drift, shape.name)))

    def _with_drift(self, name: str, _: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if name not in self.drifts:
            return output
        up, down = self.drifts[name]
        return output + (inputs[0].float() @ down.T @ up).to(output.dtype)

    def merged(self) -> Any:
        """A copy of the base model with everything that was learnt in its weights."""
        if self.drifts and self.base.quantized:
            raise ValueError(
                "the weights are packed into 4 bits, to which fedex and flora cannot add: merge what save() wrote "
                "into a base model that is not"
            )
        while self.hooks:
            self.hooks.pop().remove()
        plain = copy.deepcopy(self.model).merge_and_unload()
        self.hook()
        with torch.no_grad():
            for shape, (up, down) in ((shape, self.drifts[shape.name]) for shape in self.shapes if self.drifts):
                weight = plain.get_submodule(shape.name.removeprefix(PREFIX)).weight
                weight.add_((up.T @ down).to(weight.dtype))
        return plain

    def tokens(self, text: str) -> torch.Tensor:
        """The tokens of a text, which is tokenised once."""
        if text not in self.tokenised:
            self.tokenised[text] = torch.tensor(self.base.encode(text), dtype=torch.int64)
        return self.tokenised[text]


def adapt(
    base: Base, rank: int, alpha: float, target_modules: Sequence[str], *, device: str, gradient_checkpointing: bool
) -> Adapted:
    """Put a LoRA adapter into the base model, in place. Raises ValueError for a rank, alpha or module that cannot be."""
    peft = require("peft", extra="lora")
    check_options(rank, alpha, target_modules, base.model)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(target_modules), lora_dropout=0.0, task_type="CAUSAL_LM"
    )  # fmt: skip
    inner = peft.prepare_model_for_kbit_training(base.model) if base.quantized else base.model
    with torch.random.fork_rng(devices=[]):  # its random A is replaced; the caller's generator stays as it was
        model = peft.get_peft_model(inner, config)
    model.peft_config[ADAPTER].base_model_name_or_path = base.name
    if gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    found = [(name, layer) for name, layer in model.named_modules() if ADAPTER in getattr(layer, "lora_A", {})]
    shapes = tuple(Shape(name, layer.out_features, layer.in_features) for name, layer in found)
    adapted = Adapted(base, model, shapes, tuple(layer for _, layer in found), rank, alpha / rank, device)
    adapted.hook()
    return adapted


def check_options(rank: Any, alpha: Any, target_modules: Any, model: Any) -> None:
    """Raise ValueError for what makes no adapter of this model."""
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 1:
        raise ValueError(f"rank must be 1, 2, ...; got {rank!r}")
    if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
        raise ValueError(f"alpha must be positive; got {alpha!r}")
    if isinstance(target_modules, str) or not target_modules:
        raise ValueError(f'target_modules must be a list of names such as ["q_proj", "v_proj"]; got {target_modules!r}')
    linear = {name.rpartition(".")[2] for name, layer in model.named_modules() if hasattr(layer, "in_features")}
    for name in target_modules:
        if name.rpartition(".")[2] not in linear:
            raise ValueError(f"the base model has no linear module {name!r}{nearest(name, linear)}")


def initial(shapes: Sequence[Shape], rank: int, rng: np.random.Generator) -> Factors:
    """B = 0 and A uniform on +-1/sqrt(k), as peft begins."""
    return Factors(tuple(Module(np.zeros((1, rank, s.m)), rng.uniform(-1, 1, (1, rank, s.k)) / math.sqrt(s.k)) for s in shapes))
