"""Rows hold several texts only where the model gives each text's own numbers; else each text has its own row."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPTNeoConfig, MptConfig

from dposcope.training.batches import reading
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row, read

VOCABULARY = 90
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "mpt": MptConfig(d_model=24, n_heads=4, n_layers=2, max_seq_len=128, **TOKENS),
    "falcon with ALiBi": FalconConfig(hidden_size=24, num_attention_heads=4, num_hidden_layers=2, alibi=True, **TOKENS),
    "falcon": FalconConfig(hidden_size=24, num_attention_heads=4, num_hidden_layers=2, alibi=False, **TOKENS),
    "bloom": BloomConfig(hidden_size=24, n_head=4, n_layer=2, **TOKENS),
    "gpt_neo": GPTNeoConfig(
        hidden_size=24,
        num_layers=2,
        num_heads=4,
        max_position_embeddings=128,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        **TOKENS,
    ),
}
PACKED = {"falcon"}
"""Those that read packed rows rightly."""


def model_of(name: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def examples() -> list[Example]:
    draw = random.Random(0)

    def ids(count):
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(count))

    return [Example(ids(12), (ids(9), ids(5))), Example(ids(3), (ids(4), ids(6))), Example(ids(7))]


@pytest.mark.parametrize("name", CONFIGS)
def test_texts_have_their_own_numbers_in_every_architecture(name):
    """Log-probabilities of completions, as a trainer reads them, against each text alone."""
    model, given = model_of(name), examples()
    shared = fits_one_row(model, given)
    assert shared is (name in PACKED)
    batch = pack(given, pad_id=0, shared=shared)
    with torch.no_grad():
        states = read(model, batch)[batch.where]
        logp = model.get_output_embeddings()(states).log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)
        for number, (prompt, completion) in enumerate(
            [(one.prompt, one.completions[side]) for side in (0, 1) for one in given[:2]] + [((), given[2].prompt)]
        ):
            text = torch.tensor([[*prompt, *completion]])
            alone = model(input_ids=text, use_cache=False).logits[0, :-1].log_softmax(-1)
            wanted = alone.gather(1, text[0, 1:].unsqueeze(1)).squeeze(1)[max(len(prompt) - 1, 0) :]
            assert torch.allclose(logp[batch.sequence == number], wanted, atol=1e-5)


def test_short_texts_fit_the_local_attention_of_gpt_neo():
    assert fits_one_row(
        model_of("gpt_neo"), [Example((5, 6, 7), ((8, 9), (10,))), Example((11, 12), ((13,), (14, 15)))]
    )


def test_the_mode_of_the_model_stays():
    model = model_of("falcon").train()
    fits_one_row(model, examples())
    assert model.training


def test_tested_architectures_are_not_read_again(monkeypatch):
    from helpers.families import CONFIGS, build

    monkeypatch.setattr(reading, "_reads_packed", None)
    assert fits_one_row(build(CONFIGS["llama"]()), examples())
