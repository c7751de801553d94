"""The optimisers of a training: what each is called elsewhere, what it keeps, and whether it runs here.

Those of 8 bits are bitsandbytes's (Dettmers et al., https://arxiv.org/abs/2110.02861): a state is a code of one byte,
and 256 codes share a scale. This file loads torch only to try one, so that settings can be read without it.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError, first_line, is_memory

if TYPE_CHECKING:
    import torch

Optimizer = Literal["rmsprop", "adamw", "rmsprop-8bit", "adamw-8bit"]

_IN_A_BLOCK: Final = 256
"""Codes that share a scale of 4 bytes."""
_LEAST: Final = 4096
"""Numbers of a tensor whose states become codes; those of a smaller one stay in 32 bits."""


@dataclass(frozen=True)
class Kind:
    """What an optimiser is."""

    trainer: str
    """Its name in `TrainingArguments.optim`."""
    states: int
    """Running averages that it keeps for each trained number: of the squared gradient, and with AdamW of the gradient.
    """
    class_8bit: str | None = None
    """Its class in `bitsandbytes.optim`; None: its states are in 32 bits."""

    __repr__ = short_repr

    def state_bytes(self, trained: float, *, embedding: float = 0.0) -> float:
        """Bytes of all states.

        Small tensors, such as norms, are counted as if they had codes, too.

        Args:
            trained: how many numbers are trained.
            embedding: how many of them are the embedding's, whose states `Trainer` leaves in 32 bits.
        """
        if self.class_8bit is None:
            return 4.0 * self.states * trained
        return self.states * (4.0 * embedding + (1 + 4 / _IN_A_BLOCK) * (trained - embedding))


KINDS: Final[dict[Optimizer, Kind]] = {
    "rmsprop": Kind("rmsprop", 1),
    "adamw": Kind("adamw_torch", 2),
    "rmsprop-8bit": Kind("rmsprop_bnb_8bit", 1, "RMSprop"),
    "adamw-8bit": Kind("adamw_bnb_8bit", 2, "AdamW"),
}


def check_optimizer(optimizer: Optimizer, device: "torch.device") -> None:
    """Refuse an optimiser that cannot run: one of 8 bits makes a step here, on numbers that are thrown away.

    Args:
        optimizer: its name.
        device: where what is trained lies.

    Raises:
        DposcopeError: bitsandbytes is missing, or has no such optimiser for this device.
    """
    name = KINDS[optimizer].class_8bit
    if name is None:
        return
    from dposcope.model.quantised.loading import check_package

    check_package("bitsandbytes", f"the optimiser {optimizer}")
    reason = _fault(name, device)
    if reason is not None:
        raise DposcopeError(
            f"the installed bitsandbytes cannot run the optimiser {optimizer} on {device.type} ({reason}); renew "
            f"it, or choose {optimizer.removesuffix('-8bit')}"
        )


def _fault(name: str, device: "torch.device") -> str | None:
    """Why an optimiser of bitsandbytes cannot run on a device; None: it can."""
    import torch
    from transformers.utils.import_utils import is_bitsandbytes_available

    from dposcope.model.quantised.loading import without_remarks

    if not is_bitsandbytes_available():
        return "it is older than transformers needs"
    weight = torch.nn.Parameter(torch.zeros(_LEAST, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        with without_remarks():
            getattr(_package(), name)([weight], lr=1e-3, optim_bits=8).step()
    except Exception as error:  # a package with code for many devices may fail anywhere
        if is_memory(error):
            raise
        return first_line(error)
    moved = weight.detach()
    return None if bool((moved < 0).all()) and bool(moved.isfinite().all()) else "a step of it does not move weights"


def _package() -> Any:
    return import_module("bitsandbytes.optim")


@contextmanager
def own_overrides(optimizer: Optimizer) -> Generator[None]:
    """Around a training: what it tells bitsandbytes about single tensors ends with it.

    `Trainer` names each embedding to a manager that lives as long as the process. It keeps the module, and knows
    tensors by their addresses, which later ones may have.
    """
    if KINDS[optimizer].class_8bit is None:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = _package().GlobalOptimManager.get_instance()
    before = dict(vars(manager))
    manager.initialize()
    try:
        yield
    finally:
        vars(manager).update(before)
