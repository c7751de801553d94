"""Tiny random models whose blocks pass on several residual streams that hyper-connections weigh."""

from collections.abc import Callable
from functools import cache

import torch
from transformers import DeepseekV4Config, HYV4Config, PreTrainedConfig, Qwen4ExpTextConfig

from dposcope.model.language_model import LanguageModel
from helpers.families import CONTEXT, VOCABULARY, bos_tokenizer, build

EXPERTS, COUNT = 4, 3
_COMMON = {
    **{"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"max_position_embeddings": CONTEXT, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3},
    **{"moe_intermediate_size": 12, "num_experts_per_tok": 2},
}
STREAMS: dict[str, Callable[[], PreTrainedConfig]] = {
    "deepseek_v4": lambda: DeepseekV4Config(
        **{**_COMMON, "num_key_value_heads": 1, "head_dim": 8, "q_lora_rank": 8, "sliding_window": 5},
        **{
            "n_routed_experts": EXPERTS,
            "hc_mult": COUNT,
            "o_groups": 2,
            "o_lora_rank": 6,
            "partial_rotary_factor": 0.5,
        },
        **{"index_n_heads": 12, "index_head_dim": 8, "index_topk": 2},
        layer_types=[
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
        ],
        compress_rates={"compressed_sparse_attention": 2, "heavily_compressed_attention": 3},
        mlp_layer_types=["hash_moe", "moe", "moe", "moe"],
    ),
    "hy_v4": lambda: HYV4Config(
        **{**_COMMON, "num_key_value_heads": 4, "head_dim": 4, "q_lora_rank": 8, "kv_lora_rank": 8},
        **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4, "hc_mult": COUNT},
        # With few heads many scores are 0 alike, and which of them is among the best depends on shapes.
        **{"index_topk": 4, "index_head_dim": 8, "index_n_heads": 12},
        **{"n_routed_experts": EXPERTS, "n_shared_experts": 1, "intermediate_size": 24},
    ),
    "qwen4_exp_text": lambda: Qwen4ExpTextConfig(
        **{**_COMMON, "num_key_value_heads": 2, "head_dim": 8, "num_experts": EXPERTS, "hc_count": COUNT},
        **{"hc_lowrank": 16, "shared_expert_intermediate_size": 12, "linear_num_key_heads": 2},
        **{"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 6},
        **{"ple_layer_ids": [1, 3], "heads_per_ngram": 2, "ngram_vocab_size_base": 40, "split_ngram_parts": 2},
        **{"make_ngram_vocab_size_divisible_by": 4, "indexer_n_heads": 12, "indexer_kv_heads": 1},
        **{"indexer_head_dim": 8, "indexer_budget": 4, "indexer_compress_ratio": 2},
        layer_types=["linear_attention", "full_attention"] * 2,
    ),
}


@cache
def made(name: str) -> LanguageModel:
    """One of them, made once, to be left as it is."""
    lm = LanguageModel(build(STREAMS[name]()), bos_tokenizer(), f"tiny-{name}")
    draw = torch.Generator().manual_seed(0)
    for buffer_name, buffer in lm.model.named_buffers():
        if buffer_name.endswith("tid2eid"):  # the experts of each token
            for row in buffer:
                row.copy_(torch.randperm(EXPERTS, generator=draw)[: len(row)])
    return lm


def parted(passed: torch.Tensor) -> list[torch.Tensor]:
    """What a block passes on, `[B, T, 3, d]` or `[B, T, 3 · d]`, stream by stream."""
    if passed.ndim == 4:
        return [passed[:, :, one] for one in range(COUNT)]
    return [passed[:, :, 16 * one : 16 * (one + 1)] for one in range(COUNT)]
