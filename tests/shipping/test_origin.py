"""What a fingerprint says of the model that an edit was made for, whatever stands behind the digest."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.shipping.origin import checkpoint_origin, gguf_origin

DIGEST, MARK = "0123456789abcdef" * 2, "00ff00ff"
GAINS = Gains(torch.full((2, 3), 0.5))


def made_for(fingerprint: str) -> Edit:
    return Edit.of(GAINS, about={"fingerprint": fingerprint})


@pytest.mark.parametrize("model_type", ["llama", "xlm-roberta-xl", "gemma3_text"])
@pytest.mark.parametrize("beside", ["", f"-{MARK}"])
def test_the_type_is_told_from_digest_and_layout(model_type, beside):
    own = f"{model_type}-{DIGEST}{beside}"
    assert checkpoint_origin(made_for(own), model_type, [own]) == ()
    with pytest.raises(DposcopeError, match=f"was made for a {model_type} model, but this is a bloom model; give its"):
        checkpoint_origin(made_for(own), "bloom", [own])


@pytest.mark.parametrize("beside", ["", f"-{MARK}"])
def test_a_gguf_file_is_asked_for_the_type_alone(beside):
    (told,) = gguf_origin(made_for(f"llama-{DIGEST}{beside}"), "llama", GAINS)
    assert told == "only the shape, 2×3 neurons, was checked: the file may be another model than the edit was made for"
    with pytest.raises(DposcopeError, match="was made for a llama model, but the file holds a qwen2 model"):
        gguf_origin(made_for(f"llama-{DIGEST}{beside}"), "qwen2", GAINS)


def test_the_right_fingerprint_may_come_after_others_and_no_more_are_computed():
    def found():
        yield f"llama-{'f' * 32}"
        yield f"llama-{DIGEST}"
        raise AssertionError("one more was computed")

    assert checkpoint_origin(made_for(f"llama-{DIGEST}"), "llama", found()) == ()
    other = checkpoint_origin(made_for("llama-00ff"), "llama", [f"llama-{DIGEST}"])
    assert other == ("the edit was made for other weights, or for another precision; its shapes fit this model",)
