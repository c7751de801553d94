"""A whole GGUF file of a tiny Llama, with its tokenizer, which transformers loads."""

import json
from collections.abc import Sequence
from pathlib import Path

from gguf import GGUFWriter

from dposcope.model.language_model import LanguageModel

_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_llama(lm: LanguageModel, path: Path, *, leave_out: Sequence[str] = (), **sizes: int) -> Path:
    """Write `lm` in float32.

    Args:
        lm: a tiny Llama with a byte-level tokenizer.
        path: the file.
        leave_out: tensors by their names in the file, without `.weight`.
        sizes: of the header by their last part, where it shall lie: `block_count=200`.
    """
    config, writer = lm.model.config, GGUFWriter(path, "llama")
    true = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }
    for name, value in (
        true | {name.replace("head_count", "attention.head_count"): sizes[name] for name in sizes}
    ).items():
        writer.add_uint64(f"llama.{name}", value)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    model = json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = set(lm.tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_bos_token_id(lm.tokenizer.bos_token_id)
    writer.add_eos_token_id(lm.tokenizer.eos_token_id)
    writer.add_pad_token_id(lm.tokenizer.pad_token_id)
    names = _ENDS | {
        f"model.layers.{block}.{ours}": f"blk.{block}.{theirs}"
        for block in range(config.num_hidden_layers)
        for ours, theirs in _PARTS.items()
    }
    for name, tensor in lm.model.state_dict().items():
        theirs = names[name.removesuffix(".weight")]
        if theirs not in leave_out:
            writer.add_tensor(f"{theirs}.weight", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
