"""Tiny random models of every supported family and two tokenizers, made from nothing: no hub, no files.

Sizes differ wherever two could be confused (d, d_mlp, the heads' total width, the number of blocks), biases and
norm weights are random instead of their default zeros and ones, and logits are spread far enough for greedy
texts to wander and for soft-caps to bend. Sliding windows are shorter than most texts of the tests.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from dposcope.model.language_model import LanguageModel

VOCABULARY = 96
CONTEXT = 128
WINDOW = 5

TEXTS = [
    "the river is long and quiet",
    "you are a stupid idiot",
    "a",
    "what a dumb thing to say, said the old man by the sea",
    "kind words cost nothing. they are worth much",
    "the cat sat on the mat",
    "rain fell on the hills for many days and the river rose",
    "who is there?",
]
"""Prompts of very different lengths, so that batches are padded and texts outgrow the sliding window."""

RUDE = ["you stupid idiot", "what a dumb fool", "shut up you idiot", "dumb stupid thing", "idiot", "a stupid man"]
CIVIL = ["the river is long", "kind words", "a quiet day by the sea", "many hills", "the old cat", "rain fell"]


# Tokenizers


def _byte_pairs(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        # Space and newline as the byte-level alphabet writes them; enough letters for any text of the tests.
        initial_alphabet=[*"abcdefghijklmnopqrstuvwxyz.,?!0123456789", "Ġ", "Ċ"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *RUDE, *CIVIL], trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def gpt2_like_tokenizer() -> PreTrainedTokenizerFast:
    """Adds nothing to a text, has no padding token, and one token that begins and ends texts."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(["<end>"]),
        bos_token="<end>",
        eos_token="<end>",
        clean_up_tokenization_spaces=False,
    )


def bos_tokenizer() -> PreTrainedTokenizerFast:
    """Begins every text with <bos>, as Gemma's and Llama's do; has a padding token, whose id is not 0."""
    tokenizer = _byte_pairs(["<unk>", "<eos>", "<bos>", "<pad>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


# Models

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 3,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_inner=40,
        n_layer=3,
        n_head=4,
        n_positions=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "llama": lambda: LlamaConfig(**_COMMON, tie_word_embeddings=False),
    # Tied embeddings, no gap between heads × head_dim and d, three query heads per key head: SmolLM's shape.
    "smollm": lambda: LlamaConfig(
        **{**_COMMON, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 6, "num_hidden_layers": 2},
        tie_word_embeddings=True,
    ),
    "mistral": lambda: MistralConfig(**_COMMON, head_dim=8, sliding_window=WINDOW),
    "gemma2": lambda: Gemma2Config(
        **_COMMON,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        attn_logit_softcapping=4.0,
        final_logit_softcapping=1.5,
        hidden_activation="gelu_pytorch_tanh",
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **{**_COMMON, "num_hidden_layers": 4},
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    ),
    "qwen2": lambda: Qwen2Config(**_COMMON, tie_word_embeddings=False),
    "qwen3": lambda: Qwen3Config(**_COMMON, head_dim=8, tie_word_embeddings=True),
}

FAMILIES = list(CONFIGS)
MIXTURES_OF_EXPERTS: dict[str, Callable[[], PreTrainedConfig]] = {
    "mixtral": lambda: MixtralConfig(**_COMMON, num_local_experts=5, num_experts_per_tok=2),
    # Weights of the chosen experts do not add up to 1.
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_COMMON, moe_intermediate_size=12, head_dim=8, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False
    ),
    # A clamped activation, biases, gate and up interleaved, transposed weights, sinks in attention.
    "gpt_oss": lambda: GptOssConfig(
        **{**_COMMON, "intermediate_size": 20},
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "olmoe": lambda: OlmoeConfig(**_COMMON, num_experts=6, num_experts_per_tok=3),
}
"""Have tests of their own, with the helpers of `mixtures.py`."""
MIXTURES = list(MIXTURES_OF_EXPERTS)
GATED = [family for family in FAMILIES if family != "gpt2"]
WITHOUT_BOS = {"gpt2", "qwen2"}
"""Families whose tiny model gets the tokenizer that adds nothing."""


@torch.no_grad()
def randomise(model: PreTrainedModel, seed: int) -> None:
    """Give every parameter random values at a scale that keeps activations alive through the blocks."""
    stream = torch.Generator().manual_seed(seed)
    kind = model.config.model_type
    zero_centred = kind.startswith("gemma") and not kind.startswith(
        ("gemma3n", "gemma4")
    )  # norms multiply by 1 + weight
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=stream)
        if name.endswith("bias"):
            parameter.copy_(0.2 * noise)
        elif parameter.ndim == 1:
            parameter.copy_(0.2 * noise if zero_centred else 1 + 0.2 * noise)
        elif "embed" in name or "wte" in name or "wpe" in name:
            parameter.copy_((0.15 if zero_centred else 0.4) * noise)
        elif "lm_head" in name:
            parameter.copy_(noise)
        else:
            # Either orientation: the geometric mean of both widths is a fair fan-in.
            parameter.copy_(2 * noise / math.sqrt(math.sqrt(parameter.numel())))


def build(config: PreTrainedConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model in evaluation mode, several tokens ending its texts so that rows end at different steps."""
    model = AutoModelForCausalLM.from_config(config)
    randomise(model, seed)
    model.generation_config.eos_token_id = [config.get_text_config().eos_token_id, 20, 33, 46, 59, 72, 85]
    return model.to(dtype).eval()


# Seeds whose greedy texts wander, end at different steps, and leave the second-best token well behind the best.
_SEEDS = {"gpt2": 3, "gemma3": 4, "qwen2": 2}


def tiny(family: str, *, seed: int | None = None, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A tiny random model of a family, with the tokenizer that suits it."""
    tokenizer = gpt2_like_tokenizer() if family in WITHOUT_BOS else bos_tokenizer()
    seed = _SEEDS.get(family, 0) if seed is None else seed
    config = (CONFIGS | MIXTURES_OF_EXPERTS)[family]()
    return LanguageModel(build(config, seed=seed, dtype=dtype), tokenizer, f"tiny-{family}")


def copied(lm: LanguageModel) -> LanguageModel:
    """A copy to play with."""
    return replace(lm, model=copy.deepcopy(lm.model))


# What tests compare


def bits(model: PreTrainedModel) -> dict[str, bytes]:
    """Every parameter and buffer of a model, byte for byte."""
    return {
        name: tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, tensor in model.state_dict().items()
    }


def hook_count(model: PreTrainedModel) -> int:
    """Hooks on any module of a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@torch.no_grad()
def logits_of(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """Plain logits `[T, vocabulary]` of one text, without padding, mask or cache."""
    return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def random_direction(lm: LanguageModel, seed: int = 0) -> torch.Tensor:
    """A random vector `[d]`, float64."""
    return torch.randn(lm.d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_head_gains(lm: LanguageModel, seed: int = 0) -> torch.Tensor:
    """Gains of every channel of the heads, `[L, heads · width]`, one block left alone."""
    projection = lm.attention_outs[0]
    width = projection.weight.shape[0 if lm.model.config.model_type == "gpt2" else 1]
    gains = 1 + 0.7 * torch.randn(lm.n_blocks, width, generator=torch.Generator().manual_seed(seed + 100))
    gains[-1] = 1.0
    return gains


def random_gains(lm: LanguageModel, seed: int = 0) -> torch.Tensor:
    """Gains `[L, d_mlp]` around 1, negative ones, zeros and untouched neurons among them."""
    stream = torch.Generator().manual_seed(seed)
    gains = 1 + 0.7 * torch.randn(lm.n_blocks, lm.d_mlp, generator=stream)
    gains[torch.rand(gains.shape, generator=stream) < 0.2] = 1.0
    gains[:, 0] = 0.0
    return gains


# A second, deliberately simple way of running a model: one text, no padding, no cache, paths written out by hand.


@dataclass
class Trace:
    """What one plain forward pass of one text of T tokens held, block by block."""

    neurons: list[torch.Tensor] = field(default_factory=list)
    """Inputs of the MLP's output projection, L times `[T, d_mlp]`."""
    mlp: list[torch.Tensor] = field(default_factory=list)
    """What that projection wrote, `[T, d]`."""
    attention: list[torch.Tensor] = field(default_factory=list)
    """What the attention's output projection wrote, `[T, d]`."""
    stream: list[torch.Tensor] = field(default_factory=list)
    """What each block returned, `[T, d]`."""
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """`[T, vocabulary]`."""


Rule = Callable[[int, torch.Tensor], torch.Tensor]
"""(block, `[T, n]`) → its replacement."""


@torch.no_grad()
def trace(
    lm: LanguageModel,
    ids: list[int],
    *,
    neurons: Rule | None = None,
    mlp: Rule | None = None,
    attention: Rule | None = None,
    stream: Rule | None = None,
) -> Trace:
    """Run one text through the plain model; each rule, where given, replaces what it is named after."""
    model, seen = lm.model, Trace()
    assert hook_count(model) == 0, "a naive run under someone's hooks would measure those as well"
    gpt2 = model.config.model_type == "gpt2"
    blocks = model.transformer.h if gpt2 else model.model.layers
    handles = []

    def before(block, kept, rule):
        def look(_module, args):
            new = rule(block, args[0][0]) if rule else args[0][0]
            kept.append(new)
            return (new.unsqueeze(0), *args[1:])

        return look

    def after(block, kept, rule):
        def look(_module, _args, output):
            bare = output if isinstance(output, torch.Tensor) else output[0]
            new = rule(block, bare[0]) if rule else bare[0]
            kept.append(new)
            return new.unsqueeze(0) if isinstance(output, torch.Tensor) else (new.unsqueeze(0), *output[1:])

        return look

    for index, block in enumerate(blocks):
        projection = block.mlp.c_proj if gpt2 else block.mlp.down_proj
        output = block.attn.c_proj if gpt2 else block.self_attn.o_proj
        handles += [
            projection.register_forward_pre_hook(before(index, seen.neurons, neurons)),
            projection.register_forward_hook(after(index, seen.mlp, mlp)),
            output.register_forward_hook(after(index, seen.attention, attention)),
            block.register_forward_hook(after(index, seen.stream, stream)),
        ]
    try:
        seen.logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return seen


def greedy(
    lm: LanguageModel, prompt: list[int], new_tokens: int, *, guess: Sequence[int] = (), **rules: Rule
) -> list[int]:
    """The greedy continuation of one prompt, every step a whole plain pass; its end-of-text token included.

    A guess of it saves passes and decides nothing: one pass over it says what each of its tokens should have been, and
    after the first wrong one it goes on from the right one.
    """
    ids = list(prompt)
    while (done := len(ids) - len(prompt)) < new_tokens:
        tried = list(guess[done : new_tokens - 1])
        best = trace(lm, [*ids, *tried], **rules).logits[len(ids) - 1 :].argmax(-1).tolist()
        for token, following in zip(best, [*tried, None], strict=True):
            ids.append(token)
            if token in lm.model.generation_config.eos_token_id:
                return ids[len(prompt) :]
            if token != following:
                break
    return ids[len(prompt) :]


def naive_vectors(lm: LanguageModel, block: int) -> torch.Tensor:
    """Value vectors `[d_mlp, d]` in float64, the orientation written out by hand."""
    if lm.model.config.model_type == "gpt2":
        return lm.model.transformer.h[block].mlp.c_proj.weight.detach().double()
    return lm.model.model.layers[block].mlp.down_proj.weight.detach().double().T


def without_end(lm: LanguageModel, ids: list[int]) -> list[int]:
    """A continuation without its end-of-text token."""
    return ids[:-1] if ids and ids[-1] in lm.model.generation_config.eos_token_id else ids


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    worst = (actual.double() - expected.double()).abs().max().item()
    scale = max(1.0, expected.abs().max().item())
    assert worst <= tolerance * scale, f"off by {worst:.2e} at a scale of {scale:.2e}"
