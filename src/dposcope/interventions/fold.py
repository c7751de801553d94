"""Fold an edit into the weights, so that the result is an ordinary checkpoint.

With V the value vectors `[n, d]` of an output projection (of an MLP or of heads), gains g and an ablation (u, w):
V := diag(g) V (I − w u uᵀ), and a bias b := b (I − w u uᵀ). Computed in float64 and rounded once. In a mixture of
experts this holds for each expert: the router's weight multiplies what the expert writes, its bias too.

Weights are replaced by new parameters and never changed in place, so storage that modules or the caller share keeps its
values.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.checks.given import check_lm
from dposcope.model.devices.copies import copied_model
from dposcope.model.devices.streamed import check_at_hand
from dposcope.model.frames import Positions
from dposcope.model.hooks import is_hooked
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.projections import value_vectors
from dposcope.model.mixtures.experts import Experts
from dposcope.model.mixtures.parts import Part
from dposcope.model.quantised.weights import is_quantised

Foldable = Gains | Ablation | Edit | Assign
"""Interventions that can be written into weights."""


def fold(lm: LanguageModel, edit: Foldable) -> LanguageModel:
    """A copy of the model with the edit in its weights; `lm` is unchanged.

    Needs memory for a second copy of the model; `folded` needs it only for the changed weights.

    Args:
        lm: the model, unquantised.
        edit: gains, ablation, both, or an `Assign` at all positions where output projections have a bias.

    Raises:
        DposcopeError: the edit does not fit the model, weights cannot express it, or would be out of the range of their
            type, or they are quantised.
    """
    check_lm(lm)
    if is_hooked(lm):
        raise DposcopeError("an intervention is on this model and a copy would keep its hooks; fold outside the `with`")
    copied = replace(lm, model=copied_model(lm.model))
    fold_(copied, edit)
    return copied


@torch.no_grad()
def fold_(lm: LanguageModel, edit: Foldable) -> None:
    """Fold the edit into the weights of `lm` itself; see `fold`."""
    for module, parameters in _in_range(lm, _new_parameters(lm, edit)):
        _put(module, parameters)


@contextmanager
def folded(lm: LanguageModel, edit: Foldable) -> Generator[LanguageModel]:
    """The model with the edit in its weights inside the context; afterwards it has its old parameters, to the bit."""
    with _replaced(_in_range(lm, _new_parameters(lm, edit))):
        yield lm


@contextmanager
def _replaced(planned: "_Planned") -> Generator[None]:
    before = [(module, {name: module.get_parameter(name) for name in new}) for module, new in planned]
    try:
        for module, new in planned:
            _put(module, new)
        yield
    finally:
        for module, old in before:
            _put(module, old)


def _put(module: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        path, _, last = name.rpartition(".")
        setattr(module.get_submodule(path), last, parameter)


_Planned = list[tuple[nn.Module, dict[str, nn.Parameter]]]
"""Modules, and their new parameters by dotted name."""


def _in_range(lm: LanguageModel, planned: _Planned) -> _Planned:
    """Refuse weights that became infinite: float16 ends at 65,504."""
    for module, new in planned:
        for name, parameter in new.items():
            if bool((parameter.isinf() & module.get_parameter(name).isfinite()).any()):
                whose = next(path for path, one in lm.model.named_modules() if one is module)
                raise DposcopeError(
                    f"the edit takes {whose}.{name} out of the range of {str(parameter.dtype).removeprefix('torch.')}; "
                    "use a weaker edit, or load the model in a wider type"
                )
    return planned


@torch.inference_mode(mode=False)  # new weights can be trained, and have a fingerprint
@torch.no_grad()
def _new_parameters(lm: LanguageModel, edit: Foldable) -> _Planned:
    """All new parameters. They are computed before any is replaced, so an error leaves the model unchanged."""
    check_lm(lm)
    check_at_hand(lm)
    if isinstance(edit, Assign):
        return _assigned(lm, edit)
    if not isinstance(edit, Gains | Ablation | Edit):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DposcopeError(
            f"a {type(edit).__name__} does not fold into weights; fold gains, an ablation, an Edit or an Assign, and "
            "keep others as hooks (`with x.on(lm):`)"
        )
    edit = edit if isinstance(edit, Edit) else Edit.of(edit)
    planned = projection_edits(lm, edit)
    for one in planned:
        _check_plain(lm, one.projection)
    return [(one.projection, _projected(one)) for one in planned]


def _check_plain(lm: LanguageModel, projection: nn.Module) -> None:
    if is_quantised(projection):
        raise DposcopeError(
            f"the weights of {lm.name} are quantised, and an edit does not fold into codes; fold it into the "
            "unquantised model (dposcope fold MODEL --edit EDIT --out FOLDER) or into dposcope.dequantised(lm), or "
            "keep the hooks (edit.on)"
        )


@contextmanager
def in_effect(lm: LanguageModel, edit: Edit) -> Generator[LanguageModel]:
    """The model with the edit inside the context: in its weights, which is fastest, or by hooks where they are
    quantised. Weights out of the range of their type are infinite, and a measured cost too."""
    with edit.on(lm) if lm.quantised else _replaced(_new_parameters(lm, edit)):
        yield lm


@dataclass(frozen=True, eq=False)
class ProjectionEdit:
    """The edit of one output projection."""

    projection: nn.Module
    """A `Linear` or `Conv1D`, or the experts of a block's MLP or attention."""
    factors: Tensor | None
    """Gains g of its inputs, `[n]`, float32 on the CPU; None for no gains."""
    ablations: tuple[Ablation, ...]
    """Ablations of its output, in turn."""

    def rows(self, vectors: Tensor) -> Tensor:
        """Value vectors, `[n, d]` → diag(g) V Π(I − w u uᵀ), in the same precision."""
        return self.through(
            vectors if self.factors is None else self.factors.to(vectors.device, vectors.dtype).unsqueeze(1) * vectors
        )

    def of_expert(self, experts: Experts, expert: int) -> "ProjectionEdit":
        """The same of one expert, whose value vectors are `[I, d]`."""
        width = experts.sizes.width
        here = slice(expert * width, (expert + 1) * width)
        return replace(self, factors=None if self.factors is None else self.factors[here])

    def through(self, rows: Tensor) -> Tensor:
        """Output vectors, `[k, d]`, such as a bias, after the ablations."""
        for ablation in self.ablations:
            unit = ablation.direction.to(rows.device, rows.dtype)
            rows = rows - ablation.weight * torch.outer(rows @ unit, unit)
        return rows


def projection_edits(lm: LanguageModel, edit: Edit) -> list[ProjectionEdit]:
    """Every output projection that `edit` changes, in the order of blocks, MLP before attention.

    Weights are not read, so the model may be on the `meta` device.

    Raises:
        DposcopeError: the edit does not fit the model.
    """
    # Run the same checks as for hooks: shapes fit, blocks exist.
    edit.changes(lm)
    plan: list[ProjectionEdit] = []
    for block in range(lm.n_blocks):
        here = [a for a in edit.ablations if block in a.of_blocks(lm)]
        of_mlp, of_mixer = [a for a in here if a.mlp], [a for a in here if a.attention]
        for module, columns, gains, through in (
            *(written for part in lm.columns.parts[block] for written in _written(part, edit.gains, of_mlp)),
            *((one, slice(None), edit.head_gains, of_mixer) for one in lm.mixer_outs[block]),
        ):
            touched = gains is not None and bool(gains.touched.mask[block, columns].any())
            if through or touched:
                factors = gains.values[block, columns] if gains is not None and touched else None
                plan.append(ProjectionEdit(module, factors, tuple(through)))
    return plan


def _written(
    part: Part, gains: Gains | None, ablations: list[Ablation]
) -> list[tuple[nn.Module, slice, Gains | None, list[Ablation]]]:
    """The projections of a part, their columns, and what changes each: gains the neurons' own, ablations the last."""
    if part.after is None:
        return [(part.projection, part.columns, gains, ablations)]
    return [(part.projection, part.columns, gains, []), (part.after, slice(0), None, ablations)]


def _projected(edit: ProjectionEdit) -> dict[str, nn.Parameter]:
    module = edit.projection
    experts = Experts.within(module)
    if experts is not None:
        return _projected_experts(experts, edit)
    new = {"weight": _as_weight(module, edit.rows(_readable(value_vectors(module)).double()))}
    bias = _bias(module)
    if bias is not None and edit.ablations:
        written = edit.through(bias.double().unsqueeze(0)).squeeze(0)
        new["bias"] = nn.Parameter(written.to(bias.dtype), requires_grad=bias.requires_grad)
    return new


def _projected_experts(experts: Experts, edit: ProjectionEdit) -> dict[str, nn.Parameter]:
    stored = _readable(experts.weight)
    new = torch.empty_like(stored)
    old, weight = experts.stacked(stored), experts.stacked(new)
    for expert in range(experts.sizes.count):  # float64 copies of all experts would need much memory
        part = edit.of_expert(experts, expert)
        vectors = old[expert] if experts.transposed else old[expert].T
        rows = part.rows(vectors.double())
        weight[expert] = rows if experts.transposed else rows.T
    found = {experts.weight_name: nn.Parameter(new, requires_grad=stored.requires_grad)}
    bias = experts.bias
    if bias is not None and edit.ablations:
        written = edit.through(bias.double().view(-1, experts.outputs)).view(bias.shape)
        found[experts.bias_name] = nn.Parameter(written.to(bias.dtype), requires_grad=bias.requires_grad)
    return found


def _assigned(lm: LanguageModel, assign: Assign) -> _Planned:
    """Fold m_i := c_i at all positions: v_i := 0 and b := b + c_i v_i. Needs a bias."""
    if assign.positions is not Positions.ALL:
        raise DposcopeError(f"constants at positions {assign.positions.value!r} do not fold; weights act at all")
    assign.changes(lm)
    plan: _Planned = []
    if lm.experts is not None:
        raise DposcopeError(
            "assigned constants do not fold into a mixture of experts, as the router decides what an expert writes; "
            "keep the hooks, or use gains"
        )
    there = [(block, part) for block, parts in enumerate(lm.columns.parts) for part in parts]
    for block, part in there:
        members = assign.neurons.mask[block, part.columns]
        if not members.any():
            continue
        module = part.projection
        bias = _bias(module)
        if bias is None:
            raise DposcopeError(
                "assigned constants fold only where the MLP's output projection has a bias (GPT-2), and "
                f"{lm.model.config.model_type} has none; keep the hooks, or use gains"
            )
        _check_plain(lm, module)
        vectors = _readable(value_vectors(module)).double()
        members = members.to(vectors.device)
        given = assign.values[block, part.columns].to(vectors.device, torch.float64)
        constants = torch.where(members, given, 0.0)
        constant = bias.double() + constants @ vectors
        new = {
            "weight": _as_weight(module, vectors.masked_fill(members.unsqueeze(1), 0.0)),
            "bias": nn.Parameter(constant.to(bias.dtype), requires_grad=bias.requires_grad),
        }
        plan.append((module, new))
    return plan


def _as_weight(module: nn.Module, vectors: Tensor) -> nn.Parameter:
    """Value vectors `[n, d]` as a weight with the module's orientation, dtype and gradient flag."""
    old = module.get_parameter("weight")
    weight = vectors if isinstance(module, Conv1D) else vectors.T
    return nn.Parameter(weight.to(old.dtype).contiguous(), requires_grad=old.requires_grad)


def _bias(module: nn.Module) -> Tensor | None:
    names = dict(module.named_parameters(recurse=False))
    return names.get("bias")


def _readable(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        raise DposcopeError("some weights are offloaded and cannot be folded; load the model whole, on the CPU say")
    return tensor
