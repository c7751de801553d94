"""PEFT adapters with random weights, and what they make of a model unmerged."""

import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from helpers.families import copied

IDS = [2, 40, 41, 55, 60]
"""A text to compare logits on."""


def projections(family: str) -> list[str]:
    """Of attention and MLP; in GPT-2 `c_proj` is the output projection of both."""
    return ["c_attn", "c_proj"] if family == "gpt2" else ["q_proj", "o_proj", "up_proj", "down_proj"]


def lora(family: str, **settings) -> LoraConfig:
    """A config whose scale is 4 unless settings say otherwise."""
    given = {"r": 3, "lora_alpha": 12, "target_modules": projections(family), "task_type": "CAUSAL_LM", **settings}
    return LoraConfig(**given)


def write_adapter(
    lm, config, folder: Path, *, seed: int = 0, scale: float = 0.3, embeddings: bool = False
) -> torch.Tensor:
    """Wrap a copy of a model, give the adapter random weights, save it; its logits `[T, vocabulary]`, unmerged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(copied(lm).model, config)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(scale * torch.randn(parameter.shape, generator=draw).to(parameter.dtype))
        wrapped.eval()
        wrapped.save_pretrained(folder, save_embedding_layers=embeddings)
        with torch.no_grad():
            return wrapped(input_ids=torch.tensor([IDS])).logits[0]
