"""Make a tiny random Llama with its own tokenizer, to run every stage within minutes.

It is untrained, so numbers measured on it say nothing about language or about any method.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dposcope.data.corpus import load_neutral
from dposcope.durable import place
from dposcope.model.language_model import LanguageModel

TINY: Final = "tiny"
"""Its name in settings and tables."""

_VOCABULARY = 512
_SPECIAL = ("<unk>", "<eos>", "<bos>", "<pad>")


def tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the model into `folder`, atomically; an existing folder is left as it is. One seed gives one model.

    Returns:
        `folder`.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for scrap in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed here
        shutil.rmtree(scrap, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        LanguageModel(_random_llama(seed), _tokenizer()).save_pretrained(scratch)
        scratch.chmod(0o755)
        place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _random_llama(seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # Larger than usual, so that greedy text varies instead of repeating one token.
        initializer_range=0.2,
        tie_word_embeddings=False,
        eos_token_id=1,
        bos_token_id=2,
        pad_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of the built-in prose; begins every text with <bos>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([load_neutral(None)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
