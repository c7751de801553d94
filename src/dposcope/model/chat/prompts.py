"""Prompts as the model reads them: every place that reads prompts, and not any text, encodes them here.

Without `LanguageModel.asking` a prompt is text that the model continues, and nothing differs from `encode`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dposcope.artefacts import text_digest
from dposcope.data.texts import check_text
from dposcope.data.token_ids import check_whole, token_ids
from dposcope.errors import DposcopeError
from dposcope.model.batches import check_cut, encode
from dposcope.model.chat.asking import ChatMode, ChatOptions, Prompt
from dposcope.model.chat.cut import Side, shortened
from dposcope.model.checks.given import check_lm
from dposcope.model.language_model import LanguageModel


def with_chat(
    lm: LanguageModel,
    mode: ChatMode = "auto",
    *,
    system: str | None = None,
    wrap: str | None = None,
    prefill: str | None = None,
) -> LanguageModel:
    """The same model, asked through the chat template of its tokenizer, or not.

    Args:
        lm: model and tokenizer.
        mode: auto: on where the tokenizer has a template.
        system: the system prompt; None: the template's own, or none.
        wrap: what the user says, with {prompt} once in it; None: the prompt itself.
        prefill: how the model's answer begins, with the prompt where it says {prompt}; None: the model begins it.

    Raises:
        DposcopeError: there is no template, or it fails; or a system prompt, a wrapper or a prefill is given that has
            no place.
    """
    for name, text in (("system", system), ("wrap", wrap), ("prefill", prefill)):
        if text is not None:
            check_text(name, text)
    return asked_by(lm, ChatOptions(mode, system, wrap, prefill))


def asked_by(lm: LanguageModel, options: ChatOptions) -> LanguageModel:
    """`with_chat` with options that are one value."""
    check_lm(lm)
    return replace(lm, asking=options.asking(lm.tokenizer, name=lm.name))


def asked_like(lm: LanguageModel, other: LanguageModel) -> LanguageModel:
    """A model of another kind, asked as `other` is, through its own template; without one, by text."""
    if other.asking is None or not lm.tokenizer.chat_template:
        return lm
    return with_chat(lm, "on", system=other.asking.system, wrap=other.asking.wrap, prefill=other.asking.prefill)


def asked_how(lm: LanguageModel) -> Mapping[str, Any]:
    """What results depend on beside data and weights, for stages and records: digest of the template, system prompt,
    wrapper, and the prefill where there is one. Empty without a template."""
    asking = lm.asking
    if asking is None:
        return {}
    told = {"template": text_digest(asking.template), "system": asking.system, "wrap": asking.wrap}
    return {"asking": told if asking.prefill is None else told | {"prefill": asking.prefill}}


def asked_notes(lm: LanguageModel) -> list[str]:
    """The same in a sentence for reports; none without a template."""
    return [] if lm.asking is None else [f"{lm.asking}."]


def encode_prompts(
    lm: LanguageModel, prompts: Sequence[Prompt], *, max_tokens: int | None = None, keep: Side = "end"
) -> list[list[int]]:
    """Token ids of prompts, each a conversation of its own where the model is asked through a template.

    Args:
        lm: model and tokenizer.
        prompts: texts, or conversations.
        max_tokens: longer prompts are cut to so many tokens; None: never. Of a chat model, only what is said counts
            and is cut, and the template's frame stays whole around it (see `shortened`).
        keep: which side of a long prompt is kept.

    Raises:
        DposcopeError: a prompt is too long to be read, or has no token; the template fails; or a conversation meets a
            model that is asked without a template.
    """
    check_lm(lm)
    if lm.asking is None:
        return encode(lm, prompt_texts(lm, prompts), max_tokens=max_tokens, keep=keep)
    # A prompt is often given many times in a row, to be sampled.
    once = list(dict.fromkeys(prompts))
    texts = prompt_texts(lm, once, max_tokens=max_tokens, keep=keep)
    for row, text in enumerate(texts):
        check_whole(len(text), f"prompt {row + 1}")
    found = dict(zip(once, token_ids(lm.tokenizer, texts, special=False), strict=True))
    if not all(found.values()):
        raise DposcopeError(f"the chat template of {lm.name} makes no token of a prompt; use --chat off")
    return [found[prompt] for prompt in prompts]


def prompt_texts(
    lm: LanguageModel, prompts: Sequence[Prompt], *, max_tokens: int | None = None, keep: Side = "end"
) -> list[str]:
    """The text of each prompt, up to where the model writes.

    Behind a template it has all special tokens in it: the tokenizer must add none (`adds_special`).

    Args:
        lm: model and tokenizer.
        prompts: texts, or conversations.
        max_tokens: see `encode_prompts`. Without a template, texts are not cut here.
        keep: see `encode_prompts`.

    Raises:
        DposcopeError: see `encode_prompts`.
    """
    if lm.asking is None:
        return [_alone(lm, prompt) for prompt in prompts]
    if max_tokens is not None:
        check_cut(max_tokens, keep)
        prompts = shortened(lm.tokenizer, prompts, max_tokens, keep=keep)
    return [lm.asking.render(lm.tokenizer, prompt, name=lm.name) for prompt in prompts]


def adds_special(lm: LanguageModel) -> bool:
    """Whether the tokenizer adds its special tokens to a prompt; a template writes them itself."""
    return lm.asking is None


def _alone(lm: LanguageModel, prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0].content
    raise DposcopeError(
        f"a prompt is a conversation of {len(prompt)} messages, and {lm.name} is asked without a chat template; give a "
        "chat model, with --chat on, or prompts that are texts"
    )
