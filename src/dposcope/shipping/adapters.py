"""An edit as PEFT adapters: small files for the base model, which can be switched on and off at run time.

Gains multiply the inputs of output projections, as an IA³ adapter does. An ablation changes a projection W into
(I − w u uᵀ) W = W + (−w u)(uᵀ W), which is a LoRA of rank one. Several ablations in turn are one LoRA of as many ranks.

A LoRA has biases of its own in all its layers or in none, and does not merge where the layer beneath has none. So in a
model where only some projections have a bias (GPT-J) an ablation is two of them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from dposcope.artefacts import check_path
from dposcope.errors import DposcopeError
from dposcope.foreign_text import code
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import ProjectionEdit, projection_edits
from dposcope.interventions.gains import Gains
from dposcope.model.adapter import CONFIG, WEIGHTS
from dposcope.model.layout.names import is_read_alone
from dposcope.shipping.checkpoint import checkpoint_fingerprints
from dposcope.shipping.metadata import card_head
from dposcope.shipping.model_card import EDIT
from dposcope.shipping.origin import checkpoint_origin
from dposcope.shipping.place import fresh
from dposcope.shipping.result import Shipped
from dposcope.shipping.skeleton import Skeleton
from dposcope.shipping.stored import FLOATS, Weights, find


def write_adapters(source: str | Path, edit: Edit | Gains | Ablation, out: str | Path) -> Shipped:
    """Write the edit as adapters for `PeftModel.from_pretrained(base, out / "gains")` and `out / "ablation"`.

    Gains of neurons and heads become an IA³ adapter, and ablations a LoRA, both exact and in float32. Where only some
    projections have a bias, the LoRA is two: `ablation-no-bias` and `ablation-bias`. For the whole edit, load the LoRA
    first, so that it reads the scaled activations; the README in `out` says how.

    Args:
        source: folder of the base checkpoint, or a bundled name; the model is not loaded.
        edit: gains, ablations, or both.
        out: the new folder.

    Raises:
        DposcopeError: there is no such checkpoint; the edit does not fit it or changes nothing; the model is a mixture
            of experts; an ablation for a quantised checkpoint, or of what a state space writes; `out` exists; the disk
            is full.
    """
    check_path(out)
    out = Path(out)
    edit = edit if isinstance(edit, Edit) else Edit.of(edit)
    skeleton = Skeleton.of(source)
    if skeleton.lm.experts is not None:
        raise DposcopeError(
            "adapters cannot hold an edit of a mixture of experts, whose experts are no Linear layers; fold the edit "
            "into the checkpoint"
        )
    plan = projection_edits(skeleton.lm, edit)
    if not plan:
        raise DposcopeError("the edit changes nothing, so there is no adapter to write; give another edit")
    weights = Weights(skeleton.folder)
    names = skeleton.stored_names(weights)
    notes = checkpoint_origin(edit, skeleton.model_type, checkpoint_fingerprints(skeleton, weights, names))
    written: dict[str, dict[str, Tensor]] = {}
    ranks = max(len(one.ablations) for one in plan)
    both = len({_has_bias(one) for one in plan if one.ablations}) == 2
    for one in plan:
        module = skeleton.module_names[one.projection]
        if one.ablations and is_read_alone(module):
            raise DposcopeError(
                f"adapters cannot hold what the edit does to {module}, as peft has no LoRA for state spaces; fold the "
                "edit into the checkpoint"
            )
        stem = f"base_model.model.{module}"
        if one.factors is not None:
            written.setdefault(GAINS, {})[f"{stem}.ia3_l"] = one.factors.unsqueeze(0).contiguous()
        if one.ablations:
            stored = {
                name: find(weights, names.one, f"{module}.{name}", tuple(parameter.shape))
                for name, parameter in one.projection.named_parameters(recurse=False)
            }
            if any(tensor.dtype not in FLOATS for tensor in stored.values()):
                raise DposcopeError(
                    f"{module} is quantised, and the adapter of an ablation needs weights that are not; give that "
                    f"checkpoint"
                )
            low_rank = _low_rank(one, ranks, {name: tensor.read() for name, tensor in stored.items()})
            kind = ABLATION if not both else ABLATION_BIAS if _has_bias(one) else ABLATION_NO_BIAS
            written.setdefault(kind, {}).update({f"{stem}.{name}": new for name, new in low_rank.items()})
    with fresh(out) as part:
        for kind, tensors in written.items():
            (part / kind).mkdir(parents=True)
            save_file(tensors, part / kind / WEIGHTS, metadata={"format": "pt"})
            config = {"base_model_name_or_path": str(source), **_config(kind, skeleton, tensors, ranks)}
            (part / kind / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        card = adapter_card(skeleton.lm.name, edit, [kind for kind in KINDS if kind in written])
        (part / "README.md").write_text(card, encoding="utf-8")
        edit.save(part / EDIT)
    return Shipped("adapters", out, sum(map(len, written.values())), 0.0, notes)


def _has_bias(edit: ProjectionEdit) -> bool:
    return "bias" in dict(edit.projection.named_parameters(recurse=False))


@torch.no_grad()
def _low_rank(edit: ProjectionEdit, ranks: int, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """A `[r, n]` and B `[d, r]`, so that W + B A is the ablated weight; with a bias, also the bias of B."""
    conv1d = isinstance(edit.projection, Conv1D)
    weight = stored["weight"].double()
    vectors = weight if conv1d else weight.T  # [n, d]
    a = torch.zeros(ranks, len(vectors), dtype=torch.float64)
    b = torch.zeros(vectors.shape[1], ranks, dtype=torch.float64)
    for index, ablation in enumerate(edit.ablations):
        unit = ablation.direction.double()
        # uᵀ times the weight after earlier ablations, W + Σ b_j a_j.
        a[index] = vectors @ unit + (b[:, :index].T @ unit) @ a[:index]
        b[:, index] = -ablation.weight * unit
    new = {"lora_A.weight": a.float(), "lora_B.weight": b.float()}
    if "bias" in stored:
        bias = stored["bias"].double()
        new["lora_B.bias"] = (edit.through(bias.unsqueeze(0)).squeeze(0) - bias).float()
    return new


def _config(kind: str, skeleton: Skeleton, tensors: dict[str, Tensor], ranks: int) -> dict[str, Any]:
    modules = sorted({key.removeprefix("base_model.model.").split(".ia3_l")[0].split(".lora_")[0] for key in tensors})
    conv1d = isinstance(skeleton.lm.model.get_submodule(modules[0]), Conv1D)
    common = {
        "fan_in_fan_out": conv1d,
        "inference_mode": True,
        "task_type": "CAUSAL_LM",
        "target_modules": modules,
    }
    if kind == GAINS:
        return {"peft_type": "IA3", **common, "feedforward_modules": modules}
    return {
        "peft_type": "LORA",
        **common,
        "r": ranks,
        "lora_alpha": ranks,  # a scale of 1
        "lora_dropout": 0.0,
        "bias": "none",
        # The change of a bias is a separate bias of the adapter, so that it can be switched off.
        "lora_bias": any(key.endswith("lora_B.bias") for key in tensors),
    }


GAINS, ABLATION = "gains", "ablation"
ABLATION_NO_BIAS, ABLATION_BIAS = "ablation-no-bias", "ablation-bias"
KINDS = (ABLATION, ABLATION_NO_BIAS, ABLATION_BIAS, GAINS)
"""Names of the adapters' folders, in the order in which they are loaded."""


def adapter_card(base: str, edit: Edit, kinds: Sequence[str]) -> str:
    """The README of the adapters: Markdown, with a header for model hubs.

    Args:
        base: name of the base model.
        edit: the whole edit.
        kinds: the folders of adapters, in the order of `KINDS`.
    """
    lora = "LoRA: output projections lose a share of their component along directions"
    rows = {
        GAINS: "IA³: factors for the inputs of the output projections of MLPs (and of attention heads)",
        ABLATION: lora,
        ABLATION_NO_BIAS: f"{lora}; of projections without a bias",
        ABLATION_BIAS: f"{lora}; of projections with a bias",
    }
    lines = [
        *card_head(base, library="peft", tags=["activation-editing"]),
        "",
        "# An edit as adapters",
        "",
        f"For {code(base)}: {edit}. {edit.origin}",
        "",
        "| folder | what it holds |",
        "| --- | --- |",
        *(f"| `{kind}/` | {rows[kind]} |" for kind in kinds),
        "",
        "```python",
        "from peft import PeftModel",
        "",
    ]
    first, *further = kinds
    loading = [f'model = PeftModel.from_pretrained(base, "{first}")']
    for kind in further:
        if kind == ABLATION_BIAS:  # a second LoRA on the same model; peft has another name for it
            loading.append(f'model.load_adapter("{kind}", adapter_name="biased")')
            loading.append('model.base_model.set_adapter(["default", "biased"], inference_mode=True)')
        else:
            loading.append(f'model = PeftModel.from_pretrained(model.get_base_model(), "{kind}")')
    if further:
        scaled = ": a LoRA reads the scaled activations" if GAINS in kinds else ""
        lines.append(f"# The whole edit is all of them, in this order{scaled}.")
    merging = [
        f'model = PeftModel.from_pretrained({"base" if kind == first else "model"}, "{kind}").merge_and_unload()'
        for kind in kinds
    ]
    lines += [
        *loading,
        "with model.disable_adapter():",
        "    ...  # the plain model again",
        "```",
        "",
        f"To merge, take a base without adapters{', and merge one after the other' if further else ''}:",
        "",
        "```python",
        *merging,
        "```",
        "",
        "## What was not tested",
        "",
        "Behaviour outside the measured prompts, other languages, long texts, instruction following, knowledge of",
        "facts, bias, and attacks on the edit. The base model's licence and terms of use apply.",
        "",
    ]
    return "\n".join(lines)
