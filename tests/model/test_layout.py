"""Where architectures keep their parts: the table, the look at structure, and what is registered."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from dposcope.directions.lens import lens
from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.checks.layout import find_layout
from dposcope.model.generate import generate
from dposcope.model.head.logits import logit_softcap
from dposcope.model.hooks import heads_site
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout import table
from dposcope.model.layout.blocks import submodule
from dposcope.model.layout.projections import ProjectionWidth, projection_width, value_vectors
from dposcope.model.layout.table import Layout, register_layout
from dposcope.model.mixtures.experts import ExpertSizes
from dposcope.model.tuned import check_models
from dposcope.neurons.activations import collect_means
from helpers.families import (
    FAMILIES,
    TEXTS,
    assert_close,
    bos_tokenizer,
    copied,
    logits_of,
    random_direction,
    random_gains,
    randomise,
)
from helpers.more_families import MORE
from helpers.naive import naive_means

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]

_COMMON = {
    "vocab_size": 96,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 3,
}
_GATED = {**_COMMON, "intermediate_size": 24, "num_key_value_heads": 2}

# None of them is in the table: dposcope must recognise them, or say that it cannot.
RECOGNISED = {
    "opt": lambda: transformers.OPTConfig(**_COMMON, ffn_dim=24, word_embed_proj_dim=16),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_COMMON, intermediate_size=24),
    "phi": lambda: transformers.PhiConfig(**_COMMON, intermediate_size=24),
    "falcon": lambda: transformers.FalconConfig(**_COMMON),
    "olmo2": lambda: transformers.Olmo2Config(**_GATED),
    "starcoder2": lambda: transformers.Starcoder2Config(**_GATED),
    # The text decoder alone; each of its projections is in a module of its own.
    "moshi": lambda: transformers.MoshiConfig(**_COMMON, ffn_dim=48, sliding_window=128),
    "gptj": lambda: transformers.GPTJConfig(
        vocab_size=96, n_embd=16, n_layer=3, n_head=2, n_positions=128, rotary_dim=4, bos_token_id=2, eos_token_id=1
    ),
}


def unknown(config):
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(model, 0)
    return LanguageModel(model, bos_tokenizer(), config.model_type)


@pytest.fixture
def registry(monkeypatch):
    """The table, as it was again afterwards."""
    monkeypatch.setattr(table, "_LAYOUTS", dict(table._LAYOUTS))


# The table


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_the_table(family_lm, family):
    lm = family_lm(family)
    config = lm.model.config
    assert lm.n_blocks == config.num_hidden_layers
    assert lm.d_model == config.hidden_size
    assert lm.d_mlp == (config.n_inner if family == "gpt2" else config.intermediate_size)
    assert lm.n_neurons == lm.n_blocks * lm.d_mlp
    assert lm.final_norm is (lm.model.transformer.ln_f if family == "gpt2" else lm.model.model.norm)
    assert lm.context_length == 128


def test_value_vectors_are_rows_that_share_storage(gpt2, llama):
    for lm, weight in ((gpt2, gpt2.mlp_outs[1].weight), (llama, llama.mlp_outs[1].weight.T)):
        vectors = lm.value_vectors(1)
        assert vectors.shape == (lm.d_mlp, lm.d_model)
        assert torch.equal(vectors, weight)
        assert vectors.data_ptr() == weight.data_ptr()


def test_the_table_wins_over_structure_and_knows_gemma_with_vision():
    text = transformers.Gemma3TextConfig(**{**_GATED, "head_dim": 8})
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text.to_dict(),
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    lm = unknown(config)
    assert (lm.n_blocks, lm.d_model, lm.d_mlp) == (3, 16, 24)
    edit = Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm)))
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
    assert_close(logits_of(fold(lm, edit), IDS), hooked)
    written = generate(lm, TEXTS, new_tokens=3)
    assert generate(lm, TEXTS, new_tokens=3, use_cache=False, batch_size=2) == written


# Structure


@pytest.mark.parametrize("name", RECOGNISED)
def test_architectures_outside_the_table_are_recognised(name):
    """And everything works on them: widths, hooks, folding, batches, cache, perplexity, lens."""
    config = RECOGNISED[name]()
    assert config.model_type not in table._LAYOUTS
    lm = unknown(config)
    assert (lm.n_blocks, lm.d_model) == (3, 16)
    assert lm.d_mlp in (24, 64)
    edit = Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm)))
    with edit.on(lm) as applied:
        hooked = logits_of(lm, IDS)
    assert len(applied.fired) == 9
    assert_close(logits_of(fold(lm, edit), IDS), hooked)
    assert not torch.allclose(hooked, logits_of(lm, IDS), atol=1e-3)
    written = generate(lm, TEXTS, new_tokens=4)
    assert generate(lm, TEXTS, new_tokens=4, batch_size=1) == written
    assert generate(lm, TEXTS, new_tokens=4, use_cache=False) == written
    strict, reference = naive_means(lm, TEXTS)
    assert_close(collect_means(lm, TEXTS, new_tokens=4).mean, strict)
    assert_close(collect_means(lm, TEXTS, new_tokens=4, protocol="reference").mean, reference)
    with Gains(random_gains(lm), positions="generated").on(lm):
        changed = generate(lm, TEXTS, new_tokens=4, stop_at_end=False)
        assert generate(lm, TEXTS, new_tokens=4, stop_at_end=False, batch_size=1) == changed
        assert generate(lm, TEXTS, new_tokens=4, stop_at_end=False, use_cache=False) == changed
    plain = generate(lm, TEXTS, new_tokens=4, stop_at_end=False)
    assert [c.ids[0] for c in changed] == [c.ids[0] for c in plain]
    assert changed != plain


def own_losses(lm, text, window):
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [2, *ids[: window - 1]]
    probabilities = logits_of(lm, ids).double().log_softmax(-1)
    return -sum(probabilities[i, ids[i + 1]].item() for i in range(window - 1))


SCALED = {
    "cohere": lambda: transformers.CohereConfig(**_GATED, logit_scale=0.25),
    "granite": lambda: transformers.GraniteConfig(**_GATED, logits_scaling=4.0, embedding_multiplier=3.0),
    "minicpm3": lambda: transformers.MiniCPM3Config(
        **{**_GATED, "num_key_value_heads": 4},
        dim_model_base=4,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
    ),
}


@pytest.mark.parametrize("name", [*RECOGNISED, *SCALED])
def test_logits_are_the_models_own(name):
    """Some models scale their logits after the unembedding; a perplexity that misses it is wrong in silence."""
    lm = unknown((RECOGNISED | SCALED)[name]())
    text = " ".join(TEXTS)
    losses = window_losses(lm, text, window=30, max_windows=1)
    (read,) = lens(lm, random_direction(lm), k=1)
    assert losses.nll[0] == pytest.approx(own_losses(lm, text, 30), rel=1e-5)
    assert len(read.top) == 1


class Odd(transformers.LlamaForCausalLM):
    """Multiplies its logits by what no config says."""

    def forward(self, *args, **kwargs):
        read = super().forward(*args, **kwargs)
        read.logits = 1.5 * read.logits
        return read


@pytest.mark.parametrize("registered", [False, True])
def test_logits_of_a_kind_of_their_own_are_refused_registered_or_not(registered, monkeypatch):
    lm = unknown(transformers.LlamaConfig(**_GATED))
    lm.model.__class__ = Odd
    lm.model.config.model_type = "odd"
    monkeypatch.setattr(table, "_LAYOUTS", dict(table._LAYOUTS))
    if registered:
        register_layout("odd", Layout("model.layers", "mlp.down_proj", "self_attn.o_proj", "model.norm"))
    with pytest.raises(DposcopeError, match="odd computes logits by more than its final norm, unembedding, scale"):
        _ = lm.layout


def test_a_final_norm_that_runs_twice_shows_the_last_stream_only_if_nothing_is_done_before_it():
    config = transformers.NanoChatConfig(**_GATED)
    assert unknown(config).norm_repeats
    lm = unknown(config)
    blocks = lm.model.model.layers
    for block in (blocks[0], blocks[2]):
        block.register_forward_pre_hook(lambda _module, args: (2 * args[0], *args[1:]))
    assert lm.norm_repeats
    lm = unknown(config)
    lm.model.model.norm.register_forward_pre_hook(lambda _module, args: (2 * args[0],))
    with pytest.raises(DposcopeError, match="nanochat runs its final norm several times, and changes what its last"):
        _ = lm.layout


class Codes(torch.nn.Linear):
    """As layers of bitsandbytes and FP8: a Linear whose weight holds codes."""

    def __init__(self, like: torch.nn.Linear, kind: torch.dtype) -> None:
        super().__init__(like.in_features, like.out_features, bias=False)
        self.weight = torch.nn.Parameter(torch.zeros(like.weight.shape).to(kind), requires_grad=False)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_that_are_codes_are_refused(kind):
    lm = unknown(transformers.LlamaConfig(**_GATED))
    block = lm.model.model.layers[1]
    block.mlp.down_proj = Codes(block.mlp.down_proj, kind)
    name = str(kind).removeprefix("torch.")
    with pytest.raises(DposcopeError, match=f"is a Codes with {name}, not a Linear .* load the model unquantised"):
        _ = lm.layout


NOT_RECOGNISED = {
    "mamba": (
        lambda: transformers.MambaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=3),
        r"no layout for model_type 'mamba'; call dposcope\.register_layout",
    ),
    # Several blocks share one transformer block.
    "zamba2": (
        lambda: transformers.Zamba2Config(
            **{"vocab_size": 96, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4},
            **{
                "num_attention_heads": 2,
                "num_mem_blocks": 1,
                "mamba_d_state": 4,
                "n_mamba_heads": 2,
                "mamba_ngroups": 1,
            },
            layers_block_type=["linear_attention", "hybrid", "linear_attention", "hybrid"],
        ),
        "models of the type zamba2 are not supported: its blocks share the weights of a transformer, whose MLP writes",
    ),
    # Some blocks read images in place of the text, and do nothing without them.
    "mllama_text_model": (
        lambda: transformers.MllamaConfig(
            text_config={
                **_GATED,
                "pad_token_id": None,
                "cross_attention_layers": [1],
                "model_type": "mllama_text_model",
            }
        ),
        r"no layout for model_type 'mllama_text_model'; call dposcope\.register_layout",
    ),
}


MIXTURES = {
    "granitemoe": lambda: transformers.GraniteMoeConfig(**_GATED, num_local_experts=4),
    "phimoe": lambda: transformers.PhimoeConfig(**_GATED, num_local_experts=4),
    "hunyuan_v1_moe": lambda: transformers.HunYuanMoEV1Config(**_GATED, num_experts=4, head_dim=4),
    "llama4_text": lambda: transformers.Llama4TextConfig(
        **_GATED, intermediate_size_mlp=72, head_dim=4, num_local_experts=4, interleave_moe_layer_step=2
    ),
}


@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_of_experts_is_recognised(family):
    lm = unknown(MIXTURES[family]())
    paths = [lm.layout.mlp_out] if isinstance(lm.layout.mlp_out, str) else lm.layout.mlp_out
    assert any(path.endswith(".experts") for path in paths)
    assert lm.experts == ExpertSizes(5 if family in ("hunyuan_v1_moe", "llama4_text") else 4, 24, 4)
    values = torch.ones(lm.n_blocks, lm.d_mlp)
    values[1] = 0.5
    with Gains(values).on(lm):
        hooked = logits_of(lm, [2, 40, 41, 55])
    assert_close(logits_of(fold(lm, Gains(values)), [2, 40, 41, 55]), hooked)
    assert not torch.allclose(hooked, logits_of(lm, [2, 40, 41, 55]), atol=1e-3)


def assert_a_batch_writes_what_single_texts_do(lm):
    assert lm.reads_padding
    alone = [generate(lm, text, new_tokens=4, stop_at_end=False, use_cache=False) for text in TEXTS[:4]]
    assert generate(lm, TEXTS[:4], new_tokens=4, stop_at_end=False) == alone
    assert len({tuple(one.ids) for one in alone}) > 2


@pytest.mark.parametrize("registered", [False, True])
def test_what_reads_padding_gets_none_registered_or_not(registered, registry):
    """Some blocks write by a module of another name, which adds up what stands before a token."""
    lm = unknown(transformers.Lfm3Config(**_GATED, layer_types=["conv", "full_attention", "conv"], head_dim=4))
    assert len(lm.layout.attention_out) == 2
    first = lm.model.model.layers[0].conv
    inner = first.forward
    first.forward = lambda hidden_states, **rest: inner(hidden_states, **{**rest, "attention_mask": None})
    if registered:
        paths = ("self_attn.o_proj", "conv.out_proj")
        register_layout("lfm3", Layout("model.layers", "feed_forward.w2", paths, "model.embedding_norm"))
    assert not lm.reads_padding
    assert_a_batch_writes_what_single_texts_do(LanguageModel(lm.model, lm.tokenizer))


def test_a_path_of_attention_that_no_block_has_is_refused(registry):
    """Each block of Falcon-H1 has both: what is not found would be left out of edits in silence."""
    lm = MORE["falcon_h1"].build()
    paths = ("self_attn.o_proj", "mamba.outproj")
    register_layout("falcon_h1", replace(lm.layout, attention_out=paths))
    with pytest.raises(DposcopeError, match=r"model_type 'falcon_h1': no block has 'mamba\.outproj'; call"):
        _ = LanguageModel(lm.model, lm.tokenizer).layout


def kimi():
    """Its linear attention writes by a module of the same name as its attention, and of the same width."""
    config = transformers.KimiLinearConfig(
        **{**_GATED, "num_key_value_heads": 4},
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
        linear_head_dim=8,
        linear_num_heads=2,
    )
    return unknown(config)


def test_linear_attention_of_the_same_name_has_no_attention_heads():
    lm = kimi()
    assert [one.in_features for one in lm.attention_outs] == [16, 16, 16]
    for ask in (lambda: lm.n_heads, lambda: lm.d_attention, lambda: heads_site(lm, 1)):
        with pytest.raises(DposcopeError, match="have no attention heads, but linear attention"):
            ask()


def test_linear_attention_of_the_same_name_that_reads_padding_gets_none():
    lm = kimi()
    first = lm.model.model.layers[0].self_attn
    inner = first.forward
    first.forward = lambda hidden_states, **rest: inner(hidden_states, **{**rest, "attention_mask": None})
    assert_a_batch_writes_what_single_texts_do(lm)


def test_experts_that_are_added_in_place_add_up_in_float64_too():
    """Llama 4 adds routed experts into what the shared one wrote, and nothing is rounded, so nothing is copied."""
    lm = unknown(MIXTURES["llama4_text"]())
    lm.model.double()
    assert lm.experts == ExpertSizes(5, 24, 4)


@pytest.mark.parametrize("name", NOT_RECOGNISED)
def test_architectures_without_one_mlp_projection_are_refused_with_the_mend(name):
    config, message = NOT_RECOGNISED[name]
    lm = unknown(config())
    with pytest.raises(DposcopeError, match=message):
        _ = lm.layout


def test_a_model_whose_final_norm_cannot_be_read_apart_is_refused(registry):
    lm = unknown(NOT_RECOGNISED["mllama_text_model"][0]())
    paths = ("self_attn.o_proj", "cross_attn.o_proj")
    register_layout("mllama_text_model", Layout("model.layers", "mlp.down_proj", paths, "model.norm"))
    with pytest.raises(DposcopeError, match="mllama_text_model gives no final-norm output apart from its logits: not"):
        _ = lm.layout


def test_the_context_is_known_where_the_config_calls_it_otherwise():
    """MPT: max_seq_len."""
    lm = unknown(transformers.MptConfig(vocab_size=96, d_model=16, n_layers=3, n_heads=4, max_seq_len=128))
    try:
        _ = lm.layout
    except DposcopeError:
        return
    assert lm.context_length == 128
    assert len(generate(lm, TEXTS, new_tokens=2)) == len(TEXTS)


# Registering


BLOOM = Layout("transformer.h", "mlp.dense_4h_to_h", "self_attention.dense", "transformer.ln_f")


def bloom():
    """Its two norms leave open which one is the final one, so it is not recognised as a type of no table."""
    lm = unknown(transformers.BloomConfig(vocab_size=96, hidden_size=16, n_layer=3, n_head=4))
    lm.model.config.model_type = "in-bloom"
    return lm


def test_a_registered_layout_is_used(registry):
    lm = bloom()
    with pytest.raises(DposcopeError, match="register_layout"):
        _ = lm.layout
    register_layout("in-bloom", BLOOM)
    assert find_layout(lm.model) is BLOOM
    assert lm.layout is BLOOM
    assert (lm.n_blocks, lm.d_model, lm.d_mlp) == (3, 16, 64)
    with Gains(random_gains(lm)).on(lm) as applied:
        logits_of(lm, IDS)
    assert len(applied.fired) == 3


def test_a_registered_layout_replaces_a_known_one(registry, gpt2):
    odd = Layout("transformer.h", "attn.c_proj", "mlp.c_proj", "transformer.ln_f")
    register_layout("gpt2", odd)
    assert find_layout(gpt2.model) is odd


def test_a_final_norm_that_is_said_to_be_none_is_looked_for(registry):
    register_layout("in-bloom", replace(BLOOM, final_norm=None))
    with pytest.raises(DposcopeError, match="'in-bloom': something stands between the last block and the unembedding"):
        find_layout(bloom().model)
    lm = MORE["openai-gpt"].build()
    own = lm.layout
    lm.model.config.model_type = "in-bloom"
    register_layout("in-bloom", replace(own))
    assert find_layout(lm.model).final_norm is None


@pytest.mark.parametrize(
    ("field", "path", "message"),
    [
        ("blocks", "transformer.blocks", "has no module 'transformer.blocks'; for another architecture call"),
        ("blocks", "transformer.ln_f", "'transformer.ln_f' is not a list of blocks; call dposcope.register_layout"),
        ("mlp_out", "mlp.down_proj", "has no module 'mlp.down_proj'"),
        ("mlp_out", "mlp.dense_h_to_4h", "mlp-out 'mlp.dense_h_to_4h' writes 64 numbers and attention-out .* 16"),
        ("attention_out", "self_attention.query_key_value", "query_key_value' 48; both must write to"),
        ("mlp_out", "mlp.gelu_impl", "is a BloomGelu, not a Linear or Conv1D"),
        ("attention_out", "attention.dense", "has no module 'attention.dense'"),
        ("final_norm", "transformer.norm", "has no module 'transformer.norm'"),
    ],
)
def test_wrong_paths_are_told_at_once(registry, field, path, message):
    parts = {name: getattr(BLOOM, name) for name in ("blocks", "mlp_out", "attention_out", "final_norm")}
    register_layout("in-bloom", Layout(**{**parts, field: path}))
    with pytest.raises(DposcopeError, match=message):
        find_layout(bloom().model)


# Pieces


def test_projections_of_either_class_have_one_orientation():
    linear, conv = nn.Linear(3, 5), Conv1D(5, 3)
    assert projection_width(linear) == projection_width(conv) == ProjectionWidth(inputs=3, outputs=5)
    assert value_vectors(linear).shape == value_vectors(conv).shape == (3, 5)
    assert torch.equal(value_vectors(linear), linear.weight.T)
    assert torch.equal(value_vectors(conv), conv.weight)


def test_other_modules_are_no_projection():
    for module in (nn.Embedding(3, 5), nn.Identity()):
        with pytest.raises(
            DposcopeError,
            match=f"is a {type(module).__name__}, not a Linear or Conv1D of plain numbers: load the model",
        ):
            projection_width(module)


def test_blocks_of_different_widths_have_absent_columns(llama):
    lm = copied(llama)
    lm.model.model.layers[1].mlp.down_proj = nn.Linear(30, 16, bias=False)
    assert lm.d_mlp == 30
    assert lm.here.tolist() == [[place < width for place in range(30)] for width in (24, 30, 24)]
    assert lm.n_neurons == 78
    other = copied(llama)
    other.model.model.layers[2].mlp.down_proj = nn.Linear(30, 16, bias=False)
    with pytest.raises(DposcopeError, match=r"differ in widths of blocks \(\[24, 30, 24\] and \[24, 24, 30\]\)"):
        check_models(lm, other)


def test_missing_submodules_name_the_mend(llama):
    with pytest.raises(DposcopeError, match=r"LlamaDecoderLayer has no module 'mlp.c_proj'; .*register_layout"):
        submodule(llama.blocks[0], "mlp.c_proj")


def test_soft_caps_are_found(lm):
    assert logit_softcap(lm.model) == (1.5 if lm.name == "tiny-gemma2" else None)


def test_unembedding_is_the_last_step_of_the_model(lm):
    with torch.no_grad():
        hidden = lm.model.base_model(input_ids=torch.tensor([IDS])).last_hidden_state
        assert_close(lm.unembed(hidden)[0], logits_of(lm, IDS), 1e-6)


def test_a_model_without_unembedding_is_refused(llama):
    headless = LanguageModel(llama.model.model, llama.tokenizer)
    with pytest.raises(DposcopeError, match="LlamaModel has no unembedding; load it as a causal language model"):
        headless.unembed(torch.zeros(1, 16))


# The model's facts


def test_the_fingerprint_changes_with_any_weight(lm):
    other = copied(lm)
    assert other.fingerprint == lm.fingerprint
    assert lm.fingerprint.startswith(lm.model.config.model_type + "-")
    for parameter in other.model.parameters():
        with torch.no_grad():
            old = parameter.flatten()[-1].item()
            parameter.view(-1)[-1] = old + 1e-3
            assert other.fingerprint != lm.fingerprint
            parameter.view(-1)[-1] = old
    assert other.fingerprint == lm.fingerprint


@pytest.mark.parametrize(
    "write", [lambda weight: weight.data.mul_(2), lambda weight: weight.detach().numpy().fill(5)], ids=["data", "numpy"]
)
def test_the_fingerprint_changes_with_a_weight_that_is_written_behind_the_back_of_torch(llama, write):
    other = copied(llama)
    before = other.fingerprint
    write(other.blocks[1].mlp.down_proj.weight)
    assert other.fingerprint != before


def test_the_fingerprint_of_a_model_made_in_inference_mode(llama):
    with torch.inference_mode():
        other = copied(llama)
        assert other.fingerprint == llama.fingerprint
        weight = other.blocks[1].mlp.down_proj.weight
        weight[0, 1] += 1
        assert other.fingerprint != llama.fingerprint
        weight[0, 1] = llama.blocks[1].mlp.down_proj.weight[0, 1]
    assert other.fingerprint == llama.fingerprint


def test_special_pad_and_end_ids(family_lm):
    gpt2, llama = family_lm("gpt2"), family_lm("llama")
    assert (gpt2.pad_id, llama.pad_id) == (0, 3)
    assert gpt2.special_ids == {0}
    assert llama.special_ids == {0, 1, 2, 3}
    assert llama.end_ids == {1, 20, 33, 46, 59, 72, 85}


@pytest.mark.parametrize("family", FAMILIES)
def test_gated_mlps_are_told_from_plain_ones(family_lm, family):
    assert family_lm(family).gated == (family != "gpt2")
