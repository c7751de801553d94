"""The teacher of taught gains: base + strength · (tuned − base), at the strength where it costs what the edit may.

A training may end with a lower or a higher cost than the edit may have. Taught gains cost about as much as their
teacher. So the strength is set where the teacher's log-perplexity on neutral text has risen by the edit's bound.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from dposcope.artefacts import text_digest
from dposcope.evaluation.perplexity import longest_window, window_losses, window_of
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.jobs.dpo.teacher import load_teacher
from dposcope.jobs.run import Run
from dposcope.jobs.strength import StrengthSearch, overflow, search_strength
from dposcope.model.checks.identity import identity
from dposcope.model.load import load_native
from dposcope.model.tuned import embedding_rows
from dposcope.protocols import LEAST_ITEMS, DeviceMap

_WINDOWS = 32
"""Windows of 1,024 tokens, or shorter ones of a short text, spread over it, on which the strength is set."""
_NEAREST, _FURTHEST = 0.25, 4.0
"""Limits of the strength. Below, there is little to learn, and gains can be made weaker later. Above, the extrapolation
has little to do with either model."""


def allowed_strength(
    run: Run,
    model: str,
    teacher: str,
    *,
    text: str,
    bound: float,
    dtype: str,
    device: str,
    device_map: DeviceMap | None = None,
) -> float:
    """The stage `teacher`: the largest strength at which the teacher itself costs no more than the edit may.

    Writes `teacher.json`: all strengths tried, and the chosen one.

    Args:
        run: of the search.
        model: the base's name.
        teacher: the tuned model's.
        text: neutral text to learn from.
        bound: largest rise of log-perplexity, nats per token, for the upper end of its interval.
        dtype: of what is computed.
        device: where.
        device_map: see `load`.

    Returns:
        From 0.25 to 4; 0.25 may cost more than the bound.
    """
    lm = load_native(model, dtype=dtype, device=device, device_map=device_map)

    def make() -> dict[str, Any]:
        window = longest_window(lm, text, least=LEAST_ITEMS)
        base = window_losses(lm, text, window=window, max_windows=_WINDOWS, spread=True)

        def increase(strength: float) -> Difference:
            tuned = load_teacher(lm, teacher, strength)  # load it each time: scaling in place would round again
            losses = window_losses(
                tuned,
                text,
                window=window_of(lm, tuned, most=window),
                max_windows=_WINDOWS,
                spread=True,
                progress=run.reporter.progress,
            )
            if np.isfinite(losses.nll).all():
                return paired_difference(losses.nll, base.nll, denominators=base.tokens)
            return overflow(embedding_rows(lm), bound, len(losses.nll))

        return asdict(search_strength(increase, bound, most=_FURTHEST))

    stored = run.json(
        "teacher",
        "Strength of the teacher that neutral text allows",
        StrengthSearch,
        inputs={
            "model": identity(lm),
            "device": lm.device.type,
            "teacher": identity(load_teacher(lm, teacher, 1.0)),
            "text": text_digest(text),
            "windows": _WINDOWS,
            "bound": bound,
            "rounding": "at random",
        },
        make=make,
    )
    return max(stored.chosen, _NEAREST)
