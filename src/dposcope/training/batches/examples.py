"""Pairs and neutral text as token ids, ready to be packed into batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dposcope.data.masking import mask_offensive
from dposcope.errors import DposcopeError, plural
from dposcope.model.batches import encode
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.harmless import HarmlessTexts
from dposcope.pairs.pairs import Pairs


@dataclass(frozen=True)
class Example:
    """A prompt and its completions. No completion sees another one."""

    prompt: tuple[int, ...]
    """At least one token. A window of neutral text stands here too, and has no completions."""
    completions: tuple[tuple[int, ...], ...] = ()
    """The preferred and the dispreferred completion, at least one token each."""


def tokenise(
    lm: LanguageModel, pairs: Pairs, *, max_prompt_tokens: int = 64, max_completion_tokens: int = 64
) -> list[Example]:
    """Token ids of pairs: the end of a long prompt, the start of a long completion (paper, Table 9: 64 and 64).

    Prompt and completion are tokenised as one text, so that a completion gets the tokens that a model would write.
    Where this would change the prompt's tokens, the completion is tokenised alone. An empty prompt becomes the
    beginning-of-text token, or the end-of-text token if the tokenizer has no other.

    Args:
        lm: gives the tokenizer.
        pairs: the texts.
        max_prompt_tokens: most tokens of a prompt, special ones counted.
        max_completion_tokens: most tokens of a completion.

    Raises:
        DposcopeError: a completion has no token, a limit is below 1, or the model's context is too short.
    """
    if min(max_prompt_tokens, max_completion_tokens) < 1:
        raise DposcopeError(
            f"{max_prompt_tokens} tokens of prompt and {max_completion_tokens} of completion leave nothing to learn; "
            "give 1 or more of each"
        )
    if max_prompt_tokens + max_completion_tokens > lm.context_length:
        raise DposcopeError(
            f"{max_prompt_tokens} tokens of prompt and {max_completion_tokens} of completion exceed the model's "
            f"context of {lm.context_length:,}; lower --max-prompt-tokens or --max-completion-tokens"
        )
    prompts = [_start(lm) if not prompt else encode(lm, [prompt])[0] for prompt in pairs.prompts]
    sides = [
        [_completion(lm, prompt, text, ids) for prompt, text, ids in zip(pairs.prompts, texts, prompts, strict=True)]
        for texts in (pairs.preferred, pairs.dispreferred)
    ]
    examples: list[Example] = []
    for row, (prompt, preferred, dispreferred) in enumerate(zip(prompts, *sides, strict=True)):
        if not preferred or not dispreferred:
            shown = mask_offensive((pairs.preferred, pairs.dispreferred)[bool(preferred)][row])[:40]
            raise DposcopeError(f"a completion of pair {row + 1} has no token ({shown!r}); remove that pair")
        completions = (tuple(preferred[:max_completion_tokens]), tuple(dispreferred[:max_completion_tokens]))
        examples.append(Example(tuple(_end(lm, prompt, max_prompt_tokens)), completions))
    return examples


def _start(lm: LanguageModel) -> list[int]:
    for token in (lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id):
        if isinstance(token, int):
            return [token]
    raise DposcopeError("these pairs have no prompts, and the tokenizer has no token that begins a text; give prompts")


def _completion(lm: LanguageModel, prompt: str, text: str, prompt_ids: list[int]) -> list[int]:
    if prompt:
        whole = encode(lm, [prompt + text])[0]
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
    ids: list[int] = lm.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]  # pyright: ignore[reportAssignmentType]
    return ids


def _end(lm: LanguageModel, ids: list[int], most: int) -> list[int]:
    """The last tokens of a long prompt; a special token at its start is kept."""
    if len(ids) <= most:
        return ids
    head = ids[:1] if ids[0] in lm.special_ids and most > 1 else []
    return head + ids[len(ids) - (most - len(head)) :]


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
    if length < 2:
        raise DposcopeError(f"windows of {plural(length, 'token')} hold nothing to predict; give 2 or more")
    ids: list[int] = lm.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]  # pyright: ignore[reportAssignmentType]
    begin = lm.tokenizer.bos_token_id
    head = (int(begin),) if isinstance(begin, int) else ()
    room = min(length, lm.context_length) - len(head)
    if len(ids) < room:
        raise DposcopeError(
            f"the neutral text has {len(ids):,} tokens, fewer than a window of {room}; use a longer text"
        )
    starts = np.random.default_rng(seed).integers(0, len(ids) - room + 1, size=count)
    return [Example((*head, *ids[start : start + room])) for start in starts.tolist()]


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
    for prompt, completion in zip(texts.prompts, texts.completions, strict=True):
        head = _start(lm) if not prompt else encode(lm, [prompt])[0]
        ids = _completion(lm, prompt, completion, head)[:max_completion_tokens]
        windows.append(Example((*_end(lm, head, max_prompt_tokens), *ids)))
    return [window for window in windows if len(window.prompt) > 1]


def drawn(indices: Sequence[int], *, pool: int, count: int, seed: int) -> list[int]:
    """Which windows of a pool go with a batch. Only the batch's members decide this, so that a resumed run draws the
    same windows as a run that was never interrupted."""
    stream = np.random.default_rng([seed, *sorted(indices)])
    return stream.choice(pool, size=min(count, pool), replace=False).tolist()
