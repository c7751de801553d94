"""Pretended GPUs: tensors that are on the CPU and computed there, each with the name of a device.

Inside `FakeDevices`, `tensor.device`, `.to(…)` and every `device=` go by these names, and an operation on tensors of
two devices raises `MixedDevices`, as PyTorch does with GPUs. A name belongs to the memory of a tensor, so views have
that of what they view, and a parameter that is given other data has that of the data. Values are real, so whole
functions run, and their results are those of the plain model.

What is not seen: what C++ code does with the device itself, such as a function that works on the CPU alone.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from accelerate import dispatch_model
from torch import Tensor
from torch.autograd import Variable
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dposcope.model.devices.placement import Placement
from dposcope.model.devices.spread import spread_
from dposcope.model.language_model import LanguageModel
from helpers.families import copied

CPU = torch.device("cpu")
GPUS = (torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cuda:2"))

_ANYWHERE = torch.device("meta")
"""Of what C++ code makes for itself, such as zeros in a backward pass: it would be where it is needed."""
_INDEXING = {
    "index.Tensor",
    "index_put.default",
    "index_put_.default",
    "_index_put_impl_.default",
    "_unsafe_index.Tensor",
}
_BETWEEN = {"copy_.default", "_copy_from.default"}
"""Operations that are for tensors of two devices."""


class MixedDevices(BaseException):
    """An operation met tensors of two devices. It is no `Exception`, so that nothing takes it for one of a model."""


class FakeDevices:
    """Devices by the memory of tensors; a context."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self._made_near: list[Any] = []
        self._stack = ExitStack()

    def __enter__(self) -> "FakeDevices":
        """Begin to pretend."""
        # transformers asks for it before it multiplies experts; (0, 0) is too old for the kernel of GPUs.
        self._stack.enter_context(patch("torch.cuda.get_device_capability", lambda *_: (0, 0)))
        # It compares devices, too, which are not seen where C++ code keeps a tensor for a backward pass.
        checks = "torch.utils.checkpoint._allowed_determinism_checks_to_fns"
        self._stack.enter_context(patch.dict(checks, {"default": lambda _: None}))
        self._stack.enter_context(_Kernels(self))
        self._stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *error: Any) -> None:
        """End it."""
        self._stack.__exit__(*error)

    def of(self, tensor: Tensor) -> torch.device:
        """The device that a tensor has."""
        place = self.place(tensor)
        return CPU if place == _ANYWHERE and tensor.layout is torch.strided and not _is_meta(tensor) else place

    def place(self, tensor: Tensor) -> torch.device:
        """The same; `meta` for what may be anywhere."""
        key = _key(tensor)
        found = self._names.get(key) if key else None
        return _true_device(tensor) if found is None or found[0].expired() else found[1]

    def put(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Say where a tensor is."""
        key = _key(tensor)
        if key and not _is_meta(tensor):
            self._names[key] = (StorageWeakRef(tensor.untyped_storage()), device)
        return tensor

    @contextmanager
    def making(self, near: Any) -> Generator[None]:
        """Inside, what is made from nothing is on this device, or on that of the tensors in these arguments."""
        self._made_near.append(near)
        try:
            yield
        finally:
            self._made_near.pop()

    @property
    def made_on(self) -> torch.device:
        """Where what is made from nothing is."""
        if not self._made_near:
            return _ANYWHERE
        near = self._made_near[-1]
        return near if isinstance(near, torch.device) else self.common(_tensors(near)) or CPU

    def common(self, tensors: list[Tensor]) -> torch.device | None:
        """The device of tensors, which decides that of the result; None without any."""
        found = None
        for one in tensors:
            place = self.place(one)
            if place != _ANYWHERE and (found is None or found == CPU):
                found = place
        return found

    def check(self, name: str, args: Any) -> torch.device | None:
        """The device of an operation's result.

        Raises:
            MixedDevices: it is given tensors of two devices.
        """
        tensors = _tensors(args)
        if len(tensors) == 1:
            return self.place(tensors[0])
        if name in _BETWEEN:
            return self.place(tensors[0])
        place = self.common(tensors)
        free: list[Tensor] = []
        if name in _INDEXING:
            place = self.place(args[0][0])
            free = [one for one in _tensors(args[0][1]) if self.place(one) == CPU]
        for one in tensors:
            here = self.place(one)
            lone = here == CPU and one.ndim == 0
            if here not in (place, _ANYWHERE) and not lone and not any(one is other for other in free):
                found = ", ".join(f"{[*each.shape]} on {self.place(each)}" for each in tensors)
                raise MixedDevices(f"{name}: expected all tensors to be on the same device, but found {found}")
        return place


def _key(tensor: Tensor) -> int:
    """Of its memory; 0 where it has none of its own."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else 0


def _is_meta(tensor: Tensor) -> bool:
    return torch.Tensor.is_meta.__get__(tensor)


def _true_device(tensor: Tensor) -> torch.device:
    return torch.Tensor.device.__get__(tensor)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [one for part in tree for one in _tensors(part)]


class _Kernels(TorchDispatchMode):
    """Sees every operation, those of a backward pass as well."""

    def __init__(self, devices: FakeDevices) -> None:
        super().__init__()
        self._devices = devices

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        with torch._C.DisableTorchFunction():
            place = self._devices.check(func.__name__, given)
            out = func(*args, **(kwargs or {}))
            known = {_key(one) for one in _tensors(given)}
            for one in _tensors(out):
                if _key(one) not in known:
                    self._devices.put(one, self._devices.made_on if place is None else place)
        return out


class _Move(torch.autograd.Function):
    """A copy on another device, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, devices: FakeDevices, device: torch.device) -> Tensor:
        ctx.devices, ctx.back = devices, devices.place(tensor)
        return devices.put(tensor.clone(), device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.devices.put(gradient.clone(), ctx.back), None, None


_BOUND_TO_CPU = (torch.Tensor.numpy, torch.Tensor.__array__)


class _Functions(TorchFunctionMode):
    """Sees every function of torch, and takes out the names of devices that this machine does not have."""

    def __init__(self, devices: FakeDevices) -> None:
        super().__init__()
        self._devices = devices

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices, kwargs = self._devices, dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return devices.of(args[0])
        if func == torch.Tensor.is_cuda.__get__:
            return devices.of(args[0]).type == "cuda"
        if func.__name__ == "__get__":
            return func(*args)
        if func is torch.Tensor.get_device:
            return devices.of(args[0]).index
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self._moved(func, args, kwargs)
        if func in _BOUND_TO_CPU and devices.of(args[0]) != CPU:
            raise MixedDevices(f"can't convert a tensor on {devices.of(args[0])} to numpy; use Tensor.cpu() first")
        if func is torch.Tensor.__deepcopy__:
            return devices.put(func(*args, **kwargs), devices.of(args[0]))
        if func in (torch.Tensor.backward, torch.autograd.backward):
            return self._backward(*args, **kwargs)
        if func is torch.autograd.grad:
            return self._gradients(*args, **kwargs)
        if func is torch.histc and not args[0].is_floating_point():  # which only a GPU takes
            args = (args[0].float(), *args[1:])
        asked = kwargs.pop("device", None)
        if asked is not None and torch.device(asked).type == "meta":
            return func(*args, device=asked, **kwargs)
        if asked is None:
            with devices.making((args, kwargs)):
                return func(*args, **kwargs)
        place = torch.device(asked)
        with devices.making(place):
            out = func(*args, device=CPU, **kwargs)
            known = {_key(one) for one in _tensors((args, kwargs))}
            for one in _tensors(out):
                if _key(one) in known:  # as_tensor of a tensor
                    return self._moved(torch.Tensor.to, (one, asked), {})
                devices.put(one, place)
        return out

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, *rest = args
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        if func is torch.Tensor.cpu:
            device = CPU
        elif func is torch.Tensor.cuda:
            device = GPUS[0]
        elif rest and isinstance(rest[0], Tensor):
            device, dtype = self._devices.of(rest[0]), rest[0].dtype
        elif rest and isinstance(rest[0], torch.dtype):
            dtype = rest[0]
        elif rest:
            device, dtype = rest[0], (rest[1] if len(rest) > 1 else dtype)
        if device is not None and torch.device(device).type == "meta":
            return tensor.to(device, dtype)
        out = tensor if dtype is None else tensor.to(dtype)
        if kwargs.get("copy") and out is tensor:
            out = tensor.clone()
        if device is None or torch.device(device) == self._devices.of(tensor):
            return out
        return _Move.apply(out, self._devices, torch.device(device))

    def _backward(self, end: Tensor, gradient: Tensor | None = None, **_: Any) -> None:
        """`Tensor.backward`, inside which the functions of a backward pass are seen as well."""
        with self:
            start = torch.ones_like(end) if gradient is None else gradient
            run = Variable._execution_engine.run_backward
            run((end,), (start,), False, False, (), allow_unreachable=True, accumulate_grad=True)

    def _gradients(
        self,
        outputs: Any,
        inputs: Any,
        grad_outputs: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        allow_unused: bool | None = None,
        materialize_grads: bool = False,
        **_: Any,
    ) -> tuple[Tensor, ...]:
        """`torch.autograd.grad`, inside which the functions of a backward pass are seen as well."""
        ends, leaves = ((one,) if isinstance(one, Tensor) else tuple(one) for one in (outputs, inputs))
        with self:
            given = (None,) * len(ends) if grad_outputs is None else grad_outputs
            starts = tuple(
                torch.ones_like(end) if one is None else one
                for end, one in zip(ends, (given,) if isinstance(given, Tensor) else given, strict=True)
            )
            found = Variable._execution_engine.run_backward(
                ends,
                starts,
                create_graph if retain_graph is None else retain_graph,
                create_graph,
                leaves,
                bool(allow_unused) or materialize_grads,
                accumulate_grad=False,
            )
            if materialize_grads:
                found = tuple(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True))
        return found


@contextmanager
def pretended_gpus(count: int = 2, free: int = 10**9) -> Generator[FakeDevices]:
    """Inside, this machine has GPUs with so many free bytes each, on which models can be loaded.

    transformers loads in threads of its own, where nothing would be pretended, unless it is told not to.
    """
    with (
        patch("torch.cuda.is_available", lambda: True),
        patch("torch.cuda.is_bf16_supported", lambda **_: False),
        patch("torch.cuda.device_count", lambda: count),
        patch("torch.cuda.mem_get_info", lambda _: (free, free)),
        patch("transformers.modeling_utils.caching_allocator_warmup", lambda *_: None),
        patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"}),
        FakeDevices() as devices,
    ):
        yield devices


def places_of(lm: LanguageModel, gpus: int = 2) -> Placement:
    """Blocks divided among so many devices, the last ones on the last."""
    count = lm.n_blocks
    return Placement(GPUS[0], tuple(GPUS[block * gpus // count] for block in range(count)), GPUS[gpus - 1])


def spread(lm: LanguageModel, gpus: int = 2) -> LanguageModel:
    """A model on pretended GPUs, inside `FakeDevices`; it is changed."""
    placement = places_of(lm, gpus)
    spread_(lm.model, placement.device_map(lm.model, lm.layout))
    return LanguageModel(lm.model, lm.tokenizer, lm.name)


def dispatched(lm: LanguageModel) -> LanguageModel:
    """A copy with accelerate's hooks, all of it on the CPU."""
    other = copied(lm)
    names = [*(f"{lm.layout.blocks}.{number}" for number in range(lm.n_blocks)), lm.layout.final_norm]
    places = dict.fromkeys(names, "cpu") | {"": "cpu"}
    dispatch_model(other.model, places, force_hooks=True)
    return LanguageModel(other.model, other.tokenizer, other.name)


def parts_of(lm: LanguageModel) -> Iterator[tuple[str, torch.device]]:
    """Name and device of every weight."""
    return ((name, one.device) for name, one in lm.model.named_parameters())
