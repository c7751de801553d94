"""Where decoders keep their blocks, output projections, final norm and unembedding: a table by `model_type`, and what
is registered beside it."""

import json
from dataclasses import asdict, dataclass, replace

from dposcope.artefacts import text_digest
from dposcope.data.short import short_repr
from dposcope.data.texts import check_text
from dposcope.errors import DposcopeError


@dataclass(frozen=True)
class Layout:
    """Dotted module paths: `blocks` and `final_norm` from the model, the rest from a block."""

    blocks: str
    """The list of transformer blocks."""
    mlp_out: str | tuple[str, ...]
    """The MLP's output projection, whose input holds the neuron activations m; the module of a mixture's experts.
    Several where blocks differ, as where some are dense among mixtures: each block has one of them."""
    attention_out: str | tuple[str, ...]
    """The attention's output projection. Several where blocks differ, as where some have linear attention, a state
    space or a convolution in place of attention: each block has one of them, or more."""
    final_norm: str | None
    """The norm between the last block and the unembedding; None where there is none, as in GPT-1."""
    unembedding: str | None = None
    """The linear map to logits from the final norm's output, or from what `transform` makes of it; from the model.
    None: what the model says is its own."""
    logit_scale: float | None = None
    """A factor on all logits; None: that of the config, see `logit_scale`."""
    logit_softcap: float | None = None
    """c of a soft-cap `c·tanh(logits/c)`; None: that of the config, or none."""
    alternating: bool = False
    """Whether a block has either an MLP or attention (or what stands in its place), and not both, as in Nemotron-H."""
    transform: str | None = None
    """What stands between the final norm and the unembedding, from the model, as in ModernBERT; None: nothing."""

    __repr__ = short_repr


_LLAMA_LIKE = Layout("model.layers", "mlp.down_proj", "self_attn.o_proj", "model.norm")

_MIXTURE = Layout("model.layers", ("mlp.experts", "mlp.down_proj"), "self_attn.o_proj", "model.norm")

_WITH_VISION = Layout("model.language_model.layers", "mlp.down_proj", "self_attn.o_proj", "model.language_model.norm")

_QWEN_HYBRID = Layout("model.layers", "mlp.down_proj", ("self_attn.o_proj", "linear_attn.out_proj"), "model.norm")

_QWEN_STREAMS = Layout(
    "model.layers",
    "mlp.experts",
    ("self_attn.o_proj", "linear_attn.out_proj"),
    "model.hyper_connection_mixer",  # of several residual streams: it norms and mixes them
)

_GEMMA4 = Layout("model.layers", ("experts", "mlp.down_proj"), "self_attn.o_proj", "model.norm")

_GRANITE_MIXTURE = Layout(
    "model.layers",
    ("block_sparse_moe.experts", "shared_mlp.output_linear"),
    ("self_attn.o_proj", "mamba.out_proj"),
    "model.norm",
)

_LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout("transformer.h", "mlp.c_proj", "attn.c_proj", "transformer.ln_f"),
    "llama": _LLAMA_LIKE,  # Llama 2 and 3, SmolLM 1 and 2
    "mistral": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "gemma3": _WITH_VISION,
    "gemma3n_text": _LLAMA_LIKE,
    "gemma3n": _WITH_VISION,
    "gemma4_text": _GEMMA4,
    "gemma4": replace(_GEMMA4, blocks=_WITH_VISION.blocks, final_norm=_WITH_VISION.final_norm),
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "qwen3_5_text": _QWEN_HYBRID,
    "qwen3_next": Layout(
        "model.layers",
        ("mlp.experts", "mlp.down_proj"),
        ("self_attn.o_proj", "linear_attn.out_proj"),
        "model.norm",
    ),
    "qwen4_exp_text": _QWEN_STREAMS,
    "qwen4_exp": replace(
        _QWEN_STREAMS, blocks="model.language_model.layers", final_norm="model.language_model.hyper_connection_mixer"
    ),
    "smollm3": _LLAMA_LIKE,
    "granite": _LLAMA_LIKE,
    "cohere": _LLAMA_LIKE,
    "cohere2": _LLAMA_LIKE,
    "lfm2": Layout("model.layers", "feed_forward.w2", ("self_attn.out_proj", "conv.out_proj"), "model.embedding_norm"),
    "lfm2_moe": Layout(
        "model.layers",
        ("feed_forward.experts", "feed_forward.w2"),
        ("self_attn.out_proj", "conv.out_proj"),
        "model.embedding_norm",
    ),
    "bamba": Layout(
        "model.layers", "feed_forward.down_proj", ("self_attn.o_proj", "mamba.out_proj"), "model.final_layernorm"
    ),
    "jamba": Layout(
        "model.layers",
        ("feed_forward.experts", "feed_forward.down_proj"),
        ("self_attn.o_proj", "mamba.out_proj"),
        "model.final_layernorm",
    ),
    "falcon_h1": Layout(
        "model.layers", "feed_forward.down_proj", ("self_attn.o_proj", "mamba.out_proj"), "model.final_layernorm"
    ),
    "granitemoeshared": _GRANITE_MIXTURE,
    "granitemoe_swa": _GRANITE_MIXTURE,
    "granitemoehybrid": _GRANITE_MIXTURE,  # Granite 4
    "nemotron_h": Layout(
        "model.layers",
        ("mixer.experts", "mixer.down_proj", "mixer.shared_experts.down_proj"),
        ("mixer.o_proj", "mixer.out_proj"),
        "model.norm_f",
        alternating=True,
    ),
    "recurrent_gemma": Layout(
        "model.layers",
        "mlp_block.down_proj",
        ("temporal_block.o_proj", "temporal_block.linear_out"),
        "model.final_norm",
    ),
    "modernbert-decoder": Layout("model.layers", "mlp.Wo", "attn.Wo", "model.final_norm", transform="lm_head"),
    "openai-gpt": Layout("transformer.h", "mlp.c_proj", "attn.c_proj", None),
    "dbrx": Layout("transformer.blocks", "ffn.experts", "norm_attn_norm.attn.out_proj", "transformer.norm_f"),
    "jetmoe": Layout("model.layers", "mlp", "self_attention", "model.norm"),
    "bloom": Layout("transformer.h", "mlp.dense_4h_to_h", "self_attention.dense", "transformer.ln_f"),
    "mpt": Layout("transformer.blocks", "ffn.down_proj", "attn.out_proj", "transformer.norm_f"),
    "mixtral": _MIXTURE,
    "qwen3_moe": _MIXTURE,
    "olmoe": _MIXTURE,
    "gpt_oss": _MIXTURE,
}

_OWN = dict(_LAYOUTS)
"""Layouts of types whose logits the tests check. Those of any other are checked where its layout is found."""

HOW_TO_REGISTER = (
    "call dposcope.register_layout(model_type, Layout(blocks=…, mlp_out=…, attention_out=…, final_norm=…)) first, or "
    "give a command --layout FILE"
)

_expected: set[str] = set()
"""The type of model that a layout was given for, until a model of it is there."""


def register_layout(model_type: str, layout: Layout) -> None:
    """Give dposcope the module paths of another architecture, or replace known ones.

    Args:
        model_type: as in `model.config.model_type`.
        layout: the paths.

    Raises:
        DposcopeError: these are no paths.
    """
    check_text("model_type", model_type)
    _check_layout(layout)
    _LAYOUTS[model_type] = layout


def _check_layout(given: object) -> None:
    if not isinstance(given, Layout):
        raise DposcopeError(f"layout is a {type(given).__name__}; give dposcope.Layout(blocks=…, mlp_out=…, …)")


def expect_layout(model_type: str | None) -> None:
    """Refuse the next model unless it is of this type: a layout was given for it, and would be left out in silence.

    Args:
        model_type: as in `model.config.model_type`; None: any will do.
    """
    _expected.clear()
    if model_type is not None:
        _expected.add(model_type)


def layout_mark(model_type: str) -> str:
    """A digest of a layout that was registered for a type; empty for one that comes with dposcope or is recognised.

    It belongs to what identifies a model: another layout reads other neurons from the same weights.
    """
    layout = _LAYOUTS.get(model_type)
    return "" if layout is None or layout is _OWN.get(model_type) else text_digest(json.dumps(asdict(layout)))[:8]


def known_layout(model_type: str) -> Layout | None:
    """The layout of a type in the table, or the one that was registered for it."""
    return _LAYOUTS.get(model_type)


def is_covered(model_type: str, layout: Layout) -> bool:
    """Whether a layout comes with dposcope, and the tests check the logits of its type."""
    return layout is _OWN.get(model_type)


def check_expected(model_type: str) -> None:
    """Refuse a model of another type than the one that a layout was given for, see `expect_layout`.

    Raises:
        DposcopeError: it is.
    """
    if _expected and model_type not in _expected:
        raise DposcopeError(
            f"the layout is for model_type {min(_expected)!r}, and this model has {model_type!r}; mend model_type in "
            "it, or leave --layout out"
        )
    _expected.clear()
