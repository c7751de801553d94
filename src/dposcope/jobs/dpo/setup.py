"""What a training starts from: the base in its precision, token ids, the policy beside its reference."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load, load_native, native_bfloat16
from dposcope.pairs.pairs import PairSplit
from dposcope.training.collator import Material
from dposcope.training.examples import neutral_windows, tokenise
from dposcope.training.lean_reference import Reads
from dposcope.training.objective import Objective
from dposcope.training.trainable import Trainable, all_weights, low_rank, neuron_gains


@dataclass(frozen=True, eq=False)
class Base:
    """The model that is tuned."""

    lm: LanguageModel
    stored: torch.dtype
    """The precision to ship."""
    autocast: bool
    """Whether training multiplies in bfloat16 with weights in float32."""


def load_base(model: str, *, whole: bool, dtype: str, device: str) -> Base:
    """The base in the precision that its training needs.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        whole: whether all weights are trained.
        dtype: of what is computed: auto, float32 or bfloat16.
        device: see `load`.
    """
    if not whole:
        lm = load_native(model, dtype=dtype, device=device)
        return Base(lm, lm.dtype, autocast=False)
    lm = load(model, dtype="auto", device=device)
    stored = lm.dtype
    # Small updates vanish in half precision; what is computed in it is decided by autocast.
    lm.model.to(torch.float32)  # pyright: ignore[reportArgumentType]
    return Base(lm, stored, autocast=dtype == "bfloat16" or (dtype == "auto" and native_bfloat16(lm.device)))


def load_start(named: str) -> Gains:
    """Where gains begin.

    Raises:
        DposcopeError: there is no such edit, or it holds more than gains of neurons.
    """
    edit = Edit.load(edit_file(named))
    if edit.gains is None or edit.ablations or edit.head_gains is not None:
        raise DposcopeError(
            f"{named} holds {edit}, and only gains of neurons can be gone on from; choose another --start"
        )
    return edit.gains


def material_of(
    lm: LanguageModel, split: PairSplit, neutral: str, objective: Objective, settings: DpoSettings
) -> Material:
    """Token ids of both parts of the pairs, and the windows of neutral text that the KL is on, if it is."""
    train, validation = (
        tokenise(
            lm,
            part,
            max_prompt_tokens=settings.max_prompt_tokens,
            max_completion_tokens=settings.max_completion_tokens,
        )
        for part in (split.train, split.validation)
    )
    if not objective.reads_neutral:
        return Material(train, validation)
    windows = neutral_windows(
        lm, neutral, count=settings.window_pool, length=settings.window_tokens, seed=settings.seed
    )
    return Material(train, validation, windows)


def policy_of(
    base: Base,
    objective: Objective,
    settings: DpoSettings,
    material: Material,
    start: Gains | None,
    teacher: LanguageModel | None,
) -> AbstractContextManager[Trainable]:
    """What is trained, with its reference: gains, a LoRA adapter, or all weights."""
    lm = base.lm
    match settings.train:
        case "gains":
            among = None
            if start is not None:
                start.changes(lm)  # refuses gains of another shape, before their neurons are counted
                among = None if settings.neurons is None else start.furthest(settings.neurons)
            return neuron_gains(
                lm,
                objective,
                start=start,
                among=among,
                sparsity=settings.sparsity,
                heads=settings.heads,
                teacher=teacher,
            )
        case "lora":
            return low_rank(
                lm,
                objective,
                rank=settings.lora_rank,
                alpha=settings.lora_alpha,
                seed=settings.seed,
                recompute=settings.recompute,
                teacher=teacher,
            )
        case "full":
            lower = torch.bfloat16 if settings.reference_dtype == "bfloat16" else None
            reads = None
            if not settings.precompute_reference:
                every = [*material.train, *material.validation, *material.windows]
                products = torch.bfloat16 if base.autocast else None
                reads = Reads.of(every, pad_id=lm.pad_id, products=products)
            return all_weights(
                lm, objective, reference_dtype=lower, in_place=True, reads=reads, recompute=settings.recompute
            )
