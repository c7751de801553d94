"""What a training starts from: the base in its precision, token ids, the policy beside its reference."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from dposcope.artefacts import text_digest
from dposcope.data.corpus import load_neutral
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load, load_native, native_bfloat16
from dposcope.pairs.harmless import HarmlessTexts, load_harmless
from dposcope.pairs.pairs import PairSplit
from dposcope.training.collator import Material
from dposcope.training.examples import Example, harmless_windows, neutral_windows, tokenise
from dposcope.training.lean_reference import Reads
from dposcope.training.objective import Objective
from dposcope.training.trainable import Trainable, all_weights, low_rank, neuron_gains

_HARMLESS_TO_A_WINDOW = 3
"""Harmless texts to a window of neutral text where the KL is on both. A window has about four times their tokens."""


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


@dataclass(frozen=True)
class KlTexts:
    """Where windows for the KL come from."""

    neutral: str
    """Running text."""
    harmless: HarmlessTexts | None
    """The model's own harmless texts; None: neutral text alone."""

    @classmethod
    def read(cls, settings: DpoSettings) -> "KlTexts":
        """What settings name.

        Raises:
            DposcopeError: a file cannot be read.
        """
        neutral = load_neutral(settings.neutral, column=settings.neutral_column)
        return cls(neutral, None if settings.harmless is None else load_harmless(settings.harmless))

    @property
    def digests(self) -> dict[str, str | None]:
        """What a training depends on."""
        return {
            "neutral": text_digest(self.neutral),
            "harmless": None if self.harmless is None else self.harmless.digest,
        }


def material_of(
    lm: LanguageModel, split: PairSplit, texts: KlTexts, objective: Objective, settings: DpoSettings
) -> Material:
    """Token ids of both parts of the pairs, and the windows that the KL is on, if it is on any."""
    limits = {
        "max_prompt_tokens": settings.max_prompt_tokens,
        "max_completion_tokens": settings.max_completion_tokens,
    }
    train, validation = (tokenise(lm, part, **limits) for part in (split.train, split.validation))
    if not objective.reads_windows:
        return Material(train, validation)
    windows: list[Example] = []
    count = settings.window_pool
    if texts.harmless is not None:
        windows = harmless_windows(lm, texts.harmless, **limits)
        count = 0 if objective.kl_on == "harmless" else -(-len(windows) // _HARMLESS_TO_A_WINDOW)
    if count:
        windows += neutral_windows(lm, texts.neutral, count=count, length=settings.window_tokens, seed=settings.seed)
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
