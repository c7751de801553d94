"""Pairs and neutral text to token ids: where texts are cut, and which window goes with which batch."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dposcope.errors import DposcopeError
from dposcope.evaluation.sampled.continuations import continuation_losses
from dposcope.model.batches import encode
from dposcope.model.chat.asking import Turn
from dposcope.model.chat.cut import shortened
from dposcope.model.chat.prompts import with_chat
from dposcope.model.generate import Continuation
from dposcope.pairs.harmless import HarmlessTexts
from dposcope.pairs.pairs import Pair, Pairs
from dposcope.training.batches.examples import Example, drawn, harmless_windows, neutral_windows, tokenise
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row, read
from helpers.chats import BEGINS, ENDS, PLAIN, with_template
from helpers.families import TEXTS, WITHOUT_BOS, copied, gpt2_like_tokenizer

LONG = " ".join(TEXTS)


def one(lm, prompt, preferred, dispreferred, **limits) -> Example:
    """The example of a single pair."""
    examples = tokenise(lm, Pairs.of([Pair(prompt, preferred, dispreferred)]), **limits)
    assert len(examples) == 1
    return examples[0]


def plain(lm, text) -> list[int]:
    """Token ids of a text alone, by the tokenizer's lower level: no special ones."""
    return lm.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def special(lm) -> list[int]:
    """What this family's tiny tokenizer puts before a text."""
    return [] if lm.name.removeprefix("tiny-") in WITHOUT_BOS else [lm.tokenizer.bos_token_id]


def frame(lm, turns) -> list[int]:
    """A conversation in the chat template, by the library."""
    said = [{"role": turn.role, "content": turn.content} for turn in turns]
    made = lm.tokenizer.apply_chat_template(said, tokenize=True, add_generation_prompt=True, return_dict=True)
    return made["input_ids"]


# Pairs


def test_a_pair_is_its_prompt_and_two_continuations(lm):
    example = one(lm, "the river is", " long and quiet", " a dumb thing")
    assert list(example.prompt) == special(lm) + plain(lm, "the river is")
    assert [list(completion) for completion in example.completions] == [
        plain(lm, " long and quiet"),
        plain(lm, " a dumb thing"),
    ]


def test_many_pairs_are_their_members_one_by_one(lm):
    rows = [Pair(TEXTS[i], f" {TEXTS[(i + 1) % 8]}", f" {TEXTS[(i + 3) % 8]}") for i in range(8)]
    rows.append(Pair("", "kind words", "idiot"))
    assert tokenise(lm, Pairs.of(rows)) == [one(lm, pair.prompt, pair.preferred, pair.dispreferred) for pair in rows]


def test_ids_spell_the_texts(lm):
    """Trunk and completion decode to the prompt with its completion, however they are cut into tokens."""
    for prompt, text in [("the ri", "ver is long"), ("a", "nd quiet"), ("who ", "is there?"), ("by", " the sea")]:
        example = one(lm, prompt, text, "?")
        ids = [token for token in (*example.prompt, *example.completions[0]) if token not in lm.special_ids]
        assert lm.tokenizer.decode(ids) == prompt + text
        assert list(example.prompt) == encode(lm, [prompt])[0]


def merging(lm) -> tuple[str, str]:
    """A prompt and a text whose tokens merge across the seam."""
    for word in ("stupid", "river", "quiet", "words", "idiot"):
        for cut in range(1, len(word)):
            prompt, text = word[:cut], word[cut:]
            alone, whole = plain(lm, prompt), plain(lm, word)
            if whole[: len(alone)] != alone:
                return prompt, text
    raise AssertionError("no word of the tests merges")


def test_tokens_that_merge_across_the_seam_leave_the_prompt_as_it_was(lm):
    prompt, text = merging(lm)
    example = one(lm, prompt, text, " a")
    assert list(example.prompt) == special(lm) + plain(lm, prompt)
    assert list(example.completions[0]) == plain(lm, text)
    assert list(example.completions[1]) == plain(lm, f"{prompt} a")[len(plain(lm, prompt)) :]


def test_a_completion_gets_the_tokens_that_it_has_behind_its_prompt(llama):
    """With a tokenizer that marks the beginning of a text, a completion read alone would get a mark of its own."""
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "▁stupid": 1, "▁man": 2, "▁": 3, "<unk>": 4}, "<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    lm = copied(llama)
    object.__setattr__(lm, "tokenizer", PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"))
    assert plain(lm, " man") == [3, 2]
    assert one(lm, "stupid", " man", " stupid") == Example((1,), ((2,), (1,)))


def test_an_empty_prompt_begins_with_the_token_that_begins_texts(lm):
    example = one(lm, "", "kind words", "a stupid man")
    assert example.prompt == (lm.tokenizer.bos_token_id,)
    assert [list(completion) for completion in example.completions] == [
        plain(lm, "kind words"),
        plain(lm, "a stupid man"),
    ]


def without(lm, *names):
    """The model with a tokenizer that lacks special tokens."""
    changed, tokenizer = copied(lm), gpt2_like_tokenizer()
    for name in names:
        setattr(tokenizer, name, None)
    object.__setattr__(changed, "tokenizer", tokenizer)
    return changed


def test_without_such_a_token_it_is_the_one_that_ends_texts(gpt2):
    lm = without(gpt2, "bos_token")
    assert lm.tokenizer.bos_token_id is None
    assert one(lm, "", "kind", "dumb").prompt == (lm.tokenizer.eos_token_id,)


def test_without_either_the_mend_is_to_give_prompts(gpt2):
    lm = without(gpt2, "bos_token", "eos_token")
    with pytest.raises(DposcopeError, match="no token that begins a text; give prompts"):
        one(lm, "", "kind", "dumb")
    assert one(lm, "the", " kind", " dumb").prompt


# Cuts


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_a_long_prompt_keeps_its_end_and_the_token_that_begins_texts(lm, most):
    whole = special(lm) + plain(lm, LONG)
    example = one(lm, LONG, " a", " b", max_prompt_tokens=most)
    assert len(example.prompt) == most
    kept = special(lm) if most > 1 else []
    assert list(example.prompt) == kept + whole[len(whole) - (most - len(kept)) :]


def test_a_prompt_of_just_the_limit_is_whole(lm):
    whole = special(lm) + plain(lm, "the old man by the sea")
    for most in (len(whole), len(whole) + 1):
        assert list(one(lm, "the old man by the sea", " a", " b", max_prompt_tokens=most).prompt) == whole


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_long_completion_keeps_its_start(lm, most):
    example = one(lm, "the cat", f" {LONG}", " b", max_completion_tokens=most)
    assert list(example.completions[0]) == plain(lm, f" {LONG}")[:most]
    assert list(example.completions[1]) == plain(lm, " b")[:most]


def test_a_cut_prompt_does_not_change_its_completions(lm):
    """The seam is judged on whole texts, so a completion's tokens do not depend on the limit."""
    prompt, text = merging(lm)
    for first in (LONG, f"{LONG} {prompt}"):
        whole, cut = (one(lm, first, text, " a", max_prompt_tokens=most, max_completion_tokens=10) for most in (118, 4))
        assert cut.completions == whole.completions
        assert cut.prompt[-3:] == whole.prompt[-3:]


def test_the_papers_limits_are_the_default(lm):
    example = one(lm, LONG, f" {LONG}", f" {LONG}")
    assert [len(ids) for ids in (example.prompt, *example.completions)] == [64, 64, 64]


@pytest.mark.parametrize("limits", [(65, 64), (1, 128), (200, 200)])
def test_limits_beyond_the_context_are_refused(llama, limits):
    prompt, completion = limits
    with pytest.raises(DposcopeError, match=r"context of 128; lower --max-prompt-tokens or --max-completion-tokens"):
        one(llama, "a", "b", "c", max_prompt_tokens=prompt, max_completion_tokens=completion)
    one(llama, "a", "b", "c", max_prompt_tokens=64, max_completion_tokens=64)


@pytest.mark.parametrize("limits", [{"max_prompt_tokens": 0}, {"max_completion_tokens": 0}, {"max_prompt_tokens": -3}])
def test_limits_below_one_are_refused(llama, limits):
    with pytest.raises(DposcopeError, match="leave nothing to learn; give 1 or more of each"):
        one(llama, "a", "b", "c", **limits)


@pytest.mark.parametrize("side", ["preferred", "dispreferred"])
@pytest.mark.parametrize("prompt", ["the cat", ""])
def test_a_completion_without_a_token_is_told_by_its_row(llama, side, prompt):
    good = Pair("the cat", " sat", " ran")
    bad = Pair(prompt, *((" ", " sat") if side == "preferred" else (" sat", " ")))
    lm = copied(llama)
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "sat": 2, "ran": 3, "<s>": 4, "<unk>": 5}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    object.__setattr__(lm, "tokenizer", PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"))
    with pytest.raises(DposcopeError, match=r"completion of pair 2 has no token \(' '\); remove that pair"):
        tokenise(lm, Pairs.of([good, bad]))
    assert tokenise(lm, Pairs.of([good])) == [Example((0, 1), ((2,), (3,)))]


# Neutral text


@pytest.mark.parametrize("length", [2, 9, 40])
def test_windows_are_slices_of_the_text_behind_the_token_that_begins_texts(lm, length):
    text = "\n".join(TEXTS * 3)
    ids = plain(lm, text)
    windows = neutral_windows(lm, text, count=25, length=length, seed=4)
    assert len(windows) == 25
    slices = {tuple(ids[start : start + length - 1]) for start in range(len(ids))}
    for window in windows:
        assert len(window.prompt) == length
        assert window.prompt[0] == lm.tokenizer.bos_token_id
        assert window.prompt[1:] in slices
        assert window.completions == ()
    assert len(set(windows)) > 5


def test_windows_come_from_everywhere_in_the_text(llama):
    """First and last tokens too."""
    ids = plain(llama, LONG)
    windows = neutral_windows(llama, LONG, count=4000, length=10, seed=0)
    assert {window.prompt[1:] for window in windows} == {tuple(ids[i : i + 9]) for i in range(len(ids) - 8)}


def test_windows_are_reproducible_and_follow_their_seed(lm):
    text = "\n".join(TEXTS * 3)
    one, again, other = (neutral_windows(lm, text, count=12, length=20, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_without_a_token_that_begins_texts_a_window_is_text_alone(gpt2):
    lm = without(gpt2, "bos_token")
    ids = plain(lm, LONG)
    for window in neutral_windows(lm, LONG, count=10, length=8):
        assert window.prompt in {tuple(ids[i : i + 8]) for i in range(len(ids) - 7)}


def test_a_window_is_at_most_the_context(llama):
    windows = neutral_windows(llama, "\n".join(TEXTS * 5), count=3, length=1000)
    assert {len(window.prompt) for window in windows} == {llama.context_length}


def test_a_text_of_just_one_window_gives_it(llama):
    ids = plain(llama, TEXTS[3])
    windows = neutral_windows(llama, TEXTS[3], count=3, length=len(ids) + 1)
    assert {window.prompt for window in windows} == {(llama.tokenizer.bos_token_id, *ids)}
    with pytest.raises(DposcopeError, match=rf"has {len(ids)} tokens, fewer than a window of {len(ids) + 1}; use a lo"):
        neutral_windows(llama, TEXTS[3], count=3, length=len(ids) + 2)


@pytest.mark.parametrize("length", [1, 0])
def test_a_window_with_nothing_to_predict_is_refused(llama, length):
    with pytest.raises(DposcopeError, match="nothing to predict; give 2 or more"):
        neutral_windows(llama, LONG, count=3, length=length)


# Which windows go with which batch


def test_a_batch_draws_by_its_members_alone():
    """Not by their order, nor by what was drawn before, nor by numpy's own stream."""
    first = drawn([7, 3, 11], pool=50, count=4, seed=1)
    np.random.default_rng(0).random(10)
    drawn([1, 2], pool=50, count=4, seed=1)
    assert drawn([7, 3, 11], pool=50, count=4, seed=1) == first
    assert drawn([11, 7, 3], pool=50, count=4, seed=1) == first
    assert drawn([7, 3, 12], pool=50, count=4, seed=1) != first
    assert drawn([7, 3, 11], pool=50, count=4, seed=2) != first


def test_draws_are_distinct_members_of_the_pool_and_reach_all_of_it():
    seen = set()
    for index in range(200):
        found = drawn([index, index + 1], pool=9, count=4, seed=0)
        assert len(found) == len(set(found)) == 4
        seen |= set(found)
    assert seen == set(range(9))


def test_a_small_pool_is_drawn_whole():
    assert sorted(drawn([5], pool=3, count=8, seed=0)) == [0, 1, 2]


def test_indices_of_validation_pairs_draw_their_own():
    offset = 1 << 40
    assert drawn([1, 2], pool=1000, count=4, seed=0) != drawn([offset + 1, offset + 2], pool=1000, count=4, seed=0)


# Harmless texts as windows


def test_a_harmless_text_stands_behind_its_prompt(llama):
    texts = HarmlessTexts((TEXTS[0], "", TEXTS[1]), (" and then it rained", "A day", " so"))
    windows = harmless_windows(llama, texts)
    for window, prompt, text in zip(windows, texts.prompts, texts.completions, strict=True):
        assert window.completions == ()
        if prompt:
            assert list(window.prompt) == encode(llama, [prompt + text])[0]
    bos = llama.tokenizer.bos_token_id if llama.tokenizer.bos_token_id is not None else llama.tokenizer.eos_token_id
    assert windows[1].prompt[0] == bos


def test_long_harmless_texts_are_cut_as_pairs_are(llama):
    texts = HarmlessTexts((LONG,), (LONG,))
    (window,) = harmless_windows(llama, texts, max_prompt_tokens=7, max_completion_tokens=5)
    (pair,) = tokenise(llama, Pairs((LONG,), (LONG,), ("other",)), max_prompt_tokens=7, max_completion_tokens=5)
    assert window.prompt == (*pair.prompt, *pair.completions[0])
    with pytest.raises(DposcopeError, match=r"exceed the model's context of .*; lower --max-prompt-tokens"):
        harmless_windows(llama, texts, max_prompt_tokens=10**6)


# Chat models


def test_a_chat_models_prompt_is_its_frame_and_its_completions_follow_it(lm):
    lm = with_chat(with_template(lm, BEGINS), wrap="go on: {prompt}")
    before = (Turn("user", "hi"), Turn("assistant", "a cat"))
    pairs = Pairs.of([Pair("who is there", " the cat", " an idiot"), Pair("why", " a mat", " a fool", before)])
    expected = [[Turn("user", "go on: who is there")], [*before, Turn("user", "go on: why")]]
    for example, pair, turns in zip(tokenise(lm, pairs), pairs, expected, strict=True):
        head = frame(lm, turns)
        assert list(example.prompt) == head
        told = "".join(f"{turn.role}: {turn.content}\n" for turn in turns)
        for completion, text in zip(example.completions, (pair.preferred, pair.dispreferred), strict=True):
            whole = plain(lm, f"{lm.tokenizer.bos_token}{told}assistant:{text}")
            assert [*head, *completion] == whole


def test_a_chat_model_learns_to_end_whole_answers(lm):
    pair = Pair("who is there", " the cat", f" {LONG}")
    end, most = lm.tokenizer.eos_token_id, 20
    plainly, ended = (
        tokenise(with_chat(with_template(lm, ENDS)), Pairs.of([pair], whole=whole), max_completion_tokens=most)[0]
        for whole in (False, True)
    )
    assert ended.prompt == plainly.prompt
    assert ended.completions[0] == (*plainly.completions[0], end)
    assert len(plainly.completions[1]) == most, "cut, so it does not end here"
    assert ended.completions[1] == plainly.completions[1]
    assert end not in plainly.completions[0]
    for other in (with_chat(with_template(lm, PLAIN)), lm):  # a template that ends nothing, and no template
        whole, part = (
            tokenise(other, Pairs.of([pair], whole=one), max_completion_tokens=most) for one in (True, False)
        )
        assert whole == part


def test_an_answer_that_fills_the_limit_has_no_room_for_its_end(llama):
    lm = with_chat(with_template(llama, ENDS))
    (example,) = tokenise(lm, Pairs.of([Pair("who", " the cat", " an idiot")], whole=True))
    exact = max(map(len, example.completions)) - 1
    (cut,) = tokenise(lm, Pairs.of([Pair("who", " the cat", " an idiot")], whole=True), max_completion_tokens=exact)
    assert all(len(one) <= exact for one in cut.completions)


def test_a_chat_models_long_prompt_and_completion_are_cut_inside_the_frame(llama):
    lm = with_chat(with_template(llama, BEGINS))
    example = one(lm, LONG, f" {LONG}", " a", max_prompt_tokens=5, max_completion_tokens=7)
    assert list(example.prompt) == frame(lm, [Turn("user", shortened(lm.tokenizer, [LONG], 5, keep="end")[0])])
    assert list(example.completions[0]) == plain(lm, f" {LONG}")[:7]
    with pytest.raises(DposcopeError, match=r"pair 1 has \d+ tokens in the chat template, and the model's context is"):
        one(lm, LONG, f" {LONG}", " a", max_prompt_tokens=64, max_completion_tokens=64)


def test_a_chat_model_takes_pairs_without_prompts_as_blank_messages(llama):
    lm = with_chat(with_template(llama, PLAIN))
    assert list(one(lm, "", "a cat", "idiot").prompt) == frame(lm, [Turn("user", "")])


def test_a_conversation_and_a_model_without_a_template_do_not_meet(llama):
    pairs = Pairs.of([Pair("why", " a", " b", (Turn("user", "hi"), Turn("assistant", "a cat")))])
    with pytest.raises(DposcopeError, match=r"conversation of 3 messages, and .* is asked without a chat template"):
        tokenise(llama, pairs)


def test_a_chat_models_harmless_texts_stand_in_the_frame(llama):
    lm = with_chat(with_template(llama, BEGINS))
    (window,) = harmless_windows(lm, HarmlessTexts(("who",), (" the cat",)))
    assert list(window.prompt) == [*frame(lm, [Turn("user", "who")]), *plain(lm, " the cat")]
    assert window.completions == ()


def test_log_probabilities_after_a_shared_prompt_are_those_of_each_text_alone(lm):
    """Packed, with the frame read once for both answers, against one text at a time."""
    lm = with_chat(with_template(lm, PLAIN))
    examples = tokenise(lm, Pairs.of([Pair(TEXTS[0], " kind words", " you idiot"), Pair("a", " quiet", " dumb")]))
    batch = pack(examples, pad_id=lm.pad_id, shared=fits_one_row(lm.model, examples))
    with torch.no_grad():
        states = read(lm.model, batch)[batch.where]
        rows = torch.log_softmax(lm.unembed(states).double(), -1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)
    sums = [float(rows[batch.sequence == number].sum()) for number in range(4)]
    naive = [
        -float(continuation_losses(lm, [Continuation(list(one.prompt), list(one.completions[side]), "")]).nll[0])
        for side in (0, 1)
        for one in examples
    ]
    assert sums == pytest.approx(naive, abs=1e-4)
