"""Gains in a checkpoint quantised by compressed-tensors: only the scales of up projections change.

Its formats store a weight as integers or small floats q, one scale s per row, or per group within a row, and perhaps
a zero point z: W = s (q − z). A gain of neuron i on a gated model is a factor of row i of the up projection, so of
that row's scales (https://github.com/vllm-project/compressed-tensors, `weight_scale`).
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.layout import projection_width
from dposcope.shipping.skeleton import Skeleton
from dposcope.shipping.stored import FLOATS, Parts, Rewriting, Stored, Weights, find

_WAY_ROUND = "fold the unquantised checkpoint and quantise that again"


def compressed_changes(skeleton: Skeleton, weights: Weights, names: Mapping[str, str], edit: Edit) -> list[Rewriting]:
    """What becomes of which stored tensor.

    Raises:
        DposcopeError: another format; an edit that is more than gains of neurons, or does not fit; a model without a
            gate, or with gate and up projection in one; scales that are not by row.
    """
    method = str((skeleton.quantisation or {}).get("quant_method"))
    if method != "compressed-tensors":
        raise DposcopeError(
            f"the checkpoint is quantised by {method}, and of such only compressed-tensors is folded; {_WAY_ROUND}"
        )
    gains = only_gains(edit, "a quantised checkpoint", _WAY_ROUND)
    edit.changes(skeleton.lm)  # shapes fit
    changes: list[Rewriting] = []
    for block in gains.touched.mask.any(1).nonzero().squeeze(1).tolist():
        factors = gains.values[block].double()
        for stored in _scales(skeleton, weights, names, _up(skeleton, block)):
            changes.append(Rewriting(stored, _times(factors)))
    return changes


def _times(factors: Tensor) -> Callable[[Tensor], Parts]:
    return lambda old: iter([(old, old.double() * factors.reshape(-1, *[1] * (old.ndim - 1)))])


def _up(skeleton: Skeleton, block: int) -> str:
    """The name of a block's up projection."""
    lm = skeleton.lm
    parent = skeleton.module_names[lm.mlp_outs[block]].rpartition(".")[0]
    children = dict(lm.model.get_submodule(parent).named_children())
    ways_in = [children.get("gate_proj"), children.get("up_proj")]
    if not all(isinstance(way, nn.Linear) and projection_width(way).outputs == lm.d_mlp for way in ways_in):
        raise DposcopeError(
            f"{skeleton.model_type} has no gate_proj and up_proj of its own, so scales cannot take gains; {_WAY_ROUND}"
        )
    return f"{parent}.up_proj"


def _scales(skeleton: Skeleton, weights: Weights, names: Mapping[str, str], up: str) -> list[Stored]:
    """Stored tensors whose rows are to be multiplied."""
    rows = skeleton.lm.d_mlp
    key = names.get(f"{up}.weight_scale")
    if key is None:
        # A module that the quantiser left alone.
        weight = find(weights, names, f"{up}.weight", (rows, skeleton.lm.d_model))
        if weight.dtype not in FLOATS:
            raise DposcopeError(f"{weight.name} is quantised and has no weight_scale beside it; {_WAY_ROUND}")
        found = [weight]
    else:
        scale = weights[key]
        if scale.dtype not in FLOATS or len(scale.shape) < 2 or scale.shape[0] != rows:
            raise DposcopeError(
                f"{scale.name} of shape {list(scale.shape)} and type {str(scale.dtype).removeprefix('torch.')} is no "
                f"scale by row; {_WAY_ROUND}"
            )
        found = [scale]
    bias = names.get(f"{up}.bias")
    return found if bias is None else [*found, weights[bias]]


def compressed_notes(skeleton: Skeleton, names: Mapping[str, str]) -> tuple[str, ...]:
    """What a user must know of activations that are quantised by fixed scales."""
    down = skeleton.module_names[skeleton.lm.mlp_outs[0]]
    if f"{down}.input_scale" not in names:
        return ()
    return ("neurons are quantised by fixed scales at run time (input_scale): a gain above 1 may be cut off there",)


def only_gains(edit: Edit, form: str, way_round: str) -> Gains:
    """Gains of neurons, where that is all there is in an edit.

    Args:
        edit: any.
        form: what is to hold them, such as `a GGUF file`.
        way_round: what else can be done, in words.

    Raises:
        DposcopeError: there is more, or no gain.
    """
    more = {
        "an ablation": any(one.weight != 0 for one in edit.ablations),
        "gains of heads": edit.head_gains is not None and len(edit.head_gains.touched) > 0,
    }
    for what, there in more.items():
        if there:
            raise DposcopeError(
                f"{form} takes gains of neurons alone, and this edit holds {what} as well: "
                f"leave that out with --gains-alone, or {way_round}"
            )
    if edit.gains is None:
        raise DposcopeError(f"the edit holds no gains of neurons, so there is nothing for {form} to hold")
    return edit.gains
