"""Pairs and neutral text as token ids, ready to be packed into batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dposcope.data.given.numbers import seed_of, whole
from dposcope.data.masking import mask_offensive
from dposcope.data.short import short_repr
from dposcope.data.texts import check_text
from dposcope.data.token_ids import TokenStream, agreed, continued_ids, is_short, settled, token_ids
from dposcope.errors import DposcopeError, plural
from dposcope.model.chat.asking import Prompt
from dposcope.model.chat.prompts import adds_special, encode_prompts, prompt_texts
from dposcope.model.checks.given import check_lm
from dposcope.model.checks.tokens import check_ids
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.harmless import HarmlessTexts
from dposcope.pairs.pairs import Pairs, check_given


@dataclass(frozen=True)
class Example:
    """A prompt and its completions. No completion sees another one."""

    prompt: tuple[int, ...]
    """At least one token. A window of neutral text stands here too, and has no completions."""
    completions: tuple[tuple[int, ...], ...] = ()
    """The preferred and the dispreferred completion, at least one token each."""

    __repr__ = short_repr


def tokenise(
    lm: LanguageModel, pairs: Pairs, *, max_prompt_tokens: int = 64, max_completion_tokens: int = 64
) -> list[Example]:
    """Token ids of pairs: the end of a long prompt, the start of a long completion (paper, Table 9: 64 and 64).

    Prompt and completion are tokenised as one text, so that a completion gets the tokens that a model would write.
    Where this would change the prompt's tokens, the completion is tokenised alone. An empty prompt becomes the
    beginning-of-text token, or the end-of-text token if the tokenizer has no other.

    A model that is asked through its chat template gets every prompt as a message, an empty one too; its limit is on
    what is said, and the frame of the template comes on top. Where completions are whole answers, it learns to end
    them: one that is not cut ends with the token that its template writes there.

    Args:
        lm: gives the tokenizer.
        pairs: the texts.
        max_prompt_tokens: most tokens of a prompt, special ones counted.
        max_completion_tokens: most tokens of a completion.

    Raises:
        DposcopeError: a completion has no token, a limit is below 1, or the model's context is too short.
    """
    check_lm(lm)
    check_given(pairs)
    if min(whole("max_prompt_tokens", max_prompt_tokens), whole("max_completion_tokens", max_completion_tokens)) < 1:
        raise DposcopeError(
            f"{max_prompt_tokens} tokens of prompt and {max_completion_tokens} of completion leave nothing to learn; "
            "give 1 or more of each"
        )
    if max_prompt_tokens + max_completion_tokens > lm.context_length:
        raise DposcopeError(
            f"{max_prompt_tokens} tokens of prompt and {max_completion_tokens} of completion exceed the model's "
            f"context of {lm.context_length:,}; lower --max-prompt-tokens or --max-completion-tokens"
        )
    prompts = _prompts(lm, pairs.asked, max_prompt_tokens)
    heads = prompt_texts(lm, pairs.asked, max_tokens=max_prompt_tokens)
    ending = None if lm.asking is None or not pairs.whole else lm.asking.ending(lm.tokenizer, name=lm.name)
    sides = [
        [
            _ended(
                _completion(lm, head, text, max_completion_tokens, f"a completion of pair {row + 1}"),
                ending,
                max_completion_tokens,
            )
            for row, (head, text) in enumerate(zip(heads, texts, strict=True))
        ]
        for texts in (pairs.preferred, pairs.dispreferred)
    ]
    examples: list[Example] = []
    for row, (prompt, preferred, dispreferred) in enumerate(zip(prompts, *sides, strict=True)):
        if not preferred or not dispreferred:
            shown = mask_offensive((pairs.preferred, pairs.dispreferred)[bool(preferred)][row])[:40]
            raise DposcopeError(f"a completion of pair {row + 1} has no token ({shown!r}); remove that pair")
        _check_length(lm, len(prompt) + max(len(preferred), len(dispreferred)), f"pair {row + 1}")
        check_ids(lm, (*prompt, *preferred, *dispreferred))
        examples.append(Example(tuple(prompt), (tuple(preferred), tuple(dispreferred))))
    return examples


def _ended(completion: list[int], ending: int | None, most: int) -> list[int]:
    """A completion with the token that ends an answer, if there is one and room for it."""
    return completion if ending is None or not completion or len(completion) >= most else [*completion, ending]


def _start(lm: LanguageModel) -> list[int]:
    for token in (lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id):
        if isinstance(token, int):
            return [token]
    raise DposcopeError("these pairs have no prompts, and the tokenizer has no token that begins a text; give prompts")


def _check_length(lm: LanguageModel, tokens: int, what: str) -> None:
    """Of a chat model the template's frame comes on top of both limits."""
    if tokens > lm.context_length:
        raise DposcopeError(
            f"{what} has {tokens:,} tokens in the chat template, and the model's context is {lm.context_length:,}; "
            "lower --max-prompt-tokens or --max-completion-tokens"
        )


def _prompts(lm: LanguageModel, prompts: Sequence[Prompt], most: int) -> list[list[int]]:
    """The last tokens of each prompt; a special token at its start is kept where there is room for another one."""
    if lm.asking is not None:
        return encode_prompts(lm, prompts, max_tokens=most)
    given = iter(encode_prompts(lm, [prompt for prompt in prompts if prompt], max_tokens=max(most, 2)))
    return [next(given)[-most:] if prompt else _start(lm) for prompt in prompts]


def _completion(lm: LanguageModel, prompt: str, text: str, most: int, what: str) -> list[int]:
    """The first tokens of a completion after a prompt as the model reads it."""
    if is_short(prompt, most) and is_short(text, most):
        return _continued(lm, prompt, text)[:most]

    def read(size: int) -> list[int] | None:
        ids = _continued(lm, prompt[-size:], text[:size])
        return ids[:most] if size >= len(text) or settled(ids[most:]) else None

    return agreed(read, length=max(len(prompt), len(text)), tokens=most, what=what)


def _continued(lm: LanguageModel, prompt: str, text: str) -> list[int]:
    if prompt:
        prompt_ids, whole = token_ids(lm.tokenizer, [prompt, prompt + text], special=adds_special(lm))
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
    return continued_ids(lm.tokenizer, [text])[0]


def neutral_windows(lm: LanguageModel, text: str, *, count: int, length: int = 128, seed: int = 0) -> list[Example]:
    """Windows drawn at random from neutral text, each with the beginning-of-text token first (if there is one).

    Args:
        lm: gives the tokenizer.
        text: neutral text, tokenised once.
        count: how many windows; they may overlap.
        length: tokens per window.
        seed: seed of the random draw.

    Raises:
        DposcopeError: the text is shorter than one window, or a window holds nothing to predict.
    """
    check_lm(lm)
    check_text("text", text)
    if whole("count", count) < 0:
        raise DposcopeError(f"{count} windows cannot be drawn; give 0 or more")
    if whole("length", length) < 2:
        raise DposcopeError(f"windows of {plural(length, 'token')} hold nothing to predict; give 2 or more")
    ids = TokenStream(lm.tokenizer, text).whole()
    begin = lm.tokenizer.bos_token_id
    head = (int(begin),) if isinstance(begin, int) else ()
    check_ids(lm, (*head, *ids))
    room = min(length, lm.context_length) - len(head)
    if len(ids) < room:
        raise DposcopeError(
            f"the neutral text has {len(ids):,} tokens, fewer than a window of {room}; use a longer text"
        )
    starts = np.random.default_rng(seed_of(seed)).integers(0, len(ids) - room + 1, size=count)
    return [Example((*head, *ids[start : start + room].tolist())) for start in starts.tolist()]


def harmless_windows(
    lm: LanguageModel, texts: HarmlessTexts, *, max_prompt_tokens: int = 64, max_completion_tokens: int = 64
) -> list[Example]:
    """Each harmless text behind its prompt, as a window: the KL is on all its tokens.

    Args:
        lm: gives the tokenizer.
        texts: what the model wrote itself.
        max_prompt_tokens: a longer prompt keeps its end.
        max_completion_tokens: a longer completion keeps its start.

    Raises:
        DposcopeError: the model's context is too short.
    """
    if max_prompt_tokens + max_completion_tokens > lm.context_length:
        raise DposcopeError(
            f"{max_prompt_tokens} tokens of prompt and {max_completion_tokens} of completion exceed the model's "
            f"context of {lm.context_length:,}; lower --max-prompt-tokens or --max-completion-tokens"
        )
    windows: list[Example] = []
    asked = prompt_texts(lm, texts.prompts, max_tokens=max_prompt_tokens)
    rows = zip(asked, _prompts(lm, texts.prompts, max_prompt_tokens), texts.completions, strict=True)
    for row, (prompt, head, completion) in enumerate(rows):
        ids = _completion(lm, prompt, completion, max_completion_tokens, f"harmless text {row + 1}")
        _check_length(lm, len(head) + len(ids), f"harmless text {row + 1}")
        check_ids(lm, (*head, *ids))
        windows.append(Example((*head, *ids)))
    return [window for window in windows if len(window.prompt) > 1]


def drawn(indices: Sequence[int], *, pool: int, count: int, seed: int) -> list[int]:
    """Which windows of a pool go with a batch. Only the batch's members decide this, so that a resumed run draws the
    same windows as a run that was never interrupted."""
    stream = np.random.default_rng([seed, *sorted(indices)])
    return stream.choice(pool, size=min(count, pool), replace=False).tolist()
