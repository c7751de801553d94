"""Three kinds of training with one interface: all weights, a low-rank adapter, or one gain per neuron.

Each is a context that yields a policy and its export. On leaving the context the given model is as before, unless
`in_place` is set.
"""

import copy
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dposcope.data.given.kinds import check_kind
from dposcope.data.given.numbers import number, whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.model.cache import forget
from dposcope.model.checks.given import check_lm
from dposcope.model.devices.copies import convert_, copied_model
from dposcope.model.frames import Frame, Positions
from dposcope.model.head.unembedding import Unembedding
from dposcope.model.hooks import Change, Site, heads_site, hooked, is_hooked, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.blocks import block_modules
from dposcope.model.layout.names import is_read_alone
from dposcope.model.layout.projections import is_projection
from dposcope.model.quantised.plain import plain_
from dposcope.model.quantised.weights import is_quantised
from dposcope.neurons.sets import NeuronSet, check_neurons
from dposcope.processes.launcher import world_size
from dposcope.training.lean_reference import Reads, lean_reference
from dposcope.training.objective import Objective
from dposcope.training.policy import Arm, PreferencePolicy


@dataclass(frozen=True, eq=False)
class Tuned:
    """The result of training: a model, or gains that can be folded into one."""

    lm: LanguageModel
    """The tuned model; with gains, the untouched base."""
    gains: Gains | None = None
    head_gains: Gains | None = None

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Trainable:
    """A policy while it is trained."""

    policy: PreferencePolicy
    export: Callable[[], Tuned]
    """The result so far, independent of further training."""
    after_step: Callable[[float], None] | None = None
    """Called with the learning rate after every step of the optimiser; None: nothing is called."""

    __repr__ = short_repr


@contextmanager
def all_weights(
    lm: LanguageModel,
    objective: Objective,
    *,
    reference_dtype: torch.dtype | None = None,
    in_place: bool = False,
    reads: Reads | None = None,
    recompute: bool = False,
) -> Generator[Trainable]:
    """Train every weight, in float32 or wider. The reference is a second copy.

    Args:
        lm: the base.
        objective: what is minimised.
        reference_dtype: precision of the second copy; None: that of `lm`. A lower precision saves memory, and the
            implicit reward then starts near zero instead of at zero.
        in_place: train `lm` itself, so that only one whole model is in memory. The reference is then a copy of the base
            with only the embedding rows that `reads` names. Without `reads`, its outputs must be computed before
            (`precompute.py`).
        reads: the tokens that the reference will read; only with `in_place`.
        recompute: compute activations again in the backward pass: less memory, more time, the same gradients.

    Raises:
        DposcopeError: the model is in training mode or quantised, or an intervention is on it.
    """
    _check_mode(lm, objective)
    _check_bare(lm)
    check_trainable(lm)
    kept = lm.dtype
    # Small updates vanish in bfloat16 weights (a step of 1e-5 on a weight of 0.03 is a tenth of its last bit).
    wide = torch.promote_types(kept, torch.float32)
    if in_place:
        trained: PreTrainedModel = lm.model.to(wide)  # pyright: ignore[reportArgumentType]
        if reads is not None:
            reference = lean_reference(trained, reads, dtype=reference_dtype)
        else:
            reference = Arm(trained, head=_cloned(Unembedding.of(trained)), changed_by_training=True)
    else:
        # The reference runs without gradient, so the `requires_grad` flags of the caller's parameters can stay.
        base = lm.model
        forget(base)
        if reference_dtype is not None and reference_dtype != lm.dtype:
            base = copy.deepcopy(lm.model)
            convert_(base, reference_dtype)
        reference = Arm(base)
        trained = copy.deepcopy(lm.model).to(wide)  # pyright: ignore[reportArgumentType]
    trained.requires_grad_(True)

    def export() -> Tuned:
        forget(trained)
        model = copy.deepcopy(trained).requires_grad_(False)
        convert_(model, kept)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = False  # see below
        return Tuned(replace(lm, model=model))

    with _embedding_gradient_in_rows(trained):
        again = block_modules(trained, lm.layout) if recompute else ()
        yield Trainable(PreferencePolicy(trained, Arm(trained, recompute=again), reference, objective), export)


def check_trainable(lm: LanguageModel) -> None:
    """Refuse to train all weights of a quantised model.

    Raises:
        DposcopeError: it is quantised.
    """
    if lm.quantised:
        raise DposcopeError(
            f"the weights of {lm.name} are quantised, and codes cannot be trained; train gains or a LoRA adapter "
            "(--train gains or lora), or load the model unquantised"
        )


@contextmanager
def _embedding_gradient_in_rows(model: PreTrainedModel) -> Generator[None]:
    """Give the embedding's gradient as rows, where the embedding is tied to the head.

    A batch reads a few thousand rows of the embedding. A dense gradient would be a second tensor of the head's size.
    Rows are added to the head's gradient in place.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    # Several processes exchange gradients, and all must have them in the same form.
    alone = world_size() == 1
    if not alone or not isinstance(embedding, nn.Embedding) or head is None or head.weight is not embedding.weight:
        yield
        return
    embedding.sparse = True
    try:
        yield
    finally:
        embedding.sparse = False


def _check_mode(lm: LanguageModel, objective: object) -> None:
    check_lm(lm)
    if not isinstance(objective, Objective):
        raise DposcopeError(f"objective is a {type(objective).__name__}; give dposcope.Objective(…)")
    if lm.model.training:
        raise DposcopeError("the model is in training mode, where dropout makes rewards random; call model.eval()")


def _check_bare(lm: LanguageModel) -> None:
    if is_hooked(lm):
        raise DposcopeError(
            "an intervention is on the model, and a copy would keep its hooks; train outside the `with`"
        )


def _teacher_arm(teacher: LanguageModel | None, objective: Objective) -> Arm | None:
    if teacher is not None:
        check_lm(teacher, "teacher")
    if (teacher is None) != (objective.teacher_weight == 0):
        missing = "its weight is 0" if teacher is not None else "no teacher is given"
        raise DposcopeError(
            f"distillation is requested, but {missing}; give both a teacher and a teacher_weight above 0"
        )
    return None if teacher is None else Arm(teacher.model)


def _cloned(head: Unembedding) -> Unembedding:
    bias = None if head.bias is None else head.bias.detach().clone()
    return Unembedding(head.weight.detach().clone(), bias, head.softcap, head.scale)


def check_adaptable(lm: LanguageModel) -> None:
    """Refuse to train a LoRA adapter of a mixture of experts.

    Raises:
        DposcopeError: it is one.
    """
    if lm.experts is not None:
        raise DposcopeError(
            "LoRA of a mixture of experts is not supported, as its experts are no Linear layers; train gains, or all "
            "weights"
        )


@contextmanager
def low_rank(
    lm: LanguageModel,
    objective: Objective,
    *,
    rank: int = 16,
    alpha: int = 32,
    seed: int = 0,
    recompute: bool = False,
    teacher: LanguageModel | None = None,
) -> Generator[Trainable]:
    """Train a LoRA adapter on every projection of the blocks; the reference is the same model with the adapter off.

    `out_proj` and `dt_proj` of state spaces stay as they are: an adapter has no effect there.

    On a quantised base this is QLoRA. The result is then a plain model: dequantised weights with the adapter merged.

    Args:
        lm: the base; its weights are not written to.
        objective: what is minimised.
        rank: r of each adapter.
        alpha: the adapter is scaled by alpha / rank.
        seed: seed of the adapter's random initial values.
        recompute: compute activations again in the backward pass: less memory, more time, the same gradients.
        teacher: a tuned model to distil, see `Objective.teacher_weight`; None: no teacher.

    Raises:
        DposcopeError: `peft` is missing, the model is in training mode, an intervention is on it, or only one
            of teacher and teacher weight is given.
    """
    _check_mode(lm, objective)
    teacher_arm = _teacher_arm(teacher, objective)
    _check_bare(lm)
    check_adaptable(lm)
    if whole("rank", rank) < 1 or not number("alpha", alpha) > 0:
        raise DposcopeError(f"an adapter of rank {rank}, scaled by {alpha}, trains nothing; give numbers above 0")
    if find_spec("peft") is None:
        raise DposcopeError("LoRA needs the peft package; install it with: pip install 'dposcope[train]'")
    from peft import LoraConfig, get_peft_model

    flags = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    # `lm` remembers these projections. Look them up now, before peft puts its wrappers in their place.
    _ = lm.mlp_outs, lm.mixer_outs
    names = {
        name
        for block in lm.blocks
        for name, module in _named_in(lm.model, block)
        if is_projection(module) and not is_read_alone(name)
    }
    conv = any(isinstance(lm.model.get_submodule(name), Conv1D) for name in names)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=sorted(names), fan_in_fan_out=conv, bias="none"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(whole("seed", seed))
        # peft reads a property that transformers renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        try:
            adapted: Any = get_peft_model(lm.model, config)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            if not lm.quantised:
                raise
            raise DposcopeError(
                f"peft has no LoRA for the quantised layers of {lm.name}; train gains, or load it unquantised"
            ) from error

    def export() -> Tuned:
        merged = _dequantised_with(adapted) if lm.quantised else copied_model(adapted).merge_and_unload()
        return Tuned(replace(lm, model=merged.requires_grad_(False), quantise=None))

    try:
        adapted.eval()
        policy = PreferencePolicy(
            adapted,
            Arm(lm.model, recompute=lm.blocks if recompute else ()),
            Arm(lm.model, adapted.disable_adapter),
            objective,
            teacher_arm,
        )
        yield Trainable(policy, export)
    finally:
        adapted.unload()
        for name, parameter in lm.model.named_parameters():
            parameter.requires_grad_(flags[name])


@torch.no_grad()
def _dequantised_with(adapted: Any) -> PreTrainedModel:
    """A plain copy of a quantised model with its adapter merged, each weight rounded once."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    copied, added = copied_model(adapted), dict[str, Tensor]()
    for name, module in copied.get_base_model().named_modules():
        layer: Any = module
        if isinstance(module, BaseTunerLayer):
            (key,) = layer.scaling
            if is_quantised(layer.base_layer):
                added[name] = layer.scaling[key] * (layer.lora_B[key].weight @ layer.lora_A[key].weight)
            else:  # some are left out of quantisation
                layer.merge()
    return plain_(copied.unload(), added)


def _named_in(model: nn.Module, block: nn.Module) -> list[tuple[str, nn.Module]]:
    prefix = next(name for name, module in model.named_modules() if module is block)
    return [(f"{prefix}.{name}", module) for name, module in block.named_modules()]


class _GainValues(nn.Module):
    """One factor per neuron and, on request, per channel of heads. There are no other parameters."""

    def __init__(self, values: Tensor, of_heads: Tensor | None) -> None:
        super().__init__()
        self.gains = nn.Parameter(values)
        if of_heads is not None:
            self.head_gains = nn.Parameter(of_heads)


@contextmanager
def neuron_gains(
    lm: LanguageModel,
    objective: Objective,
    *,
    start: Gains | None = None,
    among: NeuronSet | None = None,
    sparsity: float = 0.0,
    heads: bool = False,
    teacher: LanguageModel | None = None,
) -> Generator[Trainable]:
    """Train one gain per neuron (IA³ on the output projection's input); the reference is the model without gains.

    Args:
        lm: the base; its weights are not written to.
        objective: what is minimised.
        start: initial gains, which must act at all positions; None: all gains start at 1.
        among: the only neurons whose gains are trained; all others are exactly 1. None: all neurons.
        sparsity: μ of a penalty μ Σ|g − 1|, applied as a proximal step: after each optimiser step of length η,
            every gain moves towards 1 by η μ and stops at 1, so that many gains are exactly 1. Adam's steps have length
            η for every size of gradient, so μ is in (0, 1): the larger μ is, the more steadily the gradient of a neuron
            must keep its sign for its gain to leave 1.
        heads: train one gain per channel of the attention heads too. The paper edits neurons only; these gains fold as
            well.
        teacher: a tuned model to distil, see `Objective.teacher_weight`; None: no teacher.

    Raises:
        DposcopeError: the model is in training mode, `start` or `among` does not fit it, `start` acts at some positions
            only, μ is negative, or 1 or more, or only one of teacher and teacher weight is given.
    """
    _check_mode(lm, objective)
    teacher_arm = _teacher_arm(teacher, objective)
    sparsity = number("sparsity", sparsity)
    if not 0 <= sparsity < 1:
        reason = "leaves every gain at 1" if sparsity >= 1 else "is below 0"
        raise DposcopeError(f"a sparsity of {sparsity} {reason}; give 0 for none, or a value such as 0.3")
    if start is not None:
        check_kind("start", start, Gains, "Gains, such as those of an edit (edit.gains)")
        start.changes(lm)  # refuses gains of another shape
        if start.positions is not Positions.ALL:
            raise DposcopeError(
                f"gains at positions {start.positions.value!r} cannot be trained, as training acts at all positions; "
                "give them positions='all'"
            )
    values = torch.ones(lm.n_blocks, lm.d_mlp) if start is None else start.values.clone()
    # All gains are on one device, that of the inputs; each block's are moved to its activations.
    of_heads = torch.ones(lm.n_blocks, lm.d_attention, device=lm.device) if heads else None
    if among is not None:
        check_neurons(among)
        if among.mask.shape != values.shape:
            raise DposcopeError(f"neurons of {list(among.mask.shape)} are not those of a model of {list(values.shape)}")
        values[~among.mask] = 1
    trained = _GainValues(values.to(lm.device), of_heads)
    if among is not None:
        # Adam does not move a parameter with gradient 0, and clipping then counts the other parameters only.
        open_to_change = among.mask.to(lm.device, torch.float32)
        trained.gains.register_hook(lambda gradient: gradient * open_to_change)

    def scale(factors: nn.Parameter, block: int, site: Site) -> Change:
        def change(activations: Tensor, _frame: Frame) -> Tensor:
            # float32, as `Gains` applies them; a gain of exactly 1 changes no bit.
            return (activations * factors[block, site.columns].to(activations.device)).to(activations.dtype)

        return change

    def applied() -> AbstractContextManager[Any]:
        blocks = range(lm.n_blocks)
        changes = [(site, scale(trained.gains, block, site)) for block in blocks for site in neuron_sites(lm, block)]
        if heads:
            at_heads = [(heads_site(lm, block), block) for block in blocks]
            changes += [(site, scale(trained.head_gains, block, site)) for site, block in at_heads]
        return hooked(lm, changes)

    def export() -> Tuned:
        return Tuned(lm, Gains(trained.gains), Gains(trained.head_gains, of="heads") if heads else None)

    @torch.no_grad()
    def towards_one(rate: float) -> None:
        for factors in trained.parameters():
            factors.copy_(1 + nn.functional.softshrink(factors - 1, rate * sparsity))

    flags = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    lm.model.requires_grad_(False)
    try:
        policy = PreferencePolicy(trained, Arm(lm.model, applied), Arm(lm.model), objective, teacher_arm)
        yield Trainable(policy, export, towards_one if sparsity else None)
    finally:
        for name, parameter in lm.model.named_parameters():
            parameter.requires_grad_(flags[name])
