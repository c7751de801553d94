"""Tiny random Nemotron-H: a block has an MLP, experts, attention or a state space, and one of them only."""

from functools import cache

from transformers import NemotronHConfig

from dposcope.model.language_model import LanguageModel
from helpers.families import CONTEXT, VOCABULARY, bos_tokenizer, build

KINDS = {
    "dense": ["linear_attention", "mlp", "full_attention", "mlp", "linear_attention"],
    "experts": ["linear_attention", "moe", "full_attention", "mlp", "moe"],
}
EXPERTS, WIDTH, SHARED, DENSE = 4, 8, 20, 24


def config(kind: str, **changes) -> NemotronHConfig:
    """Of one of `KINDS`."""
    sizes = {
        **{"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": DENSE, "max_position_embeddings": CONTEXT},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4},
        **{"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1, "chunk_size": 8},
        **{"n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH},
        **{"moe_shared_expert_intermediate_size": SHARED, "routed_scaling_factor": 1.5},
        **{"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3},
    }
    return NemotronHConfig(**{**sizes, "layers_block_type": KINDS[kind], **changes})


@cache
def made(kind: str) -> LanguageModel:
    """A model of it, made once, to be left as it is."""
    return LanguageModel(build(config(kind)), bos_tokenizer(), f"tiny-{kind}")
