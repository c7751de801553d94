"""The parts of a block that a layout names: its MLP or experts, and its attention."""

from itertools import chain
from typing import Final

from torch import nn
from transformers import PreTrainedModel

from dposcope.errors import DposcopeError
from dposcope.model.layout.names import names_mixer
from dposcope.model.layout.projections import is_projection, projection_width, writers
from dposcope.model.layout.table import HOW_TO_REGISTER, Layout
from dposcope.model.mixtures.experts import Experts
from dposcope.model.mixtures.shared import Shared

_AROUND: Final = {"ple", "mlp_hyper_connection", "per_layer_projection"}
"""Modules of a block that embed tokens again (Qwen 4, Gemma 4), or weigh residual streams."""

_AFTER_DENSE: Final = "post_feedforward_layernorm_1"
"""Of what the dense MLP writes, before what the experts beside it write is added (Gemma 4)."""

_LATENT: Final = ("fc1_latent_proj", "fc2_latent_proj")
"""Projections into a narrower space, in which experts read and write, and out of it again (Nemotron 3 Super)."""


def block_modules(model: PreTrainedModel, layout: Layout) -> list[nn.Module]:
    """The transformer blocks in order."""
    blocks = submodule(model, layout.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return list(blocks)


def attention_paths(block: nn.Module, layout: Layout) -> list[str]:
    """Where a block has its attention output projection, or that of what it has in place of attention, or both.

    None of them in a block that has an MLP alone.
    """
    return _present(block, layout.attention_out, layout.alternating)


def mlp_path(block: nn.Module, layout: Layout) -> str | None:
    """Where a block has its MLP output projection, or the module of its routed experts; None where it has none."""
    present = _present(block, layout.mlp_out, layout.alternating)
    return next(chain((path for path in present if Experts.of(submodule(block, path)) is not None), present), None)


def _present(block: nn.Module, paths: str | tuple[str, ...], alternating: bool) -> list[str]:
    names, every = {name for name, _ in block.named_modules()}, every_path(paths)
    found = [path for path in every if path in names]
    return found if found or alternating else [every[0]]


def every_path(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    """The paths of a field of a layout, each once."""
    return (paths,) if isinstance(paths, str) else tuple(dict.fromkeys(paths))


def submodule(parent: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, or an error that says how to register a layout."""
    try:
        return parent.get_submodule(path)
    except AttributeError as error:
        raise DposcopeError(
            f"{type(parent).__name__} has no module {path!r}; for another architecture {HOW_TO_REGISTER}"
        ) from error


def is_gated(block: nn.Module, layout: Layout) -> bool:
    """Whether a block's MLP multiplies two projections (Llama, Gemma, Mistral, Qwen) instead of using one (GPT-2)."""
    where = mlp_path(block, layout)
    if where is None:
        return False
    experts = Experts.of(submodule(block, where))
    if experts is not None:
        return experts.gated
    path, _, own = where.rpartition(".")
    # The path is "mlp" for Llama; it is "" (the block itself) for OPT.
    children = [module for name, module in submodule(block, path).named_children() if name != own]
    inputs = [module for module in children if is_projection(module)]
    neurons = projection_width(submodule(block, where)).inputs
    # Phi-3 has both in one projection of twice the width.
    return sum(projection_width(module).outputs for module in inputs) >= 2 * neurons


def shared_experts(block: nn.Module, layout: Layout) -> Shared | None:
    """The shared experts of a block, beside its routed ones; None where it has none.

    Raises:
        DposcopeError: something unknown writes into the stream beside the routed experts.
    """
    path = mlp_path(block, layout)
    experts = None if path is None else Experts.of(submodule(block, path))
    if path is None or experts is None:
        return None
    above, after = mixture_path(path, experts), after_experts(block, layout)
    width = experts.outputs if after is None else projection_width(after).outputs
    beside = {
        name: submodule(block, name)
        for name in writers(block, width)
        if not names_mixer(name) and name.split(".")[0] not in _AROUND
    }
    if after is not None:
        beside = {name: module for name, module in beside.items() if name.rpartition(".")[2] not in _LATENT}
    named = [one for one in every_path(layout.mlp_out) if one in beside and ("shared" in one or not above)]
    apart = next((one for one in named if not above or not one.startswith(f"{above}.")), None)
    if apart is not None:
        mlp = apart.rpartition(".")[0]
        beside = {name: module for name, module in beside.items() if not name.startswith(f"{mlp}.")}
    strangers = [name for name in beside if not name.startswith(f"{above}." if above else "rout")]
    if strangers:
        raise DposcopeError(f"experts of a block stand beside {strangers[0]}, which is not supported")
    inside = {name.removeprefix(f"{above}."): module for name, module in beside.items()}
    # A router may choose among as many experts as the stream is wide.
    inside = {name: module for name, module in inside.items() if "shared" in name or "rout" not in name}
    within = Shared.beside(submodule(block, above), inside)
    if apart is None:
        return within
    if within is not None:
        raise DposcopeError("a block has shared experts in two places, which is not supported")
    norm = dict(block.named_children()).get(_AFTER_DENSE) if not above else None
    return Shared(submodule(block, apart.rpartition(".")[0]), submodule(block, apart), None, apart=True, norm=norm)


def after_experts(block: nn.Module, layout: Layout) -> nn.Module | None:
    """The projection of what a block's routed experts write together into the stream; None where they write it
    themselves, or there are none."""
    path = mlp_path(block, layout)
    experts = None if path is None else Experts.of(submodule(block, path))
    if path is None or experts is None:
        return None
    found = dict(submodule(block, mixture_path(path, experts)).named_children()).get(_LATENT[1])
    if found is None or not is_projection(found) or projection_width(found).inputs != experts.outputs:
        return None
    return found


def mixture_path(path: str, experts: Experts) -> str:
    """Where a block has the module of its routed experts and their router; empty for the block itself.

    Args:
        path: of the experts.
        experts: what is there.
    """
    return path if experts.whole else path.rpartition(".")[0]
