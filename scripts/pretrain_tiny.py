"""Pre-trains the base model "tiny" on the topics of Python's help: `python scripts/pretrain_tiny.py`, about a minute."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from fl_impl.lora.bases import tiny_config

HOME = Path(__file__).parent.parent / "fl_impl" / "lora" / "data" / "tiny.safetensors"
BATCH, CONTEXT, PEAK, WARMUP = 24, 96, 4e-3, 20


def pretraining_text() -> str:
    """The topics of `help()`, which every Python has."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return "\n\n".join(topics[name] for name in sorted(topics))


def pretrain(steps: int, seed: int) -> Any:
    """AdamW with warm-up and a linear decline to zero; prints nats per byte."""
    with torch.random.fork_rng():  # transformers initialises from the global generator
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_config())
    tokens = torch.tensor(list(pretraining_text().encode()))
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.01)
    mean = 0.0
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(step / WARMUP, (steps - step + 1) / (steps - WARMUP))
        starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH, 1), generator=draws)
        batch = tokens[starts + torch.arange(CONTEXT)]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == 1 else 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 0:
            print(f"step {step}: {mean:.3f} nats a byte", flush=True)
    return model


def main() -> None:
    """Write the weights as float16 safetensors; the tied output layer is not stored twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HOME)
    chosen = parser.parse_args()
    model = pretrain(chosen.steps, chosen.seed)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, chosen.output)
    print(f"{sum(value.numel() for value in weights.values())} parameters -> {chosen.output}")


if __name__ == "__main__":
    main()
