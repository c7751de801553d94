"""The stage `choose` of `dposcope edit`: the edit as given, or the default family at the largest allowed strength."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dposcope.artefacts import value_digest, value_files, write_json
from dposcope.evaluation.perplexity import WindowLosses, count_windows, longest_window, window_losses
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.interventions.ablate import Ablation, ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.group_gains import gains_of
from dposcope.jobs.edit.settings import EditSpec, Parts
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.strength import StrengthSearch, overflow, search_strength
from dposcope.model.chat.prompts import asked_how
from dposcope.neurons.groups import Selection
from dposcope.protocols import LEAST_ITEMS
from dposcope.reading import read_json

GAIN_SHARE = 0.03
"""At strength s the default edit has w = s and α = 0.03 s; docs/results/edit-gemma-3-270m.md shows the choice."""

SEARCH_WINDOWS = 10
"""Windows of neutral text that each trial of the search reads."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The edit, and the search for its strength."""

    edit: Edit
    search: StrengthSearch | None
    """None if the settings give the strength."""
    held_out: bool
    """Whether the reported windows are held out from the search."""
    parts: Parts
    """Parts of a searched edit."""


def default_edit(ingredients: Ingredients, selection: Selection, *, parts: Parts, strength: float) -> Edit:
    """The default family at strength s: the direction is ablated from the MLPs of the later half of the blocks with
    weight w = s, and the earlier half gets the paper's gains with α = 0.03 s. Or gains only, in all blocks (α = s), or
    that ablation only.

    The direction is read at the last block, so it is most meaningful in the later blocks. A weight above 1 reverses
    the component along the direction, and so the effect of gains in the same block. So gains act in the other half.
    """
    n_blocks = ingredients.lm.n_blocks
    later = tuple(range(n_blocks // 2, n_blocks))
    ablation = ablate(ingredients.direction.vector, weight=strength, blocks=later, attention=False)
    if parts == "ablation":
        return Edit.of(ablation)
    if parts == "gains":
        return Edit.of(gains_of(selection, alpha=strength))
    gains = gains_of(selection, alpha=GAIN_SHARE * strength).in_blocks(range(n_blocks // 2))
    return Edit.of(gains, ablation)


def choose_edit(
    job: Job, ingredients: Ingredients, selection: Selection, spec: EditSpec, *, made_by: Mapping[str, Any]
) -> Choice:
    """The stage `choose`; writes `edit.safetensors` and `edit.json`.

    Args:
        job: run, model and data.
        ingredients: direction and means.
        selection: the neurons that get gains.
        spec: the parts of the edit, and its strength or the bound on its cost.
        made_by: settings by name, all that decide the edit; it tells some of them.
    """
    stem, trace = job.run.folder / "edit", job.run.folder / "search.json"
    enough = spec.reported + SEARCH_WINDOWS
    windows = count_windows(job.lm, job.data.report.neutral, protocol="strict", most=enough)
    # Trials read the windows after the reported ones, if the text is long enough.
    held_out = windows >= enough
    about = {
        "model": job.lm.name,
        "fingerprint": job.model["fingerprint"],
        **asked_how(job.lm),
        "direction": ingredients.direction.kind,
        **{name: made_by[name] for name in ("beta", "ranking", "protocol", "seed")},
    }

    def make() -> StrengthSearch | None:
        if spec.given:
            return None
        return _search(job, ingredients, selection, spec, skip_windows=spec.reported if held_out else 0)

    def write(search: StrengthSearch | None) -> None:
        if search is None:
            _given(ingredients, selection, spec, about).save(stem)
            return
        write_json(trace, asdict(search))
        facts = {"parts": spec.parts, "strength": search.chosen, "max_logppl_increase": search.bound}
        edit = default_edit(ingredients, selection, parts=spec.parts, strength=search.chosen)
        Edit.of(edit, about={**about, **facts}).save(stem)

    return job.run.stage(
        "choose",
        "The edit as given" if spec.given else "Strength that neutral text allows",
        inputs={
            **job.model,
            "direction": value_digest(job.run.folder / "direction"),
            "means": value_digest(job.run.folder / "means"),
            "neutral": job.data.report.digests["neutral"],
            "settings": dict(made_by),
        },
        files=value_files(stem).both if spec.given else [*value_files(stem).both, trace],
        make=make,
        write=write,
        load=lambda: Choice(
            Edit.load(stem), None if spec.given else read_json(trace, StrengthSearch), held_out, spec.parts
        ),
        revision=3,
    )


def _given(ingredients: Ingredients, selection: Selection, spec: EditSpec, about: dict[str, Any]) -> Edit:
    parts: list[Gains | Ablation] = []
    if spec.alpha:
        parts.append(gains_of(selection, alpha=spec.alpha))
    if spec.ablate:
        parts.append(ablate(ingredients.direction.vector, weight=spec.ablate))
    return Edit.of(*parts, about={**about, "alpha": spec.alpha, "ablate": spec.ablate})


def _search(
    job: Job, ingredients: Ingredients, selection: Selection, spec: EditSpec, *, skip_windows: int
) -> StrengthSearch:
    trials = 0

    window = longest_window(job.lm, job.data.report.neutral, least=LEAST_ITEMS)

    def losses(edit: Edit | None) -> WindowLosses:
        nonlocal trials
        trials += 1
        with nullcontext() if edit is None else edit.on(job.lm):
            return window_losses(
                job.lm,
                job.data.report.neutral,
                window=window,
                skip_windows=skip_windows,
                max_windows=SEARCH_WINDOWS,
                progress=lambda done, total: job.run.reporter.progress((trials - 1) * total + done, 6 * total),
            )

    base = losses(None)

    def increase(strength: float) -> Difference:
        edited = losses(default_edit(ingredients, selection, parts=spec.parts, strength=strength))
        if not np.isfinite(edited.nll).all():
            vocabulary = int(job.lm.model.config.get_text_config().vocab_size)
            return overflow(vocabulary, spec.bound, len(edited.nll))
        return paired_difference(edited.nll, base.nll, denominators=base.tokens)

    return search_strength(increase, spec.bound, start=0.2 if spec.parts == "gains" else 2.0)
