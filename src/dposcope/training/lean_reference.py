"""A reference with a small embedding: it keeps only the rows that its texts use.

With a vocabulary of 262,144 most of a small model is its embedding. The reference reads a few thousand of its rows.
Only the head needs all rows, and under autocast it is multiplied in half precision. So the head and the projections are
kept in half precision. The results are the same to the bit.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dposcope.errors import DposcopeError
from dposcope.model.cache import forget
from dposcope.model.devices.copies import convert_
from dposcope.model.head.logits import unembedding
from dposcope.model.head.unembedding import Unembedding
from dposcope.training.batches.examples import Example
from dposcope.training.policy import Arm


@dataclass(frozen=True)
class Reads:
    """The tokens that a reference will read, and the precision it will run in."""

    ids: frozenset[int]
    """Every token id that it will read, padding included."""
    products: torch.dtype | None = None
    """The precision of matrix products under autocast; None: it will run without autocast."""

    @classmethod
    def of(cls, examples: Iterable[Example], *, pad_id: int, products: torch.dtype | None = None) -> "Reads":
        """For these texts."""
        ids = {pad_id}
        for example in examples:
            ids.update(example.prompt, *example.completions)
        return cls(frozenset(ids), products)


def lean_reference(model: PreTrainedModel, reads: Reads, *, dtype: torch.dtype | None = None) -> Arm:
    """A frozen copy of `model` with only the embedding rows in `reads`; for an id outside `reads` it raises IndexError.

    Of a model that reads images too, the copy has the whole embedding.

    Args:
        model: the base; the copy shares no memory with it.
        reads: the tokens that the copy will read.
        dtype: precision of the whole copy; None: that of the model.

    Raises:
        DposcopeError: the model's embedding is not a plain table.
    """
    embedding, head = model.get_input_embeddings(), Unembedding.of(model)
    if not isinstance(embedding, nn.Embedding):
        raise DposcopeError(
            f"the embedding of {type(model).__name__} is {type(embedding).__name__}, not a table of rows; "
            "train a copy (in_place=False)"
        )
    projection = unembedding(model)
    # deepcopy does not copy a module that is in its memo: it takes the replacement given there.
    replaced: dict[int, nn.Module] = {id(projection): nn.Identity()}
    if model.config.get_text_config() is model.config:
        replaced[id(embedding)] = _Rows(embedding, sorted(reads.ids))
    # else a model with images, which looks up rows of the embedding's weight itself (Gemma 4)
    forget(model)
    kept: nn.Module = copy.deepcopy(model, replaced)
    if dtype is not None:
        convert_(kept, dtype)
    elif reads.products is not None:
        for module in kept.modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.to(reads.products)
    kept.requires_grad_(False)
    precision = dtype or reads.products or head.weight.dtype
    bias = None if head.bias is None else head.bias.detach().to(dtype or head.bias.dtype, copy=True)
    return Arm(kept, head=Unembedding(head.weight.detach().to(precision, copy=True), bias, head.softcap, head.scale))  # pyright: ignore[reportArgumentType]


class _Rows(nn.Module):
    """Some rows of an embedding, addressed by the original ids. The module's own arithmetic (Gemma's scale) stays."""

    def __init__(self, embedding: nn.Embedding, ids: list[int]) -> None:
        super().__init__()
        chosen = torch.tensor(ids, device=embedding.weight.device)
        rows = nn.Parameter(embedding.weight.detach()[chosen], requires_grad=False)
        # An index past the end: an id outside `ids` must raise an error, not read another row.
        place = torch.full((embedding.num_embeddings,), len(ids), device=chosen.device)
        place[chosen] = torch.arange(len(ids), device=chosen.device)
        self.register_buffer("place", place, persistent=False)
        self.table: nn.Embedding = copy.deepcopy(embedding, {id(embedding.weight): rows})
        self.table.num_embeddings, self.table.padding_idx = len(ids), None

    @property
    def weight(self) -> Tensor:
        """No row of it, `[0, d]`: Llama 4 asks for its device. A look-up in it is an error, as the rows that are kept
        have other numbers."""
        return self.table.weight[:0]

    def forward(self, ids: Tensor) -> Tensor:
        """`[..., d]`."""
        return self.table(self.place[ids])  # pyright: ignore[reportIndexIssue]
