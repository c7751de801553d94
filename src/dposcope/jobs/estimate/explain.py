"""What `dposcope explain` does."""

from dataclasses import replace
from pathlib import Path

from dposcope.directions.judge import load_judge
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.overlap import GENERATED_TOKENS
from dposcope.evaluation.sampled.ideal import evenly
from dposcope.evaluation.sampled.real_toxicity import NEW_TOKENS
from dposcope.files import expanded
from dposcope.interventions.tuned import check_tuned
from dposcope.jobs.estimate.measuring import (
    MEANS_TOKENS,
    Counted,
    comments_read,
    condition,
    counted,
    direction,
    features,
    ideal,
    ideal_read,
    loading,
    means,
    small_files,
)
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import Running, Stage, Texts, Work
from dposcope.jobs.explain.browser import PROMPT_TOKENS, TEXTS
from dposcope.jobs.explain.conditions import FORMS, RANKINGS, TUNED
from dposcope.jobs.explain.interchange.carriers import FRACTIONS, MOST_PROMPTS, SAMPLES
from dposcope.jobs.explain.interchange.carriers import RANKINGS as RANKED
from dposcope.jobs.explain.interchange.sets import MEASURED
from dposcope.jobs.explain.job import check_explain
from dposcope.jobs.explain.repetitions import prompt_parts
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import check_fits
from dposcope.jobs.opening import check_folder
from dposcope.jobs.origin import check_architecture
from dposcope.model.adapter import is_adapter
from dposcope.model.load import check_source, device_of

GROUPS, CONTROLS = 9, 2
"""Patches other than the top toxic neurons: toxic tokens, each group, three sums, all ↑; and the controls."""
DIRECTIONS = 9
"""Along which claims are judged; the texts of each one's patches are scored."""
_BROWSER = 2e7
"""Bytes of the report with its browser, and of tables and figures."""
_OF_NEURON = 200.0
"""Bytes of all that is kept of a neuron."""
_MEANS_AFTER, _FOR_BROWSER = "means of the tuned model", "texts for the browser"
_CARRY = "neurons that carry the change"
_TUNED = {_MEANS_AFTER: 1.0, _FOR_BROWSER: 0.5, _CARRY: 0.5}
"""Stage → the tuned model's share of the weights that its passes read."""


def explain_work(base: str, tuned: str, out: Path, settings: ExplainSettings) -> Work:
    """Check everything that can be checked without weights, and count.

    Args:
        base: the model before tuning.
        tuned: after; or an edit.
        out: the run's folder.
        settings: of the command.

    Raises:
        DposcopeError: bad input, as of the command itself.
    """
    check_folder(out, "explain")
    check_explain(settings)
    side = TunedSide.read(tuned)
    if side.edit is None and not is_adapter(expanded(tuned)):
        check_source(tuned)
    data = read_data(settings)
    load_judge(settings.token_judge, concept=settings.meant, scorer=data.report.scorer)
    started = start(base, settings, settings)
    check_fits(started.lm, data, settings)
    if side.edit is not None:
        check_architecture(side.edit, started.lm)
    check_tuned(tuned, started.lm)
    found = counted(started.lm, data, settings.direction_spec)
    every = comments_read(started.lm, data.direction_comments, replace(settings.direction_spec, kind="probe"))
    on_cpu = device_of(settings.device).type == "cpu"
    files = 0 if not settings.stream else int(side.edit is None) + int(on_cpu)  # an edit has its base's weights
    stages = explain_stages(started.running, settings, found, every, stored=started.stored, files=files)
    notes = ("How many conditions there are depends on what is found: the most are counted.",)
    return Work("explain", base, started.running, tuple(stages), started.precision, notes=notes)


def explain_stages(
    running: Running, settings: ExplainSettings, data: Counted, every: Texts, *, stored: int, files: int = 0
) -> list[Stage]:
    """All stages.

    Args:
        running: the base; the tuned model is as large.
        settings: of the command.
        data: what is read.
        every: all comments of the direction, of which it may take some.
        stored: bytes of a stored weight.
        files: models whose blocks are in a file: with --stream the tuned one on a GPU, both on the CPU.
    """
    batch, spec = settings.batch_size, settings.direction_spec
    parts = prompt_parts(settings.folds, len(data.learn))
    stages = [loading(running, stored, models=2), direction(running, data.comments, spec)]
    if settings.seeds and not len(data.comments):  # of a saved direction, and of a contrast of tokens
        stages.append(Stage("features of all comments", features(running, every, spec)))
    stages.append(means(running, data.learn, spec, folds=parts))
    stages.append(means(running, data.learn, spec, name=_MEANS_AFTER, folds=parts))
    stages.append(_browser(running, data.learn, batch=batch))
    if settings.interchanges:
        stages.append(_carriers(running, data.learn, batch=batch))
    along = settings.patching and settings.claim_directions and not settings.neurons_only
    if along:
        stages.append(Stage("other directions", features(running, every, spec)))
    ends = min(1.0, 2 * running.size.unembedding / running.size.parameters)
    both = 1.0 + (ends if files else 1.0)

    def beside(stage: Stage, share: float) -> Stage:
        """With the tuned model, which has a share of the weights that the stage reads."""
        return replace(stage, models=both, scratch=files * running.weights, streamed=share if files else 0.0)

    held = [beside(one, _TUNED.get(one.name, 0.0)) for one in stages]
    held[0] = replace(held[0], moved=held[0].moved + held[0].scratch)
    conditions = ideal(running, data, batch=batch)
    conditions.append(condition(running, data, BASE, batch=batch))
    conditions.append(beside(condition(running, data, TUNED, batch=batch), 1.0))
    rows, paired = measured_rows(settings) - 2, interchanged_rows(settings)
    if rows:
        conditions.append(condition(running, data, "condition", batch=batch).times(rows, f"{rows} conditions"))
    if paired:
        one = beside(condition(running, data, "interchange", batch=batch, models=2), 0.5)
        conditions.append(one.times(paired, f"{paired} interchanges"))
    if along:
        count = DIRECTIONS * (len(settings.toxic_neurons) + GROUPS)
        written = running.writes(data.prompts, GENERATED_TOKENS, batch=batch)
        conditions.append(Stage("patch", (written,)).times(count, f"{count} patches along other directions"))
    conditions += ideal_read(running, data, batch=batch)
    disk = _BROWSER + _OF_NEURON * running.size.neurons
    disk += 8.0 * len(every) * running.size.width if settings.seeds else 0.0
    return [*held, *conditions, replace(small_files(), disk=disk)]


def _browser(running: Running, learn: Texts, *, batch: int | None) -> Stage:
    """The first prompts are continued, and both models read them."""
    shown = Texts(tuple(min(length, PROMPT_TOKENS) for length in learn.lengths[:TEXTS]))
    read = running.reads(shown.and_new(MEANS_TOKENS), batch=8, models=2)
    return Stage(_FOR_BROWSER, (running.writes(shown, MEANS_TOKENS, batch=batch), read))


def _carriers(running: Running, learn: Texts, *, batch: int | None) -> Stage:
    """Samples; half of them rank the neurons by gradients, the others measure the first of each ranking."""
    prompts = learn.some(evenly(len(learn), MOST_PROMPTS)).times(SAMPLES)
    half = Texts(prompts.and_new(NEW_TOKENS).lengths[::2])
    predicted = len(half) * NEW_TOKENS
    drawn = running.writes(prompts, NEW_TOKENS, batch=batch, drawn=True)
    # Both models forward, the base backward; and twice as much for what comes from before a neuron.
    ranked = running.reads(half, batch=8, predicted=predicted).times(3 + 2 * 3)
    sets = len(RANKED) * (len(FRACTIONS) - 1) + 1  # all rankings end with all neurons
    curve = running.reads(half, batch=batch, predicted=predicted).times(2 + 2 * sets)
    return Stage(_CARRY, (drawn, ranked, curve))


def measured_rows(settings: ExplainSettings) -> int:
    """The largest number of conditions that an explanation measures, including the plain and the tuned model."""
    rows = 2
    if settings.neurons_only:
        return rows
    rows += len(settings.steer) + len(settings.steer_w) + (1 if settings.controls and settings.steer else 0)
    if settings.patching:
        rows += len(settings.toxic_neurons) + GROUPS + (CONTROLS if settings.controls else 0)
    if settings.edits:
        cells = sum(len(settings.edits_of(form)) for form in FORMS)
        directions = 2 if settings.meant.seeds_with else 1
        rows += (directions * len(RANKINGS[settings.protocol]) + (1 if settings.controls else 0)) * cells
        rows += 1 if settings.controls and settings.edits_of("scale") else 0
    return rows


def interchanged_rows(settings: ExplainSettings) -> int:
    """The largest number of conditions by live interchange."""
    if not settings.interchanges:
        return 0
    patches = len(settings.toxic_neurons) + GROUPS + (CONTROLS if settings.controls else 0)
    whole, reverse = 3, 3
    return patches + whole + len(RANKED) * len(MEASURED) + reverse
