"""A model whose blocks lie in a file, so that memory does not hold it whole.

On the CPU the weights are mapped from the file: the operating system reads what is needed, and drops it again where
memory is short. On a GPU the weights of an attention or an MLP are brought there when it runs, and dropped afterwards.
Embedding, final norm and unembedding stay on the device.
"""

import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dposcope.errors import DposcopeError, first_line
from dposcope.files import expanded
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.projections import RUNS_ON
from dposcope.model.residual.streams import residual_streams

_ALIGNED: Final = 64
"""Bytes: a tensor in the file begins at a multiple of it."""
_BROUGHT: Final = "a model whose weights are brought to a GPU part by part"
_NOT_COPIED: Final = f"{_BROUGHT} is not copied, and so neither edited nor folded; load it without stream"


def stream_(lm: LanguageModel, device: torch.device, folder: str | Path) -> None:
    """Put the weights of a model's blocks into a file, and read them from there when they are needed.

    The file has no name once it is open, so nothing is left of it when the process ends, however it does.

    Args:
        lm: in main memory, with plain weights; it is changed.
        device: where it runs.
        folder: on a disk with room for the weights; not in main memory, as /tmp can be.

    Raises:
        DposcopeError: the file cannot be written; the model is quantised; or it brings several residual streams
            together itself (Gemma 3n), and is to run on a GPU.
    """
    if lm.quantised:
        raise DposcopeError(f"the weights of {lm.name} are quantised, and cannot lie in a file; leave stream out")
    streams = residual_streams(lm.model)
    if device.type != "cpu" and streams is not None and streams.meet_in_model:
        raise DposcopeError(
            f"{lm.name} passes on several residual streams, so its weights are not brought to a GPU part by part; "
            "leave stream out, or run it on the CPU"
        )
    device = torch.empty(0, device=device).device  # with its number
    weights = {id(one): one for block in lm.blocks for one in block.parameters()}
    try:
        _map_([*weights.values()], expanded(folder))
    except (OSError, RuntimeError) as error:
        size = sum(one.nbytes for one in weights.values())
        raise DposcopeError(
            f"the weights of {lm.name} cannot be put into a file of {folder}: {first_line(error)}; it needs "
            f"{size / 1e9:,.1f} GB of disk"
        ) from error
    if device.type == "cpu":
        return
    for parameter in lm.model.parameters():
        if id(parameter) not in weights:
            parameter.data = parameter.data.to(device)
    for module in lm.model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    for block in lm.blocks:
        _bring_(block, device)


def is_brought(module: nn.Module) -> bool:
    """Whether the weights of a module are brought to a GPU when it runs."""
    return RUNS_ON in vars(module)


def check_at_hand(lm: LanguageModel) -> None:
    """Refuse a model whose weights come and go.

    Raises:
        DposcopeError: they are brought to a GPU part by part.
    """
    if any(map(is_brought, lm.blocks)):
        raise DposcopeError(_NOT_COPIED)


@contextmanager
def brought(lm: LanguageModel) -> Generator[None]:
    """Inside the context, the weights of blocks are brought to where the blocks are, from wherever they are put."""
    with ExitStack() as stack:
        for number, block in enumerate(lm.blocks):
            if is_brought(block):
                continue
            handles = _bring_(block, lm.device_of_block(number))
            stack.callback(_let_go_, block, handles)
        yield


def _map_(weights: Sequence[nn.Parameter], folder: Path) -> None:
    """Let parameters have their data from a file."""
    folder.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=".streamed-", suffix=".part", dir=folder)
    unnamed = Path(f"/proc/self/fd/{number}")
    path = unnamed if unnamed.exists() else Path(name)
    try:
        if path == unnamed:
            Path(name).unlink()
        with os.fdopen(number, "wb") as stream:
            places = [_written(stream, one.detach()) for one in weights]
            size = stream.tell()
            stream.flush()
            os.fsync(number)  # pages that are on the disk can be dropped from memory
            storage: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    finally:
        with suppress(OSError):
            Path(name).unlink()
    for parameter, place in zip(weights, places, strict=True):
        whole: Any = torch.empty(0, dtype=parameter.dtype)
        parameter.data = whole.set_(storage, place // parameter.itemsize, parameter.shape)


def _written(stream: BinaryIO, tensor: Tensor) -> int:
    """Append the bytes of a tensor; where they begin."""
    stream.write(bytes(-stream.tell() % _ALIGNED))
    place = stream.tell()
    stream.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return place


class _Weight:
    """A parameter that is brought to a device while a module runs that reads it."""

    def __init__(self, parameter: nn.Parameter, device: torch.device) -> None:
        self._parameter, self._device = parameter, device
        self._readers = 0
        """Modules that run now, one inside the other."""
        self._resting: Tensor | None = None
        """Its data when nobody reads it, kept meanwhile."""

    def take(self) -> None:
        """For one more reader."""
        if self._readers == 0:
            self._resting = self._parameter.data
            self._parameter.data = self._resting.to(self._device)
        self._readers += 1

    def leave(self) -> None:
        """A reader has ended."""
        self._readers -= 1
        if self._readers == 0 and self._resting is not None:
            self._parameter.data, self._resting = self._resting, None


@dataclass(frozen=True, eq=False)
class _Brought:
    """Hooks of a module that reads some weights."""

    weights: tuple[_Weight, ...]
    taken: list[_Weight] = field(default_factory=list)

    def before(self, *_: Any) -> None:
        """The module is about to run."""
        if torch.is_grad_enabled():
            raise DposcopeError(f"{_BROUGHT} has no gradients; run it under torch.no_grad(), or load it without stream")
        with torch.inference_mode(mode=False):  # parameters are made outside of it
            for weight in self.weights:
                weight.take()
                self.taken.append(weight)

    def after(self, *_: Any) -> None:
        """It has run, or has failed."""
        with torch.inference_mode(mode=False):
            while self.taken:
                self.taken.pop().leave()

    def __deepcopy__(self, _: Any) -> NoReturn:
        """Refused: the copy would run with the weights of the original."""
        raise DposcopeError(_NOT_COPIED)


def _bring_(block: nn.Module, device: torch.device) -> list[RemovableHandle]:
    """Let the parts of a block run with weights that are brought to a device for each.

    A part, such as the attention or the MLP, has all of its weights while it runs, since it may read them itself. A
    module inside that is run alone has its own.
    """
    weights = {id(one): _Weight(one, device) for one in block.parameters()}
    parts = set(block.children())
    handles: list[RemovableHandle] = []
    for module in block.modules():
        vars(module)[RUNS_ON] = device
        read = tuple(weights[id(one)] for one in module.parameters(recurse=module in parts))
        if read:
            hooks = _Brought(read)
            handles.append(module.register_forward_pre_hook(hooks.before, prepend=True))
            handles.append(module.register_forward_hook(hooks.after, always_call=True))
    return handles


def _let_go_(block: nn.Module, handles: Sequence[RemovableHandle]) -> None:
    """Undo `_bring_`."""
    for handle in handles:
        handle.remove()
    for module in block.modules():
        del vars(module)[RUNS_ON]
