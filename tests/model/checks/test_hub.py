"""Which names are asked of the hub, and whether it answers."""

import pytest
from huggingface_hub.errors import HfHubHTTPError

from dposcope.errors import DposcopeError
from dposcope.model.checks.hub import check_hub_name, hub_answers, hub_id


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gemma-3-270", "gemma-3-270m"),
        ("gema-3-270m", "gemma-3-270m"),
        ("Gemma3-270m", "gemma-3-270m"),
        ("smollm2-135m", "smollm2-135m-instruct"),
        ("smollm2-135m-instuct", "smollm2-135m-instruct"),
    ],
)
def test_a_slip_in_a_bundled_name_is_told_and_not_asked(name, meant):
    with pytest.raises(DposcopeError, match=f"Did you mean the bundled '{meant}'\\? A model of the hub is hf:{name}$"):
        check_hub_name(name)


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2-medium", "distilgpt2", "openai-gpt", "google/gemma-3-270m", "hf:gemma-3-270", "bloom-560m"]
)
def test_names_of_the_hub_pass(name):
    check_hub_name(name)
    assert hub_id(name) == name.removeprefix("hf:")


@pytest.mark.parametrize("name", ["", "a/b/c", "no such model", "hf:", "hf:a b", "../x"])
def test_what_is_no_name_is_told(name):
    with pytest.raises(DposcopeError, match="is not a model; give a folder, "):
        check_hub_name(name)


def answering(monkeypatch, error: BaseException | None) -> list[float]:
    """A hub that raises an error, or knows every model; the patience it was asked with."""
    asked: list[float] = []

    class Hub:
        def model_info(self, model: str, *, timeout: float) -> None:
            assert model == "a/b"
            asked.append(timeout)
            if error is not None:
                raise error

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return asked


@pytest.mark.parametrize(
    ("error", "answers"),
    [
        (None, True),
        (HfHubHTTPError.__new__(HfHubHTTPError), True),  # no such model, or one that is not for everyone
        (OSError("Name or service not known"), False),
        (TimeoutError(), False),
    ],
)
def test_any_answer_is_one(monkeypatch, error, answers):
    asked = answering(monkeypatch, error)
    assert hub_answers("a/b") == answers
    assert len(asked) == 1
    assert asked[0] <= 10


def test_offline_it_does_not_answer():
    """Tests have no hub: this one is asked for nothing."""
    assert not hub_answers("a/b")
