"""Which model types work, step by step: docs/reference/families.md.

    python tools/families.py              tries every causal type of transformers, and writes the page; some minutes
    python tools/families.py llama bloom  tries these, and prints their rows

Of each type a tiny random model is built from its config. Every step is compared with the plain model, run by
transformers alone. Each type has a process of its own, which ends after some seconds.
"""

import contextlib
import copy
import inspect
import io
import multiprocessing
import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dposcope.errors import DposcopeError, first_line
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.jobs.explain.explanation import explain
from dposcope.model.checks.unfit import UNFIT
from dposcope.model.generate import generate
from dposcope.model.hooks import hooked, mlp_sites, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.neurons.activations import collect_means
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.objective import Objective
from dposcope.training.trainable import neuron_gains

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "families.md"
STEPS: Final = ("load", "means", "edit", "fold", "dpo", "explain")
SECONDS: Final = 20
"""Of one core, for one type."""
PATIENCE: Final = 300
"""Seconds of waiting for one type, on a machine that does other things too."""
MOST_WEIGHTS: Final = 20_000_000
VOCABULARY: Final = 96
TEXTS: Final = ["w5 w7 w11 w12 w30 w31", "w40", "w8 w9 w60 w61", "w33 w34 w35 w36 w37 w38 w39 w41 w42"]
NEW: Final = 4
EXPERTS: Final = 4
NEAR: Final = 2e-4
"""Of the largest value: linear attention adds up in another order with a cache."""

_SMALL: Final[dict[str, Any]] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "dff"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), EXPERTS),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 12),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "linear_key_head_dim", "linear_value_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("state_size", "mamba_d_state", "mamba_d_head", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "laurel_rank", "rotary_dim", "patch_size"), 4),
    **dict.fromkeys(("num_experts_per_tok", "max_window_layers", "num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "n_group", "topk_group", "num_channels"), 1),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **{"head_dim": 8, "linear_num_value_heads": 4, "mamba_n_heads": 4, "sliding_window": 5, "image_size": 16},
    **{"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3, "num_kv_shared_layers": 0, "layer_types": None},
}
"""Sizes of a tiny model, by the names that configs give them."""
_WHOLE: Final = {"num_key_value_heads": 4}
_VARIANTS: Final[tuple[dict[str, Any], ...]] = (
    *({}, _WHOLE, {"head_dim": 4}, {**_WHOLE, "head_dim": ...}, {"head_dim": ...}, {"layer_types": ...}),
    *({**_WHOLE, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}, {"layer_types": ..., "num_hidden_layers": ...}),
)
"""What is tried in turn where sizes do not fit together; `...` leaves a name at its default."""
_RECURRENT: Final = ["linear_attention", "full_attention", "linear_attention", "linear_attention"]
_CONVOLUTIONS: Final = ["conv", "full_attention", "conv", "conv"]
_QWEN4: Final[dict[str, Any]] = {
    **{"layer_types": ["linear_attention", "full_attention"] * 2, "hc_count": 3, "hc_lowrank": 6},
    **{"ple_layer_ids": [1, 3], "heads_per_ngram": 2, "ngram_vocab_size_base": 40, "split_ngram_parts": 2},
    # With few heads many scores of keys are 0, and which of those are taken would be by chance.
    **{"make_ngram_vocab_size_divisible_by": 4, "indexer_n_heads": 16, "indexer_kv_heads": 1},
    **{"indexer_head_dim": 8, "indexer_budget": 4, "indexer_compress_ratio": 2},
}
_OF_TYPE: Final[dict[str, dict[str, Any]]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "bailing_hybrid": {"layer_types": _RECURRENT},
    "beam": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "deepseek_v4": {
        "layer_types": [
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
        ],
        **{"compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 3}, "hc_mult": 3},
        **{"mlp_layer_types": ["hash_moe", "moe", "moe", "moe"], "o_groups": 2, "o_lora_rank": 6},
        **{"index_n_heads": 16, "index_head_dim": 8, "index_topk": 2},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 12, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 2, "first_k_dense_replace": 1},
    "dots3_note_text": {
        "layer_types": ["indexed_attention", "indexed_attention", "sliding_attention", "indexed_attention"],
        # With fewer heads many scores of keys are 0, and which of those are taken would be by chance.
        **{"index_topk": 4, "index_n_heads": 16, "index_head_dim": 8, "shared_experts_intermediate_size": 20},
        "per_layer_config": {
            2: {
                **{"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8},
                **{"head_dim": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8},
            }
        },
    },
    "dots3_note_vision_encoder": {
        **{"num_hidden_layers": 3, "mlp_layer_types": ["dense"] * 3, "per_layer_config": {}},
        **{"adapter_in_dim": 16, "adapter_out_dim": 16},
    },
    "dots3_note_audio_encoder": {"num_hidden_layers": 3, "adapter_input_size": 16, "adapter_out_dim": 16},
    "falcon_h1": {"mamba_d_ssm": 32},
    "granitemoe_swa": {"shared_intermediate_size": 20},
    "granitemoehybrid": {"layer_types": _RECURRENT, "shared_intermediate_size": 20},
    "granitemoeshared": {"shared_intermediate_size": 20},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 1, "mamba_dt_rank": 3},
    "kimi_linear": {"layer_types": _RECURRENT, "linear_head_dim": 8, "linear_num_heads": 4},
    "laguna": {"moe_routed_scaling_factor": 1.7},
    "lfm2_moe": {"layer_types": _CONVOLUTIONS},
    "longcat_flash": {
        **{"num_layers": 4, "ffn_hidden_size": 24, "expert_ffn_hidden_size": 12, "zero_expert_num": 2, "moe_topk": 2},
    },
    "minimax_m3_vl_text": {
        **{"layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse", "full_attention"]},
        **{"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "dense_intermediate_size": 24},
        **{"shared_intermediate_size": 20, "rotary_dim": 4, "index_head_dim": 8, "index_n_heads": 2},
        **{"index_block_size": 4, "index_topk_blocks": 2, "index_local_blocks": 1},
    },
    "nemotron_h": {
        "layer_types": ["linear_attention", "moe", "full_attention", "mlp"],
        **{"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "moe_shared_expert_intermediate_size": 20},
    },
    "lfm3": {"layer_types": _CONVOLUTIONS},
    "minimax": {"layer_types": _RECURRENT},
    "moshi": {"sliding_window": 128},  # as long as its context; its mask knows of no window
    "qwen4_exp": _QWEN4,
    "qwen4_exp_text": _QWEN4,
    "zaya": {"num_experts_per_tok": 1},
}
"""Sizes of single types, so that a model has blocks of every kind that its type has."""
_MISCOUNTED: Final = ("minimax",)
"""Types whose own cache, where their first block has linear attention, counts no token, so positions are wrong."""


# A model and a tokenizer, from nothing


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and one that begins every text."""
    words = {word: place for place, word in enumerate(["<unk>", "<eos>", "<bos>", "<pad>"])}
    words |= {f"w{place}": place for place in range(len(words), VOCABULARY)}
    own = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    special = {"unk_token": "<unk>", "eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=own, clean_up_tokenization_spaces=False, **special)


def tiny(model_type: str) -> PreTrainedModel:
    """A random model of a type, in evaluation mode.

    Raises:
        ValueError: none so small can be built, or it computes nothing.
    """
    faults: list[str] = []
    for variant in _VARIANTS:
        try:
            config = _shrunk(CONFIG_MAPPING[model_type], {**_SMALL, **variant, **_OF_TYPE.get(model_type, {})})
            with torch.device("meta"):
                weights = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
            if weights > MOST_WEIGHTS:
                faults.append(f"{weights / 1e6:,.0f} million weights at the least")
                continue
            model = AutoModelForCausalLM.from_config(config).eval()
            _randomise(model)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[2, 5, 7]]), use_cache=False).logits
            if logits.isfinite().all():
                return model
            faults.append("random weights give no numbers")
        except Exception as error:  # each type fails in its own way
            faults.append(_one_line(error))
    raise ValueError(faults[0])


def _shrunk(kind: type[PreTrainedConfig], small: dict[str, Any]) -> PreTrainedConfig:
    usual = kind()
    parts = {name: vars(usual).get(name) for name in kind.sub_configs}
    known = set(inspect.signature(kind.__init__).parameters) | set(usual.to_dict())
    given = {name: value for name, value in small.items() if name in known and value is not ...}
    if "kv_lora_rank" in known:  # latent attention has as many heads of keys as of queries
        given |= {name: small["num_attention_heads"] for name in ("num_key_value_heads",) if name in given}
    for name, part in parts.items():
        if isinstance(part, PreTrainedConfig) and name not in given:  # the decoder is told by its number of blocks
            own = small if "text" in name or "decoder" in name else {**small, "num_hidden_layers": 3}
            given[name] = _shrunk(type(part), own | _OF_TYPE.get(part.model_type, {}))
    return kind(**given)


@torch.no_grad()
def _randomise(model: PreTrainedModel) -> None:
    stream = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=stream)
        if name.endswith("bias"):
            parameter.copy_(0.2 * noise)
        elif parameter.ndim < 2:
            parameter.copy_(1 + 0.2 * noise)
        else:
            parameter.copy_(2 * noise / max(parameter[0].numel(), 1) ** 0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):  # of DeepSeek V4: the experts of each token
            for row in buffer:
                row.copy_(torch.randperm(EXPERTS, generator=stream)[: len(row)])


# What is tried


@dataclass(frozen=True)
class Row:
    """What became of one type."""

    model_type: str
    passed: tuple[str, ...]
    """Steps that give what the plain model gives."""
    why: str = ""
    """Why the next step does not; empty where all do."""

    def line(self) -> str:
        """Of the table."""
        marks = ["yes" if step in self.passed else "–" for step in STEPS]
        return f"| `{self.model_type}` | {' | '.join(marks)} | {self.why} |"


@dataclass
class _Tried:
    """A tiny model, and what earlier steps left."""

    model: PreTrainedModel
    lm: LanguageModel | None = None

    @property
    def loaded(self) -> LanguageModel:
        assert self.lm is not None
        return self.lm


def examine(model_type: str) -> Row:
    """Try all steps on a type, in this process."""
    if model_type in UNFIT:
        return Row(model_type, (), UNFIT[model_type])
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tried = _Tried(tiny(model_type))
            passed: list[str] = []
            for name, step in _TRIES.items():
                try:
                    step(tried)
                except Exception as error:  # what it is, is what the table tells
                    return Row(model_type, tuple(passed), _reason(tried.model, error))
                passed.append(name)
            return Row(model_type, tuple(passed))
    except ValueError as error:
        return Row(model_type, (), f"not tried: no tiny model can be built ({error})")


def _load(tried: _Tried) -> None:
    tried.lm = lm = load(tried.model, tokenizer())
    hidden = tried.model.base_model(input_ids=_ids(lm), use_cache=False).last_hidden_state
    _same(lm.unembed(hidden), _logits(lm), "logits")


def _means(tried: _Tried) -> None:
    """Greedy texts are those of transformers, and means those of plain passes over them."""
    lm, settings = tried.loaded, tried.model.generation_config
    settings.eos_token_id = None  # random texts go on
    written = generate(lm, TEXTS, new_tokens=NEW, stop_at_end=False)
    rows: list[_Activations] = []
    for one in written:
        ids = torch.tensor([one.prompt_ids])
        cached = tried.model.config.model_type not in _MISCOUNTED
        options = {"max_new_tokens": NEW, "do_sample": False, "use_cache": cached}
        plain = tried.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        _check(plain[0].tolist() == [*one.prompt_ids, *one.ids], "other greedy texts than transformers writes")
        rows.append(_activations(lm, plain[:, :-1]).last(NEW))
    settings.eos_token_id = []  # nor does the tokenizer's end them
    found = collect_means(lm, TEXTS, new_tokens=NEW)
    _same(found.mean, _Activations.joined(rows).mean, "means")
    _same(found.written, _Activations.joined(rows).written, "means with the router's weights")


def _edit(tried: _Tried) -> None:
    """Hooks that change nothing change no bit; those that do act the same with a batch, alone, and without a cache."""
    lm, plain = tried.loaded, _logits(tried.loaded)
    sites = [site for block in range(lm.n_blocks) for site in (*neuron_sites(lm, block), *mlp_sites(lm, block))]
    with hooked(lm, [(site, lambda tensor, _frame: tensor.clone()) for site in sites]):
        _check(torch.equal(_logits(lm), plain), "hooks change its numbers")
    with _some_edit(lm).on(lm):
        _check(not torch.allclose(_logits(lm), plain, atol=1e-3), "an edit has no effect")
        together = generate(lm, TEXTS, new_tokens=NEW)
        for options in ({"batch_size": 1}, {"use_cache": False}):
            _check(generate(lm, TEXTS, new_tokens=NEW, **options) == together, f"other texts with {options}")


def _fold(tried: _Tried) -> None:
    lm = tried.loaded
    edit = _some_edit(lm)
    folded = fold(lm, edit)
    logits, texts = _logits(folded), generate(folded, TEXTS, new_tokens=NEW)
    with edit.on(lm):
        _same(logits, _logits(lm), "folded logits")
        _check(generate(lm, TEXTS, new_tokens=NEW) == texts, "other texts once it is folded")


def _dpo(tried: _Tried) -> None:
    """The loss of gains is that of whole logits, text by text; and they have a gradient."""
    lm, gains = tried.loaded, _some_gains(tried.loaded)
    pairs = [Example((2, 5, 7), ((9, 11), (30, 31, 32))), Example((2, 40), ((41,), (12, 13)))]

    def likelihood(prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
        told = lm.model(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0].log_softmax(-1)
        return sum((told[len(prompt) - 1 + place, one] for place, one in enumerate(completion)), torch.zeros(()))

    def margins() -> list[torch.Tensor]:
        with torch.no_grad():
            return [
                likelihood(pair.prompt, pair.completions[0]) - likelihood(pair.prompt, pair.completions[1])
                for pair in pairs
            ]

    before = margins()
    with gains.on(lm):
        after = margins()
    losses = [nn.functional.softplus(-0.1 * (b - a)) for a, b in zip(before, after, strict=True)]
    with neuron_gains(lm, Objective(0.1), start=gains) as trainable:
        batch = pack(pairs, pad_id=lm.pad_id, shared=fits_one_row(lm.model, pairs))
        loss = trainable.policy(batch).loss
        _same(loss.detach(), torch.stack(losses).mean(), "the preference loss")
        (factors,) = trainable.policy.trainable.values()
        (gradient,) = torch.autograd.grad(loss, factors)
        _check(bool(gradient.isfinite().all() and gradient.abs().max() > 0), "gains have no gradient")


def _explain(tried: _Tried) -> None:
    """Contributions are those of its definition."""
    base = tried.loaded
    tuned = replace(base, model=copy.deepcopy(base.model))
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.mul_(1 + 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    direction = torch.randn(base.d_model, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    told = explain(base, tuned, direction, TEXTS, new_tokens=NEW, toxic_sets=[8])
    total = torch.zeros(base.n_blocks, base.d_mlp, dtype=torch.float64)
    for lm, sign in ((base, 1), (tuned, -1)):
        means = collect_means(lm, TEXTS, new_tokens=NEW).written
        for block in range(lm.n_blocks):
            along = lm.value_vectors(block).detach().double() @ direction / direction.norm()
            total[block] += sign * means[block] * along
    _same(told.contributions.total, total, "contributions")


_TRIES: Final[dict[str, Callable[[_Tried], None]]] = dict(
    zip(STEPS, (_load, _means, _edit, _fold, _dpo, _explain), strict=True)
)


class _OtherError(Exception):
    """A step gives something else than the plain model."""


def _check(holds: bool, fault: str) -> None:
    if not holds:
        raise _OtherError(fault)


def _same(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    apart = (found.double() - expected.double()).abs().max().item()
    _check(apart <= NEAR * max(1.0, expected.abs().max().item()), f"{what} are off by {apart:.1e}")


def _ids(lm: LanguageModel) -> torch.Tensor:
    return torch.tensor([lm.tokenizer(TEXTS[3])["input_ids"]])


@torch.no_grad()
def _logits(lm: LanguageModel) -> torch.Tensor:
    return lm.model(input_ids=_ids(lm), use_cache=False).logits[0]


@dataclass(frozen=True)
class _Activations:
    """Of all neurons in plain passes, `[L, T, d_mlp]`, float64."""

    values: torch.Tensor
    weights: torch.Tensor
    """Of the router; 0 where a token was not sent to the neuron's expert, 1 where there are no experts."""

    def last(self, tokens: int) -> "_Activations":
        return _Activations(self.values[:, -tokens:], self.weights[:, -tokens:])

    @classmethod
    def joined(cls, parts: Sequence["_Activations"]) -> "_Activations":
        return cls(torch.cat([one.values for one in parts], 1), torch.cat([one.weights for one in parts], 1))

    @property
    def mean(self) -> torch.Tensor:
        """Over the tokens that were sent to a neuron's expert, `[L, d_mlp]`; 0 without any."""
        sent = self.weights != 0
        return (self.values * sent).sum(1) / sent.sum(1).clamp(min=1)

    @property
    def written(self) -> torch.Tensor:
        """With the router's weights, over all tokens, `[L, d_mlp]`."""
        return (self.values * self.weights).mean(1)


@torch.no_grad()
def _activations(lm: LanguageModel, ids: torch.Tensor) -> _Activations:
    """What the MLP output projections read in a plain pass; of a mixture, what the experts make of their tokens."""
    read: dict[nn.Module, tuple[Any, ...]] = {}
    wrote: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        read[module] = args
        # A copy: Llama 4 adds to what its shared expert wrote.
        own = output if isinstance(output, torch.Tensor) else output[0]
        wrote[module] = own.reshape(-1, own.shape[-1]).clone()

    parts = [[part.projection for part in of_block] for of_block in lm.columns.parts]
    # Where experts write into a narrower space, the projection behind them writes into the stream.
    routed = [of_block[0].after or of_block[0].projection if of_block else None for of_block in lm.columns.parts]
    wholes = [[site.module for site in mlp_sites(lm, block)] for block in range(lm.n_blocks)]
    looked_at = {*chain(*parts), *chain(*wholes), *(one for one in routed if one is not None)}
    handles = [one.register_forward_hook(keep) for one in looked_at]
    lm.model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    rows: list[tuple[torch.Tensor, torch.Tensor]] = []
    for here, first, whole in zip(parts, routed, wholes, strict=True):
        if first is None:  # a block without an MLP
            values, weights = torch.zeros(2, ids.numel(), lm.d_mlp, dtype=torch.float64)
            rows.append((values, weights))
            continue
        written = sum((wrote[one] for one in whole[1:]), wrote[whole[0]])
        values, weights = torch.zeros(2, len(written), lm.d_mlp, dtype=torch.float64)
        start = 0
        for part, one in enumerate(here):
            if hasattr(one, "down_proj") or type(one).__name__ in _OWN_EXPERTS:
                own, by = _of_experts(one, *read[one])
            else:
                own = read[one][0].reshape(len(values), -1)
                # What shared experts add to the routed ones, as a share of what their projection writes.
                before = _factor(here[0]) * wrote[first].reshape(-1, len(values), lm.d_model).sum(0)
                added = written - before if part else wrote[one]
                by = ((added * wrote[one]).sum(1, keepdim=True) / wrote[one].square().sum(1, keepdim=True)).expand_as(
                    own
                )
            columns = slice(start, start + own.shape[1])
            values[:, columns], weights[:, columns], start = own, by, columns.stop
        rows.append((values, weights))
    return _Activations(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _of_experts(experts: Any, *read: torch.Tensor) -> list[torch.Tensor]:
    """Activations and weights, each `[T, E · I]`: token by token, expert by expert, from the module's own weights."""
    if type(experts).__name__ in _OWN_EXPERTS:
        return _OWN_EXPERTS[type(experts).__name__](experts, *read)
    states, chosen, weights = read
    count, width = len(experts.down_proj), experts.down_proj.shape[1 if experts.is_transposed else 2]
    values, sent = torch.zeros(len(states), count, width), torch.zeros(len(states), count, width)
    for token, state in enumerate(states):
        for expert, weight in zip(chosen[token].tolist(), weights[token], strict=True):
            up = experts.gate_up_proj[expert] if experts.has_gate else experts.up_proj[expert]
            both = state @ up if experts.is_transposed else up @ state
            if experts.has_bias:
                both = both + experts.gate_up_proj_bias[expert]
            values[token, expert] = experts._apply_gate(both[None])[0] if experts.has_gate else experts.act_fn(both)
            sent[token, expert] = weight * _factor(experts)
    return [values.flatten(1), sent.flatten(1)]


def _factor(experts: Any) -> float:
    """What multiplies the experts' sum."""
    named = {
        **dict.fromkeys(("BeamExperts", "MiniMaxM3VLExperts"), "routed_scaling_factor"),
        "LagunaExperts": "moe_routed_scaling_factor",
    }.get(type(experts).__name__)
    return 1.0 if named is None else getattr(experts.config, named)


def _of_scaled_tokens(experts: Any, hidden: torch.Tensor) -> list[torch.Tensor]:
    """Of Llama 4: they read all tokens, times the router's weights."""
    read = hidden.reshape(len(experts.down_proj), -1, experts.hidden_size)
    count, tokens, _ = read.shape
    values, sent = torch.zeros(tokens, count, experts.expert_dim), torch.zeros(tokens, count, experts.expert_dim)
    for expert in range(count):
        for token, state in enumerate(read[expert]):
            gate, up = (state @ experts.gate_up_proj[expert]).chunk(2)
            values[token, expert] = nn.functional.silu(gate) * up
            sent[token, expert] = float(state.abs().sum() > 0)
    return [values.flatten(1), sent.flatten(1)]


def _of_dbrx(experts: Any, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """Rows of an expert follow those of the expert before."""
    width, count = experts.ffn_hidden_size, experts.num_experts
    values, sent = torch.zeros(2, len(chosen), count, width)
    for token, state in enumerate(hidden.reshape(len(chosen), -1)):
        for expert, weight in zip(chosen[token].tolist(), weights[token], strict=True):
            for place in range(width):
                row = expert * width + place
                gate, up = experts.mlp.w1[row] @ state, experts.mlp.v1[row] @ state
                values[token, expert, place] = nn.functional.silu(gate) * up
            sent[token, expert] = weight
    return [values.flatten(1), sent.flatten(1)]


def _of_jetmoe(mixture: Any, hidden: torch.Tensor) -> list[torch.Tensor]:
    """The module has the router, too."""
    states = hidden.reshape(-1, hidden.shape[-1])
    count, _, width = mixture.output_linear.weight.shape
    values, sent = torch.zeros(2, len(states), count, width)
    for token, state in enumerate(states):
        best, chosen = (mixture.router.layer.weight @ state).topk(mixture.router.top_k)
        for expert, weight in zip(chosen.tolist(), best.softmax(0), strict=True):
            gate, up = (mixture.input_linear.weight[expert] @ state).chunk(2)
            values[token, expert], sent[token, expert] = nn.functional.silu(gate) * up, weight
    return [values.flatten(1), sent.flatten(1)]


_OWN_EXPERTS: Final[dict[str, Callable[..., list[torch.Tensor]]]] = {
    "Llama4TextExperts": _of_scaled_tokens,
    "DbrxExperts": _of_dbrx,
    "JetMoeMoE": _of_jetmoe,
}
"""Modules that compute experts in a way of their own."""


def _some_gains(lm: LanguageModel) -> Gains:
    return Gains(1 + 0.5 * torch.randn(lm.n_blocks, lm.d_mlp, generator=torch.Generator().manual_seed(3)))


def _some_edit(lm: LanguageModel) -> Edit:
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(4))
    return Edit.of(_some_gains(lm), ablate(direction, weight=0.7))


# Why a type is refused, in a few words


def _reason(model: PreTrainedModel, error: Exception) -> str:
    told = _one_line(error)
    if not isinstance(error, DposcopeError):
        return f"{told if isinstance(error, _OtherError) else f'fails ({told})'}"
    if "token by token" in told:
        return "keeps a cache of its own kind"
    if "residual streams" in told:
        return "passes on several residual streams"
    names = [name for name, _ in model.named_modules()]
    if any("encoder_attn" in name or "encoder_attention" in name or "cross_attn" in name for name in names):
        return "reads the output of an encoder or of images"
    if any("expert" in name or name.endswith(".router") for name in names):
        return "a mixture of experts of a kind that is not supported"
    if any(name.endswith(("attention.self", "attention.output.dense")) for name in names):
        return "an encoder, whose head has several layers"
    if not any(part in name for name in names for part in ("mlp", "feed_forward", "attn", "attention")):
        return "blocks without an MLP"
    if not any("attn" in name or "attention" in name for name in names):
        return "recurrent blocks in place of attention: needs a layout"
    if "no layout" in told or "has no module" in told:
        return "its blocks differ in kind, or their MLP is not one projection: needs a layout"
    return told


def _one_line(error: BaseException) -> str:
    text = " ".join(first_line(error).split("; ")[0].split()).replace("|", "/")
    text = text.rpartition("ValueError: ")[2].partition(", so the lens")[0]
    return text if len(text) <= 110 else f"{text[:109]}…"


# All types


def rows_of(model_types: Sequence[str]) -> Iterator[Row]:
    """The rows of these types, each tried in a process of its own."""
    context = multiprocessing.get_context("fork")
    for model_type in model_types:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(model_type, there))
        process.start()
        there.close()
        try:
            yield here.recv() if here.poll(PATIENCE) else _too_long(model_type)
        except EOFError:  # the system ended it
            yield _too_long(model_type)
        process.kill()
        process.join()


def _too_long(model_type: str) -> Row:
    return Row(model_type, (), f"not tried: takes more than {SECONDS} s")


def _answer(model_type: str, there: Any) -> None:
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    there.send(examine(model_type))


@cache
def every_type() -> tuple[str, ...]:
    """Causal types of the installed transformers, by name."""
    return tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def page(rows: Sequence[Row]) -> str:
    """The page."""
    whole = sum(len(row.passed) == len(STEPS) for row in rows)
    return "\n".join(
        [
            "# Model families",
            "",
            f"Every type of causal language model in transformers {transformers.__version__}, tried by "
            "`python tools/families.py` on a tiny random model.",
            f"Of {len(rows)} types, {whole} work in every step.",
            "",
            "| step | what is compared with the plain model, run by transformers alone |",
            "| --- | --- |",
            "| load | logits from the final norm's output |",
            "| means | greedy texts, and mean activations of neurons in plain passes over them; of an expert, over the "
            "tokens that it gets, and with the router's weights |",
            "| edit | hooks that change nothing change no bit; a batch, single texts and no cache write the same |",
            "| fold | logits and greedy texts of the folded model are those of the hooks |",
            "| dpo | the preference loss of gains, and that they have a gradient |",
            "| explain | contributions, by their definition |",
            "",
            "A type with – in a step is refused there in one line, or was not tried: the last column says why. Some of",
            "those can be read with a [layout of your own](../how-to/own-model.md).",
            "",
            f"| type | {' | '.join(STEPS)} | why not |",
            f"| --- |{' --- |' * (len(STEPS) + 1)}",
            *(row.line() for row in rows),
            "",
        ]
    )


def main() -> None:
    """Write the page, or print some rows."""
    chosen = sys.argv[1:]
    rows: list[Row] = []
    for row in rows_of(chosen or every_type()):
        print(row.line(), flush=True)
        rows.append(row)
    if not chosen:
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
