"""The bundled models, talked to by the commands that people type."""

import json

import pytest

from dposcope.model.bundled import BUNDLED
from helpers.jobs import command

pytestmark = pytest.mark.real

CHAT = "smollm2-135m-instruct"


def written(capsys, model: str, prompt: str, *options: str) -> list[str]:
    """The texts at strengths 0 and 1."""
    told = command(capsys, "generate", model, "--prompt", prompt, "--new-tokens", "16", "--json", "--quiet", *options)
    assert told.code == 0, told.err
    (one,) = json.loads(told.out)["texts"]
    return [answer["text"] for answer in one["answers"]]


@pytest.mark.skipif(not BUNDLED[CHAT].ready, reason=BUNDLED[CHAT].mend)
def test_a_chat_model_answers_through_its_template(capsys):
    question = "What is the capital of France?"
    assert all("Paris" in text for text in written(capsys, CHAT, question, "--chat", "auto"))
    assert "Paris" not in written(capsys, CHAT, question, "--chat", "off")[0]


def test_the_edit_that_comes_with_a_model_changes_its_text(capsys):
    plain, edited = written(capsys, "gemma-3-270m", "He was, in the opinion of everyone, a pompous")
    assert plain.strip()
    assert edited.strip()
    assert plain != edited
