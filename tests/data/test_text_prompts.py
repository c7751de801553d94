"""Sentences of running text as prompts of one length."""

import re

import pytest

from dposcope.data.text_prompts import SPARE_TOKENS, cut_prompts, ordinary_text, sentences
from dposcope.errors import DposcopeError
from helpers.families import TEXTS, bos_tokenizer, gpt2_like_tokenizer
from helpers.jobs import make_job

TOKENIZERS = {"bos": bos_tokenizer, "gpt2": gpt2_like_tokenizer}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def prose(tmp_path_factory) -> str:
    return make_job(tmp_path_factory.mktemp("job")).neutral.read_text("utf-8")


# Spelling


@pytest.mark.parametrize(
    ("spaced", "ordinary"),
    [
        ("a role @-@ playing game", "a role-playing game"),
        ("5 @,@ 000 of 3 @.@ 5", "5,000 of 3.5"),
        ("first , second ; third : last .", "first, second; third: last."),
        ("( Japanese : x , lit . y ) , known", "(Japanese: x, lit. y), known"),
        ('the " Nameless " , a unit', 'the "Nameless", a unit'),
        ('" One " and " two " . ', '"One" and "two". '),
        ('meaning " Always Ready . "', 'meaning "Always Ready."'),
        ("the game 's end did n't come , they 'd say", "the game's end didn't come, they'd say"),
        ("it cost $ 5 , 3 % less", "it cost $5, 3% less"),
        ("really ? yes !", "really? yes!"),
    ],
)
def test_wikitext_is_set_as_ordinary_text(spaced, ordinary):
    assert ordinary_text(spaced) == ordinary


@pytest.mark.parametrize(
    "text",
    [
        'He said "yes" and "no", then (quietly) "maybe".',
        "It's 5,000 - or 3.5 - of them; isn't it? The dogs' bowls: $5, 3%.",
        "a well-known 'quote' & more...",
    ],
)
def test_ordinary_text_stays(text):
    assert ordinary_text(text) == text


def test_spelling_twice_is_spelling_once():
    text = 'a " b " ( c ) , d @-@ e , f . " g . "'
    assert ordinary_text(ordinary_text(text)) == ordinary_text(text)


# Sentences


def test_headings_and_blank_lines_go_and_sentences_part():
    text = " = Title = \n \n A first one . And a second ? \n\n = = Part = = \n\n Third ! \n# Markdown\n"
    assert sentences(text) == ["A first one.", "And a second?", "Third!"]


@pytest.mark.parametrize(
    "whole",
    ["Mr. Smith met Dr. Jones.", "J. R. Smith of the U.S. Army came.", "He ran, e.g. To the sea.", "It is no. that."],
)
def test_abbreviations_end_no_sentence(whole):
    assert sentences(whole) == [whole]


def test_quotation_marks_stay_with_their_sentence():
    assert sentences('He said "Stop." Then "Go!" (Twice.) And left.') == [
        'He said "Stop."',
        'Then "Go!"',
        "(Twice.)",
        "And left.",
    ]


# Prompts


@pytest.mark.parametrize("prompt_tokens", [1, 4, 9])
def test_each_prompt_begins_a_sentence_and_has_exactly_its_tokens(tokenizer, prose, prompt_tokens):
    prompts = cut_prompts(prose, tokenizer, prompt_tokens=prompt_tokens)
    whole = sentences(prose)
    assert len(prompts) == len(set(prompts)) > 5
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert len(ids) == prompt_tokens
        fitting = [
            sentence
            for sentence in whole
            if sentence.startswith(prompt)
            and len(encoded := tokenizer(sentence, add_special_tokens=False)["input_ids"])
            >= prompt_tokens + SPARE_TOKENS
            and encoded[:prompt_tokens] == ids
            and not re.fullmatch(r"[a-z]{2}", sentence[len(prompt) - 1 : len(prompt) + 1])
        ]
        assert fitting, prompt


def test_all_that_can_be_cut_is_cut(tokenizer, prose):
    """Against a naive loop over sentences."""
    expected = set()
    for sentence in sentences(prose):
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        head = tokenizer.decode(ids[:6])
        inside = re.fullmatch(r"[a-z]{2}", sentence[len(head) - 1 : len(head) + 1])
        if len(ids) >= 10 and not inside and tokenizer(head, add_special_tokens=False)["input_ids"] == ids[:6]:
            expected.add(head)
    assert set(cut_prompts(prose, tokenizer, prompt_tokens=6)) == expected


def test_the_order_is_seeded_and_fewer_are_the_first_of_more(tokenizer, prose):
    def cut(**options):
        return cut_prompts(prose, tokenizer, prompt_tokens=5, **options)

    whole = cut(seed=3)
    assert cut(seed=3) == whole
    assert cut(seed=3, count=7) == whole[:7]
    assert cut(seed=3, count=7, spare=True) == whole
    assert sorted(cut(seed=4)) == sorted(whole)
    assert cut(seed=4) != whole


def test_repeated_sentences_give_one_prompt(tokenizer):
    assert len(cut_prompts("\n".join([TEXTS[3]] * 4), tokenizer, prompt_tokens=5)) == 1


def test_unknown_words_of_wikitext_are_never_prompts(tokenizer):
    text = f"{TEXTS[3]}\n{TEXTS[6]} <unk> and more words to come"
    (only,) = cut_prompts(text, tokenizer, prompt_tokens=3)
    assert TEXTS[3].startswith(only)


def test_too_few_prompts_are_told_with_the_mend(tokenizer):
    with pytest.raises(
        DposcopeError,
        match="gives 1 prompt of 5 tokens but 2 are needed; give a longer text, or choose fewer or shorter",
    ):
        cut_prompts(TEXTS[3], tokenizer, prompt_tokens=5, count=2, spare=True)
    for text in (" = Title = \n", "\n", "a", TEXTS[2]):
        with pytest.raises(DposcopeError, match="gives 0 prompts of 5 tokens but 1 are needed"):
            cut_prompts(text, tokenizer, prompt_tokens=5)


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("prompt_tokens", 0)])
def test_nothing_to_cut_is_refused(tokenizer, name, value):
    with pytest.raises(DposcopeError, match=f"{name} {value} is below 1; give a positive number"):
        cut_prompts(TEXTS[3], tokenizer, **{name: value})


def test_the_tokenizer_stays_as_it_is(tokenizer, prose):
    before = tokenizer.backend_tokenizer.to_str()
    cut_prompts(prose, tokenizer, prompt_tokens=4)
    assert tokenizer.backend_tokenizer.to_str() == before
