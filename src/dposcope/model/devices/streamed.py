"""A model whose blocks lie in a file, so that memory does not hold it whole.

On the CPU the weights are mapped from the file: the operating system reads what is needed, and drops it again where
memory is short. On a GPU the weights of an attention or an MLP are brought there when it runs, and dropped afterwards.
Embedding, final norm and unembedding stay on the device.
"""

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from dposcope.errors import DposcopeError, first_line
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout import RUNS_ON, Layout, active_stream, block_modules, device_of_module

_ALIGNED: Final = 64
"""Bytes: a tensor in the file begins at a multiple of it."""
_BROUGHT: Final = "a model whose weights are brought to a GPU part by part"


def stream_(model: PreTrainedModel, layout: Layout, device: torch.device, folder: str | Path) -> None:
    """Put the weights of a model's blocks into a file, and read them from there when they are needed.

    The file has no name as soon as it is written, so nothing is left of it when the process ends.

    Args:
        model: in main memory, with plain weights; it is changed.
        layout: where its parts are.
        device: where it runs.
        folder: on a disk with room for the weights; not in main memory, as /tmp can be.

    Raises:
        DposcopeError: the file cannot be written; or the model has several residual streams, and is to run on a GPU.
    """
    if device.type != "cpu" and active_stream(model) is not None:
        raise DposcopeError(
            "the model passes on several residual streams, so its weights are not brought to a GPU part by part; leave "
            "stream out, or run it on the CPU"
        )
    blocks = block_modules(model, layout)
    own = {id(one): one for block in blocks for one in block.parameters()}
    weights = list(own.values())
    try:
        _map_(weights, Path(folder))
    except OSError as error:
        raise DposcopeError(
            f"the weights cannot be put into a file of {folder}: {first_line(error)}; it needs "
            f"{sum(one.nbytes for one in weights) / 1e9:,.1f} GB of disk"
        ) from error
    if device.type == "cpu":
        return
    for parameter in model.parameters():
        if id(parameter) not in own:
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    for block in blocks:
        for module in block.modules():
            vars(module)[RUNS_ON] = device
        bring_(block, {id(one): one.data for one in block.parameters()}, device)


def check_streamed(lm: LanguageModel, *, spread: bool) -> None:
    """Refuse a model whose weights cannot lie in a file.

    Raises:
        DposcopeError: it is quantised, or over several devices.
    """
    what = "quantised" if lm.quantised else "spread over several devices" if spread else None
    if what is not None:
        raise DposcopeError(f"{lm.name} is {what}, and its weights cannot lie in a file; leave stream (--stream) out")


def _map_(weights: Sequence[nn.Parameter], folder: Path) -> None:
    """Let parameters have their data from a file."""
    folder.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=".streamed-", dir=folder)
    try:
        with os.fdopen(number, "wb") as stream:
            places = [_written(stream, one.detach()) for one in weights]
            size = stream.tell()
            stream.flush()
            os.fsync(stream.fileno())  # pages that are on the disk can be dropped from memory
        storage: Any = torch.UntypedStorage.from_file(name, shared=False, nbytes=size)
        for parameter, place in zip(weights, places, strict=True):
            whole: Any = torch.empty(0, dtype=parameter.dtype)
            parameter.data = whole.set_(storage, place // parameter.itemsize, parameter.shape)
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink()


def _written(stream: BinaryIO, tensor: Tensor) -> int:
    """Append the bytes of a tensor; where they begin."""
    stream.write(bytes(-stream.tell() % _ALIGNED))
    place = stream.tell()
    stream.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return place


@dataclass(eq=False)
class _Weight:
    """A parameter that has other data while a module runs that reads it."""

    parameter: nn.Parameter
    running: Tensor
    """Its data while it is read, somewhere."""
    resting: Tensor
    """Its data otherwise."""
    device: torch.device
    """Where it is read."""
    readers: int = 0
    """Modules that run now, one inside the other."""

    def take(self) -> None:
        """For one more reader."""
        if self.readers == 0:
            self.parameter.data = self.running.to(self.device, non_blocking=True)
        self.readers += 1

    def leave(self) -> None:
        """A reader has ended."""
        self.readers -= 1
        if self.readers == 0:
            self.parameter.data = self.resting


@dataclass(frozen=True, eq=False)
class _Brought:
    """Hooks of a module that reads some weights."""

    weights: tuple[_Weight, ...]
    taken: list[_Weight] = field(default_factory=list)

    def before(self, *_: Any) -> None:
        """The module is about to run."""
        if torch.is_grad_enabled():
            raise DposcopeError(f"{_BROUGHT} has no gradients; load it without stream")
        with torch.inference_mode(mode=False):  # parameters are made outside of it
            for weight in self.weights:
                weight.take()
                self.taken.append(weight)

    def __deepcopy__(self, _: Any) -> NoReturn:
        """Refused: the copy would run with the weights of the original."""
        raise DposcopeError(f"{_BROUGHT} is not copied, and so neither edited nor folded; load it without stream")

    def after(self, *_: Any) -> None:
        """It has run, or has failed."""
        with torch.inference_mode(mode=False):
            while self.taken:
                self.taken.pop().leave()


def bring_(block: nn.Module, weights: Mapping[int, Tensor], device: torch.device) -> list[RemovableHandle]:
    """Let the parts of a block run with weights that are brought to a device for each.

    A part, such as the attention or the MLP, has all of its weights while it runs, since it may read them itself. A
    module inside that is run alone has its own.

    Args:
        block: its parameters are given other data while they are read.
        weights: id of a parameter → its weights then, anywhere; others stay as they are.
        device: where the block runs.

    Returns:
        Handles of hooks; removing them ends it.
    """
    brought = {
        id(one): _Weight(one, weights[id(one)], one.data, device) for one in block.parameters() if id(one) in weights
    }
    parts = set(block.children())
    handles: list[RemovableHandle] = []
    for module in block.modules():
        read = [brought[id(one)] for one in module.parameters(recurse=module in parts) if id(one) in brought]
        if read:
            hooks = _Brought(tuple(read))
            handles.append(module.register_forward_pre_hook(hooks.before, prepend=True))
            handles.append(module.register_forward_hook(hooks.after, always_call=True))
    return handles


@contextmanager
def brought(blocks: Iterable[nn.Module], weights: Mapping[int, Tensor]) -> Generator[None]:
    """Inside the context, blocks run with other weights, which are brought to where their own are; see `bring_`."""
    with ExitStack() as stack:
        for block in blocks:
            device = device_of_module(block)
            for handle in bring_(block, weights, device or torch.device("cpu")):
                stack.callback(handle.remove)
        yield
