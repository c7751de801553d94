"""A server of completions whose answers are a tiny model's."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from dposcope.data.token_ids import token_ids
from dposcope.model.generate import Sampling, continue_ids
from dposcope.model.language_model import LanguageModel
from helpers.endpoints import Answer, Request, Script

NAMES = ("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "n", "stream")
"""Fields that OpenAI has."""


@dataclass(frozen=True)
class Manners:
    """How the server speaks."""

    takes_ids: bool = True
    """Whether prompts may be token ids."""
    takes_further: bool = True
    """Whether fields may be given that OpenAI has not."""
    tells_ids: bool = False
    """Whether it says the ids of what it wrote."""
    adds: int = 0
    """Tokens of its own that it says to have read with each prompt."""
    lists: bool = True
    """Whether it lists its models."""


def models(*names: str) -> Answer:
    data = [{"id": name, "object": "model", "created": 7, "root": f"folder/{name}"} for name in names]
    return Answer(body=json.dumps({"object": "list", "data": data}))


def refused(why: str, status: int = 400) -> Answer:
    return Answer(status, json.dumps({"error": {"message": why}}))


def text(said: str, **further) -> Answer:
    return Answer(body=json.dumps({"choices": [{"text": said, "index": 0}], **further}))


def writing(served: dict[str, LanguageModel], manners: Manners = Manners()) -> Script:
    """Name → its model."""
    lock = Lock()

    def script(request: Request) -> Answer:
        if request.method == "GET":
            return models(*served) if manners.lists else refused("no such path", 404)
        with lock:
            return _answer(served, manners, request.body)

    return script


def _answer(served: dict[str, LanguageModel], manners: Manners, asked: dict) -> Answer:
    lm, prompt = served[asked["model"]], asked["prompt"]
    if not manners.takes_further and set(asked) - set(NAMES):
        return refused("unknown fields")
    if isinstance(prompt, str):
        ids = token_ids(lm.tokenizer, [prompt], special=True)[0]
    elif manners.takes_ids:
        ids = prompt
    else:
        return refused("prompt must be a text")
    hot = asked["temperature"] > 0
    sampling = Sampling(asked["temperature"], asked["top_p"], asked["seed"]) if hot else None
    written = continue_ids(lm, [ids], new_tokens=asked["max_tokens"], sampling=sampling)[0]
    choice = {"text": written.text, "index": 0, "finish_reason": "length"}
    if manners.tells_ids and asked.get("return_token_ids"):
        ended = [*written.ids, min(lm.end_ids)] if len(written.ids) < asked["max_tokens"] else written.ids
        choice["token_ids"] = ended
    usage = {"prompt_tokens": len(ids) + manners.adds, "completion_tokens": len(written.ids)}
    return Answer(body=json.dumps({"choices": [choice], "usage": usage}))


def instead(script: Script, answer: Callable[[Request], Answer | None]) -> Script:
    """The same server, but for requests to which `answer` has something else to say."""
    return lambda request: answer(request) or script(request)
