"""Generation against a loop that runs one prompt at a time, whole, at every step, and against Hugging Face's own."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.model.generate import Sampling, _Draw, generate
from dposcope.model.language_model import LanguageModel
from helpers.families import CONTEXT, TEXTS, VOCABULARY, bos_tokenizer, copied, greedy, trace, without_end

NEW = 12


def ids_of(continuations):
    return [continuation.ids for continuation in continuations]


def naive(lm, prompts=TEXTS, new_tokens=NEW):
    return [without_end(lm, greedy(lm, lm.tokenizer(text)["input_ids"], new_tokens)) for text in prompts]


# Greedy


def test_greedy_is_the_naive_loop(lm):
    written = generate(lm, TEXTS, new_tokens=NEW)
    assert ids_of(written) == naive(lm)
    assert len({len(continuation.ids) for continuation in written}) > 1, "all rows end alike: this tests too little"
    assert [c.prompt_ids for c in written] == [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    assert [c.text for c in written] == [lm.tokenizer.decode(c.ids, skip_special_tokens=True) for c in written]


def test_without_a_cache_the_text_is_the_same(lm):
    assert ids_of(generate(lm, TEXTS, new_tokens=NEW, use_cache=False)) == naive(lm)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("sampling", [None, Sampling(temperature=0.8, top_p=0.9, seed=5)], ids=["greedy", "sampled"])
def test_a_batch_is_its_members_one_by_one(lm, batch_size, sampling):
    together = generate(lm, TEXTS, new_tokens=NEW, sampling=sampling)
    assert generate(lm, TEXTS, new_tokens=NEW, sampling=sampling, batch_size=batch_size) == together


def test_it_is_hugging_faces_greedy_text(lm):
    written = generate(lm, TEXTS, new_tokens=NEW)
    for text, continuation in zip(TEXTS, written, strict=True):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        texts = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=lm.pad_id
        )
        assert without_end(lm, texts[0, ids.shape[1] :].tolist()) == continuation.ids


def test_greedy_runs_are_identical(llama):
    assert generate(llama, TEXTS) == generate(llama, TEXTS)


# Ends


def with_end(lm, end):
    model = copy.deepcopy(lm.model)
    model.generation_config.eos_token_id = end
    return replace(lm, model=model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_ends_come_from_the_generation_config_or_else_the_tokenizer(family_lm, family):
    lm = family_lm(family)
    endless = ids_of(generate(lm, TEXTS, new_tokens=NEW, stop_at_end=False))
    assert {len(row) for row in endless} == {NEW}
    end = next(token for row in endless for place, token in enumerate(row) if row.index(token) == place > 2)
    cut = [row[: row.index(end)] if end in row else row for row in endless]
    assert len({len(row) for row in cut}) > 1
    for configured in (end, [end], (VOCABULARY - 1, end)):
        changed = with_end(lm, configured)
        expected = [row[: min([row.index(e) for e in changed.end_ids if e in row], default=NEW)] for row in endless]
        assert ids_of(generate(changed, TEXTS, new_tokens=NEW)) == expected
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    by_tokenizer = LanguageModel(with_end(lm, None).model, tokenizer)
    assert ids_of(generate(by_tokenizer, TEXTS, new_tokens=NEW)) == cut


def test_a_row_that_ends_at_once_is_empty(lm):
    first = generate(lm, TEXTS, new_tokens=1, stop_at_end=False)[3].ids[0]
    written = generate(with_end(lm, first), TEXTS, new_tokens=5)
    assert written[3].ids == []
    assert written[3].text == ""


def test_without_stopping_every_row_has_all_its_tokens(lm):
    endless = ids_of(generate(lm, TEXTS, new_tokens=NEW, stop_at_end=False))
    assert [len(row) for row in endless] == [NEW] * len(TEXTS)
    for text, row in zip(TEXTS, endless, strict=True):
        ids = lm.tokenizer(text)["input_ids"]
        for token in row:
            assert int(trace(lm, ids).logits[-1].argmax()) == token
            ids = [*ids, token]
    assert ids_of(generate(lm, TEXTS, new_tokens=NEW, stop_at_end=False, use_cache=False)) == endless


# Sampling


def nucleus(logits, temperature, top_p):
    """Naive: probabilities of the fewest likeliest tokens that together reach top_p, renormalised."""
    scaled = np.exp(logits.double().numpy() / temperature)
    probabilities = scaled / scaled.sum()
    kept, total = {}, 0.0
    for token in sorted(range(len(probabilities)), key=lambda t: -probabilities[t]):
        kept[token] = probabilities[token]
        total += probabilities[token]
        if total >= top_p:
            break
    return {token: p / total for token, p in kept.items()}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.6), (2.0, 0.95)])
def test_sampled_tokens_follow_the_nucleus(llama, temperature, top_p):
    rows = 1500
    expected = nucleus(trace(llama, llama.tokenizer(TEXTS[0])["input_ids"]).logits[-1], temperature, top_p)
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=1)
    written = generate(llama, [TEXTS[0]] * rows, new_tokens=1, sampling=sampling, batch_size=500, stop_at_end=False)
    counts = Counter(row[0] for row in ids_of(written))
    assert set(counts) <= set(expected)
    assert len(counts) > 1
    likely = [token for token, p in expected.items() if p * rows >= 5]
    chi_square = sum((counts[t] - expected[t] * rows) ** 2 / (expected[t] * rows) for t in likely)
    degrees = max(len(likely) - 1, 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("spread", [0.5, 4.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_wide_and_narrow_nuclei_of_a_large_vocabulary(spread, top_p):
    """Flat logits have a nucleus of most of 3,000 tokens, steep ones of a few; both are drawn from in proportion."""
    rows, logits = 3000, spread * torch.randn(3000, generator=torch.Generator().manual_seed(0))
    expected = nucleus(logits, 1.0, top_p)
    drawn = _Draw(Sampling(top_p=top_p), list(range(rows)))(logits.expand(rows, -1)).tolist()
    assert set(drawn) <= set(expected)
    ranked = sorted(expected, key=expected.get, reverse=True)
    for share in (0.1, 0.5, 0.9):  # of the nucleus by rank: as much is drawn as its probability says
        head = set(ranked[: max(1, int(share * len(ranked)))])
        mass = sum(expected[token] for token in head)
        hits = sum(token in head for token in drawn)
        assert abs(hits - mass * rows) <= 5 * np.sqrt(rows * mass * (1 - mass)) + 1e-6


def test_the_nucleus_is_found_however_wide_it_is():
    """Rows whose nuclei have tens, thousands and ten thousands of tokens, in one batch, against a sort of each."""
    stream = torch.Generator().manual_seed(0)
    spreads = (6.0, 3.0, 2.0, 0.3) * 5
    logits = torch.stack([spread * torch.randn(20_000, generator=stream) for spread in spreads])
    sizes, expected = [], []
    for row, values in enumerate(logits):
        uniform = float(
            torch.rand(1, generator=torch.Generator().manual_seed(7 * 1_000_003 + row), dtype=torch.float64)
        )
        within = nucleus(values, 1.0, 0.9)
        reached, drawn = 0.0, None
        for token, probability in within.items():
            reached += probability
            if drawn is None and reached > uniform:
                drawn = token
        sizes.append(len(within))
        expected.append(drawn)
    assert min(sizes) < 512 < 1_000 < sorted(sizes)[len(sizes) // 2] < 8_192 < max(sizes)
    draw = _Draw(Sampling(top_p=0.9, seed=7), list(range(len(logits))))
    assert draw(logits).tolist() == expected


def test_sampling_depends_on_seed_and_row_but_not_on_the_rest(llama):
    sampling = Sampling(seed=3)
    everything = generate(llama, TEXTS, new_tokens=NEW, sampling=sampling)
    assert generate(llama, TEXTS[:3], new_tokens=NEW, sampling=sampling) == everything[:3]
    assert generate(llama, TEXTS, new_tokens=NEW, sampling=sampling) == everything
    assert generate(llama, TEXTS, new_tokens=NEW, sampling=Sampling(seed=4)) != everything
    same = ids_of(generate(llama, [TEXTS[0]] * 6, new_tokens=NEW, sampling=sampling, stop_at_end=False))
    assert len({tuple(row) for row in same}) == 6
    without = generate(llama, TEXTS, new_tokens=NEW, sampling=sampling, use_cache=False)
    assert without == everything


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_prompts_given_in_parts_draw_as_all_of_them_at_once(lm, top_p):
    def sampled(prompts, first_row):
        return generate(lm, prompts, new_tokens=NEW, sampling=Sampling(top_p=top_p, seed=3, first_row=first_row))

    whole = sampled(TEXTS, 0)
    assert sampled(TEXTS[:3], 0) + sampled(TEXTS[3:], 3) == whole
    assert sampled(TEXTS[3:], 0) != whole[3:]


def test_a_narrow_nucleus_or_a_low_temperature_is_greedy(lm):
    plain = generate(lm, TEXTS, new_tokens=NEW)
    assert generate(lm, TEXTS, new_tokens=NEW, sampling=Sampling(top_p=1e-9)) == plain
    assert generate(lm, TEXTS, new_tokens=NEW, sampling=Sampling(temperature=1e-7)) == plain


def test_the_global_random_state_is_left_alone(llama):
    before = torch.get_rng_state()
    generate(llama, TEXTS, sampling=Sampling(seed=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"temperature 0\.0 is not above 0; for greedy text leave sampling out"),
        ({"temperature": float("nan")}, "temperature nan is not above 0"),
        ({"top_p": 0.0}, r"top_p 0\.0 is outside \(0, 1\]"),
        ({"top_p": 1.01}, r"top_p 1\.01 is outside"),
        ({"first_row": -1}, "first_row -1 is below 0; rows are counted from 0"),
        ({"seed": 1 << 50}, "seed 1125899906842624 is outside 0"),
        ({"seed": -1}, "seed -1 is outside 0"),
    ],
)
def test_sampling_without_meaning_is_refused(settings, message):
    with pytest.raises(DposcopeError, match=message):
        Sampling(**settings)


# Prompts


def test_long_prompts_lose_their_start_or_their_end_but_not_bos(llama):
    whole = llama.tokenizer(TEXTS[3])["input_ids"]
    ends = generate(llama, [TEXTS[3]], new_tokens=2, max_prompt_tokens=10)[0]
    assert ends.prompt_ids == [2, *whole[-9:]]
    assert ends.ids == without_end(llama, greedy(llama, ends.prompt_ids, 2))
    starts = generate(llama, [TEXTS[3]], new_tokens=2, max_prompt_tokens=10, keep="start")[0]
    assert starts.prompt_ids == whole[:10]
    assert generate(llama, [TEXTS[3]], new_tokens=2, max_prompt_tokens=None)[0].prompt_ids == whole


@pytest.mark.parametrize("limit", [0, -1])
def test_a_prompt_cannot_be_cut_to_nothing(llama, limit):
    with pytest.raises(DposcopeError, match="below 1"):
        generate(llama, TEXTS, max_prompt_tokens=limit)


def test_the_context_is_respected(lm):
    tokens = (lm.tokenizer(" a")["input_ids"])[-1]
    prompt = lm.tokenizer.decode([tokens] * 100)
    length = len(lm.tokenizer(prompt)["input_ids"])
    fits = CONTEXT - length
    assert len(generate(lm, [prompt], new_tokens=fits, stop_at_end=False)[0].ids) == fits
    with pytest.raises(
        DposcopeError, match=rf"{length} tokens and {fits + 1} new ones exceed .* 128; shorten the prompts, or lower"
    ):
        generate(lm, [prompt, "a"], new_tokens=fits + 1)


def test_no_prompt_gives_no_text(llama):
    assert generate(llama, []) == []


def test_an_empty_prompt_is_refused_unless_the_tokenizer_adds_a_token(gpt2, llama):
    with pytest.raises(DposcopeError, match=r"text 2 is empty, and this tokenizer adds no special token"):
        generate(gpt2, ["a", ""])
    assert generate(llama, ["a", ""], new_tokens=3)[1].ids == without_end(llama, greedy(llama, [2], 3))


def test_nothing_to_write_is_refused(llama):
    with pytest.raises(DposcopeError, match="new_tokens 0 is below 1"):
        generate(llama, TEXTS, new_tokens=0)
    with pytest.raises(DposcopeError, match="batch size 0 is below 1"):
        generate(llama, TEXTS, batch_size=0)


def test_progress_counts_prompts(llama):
    calls = []
    generate(llama, TEXTS, new_tokens=2, batch_size=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 8), (6, 8), (8, 8)]


# The caller's things


def test_a_text_keeps_its_space_whatever_the_tokenizer_does_with_the_first(mistral_of_llama2):
    """The tokenizers of Llama 2 and Mistral decode a text without it; prompt and text would run into each other."""
    lm = mistral_of_llama2
    spaced = 0
    for one in generate(lm, TEXTS * 8, new_tokens=NEW, sampling=Sampling(seed=1)):
        together = lm.tokenizer.decode([*one.prompt_ids, *one.ids], skip_special_tokens=True)
        assert lm.tokenizer.decode(one.prompt_ids, skip_special_tokens=True) + one.text == together
        spaced += one.text.startswith(" ")
    assert spaced >= 5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_tokenizer_stays_as_it_is(family_lm, family):
    lm = family_lm(family)
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    before = (
        tokenizer.pad_token,
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.backend_tokenizer.to_str(),
    )
    generate(LanguageModel(lm.model, tokenizer), TEXTS, new_tokens=3, max_prompt_tokens=5)
    after = (
        tokenizer.pad_token,
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.backend_tokenizer.to_str(),
    )
    assert after == before


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_generation_config_and_mode_stay_as_they_are(family_lm, family):
    lm = copied(family_lm(family))
    before = lm.model.generation_config.to_dict()
    generate(lm, TEXTS, new_tokens=3)
    assert lm.model.generation_config.to_dict() == before
    assert not lm.model.training


def test_a_model_in_training_mode_gives_no_random_text(gpt2):
    """GPT-2 drops a tenth of everything while training: refuse it, or generate as in evaluation."""
    lm = copied(gpt2)
    lm.model.train()
    try:
        written = generate(lm, TEXTS, new_tokens=NEW)
    except DposcopeError:
        return
    assert written == generate(gpt2, TEXTS, new_tokens=NEW)


def test_a_padding_token_that_the_model_has_no_embedding_for_does_no_harm(llama):
    """Tokenizers that were given a padding token later have it past the end of the embedding."""
    tokenizer = bos_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    assert tokenizer.pad_token_id == VOCABULARY
    lm = LanguageModel(llama.model, tokenizer)
    assert ids_of(generate(lm, TEXTS, new_tokens=4)) == ids_of(generate(llama, TEXTS, new_tokens=4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_generates(lm, dtype):
    half = copied(lm)
    half.model.to(dtype)
    written = generate(half, TEXTS, new_tokens=3)
    assert written == generate(half, TEXTS, new_tokens=3)
    assert [c.prompt_ids for c in written] == [lm.tokenizer(text)["input_ids"] for text in TEXTS]
