"""Long prompts of chat models, cut inside what the user says: the template's frame stays whole."""

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from dposcope.data.token_ids import agreed, is_short, settled, token_ids
from dposcope.model.chat.asking import Prompt, Turn

Side = Literal["start", "end"]


def shortened(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], most: int, *, keep: Side) -> list[Prompt]:
    """Prompts of at most so many tokens, each message counted by itself; frame and system prompt are not counted.

    Of a long conversation its oldest exchanges are left out, whole, before the last message is cut.

    Args:
        tokenizer: gives the tokens.
        prompts: texts or conversations.
        most: tokens.
        keep: which side of a long message is kept.
    """
    lasts = [prompt if isinstance(prompt, str) else prompt[-1].content for prompt in prompts]
    cut = _cut_texts(tokenizer, lasts, most, keep)
    return [
        last if isinstance(prompt, str) else _recent(tokenizer, prompt, Turn("user", last), most)
        for prompt, last in zip(prompts, cut, strict=True)
    ]


def _recent(tokenizer: PreTrainedTokenizerBase, prompt: tuple[Turn, ...], last: Turn, most: int) -> tuple[Turn, ...]:
    """The newest turns that fit, from one of the user's on."""
    system = prompt[:1] if prompt[0].role == "system" else ()
    earlier = prompt[len(system) : -1]
    counts = [_count(tokenizer, turn.content, most) for turn in (*earlier, last)]
    starts = [at for at, turn in enumerate(earlier) if turn.role == "user" and sum(counts[at:]) <= most]
    return (*system, *earlier[starts[0] if starts else len(earlier) :], last)


def _count(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> int:
    """Tokens of a text; of one too long to be read whole, more than fit."""
    return len(token_ids(tokenizer, [text], special=False)[0]) if is_short(text, most) else most + 1


def _cut_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int, keep: Side) -> list[str]:
    short = [text for text in texts if is_short(text, most)]
    counts = dict(zip(short, map(len, token_ids(tokenizer, short, special=False)), strict=True))
    return [
        text if counts.get(text, most + 1) <= most else _cut(tokenizer, text, most, keep, f"prompt {row + 1}")
        for row, text in enumerate(texts)
    ]


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, most: int, keep: Side, what: str) -> str:
    """The start or the end of a text that has so many tokens by itself."""

    def read(size: int) -> str | None:
        part = text[:size] if keep == "start" else text[-size:]
        ids = token_ids(tokenizer, [part], special=False)[0]
        if size < len(text) and not settled(ids[most:] if keep == "start" else ids[:-most]):
            return None
        spans = _spans(tokenizer, part) if tokenizer.is_fast else None
        for used in range(min(most, len(ids)), 0, -1):
            if spans is None:
                piece = tokenizer.decode(ids[:used] if keep == "start" else ids[-used:])
                assert isinstance(piece, str)
            else:
                piece = part[: spans[used - 1][1]] if keep == "start" else part[spans[-used][0] :]
            # Alone, it may be divided otherwise than within the text.
            if len(token_ids(tokenizer, [piece], special=False)[0]) <= most:
                return piece
        return ""

    return read(len(text)) or "" if is_short(text, most) else agreed(read, length=len(text), tokens=most, what=what)


def _spans(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """Where in the text each token begins and ends."""
    found: Any = tokenizer(
        text, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False
    )
    return found["offset_mapping"]
