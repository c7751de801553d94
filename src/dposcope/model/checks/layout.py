"""The layout of a model, found and checked: what is read is what the model computes.

Types that the tests cover are taken as they are. Any other is run on two tokens, and refused where it does more than
its layout says.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor  # pyright: ignore[reportPrivateUsage]
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from dposcope.errors import DposcopeError
from dposcope.model.checks.unfit import check_fit
from dposcope.model.head.logits import final_norm, unembed
from dposcope.model.layout.blocks import (
    after_experts,
    attention_paths,
    every_path,
    mixture_path,
    mlp_path,
    shared_experts,
    submodule,
)
from dposcope.model.layout.config import counts_places, has_linear_attention
from dposcope.model.layout.names import names_attention, names_mixer
from dposcope.model.layout.projections import projection_width, writers
from dposcope.model.layout.recognise import recognise
from dposcope.model.layout.table import HOW_TO_REGISTER, Layout, check_expected, is_covered, known_layout
from dposcope.model.mixtures.experts import Experts
from dposcope.model.mixtures.shared import Always, Shared
from dposcope.model.quantised.weights import check_readable, is_quantised
from dposcope.model.residual.streams import residual_streams


@dataclass(frozen=True)
class Found:
    """A model's layout, and what one pass of it showed."""

    layout: Layout
    norm_repeats: bool = False
    """Whether a pass runs the final norm elsewhere, too, as nanochat does behind the embedding. What it reads is then
    not always the residual stream at the end of the last block."""
    reads_padding: bool = False
    """Whether blocks read what stands before a text in its row, masked or not."""


_READ_PADDING: Final = frozenset({"recurrent_gemma"})
"""Of the types whose layouts come with dposcope."""


def find_layout(model: PreTrainedModel) -> Layout:
    """The layout of `model`: registered, or recognised by structure.

    Raises:
        DposcopeError: see `find_parts`.
    """
    return find_parts(model).layout


def find_parts(model: PreTrainedModel) -> Found:
    """The layout of `model`, registered or recognised by structure; one that the tests do not cover is tried.

    Raises:
        DposcopeError: no layout is known, and the message says how to register one; or the model computes in a way of
            its own.
    """
    model_type = model.config.model_type
    check_expected(model_type)
    check_fit(model_type)
    if model_type == "llama4_text" and holds_numbers(model):
        # Alone, its decoder still says that its base model is named as in the model with vision, which it is not.
        model.base_model_prefix = "model"
    layout = known_layout(model_type) or recognise(model)
    blocks = submodule(model, layout.blocks)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise DposcopeError(
            f"layout of model_type {model_type!r}: {layout.blocks!r} is not a list of blocks; {HOW_TO_REGISTER}"
        )
    final_norm(model, layout)
    _check_mixture(model, blocks, layout)
    projections = [module for block in blocks for module in (submodule(block, path) for path in _paths(block, layout))]
    for projection in projections:
        projection_width(projection)
        experts = Experts.of(projection)
        if experts is not None:
            experts.check()
    behind = [after for block in blocks if (after := after_experts(block, layout)) is not None]
    for projection in (*projections, *behind):
        if is_quantised(projection) and holds_numbers(model):
            check_readable(projection)
    if layout.alternating:
        _check_alternating(blocks, layout)
    if layout is known_layout(model_type) and not is_covered(model_type, layout):
        _check_written(blocks, layout)
    if len(set(map(id, projections))) != len(projections):
        # A hook or a weight of such a module would act in several blocks.
        raise DposcopeError("blocks of this model share one output projection, so blocks cannot be edited one by one")
    if is_covered(model_type, layout):
        return Found(layout, reads_padding=model_type in _READ_PADDING)
    used = {path for block in blocks for path in attention_paths(block, layout)}
    for path in every_path(layout.attention_out):
        if path not in used:  # in a block with attention and a state space, one would be left out in silence
            raise DposcopeError(f"layout of model_type {model_type!r}: no block has {path!r}; {HOW_TO_REGISTER}")
    if not holds_numbers(model):  # without weights there are no logits to check
        return Found(layout)
    own = _logits(model, _two_tokens(model))
    mixed = has_linear_attention(model) or not all(names_attention(path) for path in used)
    reads_padding = counts_places(model) or (mixed and _reads_padding(model, own))
    _check_apart(model, blocks, layout)
    return Found(layout, _check_unembedding(model, blocks, layout, own), reads_padding)


def holds_numbers(model: PreTrainedModel) -> bool:
    """Whether there are weights, and not their shapes alone, as on the `meta` device."""
    first = next(model.parameters())
    return not (first.is_meta or isinstance(first, FakeTensor))


def _paths(block: nn.Module, layout: Layout) -> list[str]:
    """Of a block's output projections."""
    own = mlp_path(block, layout)
    return [*([] if own is None else [own]), *attention_paths(block, layout)]


def _check_alternating(blocks: nn.ModuleList, layout: Layout) -> None:
    """Refuse a layout that leaves out a block or all MLPs, and one of blocks that have both, so do not alternate."""
    for number, block in enumerate(blocks):
        if mlp_path(block, layout) is not None and attention_paths(block, layout):
            raise DposcopeError(f"layout: block {number} has an MLP and attention; leave alternating out")
        if not _paths(block, layout):
            raise DposcopeError(
                f"layout: block {number} has none of the projections that mlp_out and attention_out name"
            )
    if all(mlp_path(block, layout) is None for block in blocks):
        raise DposcopeError(f"layout: no block has {', '.join(every_path(layout.mlp_out))}, so there are no neurons")


def _two_tokens(model: PreTrainedModel) -> Tensor:
    """What a model is tried on, `[1, 2]`, on the device of its embedding."""
    return torch.tensor([[0, 1]], device=model.get_input_embeddings().weight.device)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


@torch.inference_mode()
def _logits(model: PreTrainedModel, ids: Tensor, **given: Tensor) -> Tensor:
    """`[B, T, vocabulary]`, without a cache."""
    return model(input_ids=ids, use_cache=False, **given).logits


def _check_written(blocks: nn.ModuleList, layout: Layout) -> None:
    """Refuse a registered layout whose projections write vectors of two widths: one of them is no output projection."""
    for block in blocks:
        own = mlp_path(block, layout)
        if own is None:
            continue
        mlp = projection_width(submodule(block, own)).outputs
        for path in attention_paths(block, layout):
            attention = projection_width(submodule(block, path)).outputs
            if mlp != attention:
                raise DposcopeError(
                    f"layout: mlp-out {own!r} writes {mlp} numbers and attention-out {path!r} {attention}; both must "
                    "write to the residual stream: name the last projection of each, mostly down_proj and o_proj"
                )


def _check_mixture(model: PreTrainedModel, blocks: nn.ModuleList, layout: Layout) -> None:
    """Refuse a mixture of experts with neurons elsewhere than in its experts and dense blocks.

    Raises:
        DposcopeError: there are other projections that write into the stream than those of attention, of routed and of
            shared experts and of dense blocks; or the output projection is not that of experts.
    """
    model_type, width = model.config.model_type, model.config.get_text_config().hidden_size
    mixed = [any("expert" in name for name, _ in block.named_modules()) for block in blocks]
    for block, experts in zip(blocks, mixed, strict=True):
        path = mlp_path(block, layout)
        if path is None:
            continue
        if not experts:
            if any(mixed) and [name for name in writers(block, width) if not names_mixer(name)] != [path]:
                raise DposcopeError(f"{model_type} has dense blocks of an unknown kind among blocks of experts")
            continue
        routed = Experts.of(submodule(block, path))
        if routed is None:
            raise DposcopeError(f"{model_type} computes its experts in a way of its own, which is not supported")
        after = after_experts(block, layout)
        if (routed.outputs if after is None else projection_width(after).outputs) != width:
            raise DposcopeError(
                f"experts of {model_type} write {routed.outputs} numbers that another projection turns into {width}, "
                "so their neurons have no value vectors of their own: not supported"
            )
        try:
            shared_experts(block, layout)
        except DposcopeError as error:
            raise DposcopeError(f"{model_type} is a mixture of an unknown kind: {error}") from error


@torch.inference_mode()
def _check_unembedding(model: PreTrainedModel, blocks: nn.ModuleList, layout: Layout, own: Tensor) -> bool:
    """Refuse an architecture that computes logits in a way of its own, as the lens and log-perplexity would be wrong;
    or what blocks write or pass on.

    Returns:
        `Found.norm_repeats`.
    """
    with _probing(model, blocks, layout), _ends(model, blocks, layout) as ends:
        read: ModelOutput = model.base_model(input_ids=_two_tokens(model), use_cache=False)
    if "last_hidden_state" not in read:
        raise DposcopeError(
            f"{model.config.model_type} gives no final-norm output apart from its logits: not supported"
        )
    normed: Tensor = read["last_hidden_state"]
    if layout.final_norm is None and not torch.equal(normed, ends.written[-1].to(normed.device)):
        raise DposcopeError(
            f"layout of model_type {model.config.model_type!r}: something stands between the last block and the "
            "unembedding; name it as final-norm"
        )
    ours = unembed(model, normed).to(own.device)
    if not torch.allclose(own, ours, rtol=1e-2, atol=1e-3):
        raise DposcopeError(
            f"{model.config.model_type} computes logits by more than its final norm, unembedding, scale and soft-cap, "
            "so the lens and log-perplexity would be wrong: not supported, unless a layout gives the logit_scale or "
            "logit_softcap"
        )
    return ends.norm_repeats(model.config.model_type)


def _reads_padding(model: PreTrainedModel, own: Tensor) -> bool:
    """Whether a state space, convolution or recurrence reads padding, so that a batch would change its texts."""
    two = _two_tokens(model)
    ids = torch.cat([torch.ones_like(two), two], 1)
    mask = torch.cat([torch.zeros_like(two), torch.ones_like(two)], 1)
    takes = "position_ids" in inspect.signature(model.forward).parameters
    placed = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if takes else {}
    padded = _logits(model, ids, attention_mask=mask, **placed)
    return _differ(own[0, -1], padded[0, -1])


@torch.inference_mode()
def _check_apart(model: PreTrainedModel, blocks: nn.ModuleList, layout: Layout) -> None:
    """Refuse blocks that do more than to add up what their routed experts and the shared ones apart from them write.

    What the shared ones write is added to what the routed ones write instead, which must give the same logits.
    """
    apart = [
        (submodule(block, path.rpartition(".")[0]), shared)
        for block in blocks
        if (path := mlp_path(block, layout)) is not None
        and (shared := shared_experts(block, layout)) is not None
        and shared.apart
    ]
    if not apart:
        return
    ids = _two_tokens(model)
    wrote: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _args: Any, output: Tensor) -> None:
        wrote[module] = output.clone()

    def nothing(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    def for_both(shared: Shared) -> Callable[..., Any]:
        def add(_module: nn.Module, _args: Any, output: Tensor | tuple[Any, ...]) -> Any:
            both = wrote[shared.out]
            return output + both if isinstance(output, Tensor) else (output[0] + both, *output[1:])

        return add

    with ExitStack() as stack:
        for _, shared in apart:
            stack.callback(shared.out.register_forward_hook(keep).remove)
        own = _logits(model, ids)
    with ExitStack() as stack:
        for routed, shared in apart:
            stack.callback(routed.register_forward_hook(for_both(shared)).remove)
            stack.callback(shared.mlp.register_forward_hook(nothing).remove)
        moved = _logits(model, ids)
    if _differ(own, moved):
        raise DposcopeError(
            f"{model.config.model_type} does more than to add routed and shared experts up, which is not supported"
        )


def _differ(logits: Tensor, others: Tensor) -> bool:
    """Whether two computations of the same logits differ by more than rounding, which may send a token of a mixture to
    another expert in half precision."""
    change = (others.double() - logits.double()).norm() / logits.double().norm()
    return bool(change > (1e-3 if logits.dtype == torch.float32 else 0.15))


@dataclass(frozen=True, eq=False)
class _Ends:
    """What a pass has at its end."""

    written: list[Tensor] = field(default_factory=list[Tensor])
    """By the last block, each time."""
    normed: list[Tensor] = field(default_factory=list[Tensor])
    """What the final norm read, each time."""

    def norm_repeats(self, model_type: str) -> bool:
        """Whether the final norm ran several times.

        Raises:
            DposcopeError: and what it read at last is not what the last block wrote, so nothing shows its stream.
        """
        if len(self.normed) < 2:
            return False
        last = self.normed[-1]
        if not self.written or not torch.equal(last, self.written[-1].to(last.device)):
            raise DposcopeError(
                f"{model_type} runs its final norm several times, and changes what its last block writes before it: "
                "not supported"
            )
        return True


@contextmanager
def _ends(model: PreTrainedModel, blocks: nn.ModuleList, layout: Layout) -> Generator[_Ends]:
    """Look, during one pass, at what the last block writes and the final norm reads."""
    ends = _Ends()

    def wrote(_module: nn.Module, _args: Any, output: Tensor | tuple[Any, ...]) -> None:
        ends.written.append((output if isinstance(output, Tensor) else output[0]).clone())

    def reads(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ends.normed.append(args[0] if args else next(iter(kwargs.values())))

    norm = final_norm(model, layout)
    with ExitStack() as stack:
        stack.callback(blocks[-1].register_forward_hook(wrote).remove)
        if norm is not None:
            stack.callback(norm.register_forward_pre_hook(reads, with_kwargs=True).remove)
        yield ends


@contextmanager
def _probing(model: PreTrainedModel, blocks: nn.ModuleList, layout: Layout) -> Generator[None]:
    """Check, during one pass, that blocks pass on one residual stream or a known one of several, and that routed and
    shared experts of a block are added up as they are, times a known factor.

    Raises:
        DposcopeError: they are not.
    """
    model_type, streams = model.config.model_type, residual_streams(model)
    width: int = model.config.get_text_config().hidden_size

    def one_stream(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        passed: Tensor = args[0] if args else kwargs["hidden_states"]
        if not ((passed.ndim == 3 and passed.shape[-1] == width) if streams is None else streams.fit(passed, width)):
            raise DposcopeError(
                f"blocks of {model_type} pass on several residual streams of an unknown kind, which is not supported"
            )

    with ExitStack() as stack:
        for block in blocks[1:]:
            stack.callback(block.register_forward_pre_hook(one_stream, with_kwargs=True).remove)
        for block in blocks:
            path = mlp_path(block, layout)
            experts = None if path is None else Experts.of(submodule(block, path))
            if path is None or experts is None:
                continue
            shared, above = shared_experts(block, layout), mixture_path(path, experts)
            # Of experts alone, what holds them with the router; the block itself does more.
            if not shared.apart if shared is not None else above not in ("", path):
                last = after_experts(block, layout) or experts.module
                stack.enter_context(_added_up(model_type, submodule(block, above), last, experts.factor, shared))
        yield


@contextmanager
def _added_up(
    model_type: str, whole: nn.Module, experts: nn.Module, factor: float, shared: Shared | None
) -> Generator[None]:
    wrote: dict[nn.Module, Tensor] = {}
    read: list[Tensor] = []
    kinds: list[torch.dtype] = []

    def keep(module: nn.Module, _args: Any, output: Tensor | tuple[Any, ...]) -> None:
        given: Tensor = output if isinstance(output, Tensor) else output[0]
        # A copy: Llama 4 adds the routed experts into what the shared one wrote.
        wrote[module] = given.reshape(-1, given.shape[-1]).to(torch.float64, copy=True)
        kinds.append(given.dtype)

    kept = [module.register_forward_hook(keep) for module in (whole, experts)]
    if shared is not None:
        kept.append(shared.out.register_forward_hook(keep))
        if shared.norm is not None:  # what it reads stands for what the whole writes
            kept[0].remove()
            kept[0] = shared.norm.register_forward_pre_hook(lambda _module, args: keep(whole, args, args[0]))
        kept.append(shared.mlp.register_forward_pre_hook(lambda _module, args: read.append(args[0])))
    try:
        yield
    finally:
        for one in kept:
            one.remove()
    # Llama 4's experts write of every token, one expert after the other.
    expected = factor * wrote[experts].reshape(-1, *wrote[whole].shape).sum(0)
    if shared is not None:
        expected += Always(1, shared).routing(wrote[shared.out], read[-1]).weights * wrote[shared.out]
    # Norms, as sums in half precision are rounded.
    rounding = max(2 * torch.finfo(kinds[-1]).eps, 1e-5)
    if (wrote[whole] - expected).norm() > rounding * wrote[whole].norm():
        told = "pass on what its experts write" if shared is None else "add routed and shared experts up"
        raise DposcopeError(f"{model_type} does more than to {told}, which is not supported")
