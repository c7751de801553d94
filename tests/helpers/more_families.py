"""Tiny random models of families whose blocks, residual stream or logits are of a kind of their own.

Beside them stands where each keeps its parts, written out by hand, and a plain way of reading and changing those parts.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BambaConfig,
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    FalconH1Config,
    Gemma3nConfig,
    Gemma3nTextConfig,
    Gemma4Config,
    Gemma4TextConfig,
    GPTNeoConfig,
    GraniteConfig,
    GraniteMoeHybridConfig,
    HYV4Config,
    JambaConfig,
    Lfm2Config,
    Lfm3Config,
    ModernBertDecoderConfig,
    MptConfig,
    NanoChatConfig,
    OlmoHybridConfig,
    OpenAIGPTConfig,
    PreTrainedConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
)

from dposcope.model.language_model import LanguageModel
from helpers.families import CONTEXT, VOCABULARY, WINDOW, bos_tokenizer, build

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 3,
}
_OLD = {"vocab_size": VOCABULARY, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
}
_STATE_SPACE = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_WINDOWS = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 2,  # the last two read the keys and values of the first two
    "hidden_size_per_layer_input": 6,
    "vocab_size_per_layer_input": VOCABULARY,
    "final_logit_softcapping": 1.5,
    "head_dim": 8,
}


def _gemma3n() -> Gemma3nTextConfig:
    return Gemma3nTextConfig(**_COMMON, **_WINDOWS, laurel_rank=3, activation_sparsity_pattern=[0.9, 0.8, 0.0, 0.0])


def _gemma4() -> Gemma4TextConfig:
    return Gemma4TextConfig(**_COMMON, **_WINDOWS, per_layer_config={"01": {"head_dim": 12}, "03": {"head_dim": 12}})


def _wide() -> Gemma4TextConfig:
    """The blocks that read the keys of others have MLPs twice as wide, as in E2B."""
    config = _gemma4()
    config.use_double_wide_mlp = True
    return config


@dataclass(frozen=True)
class Family:
    """One family, and where it keeps its parts."""

    config: Callable[[], PreTrainedConfig]
    blocks: str = "model.layers"
    norm: str | None = "model.norm"
    head: tuple[str, ...] = ("lm_head",)
    """Run in turn, they give the logits of what the final norm gives."""
    mlp: str = "mlp.down_proj"
    attention: tuple[str, ...] = ("self_attn.o_proj",)
    """Each block has one of these, or several."""
    scale: float = 1.0
    """Of logits."""
    cap: float | None = None
    """On logits."""
    streams: Literal["first", "mean"] | None = None
    """How the residual stream is read where blocks pass on several: the first of them, or the mean of all."""
    seed: int = 0
    """With which greedy texts wander."""

    def build(self) -> LanguageModel:
        """Its model."""
        config = self.config()
        lm = LanguageModel(build(config, seed=self.seed), bos_tokenizer(), f"tiny-{config.model_type}")
        with torch.no_grad():
            for name, buffer in lm.model.named_buffers():
                if name.endswith("layer_scalar"):  # of Gemma 4, which is 1 until it is loaded
                    buffer.fill_(0.8)
        return lm

    def installed(self) -> AbstractContextManager[None]:
        """Inside, everything is there that it needs."""
        return nullcontext()

    def block(self, lm: LanguageModel, number: int) -> nn.Module:
        """One of its blocks."""
        return lm.model.get_submodule(f"{self.blocks}.{number}")

    def mlp_out(self, lm: LanguageModel, number: int) -> nn.Module:
        """A block's MLP output projection."""
        return self.block(lm, number).get_submodule(self.mlp)

    def vectors(self, lm: LanguageModel, number: int) -> torch.Tensor:
        """Value vectors of a block, `[d_mlp, d]`."""
        out = self.mlp_out(lm, number)
        return out.weight.T if isinstance(out, nn.Linear) else out.weight

    def attention_outs(self, lm: LanguageModel, number: int) -> list[nn.Module]:
        """A block's output projections of attention, or of what it has instead, or of both."""
        names = dict(self.block(lm, number).named_modules())
        return [names[path] for path in self.attention if path in names]

    def unembed(self, lm: LanguageModel, x: torch.Tensor) -> torch.Tensor:
        """Logits of what stands before the final norm."""
        for part in (*(() if self.norm is None else (self.norm,)), *self.head):
            x = lm.model.get_submodule(part)(x)
        logits = self.scale * x
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def logits(self, lm: LanguageModel, ids: list[int], gains: torch.Tensor | None = None, ablated=None):
        """Logits `[T, vocabulary]` of one text with gains, and a direction taken out of what each block writes."""

        def scale(block):
            # Where blocks differ, a narrow one has the first columns.
            return lambda _module, args: (args[0] * gains[block][..., : args[0].shape[-1]].to(args[0].dtype),)

        def remove(_module, _args, output):
            unit = (ablated / ablated.norm()).to(output.dtype)
            return output - (output @ unit).unsqueeze(-1) * unit

        handles = []
        for number in range(4):
            out = self.mlp_out(lm, number)
            if gains is not None:
                handles.append(out.register_forward_pre_hook(scale(number)))
            if ablated is not None:
                handles += [one.register_forward_hook(remove) for one in (out, *self.attention_outs(lm, number))]
        try:
            return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()


class _WithTowers(Family):
    """With towers for images and sound that hold nothing: the real ones need a library of their own."""

    def build(self) -> LanguageModel:
        """Its model."""
        with self.installed():
            return super().build()

    @contextmanager
    def installed(self) -> Generator[None]:
        """Inside, its towers can be made."""
        text = AutoModel.from_config

        def tower_or_text(config: PreTrainedConfig, **rest: Any) -> nn.Module:
            return text(config, **rest) if config.model_type.endswith("_text") else nn.Module()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AutoModel, "from_config", tower_or_text)
            yield


MORE = {
    "gemma4_text": Family(_gemma4, cap=1.5, seed=1),
    "gemma4_wide": Family(_wide, cap=1.5, seed=1),
    "gemma4": Family(
        lambda: Gemma4Config(text_config=_gemma4().to_dict(), vision_config=None, audio_config=None),
        blocks="model.language_model.layers",
        norm="model.language_model.norm",
        cap=1.5,
        seed=1,
    ),
    "gemma3n_text": Family(
        _gemma3n,
        cap=1.5,
        streams="first",
    ),
    "hy_v4": Family(  # in no table
        lambda: HYV4Config(
            **{**_COMMON, "num_key_value_heads": 4, "head_dim": 4, "q_lora_rank": 8, "kv_lora_rank": 8},
            **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4, "hc_mult": 3},
            # With few heads many scores are 0 alike, and which of them is among the best depends on shapes.
            **{"index_topk": 4, "index_head_dim": 8, "index_n_heads": 12},
            mlp_layer_types=["dense"] * 4,
        ),
        streams="mean",
    ),
    "gemma3n": _WithTowers(
        lambda: Gemma3nConfig(text_config=_gemma3n().to_dict()),
        blocks="model.language_model.layers",
        norm="model.language_model.norm",
        cap=1.5,
        streams="first",
    ),
    "granite": Family(
        lambda: GraniteConfig(
            **_COMMON,
            logits_scaling=4.0,
            embedding_multiplier=3.0,
            residual_multiplier=0.4,
            attention_multiplier=0.3,
        ),
        scale=1 / 4,
    ),
    "cohere": Family(lambda: CohereConfig(**_COMMON, logit_scale=0.25, use_qk_norm=True), scale=0.25),
    "cohere2": Family(
        lambda: Cohere2Config(
            **_COMMON,
            logit_scale=0.25,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        ),
        scale=0.25,
    ),
    "qwen3_5_text": Family(
        lambda: Qwen3_5TextConfig(**_COMMON, **_LINEAR, head_dim=8),
        attention=("self_attn.o_proj", "linear_attn.out_proj"),
    ),
    "qwen3_next": Family(
        lambda: Qwen3NextConfig(**_COMMON, **_LINEAR, head_dim=8, num_experts=0),
        attention=("self_attn.o_proj", "linear_attn.out_proj"),
    ),
    "olmo_hybrid": Family(  # in no table: recognised by its structure
        lambda: OlmoHybridConfig(**_COMMON, **_LINEAR),
        attention=("self_attn.o_proj", "linear_attn.o_proj"),
    ),
    "lfm2": Family(
        lambda: Lfm2Config(
            **_COMMON, block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention", "conv", "conv"]
        ),
        norm="model.embedding_norm",
        mlp="feed_forward.w2",
        attention=("self_attn.out_proj", "conv.out_proj"),
    ),
    "lfm3": Family(  # in no table
        lambda: Lfm3Config(**_COMMON, head_dim=8, layer_types=["conv", "full_attention", "conv", "conv"]),
        norm="model.embedding_norm",
        mlp="feed_forward.w2",
        attention=("self_attn.o_proj", "conv.out_proj"),
    ),
    "bamba": Family(
        lambda: BambaConfig(**_COMMON, **_STATE_SPACE, attn_layer_indices=[1]),
        norm="model.final_layernorm",
        mlp="feed_forward.down_proj",
        attention=("self_attn.o_proj", "mamba.out_proj"),
    ),
    "jamba": Family(
        lambda: JambaConfig(
            **_COMMON,
            mamba_d_state=4,
            mamba_dt_rank=3,
            num_experts=1,
            attn_layer_period=4,
            attn_layer_offset=1,
            use_mamba_kernels=False,
        ),
        norm="model.final_layernorm",
        mlp="feed_forward.down_proj",
        attention=("self_attn.o_proj", "mamba.out_proj"),
        seed=2,  # with others its state space makes much of rounding
    ),
    "granitemoehybrid": Family(  # without experts, as Granite 4 H Micro
        lambda: GraniteMoeHybridConfig(
            **_COMMON,
            **_STATE_SPACE,
            num_local_experts=0,
            shared_intermediate_size=24,
            layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention"],
            logits_scaling=4.0,
            embedding_multiplier=3.0,
            residual_multiplier=0.4,
            attention_multiplier=0.3,
        ),
        mlp="shared_mlp.output_linear",
        attention=("self_attn.o_proj", "mamba.out_proj"),
        scale=1 / 4,
    ),
    "falcon_h1": Family(  # each block has both
        lambda: FalconH1Config(
            **_COMMON, **_STATE_SPACE, mamba_d_ssm=32, lm_head_multiplier=0.5, mlp_multipliers=[0.8, 0.6]
        ),
        norm="model.final_layernorm",
        mlp="feed_forward.down_proj",
        attention=("self_attn.o_proj", "mamba.out_proj"),
        scale=0.5,
    ),
    "bloom": Family(
        lambda: BloomConfig(**_OLD, hidden_size=16, n_layer=4, n_head=4),
        blocks="transformer.h",
        norm="transformer.ln_f",
        mlp="mlp.dense_4h_to_h",
        attention=("self_attention.dense",),
    ),
    "mpt": Family(
        lambda: MptConfig(**_OLD, d_model=16, n_layers=4, n_heads=4, max_seq_len=CONTEXT),
        blocks="transformer.blocks",
        norm="transformer.norm_f",
        mlp="ffn.down_proj",
        attention=("attn.out_proj",),
    ),
    "gpt_neo": Family(  # in no table, as are those that follow
        lambda: GPTNeoConfig(
            **_OLD,
            hidden_size=16,
            num_layers=4,
            num_heads=4,
            attention_types=[[["global", "local"], 2]],
            window_size=WINDOW,
            max_position_embeddings=CONTEXT,
        ),
        blocks="transformer.h",
        norm="transformer.ln_f",
        mlp="mlp.c_proj",
        attention=("attn.attention.out_proj",),
    ),
    "falcon": Family(  # adds what attention wrote into what the MLP wrote, in place
        lambda: FalconConfig(**_OLD, hidden_size=16, num_hidden_layers=4, num_attention_heads=4),
        blocks="transformer.h",
        norm="transformer.ln_f",
        mlp="mlp.dense_4h_to_h",
        attention=("self_attention.dense",),
    ),
    "nanochat": Family(  # its final norm also runs behind the embedding
        lambda: NanoChatConfig(**_COMMON, final_logit_softcapping=1.5),
        mlp="mlp.fc2",
        cap=1.5,
    ),
    "recurrent_gemma": Family(  # keeps its recurrence and convolution in its blocks, and they read padding
        lambda: RecurrentGemmaConfig(
            **{**_COMMON, "intermediate_size": 48},
            head_dim=4,
            lru_width=16,
            attention_window_size=WINDOW,
            logits_soft_cap=1.5,
        ),
        norm="model.final_norm",
        mlp="mlp_block.down_proj",
        attention=("temporal_block.o_proj", "temporal_block.linear_out"),
        cap=1.5,
    ),
    "modernbert-decoder": Family(
        lambda: ModernBertDecoderConfig(
            **_COMMON, local_attention=2 * WINDOW, classifier_bias=True, norm_bias=True, tie_word_embeddings=False
        ),
        norm="model.final_norm",
        mlp="mlp.Wo",
        attention=("attn.Wo",),
        head=("lm_head", "decoder"),
    ),
    "openai-gpt": Family(  # norms behind attention and MLP, none at the end, and no cache
        lambda: OpenAIGPTConfig(**_OLD, n_embd=16, n_layer=4, n_head=4, n_positions=CONTEXT),
        blocks="transformer.h",
        norm=None,
        mlp="mlp.c_proj",
        attention=("attn.c_proj",),
    ),
}
