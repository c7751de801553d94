"""What the backward pass of a training keeps of the forward pass, counted on a model without numbers."""

import copy
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # pyright: ignore[reportPrivateUsage]
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from dposcope.errors import is_memory
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.config import attention_kind
from dposcope.model.layout.names import is_read_alone
from dposcope.model.layout.projections import is_projection, projection_width
from dposcope.terminal import only_our_words
from dposcope.training.batches.reading import for_attention, takes_positions
from dposcope.training.objective import Objective
from dposcope.training.policy import Arm
from dposcope.training.trainable import neuron_gains

Train = Literal["gains", "lora", "full"]
_MOST: Final = 1024
"""Tokens of the row that is counted on. A longer row keeps as much for each token, but for a mask or weights of
attention where these are kept."""
_COPIES: Final = frozenset({"ToCopyBackward0", "TBackward0"})
"""Steps from a parameter to what a product reads under autocast."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Bytes that the backward pass of a training needs, beside the weights."""

    lm: LanguageModel
    """Its config decides; its weights are not read."""
    _known: dict[tuple[Any, ...], float | None] = field(
        default_factory=dict[tuple[Any, ...], "float | None"], init=False, repr=False
    )

    def per_token(
        self,
        train: Train,
        tokens: int,
        *,
        dtype: torch.dtype = torch.float32,
        autocast: bool = False,
        rank: int = 16,
    ) -> float | None:
        """Of one token, over all blocks, where every activation that is needed is kept.

        The forward pass runs on tensors that have shapes only. Of a mixture in float32 it is an upper bound, twice what
        the backward pass needs in bfloat16.

        Args:
            train: what is trained.
            tokens: of a row.
            dtype: precision of the weights.
            autocast: whether products run in bfloat16.
            rank: of a LoRA adapter.

        Returns:
            None where the architecture does not run without numbers.
        """
        row = max(1, min(tokens, _MOST))
        key = (train, row, dtype, autocast, rank if train == "lora" else None)
        if key not in self._known:
            found = self._counted(dtype, train, row, rank, autocast=autocast)
            if found is None and dtype == torch.float32:  # experts run on shapes in bfloat16 only
                half = self._counted(torch.bfloat16, train, row, rank, autocast=False)
                found = None if half is None else 2 * half
            self._known[key] = None if found is None else found / row
        return self._known[key]

    def _counted(self, dtype: torch.dtype, train: Train, tokens: int, rank: int, *, autocast: bool) -> float | None:
        # A model that is made from a config writes its precision there.
        config, attention = copy.deepcopy(self.lm.model.config), attention_kind(self.lm.model)
        try:
            with only_our_words(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with no_init_weights(), torch.device("meta"):
                    model = AutoModelForCausalLM.from_config(
                        config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
                    )
            with FakeTensorMode(), only_our_words(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _on_cpu(model)
                bare = replace(self.lm, model=model.eval(), quantise=None)
                with _arm(bare, train, rank) as arm, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    return float(saved_bytes(arm, tokens))
        except Exception as error:  # shapes alone do not say what an architecture does, or a part of it is not there
            if is_memory(error):
                raise
            return None


def _on_cpu(model: nn.Module) -> None:
    """Shapes in place of all numbers. Tensors that stand in two places stay one."""
    there: dict[int, Tensor] = {}
    for module in model.modules():
        stores = (module._parameters, module._buffers)  # pyright: ignore[reportPrivateUsage]
        for store in cast("tuple[dict[str, Any], ...]", stores):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in there:
                    shape = torch.empty(tensor.shape, dtype=tensor.dtype)
                    learned = isinstance(tensor, nn.Parameter)
                    there[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if learned else shape
                store[name] = there[id(tensor)]


@contextmanager
def _arm(lm: LanguageModel, train: Train, rank: int) -> Generator[Arm]:
    """The model as it is trained, in the context that it runs in."""
    if train == "gains":
        with neuron_gains(lm, Objective()) as trainable:
            yield trainable.policy.arms[0]
        return
    lm.model.requires_grad_(train == "full")
    if train == "lora":
        for block in lm.blocks:
            for name, module in block.named_modules():
                if is_projection(module) and not is_read_alone(name):
                    _adapt(module, rank)
    yield Arm(lm.model)


def _adapt(module: nn.Module, rank: int) -> None:
    """Give a projection an adapter, which is in float32 and reads a copy of its own in another precision, as peft's."""
    width = projection_width(module)
    down = nn.Parameter(torch.zeros(rank, width.inputs))
    up = nn.Parameter(torch.zeros(width.outputs, rank))
    module.register_parameter("down", down)
    module.register_parameter("up", up)

    def add(_module: nn.Module, read: tuple[Tensor, ...], written: Tensor) -> Tensor:
        inner = nn.functional.linear(read[0].to(down.dtype), down)
        return (written + nn.functional.linear(inner, up)).to(written.dtype)

    module.register_forward_hook(add)


def saved_bytes(arm: Arm, tokens: int) -> int:
    """Bytes that the backward pass of one row needs beside parameters and, under autocast, their copies in bfloat16.

    Args:
        arm: what is trained, in its context.
        tokens: of the row.
    """
    model = arm.model
    own = {_storage(one) for one in (*model.parameters(), *model.buffers())}
    found = dict[int, Tensor]()

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own and not _is_copied_weight(tensor):
            found.setdefault(_storage(tensor), tensor)
        return tensor

    ids = torch.zeros((1, tokens), dtype=torch.long)
    placed: dict[str, Any] = {"position_ids": torch.arange(tokens)[None]} if takes_positions(model) else {}
    body: nn.Module = model.base_model
    with arm.applied(), saved_tensors_hooks(pack, lambda tensor: tensor):
        try:  # as of a batch whose rows hold several texts
            mask = for_attention(torch.ones((1, 1, tokens, tokens), dtype=torch.bool).tril(), model)
            body(input_ids=ids, attention_mask=mask, use_cache=False, **placed)
        except Exception:  # a mask of our own can fail anywhere in the code of an architecture
            found.clear()
            body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **placed)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def _is_copied_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter in another precision, turned or not."""
    node: Any = tensor.grad_fn
    while node is not None and node.name() in _COPIES:
        node = node.next_functions[0][0]
    return node is not None and node is not tensor.grad_fn and node.name() == "torch::autograd::AccumulateGrad"


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
