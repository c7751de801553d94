"""Prompts cut from running text: the beginnings of its sentences, all of one length (paper 3.1: WikiText-2).

WikiText has spaces between its tokens ("role @-@ playing", "it 's , too ."). A model would continue a prompt in this
spelling, so the text is changed to ordinary spelling first. Text in ordinary spelling is not changed.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from transformers import PreTrainedTokenizerBase

from dposcope.data.given.numbers import seed_of, whole
from dposcope.data.texts import check_text
from dposcope.data.token_ids import check_tokenizer, first_ids, is_short, token_ids
from dposcope.errors import DposcopeError, plural

SPARE_TOKENS: Final = 4
"""A sentence must have so many tokens after the cut, so that there is something to continue."""

_HEADING: Final = re.compile(r"\s*=.*=\s*|\s*#+\s.*")
_QUOTED: Final = re.compile(r'(?<!\S)" ([^"]*?) "(?!\S)')
_AFTER_OPENING: Final = re.compile(r"(?<!\S)([(\[{$£€]) (?=\S)")
_BEFORE_CLOSING: Final = re.compile(r" ([.,;:!?%)\]}]+)(?=[\s\"]|$)")
_BEFORE_ENDING: Final = re.compile(r" (n't|'(?:s|t|re|ve|ll|d|m))(?!\w)")

# A sentence ends at its mark, including quotation marks and brackets after it, if a capital or a digit follows.
_SENTENCE_END: Final = re.compile(r"""(?<=[.!?])["')\]”’]*\s+(?=["'(\[“‘]?[A-Z0-9])""")
_ABBREVIATED: Final = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Mt|Prof|Rev|Gen|Col|Capt|Lt|Sgt|Gov|Sen|Rep|Jr|Sr|No|Nos|vs|cf|ca|etc"
    r"|e\.g|i\.e|U\.S|U\.K)\.$"
)


_LONGEST_END: Final = 16
"""Characters that hold an abbreviation with what stands before and after it."""
_SENTENCES: Final = 4096
"""At a time."""


def cut_prompts(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int | None = None,
    prompt_tokens: int = 20,
    seed: int = 0,
    spare: bool = False,
) -> list[str]:
    """Distinct beginnings of sentences, each exactly `prompt_tokens` tokens long, in a random order.

    Each line is a paragraph, as in WikiText. These are left out: headings, blank lines, sentences with `<unk>`,
    sentences that end within four tokens of the cut, and cuts inside a word or a character. A prompt that is tokenised
    alone has the same tokens as at the start of its sentence.

    Args:
        text: as `load_neutral` gives it.
        tokenizer: counts tokens, without special tokens.
        count: how many prompts; None: all.
        prompt_tokens: length of each.
        seed: seed of the order.
        spare: also give the other prompts, after the first `count`, as replacements.

    Raises:
        DposcopeError: the text gives fewer than `count` prompts, or none.
    """
    check_text("text", text)
    check_tokenizer(tokenizer)
    for name, value in (("count", count), ("prompt_tokens", prompt_tokens)):
        if value is not None and whole(name, value) < 1:
            raise DposcopeError(f"{name} {value} is below 1; give a positive number")
    beginnings = list(dict.fromkeys(_beginnings(text, tokenizer, prompt_tokens)))
    if len(beginnings) < (count or 1):
        raise DposcopeError(
            f"the text gives {plural(len(beginnings), 'prompt')} of {prompt_tokens} tokens but {count or 1:,} are "
            "needed; give a longer text, or choose fewer or shorter prompts"
        )
    order = np.random.default_rng(seed_of(seed)).permutation(len(beginnings))
    return [beginnings[int(index)] for index in order[: None if spare else count]]


def sentences(text: str) -> list[str]:
    """The sentences of running text in ordinary spelling, without headings and blank lines."""
    return [
        sentence
        for line in text.splitlines()
        if line.strip() and not _HEADING.fullmatch(line)
        for sentence in _split(ordinary_text(line.strip()))
    ]


def ordinary_text(line: str) -> str:
    """A line of WikiText in ordinary spelling: `role @-@ playing` → `role-playing`, `it 's , too .` → `it's, too.`"""
    for spaced, mark in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        line = line.replace(spaced, mark)
    line = _QUOTED.sub(r'"\1"', line)
    line = _AFTER_OPENING.sub(r"\1", line)
    line = _BEFORE_ENDING.sub(r"\1", line)
    return _BEFORE_CLOSING.sub(r"\1", line)


def _split(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        # The mark is before the match; quotation marks and brackets of the sentence are inside the match.
        last = end.start() + len(end.group().rstrip())
        if not _ABBREVIATED.search(paragraph[max(start, last - _LONGEST_END) : last]):
            yield paragraph[start:last]
            start = end.end()
    yield paragraph[start:]


def _beginnings(text: str, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int) -> Iterator[str]:
    for some in _some([sentence for sentence in sentences(text) if "<unk>" not in sentence]):
        encoded = _first(tokenizer, some, prompt_tokens + SPARE_TOKENS)
        rows = [row for row, ids in enumerate(encoded) if len(ids) >= prompt_tokens + SPARE_TOKENS]
        if not rows:
            continue
        heads = tokenizer.batch_decode([encoded[row][:prompt_tokens] for row in rows], skip_special_tokens=False)
        for row, head, again in zip(rows, heads, token_ids(tokenizer, heads, special=False), strict=True):
            sentence = some[row]
            same = again == encoded[row][:prompt_tokens] and sentence.startswith(head)
            if same and not _splits_a_word(sentence[len(head) - 1], sentence[len(head)]):
                yield head


def _some(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _SENTENCES):
        yield texts[start : start + _SENTENCES]


def _first(tokenizer: PreTrainedTokenizerBase, texts: list[str], count: int) -> list[list[int]]:
    """At least so many ids of each text, if it has them."""
    short = iter(token_ids(tokenizer, [text for text in texts if is_short(text, count)], special=False))
    return [
        next(short) if is_short(text, count) else first_ids(tokenizer, text, count, special=False, what="a sentence")
        for text in texts
    ]


def _splits_a_word(before: str, after: str) -> bool:
    """Whether both are letters with case, or digits. Scripts without case have no spaces and may be cut anywhere."""
    return all(char.lower() != char.upper() or char.isdigit() for char in (before, after))
