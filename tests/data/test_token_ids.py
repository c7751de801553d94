"""Ids of long texts: those of the whole text, for every kind of tokenizer, though only parts of it are read."""

import random
from dataclasses import replace

import numpy as np
import pytest

from dposcope.data import token_ids as module
from dposcope.data.token_ids import TokenStream, agreed, first_ids, is_short, settled, token_counts, token_ids
from dposcope.errors import DposcopeError
from dposcope.model.batches import encode
from dposcope.model.language_model import LanguageModel
from helpers.families import TEXTS
from helpers.tokenizers import TOKENIZERS

SPECIALS = ["<end>", "<bos>", "<eos>", "</s>", "[SEP]", "<unk>"]


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in TOKENIZERS.items()}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


@pytest.mark.parametrize("text", ["the old man, by the river.", "ten times ten is a hundred"])
def test_texts_of_tokens_are_those_within_the_text(tokenizer, text):
    """Joined they are the text, whatever a tokenizer does with spaces at the start."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = module.token_texts(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found).lstrip() == tokenizer.decode(ids).lstrip()
    alone = module.token_texts(tokenizer, ids[-1:])
    assert alone == found[-1:]
    assert module.token_texts(tokenizer, []) == []


@pytest.mark.parametrize("text", ["the old man, by the river.", "ten times ten is a hundred", "stone"])
def test_what_was_written_behind_a_prompt_is_its_text_there(tokenizer, text):
    """With the space at its start, which some tokenizers take from what they decode first."""
    for cut in range(1, len(text)):
        head, whole = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text[:cut], text))
        if not head or whole[: len(head)] != head or whole == head:
            continue
        after = module.continued_texts(tokenizer, [whole[len(head) :]], special=False)
        assert after == [tokenizer.decode(whole).removeprefix(tokenizer.decode(head))]
        if after[0].startswith(" ") and tokenizer.decode(whole) == text:
            assert module.continued_ids(tokenizer, after) == [whole[len(head) :]]
    assert module.continued_texts(tokenizer, [[]], special=False) == [""]
    assert module.continued_texts(tokenizer, [], special=False) == []


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Texts of some thousand characters are long here."""
    for name, value in {"AT_ONCE": 4000, "LEAST": 128, "PER_TOKEN": 4, "OVERLAP": 256, "SEAM": 6}.items():
        monkeypatch.setattr(module, name, value)


def texts(count: int, *, seed: int = 0, spaces: bool = False) -> list[str]:
    """Long texts of all sorts: prose, numbers, marks, other scripts, runs, tokens that are special.

    Without `spaces` some are one word of thousands of letters, or nothing but blanks.
    """
    draw = random.Random(seed)
    words = [word for text in TEXTS for word in text.split()]
    sources = [
        lambda: " ".join(draw.choice(words) for _ in range(draw.randint(1, 30))),
        lambda: "".join(draw.choice("abcxyz .,") for _ in range(draw.randint(1, 60))),
        lambda: "".join(draw.choice("äß漢字🙂é́\u200d\x00\t") for _ in range(draw.randint(1, 20))),
        lambda: draw.choice(["\n", "\n\n", "  ", " \t ", "\r\n", ". ", "…"]),
        lambda: draw.choice("a .0漢\n") * draw.randint(1, 70),
        lambda: str(draw.randint(0, 10 ** draw.randint(1, 30))),
        lambda: draw.choice(SPECIALS),
    ]
    made: list[str] = []
    for _ in range(count):
        kinds = draw.sample(sources, draw.randint(4 if spaces else 1, len(sources)))
        text = ""
        while len(text) < 3900:
            text += draw.choice(kinds)() + draw.choice([" "] if spaces else ["", " "])
        made.append(text)
    return made


def alone(tokenizer, text: str, *, special: bool) -> list[int]:
    return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def naive(tokenizer, text: str, count: int, keep: str) -> list[int]:
    """The definition: the whole text, then the cut."""
    ids = alone(tokenizer, text, special=True)
    if len(ids) <= count:
        return ids
    if keep == "start":
        return ids[:count]
    head = ids[:1] if ids[0] in tokenizer.all_special_ids else []
    return head + ids[len(ids) - count + len(head) :]


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_cut_text_has_the_tokens_of_the_whole(gpt2, tokenizer, keep, monkeypatch):
    lm = LanguageModel(gpt2.model, tokenizer, "m")
    longest: list[int] = []

    def watched(tokenizer, texts, *, special):
        longest.extend(map(len, texts))
        return token_ids(tokenizer, texts, special=special)

    monkeypatch.setattr("dposcope.model.batches.token_ids", watched)
    monkeypatch.setattr(module, "token_ids", watched)
    parts = 0
    for number, text in enumerate(texts(60)):
        count = 1 + number % 40
        longest.clear()
        assert encode(lm, [text], max_tokens=count, keep=keep)[0] == naive(tokenizer, text, count, keep), repr(text)
        parts += max(longest) < len(text)
    assert parts > 30, "most of them were not read whole"


def test_many_texts_are_read_a_few_at_a_time(tokenizer, monkeypatch):
    some = [text[: 100 * number] for number, text in enumerate(texts(20, seed=1))]
    assert token_ids(tokenizer, some, special=True) == [alone(tokenizer, text, special=True) for text in some]
    assert token_ids(tokenizer, [], special=True) == []
    groups = list(module._groups(some))
    assert [text for group in groups for text in group] == some
    assert max(sum(map(len, group)) for group in groups if len(group) > 1) <= module.AT_ONCE


def test_pieces_of_a_stream_are_the_whole(tokenizer):
    """Each text is several pieces long."""
    for seed in range(6):
        text = "".join(texts(5, seed=10 + seed, spaces=True))
        pieces = list(TokenStream(tokenizer, text))
        assert len(pieces) >= 8
        assert np.concatenate(pieces).tolist() == alone(tokenizer, text, special=False)


def test_a_stream_reads_no_further_than_it_is_asked(tokenizer, monkeypatch):
    text = "".join(texts(10, seed=3, spaces=True))
    read: list[int] = []
    whole = TokenStream._read
    monkeypatch.setattr(TokenStream, "_read", lambda self, start, end: read.append(end) or whole(self, start, end))
    next(iter(TokenStream(tokenizer, text)))
    assert max(read) < len(text) / 4


def test_a_short_text_is_one_piece(tokenizer):
    for text in ("", "a", texts(1)[0]):
        assert [piece.tolist() for piece in TokenStream(tokenizer, text)] == [alone(tokenizer, text, special=False)]


def test_texts_are_counted(tokenizer):
    some = ["", "a quiet day", "".join(texts(3, seed=5, spaces=True)), "the sea"]
    assert token_counts(tokenizer, some).tolist() == [len(alone(tokenizer, text, special=False)) for text in some]


@pytest.mark.parametrize("letter", ["a", " ", ".", "漢", "\n", "0"])
@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_run_of_one_character_is_cut_right_or_refused(gpt2, tokenizer, letter, keep):
    """Where its tokens begin may depend on the length of the whole run; and it may give no token at all."""
    lm = LanguageModel(gpt2.model, tokenizer, "m")
    for length in (3990, 3997, 4999, 6001):
        text = letter * length
        whole = naive(tokenizer, text, 9, keep)
        if not whole:
            continue
        try:
            found = encode(lm, [text], max_tokens=9, keep=keep)[0]
        except DposcopeError:
            assert length > module.AT_ONCE, "it could have been read whole"
        else:
            assert found == whole


def test_what_keeps_a_cut_away():
    assert settled(range(32))
    assert not settled(range(31))
    assert not settled([7, 8] * 100), "a run, however long"


def test_a_text_that_is_used_whole_has_a_limit(gpt2):
    encode(gpt2, ["a " * 2000])
    with pytest.raises(DposcopeError, match=r"text 2 has 4,002 characters, too many .*; shorten it to 4,000"):
        encode(gpt2, ["a", "a " * 2001])


def test_a_stream_without_a_seam_is_refused(tokenizers):
    """No token begins in some thousand characters."""
    with pytest.raises(DposcopeError, match=r"the text has 9,001 characters, too many .*; shorten it to 4,000"):
        list(TokenStream(tokenizers["word pieces, as in BERT"], "a" + " " * 9000))


def test_a_tokenizer_that_cannot_tell_places_reads_a_text_whole_or_not_at_all(tokenizers, monkeypatch):
    slow = tokenizers["byte pairs"]
    monkeypatch.setattr(type(slow), "is_fast", property(lambda _: False))
    assert len(list(TokenStream(slow, "a " * 2000))) == 1
    with pytest.raises(DposcopeError, match=r"shorten it to 4,000"):
        list(TokenStream(slow, "a " * 2001))


def test_parts_must_agree():
    read: list[int] = []

    def changing(size: int) -> int | None:
        read.append(size)
        return None if size < 200 else min(size, 1000)

    assert agreed(changing, length=10**6, tokens=1, what="it") == 1000
    assert read == [128, 257, 515, 1031, 2063], "until two are the same"
    read.clear()
    assert agreed(changing, length=700, tokens=1, what="it") == 700
    assert read[-1] == 700, "a text that ends before is read whole"
    with pytest.raises(DposcopeError, match=r"it has 5,000 characters"):
        agreed(lambda size: size, length=5000, tokens=1, what="it")


def test_what_needs_many_tokens_may_be_longer():
    assert is_short("a" * 16 * 1000, 1000)
    assert not is_short("a" * 16 * 1001, 1000)
    assert agreed(lambda size: size, length=16_000, tokens=1000, what="it") == 16_000


def test_first_ids_of_nothing(tokenizers):
    assert first_ids(tokenizers["byte pairs"], "", 5, special=True, what="it") == []


def test_the_seam_needs_all_of_its_tokens(tokenizers):
    """Two pieces that differ in one token within the run are not joined there."""
    stream = TokenStream(tokenizers["byte pairs"], texts(1)[0])
    piece, following = stream._read(0, 1000), stream._read(600, 1600)
    seam = module._seam(piece, following)
    assert seam is not None
    ids = following.ids.copy()
    ids[seam.first + module.SEAM - 1] += 1
    later = module._seam(piece, replace(following, ids=ids))
    assert later is None or later.first > seam.first
