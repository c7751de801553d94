"""What is asked where a person gives no prompt."""

from typing import Final

from dposcope.data.prompts import load_prompts
from dposcope.model.language_model import LanguageModel

QUESTIONS: Final = (
    "What is the capital of France?",
    "My neighbour plays loud music every night. What shall I tell him?",
    "Write a short review of a bad restaurant.",
)
"""For chat models. Base models continue built-in beginnings, whose continuations are often rude."""


def own_prompts(lm: LanguageModel) -> list[str]:
    """A few prompts of the kind that the model takes: behind a wrapper or a prefill, beginnings of texts."""
    answers = lm.asking is not None and lm.asking.wrap is None and lm.asking.prefill is None
    return list(QUESTIONS) if answers else load_prompts(None, limit=len(QUESTIONS))
