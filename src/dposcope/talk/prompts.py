"""What is asked where a person gives no prompt."""

from typing import Final

from dposcope.data.prompts import load_prompts
from dposcope.model.chat import Chat

QUESTIONS: Final = (
    "What is the capital of France?",
    "My neighbour plays loud music every night. What shall I tell him?",
    "Write a short review of a bad restaurant.",
)
"""For chat models. Base models continue built-in beginnings, whose continuations are often rude."""


def own_prompts(chat: Chat) -> list[str]:
    """A few prompts of the kind that the model takes."""
    return list(QUESTIONS) if chat.on else load_prompts(None, limit=len(QUESTIONS))
