"""Long prompts of chat models are cut inside what the user says."""

import pytest

from dposcope.model.chat.asking import Turn
from dposcope.model.chat.cut import shortened
from dposcope.model.chat.prompts import prompt_texts, with_chat
from helpers.chats import BEGINS, with_template
from helpers.families import TEXTS

TALK = (
    Turn("system", "be kind"),
    Turn("user", "who is there"),
    Turn("assistant", "the old man"),
    Turn("user", "a cat"),
    Turn("assistant", "a mat"),
    Turn("user", "rain fell on the hills"),
)


def counted(lm, text):
    return len(lm.tokenizer(text, add_special_tokens=False)["input_ids"])


def naive(lm, text, most, keep):
    """The longest start or end of a text, by letters, with so many tokens by itself."""
    places = range(len(text), -1, -1)
    pieces = (text[:place] if keep == "start" else text[len(text) - place :] for place in places)
    return next(piece for piece in pieces if counted(lm, piece) <= most)


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("most", [1, 3, 7])
def test_a_message_is_cut_and_the_frame_is_whole(llama, most, keep):
    lm = with_chat(with_template(llama, BEGINS), system="be kind", wrap="go on: {prompt} ...")
    for text, told in zip(TEXTS, prompt_texts(lm, TEXTS, max_tokens=most, keep=keep), strict=True):
        before, after = "<bos>system: be kind\nuser: go on: ", " ...\nassistant:"
        assert told.startswith(before)
        assert told.endswith(after)
        kept = told[len(before) : -len(after)]
        assert text.startswith(kept) if keep == "start" else text.endswith(kept)
        assert counted(lm, kept) <= most
        # Cut at a token's edge, it may be shorter than a cut between letters would be, by less than a token.
        assert len(kept) >= len(naive(lm, text, most, keep)) - 8
        assert kept == text or counted(lm, kept) >= most - 1


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_very_long_message_is_cut_alike(llama, keep):
    text = " ".join(TEXTS * 2000)
    (kept,) = shortened(llama.tokenizer, [text], 9, keep=keep)
    edge = text[:2000] if keep == "start" else text[-2000:]
    assert [kept] == shortened(llama.tokenizer, [edge], 9, keep=keep)


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_tokenizer_that_cannot_tell_places_cuts_its_tokens(llama, keep, monkeypatch):
    expected = shortened(llama.tokenizer, TEXTS, 4, keep=keep)
    monkeypatch.setattr(type(llama.tokenizer), "is_fast", property(lambda _: False))
    assert shortened(llama.tokenizer, TEXTS, 4, keep=keep) == expected


def test_of_a_conversation_the_oldest_exchanges_go_first(llama):
    counts = [counted(llama, turn.content) for turn in TALK]
    whole = sum(counts[1:])
    for most, first in ((whole, 1), (whole - 1, 3), (sum(counts[3:]), 3), (sum(counts[3:]) - 1, 5), (counts[5], 5)):
        assert shortened(llama.tokenizer, [TALK], most, keep="end") == [(TALK[0], *TALK[first:])]
    (system, last), *_ = shortened(llama.tokenizer, [TALK], counts[5] - 1, keep="end")
    assert system == TALK[0]
    assert TALK[5].content.endswith(last.content)
    assert last != TALK[5]
