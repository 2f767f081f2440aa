"""What one client sends, where that is a model rather than a vector: its layers, and the ways in which code holds them."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.floating]
TRACKED: Final = 7
"""What the integer buffer of every client holds."""


@dataclass(frozen=True)
class Layer:
    """One array of a model. A buffer holds an integer that is not part of the vector."""

    name: str
    shape: tuple[int, ...]
    buffer: bool = False

    @property
    def size(self) -> int:
        """Coordinates of the vector in it."""
        return 0 if self.buffer else math.prod(self.shape)


Layout = Callable[[int], tuple[Layer, ...]]
"""d -> the layers that hold a vector of d coordinates, in order."""


def one_layer(d: int) -> tuple[Layer, ...]:
    """All coordinates in one layer, so that what works layer by layer works on the whole."""
    return (Layer("fc.weight", (d,)),)


def several_layers(d: int) -> tuple[Layer, ...]:
    """Up to four layers of unequal sizes and ranks: a matrix where the half is even, vectors, a scalar."""
    half = max(d // 2, 1)
    rest = d - half
    sizes = [half, rest - rest // 3 - (rest > 2), rest // 3, int(rest > 2)]
    shapes = [(2, half // 2) if half % 2 == 0 else (half,), (sizes[1],), (sizes[2],), ()]
    names = ("conv.weight", "conv.bias", "fc.weight", "fc.scale")
    return tuple(Layer(name, shape) for name, shape, size in zip(names, shapes, sizes, strict=True) if size)


def with_a_buffer(d: int) -> tuple[Layer, ...]:
    """Several layers and the integer that batch normalisation counts in."""
    first, *others = several_layers(d)
    return (first, Layer("bn.num_batches_tracked", (), buffer=True), *others)


def layout_of(template: Mapping[str, Any] | Sequence[Any]) -> tuple[Layer, ...]:
    """The layers of somebody's own model, by a state dict or a list of arrays; integer arrays are buffers."""
    named = template.items() if isinstance(template, Mapping) else ((f"layer_{i}", value) for i, value in enumerate(template))
    arrays = [(name, numbers(value)) for name, value in named]
    return tuple(Layer(name, array.shape, buffer=array.dtype.kind not in "fc") for name, array in arrays)


def numbers(value: Any) -> npt.NDArray[Any]:
    """A tensor or array of any library as numpy, bfloat16 as float32. Raises ValueError where it is neither."""
    if is_tensor(value):
        flat = value.detach().cpu()
        return (flat.float() if str(flat.dtype) == "torch.bfloat16" else flat).numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"expected an array or a tensor, got {type(value).__name__}")
    return array


def is_tensor(value: object) -> bool:
    """Whether value is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensor(array: npt.NDArray[Any]) -> Any:
    """The array as a torch tensor on the same memory, a copy of it where that may not be written to."""
    import torch  # noqa: PLC0415  # only a rule that took no numpy array brings it in

    return torch.from_numpy(array if array.flags.writeable else array.copy())  # type: ignore[reportPrivateImportUsage]  # torch's stubs


def parts(row: Row, layers: Sequence[Layer]) -> list[npt.NDArray[Any]]:
    """The arrays of a model, views of the row where it is contiguous."""
    arrays, start = list[npt.NDArray[Any]](), 0
    for layer in layers:
        if layer.buffer:
            arrays.append(np.full(layer.shape, TRACKED, np.int64))
        else:
            arrays.append(row[start : start + layer.size].reshape(layer.shape))
            start += layer.size
    return arrays


@dataclass(frozen=True)
class Holder:
    """One way of holding a model: made of its arrays, and read back from a result of the same kind."""

    name: str
    """As it stands in the report: OrderedDict is a state dict of torch tensors."""
    hold: Callable[[Sequence[Layer], Sequence[npt.NDArray[Any]]], Any]
    arrays: Callable[[Any, Sequence[Layer]], Sequence[Any]]
    """(result, layers) -> its arrays in the order of the layers; raises where it is not such a model."""

    def model(self, row: Row, layers: Sequence[Layer]) -> Any:
        """One client's model."""
        return self.hold(layers, parts(row, layers))

    def vector(self, result: Any, layers: Sequence[Layer]) -> npt.NDArray[Any]:
        """The coordinates of a model that came back. Raises ValueError where a layer is missing or has another shape."""
        arrays = [numbers(array) for array in self.arrays(result, layers)]
        if len(arrays) != len(layers):
            raise ValueError(f"returned {len(arrays)} layers of {len(layers)}")
        for layer, array in zip(layers, arrays, strict=True):
            if array.shape != layer.shape:
                raise ValueError(f"returned layer {layer.name} in shape {array.shape}; expected {layer.shape}")
            if layer.buffer and array != TRACKED:
                raise ValueError(f"returned {array} in the integer buffer {layer.name}, where every client has {TRACKED}")
        return np.concatenate([array for layer, array in zip(layers, arrays, strict=True) if not layer.buffer], axis=None)


def _by_name(result: Any, layers: Sequence[Layer]) -> list[Any]:
    if not isinstance(result, Mapping):
        raise ValueError(f"expected a model by name, got {type(result).__name__}")  # noqa: TRY004  # of the rule, not of ours
    missing = [layer.name for layer in layers if layer.name not in result]
    if missing or len(result) != len(layers):
        raise ValueError(f"returned the layers {', '.join(map(str, result))}; expected {', '.join(x.name for x in layers)}")
    return [result[layer.name] for layer in layers]


def _in_order(result: Any, layers: Sequence[Layer]) -> list[Any]:
    del layers
    if not isinstance(result, list | tuple) or not all(hasattr(array, "shape") for array in result):
        raise ValueError(f"expected a list of arrays, got {type(result).__name__}")
    return list(result)


def _tree(layers: Sequence[Layer], arrays: Sequence[npt.NDArray[Any]]) -> dict[str, Any]:
    """{"params": {"fc": {"weight": array}}}: as Flax and Haiku nest."""
    tree: dict[str, Any] = {}
    for layer, array in zip(layers, arrays, strict=True):
        module, _, name = layer.name.rpartition(".")
        tree.setdefault(module or "root", {})[name] = array
    return {"params": tree}


def _from_tree(result: Any, layers: Sequence[Layer]) -> list[Any]:
    modules = result["params"]
    return [modules[layer.name.rpartition(".")[0] or "root"][layer.name.rpartition(".")[2]] for layer in layers]


def _module(layers: Sequence[Layer], arrays: Sequence[npt.NDArray[Any]]) -> Any:
    """A torch module with these parameters and buffers."""
    import torch  # noqa: PLC0415  # the rule wants one

    whole = torch.nn.Module()
    for layer, array in zip(layers, arrays, strict=True):
        name, _, leaf = layer.name.rpartition(".")
        inner = getattr(whole, name, None) if name else whole
        if inner is None:
            whole.add_module(name, inner := torch.nn.Module())
        value = tensor(array)
        if layer.buffer:
            inner.register_buffer(leaf, value)
        else:
            inner.register_parameter(leaf, torch.nn.Parameter(value))
    return whole


def _from_module(result: Any, layers: Sequence[Layer]) -> list[Any]:
    return _by_name(result.state_dict(), layers)


def _names(layers: Sequence[Layer], arrays: Sequence[Any]) -> Any:
    return {layer.name: array for layer, array in zip(layers, arrays, strict=True)}


HOLDERS: Final[dict[str, Holder]] = {
    holder.name: holder
    for holder in (
        Holder("OrderedDict", lambda layers, arrays: OrderedDict(_names(layers, [tensor(a) for a in arrays])), _by_name),
        Holder("{name: array}", _names, _by_name),
        Holder("[array]", lambda _, arrays: list(arrays), _in_order),
        Holder("[tensor]", lambda _, arrays: [tensor(a) for a in arrays], _in_order),
        Holder("tree", _tree, _from_tree),
        Holder("Module", _module, _from_module),
    )
}
"""In the order in which they are tried."""
