"""GGUF files of tiny models."""

import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from dposcope.model.language_model import LanguageModel
from helpers.families import (
    CONFIGS,
    bos_tokenizer,
    build,
)

ARCHITECTURES = {"smollm": "llama", "mistral": "llama", "gemma3": "gemma3"}
"""GGUF's names where they are not the family's."""


def wide(family: str) -> LanguageModel:
    """A tiny model whose residual stream is a block of 32 wide, which block formats need."""
    config = CONFIGS[family]()
    setattr(config, "n_embd" if family == "gpt2" else "hidden_size", 32)
    return LanguageModel(build(config), bos_tokenizer(), family)


def parts(lm: LanguageModel, block: int) -> dict[str, torch.Tensor]:
    """The MLP's weights `[out, in]` by GGUF's names."""
    if lm.model.config.model_type == "gpt2":
        mlp = lm.model.transformer.h[block].mlp
        return {
            "ffn_up.weight": mlp.c_fc.weight.T,
            "ffn_up.bias": mlp.c_fc.bias,
            "ffn_down.weight": mlp.c_proj.weight.T,
        }
    mlp = lm.model.model.layers[block].mlp
    return {
        "ffn_gate.weight": mlp.gate_proj.weight,
        "ffn_up.weight": mlp.up_proj.weight,
        "ffn_down.weight": mlp.down_proj.weight,
    }


def write(lm: LanguageModel, path, kind="Q8_0", *, extra=None, leave_out=(), fields=None, down="F32"):
    """A GGUF file with the model's MLPs, `ffn_up` and `ffn_gate` in a format."""
    family = lm.name
    architecture = ARCHITECTURES.get(family, family)
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(lm.n_blocks)
    for name, value in (fields or {}).items():
        (writer.add_array if isinstance(value, list) else writer.add_uint32)(name, value)
    tensors = {f"blk.{b}.{name}": t for b in range(lm.n_blocks) for name, t in parts(lm, b).items()}
    for name, tensor in {**tensors, **(extra or {})}.items():
        if any(name.endswith(suffix) for suffix in leave_out):
            continue
        numbers = tensor.detach().float().contiguous().numpy()
        form = GGMLQuantizationType["F32" if tensor.ndim == 1 else down if "ffn_down" in name else kind]
        data = quantize(numbers, form)
        writer.add_tensor(name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
