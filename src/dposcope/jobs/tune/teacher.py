"""The teacher of learned gains: a tuned model, taken along the line of its tuning as far as the edit may cost.

One training stops short of what its cost would allow, another goes beyond it. Gains that imitate a teacher pay about
what it pays, so the teacher is taken to where log-perplexity on neutral text has risen by the edit's own bound.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from dposcope.artefacts import text_digest
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.statistics import Difference, paired_difference
from dposcope.jobs.dpo.teacher import load_teacher
from dposcope.jobs.run import Run
from dposcope.jobs.settings import MachineSettings
from dposcope.jobs.strength import overflow, search_strength
from dposcope.model.load import load_native
from dposcope.model.tuned import embedding_rows

_WINDOWS = 32
"""Windows of 1,024 tokens, spread over the text, that set the strength."""
_NEAREST, _FURTHEST = 0.25, 4.0
"""Nearer there is little to learn, and gains are made weaker anyhow; beyond, the line says little of either model."""


def allowed_strength(
    run: Run, model: str, teacher: str, *, text: str, bound: float, settings: MachineSettings
) -> float:
    """The stage `teacher`: the largest strength at which the teacher itself costs no more than the edit may.

    Writes `teacher.json`: what was tried, and what was chosen.

    Args:
        run: of the search.
        model: the base's name.
        teacher: the tuned model's.
        text: neutral text to learn from.
        bound: most rise of log-perplexity, nats per token, upper end of its interval included.
        settings: of the machine.

    Returns:
        From a quarter, though even that may cost more, to 4.
    """
    lm = load_native(model, dtype=settings.dtype, device=settings.device)

    def make() -> dict[str, Any]:
        base = window_losses(lm, text, max_windows=_WINDOWS, spread=True)

        def increase(strength: float) -> Difference:
            tuned = load_teacher(lm, teacher, strength)  # anew, as moving it along rounds
            losses = window_losses(tuned, text, max_windows=_WINDOWS, spread=True, progress=run.reporter.progress)
            if np.isfinite(losses.nll).all():
                return paired_difference(losses.nll, base.nll, denominators=base.tokens)
            return overflow(embedding_rows(lm), bound, len(losses.nll))

        return asdict(search_strength(increase, bound, most=_FURTHEST))

    told = run.json(
        "teacher",
        "Strength of the teacher that neutral text allows",
        inputs={
            "model": lm.fingerprint,
            "device": lm.device.type,
            "teacher": load_teacher(lm, teacher, 1.0).fingerprint,
            "text": text_digest(text),
            "windows": _WINDOWS,
            "bound": bound,
            "rounding": "at random",
        },
        make=make,
    )
    return max(float(told["chosen"]), _NEAREST)
