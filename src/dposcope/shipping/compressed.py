"""Gains in a checkpoint quantised by compressed-tensors: only the scales of up projections change.

Its formats store a weight as integers or small floats q, with a scale s per row or per group within a row, and
sometimes a zero point z: W = s (q − z). In a gated model, a gain of neuron i is a factor of row i of the up projection,
and so of the scales of that row (https://github.com/vllm-project/compressed-tensors, `weight_scale`).
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.layout.projections import projection_width
from dposcope.shipping.skeleton import Skeleton
from dposcope.shipping.stored import FLOATS, Parts, Rewriting, Stored, Weights, find

_ALTERNATIVE = "fold the unquantised checkpoint and quantise the result"


def compressed_changes(skeleton: Skeleton, weights: Weights, names: Mapping[str, str], edit: Edit) -> list[Rewriting]:
    """The changes of stored tensors.

    Raises:
        DposcopeError: another format; an edit with more than gains of neurons, or of another shape; a model without a
            gate, with gate and up projection in one tensor, or with a norm between up and down projection (BitNet);
            scales that are not per row.
    """
    method = str((skeleton.quantisation or {}).get("quant_method"))
    if method != "compressed-tensors":
        raise DposcopeError(
            f"the checkpoint is quantised by {method}, but only compressed-tensors is supported; {_ALTERNATIVE}"
        )
    gains = only_gains(edit, "a quantised checkpoint", _ALTERNATIVE)
    edit.changes(skeleton.lm)  # refuses other shapes
    changes: list[Rewriting] = []
    for block in gains.touched.mask.any(1).nonzero().squeeze(1).tolist():
        width = skeleton.lm.columns.widths[block]
        if width == 0:  # the block has no MLP
            continue
        factors = gains.values[block, :width].double()
        for stored in _scales(skeleton, weights, names, _up(skeleton, block), width):
            changes.append(Rewriting(stored, _times(factors)))
    return changes


def _times(factors: Tensor) -> Callable[[Tensor], Parts]:
    return lambda old: iter([(old, old.double() * factors.reshape(-1, *[1] * (old.ndim - 1)))])


def _up(skeleton: Skeleton, block: int) -> str:
    """The name of a block's up projection, whose rows are factors of what the down projection reads."""
    lm = skeleton.lm
    down = skeleton.module_names[lm.columns.parts[block][0].projection]
    parent = down.rpartition(".")[0]
    children = dict(lm.model.get_submodule(parent).named_children())
    inputs = [children.get("gate_proj"), children.get("up_proj")]
    width = lm.columns.widths[block]
    if not all(isinstance(one, nn.Linear) and projection_width(one).outputs == width for one in inputs):
        raise DposcopeError(
            f"{skeleton.model_type} has no separate gate_proj and up_proj, so its scales cannot hold gains; "
            f"{_ALTERNATIVE}"
        )
    known = {f"{parent}.gate_proj", f"{parent}.up_proj", down}
    for name, child in children.items():
        # An activation has no weights. A norm would divide all neurons of the block by what a row is.
        if f"{parent}.{name}" not in known and any(True for _ in child.parameters()):
            raise DposcopeError(
                f"{parent}.{name} stands between up_proj and down_proj, so scales of up_proj cannot hold gains; "
                f"{_ALTERNATIVE}"
            )
    return f"{parent}.up_proj"


def _scales(skeleton: Skeleton, weights: Weights, names: Mapping[str, str], up: str, rows: int) -> list[Stored]:
    """Stored tensors whose rows are multiplied by gains."""
    key = names.get(f"{up}.weight_scale")
    if key is None:
        # A module that is not quantised.
        weight = find(weights, names, f"{up}.weight", (rows, skeleton.lm.d_model))
        if weight.dtype not in FLOATS:
            raise DposcopeError(f"{weight.name} is quantised but has no weight_scale; {_ALTERNATIVE}")
        scaled = [weight]
    else:
        scale = weights[key]
        if scale.dtype not in FLOATS or len(scale.shape) < 2 or scale.shape[0] != rows:
            raise DposcopeError(
                f"{scale.name} of shape {list(scale.shape)} and type {str(scale.dtype).removeprefix('torch.')} is not "
                f"a scale per row; {_ALTERNATIVE}"
            )
        scaled = [scale]
    bias = names.get(f"{up}.bias")
    return scaled if bias is None else [*scaled, weights[bias]]


def compressed_notes(skeleton: Skeleton, names: Mapping[str, str]) -> tuple[str, ...]:
    """A note for models whose activations are quantised by fixed scales."""
    down = next(skeleton.module_names[one] for one in skeleton.lm.mlp_outs if one is not None)
    if f"{down}.input_scale" not in names:
        return ()
    return ("activations are quantised by fixed scales at run time (input_scale), so a gain above 1 may be clipped",)


def only_gains(edit: Edit, form: str, alternative: str) -> Gains:
    """The gains of neurons of an edit that has nothing else.

    Args:
        edit: any edit.
        form: the format, for messages, such as `a GGUF file`.
        alternative: advice for messages: what to do instead.

    Raises:
        DposcopeError: the edit has other parts, or no gains of neurons.
    """
    more = {
        "an ablation": any(one.weight != 0 for one in edit.ablations),
        "gains of heads": edit.head_gains is not None and len(edit.head_gains.touched) > 0,
    }
    for what, there in more.items():
        if there:
            raise DposcopeError(
                f"{form} can hold gains of neurons only, and this edit has {what} too; "
                f"leave that out with --gains-alone, or {alternative}"
            )
    if edit.gains is None:
        raise DposcopeError(f"the edit has no gains of neurons, and {form} can hold nothing else; give another edit")
    return edit.gains
