"""What a training starts from: the base in its precision, texts, token ids."""

from dataclasses import dataclass

import torch

from dposcope.artefacts import text_digest
from dposcope.data.corpus import load_neutral
from dposcope.errors import DposcopeError, plural
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.settings import Cut, NeutralWindows
from dposcope.model.chat.asking import ChatOptions
from dposcope.model.chat.prompts import asked_by
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load, load_native, native_bfloat16
from dposcope.pairs.harmless import HarmlessTexts, load_harmless
from dposcope.pairs.pairs import Pairs, PairSplit
from dposcope.protocols import DeviceMap, Quantise
from dposcope.training.batches.examples import Example, harmless_windows, neutral_windows, tokenise
from dposcope.training.collator import Material
from dposcope.training.objective import Objective
from dposcope.training.trainable import check_trainable

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


def load_base(
    model: str,
    chat: ChatOptions,
    *,
    whole: bool,
    dtype: str,
    device: str,
    device_map: DeviceMap | None = None,
    quantise: Quantise | None = None,
) -> Base:
    """The base in the precision that its training needs.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        chat: how it is asked.
        whole: whether all weights are trained.
        dtype: of what is computed: auto, float32 or bfloat16.
        device: see `load`.
        device_map: see `load`; not where all weights are trained.
        quantise: see `load`; not where all weights are trained.

    Raises:
        DposcopeError: it cannot be loaded, or is quantised, and all weights are trained.
    """
    if not whole:
        loaded = load_native(model, dtype=dtype, device=device, device_map=device_map, quantise=quantise)
        lm = asked_by(loaded, chat)
        return Base(lm, lm.dtype, autocast=False)
    lm = asked_by(load(model, dtype="auto", device=device), chat)
    check_trainable(lm)
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
    def read(cls, neutral: str | None, *, column: str, harmless: str | None) -> "KlTexts":
        """Read the files.

        Args:
            neutral: see `load_neutral`.
            column: of the neutral text, if it is a table.
            harmless: see `load_harmless`; None for neutral text alone.

        Raises:
            DposcopeError: a file cannot be read.
        """
        text = load_neutral(neutral, column=column, option="--learn-text-column")
        return cls(text, None if harmless is None else load_harmless(harmless))

    @property
    def digests(self) -> dict[str, str | None]:
        """What a training depends on."""
        return {
            "neutral": text_digest(self.neutral),
            "harmless": None if self.harmless is None else self.harmless.digest,
        }


@dataclass(frozen=True)
class Differing:
    """Pairs whose completions still differ where they are cut."""

    split: PairSplit
    train: list[Example]
    """Token ids of its pairs to learn from."""
    validation: list[Example]
    equal: int
    """How many were left out, as they are equal up to the cut."""


def differing(lm: LanguageModel, split: PairSplit, cut: Cut) -> Differing:
    """Leave out pairs that the cut makes equal: their loss is the same whatever is learned.

    Args:
        lm: whose tokens.
        split: the pairs.
        cut: of their prompts and completions.

    Raises:
        DposcopeError: none, or none for validation, is left.
    """
    parts: list[Pairs] = []
    cuts: list[list[Example]] = []
    equal = 0
    for part in (split.train, split.validation):
        examples = tokenise(lm, part, max_prompt_tokens=cut.prompt, max_completion_tokens=cut.completion)
        kept = [len(set(example.completions)) > 1 for example in examples]
        equal += kept.count(False)
        parts.append(part.where(kept))
        cuts.append([example for example, keep in zip(examples, kept, strict=True) if keep])
    if not all(map(len, parts)):
        raise DposcopeError(
            f"{plural(equal, 'pair')} have the same first {cut.completion} tokens on both sides, and none is left to "
            f"{'validate' if len(parts[0]) else 'learn from'}; raise --max-completion-tokens, or give what both sides "
            "begin with in a column of prompts"
        )
    return Differing(PairSplit(*parts), cuts[0], cuts[1], equal)


def material_of(
    lm: LanguageModel, pairs: Differing, texts: KlTexts, objective: Objective, cut: Cut, neutral: NeutralWindows
) -> Material:
    """Both parts of the pairs, and the windows that the KL is on, if it is on any.

    Args:
        lm: whose tokens.
        pairs: both parts, cut.
        texts: where windows come from.
        objective: says which windows are read.
        cut: of harmless texts.
        neutral: how many windows of neutral text, without harmless texts.
    """
    limits = {"max_prompt_tokens": cut.prompt, "max_completion_tokens": cut.completion}
    if not objective.reads_windows:
        return Material(pairs.train, pairs.validation)
    windows: list[Example] = []
    count = neutral.count
    if texts.harmless is not None:
        windows = harmless_windows(lm, texts.harmless, **limits)
        count = 0 if objective.kl_on == "harmless" else -(-len(windows) // _HARMLESS_TO_A_WINDOW)
    if count:
        windows += neutral_windows(lm, texts.neutral, count=count, length=neutral.tokens, seed=neutral.seed)
    return Material(pairs.train, pairs.validation, windows)
