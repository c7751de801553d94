"""Rows hold several texts only where the model gives each text's own numbers; else each text has its own row."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPTNeoConfig, MptConfig

from dposcope.training.batches import reading
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import ROW_TOKENS, pack
from dposcope.training.batches.reading import fits_one_row, read, row_tokens

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


def model_of(name: str, **changed):
    torch.manual_seed(0)
    config = type(CONFIGS[name]).from_dict({**CONFIGS[name].to_dict(), **changed})
    return AutoModelForCausalLM.from_config(config).eval()


def made(*sizes: tuple[int, ...]) -> list[Example]:
    """Of each: tokens of the prompt and of two completions, or of a window."""
    draw = random.Random(0)

    def ids(count):
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(count))

    return [Example(ids(prompt), tuple(ids(count) for count in counts)) for prompt, *counts in sizes]


def examples() -> list[Example]:
    return made((12, 9, 5), (3, 4, 6), (7,))


def check_numbers(model, given: list[Example], *, shared: bool) -> None:
    """Log-probabilities of what follows, as a trainer reads them, against each text alone."""
    batch = pack(given, pad_id=0, shared=shared, row_tokens=row_tokens(model))
    pairs, windows = ([one for one in given if bool(one.completions) == kind] for kind in (True, False))
    with torch.no_grad():
        states = read(model, batch)[batch.where]
        logp = model.get_output_embeddings()(states).log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)
        for number, (prompt, completion) in enumerate(
            [(one.prompt, one.completions[side]) for side in (0, 1) for one in pairs]
            + [((), one.prompt) for one in windows]
        ):
            text = torch.tensor([[*prompt, *completion]])
            alone = model(input_ids=text, use_cache=False).logits[0, :-1].log_softmax(-1)
            wanted = alone.gather(1, text[0, 1:].unsqueeze(1)).squeeze(1)[max(len(prompt) - 1, 0) :]
            assert torch.allclose(logp[batch.sequence == number], wanted, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_texts_have_their_own_numbers_in_every_architecture(name):
    model, given = model_of(name), examples()
    shared = fits_one_row(model, given)
    assert shared is (name in PACKED)
    check_numbers(model, given, shared=shared)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_seen_where_neither_the_longest_nor_the_shortest_text_shows_it(name):
    """A window is the longest, and the shortest has no second completion that stands apart from its prompt."""
    model, given = model_of(name), made((12, 9, 5), (10, 8, 8), (2, 1, 1), (40,))
    shared = fits_one_row(model, given)
    assert shared is (name in PACKED)
    check_numbers(model, given, shared=shared)


SMALL = made((2, 1, 1), (1, 2, 1), (40,))
"""The shortest and the longest of the examples below. No second completion stands apart from its prompt."""


@pytest.mark.parametrize("name", ["mpt", "gpt_neo"])
def test_only_a_second_completion_of_several_tokens_shows_it(name):
    """The pair with the longest first completion, which takes most of a row, does not."""
    model, (blind, telling) = model_of(name), made((20, 60, 1), (5, 6, 5))
    assert fits_one_row(model, [blind, *SMALL])
    assert not fits_one_row(model, [blind, telling, *SMALL])


def test_a_local_window_is_outgrown_by_prompt_and_both_completions_together():
    """The pair whose second completion stands furthest from its prompt is short enough; the other one is not."""
    model, (far, long) = model_of("gpt_neo"), made((1, 7, 2), (5, 6, 5))
    assert fits_one_row(model, [far, *SMALL])
    check_numbers(model, [far, *SMALL], shared=True)
    assert not fits_one_row(model, [far, long, *SMALL])


def test_a_weak_bias_by_distance_is_seen_where_it_is_largest():
    """One token further changes less than rounding may; the pair with the longest prompt has no more."""
    model, (long, far) = model_of("mpt", n_heads=1), made((60, 2, 2), (2, 50, 10))
    assert fits_one_row(model, [long, *SMALL])
    assert not fits_one_row(model, [long, far, *SMALL])


def test_texts_that_share_a_row_are_tried_though_the_longest_fits_beside_none(monkeypatch):
    """A model that counts places along the row, as if it took no positions."""
    model, given = model_of("gpt_neo"), made((126,), (9,), (8,))
    assert fits_one_row(model, given)
    monkeypatch.setattr(reading, "takes_positions", lambda _model: False)
    assert not fits_one_row(model, given)


@pytest.mark.parametrize("name", ["mpt", "gpt_neo"])
def test_rows_end_with_what_the_model_keeps_of_its_context(name):
    """No second completion stands apart here, so rows may be shared; together the texts are longer than the context."""
    model, given = model_of(name), made(*[(20, 30, 1)] * 5, (100,), (90,))
    assert fits_one_row(model, given)
    check_numbers(model, given, shared=True)


def test_a_pair_that_is_too_long_for_a_row_though_its_texts_are_not():
    model = model_of("gpt_neo", window_size=256)
    assert fits_one_row(model, made((80, 20, 20), (5, 1, 1)))
    assert not fits_one_row(model, made((80, 30, 30), (5, 1, 1)))


def test_rows_of_tested_architectures_have_their_length_whatever_the_context():
    from helpers.families import CONFIGS, build

    assert row_tokens(build(CONFIGS["llama"]())) == ROW_TOKENS
    assert row_tokens(model_of("falcon")) == ROW_TOKENS
    assert row_tokens(model_of("mpt")) == 128


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
