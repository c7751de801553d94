"""Models, tensors and lists of blocks as a caller gives them."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from dposcope.data.given.numbers import whole
from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel


def check_lm(given: object, name: str = "lm") -> None:
    """Refuse what is no `LanguageModel`, such as a Hugging Face model without its tokenizer, or a model's name.

    Args:
        given: what was given for it.
        name: of the argument, for the message.

    Raises:
        DposcopeError: it is none.
    """
    if isinstance(given, LanguageModel):
        return
    kind = type(given).__name__
    if isinstance(given, nn.Module):
        raise DposcopeError(f"{name} is a {kind} without a tokenizer; give dposcope.load(model, tokenizer)")
    if isinstance(given, str):
        raise DposcopeError(f"{name} is a name, and a model belongs here; give dposcope.load({given[:80]!r})")
    raise DposcopeError(f"{name} is a {kind}, and a model belongs here; give what dposcope.load returns")


def blocks_given(name: str, values: Any) -> list[int]:
    """Numbers of blocks: a list, a range, an array or a tensor of them.

    Args:
        name: of the argument, for the message.
        values: what was given for it.

    Raises:
        DposcopeError: it is no list of whole numbers.
    """
    if not isinstance(values, Iterable):
        raise DposcopeError(f"{name} {values!r:.40} are no list of blocks; write the number in brackets: [0]")
    return [whole(f"{name}: block", value) for value in values]  # pyright: ignore[reportUnknownVariableType]


def check_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(value, Tensor):
        raise DposcopeError(f"{name} are a {type(value).__name__} and no tensor; give torch.as_tensor(…) of them")
