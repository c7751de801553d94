"""Where a decoder keeps its blocks, output projections, final norm and unembedding.

First a table by `model_type`, then recognition by structure, then `register_layout`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dposcope.artefacts import text_digest
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.mixtures.experts import Experts
from dposcope.model.mixtures.shared import Shared
from dposcope.model.quantised.weights import PLAIN, UNQUANTISED, is_quantised, quantised_weight


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
    """
    _LAYOUTS[model_type] = layout


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


@dataclass(frozen=True)
class ProjectionWidth:
    """Sizes of a projection: it reads `inputs` numbers and writes `outputs`."""

    inputs: int
    outputs: int


def projection_width(module: nn.Module) -> ProjectionWidth:
    """Sizes of a `Linear` or `Conv1D`, which store their weights transposed to each other, of a quantised layer, or of
    all experts together.

    Raises:
        DposcopeError: it is none of these.
    """
    experts = Experts.within(module)
    if experts is not None and experts.weight.dtype in PLAIN:
        return ProjectionWidth(experts.sizes.count * experts.sizes.width, experts.outputs)
    if is_quantised(module):
        return ProjectionWidth(int(vars(module)["in_features"]), int(vars(module)["out_features"]))
    if isinstance(module, nn.Linear | Conv1D) and module.weight.dtype in PLAIN:
        shape = module.weight.shape
        return ProjectionWidth(*shape) if isinstance(module, Conv1D) else ProjectionWidth(shape[1], shape[0])
    raise DposcopeError(
        f"an output projection is a {type(module).__name__}, not a Linear or Conv1D of plain numbers: {UNQUANTISED}"
    )


def is_projection(module: nn.Module) -> bool:
    """Whether a module is one linear map: a `Linear` or `Conv1D`, or a quantised layer in the place of one."""
    return isinstance(module, nn.Linear | Conv1D) or is_quantised(module)


RUNS_ON: Final = "_runs_on"
"""Attribute of a module whose weights are brought to a device when it runs: that device."""


def device_of_module(module: nn.Module) -> torch.device | None:
    """Where a module runs, which is where its weights are, or are brought to; None for one without any."""
    brought: torch.device | None = vars(module).get(RUNS_ON)
    return brought or next((one.device for one in chain(module.parameters(), module.buffers())), None)


def value_vectors(module: nn.Module) -> Tensor:
    """The rows v_i of an output projection as `[inputs, outputs]`: a view, sharing storage, but of most experts and of
    quantised layers a copy.

    `Linear` stores `[outputs, inputs]`, which is transposed here; `Conv1D` stores `[inputs, outputs]`. Those of a
    quantised layer are dequantised.
    """
    projection_width(module)
    experts = Experts.of(module)
    if experts is not None:
        return experts.vectors
    if is_quantised(module):
        return quantised_weight(module).T
    weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType] — a Parameter of either class
    return weight if isinstance(module, Conv1D) else weight.T


def is_gated(block: nn.Module, layout: Layout) -> bool:
    """Whether a block's MLP multiplies two projections (Llama, Gemma, Mistral, Qwen) instead of using one (GPT-2)."""
    where = mlp_path(block, layout)
    if where is None:
        return False
    experts = Experts.of(submodule(block, where))
    if experts is not None:
        return experts.gated
    path, _, own = where.rpartition(".")
    # The path is "mlp" for Llama; it is "" (the block itself) for OPT.
    children = [module for name, module in submodule(block, path).named_children() if name != own]
    inputs = [module for module in children if is_projection(module)]
    neurons = projection_width(submodule(block, where)).inputs
    # Phi-3 has both in one projection of twice the width.
    return sum(projection_width(module).outputs for module in inputs) >= 2 * neurons


def block_modules(model: PreTrainedModel, layout: Layout) -> list[nn.Module]:
    """The transformer blocks in order."""
    blocks = submodule(model, layout.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return list(blocks)


def attention_paths(block: nn.Module, layout: Layout) -> list[str]:
    """Where a block has its attention output projection, or that of what it has in place of attention, or both.

    None of them in a block that has an MLP alone.
    """
    return _present(block, layout.attention_out, layout.alternating)


def mlp_path(block: nn.Module, layout: Layout) -> str | None:
    """Where a block has its MLP output projection, or the module of its routed experts; None where it has none."""
    present = _present(block, layout.mlp_out, layout.alternating)
    return next(chain((path for path in present if Experts.of(submodule(block, path)) is not None), present), None)


def _present(block: nn.Module, paths: str | tuple[str, ...], alternating: bool) -> list[str]:
    names, every = {name for name, _ in block.named_modules()}, every_path(paths)
    found = [path for path in every if path in names]
    return found if found or alternating else [every[0]]


def every_path(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    """The paths of a field of a layout, each once."""
    return (paths,) if isinstance(paths, str) else tuple(dict.fromkeys(paths))


def shared_experts(block: nn.Module, layout: Layout) -> Shared | None:
    """The shared experts of a block, beside its routed ones; None where it has none.

    Raises:
        DposcopeError: something unknown writes into the stream beside the routed experts.
    """
    path = mlp_path(block, layout)
    experts = None if path is None else Experts.of(submodule(block, path))
    if path is None or experts is None:
        return None
    above, after = mixture_path(path, experts), after_experts(block, layout)
    width = experts.outputs if after is None else projection_width(after).outputs
    beside = {
        name: submodule(block, name)
        for name in writers(block, width)
        if not names_mixer(name) and name.split(".")[0] not in _AROUND
    }
    if after is not None:
        beside = {name: module for name, module in beside.items() if name.rpartition(".")[2] not in _LATENT}
    named = [one for one in every_path(layout.mlp_out) if one in beside and ("shared" in one or not above)]
    apart = next((one for one in named if not above or not one.startswith(f"{above}.")), None)
    if apart is not None:
        mlp = apart.rpartition(".")[0]
        beside = {name: module for name, module in beside.items() if not name.startswith(f"{mlp}.")}
    strangers = [name for name in beside if not name.startswith(f"{above}." if above else "rout")]
    if strangers:
        raise DposcopeError(f"experts of a block stand beside {strangers[0]}, which is not supported")
    inside = {name.removeprefix(f"{above}."): module for name, module in beside.items()}
    # A router may choose among as many experts as the stream is wide.
    inside = {name: module for name, module in inside.items() if "shared" in name or "rout" not in name}
    within = Shared.beside(submodule(block, above), inside)
    if apart is None:
        return within
    if within is not None:
        raise DposcopeError("a block has shared experts in two places, which is not supported")
    norm = dict(block.named_children()).get(_AFTER_DENSE) if not above else None
    return Shared(submodule(block, apart.rpartition(".")[0]), submodule(block, apart), None, apart=True, norm=norm)


_AFTER_DENSE: Final = "post_feedforward_layernorm_1"
"""Of what the dense MLP writes, before what the experts beside it write is added (Gemma 4)."""


_LATENT: Final = ("fc1_latent_proj", "fc2_latent_proj")
"""Projections into a narrower space, in which experts read and write, and out of it again (Nemotron 3 Super)."""


def after_experts(block: nn.Module, layout: Layout) -> nn.Module | None:
    """The projection of what a block's routed experts write together into the stream; None where they write it
    themselves, or there are none."""
    path = mlp_path(block, layout)
    experts = None if path is None else Experts.of(submodule(block, path))
    if path is None or experts is None:
        return None
    found = dict(submodule(block, mixture_path(path, experts)).named_children()).get(_LATENT[1])
    if found is None or not is_projection(found) or projection_width(found).inputs != experts.outputs:
        return None
    return found


def mixture_path(path: str, experts: Experts) -> str:
    """Where a block has the module of its routed experts and their router; empty for the block itself.

    Args:
        path: of the experts.
        experts: what is there.
    """
    return path if experts.whole else path.rpartition(".")[0]


def submodule(parent: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, or an error that says how to register a layout."""
    try:
        return parent.get_submodule(path)
    except AttributeError as error:
        raise DposcopeError(
            f"{type(parent).__name__} has no module {path!r}; for another architecture {HOW_TO_REGISTER}"
        ) from error


def recognise(model: PreTrainedModel) -> Layout:
    """Find the layout by shapes: L blocks of equal type, and in the MLP one projection that writes d numbers."""
    text_config = model.config.get_text_config()
    width: int | None = text_config.hidden_size
    model_type = model.config.model_type
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == text_config.num_hidden_layers
    ]
    if len(lists) != 1 or width is None:
        raise DposcopeError(f"no layout for model_type {model_type!r}; {HOW_TO_REGISTER}")
    blocks_path, blocks = lists[0]
    written = [writers(block, width) for block in blocks]
    attention = [
        # Moshi has the projection within a module of its name.
        [one for one in names if names_mixer(one) and one.removesuffix(".linear").split(".")[-1] in _ATTENTION_OUT]
        for names in written
    ]
    mlp = [name for name in written[0] if not names_mixer(name)]
    stem = blocks_path.rsplit(".", 1)[0] if "." in blocks_path else ""
    parent = model.get_submodule(stem) if stem else model
    norms = [name for name, module in parent.named_children() if "norm" in type(module).__name__.lower()]
    # The experts of a mixture come first, and other neurons beside them are looked for later.
    experts = [[name for name, module in block.named_modules() if Experts.of(module) is not None] for block in blocks]
    if any(experts):
        dense = [[name for name in names if not names_mixer(name)] for names in written]
        every = [routed or rest for routed, rest in zip(experts, dense, strict=True)]
        mlp = [] if any(len(names) != 1 for names in every) else list(dict.fromkeys(names[0] for names in every))
    if any(len(names) != 1 for names in attention) or not mlp or (len(mlp) > 1 and not any(experts)) or len(norms) != 1:
        raise DposcopeError(f"no layout for model_type {model_type!r}; {HOW_TO_REGISTER}")
    paths = tuple(dict.fromkeys(names[0] for names in attention))
    return Layout(blocks_path, _one(mlp), _one(paths), f"{stem}.{norms[0]}" if stem else norms[0])


def _one(paths: Sequence[str]) -> str | tuple[str, ...]:
    return paths[0] if len(paths) == 1 else tuple(paths)


OF_GROUPS: Final = "o_b_proj"
"""The attention's output projection where another one before it mixes heads in groups (DeepSeek V4)."""
# Query, key and value projections may also be d × d, so the output projection is found by its name.
_ATTENTION_OUT = {"o_proj", OF_GROUPS, "out_proj", "c_proj", "dense", "wo", "proj", "out_projection", "linear_out"}


_IN_PLACE_OF_ATTENTION: Final = {"mamba", "conv", "temporal_block"}
"""Modules of a block that has a state space, a convolution or a recurrence where others have attention."""


_AROUND: Final = {"ple", "mlp_hyper_connection", "per_layer_projection"}
"""Modules of a block that embed tokens again (Qwen 4, Gemma 4), or weigh residual streams."""


def names_mixer(name: str) -> bool:
    """Whether a projection is one of self-attention, or of what a block has in its place, by its name."""
    parts = name.lower().split(".")
    named = any("attn" in part or "attention" in part or part in _IN_PLACE_OF_ATTENTION for part in parts)
    return named and not any("cross" in part for part in parts)


def names_attention(name: str) -> bool:
    """Whether a projection is one of self-attention that is not linear, which a mask keeps from padding."""
    parts = name.lower().split(".")
    return names_mixer(name) and not any("linear" in part or part in _IN_PLACE_OF_ATTENTION for part in parts)


def has_linear_attention(model: PreTrainedModel) -> bool:
    """Whether some blocks have linear attention or a state space, by the config: names of modules may not tell."""
    kinds: list[str] = getattr(model.config.get_text_config(), "layer_types", None) or []
    return any("linear" in kind for kind in kinds)


def counts_places(model: PreTrainedModel) -> bool:
    """Whether attention picks or pools spans of places, counted from the start of a row with its padding (MiniMax-M3,
    DeepSeek V4)."""
    config = model.config.get_text_config()
    return "compress_rates" in config.to_dict() or "minimax_m3_sparse" in (getattr(config, "layer_types", None) or ())


def is_read_alone(name: str) -> bool:
    """Whether a projection, by its name, is one of a state space whose weight is read without the module, so that an
    adapter of the module has no effect."""
    return name.endswith(("mamba.out_proj", "mamba.dt_proj", "mixer.out_proj"))


def writers(block: nn.Module, width: int) -> list[str]:
    """Names of a block's projections that write `width` numbers, but for those of a norm, which write no stream."""
    return [name for name, module in _projections(block) if projection_width(module).outputs == width]


def _projections(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in block.named_modules():
        if is_projection(module) and "layernorm" not in name:
            yield name, module


def context_length(model: PreTrainedModel) -> int:
    """Most positions, from the config; a very large number for a model without a limit."""
    config = model.config.get_text_config().to_dict()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((int(config[name]) for name in names if config.get(name)), 1 << 30)


def attention_kind(model: PreTrainedModel) -> str:
    """How attention is computed: sdpa, eager, flash_attention_2 …"""
    return str(model.config.get_text_config()._attn_implementation)  # pyright: ignore[reportPrivateUsage]


def logit_softcap(model: PreTrainedModel) -> float | None:
    """The final soft-cap c of Gemma 2 and RecurrentGemma (logits become `c·tanh(logits/c)`), or None."""
    given = _registered(model)
    if given is not None and given.logit_softcap is not None:
        return given.logit_softcap
    told = model.config.get_text_config().to_dict()
    return next((told[name] for name in ("final_logit_softcapping", "logits_soft_cap") if name in told), None)


def logit_scale(model: PreTrainedModel) -> float:
    """The factor on all logits before a soft-cap: `logit_scale` of Cohere, 1 / `logits_scaling` of Granite
    and MiniCPM3, `lm_head_multiplier` of Falcon-H1, else 1."""
    given = _registered(model)
    if given is not None and given.logit_scale is not None:
        return given.logit_scale
    config = model.config.get_text_config()
    # MiniCPM3 computes its own, which is no field of the config.
    scale, multiplier, divisor = (
        float(getattr(config, name, None) or 1) for name in ("logit_scale", "lm_head_multiplier", "logits_scaling")
    )
    return scale * multiplier / divisor


def final_norm(model: PreTrainedModel, layout: Layout) -> nn.Module | None:
    """The norm between the last block and the unembedding; None where there is none."""
    return None if layout.final_norm is None else submodule(model, layout.final_norm)


def transform(model: PreTrainedModel) -> nn.Module | None:
    """What stands between the final norm and the unembedding; None in most models."""
    given = _registered(model)
    return None if given is None or given.transform is None else submodule(model, given.transform)


def transformed(model: PreTrainedModel, normed: Tensor) -> Tensor:
    """What the unembedding reads, `[…, d]`: final-norm outputs, which a few models change before it."""
    module = transform(model)
    return normed if module is None else module(normed.to(device_of_module(module) or normed.device))


def unembedding(model: PreTrainedModel) -> nn.Module:
    """The module that turns what `transformed` gives into logits, before scale and soft-cap.

    Raises:
        DposcopeError: the model has none.
    """
    given = _registered(model)
    if given is not None and given.unembedding is not None:
        return submodule(model, given.unembedding)
    head: nn.Module | None = model.get_output_embeddings()
    if head is None:
        raise DposcopeError(f"{type(model).__name__} has no unembedding; load it as a causal language model")
    return head


def _registered(model: PreTrainedModel) -> Layout | None:
    return _LAYOUTS.get(model.config.model_type)


def unembed(model: PreTrainedModel, normed: Tensor) -> Tensor:
    """Logits of final-norm outputs `[…, d]` → `[…, vocabulary]`, in the model's dtype, with its scale and soft-cap; on
    the device of the unembedding."""
    head, read = unembedding(model), transformed(model, normed)
    logits: Tensor = head(read.to(device_of_module(head) or read.device))
    return scaled_and_capped(logits, logit_scale(model), logit_softcap(model))


def scaled_and_capped(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    """Logits with a factor and then a soft-cap, `cap·tanh(scale·logits / cap)`, in their dtype."""
    logits = logits if scale == 1 else logits * scale
    return logits if cap is None else torch.tanh(logits / cap) * cap
