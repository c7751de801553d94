"""The tuned model that learned gains imitate: distillation."""

from dposcope.errors import DposcopeError
from dposcope.interventions.extrapolate import extrapolate
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.model.tuned import embedding_rows


def load_teacher(lm: LanguageModel, named: str, strength: float) -> LanguageModel:
    """The tuned model to imitate, in the precision of the base, taken as far along its tuning as is asked.

    Args:
        lm: the base.
        named: a folder, a bundled name, an adapter's folder or a hub id.
        strength: s of W₀ + s (W₁ − W₀).

    Raises:
        DposcopeError: it is no model that was tuned from this base with its vocabulary kept.
    """
    teacher = load(named, base=lm)
    ours, its = embedding_rows(lm), embedding_rows(teacher)
    if ours != its:
        raise DposcopeError(
            f"{named} predicts {its:,} tokens and {lm.name} {ours:,}; give a --teacher of the base's vocabulary"
        )
    if strength != 1:
        extrapolate(lm, teacher, strength)
    return teacher
